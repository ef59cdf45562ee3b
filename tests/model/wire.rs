//! Calls and answers: what is sent, and what every answer must be whoever asks.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use crate::harness::exchange::{self, Answer};

/// What did not hold, in a sentence.
pub type Checked<T = ()> = Result<T, String>;

/// Sends a call. Whatever it was: an answer came, it is an envelope, its status is no 5xx and its code not 500 or 603.
pub async fn call(api: SocketAddr, request: Request<Full<Bytes>>) -> Checked<Answer> {
    let asked = format!("{} {}", request.method(), request.uri());
    let response = exchange::call(api, request).await.map_err(|error| format!("{asked}: {error}"))?;
    let answer = response.answer().map_err(|error| format!("{asked}: {error}"))?;
    if answer.status != 200 || matches!(answer.code, 500 | 603) {
        return Err(format!("{asked} was answered {answer}"));
    }
    Ok(answer)
}

/// A query in the spelling of the reference or of `dfget`.
pub fn target(path: &str, documented: bool, pairs: &[(&str, &str)]) -> String {
    let spelt = |name: &str| match name {
        "srcCid" if documented => "srcCID".to_owned(),
        "dstCid" if documented => "dstCID".to_owned(),
        "cid" if documented => "cID".to_owned(),
        name => name.to_owned(),
    };
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{}={value}", spelt(name))).collect();
    format!("{path}?{}", pairs.join("&"))
}

/// A piece as it is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOut {
    pub piece: u32,
    pub server: String,
    pub address: (String, u64),
    pub path: String,
}

/// Reads the pieces of a 601 and checks what is the same for all clients: sizes, ranges, digests, the type of `downLink`.
pub fn read_pieces(answer: &Answer, documented: bool, digests: &[String], piece_size: u64) -> Checked<Vec<HandedOut>> {
    let pieces =
        answer.data.as_array().filter(|pieces| !pieces.is_empty()).ok_or_else(|| format!("601 without pieces: {answer}"))?;
    pieces
        .iter()
        .map(|piece| read_piece(piece, documented, digests, piece_size).ok_or_else(|| format!("wrong piece {piece}")))
        .collect()
}

fn read_piece(data: &Value, documented: bool, digests: &[String], piece_size: u64) -> Option<HandedOut> {
    let piece = u32::try_from(data["pieceNum"].as_u64()?).ok()?;
    let start = u64::from(piece) * piece_size;
    let right = data["pieceSize"].as_u64() == Some(piece_size)
        && data["range"] == format!("{start}-{}", start + piece_size - 1)
        && data["pieceMd5"].as_str() == Some(digests.get(piece as usize)?)
        && if documented { data["downLink"] == "20480" } else { data["downLink"] == 20480 };
    let text = |name: &str| data[name].as_str().map(str::to_owned);
    right.then_some(HandedOut {
        piece,
        server: text("cid")?,
        address: (text("peerIp")?, data["peerPort"].as_u64()?),
        path: text("path")?,
    })
}

impl HandedOut {
    /// The same piece from the same server. The supernode is itself under whatever name the client reaches it by now.
    pub fn is_again(&self, earlier: &Self) -> bool {
        self == earlier || (self.piece == earlier.piece && is_seed(&self.server) && is_seed(&earlier.server))
    }
}

/// Whether the supernode itself is the server.
pub fn is_seed(server: &str) -> bool {
    server.starts_with("cdnnode:")
}

/// Fails with what was expected unless the code is one of these.
pub fn expect_code(answer: &Answer, allowed: &[i64], of: &str) -> Checked {
    if allowed.contains(&answer.code) { Ok(()) } else { Err(format!("{of}: expected one of {allowed:?}, got {answer}")) }
}
