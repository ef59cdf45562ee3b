//! An HTTP/1.1 connection that costs the load as little as it can: requests as prepared text, answers by their code.

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer of the peer endpoints is larger. Bytes.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// One connection to the API port.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(ANSWER_MAX_BYTES) })
    }

    pub async fn get(&mut self, path_and_query: &str) -> anyhow::Result<&[u8]> {
        self.exchange(&format!("GET {path_and_query} HTTP/1.1\r\nHost: supernode\r\n\r\n")).await
    }

    pub async fn post(&mut self, path: &str, body: &str) -> anyhow::Result<&[u8]> {
        let length = body.len();
        self.exchange(&format!("POST {path} HTTP/1.1\r\nHost: supernode\r\nContent-Length: {length}\r\n\r\n{body}")).await
    }

    /// Sends a request and reads the whole answer; tells its body.
    async fn exchange(&mut self, request: &str) -> anyhow::Result<&[u8]> {
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the service closed the connection");
            }
            let Some(head) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let length = content_length(&self.buffer[..head]).context("an answer without a length")?;
            if length > ANSWER_MAX_BYTES {
                bail!("an answer of {length} bytes");
            }
            let body = head + 4;
            while self.buffer.len() < body + length {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    bail!("the service closed the connection");
                }
            }
            return Ok(&self.buffer[body..body + length]);
        }
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}

/// The number that follows `"code":` in an answer.
pub fn code(body: &[u8]) -> u64 {
    number_after(body, b"\"code\":").unwrap_or_default()
}

/// Every number that follows `"pieceNum":`.
pub fn piece_numbers(body: &[u8]) -> Vec<u64> {
    let key = b"\"pieceNum\":";
    let places = body.windows(key.len()).enumerate().filter(|(_, window)| window == key);
    places.filter_map(|(place, _)| number_after(&body[place..], key)).collect()
}

fn number_after(body: &[u8], key: &[u8]) -> Option<u64> {
    let start = body.windows(key.len()).position(|window| window == key)? + key.len();
    let digits = body[start..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
