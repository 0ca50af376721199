//! Owns batches as they are once everything is encoded that can be without a look at what is there.
//! Never writes.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::record::{Kind, Record, RecordKey, Revision, Status};
use crate::store::{Expect, Sync, Write};

use super::common::Answer;
use super::content::Change;
use super::layout::VALUE_BYTES;

/// A batch made ready to be written by another thread.
pub(super) struct ReadyBatch {
    pub(super) writes: Vec<ReadyWrite>,
    pub(super) sync: Sync,
    pub(super) answer: Answer,
}

/// One write of it.
pub(super) enum ReadyWrite {
    Put { kind: Kind, key: RecordKey, expect: Expect, change: Arc<Change> },
    Renew { kind: Kind, key: RecordKey, revision: Revision, lease_until: Timestamp },
    Delete { kind: Kind, key: RecordKey, expect: Expect },
}

impl ReadyWrite {
    pub(super) fn of(write: Write) -> Self {
        match write {
            Write::Put { record, expect } => {
                let (kind, key) = (record.kind, record.key.clone());
                Self::Put { kind, key, expect, change: Arc::new(Change::of(record)) }
            }
            Write::Renew { kind, key, revision, lease_until } => {
                Self::Renew { kind, key, revision, lease_until }
            }
            Write::Delete { kind, key, expect } => Self::Delete { kind, key, expect },
        }
    }

    pub(super) fn of_record(&self) -> (Kind, &RecordKey) {
        match self {
            Self::Put { kind, key, .. } | Self::Renew { kind, key, .. } | Self::Delete { kind, key, .. } => {
                (*kind, key)
            }
        }
    }

    /// Returns the record of which waiters are to be told, if they are.
    pub(super) fn changes(&self) -> Option<(Kind, &RecordKey)> {
        match self {
            Self::Put { .. } | Self::Delete { .. } => Some(self.of_record()),
            Self::Renew { .. } => None,
        }
    }

    /// Returns how many bytes it will write, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Put { change, .. } => change.bytes(),
            Self::Renew { .. } | Self::Delete { .. } => VALUE_BYTES,
        }
    }

    /// Returns whether what is there is what this expects.
    pub(super) fn is_expected(&self, there: Option<&Record>) -> bool {
        let revision = there.map(|there| there.revision);
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } => match expect {
                Expect::Absent => revision.is_none(),
                Expect::Revision(expected) => revision == Some(*expected),
                Expect::Any => true,
            },
            Self::Renew { revision: expected, .. } => {
                there.is_some_and(|there| there.facts.status == Status::Running)
                    && revision == Some(*expected)
            }
        }
    }
}

/// Returns how many bytes writes have together, about.
pub(super) fn bytes(writes: &[ReadyWrite]) -> usize {
    writes.iter().map(ReadyWrite::bytes).sum()
}
