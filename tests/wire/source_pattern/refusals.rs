//! Who cannot be served so, and is told why before anybody fetches anything.

use std::time::Duration;

use http::StatusCode;

use super::{SOURCE, URL_NOT_REACHABLE, register, register_as};
use crate::harness::client::{Release, Wanted};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

const WAIT_AUTH: i64 = 609;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_would_unwrap_what_is_not_wrapped_are_refused_and_the_source_is_not_asked() {
    let (origin, service) = (Origin::start().await, Service::start_configured(SOURCE).await);
    let url = origin.put("file", File::new(random_content(1000)));
    let old: [&'static Release; 5] =
        [&Release::PYTHON_0_2, &Release::GO_0_3_0, &Release::GO_0_4_3, &Release::GO_1_0_0, &Release::DOCUMENTED];
    for release in old {
        let (_, refused) = register_as(&service, release, &Wanted::url(&url)).await;
        assert_eq!(refused.code, URL_NOT_REACHABLE, "{}: {refused}", release.name);
        assert!(refused.msg.contains("only dfget 1.0.1 to 1.0.6 can"), "{}: {refused}", release.name);
    }
    assert_eq!(origin.record("file").0.len(), 0, "the source was asked in vain");
    // The same once somebody has come who can.
    register(&service, &Wanted::url(&url)).await;
    let (_, refused) = register_as(&service, &Release::GO_0_3_0, &Wanted::url(&url)).await;
    assert_eq!(refused.code, URL_NOT_REACHABLE, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_cannot_be_fetched_part_by_part_are_refused_with_what_is_missing() {
    let (origin, service) = (Origin::start().await, Service::start_configured(SOURCE).await);
    let content = random_content(5_000_000);
    let file = || File::new(content.clone());
    // It announces ranges all the same.
    let whole = origin.put("whole", File { ignores_range: true, ..file() });
    let endless = origin.put("endless", File { hides_total: true, ..file() });
    let unannounced = origin.put("unannounced", File { ignores_range: true, chunked: true, ..file() });
    let missing = origin.put("missing", File::missing());
    let denied = origin.put("denied", File { authorization: Some("Bearer x".into()), denial: StatusCode::FORBIDDEN, ..file() });
    let part = Wanted { headers: vec!["Range: bytes=0-99".into()], ..Wanted::url(&origin.put("part", file())) };
    let long = Wanted { raw_url: format!("{whole}?{}", "a".repeat(8 * 1024)), ..Wanted::url(&whole) };
    for (wanted, code, says) in [
        (long, URL_NOT_REACHABLE, "no URL of more than 8192 bytes"),
        (Wanted::url(&whole), URL_NOT_REACHABLE, "did not honour the range"),
        (Wanted::url(&endless), URL_NOT_REACHABLE, "does not say how long it is"),
        (Wanted::url(&unannounced), URL_NOT_REACHABLE, "did not honour the range"),
        (part, URL_NOT_REACHABLE, "has a Range header"),
        (Wanted::url(&missing), URL_NOT_REACHABLE, "404"),
        (Wanted::url(&denied), URL_NOT_REACHABLE, "403"),
    ] {
        let (_, refused) = register_as(&service, &Release::GO_1_0_6, &wanted).await;
        assert_eq!(refused.code, code, "{}: {refused}", wanted.raw_url);
        assert!(refused.msg.contains(says), "{}: {refused} does not say {says:?}", wanted.raw_url);
    }
    assert_eq!(service.dump().await.of_kind("task").count(), 0, "what was refused is remembered in memory alone");
    // A file that is not there stays refused without a question.
    let asked = origin.record("missing").0.len();
    let (_, refused) = register_as(&service, &Release::GO_1_0_6, &Wanted::url(&missing)).await;
    assert_eq!((refused.code, origin.record("missing").0.len()), (URL_NOT_REACHABLE, asked), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_slow_source_is_told_to_ask_again_and_never_that_the_length_is_unknown() {
    let (origin, service, content) = (Origin::start().await, Service::start_configured(SOURCE).await, random_content(1000));
    let url = origin.put("file", File { delay: Duration::from_secs(6), ..File::new(content) });
    let (client, told) = register_as(&service, &Release::IMPATIENT, &Wanted::url(&url)).await;
    assert_eq!(told.code, WAIT_AUTH, "{told}");
    let told = client.register(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert_eq!((told.code, told.data["fileLength"].as_i64()), (200, Some(1000)), "{told}");
    assert_eq!(origin.record("file").0.len(), 1, "one question serves both registrations");
}
