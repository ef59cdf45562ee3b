//! The head of an answer: how long it may take and how large it may be.
//!
//! Its time is `sourceIdleTimeout`, redirects included and however it drips: the library counts it from the request
//! on. While it comes, the library holds at most 408 KiB and 100 headers of it; what is larger than we allow goes right
//! after, with its connection.
//!
//! Interim answers (1xx) before it are skipped one by one, counted by nobody and bounded by that time alone. hyper tells of
//! each where its request carries `hyper::ext::on_informational`, but reqwest (0.13.5) makes that request of method, URL and
//! headers and leaves extensions out. Nor can the stream be counted below: what a `connector_layer` returns must be reqwest's
//! own connection, which nobody else can make or look into.

use http::HeaderMap;

use super::trouble::causes;

/// The most that a source may say before its body. Bytes. Servers send a few hundred, proxies let 8 to 64 KiB pass.
pub const HEAD_MAX_BYTES: usize = 64 * 1024;

/// Whether the headers are more than is taken.
pub fn is_too_large(headers: &HeaderMap) -> bool {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    bytes > HEAD_MAX_BYTES
}

/// Whether the library gave up on the head for its size.
pub fn was_too_large(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::super::{Answer, OriginError, Part, Source};
    use crate::domain::policy::SourcePolicy;
    use crate::domain::{TaskSpec, Validators};

    const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

    /// Asks a source that says this, piece by piece with a pause after each, and then nothing more.
    async fn ask(said: Vec<Vec<u8>>, pause: Duration) -> Result<Answer, OriginError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let url = format!("http://{}/f", listener.local_addr().expect("it is bound"));
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("it is asked");
            let _ = stream.read(&mut [0; 4096]).await;
            for part in said {
                // Whoever asked may have hung up, which is what some of these tests want.
                let _ = stream.write_all(&part).await;
                tokio::time::sleep(pause).await;
            }
            std::future::pending::<()>().await;
        });
        let spec = TaskSpec::of_url(&url);
        let source = Source::new(SourcePolicy::default(), ANSWER_TIMEOUT).expect("a client");
        let answer = source.ask(&spec, Part::ALL, &Validators::default(), &|_| ()).await;
        serving.abort();
        answer
    }

    fn head(headers: &[(String, usize)]) -> Vec<u8> {
        let mut head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n".to_vec();
        for (name, bytes) in headers {
            head.extend_from_slice(format!("{name}: {}\r\n", "x".repeat(*bytes)).as_bytes());
        }
        head.extend_from_slice(b"\r\nabc");
        head
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_drips_ends_with_its_time() {
        let began = Instant::now();
        let drops = (0..1000).map(|number| format!("X-{number}: y\r\n").into_bytes());
        let said = std::iter::once(b"HTTP/1.1 200 OK\r\n".to_vec()).chain(drops).collect();
        let error = ask(said, Duration::from_secs(1)).await.expect_err("it never ends");
        assert!(matches!(error, OriginError::Unreachable(_)), "{error}");
        let took = began.elapsed();
        assert!(took >= ANSWER_TIMEOUT && took < ANSWER_TIMEOUT * 2, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_comes_to_the_answer_ends_with_its_time() {
        let said = std::iter::repeat_with(|| b"HTTP/1.1 102 Processing\r\n\r\n".to_vec()).take(1000).collect();
        let error = ask(said, Duration::from_secs(1)).await.expect_err("it never ends");
        assert!(matches!(error, OriginError::Unreachable(_)), "{error}");
    }

    #[tokio::test]
    async fn interim_answers_without_end_hold_up_nobody_else_and_end_with_the_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let url = format!("http://{}/f", listener.local_addr().expect("it is bound"));
        let (began, beginning) = tokio::sync::oneshot::channel();
        let flooding = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("it is asked");
            let _ = stream.read(&mut [0; 4096]).await;
            let (many, mut began) = (b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000), Some(began));
            // Until whoever asked hangs up.
            while stream.write_all(&many).await.is_ok() {
                began.take().map(|began| began.send(()));
            }
        });
        let flooded = tokio::spawn(async move {
            let source = Source::new(SourcePolicy::default(), ANSWER_TIMEOUT).expect("a client");
            source.ask(&TaskSpec::of_url(&url), Part::ALL, &Validators::default(), &|_| ()).await
        });
        beginning.await.expect("it is flooded");
        let answer = ask(vec![head(&[])], Duration::ZERO).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(answer.length, Some(3));
        assert!(!flooded.is_finished() && !flooding.is_finished(), "the flood is over");
        flooded.abort();
        flooding.await.expect("the connection is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_of_any_reasonable_size_is_taken_and_a_larger_one_is_not() {
        let many = |count: usize| (0..count).map(|number| (format!("X-{number}"), 1)).collect::<Vec<_>>();
        for fine in [many(90), vec![("X".to_owned(), 60 * 1024)]] {
            let answer = ask(vec![head(&fine)], Duration::ZERO).await.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(answer.length, Some(3));
        }
        for large in [many(120), vec![("X".to_owned(), 70 * 1024)], vec![("X".to_owned(), 600 * 1024)]] {
            let error = ask(vec![head(&large)], Duration::ZERO).await.expect_err("it is too large");
            assert!(matches!(error, OriginError::HeadTooLarge), "{error}");
        }
    }
}
