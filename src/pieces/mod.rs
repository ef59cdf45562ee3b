//! The piece files: where the bytes of a task are, wrapped as clients get them.
//!
//! Owns the files below `<home>/pieces/`: one per task and generation, `<first 3 digits>/<task id>.<generation>`, a run of
//! slots as [`crate::domain::piece`] describes them. A slot counts only once it is whole and synced. The slot of a source
//! that is [`SMALL_CONTENT_MAX_BYTES`](crate::domain::piece::SMALL_CONTENT_MAX_BYTES) long at most has no file: a file of its own costs three syncs and an inode, so it
//! lies in the database ([`PieceBytes::Row`]).
//! Must not: decide what is served. Which pieces are here is what the store says, never what a file's length says.

mod slot;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::statvfs::statvfs;

use crate::domain::{Generation, PieceDigest, PieceNumber, PieceSize, TaskId};
pub use md5_pair::Md5;
pub use slot::{HEADER_BYTES, Slot, SlotPart, SlotWriter};

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
    /// Whether the disk has no room.
    pub fn is_want_of_room(&self) -> bool {
        is_want_of_room(&self.source)
    }

    /// What went wrong, without saying where: for clients, whom it does not concern how this machine is laid out.
    pub fn without_path(&self) -> String {
        match self.source.kind() {
            _ if self.is_want_of_room() => format!("the supernode has no room for this file: {}", self.source),
            // A limit of the process or of the file system, which no room ends.
            io::ErrorKind::FileTooLarge => format!("this file is larger than the supernode may make one: {}", self.source),
            _ => format!("the supernode cannot {}: {}", self.operation, self.source),
        }
    }
}

/// Whether the disk has no room, which may be made. A file that may not be so large wants none.
pub fn is_want_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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

    /// Every file below the directory. Links are not followed: what they lead to may be anybody's.
    pub fn files(&self) -> Result<Vec<PathBuf>, PieceFileError> {
        let (mut files, mut directories) = (Vec::new(), vec![self.root.clone()]);
        while let Some(directory) = directories.pop() {
            let entries = match std::fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(failed("read the directory", &directory))?,
            };
            for entry in entries {
                let entry = entry.map_err(failed("read the directory", &directory))?;
                let kind = entry.file_type().map_err(failed("look at an entry of the directory", &directory))?;
                if kind.is_dir() {
                    directories.push(entry.path());
                } else if kind.is_file() {
                    files.push(entry.path());
                }
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
        let room = statvfs(&self.root).map_err(|error| failed("look at the room for", &self.root)(error.into()))?;
        Ok(room.blocks_available().saturating_mul(room.fragment_size()))
    }

    /// How long a task's file is; 0 where there is none.
    pub fn file_bytes(&self, task: &TaskId, generation: Generation) -> Result<u64, PieceFileError> {
        let path = self.path(task, generation);
        match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            found => Ok(found.map_err(failed("look at the piece file", &path))?.len()),
        }
    }

    /// Notes on a task's file when it was last used: lost with the machine, which costs nothing but an order.
    pub fn mark_used(&self, task: &TaskId, generation: Generation, at: SystemTime) -> Result<(), PieceFileError> {
        let path = self.path(task, generation);
        File::open(&path).and_then(|file| file.set_modified(at)).map_err(failed("mark the piece file", &path))
    }

    /// Cuts a task's file off behind so many pieces; one that would have none goes.
    pub fn trim(&self, task: &TaskId, generation: Generation, piece_size: PieceSize, pieces: u32) -> Result<(), PieceFileError> {
        if pieces == 0 {
            return self.remove(task, generation);
        }
        let path = self.path(task, generation);
        let end = piece_size.slot_start(PieceNumber(pieces));
        let cut = || {
            let file = OpenOptions::new().write(true).open(&path)?;
            if file.metadata()?.len() > end { file.set_len(end) } else { Ok(()) }
        };
        match cut() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("cut off the piece file", &path)(error)),
            _ => Ok(()),
        }
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
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), PieceFileError> {
        self.file.write_all_at(bytes, offset).map_err(failed("write a piece to the file", &self.path))
    }

    /// Returns once everything that was written is on the disk.
    pub fn sync(&self) -> Result<(), PieceFileError> {
        self.file.sync_data().map_err(failed("sync the piece file", &self.path))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), PieceFileError> {
        self.file.read_exact_at(buffer, offset).map_err(failed("read the piece file", &self.path))
    }

    fn length(&self) -> Result<u64, PieceFileError> {
        Ok(self.file.metadata().map_err(failed("look at the piece file", &self.path))?.len())
    }

    /// When it was last written, or marked as used.
    pub fn used(&self) -> Result<SystemTime, PieceFileError> {
        self.file.metadata().and_then(|metadata| metadata.modified()).map_err(failed("look at the piece file", &self.path))
    }
}

/// What is stored of one task and generation, to be read.
#[derive(Debug)]
pub enum PieceBytes {
    File(PieceFile),
    /// The only slot, of a small source.
    Row {
        slot: Vec<u8>,
        piece_size: PieceSize,
    },
}

impl PieceBytes {
    const fn piece_size(&self) -> PieceSize {
        match self {
            Self::File(file) => file.piece_size,
            Self::Row { piece_size, .. } => *piece_size,
        }
    }

    /// Fills the buffer from the bytes at this offset.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), PieceFileError> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Row { slot, .. } => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let part = slot.get(start..).and_then(|rest| rest.get(..buffer.len()));
                let part = part.ok_or_else(|| {
                    failed("read from the database", Path::new("contents"))(io::ErrorKind::UnexpectedEof.into())
                })?;
                buffer.copy_from_slice(part);
                Ok(())
            }
        }
    }

    /// How many there are.
    pub fn length(&self) -> Result<u64, PieceFileError> {
        match self {
            Self::File(file) => file.length(),
            Self::Row { slot, .. } => Ok(slot.len() as u64),
        }
    }

    /// Whether there are enough to hold this piece.
    pub fn reaches(&self, piece: PieceNumber, digest: &PieceDigest) -> Result<bool, PieceFileError> {
        Ok(self.length()? >= self.piece_size().slot_start(piece) + u64::from(digest.slot_len()))
    }

    /// Reads a piece back and checks it: `None` where its bytes are not those that were written. Bytes that the machine
    /// cannot read just now are an error, and may be as they were.
    pub fn read_verified(&self, piece: PieceNumber, digest: &PieceDigest) -> Result<Option<Slot>, PieceFileError> {
        Ok(self.read(piece, digest)?.filter(|slot| Md5::of(&slot.bytes) == digest.md5.0))
    }

    /// The same, and takes its content into the digest of the whole: in the same time, and only where it is as it was.
    pub fn verify_onto(&self, whole: &mut Md5, piece: PieceNumber, digest: &PieceDigest) -> Result<bool, PieceFileError> {
        let Some(slot) = self.read(piece, digest)? else { return Ok(false) };
        let (mut of_slot, mut with_it) = (Md5::new(), whole.clone());
        Md5::update_both((&mut of_slot, &slot.bytes), (&mut with_it, slot.content()));
        let sound = of_slot.digest() == digest.md5.0;
        if sound {
            *whole = with_it;
        }
        Ok(sound)
    }

    fn read(&self, piece: PieceNumber, digest: &PieceDigest) -> Result<Option<Slot>, PieceFileError> {
        if !self.reaches(piece, digest)? {
            return Ok(None);
        }
        let mut bytes = vec![0; digest.slot_len() as usize];
        match self.read_exact_at(&mut bytes, self.piece_size().slot_start(piece)) {
            // Somebody cut the file short since it was looked at.
            Err(error) if error.source.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok(Some(Slot { bytes }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::io::Errno;

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
                let content = &source[usize::try_from(size.content_start(piece)).expect("small")..];
                let slot = Slot::wrap(size, &content[..content.len().min(size.content_bytes() as usize)]);
                assert_eq!(slot.digest().to_string(), expected["pieceMd5"].as_str().expect("a digest"));
                assert_eq!(hex::encode(&slot.bytes()[..4]), expected["header"].as_str().expect("a header"));
                let range = size.slot_range(piece);
                assert_eq!(format!("{}-{}", range.start(), range.end()), expected["range"].as_str().expect("a range"));
            }
        }
    }

    /// Writes a slot in parts of so many bytes, of which so many are expected.
    fn write(file: &Arc<PieceFile>, piece: PieceNumber, content: &[u8], part_bytes: usize, expected: u32) -> PieceDigest {
        let mut writer = SlotWriter::new(file.clone(), file.piece_size, piece, expected);
        let parts = content.chunks(part_bytes).count();
        for (number, some) in content.chunks(part_bytes).enumerate() {
            let mut part = SlotPart::new((number == 0).then(|| file.piece_size.header(expected)), some.len());
            part.push(some);
            if number + 1 == parts {
                part.close();
            }
            writer.place(&part).expect("a file").write(&part).expect("written");
            writer.hash(&part, None);
        }
        writer.finish().expect("written")
    }

    #[test]
    fn a_damaged_piece_is_not_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let repository = Repository::open(dir.path().join("pieces")).expect("a new repository");
        let task = TaskId::derive("http://h/f", "", "");
        let file = Arc::new(repository.create(&task, Generation::FIRST, PieceSize::DEFAULT).expect("a new file"));
        let digest = write(&file, PieceNumber(1), b"abc", 2, 3);
        file.sync().expect("synced");
        let open = || {
            let file = repository.open_if_there(&task, Generation::FIRST, PieceSize::DEFAULT).expect("readable");
            PieceBytes::File(file.expect("there"))
        };
        let back = open().read_verified(PieceNumber(1), &digest).expect("readable").expect("as written");
        assert_eq!(back.content(), b"abc");
        assert!(open().read_verified(PieceNumber(2), &digest).expect("readable").is_none(), "past the end of the file");
        file.write_at(b"x", PieceSize::DEFAULT.slot_start(PieceNumber(1)) + 5).expect("damaged");
        assert!(open().read_verified(PieceNumber(1), &digest).expect("readable").is_none());
    }

    #[test]
    fn a_file_is_as_long_as_it_is_on_the_disk_whatever_of_it_is_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let repository = Repository::open(dir.path().join("pieces")).expect("a new repository");
        let task = TaskId::derive("http://h/f", "", "");
        let bytes = || repository.file_bytes(&task, Generation::FIRST).expect("it can be looked at");
        assert_eq!(bytes(), 0, "there is none");
        let file = repository.create(&task, Generation::FIRST, PieceSize::DEFAULT).expect("a new file");
        file.write_at(b"part of a piece", 0).expect("written");
        assert_eq!(bytes(), 15);
    }

    #[test]
    fn clients_are_told_what_ends_a_failure_and_not_where_the_file_is() {
        for (error, told) in [
            (Errno::NOSPC, "the supernode has no room for this file: "),
            (Errno::DQUOT, "the supernode has no room for this file: "),
            (Errno::FBIG, "this file is larger than the supernode may make one: "),
            (Errno::IO, "the supernode cannot write a piece to the file: "),
        ] {
            let error = failed("write a piece to the file", Path::new("/somewhere"))(error.into());
            let sentence = error.without_path();
            assert!(sentence.starts_with(told) && !sentence.contains("somewhere"), "{sentence}");
            assert_eq!(error.is_want_of_room(), told.contains("no room"), "{sentence}");
        }
    }

    #[test]
    fn a_slot_in_parts_is_the_slot_however_much_was_expected() {
        let dir = tempfile::tempdir().expect("a directory");
        let repository = Repository::open(dir.path().join("pieces")).expect("a new repository");
        let task = TaskId::derive("http://h/f", "", "");
        let size = PieceSize::DEFAULT;
        let content: Vec<u8> = (0..700_000).map(golden_byte).collect();
        let whole = Slot::wrap(size, &content);
        let file = Arc::new(repository.create(&task, Generation::FIRST, size).expect("a new file"));
        for expected in [700_000, size.content_bytes()] {
            assert_eq!(write(&file, PieceNumber(0), &content, 300_000, expected), whole.digest());
            let bytes = PieceBytes::File(repository.open_task(&task, Generation::FIRST, size).expect("there"));
            let back = bytes.read_verified(PieceNumber(0), &whole.digest()).expect("readable").expect("as written");
            assert_eq!(back.bytes(), whole.bytes());
        }
    }
}
