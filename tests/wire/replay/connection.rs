//! Connections that carry bytes as they are: nothing tidies up what a client of the capture sent.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// More than any answer may take, held ones included.
const TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// An answer as far as these tests look at it.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (given, value) = line.split_once(':')?;
            given.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// Opens a connection and closes it, as clients do to learn their own address.
pub async fn open_and_close(address: SocketAddr) {
    drop(connect(address).await);
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap_or_else(|error| panic!("a client gives a server up that refuses: {error}"))
}

/// Sends a request and reads its answer, which must come within a client's patience.
pub async fn exchange(stream: &mut TcpStream, request: &[u8]) -> Answer {
    let answer = tokio::time::timeout(TIMEOUT, async {
        stream.write_all(request).await?;
        read_answer(stream).await
    });
    let asked = String::from_utf8_lossy(request);
    let answer = answer.await.unwrap_or_else(|_| panic!("no answer within {TIMEOUT:?}: {asked}"));
    answer.unwrap_or_else(|error| panic!("the connection broke ({error}): {asked}"))
}

async fn read_answer(stream: &mut TcpStream) -> std::io::Result<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(head.len() < HEAD_MAX_BYTES, "a head without end: {}", String::from_utf8_lossy(&head));
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).expect("a head is text");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut answer = Answer { status: status.expect("an answer has a status"), head, body: Bytes::new() };
    let length = answer.header("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or_else(|| panic!("an old client reads by Content-Length: {}", answer.head))];
    stream.read_exact(&mut body).await?;
    answer.body = body.into();
    Ok(answer)
}
