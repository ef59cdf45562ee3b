//! What a case is made of: a source, clients, and the steps that they take.

use std::sync::LazyLock;

use bytes::Bytes;
use http::StatusCode;
use proptest::prelude::*;

use crate::harness::origin::File;
use crate::harness::pieces::{PIECE_CONTENT, PIECE_SIZE, golden_content, md5_hex, piece_count, piece_md5};

/// Clients of a case. The last does not register by itself.
pub const CLIENTS: usize = 5;
const VERSIONS: [&str; CLIENTS] = ["1.0.6", "0.3.0", "0.4.3", "0.2.0", ""];
/// The third cannot serve.
const PORTS: [u16; CLIENTS] = [15001, 15002, 0, 15004, 15005];
/// Three pieces, the last of which is cheap to send.
const THREE_PIECES: u64 = 2 * PIECE_CONTENT + 1000;

/// What the source is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    Pieces,
    Small,
    Empty,
    UnknownLength,
    Missing,
    Denied,
}

/// A file's content and what the protocol makes of it.
#[derive(Debug)]
pub struct Content {
    pub bytes: Bytes,
    pub md5: String,
    /// As clients are told them, in order.
    pub digests: Vec<String>,
}

impl Content {
    fn new(length: u64) -> Self {
        let bytes = golden_content(usize::try_from(length).expect("small"));
        let digests = (0..piece_count(length)).map(|piece| {
            let start = u64::from(piece) * PIECE_CONTENT;
            let end = (start + PIECE_CONTENT).min(length);
            let content = &bytes[usize::try_from(start).expect("small")..usize::try_from(end).expect("small")];
            let head = u32::try_from((end - start) | (PIECE_SIZE << 4)).expect("32 bits").to_be_bytes();
            piece_md5(&[&head, content, &[0x7f]].concat())
        });
        Self { digests: digests.collect(), md5: md5_hex(&bytes), bytes }
    }

    pub fn pieces(&self) -> u32 {
        u32::try_from(self.digests.len()).expect("few")
    }

    /// The length of the wrapped file.
    pub fn cached_length(&self) -> u64 {
        self.bytes.len() as u64 + 5 * u64::from(self.pieces())
    }
}

static PIECES: LazyLock<Content> = LazyLock::new(|| Content::new(THREE_PIECES));
static SMALL: LazyLock<Content> = LazyLock::new(|| Content::new(1000));
static EMPTY: LazyLock<Content> = LazyLock::new(|| Content::new(0));

impl SourceKind {
    pub fn content(self) -> &'static Content {
        match self {
            Self::Pieces | Self::UnknownLength => &PIECES,
            Self::Small | Self::Missing | Self::Denied => &SMALL,
            Self::Empty => &EMPTY,
        }
    }

    pub fn file(self) -> File {
        let file = File::new(self.content().bytes.clone());
        match self {
            Self::Pieces | Self::Small | Self::Empty => file,
            Self::UnknownLength => File { chunked: true, ..file },
            Self::Missing => File::missing(),
            Self::Denied => File { status: Some(StatusCode::UNAUTHORIZED), ..file },
        }
    }

    /// The code of a registration that a source like this refuses.
    pub const fn refused_with(self) -> Option<i64> {
        match self {
            Self::Missing => Some(607),
            Self::Denied => Some(608),
            Self::Pieces | Self::Small | Self::Empty | Self::UnknownLength => None,
        }
    }
}

/// A client as it registers.
#[derive(Clone, Debug)]
pub struct Caller {
    pub cid: String,
    pub ip: String,
    pub port: u16,
    pub version: &'static str,
    pub path: String,
}

/// The clients of the case with this number: no two cases share an upload server.
pub fn callers(case: u64) -> Vec<Caller> {
    let caller = |number: usize| Caller {
        cid: format!("10.0.0.{number}-{case}-1795423513.832"),
        ip: format!("10.{}.{}.{number}", (case / 200) % 200, case % 200),
        port: PORTS[number],
        version: VERSIONS[number],
        path: format!("/peer/file/{case}-{number}"),
    };
    (0..CLIENTS).map(caller).collect()
}

/// Which piece a report speaks of.
#[derive(Clone, Copy, Debug)]
pub enum Pick {
    /// One that is on its way to the client, if any is; else as below.
    InFlight(usize),
    /// Any, also one past the end of the file.
    Any(u32),
}

/// What is wrong with a registration.
#[derive(Clone, Copy, Debug)]
pub enum Wrong {
    Port,
    Path,
    Ip,
    Cid,
    NoUrl,
    Url,
    Md5,
}

/// One call, or the end of the service.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Register {
        client: usize,
        moved: bool,
    },
    RegisterWrongly {
        client: usize,
        wrong: Wrong,
    },
    /// The same task id with an md5 where the others have an identifier.
    Conflict {
        client: usize,
    },
    Ask {
        client: usize,
        started: bool,
    },
    Held {
        client: usize,
        pick: Pick,
        result: u16,
    },
    Written {
        client: usize,
        pick: Pick,
    },
    Failed {
        client: usize,
        pick: Pick,
        names_server: bool,
    },
    ReportedBad {
        client: usize,
        pick: Pick,
    },
    Finished {
        client: usize,
        success: bool,
    },
    Down {
        client: usize,
    },
    Heartbeat {
        client: usize,
        elsewhere: bool,
    },
    Network,
    Metrics {
        client: usize,
    },
    UnknownTask {
        client: usize,
        call: usize,
    },
    Malformed {
        client: usize,
        call: usize,
    },
    Kill,
}

pub fn source_kinds() -> impl Strategy<Value = SourceKind> {
    prop_oneof![
        8 => Just(SourceKind::Pieces),
        1 => Just(SourceKind::Small),
        1 => Just(SourceKind::Empty),
        2 => Just(SourceKind::UnknownLength),
        1 => Just(SourceKind::Missing),
        1 => Just(SourceKind::Denied),
    ]
}

/// Steps with the weights of a lively swarm; kills only where they are wanted.
pub fn steps(kills: bool) -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    let pick = || prop_oneof![4 => (0..4_usize).prop_map(Pick::InFlight), 1 => (0..5_u32).prop_map(Pick::Any)];
    let wrong = prop_oneof![
        Just(Wrong::Port),
        Just(Wrong::Path),
        Just(Wrong::Ip),
        Just(Wrong::Cid),
        Just(Wrong::NoUrl),
        Just(Wrong::Url),
        Just(Wrong::Md5)
    ];
    prop_oneof![
        4 => (client.clone(), prop::bool::weighted(0.2)).prop_map(|(client, moved)| Step::Register { client, moved }),
        1 => (client.clone(), wrong).prop_map(|(client, wrong)| Step::RegisterWrongly { client, wrong }),
        1 => client.clone().prop_map(|client| Step::Conflict { client }),
        10 => (client.clone(), any::<bool>()).prop_map(|(client, started)| Step::Ask { client, started }),
        12 => (client.clone(), pick(), prop_oneof![4 => Just(503_u16), 1 => Just(501)])
            .prop_map(|(client, pick, result)| Step::Held { client, pick, result }),
        12 => (client.clone(), pick()).prop_map(|(client, pick)| Step::Written { client, pick }),
        4 => (client.clone(), pick(), any::<bool>())
            .prop_map(|(client, pick, names_server)| Step::Failed { client, pick, names_server }),
        1 => (client.clone(), pick()).prop_map(|(client, pick)| Step::ReportedBad { client, pick }),
        1 => (client.clone(), any::<bool>()).prop_map(|(client, success)| Step::Finished { client, success }),
        1 => client.clone().prop_map(|client| Step::Down { client }),
        1 => (client.clone(), any::<bool>()).prop_map(|(client, elsewhere)| Step::Heartbeat { client, elsewhere }),
        1 => Just(Step::Network),
        1 => client.clone().prop_map(|client| Step::Metrics { client }),
        1 => (client.clone(), 0..4_usize).prop_map(|(client, call)| Step::UnknownTask { client, call }),
        1 => (client, 0..6_usize).prop_map(|(client, call)| Step::Malformed { client, call }),
        1 => Just(if kills { Step::Kill } else { Step::Network }),
    ]
}
