//! Whether rows are what they should be: each for itself, and with each other.

use super::records::{
    ClientV1, ContentV1, PeerV1, PieceV1, PinV1, PreheatChildV2, PreheatV1, ProgressV1, Record, RecordError, SourceV2, TaskV2,
};
use super::schema::{SCHEMA_VERSION, Table, parse_client, parse_piece, parse_preheat, parse_progress, split_task};
use super::{Store, StoreError};
use crate::domain::{ClientId, TaskId, TaskStatus};

/// A source's whole record under its task's id.
pub fn source(key: &[u8], value: &[u8]) -> Result<(), RecordError> {
    split_task(key).filter(|(_, rest)| rest.is_empty()).ok_or(RecordError::Key)?;
    SourceV2::decode(value).map(|_| ())
}

/// The same of a database that may be older than this program.
fn row_of_schema(schema: u32, table: Table, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
    if table == Table::Tasks && schema < SCHEMA_VERSION {
        split_task(key).filter(|(_, rest)| rest.is_empty()).ok_or(RecordError::Key)?;
        return TaskV2::decode_any(value).and_then(TaskStatus::try_from).map(|_| ());
    }
    if table == Table::Preheats && schema < SCHEMA_VERSION && matches!(parse_preheat(key), Some((_, true))) {
        return PreheatChildV2::decode_any(value).map(|_| ());
    }
    row(table, key, value)
}

/// A row as the tree has it; chunks of sources are no records by themselves.
pub fn row(table: Table, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
    let of_task = || split_task(key).map(|(_, rest)| rest).ok_or(RecordError::Key);
    match table {
        Table::Sources => match of_task()? {
            [_, _] => Ok(()),
            _ => Err(RecordError::Key),
        },
        Table::Tasks => match of_task()? {
            [] => TaskV2::decode(value).and_then(TaskStatus::try_from).map(|_| ()),
            _ => Err(RecordError::Key),
        },
        Table::Pieces => parse_piece(of_task()?).ok_or(RecordError::Key).and_then(|_| PieceV1::decode(value).map(|_| ())),
        Table::Peers => parse_client(key).ok_or(RecordError::Key).and_then(|_| PeerV1::decode(value).map(|_| ())),
        Table::Clients => parse_client(of_task()?).ok_or(RecordError::Key).and_then(|_| ClientV1::decode(value).map(|_| ())),
        Table::Progress => parse_progress(of_task()?).ok_or(RecordError::Key).and_then(|_| ProgressV1::decode(value).map(|_| ())),
        Table::Contents => match of_task()? {
            [] => ContentV1::decode(value).map(|_| ()),
            _ => Err(RecordError::Key),
        },
        Table::Pins => match of_task()? {
            [] => PinV1::decode(value).map(|_| ()),
            _ => Err(RecordError::Key),
        },
        Table::Preheats => match parse_preheat(key).ok_or(RecordError::Key)? {
            (_, true) => PreheatChildV2::decode(value).map(|_| ()),
            (id, false) => PreheatV1::decode(value).and_then(|record| record.into_domain(id)).map(|_| ()),
        },
    }
}

impl Store {
    /// Looks at every row of every tree. Tells how many there are, and in words what is wrong with which.
    pub fn check(&self) -> Result<(u64, Vec<String>), StoreError> {
        let (mut rows, mut wrong) = (0, Vec::new());
        let trees = self.trees()?;
        for table in Table::ALL {
            for entry in table.tree(&trees).iter() {
                let (key, value) = entry.map_err(StoreError::sled("read for a check"))?;
                rows += 1;
                let name = table.name();
                match row_of_schema(self.schema(), table, &key, &value) {
                    Err(error) => wrong.push(format!("a row of {name} cannot be read ({error}), key {}", hex::encode(&key))),
                    Ok(()) => wrong.extend(self.check_references(table, &key)?),
                }
            }
        }
        Ok((rows, wrong))
    }

    /// Whether what a sound row belongs to is there.
    fn check_references(&self, table: Table, key: &[u8]) -> Result<Option<String>, StoreError> {
        if table == Table::Preheats {
            return self.check_preheat(key);
        }
        let Some((task, rest)) = split_task(key).filter(|_| table != Table::Peers) else { return Ok(None) };
        let orphan = |what: String| Ok(Some(format!("{what} of the task {task}, which is not there")));
        let there = self.status(&task)?;
        match (table, there) {
            (Table::Tasks, _) => match self.source_record(&task)? {
                record if record.is_empty() => Ok(Some(format!("the task {task} does not say what it fetches"))),
                record => Ok(super::records::SourceV2::decode_any(&record)
                    .err()
                    .map(|error| format!("what the task {task} fetches cannot be read ({error})"))),
            },
            (Table::Pieces, Some(status)) => {
                let piece = parse_piece(rest).filter(|piece| status.piece_count().is_some_and(|count| piece.0 >= count));
                Ok(piece.map(|piece| format!("the task {task} has the piece {piece}, which is past its end")))
            }
            (Table::Progress, Some(_)) => {
                let client = parse_progress(rest).map(|(client, _)| client);
                self.check_client(&task, client)
            }
            (Table::Sources | Table::Clients | Table::Peers | Table::Preheats | Table::Contents | Table::Pins, Some(_)) => {
                Ok(None)
            }
            (Table::Sources, None) => orphan("there is a source".into()),
            (Table::Pieces, None) => orphan("there is a piece".into()),
            (Table::Clients, None) => orphan("there is a client".into()),
            (Table::Contents, None) => orphan("there is content".into()),
            (Table::Pins, None) => orphan("there is a pin".into()),
            (Table::Progress | Table::Peers | Table::Preheats, None) => orphan("there is progress".into()),
        }
    }

    fn check_preheat(&self, key: &[u8]) -> Result<Option<String>, StoreError> {
        let Some((id, true)) = parse_preheat(key) else { return Ok(None) };
        let there = self.trees()?.preheats.contains_key(id.as_bytes()).map_err(StoreError::sled("read for a check"))?;
        Ok((!there).then(|| format!("there is a child of the preheat {id}, which is not there")))
    }

    fn check_client(&self, task: &TaskId, client: Option<ClientId>) -> Result<Option<String>, StoreError> {
        let Some(client) = client else { return Ok(None) };
        let key = super::schema::client_key(task, &client);
        let there = self.trees()?.clients.contains_key(key).map_err(StoreError::sled("read for a check"))?;
        Ok((!there).then(|| format!("there is progress of the client {client} in the task {task}, which has no such client")))
    }
}
