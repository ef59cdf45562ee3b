//! The ledger that the worker reports to: takes what it finds out into a task's swarm, makes that durable, and looks for
//! room before it is written.

use std::sync::Arc;

use parking_lot::MutexGuard;
use tokio::sync::SemaphorePermit;

use super::Cluster;
use super::cell::{Cell, Inner, Probe};
use super::fetch::{log_fetching, tell_finished};
use crate::cdn::{Fetched, Ledger, LedgerError};
use crate::domain::{Change, Md5Digest, PieceDigest, PieceNumber, PieceSize, SourceState, TaskStatus, Validators};
use crate::pieces::Slot;
use crate::store::{Room, Ticket};
use crate::swarm::{Effects, Event};

/// Room that is looked for at once, beyond what is needed, for a file that nobody knows to end. Bytes.
const ROOM_AHEAD_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Takes what the worker finds out into a task's swarm.
pub(super) struct CellLedger<'a> {
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) cell: &'a Arc<Cell>,
}

impl<'a> CellLedger<'a> {
    fn live(&self) -> Result<MutexGuard<'a, Inner>, LedgerError> {
        self.cell.live().map_err(|_| LedgerError::Stopping)
    }

    /// Room for a file of this length, held until it counts: two that fit one by one may not fit together. And room for a
    /// change of the database.
    async fn room_for(&self, length: Option<u64>) -> Result<(Option<SemaphorePermit<'a>>, Room), LedgerError> {
        let turn = self.cluster.make_room(cached_bytes(length)).await?;
        Ok((turn, self.cluster.committer.room().await.map_err(|_| LedgerError::Stopping)?))
    }

    fn tell(&self, inner: &mut Inner, event: Event, effects: &mut Effects) -> Result<(), LedgerError> {
        inner.swarm.handle(self.cluster.now(), event, effects).map_err(|_| LedgerError::Contradiction)
    }

    /// Takes in what the source's first answer says, and tells the size of the task's pieces.
    fn take_answer(
        &self,
        inner: &mut Inner,
        length: Option<u64>,
        validators: Validators,
        effects: &mut Effects,
    ) -> Result<PieceSize, LedgerError> {
        let before = inner.swarm.status();
        // A client that was told a piece size keeps it, whatever the length turns out to be.
        let piece_size = if inner.swarm.members() > 0 { before.piece_size } else { PieceSize::for_length(length) };
        let status = TaskStatus {
            generation: before.generation,
            pattern: before.pattern,
            piece_size,
            length,
            validators,
            state: SourceState::Running,
        };
        effects.changes.extend(inner.define());
        self.tell(inner, Event::SourceAnswered(status), effects)?;
        inner.put_off.clear();
        self.cell.probe.send_replace(Probe::Answered);
        Ok(piece_size)
    }

    /// Keeps the only piece of a small source in the database.
    fn keep(&self, inner: &mut Inner, slot: &Slot, effects: &mut Effects) -> Result<(), LedgerError> {
        let (piece, digest) = (PieceNumber(0), slot.digest());
        if inner.swarm.digest(piece).is_some_and(|known| known != digest) {
            return Err(LedgerError::Contradiction);
        }
        let (task, generation) = (self.cell.spec.id, inner.swarm.status().generation);
        effects.changes.push(Change::ContentKept { task, generation, slot: slot.bytes().into() });
        inner.has_come(digest.slot_len().into());
        self.tell(inner, Event::PieceStored { piece, digest }, effects)
    }
}

/// What a source of this length takes on the disk, as far as that is known.
fn cached_bytes(length: Option<u64>) -> u64 {
    let size = PieceSize::for_length(length);
    length.and_then(|length| Some(size.cached_length(length, size.piece_count(length)?))).unwrap_or_default()
}

async fn durable(ticket: Ticket) -> Result<(), LedgerError> {
    ticket.durable().await.map_err(|_| LedgerError::Stopping)
}

impl Ledger for CellLedger<'_> {
    fn authenticating(&self, under_way: bool) {
        self.cell.lock().authenticating = under_way;
    }

    async fn answered(&self, length: Option<u64>, validators: Validators) -> Result<PieceSize, LedgerError> {
        // It is taken all the same: what is announced need not come, and until it does there may be room.
        let outgrows_disk = self.cluster.check_room_on_disk(cached_bytes(length)).await.is_err();
        let (turn, room) = self.room_for(length).await?;
        let mut effects = Effects::default();
        let (piece_size, ticket) = {
            let mut inner = self.live()?;
            inner.outgrows_disk = outgrows_disk;
            let piece_size = self.take_answer(&mut inner, length, validators, &mut effects)?;
            (piece_size, inner.submit(room, &mut effects))
        };
        drop(turn);
        log_fetching(&self.cell.spec, length, 0);
        durable(ticket).await?;
        self.cluster.refusals.lock().forget(&self.cell.spec.id);
        Ok(piece_size)
    }

    async fn answered_whole(&self, content: &[u8], md5: Md5Digest, validators: Validators) -> Result<(), LedgerError> {
        let length = content.len() as u64;
        let fetched = Fetched { md5, length };
        let (turn, room) = self.room_for(Some(length)).await?;
        let mut effects = Effects::default();
        let ticket = {
            let mut inner = self.live()?;
            // They have done their service, so that they are never stored.
            inner.drop_headers(&mut effects);
            let piece_size = self.take_answer(&mut inner, Some(length), validators, &mut effects)?;
            self.keep(&mut inner, &Slot::wrap(piece_size, content), &mut effects)?;
            self.cluster.note_finished(&mut inner, fetched, &mut effects);
            inner.submit_content(room, &mut effects)
        };
        drop(turn);
        // Whoever is woken waits for the same ticket before it is answered.
        self.cell.wake(effects.openings);
        durable(ticket).await?;
        self.cluster.refusals.lock().forget(&self.cell.spec.id);
        tell_finished(&self.cell.spec, fetched);
        Ok(())
    }

    async fn storing(&self, bytes: usize) -> Result<(), LedgerError> {
        let bytes = bytes as u64;
        // A file that nobody knows to end counts as it is written, and a little before; any other counts as a whole.
        let (announced, held, ahead) = {
            let mut inner = self.cell.lock();
            if inner.is_measured() {
                return Ok(());
            }
            let stored = inner.swarm.stored_bytes();
            let held = stored + inner.writing_bytes;
            inner.writing_bytes += bytes;
            if inner.writing_bytes <= inner.coming_bytes {
                return Ok(());
            }
            // Room is looked for among all files: the larger this one has become, the less often.
            (inner.swarm.status().length, held, stored.clamp(bytes, ROOM_AHEAD_MAX_BYTES.max(bytes)))
        };
        let (_turn, room) = match self.cluster.make_room_to_grow(announced, held, ahead).await {
            Ok(turn) => (turn, ahead),
            Err(_) => (self.cluster.make_room_to_grow(announced, held, bytes).await?, bytes),
        };
        self.cell.lock().coming_bytes += room;
        Ok(())
    }

    fn settled(&self) {
        self.cell.lock().nothing_is_coming();
    }

    async fn stored(&self, piece: PieceNumber, digest: PieceDigest) -> Result<(), LedgerError> {
        let known = self.cell.lock().swarm.digest(piece);
        if known.is_some_and(|known| known != digest) {
            return Err(LedgerError::Contradiction);
        }
        self.cluster.record(self.cell, Event::PieceStored { piece, digest }).await
    }

    async fn stored_small(&self, slot: Slot) -> Result<(), LedgerError> {
        let room = self.cluster.committer.room().await.map_err(|_| LedgerError::Stopping)?;
        let mut effects = Effects::default();
        let ticket = {
            let mut inner = self.live()?;
            self.keep(&mut inner, &slot, &mut effects)?;
            inner.submit_content(room, &mut effects)
        };
        self.cell.wake(effects.openings);
        durable(ticket).await
    }

    async fn lost(&self, piece: PieceNumber) -> Result<(), LedgerError> {
        self.cluster.record(self.cell, Event::PieceLost { piece }).await
    }
}
