//! The main loop of a download, which is one thread in published clients: while it waits for an answer it reports nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::control::Control;
use super::fetch::Piece;
use super::{Client, Dialect, Surprise, Transfers};
use crate::harness::exchange::Answer;
use crate::harness::pieces;

/// Pieces that are fetched at once.
const FETCHES_MAX: usize = 4;
/// Waits after a 602: a random one of these, doubling up to the longest.
const WAIT_MS: std::ops::RangeInclusive<u64> = 50..=100;
const WAIT_MAX: Duration = Duration::from_millis(800);
/// More answers than any test's download needs.
const PULLS_MAX: u32 = 5_000;
/// More failed pieces than any kill can cause.
const FAILURES_MAX: u32 = 200;

/// What the next call tells beside asking.
#[derive(Clone, Debug)]
enum Report {
    Started,
    Fetched(Piece),
    Failed(Piece),
}

/// How the fetching of a piece ended.
type Outcome = (Piece, Result<(), String>);

/// One download of one client.
pub struct Session {
    client: Arc<Client>,
    control: Arc<Control>,
    task: String,
    piece_size: u64,
    in_flight: HashSet<u32>,
    done: HashSet<u32>,
    transfers: Transfers,
    /// Fetching and writing; each ends once its piece is acknowledged as written.
    fetches: JoinSet<Result<(), Surprise>>,
    finished: mpsc::UnboundedSender<Outcome>,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
}

impl Session {
    pub fn new(client: Arc<Client>, control: Arc<Control>, task: String, piece_size: u64) -> Self {
        // At most as many as there are fetches.
        let (finished, outcomes) = mpsc::unbounded_channel();
        Self {
            client,
            control,
            task,
            piece_size,
            in_flight: HashSet::new(),
            done: HashSet::new(),
            transfers: Transfers::default(),
            fetches: JoinSet::new(),
            finished,
            outcomes,
        }
    }

    /// Asks, fetches and reports until told that this was all. Returns the content and where it came from.
    pub async fn pull_everything(mut self) -> Result<(Bytes, Transfers), Surprise> {
        let mut report = Report::Started;
        let mut wait = None;
        for _ in 0..PULLS_MAX {
            let asked = self.target(&report);
            let answer = self.control.get(&asked).await?;
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
                    report = self.next_report().await?;
                }
                _ => report = self.wait_a_while(&mut wait, report).await?,
            }
        }
        Err(Surprise::new(format!("{} is not done after {PULLS_MAX} answers", self.client.cid)))
    }

    fn target(&self, report: &Report) -> String {
        let (status, result, piece) = match report {
            Report::Started => (700, 502, None),
            Report::Fetched(piece) => (701, 503, Some(piece)),
            Report::Failed(piece) => (701, 500, Some(piece)),
        };
        let (server, range) = piece.map_or(("", ""), |piece| (piece.cid.as_str(), piece.range.as_str()));
        let (src, dst) = self.spellings();
        format!(
            "/peer/task?{src}={}&{dst}={server}&range={range}&result={result}&status={status}&taskId={}",
            self.client.cid, self.task
        )
    }

    fn spellings(&self) -> (&'static str, &'static str) {
        match self.client.dialect {
            Dialect::Go => ("srcCid", "dstCid"),
            Dialect::Documented => ("srcCID", "dstCID"),
        }
    }

    /// An answer means that what was reported with the question will not be forgotten.
    fn note_acknowledged(&self, report: &Report) {
        if let Report::Fetched(piece) = report {
            self.client.lock_acknowledged().held.insert(piece.number);
        }
    }

    /// Starts on what is new in a 601, as far as there are free places.
    fn begin_fetches(&mut self, asked: &str, answer: &Answer) -> Result<(), Surprise> {
        let entries = answer.data.as_array().ok_or_else(|| Surprise::answer(asked, answer))?;
        for entry in entries {
            let piece = Piece::read(entry, self.client.dialect)?;
            if piece.size != self.piece_size {
                return Err(Surprise::new(format!("registered with pieces of {}, told of others: {entry}", self.piece_size)));
            }
            self.note_digest(&piece)?;
            let known = self.in_flight.contains(&piece.number) || self.done.contains(&piece.number);
            if !known && self.in_flight.len() < FETCHES_MAX {
                self.begin_fetch(piece);
            }
        }
        if self.in_flight.is_empty() {
            let answer = Surprise::answer(asked, answer);
            return Err(Surprise::new(format!("nothing new in a 601 and nothing in flight, a published client hangs: {answer}")));
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
        let fetch = Fetch {
            client: self.client.clone(),
            control: self.control.clone(),
            written: self.written_target(&piece),
            finished: self.finished.clone(),
            piece,
        };
        self.fetches.spawn(fetch.run());
    }

    fn written_target(&self, piece: &Piece) -> String {
        let (cid, dst) = match self.client.dialect {
            Dialect::Go => ("cid", "dstCid"),
            Dialect::Documented => ("cID", "dstCID"),
        };
        format!("/peer/piece/suc?taskId={}&{cid}={}&{dst}={}&pieceRange={}", self.task, self.client.cid, piece.cid, piece.range)
    }

    /// Waits for a piece that is in flight.
    async fn next_report(&mut self) -> Result<Report, Surprise> {
        self.check_fetches()?;
        let outcome = self.outcomes.recv().await.expect("this session holds a sender");
        self.take(outcome)
    }

    /// Waits as a client does that was told to: then it says the same again, unless a piece has arrived meanwhile.
    async fn wait_a_while(&mut self, wait: &mut Option<Duration>, report: Report) -> Result<Report, Surprise> {
        self.check_fetches()?;
        let now = wait.unwrap_or_else(|| Duration::from_millis(fastrand::u64(WAIT_MS)));
        *wait = Some((now * 2).min(WAIT_MAX));
        tokio::select! {
            outcome = self.outcomes.recv() => self.take(outcome.expect("this session holds a sender")),
            () = tokio::time::sleep(now) => Ok(report),
        }
    }

    fn take(&mut self, (piece, outcome): Outcome) -> Result<Report, Surprise> {
        self.in_flight.remove(&piece.number);
        let Err(why) = outcome else {
            self.done.insert(piece.number);
            let count =
                if piece.is_from_supernode() { &mut self.transfers.from_supernode } else { &mut self.transfers.from_peers };
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
        let (src, dst) = self.spellings();
        let goodbye = format!("/peer/task?{src}={}&{dst}=&range=&result=501&status=702&taskId={}", self.client.cid, self.task);
        let answer = self.control.get(&goodbye).await?;
        if answer.code != 200 {
            return Err(Surprise::answer(&goodbye, &answer));
        }
        Ok((content, self.transfers))
    }

    /// Puts the content together and compares it with what 600 says of it.
    async fn check_content(&self, asked: &str, answer: &Answer) -> Result<Bytes, Surprise> {
        let slots = self.client.shelf().slots();
        let wrong = |why: String| Surprise::new(format!("{why}, but {asked} was answered {answer}"));
        if let Some(missing) = (0..).zip(slots.keys()).find_map(|(expected, piece)| (expected != *piece).then_some(expected)) {
            return Err(wrong(format!("piece {missing} is missing")));
        }
        let (mut content, mut cached_length) = (BytesMut::new(), 0);
        for slot in slots.values() {
            content.extend_from_slice(&pieces::unwrap(slot, self.piece_size).map_err(&wrong)?);
            cached_length += slot.len() as u64;
        }
        let content = content.freeze();
        let hashing = content.clone();
        let md5 = tokio::task::spawn_blocking(move || pieces::md5_hex(&hashing)).await.expect("hashing does not panic");
        if answer.data["md5"] != md5 || answer.data["fileLength"] != cached_length {
            return Err(wrong(format!("{} bytes in {cached_length} wrapped ones have the md5 {md5}", content.len())));
        }
        Ok(content)
    }
}

/// One piece on its way from a server to the shelf.
struct Fetch {
    client: Arc<Client>,
    control: Arc<Control>,
    piece: Piece,
    /// How to report it as written.
    written: String,
    finished: mpsc::UnboundedSender<Outcome>,
}

impl Fetch {
    /// Fetches, hands the outcome to the main loop, then writes and reports that beside it, in no certain order.
    async fn run(self) -> Result<(), Surprise> {
        let Self { client, control, piece, written, finished } = self;
        let fetched = piece.fetch(client.link_bytes_per_s).await;
        let number = piece.number;
        // A session that has given up does not listen any more.
        let _ = finished.send((piece, fetched.as_ref().map(|_| ()).map_err(Clone::clone)));
        let Ok(slot) = fetched else { return Ok(()) };
        client.shelf().put(number, slot);
        let answer = control.report_written(&written).await?;
        let expected = match client.dialect {
            Dialect::Go => 611,
            Dialect::Documented => 200,
        };
        if answer.code != expected {
            return Err(Surprise::answer(&written, &answer));
        }
        client.lock_acknowledged().servable.insert(number);
        Ok(())
    }
}
