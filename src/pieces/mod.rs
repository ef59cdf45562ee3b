//! The piece files: where the bytes of a task are, wrapped as clients get them.
//!
//! Owns the files below `<home>/pieces/`: one per task and generation, `<first 3 digits>/<task id>.<generation>`, a run of
//! slots as [`crate::domain::piece`] describes them. Each write is a whole slot, and it counts only once it is synced.
//! Must not: decide what is served. Which pieces are here is what the store says, never what a file's length says.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use md5::{Digest, Md5};

use crate::domain::piece::{TAIL, WRAPPING_BYTES};
use crate::domain::{Generation, Md5Digest, PieceDigest, PieceNumber, PieceSize, TaskId};

/// Bytes of header before a piece's content.
const HEADER_BYTES: usize = 4;

/// Why a piece file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}", path = path.display())]
pub struct PieceFileError {
    pub operation: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl PieceFileError {
    /// What went wrong, without saying where: for clients, whom it does not concern how this machine is laid out.
    pub fn without_path(&self) -> String {
        format!("the supernode cannot {}: {}", self.operation, self.source)
    }
}

/// The directory of all piece files.
#[derive(Debug)]
pub struct Repository {
    root: PathBuf,
}

impl Repository {
    /// Uses this directory, which is made if it is not there.
    pub fn open(root: PathBuf) -> Result<Self, PieceFileError> {
        private_directory(&root).map_err(failed("create the directory", &root))?;
        if let Some(parent) = root.parent() {
            sync_directory(parent)?;
        }
        Ok(Self { root })
    }

    /// Uses this directory as it is, for looking at what is there.
    pub const fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Every file below the directory.
    pub fn files(&self) -> Result<Vec<PathBuf>, PieceFileError> {
        let (mut files, mut directories) = (Vec::new(), vec![self.root.clone()]);
        while let Some(directory) = directories.pop() {
            let entries = match std::fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(failed("read the directory", &directory))?,
            };
            for entry in entries {
                let path = entry.map_err(failed("read the directory", &directory))?.path();
                if path.is_dir() { directories.push(path) } else { files.push(path) }
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// The file of a task's generation.
    pub fn path(&self, task: &TaskId, generation: Generation) -> PathBuf {
        let task = task.to_string();
        // The id is 64 hexadecimal digits by construction, so no part of it climbs out of the directory.
        self.root.join(&task[..3]).join(format!("{task}.{generation}"))
    }

    /// Opens a task's file for writing; a new one is there for good before this returns.
    pub fn create(&self, task: &TaskId, generation: Generation, piece_size: PieceSize) -> Result<PieceFile, PieceFileError> {
        let path = self.path(task, generation);
        let directory = path.parent().unwrap_or(&self.root);
        private_directory(directory).map_err(failed("create the directory", directory))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(failed("create the piece file", &path))?;
        // Sync the directories too: a file whose name was not synced may be gone after a power loss.
        for directory in [directory, &self.root] {
            sync_directory(directory)?;
        }
        Ok(PieceFile { file, path, piece_size })
    }

    /// Opens a task's file for reading.
    pub fn open_task(&self, task: &TaskId, generation: Generation, piece_size: PieceSize) -> Result<PieceFile, PieceFileError> {
        let path = self.path(task, generation);
        let file = File::open(&path).map_err(failed("open the piece file", &path))?;
        Ok(PieceFile { file, path, piece_size })
    }

    /// The same; `None` where there is no such file. Any other failure is the machine's, and says nothing of the file.
    pub fn open_if_there(
        &self,
        task: &TaskId,
        generation: Generation,
        piece_size: PieceSize,
    ) -> Result<Option<PieceFile>, PieceFileError> {
        match self.open_task(task, generation, piece_size) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Bytes that the disk of the directory has left for us.
    pub fn free_bytes(&self) -> Result<u64, PieceFileError> {
        let room = rustix::fs::statvfs(&self.root).map_err(|error| failed("look at the room for", &self.root)(error.into()))?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }

    /// Notes on a task's file when it was last used: lost with the machine, which costs nothing but an order.
    pub fn mark_used(&self, task: &TaskId, generation: Generation, at: SystemTime) -> Result<(), PieceFileError> {
        let path = self.path(task, generation);
        File::open(&path).and_then(|file| file.set_modified(at)).map_err(failed("mark the piece file", &path))
    }

    /// Removes the file of a generation that is over, if there is one.
    pub fn remove(&self, task: &TaskId, generation: Generation) -> Result<(), PieceFileError> {
        let path = self.path(task, generation);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove the piece file", &path)(error)),
            _ => Ok(()),
        }
    }
}

fn sync_directory(path: &Path) -> Result<(), PieceFileError> {
    File::open(path).and_then(|opened| opened.sync_all()).map_err(failed("sync the directory", path))
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> PieceFileError + 'a {
    move |source| PieceFileError { operation, path: path.to_owned(), source }
}

/// The file of one task and generation.
#[derive(Debug)]
pub struct PieceFile {
    file: File,
    path: PathBuf,
    piece_size: PieceSize,
}

impl PieceFile {
    /// Writes a piece into its slot. It may be served once [`Self::sync`] has returned, not before.
    pub fn write(&self, piece: PieceNumber, slot: &Slot) -> Result<(), PieceFileError> {
        self.file
            .write_all_at(slot.bytes(), self.piece_size.slot_start(piece))
            .map_err(failed("write a piece to the file", &self.path))
    }

    pub fn sync(&self) -> Result<(), PieceFileError> {
        self.file.sync_data().map_err(failed("sync the piece file", &self.path))
    }

    /// Fills the buffer from the file's bytes at this offset.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), PieceFileError> {
        self.file.read_exact_at(buffer, offset).map_err(failed("read the piece file", &self.path))
    }

    /// The file's length in bytes.
    pub fn length(&self) -> Result<u64, PieceFileError> {
        Ok(self.file.metadata().map_err(failed("look at the piece file", &self.path))?.len())
    }

    /// When it was last written, or marked as used.
    pub fn used(&self) -> Result<SystemTime, PieceFileError> {
        self.file.metadata().and_then(|metadata| metadata.modified()).map_err(failed("look at the piece file", &self.path))
    }

    /// Whether the file is long enough to hold this piece.
    pub fn reaches(&self, piece: PieceNumber, digest: &PieceDigest) -> Result<bool, PieceFileError> {
        Ok(self.length()? >= self.piece_size.slot_start(piece) + u64::from(digest.slot_len()))
    }

    /// Reads a piece back and checks it: `None` where its bytes are not those that were written. Bytes that the machine
    /// cannot read just now are an error, and may be as they were.
    pub fn read_verified(&self, piece: PieceNumber, digest: &PieceDigest) -> Result<Option<Slot>, PieceFileError> {
        if !self.reaches(piece, digest)? {
            return Ok(None);
        }
        let mut bytes = vec![0; digest.slot_len() as usize];
        match self.read_exact_at(&mut bytes, self.piece_size.slot_start(piece)) {
            // Somebody cut the file short since it was looked at.
            Err(error) if error.source.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok((Md5Digest(Md5::digest(&bytes).into()) == digest.md5).then_some(Slot { bytes }))
    }
}

/// A complete slot: header, content and tail.
#[derive(Debug)]
pub struct Slot {
    bytes: Vec<u8>,
}

impl Slot {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of the source in it.
    pub fn content(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..self.bytes.len() - 1]
    }

    pub fn digest(&self) -> PieceDigest {
        let content_len = u32::try_from(self.content().len()).unwrap_or(u32::MAX);
        PieceDigest { md5: Md5Digest(Md5::digest(&self.bytes).into()), content_len }
    }
}

/// A slot that is being filled from the source.
#[derive(Debug)]
pub struct SlotBuilder {
    bytes: Vec<u8>,
    piece_size: PieceSize,
}

impl SlotBuilder {
    /// An empty slot with memory for this much content, at most a full slot's.
    pub fn new(piece_size: PieceSize, expected_content: u64) -> Self {
        let content = u32::try_from(expected_content).unwrap_or(u32::MAX).min(piece_size.content_bytes());
        let mut bytes = Vec::with_capacity(content as usize + WRAPPING_BYTES as usize);
        bytes.resize(HEADER_BYTES, 0);
        Self { bytes, piece_size }
    }

    /// How much content still fits.
    pub fn free(&self) -> usize {
        self.piece_size.content_bytes() as usize - self.content_len()
    }

    pub fn content_len(&self) -> usize {
        self.bytes.len() - HEADER_BYTES
    }

    /// Adds content, of which no more than [`Self::free`] bytes are taken; tells how many.
    pub fn fill(&mut self, content: &[u8]) -> usize {
        let taken = content.len().min(self.free());
        self.bytes.extend_from_slice(&content[..taken]);
        taken
    }

    /// Wraps what is there.
    pub fn finish(mut self) -> Slot {
        let content_len = u32::try_from(self.content_len()).unwrap_or(u32::MAX);
        self.bytes[..HEADER_BYTES].copy_from_slice(&self.piece_size.header(content_len));
        self.bytes.push(TAIL);
        Slot { bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte i of the golden sources.
    fn golden_byte(i: u64) -> u8 {
        ((31 * i + i / 251) & 255) as u8
    }

    #[test]
    fn the_golden_layouts_hold() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/piece_layout.json")).expect("the vectors are JSON");
        for case in vectors.as_array().expect("a list of cases") {
            let length = case["sourceLength"].as_u64().expect("a length");
            let size = PieceSize::for_length(Some(length));
            assert_eq!(u64::from(size.bytes()), case["pieceSize"]);
            let count = size.piece_count(length).expect("few pieces");
            assert_eq!(u64::from(count), case["pieceTotal"]);
            assert_eq!(size.cached_length(length, count), case["cachedLength"]);
            let source: Vec<u8> = (0..length).map(golden_byte).collect();
            for (number, expected) in (0..).zip(case["pieces"].as_array().expect("a list of pieces")) {
                let piece = PieceNumber(number);
                let mut builder = SlotBuilder::new(size, length);
                builder.fill(&source[usize::try_from(size.content_start(piece)).expect("small")..]);
                let slot = builder.finish();
                assert_eq!(slot.digest().to_string(), expected["pieceMd5"].as_str().expect("a digest"));
                assert_eq!(hex::encode(&slot.bytes()[..4]), expected["header"].as_str().expect("a header"));
                let range = size.slot_range(piece);
                assert_eq!(format!("{}-{}", range.start(), range.end()), expected["range"].as_str().expect("a range"));
            }
        }
    }

    #[test]
    fn a_damaged_piece_is_not_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let repository = Repository::open(dir.path().join("pieces")).expect("a new repository");
        let task = TaskId::derive("http://h/f", "", "");
        let file = repository.create(&task, Generation::FIRST, PieceSize::DEFAULT).expect("a new file");
        let mut builder = SlotBuilder::new(PieceSize::DEFAULT, 3);
        assert_eq!(builder.fill(b"abc"), 3);
        let slot = builder.finish();
        let digest = slot.digest();
        file.write(PieceNumber(1), &slot).expect("written");
        file.sync().expect("synced");
        let back = file.read_verified(PieceNumber(1), &digest).expect("readable").expect("as written");
        assert_eq!(back.content(), b"abc");
        assert!(file.read_verified(PieceNumber(2), &digest).expect("readable").is_none(), "past the end of the file");
        file.file.write_all_at(b"x", PieceSize::DEFAULT.slot_start(PieceNumber(1)) + 5).expect("damaged");
        assert!(file.read_verified(PieceNumber(1), &digest).expect("readable").is_none());
    }
}
