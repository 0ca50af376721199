//! Owns the wake-up of tasks that wait for a record to change within one process. Never says what
//! changed.

use std::time::Duration;

use tokio::sync::broadcast;

use crate::clock;
use crate::record::{Kind, RecordKey};
use crate::store::{Batch, Write};

/// How many changes a waiter may fall behind before it is simply woken.
const BEHIND: usize = 1024;

/// Tells waiters of the records that batches have changed.
#[derive(Debug)]
pub(crate) struct Changes(broadcast::Sender<(Kind, RecordKey)>);

impl Changes {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }

    /// Wakes whoever waits for a record of this batch. Costs nothing while nobody waits.
    pub(crate) fn tell(&self, batch: &Batch) {
        if self.0.receiver_count() == 0 {
            return;
        }
        for write in &batch.writes {
            let (kind, key) = match write {
                Write::Put { record, .. } => (record.kind, record.key.clone()),
                Write::Delete { kind, key, .. } => (*kind, key.clone()),
                Write::Renew { .. } => continue,
            };
            // An error says that the last waiter has just left.
            let _ = self.0.send((kind, key));
        }
    }

    /// Wakes whoever waits for this record.
    #[cfg(any(feature = "sled", feature = "postgres", feature = "redis"))]
    pub(crate) fn tell_of(&self, kind: Kind, key: RecordKey) {
        if self.0.receiver_count() == 0 {
            return;
        }
        // An error says that the last waiter has just left.
        let _ = self.0.send((kind, key));
    }

    /// Waits until the record has changed, at most this long.
    pub(crate) async fn wait(&self, kind: Kind, key: &RecordKey, most: Duration) {
        let mut changes = self.0.subscribe();
        let change = async {
            loop {
                match changes.recv().await {
                    Ok((changed_kind, changed)) if (changed_kind, &changed) != (kind, key) => {}
                    Ok(_) | Err(_) => return,
                }
            }
        };
        // The end of the time is an answer like any other.
        let _ = clock::within(most, change).await;
    }
}
