//! A client that acts as the published ones do, move by move: registers, asks, fetches, checks, reports, and serves.
//!
//! One model for all of them: what releases do differently is in their [`Release`].

mod control;
mod fetch;
mod registration;
pub mod release;
mod session;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::sync::watch;

use super::exchange::{self, Answer};
use super::pieces;
use control::Control;
use fetch::Cut;
pub use release::Release;
use session::Session;
use upload::Shelf;
pub use upload::Upload;

/// How long a whole download may take here. Published clients give it length ÷ 64 KiB/s + 10 s, or 5 minutes.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(180);
const WAIT_FOR_AUTHENTICATION: i64 = 609;

/// What a client wants: a URL, and how to ask the source for it.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub raw_url: String,
    pub task_url: String,
    pub headers: Vec<String>,
    pub md5: Option<String>,
    pub insecure: bool,
    /// PEM.
    pub root_cas: Vec<String>,
}

impl Wanted {
    pub fn url(url: &str) -> Self {
        Self {
            raw_url: url.to_owned(),
            task_url: url.to_owned(),
            headers: Vec::new(),
            md5: None,
            insecure: false,
            root_cas: Vec::new(),
        }
    }
}

/// Something that a client cannot go on from: what it asked, and what came.
#[derive(Debug)]
pub struct Surprise {
    /// The code of the answer, if there was one.
    pub code: Option<i64>,
    /// The sentence that came with it.
    pub msg: String,
    text: String,
}

impl Surprise {
    pub fn new(text: impl Into<String>) -> Self {
        Self { code: None, msg: String::new(), text: text.into() }
    }

    pub fn answer(asked: &str, answer: &Answer) -> Self {
        Self { code: Some(answer.code), msg: answer.msg.clone(), text: format!("{asked} was answered {answer}") }
    }

    fn in_context(self, who: &str) -> Self {
        Self { text: format!("{}: {who}", self.text), ..self }
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
    pub from_source: u32,
    pub from_peers: u32,
    pub failed: u32,
}

/// A download that ended well.
#[derive(Clone, Debug)]
pub struct Downloaded {
    pub task: String,
    /// How often it asked what to do.
    pub questions: u32,
    /// From the first word of its registration until its last report was answered.
    pub took: Duration,
    /// As it was registered: -1 for unknown.
    pub file_length: i64,
    pub content: Bytes,
    pub transfers: Transfers,
}

/// What a client tells of its download.
struct Metrics<'a> {
    task: &'a str,
    took: Duration,
    length: usize,
}

/// A client with an upload server of its own, which serves until the client is dropped.
#[derive(Debug)]
pub struct Client {
    cid: String,
    release: &'static Release,
    link_bytes_per_s: Option<u64>,
    /// Counts pieces as they arrive, for tests that act on progress.
    progress: Option<watch::Sender<u32>>,
    /// Whether a test has taken the service away.
    service_away: watch::Receiver<bool>,
    upload: Upload,
    acknowledged: Mutex<Acknowledged>,
}

impl Client {
    pub async fn start(release: &'static Release) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let cid = format!("127.0.0.1-{}{number:03}-1795423513.{number:03}", std::process::id());
        Self::start_as(release, &cid).await
    }

    /// A client with an id that may be known already, and an upload server that is new.
    pub async fn start_as(release: &'static Release, cid: &str) -> Self {
        let upload = Upload::start(&format!("a-file-{cid}")).await;
        let (acknowledged, service_away) = (Mutex::default(), watch::Sender::new(false).subscribe());
        Self { cid: cid.to_owned(), release, link_bytes_per_s: None, progress: None, service_away, upload, acknowledged }
    }

    /// Comes with pieces that it got elsewhere, as a client does that lost its supernode.
    pub fn with_pieces(self, content: &Bytes, pieces: std::ops::Range<u32>) -> Self {
        for piece in pieces {
            self.shelf().put(piece, pieces::slot_of(content, piece));
        }
        self
    }

    /// Fetches no faster than this.
    pub fn with_link(self, bytes_per_s: u64) -> Self {
        Self { link_bytes_per_s: Some(bytes_per_s), ..self }
    }

    /// Counts its pieces there, too.
    pub fn with_progress(self, progress: watch::Sender<u32>) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// Waits no time for a service that a test says to be away.
    pub fn with_outages(self, service_away: watch::Receiver<bool>) -> Self {
        Self { service_away, ..self }
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
        self.register_over(&self.control(api), wanted).await
    }

    /// Downloads what is wanted, from first word to last, and returns it once every byte was checked.
    pub async fn download(self: &Arc<Self>, api: SocketAddr, wanted: &Wanted) -> Result<Downloaded, Surprise> {
        self.in_time(self.run(api, wanted)).await
    }

    /// Downloads what a registration of this client, answered like this, was for.
    pub async fn download_registered(self: &Arc<Self>, api: SocketAddr, registered: &Answer) -> Result<Downloaded, Surprise> {
        let control = Arc::new(self.control(api));
        self.in_time(self.go_on(control, registered, Vec::new(), Instant::now())).await
    }

    async fn in_time(&self, download: impl Future<Output = Result<Downloaded, Surprise>>) -> Result<Downloaded, Surprise> {
        let timed_out = || Err(Surprise::new(format!("not finished within {DOWNLOAD_TIMEOUT:?}")));
        let ended = tokio::time::timeout(DOWNLOAD_TIMEOUT, download).await.unwrap_or_else(|_| timed_out());
        let Release { name, gives_up, .. } = self.release;
        ended.map_err(|surprise| surprise.in_context(&format!("{} ({name}), which then {gives_up}", self.cid)))
    }

    async fn run(self: &Arc<Self>, api: SocketAddr, wanted: &Wanted) -> Result<Downloaded, Surprise> {
        let began = Instant::now();
        let control = Arc::new(self.control(api));
        let answer = self.register_over(&control, wanted).await?;
        self.go_on(control, &answer, wanted.headers.clone(), began).await
    }

    async fn go_on(
        self: &Arc<Self>,
        control: Arc<Control>,
        answer: &Answer,
        headers: Vec<String>,
        began: Instant,
    ) -> Result<Downloaded, Surprise> {
        let unlike = |answer: &Answer| Surprise::answer("a registration", answer);
        if answer.code != 200 {
            return Err(unlike(answer));
        }
        let task = answer.data["taskId"].as_str().ok_or_else(|| unlike(answer))?.to_owned();
        let piece_size = answer.data["pieceSize"].as_u64().ok_or_else(|| unlike(answer))?;
        let file_length = answer.data["fileLength"].as_i64().ok_or_else(|| unlike(answer))?;
        self.lock_acknowledged().task = Some(task.clone());
        let cut = match answer.data["cdnSource"].as_str() {
            Some("supernode") => Cut::Wrapped,
            Some("source") if self.release.understands_source => {
                Cut::Bare { length: u64::try_from(file_length).map_err(|_| unlike(answer))?, headers }
            }
            _ => return Err(unlike(answer)),
        };
        self.upload.shelf().set_piece_size(piece_size, matches!(cut, Cut::Bare { .. }));
        let session = Session::new(self.clone(), control.clone(), task.clone(), (piece_size, cut));
        let (content, transfers) = session.pull_everything().await?;
        let took = began.elapsed();
        if self.release.sends_metrics {
            let told = Metrics { task: &task, took, length: content.len() };
            self.tell_metrics(&control, &told).await?;
        }
        Ok(Downloaded { task, file_length, questions: control.questions(), took, content, transfers })
    }

    /// Tells that its upload server will serve this task no more, as clients do some time after the download.
    pub async fn go_away(&self, api: SocketAddr) -> Result<(), Surprise> {
        let task = self.acknowledged().task.expect("only who has registered goes away");
        let target = format!("/peer/service/down?taskId={task}&{}={}", self.release.spelling.own, self.cid);
        let answer = self.control(api).get(&target).await?;
        if answer.code == self.release.going_down_accepted { Ok(()) } else { Err(Surprise::answer(&target, &answer)) }
    }

    /// Stops serving without a word: its port is closed from now on, and so is every connection to it.
    pub fn vanish(&self) {
        self.upload.close();
    }

    /// Serves these bytes from now on in the place of those that it fetched.
    pub fn spoil(&self, content: &Bytes) {
        for piece in self.shelf().slots().into_keys() {
            self.shelf().put(piece, pieces::slot_of(content, piece));
        }
    }

    /// Loses what it has written; its port stays open.
    pub fn forget(&self) {
        self.shelf().clear();
    }

    fn control(&self, api: SocketAddr) -> Control {
        Control::new(api, self.release, self.service_away.clone())
    }

    async fn register_over(&self, control: &Control, wanted: &Wanted) -> Result<Answer, Surprise> {
        let mut asked_again = 0;
        loop {
            let answer = control.post(|| self.registration(control.api(), wanted)).await?;
            if answer.code != WAIT_FOR_AUTHENTICATION || self.release.asked_again_max.is_some_and(|max| asked_again >= max) {
                return Ok(answer);
            }
            asked_again += 1;
            tokio::time::sleep(self.release.asks_again_after).await;
        }
    }

    /// Tells how it went, and once more where the answer is not what it looks for. Lost metrics trouble no client.
    async fn tell_metrics(&self, control: &Control, told: &Metrics<'_>) -> Result<(), Surprise> {
        let body = json!({
            "IP": "127.0.0.1", "backsourceReason": "0", "cID": self.cid, "duration": told.took.as_secs_f64(),
            "fileLength": told.length, "port": self.upload.port(), "success": true, "taskId": told.task,
        });
        let Ok(answer) = control.post(|| exchange::post_json("/task/metrics", &body)).await else { return Ok(()) };
        if matches!(answer.code, 1 | 200) {
            return Ok(());
        }
        Err(Surprise::answer("/task/metrics, which is sent twice for it,", &answer))
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
