//! Owns the tally of the tree's records: how many there are, and the sum of a number for each writing of
//! one. It is written together with them, so that a database that was mended shows whether something is
//! gone or is what it once was. Never mends.

use std::panic::AssertUnwindSafe;

use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, Record, RecordKey};

use super::layout::{TALLY_KEY, kind_byte, kind_of};
use super::{content, failed, lists};

/// How many records there are, and what their numbers add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    records: u64,
    sum: u64,
}

impl Tally {
    /// Returns what the tree says of itself.
    pub(super) fn said(tree: &sled::Tree) -> Result<Self, StoreError> {
        let Some(said) = tree.get(TALLY_KEY).map_err(failed)? else { return Ok(Self::default()) };
        let parts = said.split_first_chunk::<8>().and_then(|(records, sum)| {
            let sum = u64::from_be_bytes(sum.try_into().ok()?);
            Some(Self { records: u64::from_be_bytes(*records), sum })
        });
        parts.ok_or_else(|| {
            StoreError::new(StoreErrorKind::Corrupt, "the tally of the store has no known form")
        })
    }

    /// Counts a record in the place of what there was.
    pub(super) fn replace(&mut self, was: Option<&Record>, is: Option<&Record>) {
        if let Some(was) = was {
            self.records = self.records.wrapping_sub(1);
            self.sum = self.sum.wrapping_sub(number(was));
        }
        if let Some(is) = is {
            self.records = self.records.wrapping_add(1);
            self.sum = self.sum.wrapping_add(number(is));
        }
    }

    pub(super) fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.records) << 64 | u128::from(self.sum)).to_be_bytes()
    }
}

/// Returns the number of one writing of a record.
fn number(record: &Record) -> u64 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&[kind_byte(record.kind)]);
    hash.update(record.key.as_str().as_bytes());
    hash.update(&record.revision.0.to_be_bytes());
    hash.finalize().into()
}

/// Reads everything that the tree has, and sees whether it is what was written.
///
/// # Errors
/// What is not.
pub(super) fn check(tree: &sled::Tree) -> Result<(), String> {
    // sled panics where it reads what it does not expect.
    let counted = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let said = Tally::said(tree)?;
        Ok((said, counted(tree)?))
    }));
    match counted {
        Ok(Ok((said, (is, listed)))) if said == is && listed == is.records => Ok(()),
        Ok(Ok((said, (is, listed)))) => Err(format!(
            "of {} records {} are there and {listed} are listed, not all of them as they were written",
            said.records, is.records
        )),
        Ok(Err(error)) => {
            let error: StoreError = error;
            Err(error.to_string())
        }
        Err(_) => Err("sled gave up on what it read".to_owned()),
    }
}

/// Returns the tally of what the tree has, and how many records are listed.
fn counted(tree: &sled::Tree) -> Result<(Tally, u64), StoreError> {
    let (mut tally, mut listed) = (Tally::default(), 0);
    for key in tree.scan_prefix(b"r").keys() {
        let key = key.map_err(failed)?;
        let record = match (key.get(1).copied().and_then(kind_of), key.get(2..).map(str::from_utf8)) {
            (Some(kind), Some(Ok(text))) => RecordKey::parse(text).ok().map(|key| (kind, key)),
            _ => None,
        };
        let unreadable = || StoreError::new(StoreErrorKind::Corrupt, "a key has no known form");
        let (kind, key) = record.ok_or_else(unreadable)?;
        let there = content::stored(tree, kind, &key)?;
        let whole = there.map(|change| change.whole(tree)).transpose()?.flatten();
        tally.replace(None, whole.as_ref());
    }
    for kind in Kind::ALL {
        listed += lists::count(tree, &[b'n', kind_byte(kind)])?;
    }
    Ok((tally, listed))
}
