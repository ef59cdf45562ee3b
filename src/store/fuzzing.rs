//! Properties of records and keys, for the fuzz targets.

use super::records::{ClientV1, PeerV1, PieceV1, ProgressV1, Record, SourceV2, TaskV2};
use super::schema::{parse_client, parse_piece, parse_progress, piece_key, progress_key, split_task};
use crate::domain::{Client, ClientId, Peer, PieceSet, TaskId, TaskSpec, TaskStatus};

/// The first byte chooses a kind of row. What is read of one is written as the bytes that were read, also by way of the
/// domain's values; and bytes that are none are refused without a panic or a large allocation.
pub fn record(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let task = TaskId::from_bytes([7; 32]);
    let client = ClientId::parse("c");
    let Ok(client) = client else { return };
    match kind % 8 {
        0 => by_way_of::<SourceV2, TaskSpec>(bytes, |record| Some(record.into_domain(task))),
        1 => by_way_of::<TaskV2, TaskStatus>(bytes, |record| TaskStatus::try_from(record).ok()),
        2 => by_way_of::<PeerV1, Peer>(bytes, |record| Some(record.into_domain(client))),
        3 => by_way_of::<ClientV1, Client>(bytes, |record| Some(record.into_domain(task, client))),
        4 => {
            if let Some(record) = read_back::<PieceV1>(bytes) {
                let digest = record.digest();
                assert_eq!(PieceV1::new(&digest, record.stored()).encode().ok().as_deref(), Some(bytes));
            }
        }
        5 => {
            if let Some(record) = read_back::<ProgressV1>(bytes) {
                let mut set = PieceSet::default();
                set.insert_chunk(1, &record.held);
                assert!(set.chunk(0).is_empty());
                assert!(record.held.starts_with(&set.chunk(1)));
            }
        }
        6 => {
            let Some((task, rest)) = split_task(bytes) else { return };
            if let Some(piece) = parse_piece(rest) {
                assert_eq!(piece_key(&task, piece), bytes);
            }
            if let Some((client, chunk)) = parse_progress(rest) {
                assert_eq!(progress_key(&task, &client, chunk), bytes);
                // As large as a set can become: of the last piece that a file can have.
                PieceSet::default().insert_chunk(chunk, &[0xff; 64]);
            }
        }
        _ => {
            if let Some(client) = parse_client(bytes) {
                assert_eq!(client.as_str().as_bytes(), bytes);
            }
        }
    }
}

fn read_back<R: Record>(bytes: &[u8]) -> Option<R> {
    let record = R::decode(bytes).ok()?;
    assert_eq!(record.encode().ok().as_deref(), Some(bytes), "a record is written otherwise than it was read");
    Some(record)
}

/// Reads a record, makes it a value of the domain, and that a record again.
fn by_way_of<R, D>(bytes: &[u8], into_domain: impl FnOnce(R) -> Option<D>)
where
    R: Record + for<'d> From<&'d D>,
{
    if let Some(value) = read_back::<R>(bytes).and_then(into_domain) {
        assert_eq!(R::from(&value).encode().ok().as_deref(), Some(bytes), "a record changes on its way through the domain");
    }
}
