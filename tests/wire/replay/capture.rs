//! A capture as it was written down: every exchange in order, of which the client's words are kept to the letter.

use std::fmt;

/// Whom a request of the capture went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Api,
    Download,
    /// The source, asked by the supernode.
    Origin,
    /// A client's upload server.
    Client,
}

/// One request and the start of its answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// As the capture numbers it.
    pub number: u32,
    /// The asking side's address, which names the connection.
    pub connection: String,
    pub server: Server,
    /// `None` for a connection that was opened and closed.
    pub request: Option<Request>,
    /// The body of the answer, if it was text.
    pub answer: String,
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exchange {}", self.number)
    }
}

/// What a client sent. The lines of the head end as they do on the wire.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: String,
    pub body: String,
}

impl Request {
    /// `GET /peer/task` of `GET /peer/task?… HTTP/1.1`.
    pub fn route(&self) -> &str {
        let end = self.head.find('?').unwrap_or(usize::MAX).min(self.head.find(" HTTP/").expect("a request line has a version"));
        &self.head[..end]
    }

    /// A parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().next()?;
        let query = line.split_once('?')?.1.split(' ').next()?;
        query.split('&').find_map(|pair| pair.split_once('=').filter(|(given, _)| *given == name)).map(|(_, value)| value)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The range that it speaks of, wherever it does.
    pub fn range(&self) -> Option<&str> {
        let named = || self.parameter("range").or_else(|| self.parameter("pieceRange"));
        self.header("Range").and_then(|range| range.strip_prefix("bytes=")).or_else(named).filter(|range| !range.is_empty())
    }

    /// The request with one text for another, as often as it occurs.
    pub fn with(&self, captured: &str, ours: &str) -> Self {
        Self { head: self.head.replace(captured, ours), body: self.body.replace(captured, ours) }
    }

    /// The bytes to send; the announced length is that of the body as it is now.
    pub fn bytes(&self) -> Vec<u8> {
        let fit = |line: &str| match line.strip_prefix("Content-Length: ") {
            Some(_) => format!("Content-Length: {}\r\n", self.body.len()),
            None => format!("{line}\r\n"),
        };
        let head: String = self.head.lines().map(fit).collect();
        format!("{head}\r\n{}", self.body).into_bytes()
    }
}

/// The conversations of a capture, each complete in itself. What breaks off at a conversation's end is left out.
pub fn conversations(text: &str) -> Vec<Vec<Exchange>> {
    let exchanges = |part: &str| part.split("\n===== #").skip(1).filter_map(read_exchange).collect();
    text.split("\n################ ").map(exchanges).collect()
}

fn read_exchange(text: &str) -> Option<Exchange> {
    let (title, rest) = text.split_once('\n')?;
    let words: Vec<&str> = title.split_whitespace().collect();
    let [number, _time, connection, "->", server] = words[..] else { panic!("no title of an exchange: {title:?}") };
    let (request, answer) = if rest.starts_with("(TCP connection opened and closed with no data)") {
        (None, "")
    } else {
        let (request, answer) = rest.split_once("\n----- response ")?;
        (Some(read_request(request)), answer.split_once("\n\n").map_or("", |(_, body)| body.trim()))
    };
    let server = match server.rsplit_once(':')?.1 {
        "8002" => Server::Api,
        "8001" => Server::Download,
        "9000" => Server::Origin,
        _ => Server::Client,
    };
    let number = number.parse().expect("exchanges are numbered");
    Some(Exchange { number, connection: connection.to_owned(), server, request, answer: answer.to_owned() })
}

fn read_request(text: &str) -> Request {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    Request { head: head.to_owned(), body: body.to_owned() }
}
