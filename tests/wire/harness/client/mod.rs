//! A client that acts as the published ones do, move by move: registers, asks, fetches, checks, reports, and serves.

mod control;
mod fetch;
mod session;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::exchange::{self, Answer};
use control::Control;
use session::Session;
use upload::{Shelf, Upload};

/// How long a whole download may take here. Published clients give it length ÷ 64 KiB/s + 10 s, or 5 minutes.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(180);
/// How often a client asks again that was told to wait for authentication, and when.
const ASKED_AGAIN_MAX: u32 = 3;
const ASKS_AGAIN_AFTER: Duration = Duration::from_secs(1);
const WAIT_FOR_AUTHENTICATION: i64 = 609;

/// How a client spells, and what it expects back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Go `dfget` 1.0.6: JSON, `srcCid`.
    Go,
    /// Written from the published reference: a form, `srcCID`, no version that anybody knows.
    Documented,
}

/// What a client wants: a URL, and how to ask the source for it.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub raw_url: String,
    pub task_url: String,
    pub headers: Vec<String>,
}

impl Wanted {
    pub fn url(url: &str) -> Self {
        Self { raw_url: url.to_owned(), task_url: url.to_owned(), headers: Vec::new() }
    }
}

/// Something that a client cannot go on from: what it asked, and what came.
#[derive(Debug)]
pub struct Surprise {
    /// The code of the answer, if there was one.
    pub code: Option<i64>,
    text: String,
}

impl Surprise {
    pub fn new(text: impl Into<String>) -> Self {
        Self { code: None, text: text.into() }
    }

    pub fn answer(asked: &str, answer: &Answer) -> Self {
        Self { code: Some(answer.code), text: format!("{asked} was answered {answer}") }
    }
}

impl fmt::Display for Surprise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What the service has acknowledged to one client, and must therefore never forget.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    pub task: Option<String>,
    pub held: BTreeSet<u32>,
    pub servable: BTreeSet<u32>,
    /// The digests of pieces that it was told to fetch.
    pub digests: BTreeMap<u32, String>,
}

/// Where the pieces of a download came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    pub from_supernode: u32,
    pub from_peers: u32,
    pub failed: u32,
}

/// A download that ended well.
#[derive(Clone, Debug)]
pub struct Downloaded {
    pub task: String,
    /// As it was registered: -1 for unknown.
    pub file_length: i64,
    pub content: Bytes,
    pub transfers: Transfers,
}

/// A client with an upload server of its own, which serves until the client is dropped.
#[derive(Debug)]
pub struct Client {
    cid: String,
    dialect: Dialect,
    link_bytes_per_s: Option<u64>,
    /// Counts pieces as they arrive, for tests that act on progress.
    progress: Option<watch::Sender<u32>>,
    upload: Upload,
    acknowledged: Mutex<Acknowledged>,
}

impl Client {
    pub async fn start(dialect: Dialect) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let cid = format!("127.0.0.1-{}{number:03}-1795423513.{number:03}", std::process::id());
        let upload = Upload::start(&format!("a-file-{cid}")).await;
        Self { cid, dialect, link_bytes_per_s: None, progress: None, upload, acknowledged: Mutex::default() }
    }

    /// Fetches no faster than this.
    pub fn with_link(self, bytes_per_s: u64) -> Self {
        Self { link_bytes_per_s: Some(bytes_per_s), ..self }
    }

    /// Counts its pieces there, too.
    pub fn with_progress(self, progress: watch::Sender<u32>) -> Self {
        Self { progress: Some(progress), ..self }
    }

    pub fn cid(&self) -> &str {
        &self.cid
    }

    pub fn acknowledged(&self) -> Acknowledged {
        self.lock_acknowledged().clone()
    }

    /// How often others were sent here for a piece that this client has not reported to serve.
    pub fn asked_in_vain(&self) -> u32 {
        self.upload.asked_in_vain()
    }

    /// How many pieces others fetched from here.
    pub fn served(&self) -> u32 {
        self.upload.served()
    }

    /// Registers, as often as it is told to ask again, and returns the last answer, whatever its code.
    pub async fn register(&self, api: SocketAddr, wanted: &Wanted) -> Result<Answer, Surprise> {
        self.register_over(&Control::new(api), wanted).await
    }

    /// Downloads what is wanted, from first word to last, and returns it once every byte was checked.
    pub async fn download(self: &Arc<Self>, api: SocketAddr, wanted: &Wanted) -> Result<Downloaded, Surprise> {
        let whole = self.run(api, wanted);
        let timed_out = || Err(Surprise::new(format!("{} has not finished within {DOWNLOAD_TIMEOUT:?}", self.cid)));
        tokio::time::timeout(DOWNLOAD_TIMEOUT, whole).await.unwrap_or_else(|_| timed_out())
    }

    async fn run(self: &Arc<Self>, api: SocketAddr, wanted: &Wanted) -> Result<Downloaded, Surprise> {
        let control = Arc::new(Control::new(api));
        let answer = self.register_over(&control, wanted).await?;
        let unlike = |answer: &Answer| Surprise::answer(&format!("registration of {}", wanted.raw_url), answer);
        if answer.code != 200 {
            return Err(unlike(&answer));
        }
        let task = answer.data["taskId"].as_str().ok_or_else(|| unlike(&answer))?.to_owned();
        let piece_size = answer.data["pieceSize"].as_u64().ok_or_else(|| unlike(&answer))?;
        let file_length = answer.data["fileLength"].as_i64().ok_or_else(|| unlike(&answer))?;
        self.lock_acknowledged().task = Some(task.clone());
        self.upload.shelf().set_piece_size(piece_size);
        let (content, transfers) = Session::new(self.clone(), control, task.clone(), piece_size).pull_everything().await?;
        Ok(Downloaded { task, file_length, content, transfers })
    }

    async fn register_over(&self, control: &Control, wanted: &Wanted) -> Result<Answer, Surprise> {
        let mut asked_again = 0;
        loop {
            let answer = control.post(|| self.registration(control.api(), wanted)).await?;
            if answer.code != WAIT_FOR_AUTHENTICATION || asked_again == ASKED_AGAIN_MAX {
                return Ok(answer);
            }
            asked_again += 1;
            tokio::time::sleep(ASKS_AGAIN_AFTER).await;
        }
    }

    fn registration(&self, api: SocketAddr, wanted: &Wanted) -> Request<Full<Bytes>> {
        match self.dialect {
            Dialect::Go => exchange::post_json("/peer/registry", &self.registration_json(api, wanted)),
            Dialect::Documented => {
                let request = exchange::request("POST", "/peer/registry", self.registration_form(wanted).into());
                exchange::with_header(request, "content-type", "application/x-www-form-urlencoded")
            }
        }
    }

    fn registration_json(&self, api: SocketAddr, wanted: &Wanted) -> Value {
        let mut body = json!({
            "superNodeIp": api.to_string(),
            "rawUrl": wanted.raw_url,
            "taskUrl": wanted.task_url,
            "cid": self.cid,
            "ip": "127.0.0.1",
            "hostName": "host",
            "port": self.upload.port(),
            "path": self.upload.path(),
            "version": "1.0.6",
        });
        // Published clients leave out what is empty.
        if !wanted.headers.is_empty() {
            body["headers"] = json!(wanted.headers);
        }
        body
    }

    fn registration_form(&self, wanted: &Wanted) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("cid", &self.cid)
            .append_pair("ip", "127.0.0.1")
            .append_pair("hostName", "host")
            .append_pair("superNodeIp", "127.0.0.1")
            .append_pair("port", &self.upload.port().to_string())
            .append_pair("callSystem", "test")
            .append_pair("dfdaemon", "false")
            .append_pair("path", self.upload.path())
            .append_pair("rawUrl", &wanted.raw_url)
            .append_pair("taskUrl", &wanted.task_url)
            .append_pair("md5", "")
            .append_pair("identifier", "");
        for header in &wanted.headers {
            let (name, value) = header.split_once(": ").expect("a test writes its headers as dfget does");
            form.append_pair(&format!("headers[{name}]"), value);
        }
        form.finish()
    }

    fn lock_acknowledged(&self) -> MutexGuard<'_, Acknowledged> {
        self.acknowledged.lock().expect("nobody panics while they hold this")
    }

    fn shelf(&self) -> &Arc<Shelf> {
        self.upload.shelf()
    }

    fn note_arrival(&self) {
        if let Some(progress) = &self.progress {
            progress.send_modify(|arrived| *arrived += 1);
        }
    }
}
