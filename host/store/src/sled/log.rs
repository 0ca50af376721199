//! Owns the log beside the tree: what it says of each group of batches, and how it is read after a
//! crash. Never writes to the tree.
//!
//! sled writes far more than a record for each that it takes, so a group goes into the log first, in
//! one piece, and into the tree with many others ([`merge`](super::merge)). The log is two files that
//! take turns, each begun anew when the tree has everything of it, or the other file has it once more:
//! what somebody was still at. A file is a row of frames:
//!
//! ```text
//! checksum (4)  number (8)  length (8)  changes of one group …
//! ```
//!
//! Numbers go up by one. The first frame that is not whole, or has another number, ends the row: what
//! follows is of an earlier turn, or was being written when the power went.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};

use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::record::{Kind, RecordKey, Revision};

use super::content::Change;
use super::layout::{kind_byte, kind_of};

/// How long a file grows before the other has its turn: some twenty thousand small records, which the tree
/// takes in about half a second, also at an opening after a crash; until then the processors are those'
/// who write. What is replaced before that never reaches the tree.
pub(super) const FILE_BYTES: u64 = 16 << 20;

/// How long a file grows where the tree has not yet taken what the other has: only then whoever writes
/// waits for the tree. Both files, and what memory has of their records, stay below some 80 MiB each.
pub(super) const FULL_BYTES: u64 = FILE_BYTES + FILE_BYTES / 2;

/// The two files.
pub(super) const FILES: [&str; 2] = ["log.0", "log.1"];

/// The length of a frame's checksum, number and length.
const HEADER: usize = 4 + 8 + 8;

const PUT: u8 = b'p';
const RENEW: u8 = b'r';
const DELETE: u8 = b'd';

/// A change of one record, as the log says it.
#[derive(Debug, PartialEq)]
pub(super) enum Logged {
    /// The record has this head and this body.
    Put { head: Bytes, body: Bytes },
    /// The lease of the record ends then, if it still has this revision.
    Renew { revision: Revision, lease_until: Timestamp },
    /// There is no record.
    Delete,
}

/// The frame of one group, while it is put together.
pub(super) struct Frame(Vec<u8>);

impl Frame {
    pub(super) fn new() -> Self {
        Self(vec![0; HEADER])
    }

    pub(super) fn put(&mut self, kind: Kind, key: &RecordKey, change: &Change) {
        let (head, body) = change.head_and_body();
        self.begin(PUT, kind, key);
        self.0.extend((head.len() as u64).to_be_bytes());
        self.0.extend_from_slice(head);
        self.0.extend((body.len() as u64).to_be_bytes());
        self.0.extend_from_slice(body);
    }

    pub(super) fn renew(&mut self, kind: Kind, key: &RecordKey, revision: Revision, lease_until: Timestamp) {
        self.begin(RENEW, kind, key);
        self.0.extend(revision.0.to_be_bytes());
        self.0.extend(lease_until.0.to_be_bytes());
    }

    pub(super) fn delete(&mut self, kind: Kind, key: &RecordKey) {
        self.begin(DELETE, kind, key);
    }

    fn begin(&mut self, what: u8, kind: Kind, key: &RecordKey) {
        let key = key.as_str().as_bytes();
        let length = u16::try_from(key.len()).expect("a record key has 512 bytes at most");
        self.0.extend([what, kind_byte(kind)]);
        self.0.extend(length.to_be_bytes());
        self.0.extend_from_slice(key);
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Returns the bytes to write for the frame of this number.
    pub(super) fn numbered(mut self, number: u64) -> Vec<u8> {
        let length = (self.0.len() - HEADER) as u64;
        self.0[4..12].copy_from_slice(&number.to_be_bytes());
        self.0[12..HEADER].copy_from_slice(&length.to_be_bytes());
        let checksum = crc32fast::hash(&self.0[4..]);
        self.0[..4].copy_from_slice(&checksum.to_be_bytes());
        self.0
    }
}

/// Reads the row of frames that a file begins with: their numbers and contents.
pub(super) fn frames(mut bytes: Bytes) -> Vec<(u64, Bytes)> {
    let mut frames: Vec<(u64, Bytes)> = Vec::new();
    while bytes.len() >= HEADER {
        let mut header = &bytes[..HEADER];
        let (checksum, number, length) = (header.get_u32(), header.get_u64(), header.get_u64());
        let Some(end) = usize::try_from(length).ok().and_then(|length| length.checked_add(HEADER)) else {
            break;
        };
        let follows = frames.last().is_none_or(|(last, _)| number == last + 1);
        if !follows || end > bytes.len() || crc32fast::hash(&bytes[4..end]) != checksum {
            break;
        }
        frames.push((number, bytes.slice(HEADER..end)));
        bytes.advance(end);
    }
    frames
}

/// Returns the changes of a frame, in order; none if they are not what [`Frame`] wrote.
pub(super) fn changes(mut content: Bytes) -> Option<Vec<(Kind, RecordKey, Logged)>> {
    let mut changes = Vec::new();
    while content.has_remaining() {
        let what = content.try_get_u8().ok()?;
        let kind = kind_of(content.try_get_u8().ok()?)?;
        let length = usize::from(content.try_get_u16().ok()?);
        let key = taken(&mut content, length)?;
        let key = RecordKey::parse(str::from_utf8(&key).ok()?).ok()?;
        let mut sized = || {
            let length = content.try_get_u64().ok()?;
            taken(&mut content, usize::try_from(length).ok()?)
        };
        let logged = match what {
            PUT => Logged::Put { head: sized()?, body: sized()? },
            RENEW => {
                let revision = Revision(content.try_get_u64().ok()?);
                Logged::Renew { revision, lease_until: Timestamp(content.try_get_u64().ok()?) }
            }
            DELETE => Logged::Delete,
            _ => return None,
        };
        changes.push((kind, key, logged));
    }
    Some(changes)
}

fn taken(content: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= content.len()).then(|| content.split_to(length))
}

/// How far a file that grows is filled with zeros ahead, at a time: a sync of what overwrites them need
/// not make the length of the file safe as well, and takes half as long.
pub(super) const AHEAD_BYTES: u64 = 256 << 10;

static ZEROS: [u8; AHEAD_BYTES as usize] = [0; AHEAD_BYTES as usize];

/// The two files of the log.
pub(super) struct Files([LogFile; 2]);

struct LogFile {
    file: File,
    /// How long it is; only one thread writes.
    bytes: AtomicU64,
}

impl Files {
    /// Opens the files, which are made if they are not there, so that they survive the loss of power.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let are_new = FILES.iter().any(|name| !dir.join(name).exists());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let [zero, one] = FILES.map(|name| options.open(dir.join(name)));
        let sized = |file: File| {
            let bytes = AtomicU64::new(file.metadata()?.len());
            io::Result::Ok(LogFile { file, bytes })
        };
        let files = Self([sized(zero?)?, sized(one?)?]);
        if are_new {
            File::open(dir)?.sync_all()?;
        }
        Ok(files)
    }

    /// Returns the frames that follow the one of this number.
    ///
    /// # Errors
    /// The inner one says why what is in the files is not what was written.
    pub(super) fn read(&self, merged: u64) -> io::Result<Result<Vec<(u64, Bytes)>, String>> {
        let mut found = Vec::new();
        for LogFile { file, bytes } in &self.0 {
            let length = usize::try_from(bytes.load(Ordering::Relaxed));
            let mut bytes = vec![0; length.map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, 0)?;
            found.extend(frames(bytes.into()).into_iter().filter(|(number, _)| *number > merged));
        }
        found.sort_unstable_by_key(|(number, _)| *number);
        for ((number, _), expected) in found.iter().zip(merged + 1..) {
            if *number != expected {
                return Ok(Err(format!("its log goes on with {number} where {expected} must be")));
            }
        }
        Ok(Ok(found))
    }

    pub(super) fn write(&self, file: usize, at: u64, bytes: &[u8]) -> io::Result<()> {
        let LogFile { file, bytes: length } = &self.0[file];
        file.write_all_at(bytes, at)?;
        let end = at + bytes.len() as u64;
        if end > length.load(Ordering::Relaxed) {
            let ahead = AHEAD_BYTES - end % AHEAD_BYTES;
            file.write_all_at(&ZEROS[..ahead as usize], end)?;
            length.store(end + ahead, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn sync(&self, file: usize) -> io::Result<()> {
        self.0[file].file.sync_data()
    }

    /// Gives the space of a file back that has grown beyond what its next turn needs; returns whether it had.
    pub(super) fn trim(&self, file: usize, most: u64) -> io::Result<bool> {
        let LogFile { file, bytes } = &self.0[file];
        let is_long = bytes.load(Ordering::Relaxed) > most;
        if is_long {
            file.set_len(0)?;
            bytes.store(0, Ordering::Relaxed);
        }
        Ok(is_long)
    }
}

/// Returns the error of a store whose log is not what was written.
pub(super) fn damaged(path: &Path, why: impl std::fmt::Display) -> StoreError {
    let message = format!(
        "the store `{}` is damaged ({why}): put a backup of the whole directory in its place, or move it \
         away to begin with an empty one",
        path.display()
    );
    StoreError::new(crate::error::StoreErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::{Facts, Record, Status};

    fn key(text: &str) -> RecordKey {
        RecordKey::parse(text).unwrap()
    }

    fn record(n: u64, body: usize) -> Record {
        Record {
            kind: Kind::Result,
            key: key(&format!("k{n}")),
            revision: Revision(n),
            facts: Facts::new(Status::Running, "acme".into(), Timestamp(n)),
            body: vec![n as u8; body].into(),
        }
    }

    /// A frame that puts, renews and deletes.
    fn frame(n: u64, body: usize) -> Vec<u8> {
        let mut frame = Frame::new();
        let record = record(n, body);
        frame.put(Kind::Result, &key(&format!("k{n}")), &Change::of(record));
        frame.renew(Kind::Execution, &key("e"), Revision(n), Timestamp(n + 1));
        frame.delete(Kind::Step, &key("s"));
        frame.numbered(n)
    }

    fn numbers(bytes: &[u8]) -> Vec<u64> {
        frames(Bytes::copy_from_slice(bytes)).into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        // Small, with its body in chunks, and with its head in them too.
        for (body, detail) in [(10, 0), (20_000, 0), (20_000, 9_000)] {
            let mut record = record(7, body);
            record.facts.detail = Some(Arc::from("x".repeat(detail)));
            let mut frame = Frame::new();
            frame.put(Kind::Result, &record.key, &Change::of(record.clone()));
            frame.renew(Kind::Execution, &key("e"), Revision(7), Timestamp(8));
            frame.delete(Kind::Step, &key("s"));
            let [(7, content)] = &frames(frame.numbered(7).into())[..] else { panic!("one frame") };
            let mut read = changes(content.clone()).unwrap().into_iter();
            let Some((Kind::Result, name, Logged::Put { head, body })) = read.next() else { panic!("a put") };
            let change = Change::logged(Kind::Result, &name, head, body).unwrap();
            assert_eq!(change.record(), &record);
            let renewal = Logged::Renew { revision: Revision(7), lease_until: Timestamp(8) };
            assert_eq!(read.next(), Some((Kind::Execution, key("e"), renewal)));
            assert_eq!(read.next(), Some((Kind::Step, key("s"), Logged::Delete)));
            assert_eq!(read.next(), None);
        }
    }

    #[test]
    fn what_is_torn_or_spoilt_ends_the_row_wherever_it_is() {
        let first = frame(1, 100);
        let both = [&first[..], &frame(2, 100)].concat();
        assert_eq!(numbers(&both), [1, 2]);
        for at in 0..both.len() {
            let whole: &[u64] = if at < first.len() { &[] } else { &[1] };
            assert_eq!(numbers(&both[..at]), whole, "torn at {at}");
            let mut spoilt = both.clone();
            spoilt[at] ^= 1;
            assert_eq!(numbers(&spoilt), whole, "spoilt at {at}");
        }
    }

    #[test]
    fn frames_of_an_earlier_turn_are_not_read() {
        let earlier = [frame(1, 100), frame(2, 100), frame(3, 100)].concat();
        let later = frame(9, 100);
        let file = [&later[..], &earlier[later.len()..]].concat();
        assert_eq!(numbers(&file), [9]);
    }

    #[test]
    fn hostile_content_is_refused_or_read_but_never_panics() {
        let content = frame(1, 10)[HEADER..].to_vec();
        for at in 0..content.len() {
            let _ = changes(content[..at].to_vec().into());
            for bit in 0..8 {
                let mut spoilt = content.clone();
                spoilt[at] ^= 1 << bit;
                let _ = changes(spoilt.into());
            }
        }
    }

    #[test]
    fn both_files_are_one_row_that_goes_on_where_the_tree_ends() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        files.write(1, 0, &[frame(4, 9), frame(5, 9)].concat()).unwrap();
        files.write(0, 0, &[frame(6, 9), frame(7, 9)].concat()).unwrap();
        let read = |merged: u64| -> Result<Vec<u64>, String> {
            let frames = files.read(merged).unwrap();
            frames.map(|frames| frames.into_iter().map(|(number, _)| number).collect())
        };
        assert_eq!(read(3), Ok(vec![4, 5, 6, 7]));
        assert_eq!(read(5), Ok(vec![6, 7]));
        assert_eq!(read(7), Ok(vec![]));
        assert_eq!(read(9), Ok(vec![]));
        assert_eq!(read(2), Err("its log goes on with 4 where 3 must be".to_owned()));
        let lengths = FILES.map(|name| dir.path().join(name).metadata().unwrap().len());
        assert_eq!(lengths, [AHEAD_BYTES; 2], "what is written next changes no length");
    }
}
