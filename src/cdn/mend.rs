//! Pieces whose bytes were lost, fetched again.

use std::sync::Arc;

use super::bodies::{Kind, Size};
use super::body::{Body, Ends, Part};
use super::cutter::{self, Written};
use super::patience::{Patience, attempts_after, why_again};
use super::places::Visit;
use super::{FetchError, Known, Ledger, Worker, blocking, wait_for_place};
use crate::domain::{Generation, PieceDigest, PieceNumber, PieceSize, TaskSpec};
use crate::origin::{self, OriginError};
use crate::pieces::{Slot, SlotWriter};

impl Worker {
    /// Fetches pieces again whose bytes were lost. Each must come out as it was.
    pub async fn mend(
        &self,
        spec: &TaskSpec,
        generation: Generation,
        known: &Known,
        mut lost: Vec<(PieceNumber, PieceDigest)>,
        ledger: &impl Ledger,
    ) -> Result<(), FetchError> {
        let visit = self.places.visit(spec);
        let mut attempts = 0;
        while !lost.is_empty() {
            let lost_before = lost.len();
            let Err(error) = self.mend_some(spec, &visit, generation, known, &mut lost, ledger).await else {
                attempts = 0;
                continue;
            };
            attempts = attempts_after(&error, attempts, lost.len() < lost_before);
            let Some(wait) = Patience::LATER.wait(&error, attempts) else { return Err(error) };
            tracing::info!(task = %spec.id, url = %crate::domain::task::redacted_url(&spec.raw_url), attempts, lost = lost.len(), wait_ms = wait.as_millis(), error = &error as &dyn std::error::Error, "{}, asking again for lost pieces", why_again(&error));
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// One request for the first lost pieces that lie together. A source that sends more than that, because it will not or
    /// must not be asked for a part, is read once for all that were lost. Those that were mended are taken from the list.
    async fn mend_some(
        &self,
        spec: &TaskSpec,
        visit: &Visit<'_>,
        generation: Generation,
        known: &Known,
        lost: &mut Vec<(PieceNumber, PieceDigest)>,
        ledger: &impl Ledger,
    ) -> Result<(), FetchError> {
        let neighbours = lost.windows(2).take_while(|pair| pair[1].0.0 == pair[0].0.0 + 1).count();
        let Some(run) = lost.get(..=neighbours) else { return Ok(()) };
        let first = known.piece_size.content_start(run[0].0);
        let run_end = end_of(known.piece_size, run);
        // An empty piece is all of an empty source.
        let part = if run_end == first { origin::Part::ALL } else { origin::Part { first, last: Some(run_end - 1) } };
        let kind = Kind { size: size_to_come(spec, known, lost), resumes: origin::has_parts(spec, &known.validators) };
        let asking = async || visit.ask(self.source.ask(spec, part, &known.validators, &|_| ())).await;
        let answer = asking().await?;
        let (taking, mut answer) = match visit.try_body(kind) {
            Some(place) => (place, answer),
            None => match wait_for_place(visit, kind, answer).await {
                (place, Some(answer)) => (place, answer),
                (place, None) => (place, asking().await?),
            },
        };
        let lengths_differ = matches!((known.length, answer.length), (Some(before), Some(now)) if before != now);
        if lengths_differ {
            return Err(OriginError::Changed.into());
        }
        let piece_size = known.piece_size;
        // What comes before a lost piece is passed over, and what comes after the last is not read.
        let end = if answer.to_the_end { end_of(piece_size, lost) } else { run_end };
        let mut body = Body::new(&mut answer, &self.flow, taking, piece_size, known.length);
        if known.is_small() {
            return mend_small(body, lost, ledger).await;
        }
        let (repository, task) = (self.repository.clone(), spec.id);
        let file = Arc::new(blocking(move || repository.create(&task, generation, piece_size)).await?);
        let mut mending = None;
        loop {
            let start = body.received;
            let Part { slot, ends } = body.next_part().await?;
            if let Some((piece, digest)) = lost.iter().find(|(piece, _)| piece_size.content_start(*piece) == start) {
                mending = Some((SlotWriter::new(file.clone(), piece_size, *piece, digest.content_len), *digest));
            }
            if let Some((writer, digest)) = mending.take() {
                let piece = writer.piece();
                match cutter::add(writer, slot, ends != Ends::Nothing, None).await? {
                    Written::Open(writer) => mending = Some((writer, digest)),
                    // What was written is of no piece, and is written again.
                    Written::Whole(found) if found != digest => return Err(OriginError::Changed.into()),
                    Written::Whole(_) => {
                        let file = file.clone();
                        blocking(move || file.sync()).await?;
                        ledger.stored(piece, digest).await?;
                        lost.retain(|(other, _)| *other != piece);
                    }
                }
            }
            if body.received >= end {
                return Ok(());
            }
            if ends == Ends::Body {
                return Err(FetchError::Length { sent: body.received, announced: end });
            }
        }
    }
}

async fn mend_small(
    mut body: Body<'_>,
    lost: &mut Vec<(PieceNumber, PieceDigest)>,
    ledger: &impl Ledger,
) -> Result<(), FetchError> {
    let slot = Slot::wrap(body.piece_size, body.next_part().await?.slot.content());
    if lost.iter().any(|(_, digest)| *digest != slot.digest()) {
        return Err(OriginError::Changed.into());
    }
    ledger.stored_small(slot).await?;
    lost.clear();
    Ok(())
}

/// How much a source is going to send for these pieces. One that cannot be asked for a part sends everything.
fn size_to_come(spec: &TaskSpec, known: &Known, lost: &[(PieceNumber, PieceDigest)]) -> Size {
    let left = lost.iter().map(|(_, digest)| u64::from(digest.content_len)).sum();
    Size::of(if origin::has_parts(spec, &known.validators) { Some(left) } else { known.length })
}

/// The byte of the source after the last of these pieces.
fn end_of(piece_size: PieceSize, pieces: &[(PieceNumber, PieceDigest)]) -> u64 {
    pieces.last().map_or(0, |(piece, digest)| piece_size.content_start(*piece) + u64::from(digest.content_len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Validators;

    #[test]
    fn a_lost_piece_of_what_can_only_be_fetched_whole_is_as_large_as_that() {
        let spec = |headers: &[(&str, &str)]| TaskSpec {
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..TaskSpec::of_url("http://h/f")
        };
        let (small, large) = (Some(1_000_000), Some(1_000_000_000));
        for (headers, etag, length, size) in [
            (&[][..], Some("\"a\""), large, Size::Small),
            (&[], Some("W/\"a\""), large, Size::Large),
            (&[], None, large, Size::Large),
            (&[], None, None, Size::Large),
            (&[], None, small, Size::Small),
            // Where that lies, only the source knows.
            (&[("Range", "bytes=-900000000")], Some("\"a\""), large, Size::Large),
        ] {
            let piece_size = PieceSize::for_length(length);
            let slot = Slot::wrap(piece_size, b"content");
            let validators = Validators { etag: etag.map(str::to_owned), last_modified: None };
            let known = Known { piece_size, length, validators };
            assert_eq!(size_to_come(&spec(headers), &known, &[(PieceNumber(0), slot.digest())]), size, "{headers:?} {known:?}");
        }
    }
}
