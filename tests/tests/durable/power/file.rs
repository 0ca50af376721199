//! Owns the contents of one file on a disk that may lose its power. Never knows its name.

use std::collections::BTreeMap;

use super::super::killing::Chance;

/// What becomes of that which is not safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Luck {
    /// Nothing of it is there.
    None,
    /// All of it is there.
    All,
    /// Any part of it is there.
    Some,
}

impl Luck {
    /// Returns how many of some changes are there: these at least, and those at most.
    pub(super) fn between(self, least: usize, most: usize, chance: &mut Chance) -> usize {
        match self {
            Luck::None => least,
            Luck::All => most,
            Luck::Some => least + chance.below((most - least + 1) as u64) as usize,
        }
    }
}

/// What changes a file.
#[derive(Clone)]
pub(super) enum What {
    Bytes { at: u64, bytes: Box<[u8]> },
    Size(u64),
}

#[derive(Clone)]
struct Change {
    number: usize,
    /// The call that makes it, while it is under way.
    call: Option<usize>,
    what: What,
    is_safe: bool,
}

/// The contents of a file.
#[derive(Clone)]
pub(super) struct Contents {
    safe: Vec<u8>,
    /// What may be there or not, in order; here and there something is safe before what was begun earlier.
    changes: Vec<Change>,
    /// How many changes there have been.
    count: usize,
}

impl Contents {
    /// Returns contents that are safe.
    pub(super) fn of(safe: Vec<u8>) -> Self {
        Self { safe, changes: Vec::new(), count: 0 }
    }

    /// Adds a change, which is over now, or else when the call is.
    pub(super) fn change(&mut self, call: Option<usize>, what: What) {
        self.count += 1;
        self.changes.push(Change { number: self.count, call, what, is_safe: false });
    }

    /// Notes that a call is over that writes, and how much it has written.
    pub(super) fn is_over(&mut self, call: usize, written: i64) {
        let change = self.changes.iter_mut().rev().find(|change| change.call == Some(call));
        let change = change.expect("nothing is safe that is not over");
        let What::Bytes { bytes, .. } = &change.what else { panic!("only writes take their time") };
        assert_eq!(written, bytes.len() as i64, "a write to the store was cut short");
        change.call = None;
    }

    /// Returns the changes that are over.
    pub(super) fn are_over(&self) -> Vec<usize> {
        self.changes.iter().filter(|change| change.call.is_none()).map(|change| change.number).collect()
    }

    /// Notes that these changes, in order, are safe.
    pub(super) fn are_safe(&mut self, changes: &[usize]) {
        for change in &mut self.changes {
            change.is_safe |= changes.binary_search(&change.number).is_ok();
        }
        let whole = self.changes.iter().position(|change| !change.is_safe).unwrap_or(self.changes.len());
        for change in self.changes.drain(..whole) {
            apply(&mut self.safe, &change.what);
        }
    }

    /// Returns contents that the loss of power can leave.
    pub(super) fn left(&self, luck: Luck, chance: &mut Chance) -> Vec<u8> {
        let least = self.changes.iter().rposition(|change| change.is_safe).map_or(0, |last| last + 1);
        if luck == Luck::Some && self.changes.len() > least {
            return self.some_left(least, chance);
        }
        let mut left = self.safe.clone();
        let taken = luck.between(least, self.changes.len(), chance);
        self.changes[..taken].iter().for_each(|change| apply(&mut left, &change.what));
        left
    }

    /// Returns contents of which each page is as it was after any of the changes of it, from `least` on, and which are
    /// as long as the file was after any. What was cut off stays so: a file system orders that.
    fn some_left(&self, least: usize, chance: &mut Chance) -> Vec<u8> {
        let page = [512, 4096][chance.below(2) as usize];
        let odds = [10, 50, 90][chance.below(3) as usize];
        let sizes: Vec<usize> =
            (least..self.changes.len()).filter(|n| matches!(self.changes[*n].what, What::Size(_))).collect();
        let sized = chance.below(sizes.len() as u64 + 1) as usize;
        let first = sizes[..sized].last().map_or(least, |last| last + 1);
        let end = sizes.get(sized).copied().unwrap_or(self.changes.len());

        let (mut left, mut length, mut lengths) = (self.safe.clone(), self.safe.len() as u64, Vec::new());
        let mut pages: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (n, change) in self.changes[..end].iter().enumerate() {
            if n >= first {
                lengths.push(length);
            }
            match &change.what {
                What::Size(bytes) => {
                    length = *bytes;
                    left.truncate(length as usize);
                    pages.retain(|number, _| number * page < length);
                }
                What::Bytes { at, bytes } if !bytes.is_empty() => {
                    let end = at + bytes.len() as u64;
                    length = length.max(end);
                    (at / page..end.div_ceil(page))
                        .for_each(|number| pages.entry(number).or_default().push(n));
                }
                What::Bytes { .. } => {}
            }
        }
        lengths.push(length);
        left.resize(lengths[chance.below(lengths.len() as u64) as usize] as usize, 0);
        for (number, changes) in pages {
            let safe = changes.partition_point(|n| *n < least);
            let luck = if chance.below(100) < odds { Luck::Some } else { Luck::None };
            let taken = luck.between(safe, changes.len(), chance);
            for n in &changes[..taken] {
                copy(&mut left, &self.changes[*n].what, number * page..(number + 1) * page);
            }
        }
        left
    }
}

fn apply(to: &mut Vec<u8>, what: &What) {
    match what {
        What::Size(bytes) => to.resize(*bytes as usize, 0),
        What::Bytes { at, bytes } => {
            let end = *at as usize + bytes.len();
            if end > to.len() {
                to.resize(end, 0);
            }
            to[*at as usize..end].copy_from_slice(bytes);
        }
    }
}

/// Copies the part of a write that falls into the range, as far as there is a file.
fn copy(to: &mut [u8], what: &What, range: std::ops::Range<u64>) {
    let What::Bytes { at, bytes } = what else { return };
    let end = (at + bytes.len() as u64).min(range.end).min(to.len() as u64);
    let from = (*at).max(range.start);
    if from < end {
        to[from as usize..end as usize].copy_from_slice(&bytes[(from - at) as usize..(end - at) as usize]);
    }
}
