//! Records as they are on disk: frozen structs, one version byte and a bincode payload each.
//!
//! A struct here never changes once released. A new shape is a new struct with a new version, a step in `migrations/`,
//! and a fixture of the old one. (bincode neither fills in missing fields nor minds trailing bytes by itself, so that a
//! changed struct would misread old bytes instead of refusing them.)

use bincode::Options;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::domain::{
    CdnPattern, ChildUrl, Client, ClientId, ClientState, Failure, Fault, Generation, Md5Digest, Modified, Peer, PieceDigest,
    PieceSize, Platform, Preheat, PreheatChild, PreheatId, PreheatKind, PreheatState, SourceState, TaskId, TaskSpec, TaskStatus,
    Validators,
};

/// No record is larger. Bytes. Registrations are limited to 1 MiB; what they bring is stored in less than twice that.
const RECORD_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("the record is empty")]
    Empty,
    #[error("the record has version {found}, expected {expected}")]
    Version { found: u8, expected: u8 },
    #[error("the record's payload does not decode")]
    Payload(#[from] bincode::Error),
    #[error("the record's {field} is not valid")]
    Value { field: &'static str },
    #[error("the record's key is not valid")]
    Key,
}

/// A struct with a place on disk.
pub trait Record: Serialize + DeserializeOwned {
    const VERSION: u8;

    fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let mut bytes = vec![Self::VERSION];
        options().serialize_into(&mut bytes, self)?;
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (&found, payload) = bytes.split_first().ok_or(RecordError::Empty)?;
        if found != Self::VERSION {
            return Err(RecordError::Version { found, expected: Self::VERSION });
        }
        Ok(options().deserialize(payload)?)
    }
}

/// Fixed-width integers, and trailing bytes are an error.
fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(RECORD_MAX_BYTES)
}

#[derive(Serialize, Deserialize)]
pub struct SourceV2 {
    raw_url: String,
    task_url: String,
    md5: Option<String>,
    identifier: Option<String>,
    headers: Vec<(String, String)>,
    insecure: bool,
    root_cas: Vec<Vec<u8>>,
    headers_left_out: bool,
}

impl Record for SourceV2 {
    const VERSION: u8 = 2;
}

impl From<&TaskSpec> for SourceV2 {
    fn from(spec: &TaskSpec) -> Self {
        Self {
            raw_url: spec.raw_url.clone(),
            task_url: spec.task_url.clone(),
            md5: spec.md5.clone(),
            identifier: spec.identifier.clone(),
            headers: spec.headers.clone(),
            insecure: spec.insecure,
            root_cas: spec.root_cas.clone(),
            headers_left_out: spec.headers_left_out,
        }
    }
}

impl SourceV2 {
    pub fn into_domain(self, id: TaskId) -> TaskSpec {
        let Self { raw_url, task_url, md5, identifier, headers, insecure, root_cas, headers_left_out } = self;
        TaskSpec { id, raw_url, task_url, md5, identifier, headers, insecure, root_cas, headers_left_out }
    }

    /// Reads version 1 as well, which has no last field: for looking at a database before it is migrated.
    pub fn decode_any(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes.split_first() {
            Some((1, payload)) => Self::decode(&[&[Self::VERSION], payload, &[0]].concat()),
            _ => Self::decode(bytes),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub struct TaskV2 {
    generation: u32,
    piece_size: u32,
    length: Option<u64>,
    etag: Option<String>,
    /// A weak one is marked as a weak `ETag` is.
    last_modified: Option<String>,
    state: SourceStateV2,
    pattern: CdnPatternV1,
}

/// Before a date that does not tell a content from every other.
const WEAK: &str = "W/";

/// The last field of a task, which version 1 does not have.
#[derive(Serialize, Deserialize)]
enum CdnPatternV1 {
    Local,
    Source,
}

#[derive(Serialize, Deserialize)]
enum SourceStateV2 {
    Waiting,
    Running,
    Success { md5: [u8; 16], length: u64 },
    FailedAtSource { discard: bool, reason: String },
    FailedHere { discard: bool, reason: String },
    AtSource { length: u64 },
}

impl Record for TaskV2 {
    const VERSION: u8 = 2;
}

impl From<&TaskStatus> for TaskV2 {
    fn from(status: &TaskStatus) -> Self {
        Self {
            generation: status.generation.0,
            piece_size: status.piece_size.bytes(),
            length: status.length,
            etag: status.validators.etag.clone(),
            last_modified: status.validators.last_modified.as_ref().map(|modified| match modified.is_strong {
                true => modified.date.clone(),
                false => format!("{WEAK}{}", modified.date),
            }),
            state: match &status.state {
                SourceState::Waiting => SourceStateV2::Waiting,
                SourceState::Running => SourceStateV2::Running,
                SourceState::Success { md5: Some(md5), length } => SourceStateV2::Success { md5: md5.0, length: *length },
                SourceState::Success { md5: None, length } => SourceStateV2::AtSource { length: *length },
                SourceState::Failed(Failure { fault, discard, reason }) => {
                    let (discard, reason) = (*discard, reason.clone());
                    match fault {
                        Fault::Source => SourceStateV2::FailedAtSource { discard, reason },
                        Fault::Supernode => SourceStateV2::FailedHere { discard, reason },
                    }
                }
            },
            pattern: match status.pattern {
                CdnPattern::Local => CdnPatternV1::Local,
                CdnPattern::Source => CdnPatternV1::Source,
            },
        }
    }
}

impl TaskV2 {
    /// Reads version 1 as well, which has no last field: for looking at a database before it is migrated.
    pub fn decode_any(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes.split_first() {
            Some((1, payload)) => Self::decode(&[&[Self::VERSION], payload, &[0; 4]].concat()),
            _ => Self::decode(bytes),
        }
    }
}

impl TryFrom<TaskV2> for TaskStatus {
    type Error = RecordError;

    fn try_from(record: TaskV2) -> Result<Self, RecordError> {
        let failed = |fault, discard, reason| SourceState::Failed(Failure { fault, discard, reason });
        Ok(Self {
            generation: Generation(record.generation),
            pattern: match record.pattern {
                CdnPatternV1::Local => CdnPattern::Local,
                CdnPatternV1::Source => CdnPattern::Source,
            },
            piece_size: PieceSize::new(record.piece_size).map_err(|_| RecordError::Value { field: "piece size" })?,
            length: record.length,
            validators: Validators {
                etag: record.etag,
                last_modified: record.last_modified.map(|date| match date.strip_prefix(WEAK) {
                    Some(date) => Modified { date: date.to_owned(), is_strong: false },
                    None => Modified { date, is_strong: true },
                }),
            },
            state: match record.state {
                SourceStateV2::Waiting => SourceState::Waiting,
                SourceStateV2::Running => SourceState::Running,
                SourceStateV2::Success { md5, length } => SourceState::Success { md5: Some(Md5Digest(md5)), length },
                SourceStateV2::AtSource { length } => SourceState::Success { md5: None, length },
                SourceStateV2::FailedAtSource { discard, reason } => failed(Fault::Source, discard, reason),
                SourceStateV2::FailedHere { discard, reason } => failed(Fault::Supernode, discard, reason),
            },
        })
    }
}

#[derive(Serialize, Deserialize)]
pub struct PieceV1 {
    md5: [u8; 16],
    content_len: u32,
    stored: bool,
}

impl Record for PieceV1 {
    const VERSION: u8 = 1;
}

impl PieceV1 {
    pub const fn new(digest: &PieceDigest, stored: bool) -> Self {
        Self { md5: digest.md5.0, content_len: digest.content_len, stored }
    }

    pub const fn digest(&self) -> PieceDigest {
        PieceDigest { md5: Md5Digest(self.md5), content_len: self.content_len }
    }

    pub const fn stored(&self) -> bool {
        self.stored
    }
}

/// There is one of a task that is pinned.
#[derive(Serialize, Deserialize)]
pub struct PinV1 {}

impl Record for PinV1 {
    const VERSION: u8 = 1;
}

/// A slot, wrapped as clients get it, and the generation of its task that it is of.
#[derive(Serialize, Deserialize)]
pub struct ContentV1 {
    pub generation: u32,
    pub slot: Vec<u8>,
}

impl Record for ContentV1 {
    const VERSION: u8 = 1;
}

#[derive(Serialize, Deserialize)]
pub struct PeerV1 {
    ip: std::net::IpAddr,
    port: u16,
    host_name: String,
    version: String,
    call_system: String,
    dfdaemon: bool,
    seed_host: String,
}

impl Record for PeerV1 {
    const VERSION: u8 = 1;
}

impl From<&Peer> for PeerV1 {
    fn from(peer: &Peer) -> Self {
        Self {
            ip: peer.ip,
            port: peer.port,
            host_name: peer.host_name.clone(),
            version: peer.version.clone(),
            call_system: peer.call_system.clone(),
            dfdaemon: peer.dfdaemon,
            seed_host: peer.seed_host.to_string(),
        }
    }
}

impl PeerV1 {
    pub fn into_domain(self, id: ClientId) -> Peer {
        let Self { ip, port, host_name, version, call_system, dfdaemon, seed_host } = self;
        Peer { id, ip, port, host_name, version, call_system, dfdaemon, seed_host: seed_host.into() }
    }
}

#[derive(Serialize, Deserialize)]
pub struct ClientV1 {
    ordinal: u32,
    generation: u32,
    state: ClientStateV1,
    path: String,
    gone: bool,
    serve_errors: u8,
    download_errors: u8,
}

#[derive(Serialize, Deserialize)]
enum ClientStateV1 {
    Waiting,
    Running,
    Success,
    Fail,
}

impl Record for ClientV1 {
    const VERSION: u8 = 1;
}

impl From<&Client> for ClientV1 {
    fn from(client: &Client) -> Self {
        Self {
            ordinal: client.ordinal,
            generation: client.generation.0,
            state: match client.state {
                ClientState::Waiting => ClientStateV1::Waiting,
                ClientState::Running => ClientStateV1::Running,
                ClientState::Success => ClientStateV1::Success,
                ClientState::Fail => ClientStateV1::Fail,
            },
            path: client.path.to_string(),
            gone: client.gone,
            serve_errors: client.serve_errors,
            download_errors: client.download_errors,
        }
    }
}

impl ClientV1 {
    pub fn into_domain(self, task: TaskId, id: ClientId) -> Client {
        let Self { ordinal, generation, state, path, gone, serve_errors, download_errors } = self;
        let state = match state {
            ClientStateV1::Waiting => ClientState::Waiting,
            ClientStateV1::Running => ClientState::Running,
            ClientStateV1::Success => ClientState::Success,
            ClientStateV1::Fail => ClientState::Fail,
        };
        Client {
            task,
            id,
            ordinal,
            generation: Generation(generation),
            state,
            path: path.into(),
            gone,
            serve_errors,
            download_errors,
        }
    }
}

/// Bits of one chunk of 512 pieces, little-endian, without trailing zero bytes.
#[derive(Serialize, Deserialize)]
pub struct ProgressV1 {
    pub held: Vec<u8>,
    pub servable: Vec<u8>,
}

impl Record for ProgressV1 {
    const VERSION: u8 = 1;
}

/// A preheat; what it fetches is a source like a task's.
#[derive(Serialize, Deserialize)]
pub struct PreheatV1 {
    source_id: [u8; 32],
    source: SourceV2,
    /// Empty for a file.
    platform: String,
    filter: Vec<String>,
    created_ms: u64,
    ended_ms: Option<u64>,
    state: PreheatStateV1,
}

#[derive(Serialize, Deserialize)]
enum PreheatStateV1 {
    Waiting,
    Running,
    Success,
    Failed(String),
}

impl Record for PreheatV1 {
    const VERSION: u8 = 1;
}

impl From<&Preheat> for PreheatV1 {
    fn from(preheat: &Preheat) -> Self {
        Self {
            source_id: *preheat.source.id.as_bytes(),
            source: SourceV2::from(&preheat.source),
            platform: match &preheat.kind {
                PreheatKind::File => String::new(),
                PreheatKind::Image { platform } => platform.to_string(),
            },
            filter: preheat.filter.clone(),
            created_ms: preheat.created_ms,
            ended_ms: preheat.ended_ms,
            state: match &preheat.state {
                PreheatState::Waiting => PreheatStateV1::Waiting,
                PreheatState::Running => PreheatStateV1::Running,
                PreheatState::Success => PreheatStateV1::Success,
                PreheatState::Failed(reason) => PreheatStateV1::Failed(reason.clone()),
            },
        }
    }
}

impl PreheatV1 {
    pub fn into_domain(self, id: PreheatId) -> Result<Preheat, RecordError> {
        let Self { source_id, source, platform, filter, created_ms, ended_ms, state } = self;
        let platform = match platform.as_str() {
            "" => PreheatKind::File,
            text => PreheatKind::Image { platform: Platform::parse(text).map_err(|_| RecordError::Value { field: "platform" })? },
        };
        let state = match state {
            PreheatStateV1::Waiting => PreheatState::Waiting,
            PreheatStateV1::Running => PreheatState::Running,
            PreheatStateV1::Success => PreheatState::Success,
            PreheatStateV1::Failed(reason) => PreheatState::Failed(reason),
        };
        let source = source.into_domain(TaskId::from_bytes(source_id));
        Ok(Preheat { id, kind: platform, source, filter, created_ms, ended_ms, state })
    }
}

#[derive(Serialize, Deserialize)]
pub struct PreheatChildV2 {
    task: [u8; 32],
    url: String,
    failure: Option<String>,
}

impl Record for PreheatChildV2 {
    const VERSION: u8 = 2;
}

impl PreheatChildV2 {
    /// Reads version 1 as well, which has no last field: for looking at a database before it is migrated.
    pub fn decode_any(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes.split_first() {
            Some((1, payload)) => Self::decode(&[&[Self::VERSION], payload, &[0]].concat()),
            _ => Self::decode(bytes),
        }
    }

    /// The task, which shares what it can with those before it of the same preheat.
    pub fn into_domain(self, before: &[PreheatChild]) -> PreheatChild {
        let Self { task, url, failure } = self;
        let failure = failure.map(|reason| PreheatChild::reason_of_any(before, &reason).unwrap_or_else(|| reason.into()));
        PreheatChild { task: TaskId::from_bytes(task), url: ChildUrl::beside(before.last(), &url), failure }
    }
}

impl From<&PreheatChild> for PreheatChildV2 {
    fn from(child: &PreheatChild) -> Self {
        let failure = child.failure.as_deref().map(str::to_owned);
        Self { task: *child.task.as_bytes(), url: child.url.to_string(), failure }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn tasks_of_a_preheat_that_failed_for_the_same_reason_share_it() {
        let mut children = Vec::new();
        for (url, failure) in [("http://h/a", Some("404")), ("http://h/b", None), ("http://h/c", Some("404"))] {
            let record = PreheatChildV2 { task: [1; 32], url: url.to_owned(), failure: failure.map(str::to_owned) };
            let record = PreheatChildV2::decode(&record.encode().expect("small")).expect("of this version");
            children.push(record.into_domain(&children));
            let told = children.last().map(|child| (child.url.to_string(), child.failure.as_deref()));
            assert_eq!(told, Some((url.to_owned(), failure)));
        }
        let [Some(first), None, Some(last)] = [0, 1, 2].map(|index| children[index].failure.clone()) else {
            panic!("{children:?}")
        };
        assert!(Arc::ptr_eq(&first, &last));
    }

    #[test]
    fn a_record_refuses_other_versions_missing_bytes_and_trailing_bytes() {
        let bytes = ProgressV1 { held: vec![3], servable: vec![1] }.encode().expect("it encodes");
        assert!(ProgressV1::decode(&bytes).is_ok());
        assert!(matches!(ProgressV1::decode(&[]), Err(RecordError::Empty)));
        assert!(matches!(ProgressV1::decode(&[2]), Err(RecordError::Version { found: 2, expected: 1 })));
        assert!(matches!(ProgressV1::decode(&bytes[..bytes.len() - 1]), Err(RecordError::Payload(_))));
        assert!(matches!(ProgressV1::decode(&[bytes.as_slice(), &[0]].concat()), Err(RecordError::Payload(_))));
    }

    fn task_bytes(status: &TaskStatus) -> Vec<u8> {
        TaskV2::from(status).encode().expect("it encodes")
    }

    #[test]
    fn a_task_of_schema_3_reads_as_one_whose_pieces_are_kept() {
        let success = SourceState::Success { md5: Some(Md5Digest([7; 16])), length: 3 };
        let status = TaskStatus { length: Some(3), state: success, ..TaskStatus::waiting(Generation(2), CdnPattern::Local) };
        let now = task_bytes(&status);
        let before = [&[1], &now[1..now.len() - 4]].concat();
        assert!(TaskV2::decode(&before).is_err());
        assert_eq!(TaskV2::decode_any(&before).and_then(TaskStatus::try_from).expect("it decodes"), status);
        let referred = TaskStatus { pattern: CdnPattern::Source, state: SourceState::Success { md5: None, length: 3 }, ..status };
        let read = TaskV2::decode_any(&task_bytes(&referred)).and_then(TaskStatus::try_from).expect("it decodes");
        assert_eq!(read, referred);
    }

    #[test]
    fn the_bytes_of_a_record_stay_what_they_are() {
        let bytes = ProgressV1 { held: vec![3], servable: vec![1] }.encode().expect("it encodes");
        assert_eq!(hex::encode(bytes), "01010000000000000003010000000000000001");
        let piece = PieceV1::new(&PieceDigest { md5: Md5Digest([7; 16]), content_len: 3 }, true);
        assert_eq!(hex::encode(piece.encode().expect("it encodes")), "01070707070707070707070707070707070300000001");
    }
}
