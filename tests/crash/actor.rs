//! A client, or rather a few of them in one hand: calls one thing after the other until the service is dead, and knows
//! what was acknowledged.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use serde_json::json;

use crate::harness::exchange::{self, CallError, Response, get, post_json, request};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::{PIECE_CONTENT, PIECE_SIZE, piece_count, piece_md5, slot_of};
use crate::model::{Call, Pair, Part, Peer};

const CLIENTS: usize = 2;
/// Longer than anything takes that is not stuck.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Announced by a source that sends none of it: reports need pieces, not their bytes.
const ENDLESS_BYTES: u64 = 9 * 1024 * 1024 * 1024;
const ENDLESS_PIECE_SIZE: u64 = 15 * 1024 * 1024;
/// Of which reports are made: two chunks of progress.
const ENDLESS_PIECES: u32 = 600;

/// Long paths make large records, of which the database moves some with every change: it comes around to using the space
/// of old ones again.
const PATH_PADDING_MAX: usize = 3000;

/// What is fetched.
#[derive(Debug)]
pub struct Task {
    pub id: String,
    pub url: String,
    /// Tells tasks with one URL apart; of any length.
    identifier: String,
    pub content: Bytes,
    pub pieces: u32,
    pub piece_size: u64,
    /// Whether its bytes come at all.
    pub comes: bool,
}

impl Task {
    /// Puts a source up whose bytes are its seed's.
    pub fn new(origin: &Origin, name: &str, length: u64, seed: u64) -> Self {
        Self::identified(origin, name, length, seed, String::new())
    }

    /// The same, with an identifier.
    pub fn identified(origin: &Origin, name: &str, length: u64, seed: u64, identifier: String) -> Self {
        let mut content = vec![0; usize::try_from(length).expect("small")];
        fastrand::Rng::with_seed(seed).fill(&mut content);
        let content: Bytes = content.into();
        let url = origin.put(name, File::new(content.clone()));
        let (id, pieces) = (id_of(&url, &identifier), piece_count(length));
        Self { id, url, identifier, content, pieces, piece_size: PIECE_SIZE, comes: true }
    }

    /// Puts a source up that announces much and sends nothing.
    pub fn endless(origin: &Origin, name: &str) -> Self {
        let file = File { announced_length: Some(ENDLESS_BYTES), ending: Ending::StallsAfter(0), ..File::new(Bytes::new()) };
        let url = origin.put(name, file);
        let (pieces, piece_size) = (ENDLESS_PIECES, ENDLESS_PIECE_SIZE);
        Self { id: id_of(&url, ""), url, identifier: String::new(), content: Bytes::new(), pieces, piece_size, comes: false }
    }

    /// A piece as clients get it.
    pub fn slot(&self, piece: u32) -> Bytes {
        slot_of(&self.content, piece)
    }

    pub fn piece_md5(&self, piece: u32) -> String {
        piece_md5(&self.slot(piece))
    }

    pub fn range(&self, piece: u32) -> String {
        let start = u64::from(piece) * self.piece_size;
        format!("{start}-{}", start + self.piece_size - 1)
    }
}

fn id_of(url: &str, identifier: &str) -> String {
    supernode::domain::TaskId::derive(url, identifier, "").to_string()
}

/// Lengths of sources: none, few, a full piece, a byte more.
pub const LENGTHS: [u64; 4] = [0, 1000, PIECE_CONTENT, PIECE_CONTENT + 1];

/// Whoever calls.
#[derive(Debug)]
pub struct Actor {
    pub clients: Vec<String>,
    /// Everybody's tasks, which stay; then its own, which come and go.
    tasks: Vec<Arc<Task>>,
    pub own_tasks: Vec<String>,
    random: fastrand::Rng,
    number: usize,
    /// Its tasks come and go all the time.
    deletes_much: bool,
    /// What was acknowledged.
    pub known: Part,
    pub under_way: Option<Call>,
    /// Pieces that it was told to fetch from the supernode.
    pub told_stored: BTreeSet<(String, u32)>,
    /// Tasks that it was told are complete.
    pub told_whole: BTreeSet<String>,
    pub acknowledged: u64,
    /// What it was answered and cannot be.
    pub surprises: Vec<String>,
}

impl Actor {
    pub fn new(number: usize, tasks: &[Arc<Task>], own: Vec<Arc<Task>>, seed: u64) -> Self {
        let deletes_much = own.iter().any(|task| !task.identifier.is_empty());
        let clients = (0..CLIENTS).map(|client| format!("10.0.{number}.{client}-{number}-1795423513.832")).collect();
        let own_tasks = own.iter().map(|task| task.id.clone()).collect();
        Self {
            clients,
            tasks: tasks.iter().cloned().chain(own).collect(),
            own_tasks,
            random: fastrand::Rng::with_seed(seed),
            number,
            deletes_much,
            known: Part::default(),
            under_way: None,
            told_stored: BTreeSet::new(),
            told_whole: BTreeSet::new(),
            acknowledged: 0,
            surprises: Vec::new(),
        }
    }

    /// Calls until the service is dead.
    pub async fn run(mut self, api: SocketAddr) -> Self {
        if let Ok(mut connection) = exchange::connect(api).await {
            while self.surprises.is_empty() {
                let call = self.choose();
                match tokio::time::timeout(CALL_TIMEOUT, self.take(&mut connection, api, call)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_broken)) => break,
                    Err(_) => self.surprises.push(format!("no answer within {CALL_TIMEOUT:?}: {:?}", self.under_way)),
                }
            }
        }
        self
    }

    fn task(&self, id: &str) -> &Task {
        self.tasks.iter().find(|task| task.id == id).expect("its tasks are known")
    }

    fn choose(&mut self) -> Call {
        let pairs: Vec<&Pair> = self.known.members.keys().collect();
        let pair = self.random.choice(&pairs).map(|pair| (*pair).clone());
        let Some(pair) = pair.filter(|_| self.random.u8(..8) > 0) else { return self.registration() };
        let piece = self.random.u32(..self.task(&pair.0).pieces);
        let deletes = if self.deletes_much { 12 } else { 1 };
        match self.random.u8(..60) {
            which if which < deletes && !self.known.tasks.is_empty() => {
                let tasks: Vec<&String> = self.known.tasks.iter().collect();
                Call::DeleteTask { task: (*self.random.choice(tasks).expect("there are some")).clone() }
            }
            0..2 => Call::DeletePeer { client: pair.1 },
            2..5 => Call::GoDown { pair },
            5..8 => Call::Finish { pair, success: self.random.bool() },
            8..16 => Call::Start { pair },
            16..36 => Call::Hold { pair, piece },
            _ => Call::Write { pair, piece },
        }
    }

    fn registration(&mut self) -> Call {
        let task = self.random.choice(&self.tasks).expect("there are tasks").id.clone();
        let client = self.random.choice(&self.clients).expect("there are clients").clone();
        let creates = self.own_tasks.contains(&task);
        let port = self.random.u16(10_000..60_000);
        let peer =
            Peer { ip: format!("10.1.{}.{}", self.number, self.random.u8(..)), port: port.into(), version: "1.0.6".into() };
        let padding = "x".repeat(self.random.usize(..PATH_PADDING_MAX));
        Call::Register { pair: (task, client), path: format!("/peer/file/{port}/{padding}"), peer, creates }
    }

    async fn take(&mut self, connection: &mut SendRequest<Full<Bytes>>, api: SocketAddr, call: Call) -> Result<(), CallError> {
        if let Call::DeleteTask { task } = &call {
            self.told_stored.retain(|(of, _)| of != task);
            self.told_whole.remove(task);
        }
        let request = self.request(&call);
        self.under_way = Some(call.clone());
        let response = exchange::collect(exchange::send(connection, api, request).await?).await?;
        match self.check(&call, &response) {
            Ok(has_all) => {
                self.known = if has_all { self.known.after_all_of(&call) } else { self.known.after(&call) };
                self.under_way = None;
                self.acknowledged += 1;
            }
            Err(why) => self.surprises.push(format!("{call:?} was answered {response}: {why}")),
        }
        Ok(())
    }

    fn request(&self, call: &Call) -> Request<Full<Bytes>> {
        let ask = |pair: &Pair, rest: &str| get(&format!("/peer/task?taskId={}&srcCid={}&dstCid=&{rest}", pair.0, pair.1));
        match call {
            Call::Register { pair, path, peer, .. } => {
                let Task { url, identifier, .. } = self.task(&pair.0);
                let body = json!({
                    "superNodeIp": "127.0.0.1", "rawUrl": url, "taskUrl": url, "cid": pair.1, "ip": peer.ip, "hostName": "host",
                    "port": peer.port, "path": path, "version": peer.version,
                    "identifier": identifier,
                });
                post_json("/peer/registry", &body)
            }
            Call::Start { pair } => ask(pair, "status=700&result=502&range="),
            Call::Hold { pair, piece } => ask(pair, &format!("status=701&result=503&range={}", self.task(&pair.0).range(*piece))),
            Call::Finish { pair, success } => {
                ask(pair, &format!("status=702&result={}&range=", if *success { "501" } else { "500" }))
            }
            Call::Write { pair, piece } => {
                let range = self.task(&pair.0).range(*piece);
                get(&format!("/peer/piece/suc?taskId={}&cid={}&dstCid=&pieceRange={range}", pair.0, pair.1))
            }
            Call::GoDown { pair } => get(&format!("/peer/service/down?taskId={}&cid={}", pair.0, pair.1)),
            Call::DeleteTask { task } => {
                let full = if task.as_bytes()[0] % 2 == 0 { "true" } else { "false" };
                request("DELETE", &format!("/api/v1/tasks/{task}?full={full}"), Bytes::new())
            }
            Call::DeletePeer { client } => request("DELETE", &format!("/api/v1/peers/{client}"), Bytes::new()),
        }
    }

    /// Checks an answer, and takes in what it says beside its acknowledgement. Tells whether that is that the client has
    /// everything.
    fn check(&mut self, call: &Call, response: &Response) -> Result<bool, String> {
        if matches!(call, Call::DeleteTask { .. } | Call::DeletePeer { .. }) {
            return if response.status == 204 { Ok(false) } else { Err("expected 204".into()) };
        }
        let answer = response.answer()?;
        let allowed: &[i64] = match call {
            Call::Register { .. } | Call::Finish { .. } => &[200],
            Call::Start { .. } | Call::Hold { .. } => &[600, 601, 602],
            Call::Write { .. } => &[611],
            Call::GoDown { .. } => &[612],
            Call::DeleteTask { .. } | Call::DeletePeer { .. } => &[],
        };
        if response.status != 200 || !allowed.contains(&answer.code) {
            return Err(format!("expected one of {allowed:?}"));
        }
        let (Call::Start { pair } | Call::Hold { pair, .. }) = call else { return Ok(false) };
        let task = self.task(&pair.0);
        if answer.code == 600 {
            if answer.data["md5"] != crate::harness::pieces::md5_hex(&task.content) {
                return Err("another md5 than the source's".into());
            }
            self.told_whole.insert(pair.0.clone());
        }
        for piece in answer.data.as_array().into_iter().flatten() {
            let number = piece["pieceNum"].as_u64().and_then(|number| u32::try_from(number).ok()).ok_or("no piece number")?;
            if piece["pieceMd5"] != self.task(&pair.0).piece_md5(number) {
                return Err(format!("another digest than piece {number} has"));
            }
            if piece["cid"].as_str().is_some_and(|server| server.starts_with("cdnnode:")) {
                self.told_stored.insert((pair.0.clone(), number));
            }
        }
        Ok(answer.code == 600)
    }
}
