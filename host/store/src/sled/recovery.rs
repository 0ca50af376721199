//! Owns what is done with a log that a crash has left: the tree is brought up to it before anyone reads.
//! Never decides what is whole; the log does.

use std::sync::Arc;

use crate::error::{StoreError, StoreErrorKind};
use crate::record::Revision;

use super::content::{self, Change, State};
use super::log::{self, Logged};
use super::merge::{self, Merger, Then};
use super::opening::DataFiles;
use super::overlay::{Layer, Overlay, look};

/// Brings the tree up to the log; returns the number of the next frame.
pub(super) fn recover(merger: &mut Merger, files: &DataFiles) -> Result<u64, StoreError> {
    let tree = merger.tree.clone();
    let merged = merge::merged(&tree)?;
    let frames = files.frames(merged)?;
    let Some(&(last, _)) = frames.last() else {
        // What the tree has of the log may not be on the disk yet, and the log is about to be written over.
        files.sync_opened()?;
        return Ok(merged + 1);
    };
    let (mut layer, nothing_above) = (Layer::default(), Overlay::default());
    for (number, content) in frames {
        let changes = log::changes(content);
        let changes =
            changes.ok_or_else(|| unreadable(format_args!("frame {number} of its log has no known form")))?;
        for (kind, key, logged) in changes {
            let there = look(&tree, &nothing_above, &layer, kind, &key)?;
            let now = match logged {
                Logged::Put { head, body } => Some(Arc::new(Change::logged(kind, &key, head, body)?)),
                Logged::Delete => None,
                Logged::Renew { revision, lease_until } => match renewed(&there, revision) {
                    Some(change) => Some(Arc::new(change.renewed(&tree, lease_until)?)),
                    None => continue,
                },
            };
            layer.put(kind, key, now, there);
        }
    }
    merger.merge(&layer, last, Then::Synced)?;
    tracing::debug!(frames = last - merged, records = layer.len(), "what the log had is in the tree");
    Ok(last + 1)
}

/// Returns what is to be renewed: what follows in the log may be in the tree already.
fn renewed(there: &State, revision: Revision) -> Option<&content::Change> {
    there.as_deref().filter(|change| change.record().revision == revision)
}

fn unreadable(why: impl std::fmt::Display) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, format!("the store cannot be read: {why}"))
}
