//! A loss of power: of what a dead process had not synced, some is taken back.
//!
//! What may be lost is what POSIX lets be lost. Of a file whose last sync is over: its writes and truncations since then, in
//! order from the end, the last of what stays torn at a sector; or any of its pages. Of a directory: the last of its
//! changes since it was synced; a file's own sync does not save its name. `sync_file_range` saves nothing. Files and
//! directories lose independently of each other.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Faults, JOURNAL_BYTES_AT};

const SECTOR_BYTES: u64 = 512;
const PAGE_BYTES: u64 = 4096;
const HEAD_BYTES: usize = 64;

/// What was taken back, in words.
pub type Losses = Vec<String>;

#[derive(Clone, Debug)]
struct Entry {
    kind: u64,
    inode: u64,
    parent: u64,
    offset: u64,
    length: u64,
    size: u64,
    name: String,
    old: Vec<u8>,
}

const WRITE: u64 = 1;
const TRUNCATE: u64 = 2;
const SYNC: u64 = 3;
const CREATE: u64 = 4;
const MKDIR: u64 = 5;
const UNLINK: u64 = 6;
const RMDIR: u64 = 7;
const RENAME: u64 = 8;
const LINK: u64 = 9;

impl Faults {
    /// Loses power on a home whose processes are all dead. What is left is what a disk has, and the journal begins anew.
    pub fn lose_power(&self, random: &mut fastrand::Rng) -> Losses {
        let journal = self.journal.as_ref().expect("there is a journal");
        let entries = read(&journal.join("log"), self.number(JOURNAL_BYTES_AT));
        let mut disk = Disk { home: self.home.clone(), saved: journal.join("saved"), renumbered: HashMap::new() };
        let mut losses = disk.lose_contents(&entries, random);
        losses.extend(disk.lose_names(&entries, random));
        self.forget_unsynced();
        losses
    }

    /// Everything so far counts as synced.
    pub fn forget_unsynced(&self) {
        let journal = self.journal.as_ref().expect("there is a journal");
        std::fs::remove_dir_all(journal.join("saved")).expect("removed");
        std::fs::create_dir(journal.join("saved")).expect("made");
        self.set(JOURNAL_BYTES_AT, 0);
    }
}

fn read(log: &Path, bytes: u64) -> Vec<Entry> {
    let log = std::fs::read(log).unwrap_or_default();
    let mut rest = &log[..usize::try_from(bytes).expect("it fits")];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_at(HEAD_BYTES);
        let numbers: Vec<u64> = head.chunks(8).map(|bytes| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))).collect();
        let [kind, inode, parent, offset, length, size, name_bytes, old_bytes] = numbers[..] else { unreachable!() };
        let (name, after) = after.split_at(usize::try_from(name_bytes).expect("short"));
        let (old, after) = after.split_at(usize::try_from(old_bytes).expect("it fits"));
        let name = String::from_utf8(name.to_vec()).expect("names are UTF-8");
        entries.push(Entry { kind, inode, parent, offset, length, size, name, old: old.to_vec() });
        rest = after;
    }
    entries
}

struct Disk {
    home: PathBuf,
    saved: PathBuf,
    /// Directories that were removed and are back have other inodes.
    renumbered: HashMap<u64, u64>,
}

impl Disk {
    /// Where every inode is now: in the home, or kept aside.
    fn places(&self) -> HashMap<u64, PathBuf> {
        let mut places = HashMap::new();
        let mut directories = vec![self.saved.clone(), self.home.clone()];
        while let Some(directory) = directories.pop() {
            let metadata = directory.metadata().expect("there");
            places.insert(metadata.ino(), directory.clone());
            for entry in std::fs::read_dir(&directory).expect("readable") {
                let path = entry.expect("readable").path();
                let metadata = path.symlink_metadata().expect("there");
                if metadata.is_dir() {
                    directories.push(path);
                } else {
                    places.insert(metadata.ino(), path);
                }
            }
        }
        places
    }

    fn lose_contents(&self, entries: &[Entry], random: &mut fastrand::Rng) -> Losses {
        let mut unsynced: BTreeMap<u64, Vec<&Entry>> = BTreeMap::new();
        for entry in entries {
            match entry.kind {
                WRITE | TRUNCATE => unsynced.entry(entry.inode).or_default().push(entry),
                SYNC => drop(unsynced.remove(&entry.inode)),
                _ => {}
            }
        }
        let places = self.places();
        let mut losses = Vec::new();
        for (inode, changes) in unsynced {
            // One that is nowhere was never to be found again.
            let Some(path) = places.get(&inode) else { continue };
            let file = OpenOptions::new().read(true).write(true).open(path).expect("writable");
            let lost = lose_changes(&file, &changes, random);
            losses.push(format!("{}: {lost} of {} changes", self.name(path), changes.len()));
        }
        losses
    }

    fn lose_names(&mut self, entries: &[Entry], random: &mut fastrand::Rng) -> Losses {
        let mut unsynced: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (number, entry) in entries.iter().enumerate() {
            match entry.kind {
                CREATE | MKDIR | UNLINK | RMDIR | RENAME | LINK => unsynced.entry(entry.parent).or_default().push(number),
                SYNC => drop(unsynced.remove(&entry.inode)),
                _ => {}
            }
            // Nothing here moves from one directory to another.
            assert!(entry.kind != RENAME || entry.offset == entry.parent, "{entry:?} crosses directories");
        }
        let mut lost: Vec<usize> = Vec::new();
        for changes in unsynced.values() {
            let kept = match random.u8(..4) {
                0 => changes.len(),
                1 => 0,
                _ => random.usize(..=changes.len()),
            };
            lost.extend(&changes[kept..]);
        }
        lost.sort_unstable_by(|a, b| b.cmp(a));
        lost.into_iter().filter_map(|number| self.undo_name(&entries[number])).collect()
    }

    fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.home).unwrap_or(path).display().to_string()
    }

    fn inode(path: &Path) -> Option<u64> {
        path.symlink_metadata().ok().map(|metadata| metadata.ino())
    }

    fn undo_name(&mut self, entry: &Entry) -> Option<String> {
        let places = self.places();
        let place = |inode: u64| places.get(self.renumbered.get(&inode).unwrap_or(&inode));
        // A directory that is gone took all with it; a file may have its number now.
        let directory = place(entry.parent).filter(|path| path.is_dir())?.clone();
        let inode = *self.renumbered.get(&entry.inode).unwrap_or(&entry.inode);
        let path = directory.join(&entry.name);
        let there = Self::inode(&path);
        match entry.kind {
            CREATE | LINK if there == Some(inode) => {
                std::fs::remove_file(&path).expect("removed");
                Some(format!("{} was never made", self.name(&path)))
            }
            MKDIR if there == Some(inode) => {
                std::fs::remove_dir_all(&path).expect("removed");
                Some(format!("the directory {} was never made", self.name(&path)))
            }
            UNLINK if there.is_none() => {
                std::fs::hard_link(self.saved.join(entry.inode.to_string()), &path).expect("linked");
                Some(format!("{} was never removed", self.name(&path)))
            }
            RMDIR if there.is_none() => {
                std::fs::create_dir(&path).expect("made");
                self.renumbered.insert(entry.inode, Self::inode(&path).expect("just made"));
                Some(format!("the directory {} was never removed", self.name(&path)))
            }
            RENAME => {
                let (old, new) = entry.name.split_once('/').expect("two names");
                let (old, new) = (directory.join(old), directory.join(new));
                if Self::inode(&new) != Some(inode) {
                    return None;
                }
                std::fs::rename(&new, &old).expect("renamed");
                if entry.length != 0 {
                    std::fs::hard_link(self.saved.join(entry.length.to_string()), &new).expect("linked");
                }
                Some(format!("{} was never renamed to {}", self.name(&old), self.name(&new)))
            }
            _ => None,
        }
    }
}

/// Takes back some changes of one file. Tells how many wholly.
fn lose_changes(file: &File, changes: &[&Entry], random: &mut fastrand::Rng) -> usize {
    match random.u8(..5) {
        0 => 0,
        1 => undo(file, changes, 0, random),
        2 | 3 => undo(file, changes, random.usize(..=changes.len()), random),
        _ => lose_pages(file, changes, random),
    }
}

/// Takes back all changes but the first so many, and of the one after those all but its first sectors.
fn undo(file: &File, changes: &[&Entry], kept: usize, random: &mut fastrand::Rng) -> usize {
    let torn = changes.get(kept).filter(|change| kept > 0 && change.kind == WRITE).map(|change| {
        let sectors = change.length.div_ceil(SECTOR_BYTES);
        // Sectors of the disk, not of the write.
        let end = (change.offset / SECTOR_BYTES + random.u64(..=sectors)) * SECTOR_BYTES;
        (change.offset..change.offset + change.length, end)
    });
    let mut whole = content(file);
    let mut stays = Vec::new();
    for (number, change) in changes.iter().enumerate().skip(kept).rev() {
        if number == kept
            && let Some((range, end)) = &torn
        {
            let end = index((*end).clamp(range.start, range.end)).min(whole.len());
            stays = whole[index(range.start).min(end)..end].to_vec();
        }
        take_back(&mut whole, change);
    }
    if let Some((range, _)) = torn.filter(|_| !stays.is_empty()) {
        put(&mut whole, range.start, &stays);
    }
    replace(file, &whole);
    changes.len() - kept
}

/// Of the pages that differ from what was synced, each is as it was or as it is, and the file ends somewhere between.
fn lose_pages(file: &File, changes: &[&Entry], random: &mut fastrand::Rng) -> usize {
    let now = content(file);
    let mut before = now.clone();
    changes.iter().rev().for_each(|change| take_back(&mut before, change));
    let (shorter, longer) = (before.len().min(now.len()), before.len().max(now.len()));
    let length = match random.u8(..3) {
        0 => before.len(),
        1 => now.len(),
        _ => random.usize(shorter..=longer),
    };
    let mut left = Vec::with_capacity(length);
    while left.len() < length {
        let (start, end) = (left.len(), length.min(left.len() + index(PAGE_BYTES)));
        let source = if random.bool() { &before } else { &now };
        left.extend((start..end).map(|byte| source.get(byte).copied().unwrap_or(0)));
    }
    replace(file, &left);
    changes.len()
}

fn take_back(content: &mut Vec<u8>, change: &Entry) {
    put(content, change.offset, &change.old);
    content.resize(index(change.size), 0);
}

fn put(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (index(offset), index(offset) + bytes.len());
    if bytes.is_empty() {
        return;
    }
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

fn content(file: &File) -> Vec<u8> {
    let length = file.metadata().expect("there").len();
    let mut content = vec![0; index(length)];
    file.read_exact_at(&mut content, 0).expect("readable");
    content
}

fn replace(file: &File, content: &[u8]) {
    file.set_len(0).expect("truncated");
    file.write_all_at(content, 0).expect("written");
}

fn index(place: u64) -> usize {
    usize::try_from(place).expect("a test's file fits")
}
