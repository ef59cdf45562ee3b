//! What is stored, row by row, without secrets: what `dump` prints.

use serde::{Deserialize, Serialize};

use crate::domain::task::redacted_url;
use crate::domain::{CdnPattern, ClientState, PieceSet, SourceState, TaskId};
use crate::store::{Store, StoreError, TaskRows};

/// One line of a dump. Header values, certificates and the query values of URLs are never in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Row {
    #[serde(rename_all = "camelCase")]
    Task {
        task: String,
        url: String,
        task_url: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        md5: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        identifier: Option<String>,
        /// Names only.
        header_names: Vec<String>,
        state: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Bytes of the source; `null` while unknown.
        length: Option<u64>,
        piece_size: u32,
        pieces: Option<u32>,
        pieces_stored: usize,
        clients: usize,
        generation: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        source_md5: Option<String>,
        /// `source` where clients fetch from there and nothing is kept here.
        #[serde(skip_serializing_if = "Option::is_none")]
        cdn_source: Option<String>,
    },
    #[serde(rename_all = "camelCase")]
    Piece {
        task: String,
        piece: u32,
        piece_md5: String,
        stored: bool,
    },
    #[serde(rename_all = "camelCase")]
    Client {
        task: String,
        client: String,
        state: String,
        path: String,
        gone: bool,
        serve_errors: u8,
        download_errors: u8,
        generation: u32,
    },
    Progress {
        task: String,
        client: String,
        held: Vec<u32>,
        servable: Vec<u32>,
    },
    #[serde(rename_all = "camelCase")]
    Peer {
        client: String,
        ip: String,
        port: u16,
        host_name: String,
        version: String,
    },
}

/// Hands every stored row to `each`, tasks first with what belongs to them, then the peers; of one task alone if named.
/// Ends early when `each` says so by returning `false`.
pub fn walk(store: &Store, only: Option<&TaskId>, each: &mut dyn FnMut(Row) -> bool) -> Result<(), StoreError> {
    let ids = match only {
        Some(id) => vec![*id],
        None => store.task_ids()?,
    };
    for id in &ids {
        let Some(rows) = store.task(id)? else { continue };
        let clients: Vec<_> = rows.clients.iter().map(|client| client.id.clone()).collect();
        if !rows_of(rows).all(&mut *each) {
            return Ok(());
        }
        if only.is_some() {
            for client in clients {
                if let Some(peer) = store.peer(&client)?
                    && !each(peer_row(peer))
                {
                    return Ok(());
                }
            }
        }
    }
    if only.is_none() {
        for peer in store.peers()? {
            if !each(peer_row(peer?)) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn peer_row(peer: crate::domain::Peer) -> Row {
    Row::Peer {
        client: peer.id.to_string(),
        ip: peer.ip.to_string(),
        port: peer.port,
        host_name: peer.host_name,
        version: peer.version,
    }
}

fn rows_of(rows: TaskRows) -> impl Iterator<Item = Row> {
    let task = rows.spec.id.to_string();
    let numbers = |set: &PieceSet| set.iter().map(|piece| piece.0).collect();
    let head = task_row(&rows);
    let (of_pieces, of_clients, of_progress) = (task.clone(), task.clone(), task);
    let pieces = rows.pieces.into_iter().map(move |(piece, digest, stored)| Row::Piece {
        task: of_pieces.clone(),
        piece: piece.0,
        piece_md5: digest.to_string(),
        stored,
    });
    let clients = rows.clients.into_iter().map(move |client| Row::Client {
        task: of_clients.clone(),
        client: client.id.to_string(),
        state: client_state(client.state).into(),
        path: client.path.to_string(),
        gone: client.gone,
        serve_errors: client.serve_errors,
        download_errors: client.download_errors,
        generation: client.generation.0,
    });
    let progress = rows.progress.into_iter().map(move |(client, progress)| Row::Progress {
        task: of_progress.clone(),
        client: client.to_string(),
        held: numbers(&progress.held),
        servable: numbers(&progress.servable),
    });
    std::iter::once(head).chain(pieces).chain(clients).chain(progress)
}

fn task_row(rows: &TaskRows) -> Row {
    let (reason, source_md5) = match &rows.status.state {
        SourceState::Waiting | SourceState::Running => (None, None),
        SourceState::Success { md5, .. } => (None, md5.map(|md5| md5.to_string())),
        SourceState::Failed(failure) => (Some(failure.reason.clone()), None),
    };
    Row::Task {
        task: rows.spec.id.to_string(),
        url: redacted_url(&rows.spec.raw_url),
        task_url: redacted_url(&rows.spec.task_url),
        md5: rows.spec.md5.clone(),
        identifier: rows.spec.identifier.clone(),
        header_names: rows.spec.headers.iter().map(|(name, _)| name.clone()).collect(),
        state: source_state(&rows.status.state).into(),
        reason,
        length: rows.status.length,
        piece_size: rows.status.piece_size.bytes(),
        pieces: rows.status.piece_count(),
        pieces_stored: rows.pieces.iter().filter(|(_, _, stored)| *stored).count(),
        clients: rows.clients.len(),
        generation: rows.status.generation.0,
        source_md5,
        cdn_source: match rows.status.pattern {
            CdnPattern::Local => None,
            pattern @ CdnPattern::Source => Some(cdn_source(pattern).to_owned()),
        },
    }
}

pub const fn client_state(state: ClientState) -> &'static str {
    match state {
        ClientState::Waiting => "WAITING",
        ClientState::Running => "RUNNING",
        ClientState::Success => "SUCCESS",
        ClientState::Fail => "FAIL",
    }
}

/// Whom clients fetch from what no peer has, by the published names.
pub const fn cdn_source(pattern: CdnPattern) -> &'static str {
    match pattern {
        CdnPattern::Local => "supernode",
        CdnPattern::Source => "source",
    }
}

/// A source's state by the published names.
pub const fn source_state(state: &SourceState) -> &'static str {
    match state {
        SourceState::Waiting => "WAITING",
        SourceState::Running => "RUNNING",
        SourceState::Success { .. } => "SUCCESS",
        SourceState::Failed(_) => "FAILED",
    }
}
