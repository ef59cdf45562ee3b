//! A source that follows a script, byte by byte.

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::SEND_BUFFER_BYTES;
use crate::harness::eventually;

/// What is read at once; more than a greeting of TLS. Bytes.
const READ_BYTES: usize = 16 * 1024;
/// The first byte of a record of TLS that is an alert.
const TLS_ALERT: u8 = 21;
/// What is handed to a socket at once. On loopback one write can leave, and be taken by the other side's buffers, far beyond
/// what the send buffer holds; the other side, which is to say stop, has not run meanwhile. Bytes.
const WRITE_BYTES_MAX: usize = 16 * 1024;
/// A request is no longer. Bytes.
const REQUEST_MAX_BYTES: usize = 256 * 1024;

/// What is done about a request: one thing after the other. Unless the last is an end, the connection stays open for more.
pub type Script = Arc<dyn Fn(&Asked) -> Vec<Act> + Send + Sync>;

/// One thing that a source does on a connection.
#[derive(Clone, Debug)]
pub enum Act {
    /// Bytes that are no part of a body, and are counted by themselves.
    Say(Bytes),
    /// The same again and again.
    SayForever(Bytes),
    /// Bytes of a body.
    Send(Bytes),
    /// The same bytes of a body again and again.
    SendForever(Bytes),
    /// Nothing, until [`Scripted::go_on`].
    Wait,
    Pause(Duration),
    /// Nothing, until the other side goes away.
    FallSilent,
    /// Ends the connection as it should be ended.
    Close,
    /// Ends it without a word; over TLS, that is a difference.
    Vanish,
}

impl Act {
    pub fn say(text: impl Into<String>) -> Self {
        Self::Say(text.into().into())
    }
}

/// A request, as far as it was understood.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How many came before.
    pub number: usize,
    /// The request line and the headers.
    pub head: String,
    /// Where another source is.
    pub elsewhere: SocketAddr,
}

impl Asked {
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines
            .map(|(name, value)| (name, value.trim()))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The byte from which on the rest is asked for.
    pub fn rest(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What was asked of a source, and what it handed to its sockets.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    pub requests: usize,
    /// Requests about which there is nothing more to do: all was done, or the other side has gone.
    pub requests_over: usize,
    /// Bytes of bodies.
    pub body_bytes: u64,
    /// All other bytes: heads, and what is around chunks.
    pub said_bytes: u64,
}

/// The source. It goes when this is dropped.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    sent: Arc<Mutex<Sent>>,
    going_on: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Scripted {
    pub async fn start(script: Script, on: IpAddr, tls: Option<TlsAcceptor>, elsewhere: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind((on, 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (going_on, sent) = (watch::Sender::new(false), Arc::<Mutex<Sent>>::default());
        let stage = Stage { script, elsewhere: elsewhere.unwrap_or(address), sent: sent.clone(), going_on: going_on.subscribe() };
        Self { address, sent, going_on, accepting: tokio::spawn(accept(listener, tls, stage)) }
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every [`Act::Wait`], now and later.
    pub fn go_on(&self) {
        self.going_on.send_replace(true);
    }

    pub fn sent(&self) -> Sent {
        lock(&self.sent).clone()
    }

    /// What it has sent once there is nothing more to do: whoever it still sends to has taken all or gone away.
    pub async fn sent_at_rest(&self) -> Sent {
        eventually("every request is over", async || Some(self.sent()).filter(|sent| sent.requests == sent.requests_over)).await
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(sent: &Mutex<Sent>) -> MutexGuard<'_, Sent> {
    sent.lock().expect("no test panics while it holds this")
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, stage: Stage) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let socket = socket2::SockRef::from(&stream);
        socket.set_send_buffer_size(SEND_BUFFER_BYTES).expect("a socket's buffer can be made small");
        stream.set_nodelay(true).expect("a socket can do without delays");
        let (tls, stage) = (tls.clone(), stage.clone());
        connections.spawn(serve(stream, tls, stage));
        while connections.try_join_next().is_some() {}
    }
}

/// A supernode that goes away in the middle, or trusts no such certificate, ends it with an error: neither is news.
async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, stage: Stage) {
    let _ = match tls {
        None => stage.play(stream).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => stage.play(stream).await,
            Err(error) => Err(error),
        },
    };
}

/// What every connection of a source needs.
#[derive(Clone)]
struct Stage {
    script: Script,
    elsewhere: SocketAddr,
    sent: Arc<Mutex<Sent>>,
    going_on: watch::Receiver<bool>,
}

impl Stage {
    async fn play(mut self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        while let Some(head) = read_head(&mut stream).await? {
            let number = {
                let mut sent = lock(&self.sent);
                sent.requests += 1;
                sent.requests - 1
            };
            let asked = Asked { number, head, elsewhere: self.elsewhere };
            let answered = self.answer(&mut stream, &asked).await;
            lock(&self.sent).requests_over += 1;
            if answered?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Does all there is to do about a request. It breaks where the connection ends with it.
    async fn answer(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        asked: &Asked,
    ) -> std::io::Result<ControlFlow<()>> {
        for act in (self.script)(asked) {
            match act {
                Act::Close => {
                    stream.shutdown().await?;
                    return Ok(ControlFlow::Break(()));
                }
                Act::Vanish => return Ok(ControlFlow::Break(())),
                act => self.act(stream, act).await?,
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn act(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), act: Act) -> std::io::Result<()> {
        let said = |sent: &mut Sent, bytes| sent.said_bytes += bytes;
        let body = |sent: &mut Sent, bytes| sent.body_bytes += bytes;
        match act {
            Act::Say(bytes) => self.hand_over(stream, bytes, said).await?,
            Act::SayForever(bytes) => loop {
                self.hand_over(stream, bytes.clone(), said).await?;
            },
            Act::Send(bytes) => self.hand_over(stream, bytes, body).await?,
            Act::SendForever(bytes) => loop {
                self.hand_over(stream, bytes.clone(), body).await?;
            },
            Act::Wait => {
                // It ends with the source at the latest.
                let _ = self.going_on.wait_for(|going_on| *going_on).await;
            }
            Act::Pause(duration) => tokio::time::sleep(duration).await,
            Act::FallSilent => {
                let _ = stream.read(&mut [0]).await?;
            }
            // They end what this is a part of.
            Act::Close | Act::Vanish => {}
        }
        stream.flush().await
    }

    /// Counts every byte that the socket takes, also of what it does not take to its end.
    async fn hand_over(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        mut bytes: Bytes,
        count: impl Fn(&mut Sent, u64),
    ) -> std::io::Result<()> {
        while bytes.has_remaining() {
            let taken = stream.write(&bytes[..bytes.len().min(WRITE_BYTES_MAX)]).await?;
            bytes.advance(taken);
            if taken == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            count(&mut lock(&self.sent), taken as u64);
        }
        Ok(())
    }
}

/// The next request up to its empty line; what is no HTTP is whatever came. `None` where the other side has gone.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<String>> {
    // With room for what comes at once: where that is no HTTP, the rest of it would be another request.
    let mut head = Vec::with_capacity(READ_BYTES);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
        // Whoever finds that no TLS is spoken here says so, and is gone. That asks for nothing.
        if head.first() == Some(&TLS_ALERT) {
            return Ok(None);
        }
        let is_http = head.first().is_some_and(u8::is_ascii_uppercase);
        if !is_http || head.ends_with(b"\r\n\r\n") || head.len() > REQUEST_MAX_BYTES {
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
    }
}
