//! What published clients decode, type by type: a field of another type, or `null`, is an error as it is to them.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Shorter ids of servers panic clients of 1.0.x, which cut them. Characters.
const SERVER_ID_MIN: usize = 25;

/// An answer with what is in it.
#[derive(Debug, Deserialize)]
pub struct Envelope<T> {
    pub code: i64,
    #[serde(default)]
    pub msg: String,
    pub data: T,
}

/// An answer of which only the code matters.
#[derive(Debug, Deserialize)]
pub struct Plain {
    pub code: i64,
    #[serde(default)]
    pub msg: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    pub task_id: String,
    pub file_length: i64,
    pub piece_size: i32,
    pub cdn_source: String,
    pub as_seed: bool,
    #[serde(rename = "seedTaskID")]
    pub seed_task_id: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Piece {
    pub range: String,
    pub piece_num: u32,
    pub piece_size: i32,
    pub piece_md5: String,
    pub cid: String,
    pub peer_ip: String,
    pub peer_port: u16,
    pub path: String,
    pub down_link: i32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finished {
    pub md5: String,
    pub file_length: i64,
}

/// What `/peer/task` was answered.
#[derive(Debug)]
pub enum Told {
    Finished(Finished),
    Pieces(Vec<Piece>),
    Wait,
}

pub fn decode<T: DeserializeOwned>(asked: &str, body: &[u8]) -> T {
    serde_json::from_slice(body)
        .unwrap_or_else(|error| panic!("{asked}: {error}, which a client cannot decode: {}", String::from_utf8_lossy(body)))
}

pub fn decode_told(asked: &str, body: &[u8]) -> Told {
    match decode::<Plain>(asked, body).code {
        600 => Told::Finished(decode::<Envelope<Finished>>(asked, body).data),
        601 => {
            let pieces = decode::<Envelope<Vec<Piece>>>(asked, body).data;
            for piece in &pieces {
                piece.check(asked);
            }
            Told::Pieces(pieces)
        }
        602 => Told::Wait,
        code => panic!("{asked}: {code} drives a client away: {}", String::from_utf8_lossy(body)),
    }
}

impl Piece {
    /// Whether another client serves it, and not the supernode.
    pub fn is_from_client(&self) -> bool {
        !self.cid.starts_with("cdnnode:")
    }

    fn check(&self, asked: &str) {
        let (start, size) = (i64::from(self.piece_num) * i64::from(self.piece_size), i64::from(self.piece_size));
        assert_eq!(self.range, format!("{start}-{}", start + size - 1), "{asked}: {self:?}");
        let (md5, length) =
            self.piece_md5.split_once(':').unwrap_or_else(|| panic!("{asked}: a pieceMd5 has two parts: {self:?}"));
        assert!(md5.len() == 32 && length.parse::<u32>().is_ok(), "{asked}: {self:?}");
        assert!(self.cid.len() >= SERVER_ID_MIN, "{asked}: a client cuts the cid, which is too short: {self:?}");
        assert!(self.peer_ip.parse::<std::net::Ipv4Addr>().is_ok(), "{asked}: clients dial IPv4 only: {self:?}");
        assert!(self.peer_port > 0 && self.path.starts_with('/'), "{asked}: {self:?}");
        assert!(self.down_link > 0, "{asked}: a downLink of 0 means 10 MiB/s: {self:?}");
    }
}
