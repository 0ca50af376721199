//! Owns sorted lists in the tree: entries that stand together in pages, because sled needs a tenth of a
//! kilobyte of memory, and time at every opening, for each key it has. Never knows what an entry means.
//!
//! The key of a page is the beginning of its list and its first entry at the time it was made; the
//! pages are in order and so are the entries in each. A page has its entries one behind the other,
//! each with its length in two bytes.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::error::StoreError;

use super::draft::Draft;
use super::layout::Place;
use super::{damaged_list, failed};

/// How large a page grows: some thirteen entries. sled writes sixteen pages anew for every ten changes
/// of one, so a larger page costs more with every entry than it saves in keys.
const PAGE_BYTES: usize = 1 << 10;

/// How many lists are remembered by their last page when nothing is merged: meanwhile it is as many as that has.
const LISTS_REMEMBERED: usize = 4096;

/// What is to change in a list.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Move {
    place: Place,
    is_there: bool,
}

impl Move {
    /// An entry is to be at this place.
    pub(super) fn to_place(place: Place) -> Self {
        Self { place, is_there: true }
    }

    /// No entry is to be at this place.
    pub(super) fn from_place(place: Place) -> Self {
        Self { place, is_there: false }
    }
}

/// Drafts changes of lists, list by list and each from its beginning to its end: what is added at the end
/// comes in order, and pages are read and written once.
pub(super) fn draft(
    draft: &mut Draft<'_>,
    tails: &mut Tails,
    mut moves: Vec<Move>,
) -> Result<(), StoreError> {
    moves.sort_unstable();
    for Move { place, is_there } in &moves {
        if *is_there {
            insert(draft, tails, place)?;
        } else {
            remove(draft, tails, place)?;
        }
    }
    tails.settle(draft);
    Ok(())
}

/// Returns how many entries a list has.
pub(super) fn count(tree: &sled::Tree, list: &[u8]) -> Result<u64, StoreError> {
    let mut count = 0;
    for page in tree.scan_prefix(list) {
        let (_, bytes) = page.map_err(failed)?;
        count += parse(list, &bytes)?.len() as u64;
    }
    Ok(count)
}

/// The last pages of lists that were added to, because that is where most entries go: kept here while
/// a group of batches is drafted, and true afterwards as long as everything that changes a list goes
/// through here.
#[derive(Default)]
pub(super) struct Tails(HashMap<Vec<u8>, Tail>);

struct Tail {
    page: Page,
    /// Whether the draft has not been told of the last changes.
    is_ahead: bool,
}

impl Tails {
    /// Drafts what only the last pages have yet.
    fn settle(&mut self, draft: &mut Draft<'_>) {
        for tail in self.0.values_mut().filter(|tail| tail.is_ahead) {
            draft.insert(tail.page.key.clone(), tail.page.bytes.as_slice());
            tail.is_ahead = false;
        }
    }

    /// Forgets what is too much to be remembered until more is merged. Everything must be settled.
    pub(super) fn forget(&mut self) {
        if self.0.len() > LISTS_REMEMBERED {
            self.0.clear();
        }
    }

    /// Returns the last page of the list, if it is known and what belongs to this key.
    fn of(&mut self, list: &[u8], key: &[u8]) -> Option<&mut Tail> {
        self.0.get_mut(list).filter(|tail| tail.page.key.as_slice() <= key)
    }

    /// Returns whether the last page of the list is known, and this key belongs in front of it.
    fn begins_behind(&self, list: &[u8], key: &[u8]) -> bool {
        self.0.get(list).is_some_and(|tail| tail.page.key.as_slice() > key)
    }

    /// Drafts what the last page of this list has, and forgets it.
    fn give_up(&mut self, draft: &mut Draft<'_>, list: &[u8]) {
        if let Some(Tail { page, is_ahead: true }) = self.0.remove(list) {
            draft.insert(page.key, page.bytes);
        }
    }
}

/// A page that was read.
struct Page {
    key: Vec<u8>,
    bytes: Vec<u8>,
}

/// Where an entry is in a page, or would be: the byte at which it begins.
enum At {
    Here(usize),
    Before(usize),
}

impl Page {
    fn find(&self, list: &[u8], entry: &[u8]) -> Result<At, StoreError> {
        let mut at = 0;
        for other in Entries(&self.bytes) {
            let other = other.ok_or_else(|| damaged_list(list))?;
            match other.cmp(entry) {
                Ordering::Less => at += 2 + other.len(),
                Ordering::Equal => return Ok(At::Here(at)),
                Ordering::Greater => break,
            }
        }
        Ok(At::Before(at))
    }

    fn has_room_for(&self, entry: &[u8]) -> bool {
        self.bytes.len() + 2 + entry.len() <= PAGE_BYTES
    }

    /// Puts the entry where it belongs.
    fn put(&mut self, at: usize, entry: &[u8]) {
        self.bytes.splice(at..at, framed(entry));
    }

    /// Takes the entry from where it is.
    fn take(&mut self, at: usize, entry: &[u8]) {
        self.bytes.drain(at..at + 2 + entry.len());
    }
}

fn framed(entry: &[u8]) -> Vec<u8> {
    let length = u16::try_from(entry.len()).expect("an entry is little longer than a record key");
    [&length.to_be_bytes(), entry].concat()
}

/// The entries of a page; a `None` at the end of one that is damaged.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self
            .0
            .split_first_chunk::<2>()
            .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))));
        let (entry, rest) = entry.map_or((None, &[][..]), |(entry, rest)| (Some(entry), rest));
        self.0 = rest;
        Some(entry)
    }
}

fn parse<'a>(list: &[u8], bytes: &'a [u8]) -> Result<Vec<&'a [u8]>, StoreError> {
    let entries: Option<Vec<&[u8]>> = Entries(bytes).collect();
    entries.ok_or_else(|| damaged_list(list))
}

/// Puts an entry at its place, where it may be already.
fn insert(draft: &mut Draft<'_>, tails: &mut Tails, place: &Place) -> Result<(), StoreError> {
    let Place { list, entry } = place;
    let key = [list.as_slice(), entry].concat();
    if tails.begins_behind(list, &key) && insert_in_earlier(draft, list, &key, entry)? {
        return Ok(());
    }
    if let Some(Tail { page, is_ahead }) = tails.of(list, &key) {
        match page.find(list, entry)? {
            At::Here(_) => return Ok(()),
            At::Before(at) if page.has_room_for(entry) => {
                page.put(at, entry);
                *is_ahead = true;
                return Ok(());
            }
            At::Before(at) if at == page.bytes.len() => {
                // What comes in order leaves full pages behind, in either direction.
                let next = Page { key, bytes: framed(entry) };
                let full = std::mem::replace(page, next);
                if std::mem::replace(is_ahead, true) {
                    draft.insert(full.key, full.bytes);
                }
                return Ok(());
            }
            At::Before(_) => {}
        }
    }
    tails.give_up(draft, list);
    if draft.first_behind(list, list).map_err(failed)?.is_none() {
        // The first entry of a list.
        let page = Page { key, bytes: framed(entry) };
        tails.0.insert(list.clone(), Tail { page, is_ahead: true });
        return Ok(());
    }
    insert_within(draft, list, key, entry)?;
    remember_tail(draft, tails, list)
}

/// Puts an entry into a page in front of the last one, which stays as it is and where it is remembered:
/// what came a little later than others were begun. Returns whether there is such a page.
fn insert_in_earlier(
    draft: &mut Draft<'_>,
    list: &[u8],
    key: &[u8],
    entry: &[u8],
) -> Result<bool, StoreError> {
    let Some(page) = page_of(draft, list, key)? else { return Ok(false) };
    match page.find(list, entry)? {
        At::Here(_) => {}
        At::Before(at) if at == page.bytes.len() && !page.has_room_for(entry) => {
            draft.insert(key.to_vec(), framed(entry));
        }
        At::Before(at) => insert_into(draft, list, page, at, entry)?,
    }
    Ok(true)
}

/// Puts an entry at its place, which may be in any page.
fn insert_within(draft: &mut Draft<'_>, list: &[u8], key: Vec<u8>, entry: &[u8]) -> Result<(), StoreError> {
    let Some(page) = page_of(draft, list, &key)? else {
        return insert_in_front(draft, list, key, entry);
    };
    match page.find(list, entry)? {
        At::Here(_) => Ok(()),
        At::Before(at) if at == page.bytes.len() && !page.has_room_for(entry) => {
            insert_in_front(draft, list, key, entry)
        }
        At::Before(at) => insert_into(draft, list, page, at, entry),
    }
}

/// Puts an entry into a page, which becomes two if it is full.
fn insert_into(
    draft: &mut Draft<'_>,
    list: &[u8],
    mut page: Page,
    at: usize,
    entry: &[u8],
) -> Result<(), StoreError> {
    let has_room = page.has_room_for(entry);
    page.put(at, entry);
    if has_room {
        draft.insert(page.key, page.bytes);
        return Ok(());
    }
    let entries = parse(list, &page.bytes)?;
    let (lower, upper) = entries.split_at(entries.len() / 2);
    let upper_key = [list, upper[0]].concat();
    let (lower, upper) = page.bytes.split_at(lower.iter().map(|entry| 2 + entry.len()).sum());
    draft.insert(upper_key, upper);
    draft.insert(page.key, lower);
    Ok(())
}

/// Returns the page that an entry of this key belongs to; none if that would be in front of the first.
fn page_of(draft: &Draft<'_>, list: &[u8], key: &[u8]) -> Result<Option<Page>, StoreError> {
    let page = draft.last_up_to(list, key).map_err(failed)?;
    Ok(page.map(|(key, bytes)| Page { key, bytes: bytes.to_vec() }))
}

/// Puts an entry in front of the page that follows its place, or into one of its own.
fn insert_in_front(draft: &mut Draft<'_>, list: &[u8], key: Vec<u8>, entry: &[u8]) -> Result<(), StoreError> {
    let next = draft.first_behind(list, &key).map_err(failed)?;
    let next = next.map(|(key, bytes)| Page { key, bytes: bytes.to_vec() });
    let mut bytes = framed(entry);
    if let Some(next) = next
        && next.has_room_for(entry)
    {
        draft.remove(next.key);
        bytes.extend(next.bytes);
    }
    draft.insert(key, bytes);
    Ok(())
}

/// Remembers the last page of a list.
fn remember_tail(draft: &Draft<'_>, tails: &mut Tails, list: &[u8]) -> Result<(), StoreError> {
    // No entry is so long, and none has a byte above the one that ends the keys.
    let end = [list, &[u8::MAX; 8]].concat();
    if let Some(page) = page_of(draft, list, &end)? {
        tails.0.insert(list.to_vec(), Tail { page, is_ahead: false });
    }
    Ok(())
}

/// Takes an entry from its place, where it may no longer be.
fn remove(draft: &mut Draft<'_>, tails: &mut Tails, place: &Place) -> Result<(), StoreError> {
    let Place { list, entry } = place;
    let key = [list.as_slice(), entry].concat();
    if let Some(Tail { page, is_ahead }) = tails.of(list, &key) {
        let At::Here(at) = page.find(list, entry)? else { return Ok(()) };
        page.take(at, entry);
        *is_ahead = true;
        if page.bytes.is_empty() {
            draft.remove(page.key.clone());
            tails.0.remove(list);
        }
        return Ok(());
    }
    let Some(mut page) = page_of(draft, list, &key)? else { return Ok(()) };
    let At::Here(at) = page.find(list, entry)? else { return Ok(()) };
    page.take(at, entry);
    if page.bytes.is_empty() {
        draft.remove(page.key)
    } else {
        draft.insert(page.key, page.bytes)
    }
    Ok(())
}

/// Returns at least `count` entries below `end`, the last first, or all there are. None for `end` is the
/// end of the list.
pub(super) fn backwards(
    tree: &sled::Tree,
    list: &[u8],
    end: Option<&[u8]>,
    count: usize,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut found = Vec::new();
    let below = |entry: &[u8]| end.is_none_or(|end| entry < end);
    let upper = end.map_or_else(|| behind(list), |end| [list, end].concat());
    for page in tree.range(list.to_vec()..upper).rev() {
        let (_, bytes) = page.map_err(failed)?;
        let entries = parse(list, &bytes)?;
        found.extend(entries.into_iter().rev().filter(|entry| below(entry)).map(<[u8]>::to_vec));
        if found.len() >= count {
            break;
        }
    }
    Ok(found)
}

/// Returns at least `count` entries behind `start` and below `end`, the first first, or all there are.
pub(super) fn forwards(
    tree: &sled::Tree,
    list: &[u8],
    start: Option<&[u8]>,
    end: &[u8],
    count: usize,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut found = Vec::new();
    let within = |entry: &[u8]| start.is_none_or(|start| entry > start) && entry < end;
    // The page in which `start` lies begins before it.
    let first = match start {
        None => None,
        Some(start) => {
            tree.range(list.to_vec()..=[list, start].concat()).next_back().transpose().map_err(failed)?
        }
    };
    let from = first.map_or_else(|| list.to_vec(), |(key, _)| key.to_vec());
    for page in tree.range(from..[list, end].concat()) {
        let (_, bytes) = page.map_err(failed)?;
        let entries = parse(list, &bytes)?;
        found.extend(entries.into_iter().filter(|entry| within(entry)).map(<[u8]>::to_vec));
        if found.len() >= count {
            break;
        }
    }
    Ok(found)
}

/// Returns the first key behind all that begin so.
fn behind(beginning: &[u8]) -> Vec<u8> {
    let mut end = beginning.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests;
