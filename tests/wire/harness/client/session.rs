//! The main loop of a download, which is one thread in published clients: while it waits for an answer it reports nothing.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::control::Control;
use super::fetch::{Accusation, Cut, Failure, Piece, Rates};
use super::{Client, Surprise, Transfers};
use crate::harness::exchange::Answer;
use crate::harness::pieces;

/// Pieces that are fetched at once.
const FETCHES_MAX: usize = 4;
/// A client that merges its reports says nothing of a finished piece while more than this many run.
const RUNNING_UNREPORTED: usize = 2;
/// More answers than any test's download needs.
const PULLS_MAX: u32 = 5_000;
/// More failed pieces than any kill can cause.
const FAILURES_MAX: u32 = 200;

/// What the next call tells beside asking.
#[derive(Clone, Debug)]
enum Report {
    Started,
    /// A piece that it came with.
    Brought(u32),
    Fetched(Piece),
    Failed(Piece),
}

/// How the fetching of a piece ended.
type Outcome = (Piece, Result<(), Failure>);

/// One download of one client.
pub struct Session {
    client: Arc<Client>,
    control: Arc<Control>,
    task: String,
    piece_size: u64,
    cut: Cut,
    /// What is still to be told of before the first piece is fetched.
    first_reports: VecDeque<Report>,
    rates: Option<Arc<Rates>>,
    in_flight: HashSet<u32>,
    done: HashSet<u32>,
    transfers: Transfers,
    /// Fetching and writing; each ends once its piece is acknowledged as written.
    fetches: JoinSet<Result<(), Surprise>>,
    finished: mpsc::UnboundedSender<Outcome>,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
}

impl Session {
    pub fn new(client: Arc<Client>, control: Arc<Control>, task: String, (piece_size, cut): (u64, Cut)) -> Self {
        // At most as many as there are fetches.
        let (finished, outcomes) = mpsc::unbounded_channel();
        let brought: Vec<u32> = client.shelf().slots().into_keys().collect();
        Self {
            client,
            control,
            task,
            piece_size,
            cut,
            first_reports: brought.iter().map(|&piece| Report::Brought(piece)).collect(),
            rates: None,
            in_flight: HashSet::new(),
            done: brought.into_iter().collect(),
            transfers: Transfers::default(),
            fetches: JoinSet::new(),
            finished,
            outcomes,
        }
    }

    /// Asks, fetches and reports until told that this was all. Returns the content and where it came from.
    pub async fn pull_everything(mut self) -> Result<(Bytes, Transfers), Surprise> {
        let mut report = self.first_reports.pop_front().unwrap_or(Report::Started);
        let mut wait = None;
        for _ in 0..PULLS_MAX {
            let asked = self.target(&report);
            let answer = self.control.ask(&asked).await?;
            let pulled = matches!(answer.code, 600..=602);
            if !pulled {
                return Err(Surprise::answer(&asked, &answer));
            }
            self.note_acknowledged(&report);
            match answer.code {
                600 => return self.finish(&asked, &answer).await,
                601 => {
                    wait = None;
                    self.begin_fetches(&asked, &answer)?;
                    report = self.next_report(&asked, &answer).await?;
                }
                _ => report = self.wait_a_while(&mut wait, report).await?,
            }
        }
        Err(Surprise::new(format!("{} is not done after {PULLS_MAX} answers", self.client.cid)))
    }

    fn target(&self, report: &Report) -> String {
        let (status, result, server, range) = match report {
            Report::Started => (700, 502, "", String::new()),
            Report::Brought(piece) => (701, 503, "", self.range_of(*piece)),
            Report::Fetched(piece) => (701, 503, piece.cid.as_str(), piece.range.clone()),
            Report::Failed(piece) => (701, 500, piece.cid.as_str(), piece.range.clone()),
        };
        let spelling = self.client.release.spelling;
        let more = if self.client.release.names_supernode { "&superNode=127.0.0.1&pieceCont=" } else { "" };
        format!(
            "/peer/task?{}={}&{}={server}&range={range}&result={result}&status={status}&taskId={}{more}",
            spelling.src, self.client.cid, spelling.dst, self.task
        )
    }

    fn range_of(&self, piece: u32) -> String {
        let start = u64::from(piece) * self.piece_size;
        format!("{start}-{}", start + self.piece_size - 1)
    }

    /// An answer means that what was reported with the question will not be forgotten.
    fn note_acknowledged(&self, report: &Report) {
        let number = match report {
            Report::Started | Report::Failed(_) => return,
            Report::Brought(number) => *number,
            Report::Fetched(piece) => piece.number,
        };
        self.client.lock_acknowledged().held.insert(number);
    }

    /// Starts on what is new in a 601, as far as there are free places.
    fn begin_fetches(&mut self, asked: &str, answer: &Answer) -> Result<(), Surprise> {
        let entries = answer.data.as_array().ok_or_else(|| Surprise::answer(asked, answer))?;
        for entry in entries {
            let piece = Piece::read(entry, self.client.release)?;
            if piece.size != self.piece_size {
                return Err(Surprise::new(format!("registered with pieces of {}, told of others: {entry}", self.piece_size)));
            }
            self.note_digest(&piece)?;
            let known = self.in_flight.contains(&piece.number) || self.done.contains(&piece.number);
            if !known && self.in_flight.len() < FETCHES_MAX {
                self.begin_fetch(piece);
            }
        }
        Ok(())
    }

    /// A piece that was handed out once must never become another.
    fn note_digest(&self, piece: &Piece) -> Result<(), Surprise> {
        let mut acknowledged = self.client.lock_acknowledged();
        let known = acknowledged.digests.entry(piece.number).or_insert_with(|| piece.md5.clone());
        if *known == piece.md5 {
            return Ok(());
        }
        Err(Surprise::new(format!("piece {} was {known} and is now {}", piece.number, piece.md5)))
    }

    fn begin_fetch(&mut self, piece: Piece) {
        self.in_flight.insert(piece.number);
        let rates = self.rates.get_or_insert_with(|| {
            let whole = self.client.release.own_rate_bytes_per_s.unwrap_or(piece.link_kib_per_s * 1024);
            Arc::new(Rates::new(self.client.link_bytes_per_s, whole))
        });
        let fetch = Fetch {
            rates: rates.clone(),
            cut: self.cut.clone(),
            client: self.client.clone(),
            control: self.control.clone(),
            task: self.task.clone(),
            finished: self.finished.clone(),
            piece,
        };
        self.fetches.spawn(fetch.run());
    }

    /// What is told next: of what it came with, then of a piece that was in flight.
    async fn next_report(&mut self, asked: &str, answer: &Answer) -> Result<Report, Surprise> {
        if let Some(report) = self.first_reports.pop_front() {
            return Ok(report);
        }
        if self.in_flight.is_empty() {
            let answer = Surprise::answer(asked, answer);
            return Err(Surprise::new(format!("nothing new in a 601 and nothing in flight, a published client hangs: {answer}")));
        }
        loop {
            self.check_fetches()?;
            let outcome = self.outcomes.recv().await.expect("this session holds a sender");
            let report = self.take(outcome)?;
            let merged = self.client.release.merges_reports && self.in_flight.len() > RUNNING_UNREPORTED;
            if !(merged && matches!(report, Report::Fetched(_))) {
                return Ok(report);
            }
        }
    }

    /// Waits as a client does that was told to: then it says the same again, unless a piece has arrived meanwhile.
    async fn wait_a_while(&mut self, wait: &mut Option<Duration>, report: Report) -> Result<Report, Surprise> {
        if let Some(report) = self.first_reports.pop_front() {
            return Ok(report);
        }
        self.check_fetches()?;
        let now = self.client.release.wait_after(*wait);
        *wait = Some(now);
        if !self.client.release.wait.ends_early {
            tokio::time::sleep(now).await;
            return self.outcomes.try_recv().map_or(Ok(report), |outcome| self.take(outcome));
        }
        tokio::select! {
            outcome = self.outcomes.recv() => self.take(outcome.expect("this session holds a sender")),
            () = tokio::time::sleep(now) => Ok(report),
        }
    }

    fn take(&mut self, (piece, outcome): Outcome) -> Result<Report, Surprise> {
        self.in_flight.remove(&piece.number);
        let Err(Failure { why, .. }) = outcome else {
            self.done.insert(piece.number);
            let count = match (piece.is_from_source(), piece.is_from_supernode()) {
                (true, _) => &mut self.transfers.from_source,
                (false, true) => &mut self.transfers.from_supernode,
                (false, false) => &mut self.transfers.from_peers,
            };
            *count += 1;
            self.client.note_arrival();
            return Ok(Report::Fetched(piece));
        };
        self.transfers.failed += 1;
        println!("{} could not fetch {why}", self.client.cid);
        if self.transfers.failed > FAILURES_MAX {
            return Err(Surprise::new(format!("{FAILURES_MAX} pieces failed, the last: {why}")));
        }
        Ok(Report::Failed(piece))
    }

    /// Hears of reports that went wrong while there is time.
    fn check_fetches(&mut self) -> Result<(), Surprise> {
        while let Some(ended) = self.fetches.try_join_next() {
            ended.expect("fetching does not panic")?;
        }
        Ok(())
    }

    /// Waits until all is written, checks it, and says goodbye.
    async fn finish(mut self, asked: &str, answer: &Answer) -> Result<(Bytes, Transfers), Surprise> {
        while let Some(ended) = self.fetches.join_next().await {
            ended.expect("fetching does not panic")?;
        }
        // What arrived after the last report counts as well.
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.take(outcome)?;
        }
        let content = self.check_content(asked, answer).await?;
        if self.client.release.tells_the_end {
            self.say_goodbye().await?;
        }
        Ok((content, self.transfers))
    }

    async fn say_goodbye(&self) -> Result<(), Surprise> {
        let (spelling, cid) = (self.client.release.spelling, &self.client.cid);
        let (src, dst) = (spelling.src, spelling.dst);
        let goodbye = format!("/peer/task?{src}={cid}&{dst}=&range=&result=501&status=702&taskId={}", self.task);
        let answer = self.control.get(&goodbye).await?;
        if answer.code == 200 { Ok(()) } else { Err(Surprise::answer(&goodbye, &answer)) }
    }

    /// Puts the content together and compares it with what 600 says of it.
    async fn check_content(&self, asked: &str, answer: &Answer) -> Result<Bytes, Surprise> {
        let slots = self.client.shelf().slots();
        let wrong = |why: String| Surprise::new(format!("{why}, but {asked} was answered {answer}"));
        if let Some(missing) = (0..).zip(slots.keys()).find_map(|(expected, piece)| (expected != *piece).then_some(expected)) {
            return Err(wrong(format!("piece {missing} is missing")));
        }
        let (mut content, mut file_length) = (BytesMut::new(), 0);
        for slot in slots.values() {
            match self.cut {
                Cut::Wrapped => content.extend_from_slice(&pieces::unwrap(slot, self.piece_size).map_err(&wrong)?),
                Cut::Bare { .. } => content.extend_from_slice(slot),
            }
            file_length += slot.len() as u64;
        }
        let content = content.freeze();
        if let Cut::Bare { length, .. } = self.cut {
            // An md5 that the client would compare with would be invented: nobody has computed one.
            let right = answer.data["md5"] == "" && answer.data["fileLength"] == length && file_length == length;
            return if right { Ok(content) } else { Err(wrong(format!("{file_length} bytes of {length}"))) };
        }
        let hashing = content.clone();
        let md5 = tokio::task::spawn_blocking(move || pieces::md5_hex(&hashing)).await.expect("hashing does not panic");
        if answer.data["md5"] != md5 || answer.data["fileLength"] != file_length {
            return Err(wrong(format!("{} bytes in {file_length} wrapped ones have the md5 {md5}", content.len())));
        }
        Ok(content)
    }
}

/// One piece on its way from a server to the shelf.
struct Fetch {
    client: Arc<Client>,
    control: Arc<Control>,
    rates: Arc<Rates>,
    cut: Cut,
    task: String,
    piece: Piece,
    finished: mpsc::UnboundedSender<Outcome>,
}

impl Fetch {
    /// Fetches, hands the outcome to the main loop, then writes and reports that beside it, in no certain order.
    async fn run(self) -> Result<(), Surprise> {
        let release = self.client.release;
        let fetched = self.piece.fetch(release, &self.rates, &self.cut).await;
        if let Err(Failure { accusation: Some(accusation), .. }) = &fetched
            && release.accuses
        {
            self.control.get(&self.accusation_target(accusation)).await?;
        }
        let written = self.written_target();
        let Self { client, control, piece, finished, .. } = self;
        let number = piece.number;
        // A session that has given up does not listen any more.
        let _ = finished.send((piece, fetched.as_ref().map(|_| ()).map_err(Clone::clone)));
        let Ok(slot) = fetched else { return Ok(()) };
        client.shelf().put(number, slot);
        let answer = control.report_written(&written).await?;
        if answer.code != release.piece_accepted {
            return Err(Surprise::answer(&written, &answer));
        }
        client.lock_acknowledged().servable.insert(number);
        Ok(())
    }

    fn written_target(&self) -> String {
        let (spelling, cid, piece) = (self.client.release.spelling, &self.client.cid, &self.piece);
        let (own, dst) = (spelling.own, spelling.dst);
        format!("/peer/piece/suc?taskId={}&{own}={cid}&{dst}={}&pieceRange={}", self.task, piece.cid, piece.range)
    }

    fn accusation_target(&self, accusation: &Accusation) -> String {
        let piece = &self.piece;
        let (kind, ip, range, found, expected) = match accusation {
            // Watched on the wire: of a file that is gone, clients tell nothing more.
            Accusation::NotThere => ("FILE_NOT_EXIST", String::new(), "", "", ""),
            Accusation::Different { found } => {
                ("FILE_MD5_NOT_MATCH", piece.address.ip().to_string(), piece.range.as_str(), found.as_str(), piece.md5.as_str())
            }
        };
        let digest = |md5: &str| md5.split(':').next().unwrap_or_default().to_owned();
        format!(
            "/peer/piece/error?errorType={kind}&srcCid={}&dstCid={}&dstIp={ip}&taskId={}&range={range}&realMd5={}&expectedMd5={}",
            self.client.cid,
            piece.cid,
            self.task,
            digest(found),
            digest(expected)
        )
    }
}
