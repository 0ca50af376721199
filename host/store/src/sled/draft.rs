//! Owns what a group of batches will change, before the tree is touched: reads see the tree with the
//! changes on top. Never writes to the tree.

use std::collections::BTreeMap;
use std::ops::Bound;

use sled::IVec;

/// Changes on top of a tree.
pub(super) struct Draft<'a> {
    tree: &'a sled::Tree,
    changes: BTreeMap<Vec<u8>, Option<IVec>>,
}

impl<'a> Draft<'a> {
    pub(super) fn on(tree: &'a sled::Tree) -> Self {
        Self { tree, changes: BTreeMap::new() }
    }

    pub(super) fn insert(&mut self, key: Vec<u8>, value: impl Into<IVec>) {
        self.changes.insert(key, Some(value.into()));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// Returns the last entry of those that begin so, up to and with this key.
    pub(super) fn last_up_to(&self, beginning: &[u8], key: &[u8]) -> sled::Result<Option<(Vec<u8>, IVec)>> {
        let range = (Bound::Included(beginning), Bound::Included(key));
        let drafted = self.changes.range::<[u8], _>(range).rev();
        let drafted = drafted.filter_map(|(key, value)| Some((key.clone(), value.clone()?))).next();
        let mut stored = None;
        for entry in self.tree.range::<&[u8], _>(range).rev() {
            let (key, value) = entry?;
            if !self.changes.contains_key(&*key) {
                stored = Some((key.to_vec(), value));
                break;
            }
        }
        Ok(match (drafted, stored) {
            (Some(drafted), Some(stored)) => Some(if drafted.0 > stored.0 { drafted } else { stored }),
            (drafted, stored) => drafted.or(stored),
        })
    }

    /// Returns the first entry of those that begin so behind this key.
    pub(super) fn first_behind(&self, beginning: &[u8], key: &[u8]) -> sled::Result<Option<(Vec<u8>, IVec)>> {
        let range = (Bound::Excluded(key), Bound::Unbounded);
        let drafted = self.changes.range::<[u8], _>(range).take_while(|(key, _)| key.starts_with(beginning));
        let drafted = drafted.filter_map(|(key, value)| Some((key.clone(), value.clone()?))).next();
        let mut stored = None;
        for entry in self.tree.range::<&[u8], _>(range) {
            let (key, value) = entry?;
            if !key.starts_with(beginning) {
                break;
            }
            if !self.changes.contains_key(&*key) {
                stored = Some((key.to_vec(), value));
                break;
            }
        }
        Ok(match (drafted, stored) {
            (Some(drafted), Some(stored)) => Some(if drafted.0 < stored.0 { drafted } else { stored }),
            (drafted, stored) => drafted.or(stored),
        })
    }

    /// Returns the changes as what the tree writes at once.
    pub(super) fn into_changes(self) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for (key, value) in self.changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch
    }
}
