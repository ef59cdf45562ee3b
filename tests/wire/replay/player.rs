//! Plays the client's side of a conversation again, against a service that is its own supernode.
//!
//! Every request of the capture is a template. Addresses, ports, task ids and the client's upload port are replaced by
//! those of this run; a piece is replaced by one that *our* supernode told of, together with its server and path, since
//! which piece comes when, and from whom, is the supernode's to decide. All other bytes are the client's own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::Value;
use tokio::net::TcpStream;

use super::answers::{Envelope, Piece, Plain, Registered, Told, decode, decode_told};
use super::capture::{Exchange, Request, Server};
use super::connection::{Answer, connect, exchange, open_and_close};
use crate::harness::client::Upload;
use crate::harness::eventually;
use crate::harness::pieces::{PIECE_SIZE, WRAPPING, md5_hex, piece_count, piece_md5, unwrap};
use crate::harness::service::Service;

/// More questions than the rest of a file takes.
const QUESTIONS_MAX: u32 = 100;
const PARTIAL: u16 = 206;

/// What a conversation needs to know of its surroundings.
pub struct Surroundings<'a> {
    pub service: &'a Service,
    /// Where the capture's source is now.
    pub origin: SocketAddr,
    /// What the source serves, by path.
    pub files: &'a BTreeMap<&'static str, Bytes>,
    /// The upload server of whoever serves in the capture.
    pub upload: &'a Upload,
    /// What the client takes for an accepted report. The Go server answers 611 to all; those below 0.4.3 log that as an
    /// error (protocol: "Dialects").
    pub piece_accepted: i64,
}

/// A file that is being downloaded.
struct Download {
    content: Bytes,
    /// As ours calls it.
    task: String,
    told: BTreeMap<u32, Piece>,
    /// Which of our pieces stands for a range of the capture.
    stands_for: HashMap<String, u32>,
    fetched: BTreeMap<u32, Bytes>,
    /// Pieces that the supernode knows the client to have.
    reported: BTreeSet<u32>,
    finished: bool,
}

pub struct Player<'a> {
    around: Surroundings<'a>,
    /// Texts of the capture and what replaces them, in this order.
    bindings: Vec<(String, String)>,
    connections: HashMap<String, TcpStream>,
    download: Option<Download>,
    /// The latest of its kind, to go on with where the capture breaks off.
    question: Option<Exchange>,
    fetch: Option<Exchange>,
}

impl<'a> Player<'a> {
    pub fn new(around: Surroundings<'a>) -> Self {
        let bindings = vec![
            ("127.0.0.1:8002".to_owned(), around.service.api().to_string()),
            ("127.0.0.1:8001".to_owned(), around.service.download().to_string()),
            ("127.0.0.1:9000".to_owned(), around.origin.to_string()),
        ];
        Self { around, bindings, connections: HashMap::new(), download: None, question: None, fetch: None }
    }

    /// Replaces one more text of the capture.
    pub fn bind(&mut self, captured: impl Into<String>, ours: impl Into<String>) {
        self.bindings.push((captured.into(), ours.into()));
    }

    /// The task that was registered last, as ours calls it.
    pub fn task(&self) -> &str {
        &self.download.as_ref().expect("it registered").task
    }

    /// Plays a conversation from its first request to its last.
    pub async fn play(&mut self, conversation: &[Exchange]) {
        for captured in conversation {
            self.step(captured).await;
        }
    }

    async fn step(&mut self, captured: &Exchange) {
        let address = match captured.server {
            Server::Api => self.around.service.api(),
            Server::Download => self.around.service.download(),
            Server::Client => ([127, 0, 0, 1], self.around.upload.port()).into(),
            // Asked by the supernode, and ours asks in its own way.
            Server::Origin => return,
        };
        let Some(request) = &captured.request else { return open_and_close(address).await };
        match request.route() {
            "POST /peer/registry" => self.register(captured, request).await,
            "GET /peer/task" => self.ask(captured, request).await,
            "GET /peer/piece/suc" => self.report_written(captured, request).await,
            "GET /peer/piece/error" => self.accuse(captured, request).await,
            "POST /task/metrics" => self.tell_metrics(captured, request).await,
            route if route.starts_with("GET /download/") => self.fetch(captured, request).await,
            route if route.starts_with("GET /peer/file/") => self.fetch_in_vain(captured, request).await,
            // Between the processes of one client.
            _ => assert_eq!(captured.server, Server::Client, "{captured} is none that this can play: {}", request.head),
        }
    }

    /// Sends a request over the connection that it had in the capture.
    async fn send(&mut self, captured: &Exchange, address: SocketAddr, request: &Request) -> Answer {
        let request = self.bindings.iter().fold(request.clone(), |request, (captured, ours)| request.with(captured, ours));
        if !self.connections.contains_key(&captured.connection) {
            self.connections.insert(captured.connection.clone(), connect(address).await);
        }
        let stream = self.connections.get_mut(&captured.connection).expect("it is there now");
        exchange(stream, &request.bytes()).await
    }

    async fn send_to_api(&mut self, captured: &Exchange, request: &Request) -> Answer {
        let answer = self.send(captured, self.around.service.api(), request).await;
        assert_eq!(answer.status, 200, "{captured}: a client gives a supernode up for less: {answer:?}");
        answer
    }

    async fn register(&mut self, captured: &Exchange, request: &Request) {
        let told: Value = serde_json::from_str(&request.body).expect("it registers with JSON");
        let port = told["port"].to_string();
        self.bind(format!("\"port\":{port}"), format!("\"port\":{}", self.around.upload.port()));
        let answer = self.send_to_api(captured, request).await;
        let asked = captured.to_string();
        let registered: Envelope<Registered> = decode(&asked, &answer.body);
        let content = self.content_of(&told);
        let data = &registered.data;
        assert_eq!((registered.code, registered.msg.as_str()), (200, "success"), "{asked}");
        assert_eq!(data.file_length, i64::try_from(content.len()).expect("it is small"), "{asked}");
        assert_eq!(u64::try_from(data.piece_size), Ok(PIECE_SIZE), "{asked}");
        assert_eq!((data.cdn_source.as_str(), data.as_seed, data.seed_task_id.as_str()), ("supernode", false, ""), "{asked}");
        let theirs: Value = serde_json::from_str(&captured.answer).expect("it was answered with JSON");
        self.bind(theirs["data"]["taskId"].as_str().expect("a task id"), data.task_id.clone());
        self.wait_until_stored(&content, &data.task_id).await;
        self.download = Some(Download {
            content,
            task: registered.data.task_id,
            told: BTreeMap::new(),
            stands_for: HashMap::new(),
            fetched: BTreeMap::new(),
            reported: BTreeSet::new(),
            finished: false,
        });
    }

    fn content_of(&self, registration: &Value) -> Bytes {
        let url = registration["rawUrl"].as_str().expect("a URL");
        let name = url.rsplit('/').next().expect("a URL has a path");
        self.around.files[name].clone()
    }

    /// In the capture a question for a large file finds four pieces, because the client has slept meanwhile. Clients are
    /// not made to wait that long by ours, so what they found is waited for here.
    async fn wait_until_stored(&self, content: &Bytes, task: &str) {
        let pieces = piece_count(content.len() as u64) as usize;
        if pieces == 1 {
            return;
        }
        eventually("the whole file is stored", async || {
            let dump = self.around.service.dump().await;
            (dump.of_kind("piece").filter(|line| line["task"] == task).count() == pieces).then_some(())
        })
        .await;
    }

    async fn ask(&mut self, captured: &Exchange, request: &Request) {
        self.question = Some(captured.clone());
        let request = self.with_piece(captured, request);
        let answer = self.send_to_api(captured, &request).await;
        let download = self.download.as_mut().expect("who asks has registered");
        match request.parameter("result") {
            Some("503") => download.note_reported(&request),
            Some("500") => download.note_failed(captured),
            _ => {}
        }
        match decode_told(&captured.to_string(), &answer.body) {
            Told::Finished(finished) => {
                let length = download.content.len() as u64 + u64::from(piece_count(download.content.len() as u64)) * WRAPPING;
                assert_eq!(finished.md5, md5_hex(&download.content), "{captured}");
                assert_eq!(u64::try_from(finished.file_length), Ok(length), "{captured}");
                download.finished = true;
            }
            Told::Pieces(pieces) => {
                assert!(!pieces.is_empty(), "{captured}: a client hangs on a 601 without pieces");
                download.told.extend(pieces.into_iter().map(|piece| (piece.piece_num, piece)));
            }
            Told::Wait => assert!(captured.answer.contains("602"), "{captured}: the client had something to do in the capture"),
        }
    }

    async fn report_written(&mut self, captured: &Exchange, request: &Request) {
        let request = self.with_piece(captured, request);
        let answer = self.send_to_api(captured, &request).await;
        let accepted: Plain = decode(&captured.to_string(), &answer.body);
        assert_eq!((accepted.code, accepted.msg.as_str()), (self.around.piece_accepted, "success"), "{captured}");
        self.download.as_mut().expect("who reports has registered").note_reported(&request);
    }

    /// The Go server answers nothing at all here, which clients cannot decode; ours answers in the envelope.
    async fn accuse(&mut self, captured: &Exchange, request: &Request) {
        let answer = self.send_to_api(captured, request).await;
        assert_eq!(decode::<Plain>(&captured.to_string(), &answer.body).code, 200, "{captured}");
    }

    /// The Go server answers `null`, for which clients send it twice; 1 or 200 in an envelope is what they look for.
    async fn tell_metrics(&mut self, captured: &Exchange, request: &Request) {
        let answer = self.send_to_api(captured, request).await;
        assert_eq!(decode::<Plain>(&captured.to_string(), &answer.body).code, 200, "{captured}");
    }

    async fn fetch(&mut self, captured: &Exchange, request: &Request) {
        self.fetch = Some(captured.clone());
        let request = self.with_piece(captured, request);
        let number: u32 = request.header("Piecenum").and_then(|number| number.parse().ok()).expect("it names the piece");
        let answer = self.send(captured, self.around.service.download(), &request).await;
        let download = self.download.as_mut().expect("who fetches has registered");
        let piece = &download.told[&number];
        assert_eq!(answer.status, PARTIAL, "{captured}: {}", answer.head);
        assert_eq!(piece_md5(&answer.body), piece.piece_md5, "{captured}: {}", answer.head);
        let start = u64::from(number) * PIECE_SIZE;
        let part = format!("bytes {start}-{}/", start + answer.body.len() as u64 - 1);
        assert!(answer.header("content-range").is_some_and(|range| range.starts_with(&part)), "{captured}: {}", answer.head);
        download.fetched.insert(number, answer.body);
    }

    /// Fetches from a client whose file is gone.
    async fn fetch_in_vain(&mut self, captured: &Exchange, request: &Request) {
        let request = self.with_piece(captured, request);
        let address = ([127, 0, 0, 1], self.around.upload.port()).into();
        assert!(
            request.head.contains(self.around.upload.path()),
            "{captured}: ours sends the client elsewhere: {}",
            request.head
        );
        let answer = self.send(captured, address, &request).await;
        assert_eq!(answer.status, 404, "{captured}: {}", answer.head);
    }

    /// The request with a piece of ours, its server and its path, for those of the capture.
    fn with_piece(&mut self, captured: &Exchange, request: &Request) -> Request {
        let Some(range) = request.range() else { return request.clone() };
        let download = self.download.as_mut().unwrap_or_else(|| panic!("{captured} has a range before a registration"));
        let number = download.number_for(range, captured.server == Server::Client);
        let number = number.unwrap_or_else(|| panic!("{captured}: ours has told of too few pieces"));
        let piece = &download.told[&number];
        let mut ours = request.with(range, &piece.range);
        if let Some(theirs) = request.header("Piecenum") {
            ours = ours.with(&format!("Piecenum: {theirs}"), &format!("Piecenum: {number}"));
            let path = request.route().trim_start_matches("GET ").to_owned();
            ours = ours.with(&path, &piece.path);
        }
        match request.parameter("dstCid") {
            Some("") | None => ours,
            Some(theirs) => ours.with(&format!("dstCid={theirs}"), &format!("dstCid={}", piece.cid)),
        }
    }

    /// Goes on as the client would have where the capture breaks off, until it has the whole file. Returns the content.
    pub async fn finish(&mut self) -> Vec<u8> {
        let (question, fetch) = (self.question.clone().expect("it asked"), self.fetch.clone().expect("it fetched"));
        for _ in 0..QUESTIONS_MAX {
            let download = self.download.as_ref().expect("it registered");
            if download.finished {
                return download.content_fetched();
            }
            // A piece that a dead server had stays in flight until it is told of again from another.
            let is_next = |piece: &&Piece| !download.reported.contains(&piece.piece_num) && !piece.is_from_client();
            let next = download.told.values().find(is_next).cloned();
            let piece = next.unwrap_or_else(|| panic!("nothing to fetch of {}, and it is not finished", download.task));
            self.fetch_and_report(&question, &fetch, &piece).await;
        }
        panic!("not finished after {QUESTIONS_MAX} questions");
    }

    async fn fetch_and_report(&mut self, question: &Exchange, fetch: &Exchange, piece: &Piece) {
        let of_piece = |template: &Exchange| {
            let mut exchange = template.clone();
            let request = exchange.request.as_ref().expect("a template is a request");
            let theirs = request.range().expect("a template speaks of a piece").to_owned();
            exchange.request = Some(request.with(&theirs, &piece.range).with("result=500", "result=503"));
            exchange
        };
        let download = self.download.as_mut().expect("it registered");
        download.stands_for = HashMap::from([(piece.range.clone(), piece.piece_num)]);
        self.step(&of_piece(fetch)).await;
        self.step(&of_piece(question)).await;
    }
}

impl Download {
    fn note_reported(&mut self, request: &Request) {
        let range = request.range().expect("a report speaks of a piece");
        self.reported.extend(self.told.values().find(|piece| piece.range == range).map(|piece| piece.piece_num));
    }

    /// A piece that did not come is forgotten until it is told of again, which may be after others.
    fn note_failed(&mut self, captured: &Exchange) {
        let range = captured.request.as_ref().and_then(Request::range).expect("a report speaks of a piece");
        let failed = self.stands_for.remove(range).expect("what failed was fetched before");
        self.told.remove(&failed);
    }

    /// Which of our pieces stands for this range of the capture: the same one if it was told of, else any that is new.
    fn number_for(&mut self, range: &str, from_client: bool) -> Option<u32> {
        if let Some(&number) = self.stands_for.get(range) {
            return Some(number);
        }
        let taken: Vec<u32> = self.stands_for.values().copied().collect();
        let is_free = |piece: &&Piece| !taken.contains(&piece.piece_num) && piece.is_from_client() == from_client;
        let same = self.told.values().filter(is_free).find(|piece| piece.range == range);
        let number = same.or_else(|| self.told.values().find(is_free))?.piece_num;
        self.stands_for.insert(range.to_owned(), number);
        Some(number)
    }

    fn content_fetched(&self) -> Vec<u8> {
        let unwrapped = |slot| unwrap(slot, PIECE_SIZE).unwrap_or_else(|why| panic!("{why}"));
        self.fetched.values().flat_map(|slot| unwrapped(slot).to_vec()).collect()
    }
}
