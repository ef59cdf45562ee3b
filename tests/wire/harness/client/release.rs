//! What the clients of a release do, as far as a supernode can tell: each column of the sheet of clients as data.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The rules that a release follows.
#[derive(Debug)]
pub struct Release {
    /// What failures call it.
    pub name: &'static str,
    /// As it registers; the reference knows no version.
    pub version: Option<&'static str>,
    pub form: Form,
    pub spelling: Spelling,
    /// Tells `superNode` and an empty `pieceCont` with every question.
    pub names_supernode: bool,
    pub down_link: DownLink,
    /// The rate of a whole download. Bytes per second; `None` where `downLink` decides.
    pub own_rate_bytes_per_s: Option<u64>,
    pub registry_timeout: Duration,
    /// For a question with all its repetitions.
    pub task_timeout: Duration,
    /// How often a GET is sent whose connection breaks.
    pub attempts_max: u32,
    /// When it registers again after a 609, and how often; `None`: for ever.
    pub asks_again_after: Duration,
    pub asked_again_max: Option<u32>,
    pub wait: Wait,
    /// While more than two pieces run, a finished one is not reported: its 503 may never come.
    pub merges_reports: bool,
    /// How often a report of a written piece is sent that got another status than 200.
    pub written_attempts_max: u32,
    /// The codes that it takes for a yes.
    pub piece_accepted: i64,
    pub going_down_accepted: i64,
    /// Opens and closes a connection to a server before it fetches a piece there.
    pub checks_server: bool,
    /// Can be sent to the source for pieces (`cdnSource: source`).
    pub understands_source: bool,
    /// Tells of servers that have lost a piece or serve another (`piece/error`).
    pub accuses: bool,
    pub sends_metrics: bool,
    /// Says goodbye with a 702.
    pub tells_the_end: bool,
    /// What it does about a question without an answer that it understands, with one supernode in its list.
    pub gives_up: &'static str,
}

/// How a registration is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON, headers as a list of `K: V`.
    Json,
    /// A form, `headers=K: V` repeated.
    Repeated,
    /// A form as documented, `headers[K]=V`.
    Documented,
}

/// How client ids are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spelling {
    pub src: &'static str,
    pub dst: &'static str,
    pub own: &'static str,
}

/// What a release can read in `downLink`. None may be told 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownLink {
    Integer,
    Text,
    Either,
}

/// What it does after a 602.
#[derive(Debug)]
pub struct Wait {
    /// The first wait is a random one of these.
    pub first_ms: RangeInclusive<u64>,
    /// Each wait is twice the one before, up to this; `None`: each is as the first.
    pub doubles_up_to: Option<Duration>,
    /// Its own finished piece ends the wait.
    pub ends_early: bool,
}

const DFGET: Spelling = Spelling { src: "srcCid", dst: "dstCid", own: "cid" };
const DOCUMENTED: Spelling = Spelling { src: "srcCID", dst: "dstCID", own: "cID" };
const LONG_WAIT: Wait = Wait { first_ms: 600..=2000, doubles_up_to: None, ends_early: false };

impl Release {
    /// Every release family that is in the field.
    pub const PUBLISHED: [&'static Self; 4] = [&Self::PYTHON_0_2, &Self::GO_0_3_0, &Self::GO_0_4_3, &Self::GO_1_0_6];

    pub const PYTHON_0_2: Self = Self {
        name: "Python 0.2",
        version: Some("0.2.0"),
        form: Form::Repeated,
        names_supernode: true,
        down_link: DownLink::Either,
        task_timeout: Duration::from_secs(3),
        attempts_max: 3,
        asks_again_after: Duration::from_millis(2500),
        asked_again_max: None,
        gives_up: "registers at the next node, then leaves for the source",
        ..Self::GO_0_3_0
    };

    pub const GO_0_3_0: Self = Self {
        name: "Go 0.3.0",
        version: Some("0.3.0"),
        form: Form::Json,
        spelling: DFGET,
        names_supernode: false,
        down_link: DownLink::Integer,
        own_rate_bytes_per_s: None,
        registry_timeout: Duration::from_secs(5),
        task_timeout: Duration::from_secs(5),
        attempts_max: 5,
        asks_again_after: Duration::from_secs(1),
        asked_again_max: Some(3),
        wait: LONG_WAIT,
        merges_reports: false,
        written_attempts_max: 1,
        piece_accepted: 200,
        going_down_accepted: 200,
        checks_server: false,
        understands_source: false,
        accuses: false,
        sends_metrics: false,
        tells_the_end: false,
        gives_up: "panics",
    };

    pub const GO_0_4_3: Self = Self {
        name: "Go 0.4.3",
        version: Some("0.4.3"),
        piece_accepted: 611,
        going_down_accepted: 612,
        accuses: true,
        sends_metrics: true,
        gives_up: "leaves for the source",
        ..Self::GO_0_3_0
    };

    /// The last one that cannot be sent to the source.
    pub const GO_1_0_0: Self = Self { name: "Go 1.0.0", version: Some("1.0.0"), understands_source: false, ..Self::GO_1_0_6 };

    /// One that takes a 609 for an answer.
    pub const IMPATIENT: Self = Self { name: "Go 1.0.6, asking once", asked_again_max: Some(0), ..Self::GO_1_0_6 };

    pub const GO_1_0_6: Self = Self {
        name: "Go 1.0.6",
        version: Some("1.0.6"),
        own_rate_bytes_per_s: Some(20 * 1024 * 1024),
        wait: Wait { first_ms: 50..=100, doubles_up_to: Some(Duration::from_millis(800)), ends_early: true },
        merges_reports: true,
        written_attempts_max: 3,
        checks_server: true,
        understands_source: true,
        ..Self::GO_0_4_3
    };

    /// Whatever was written from the published reference.
    pub const DOCUMENTED: Self = Self {
        name: "documented",
        version: None,
        form: Form::Documented,
        spelling: DOCUMENTED,
        down_link: DownLink::Text,
        tells_the_end: true,
        gives_up: "has nobody else to ask",
        ..Self::GO_0_3_0
    };

    /// How long it waits after a 602 that followed a wait of `last`.
    pub fn wait_after(&self, last: Option<Duration>) -> Duration {
        let first = || Duration::from_millis(fastrand::u64(self.wait.first_ms.clone()));
        match (last, self.wait.doubles_up_to) {
            (Some(last), Some(longest)) => (last * 2).min(longest),
            (None, _) | (_, None) => first(),
        }
    }
}
