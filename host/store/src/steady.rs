//! Owns the second try: what is asked of a store again when it was away for a moment or its answer
//! was lost. Never repeats a batch that may have been written without looking first.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

use crate::clock;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, Record, RecordKey};
use crate::store::{Batch, Found, Store, Write};

/// The first pause; each further one is twice as long, drawn at random around it.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The tries after the first: with pauses of 50 to 1,600 ms they span about three seconds, in which a
/// database server restarts or fails over. Longer is for the retry policy of the step.
const MORE_TRIES: usize = 6;

fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_factor(2.0)
        .with_max_times(MORE_TRIES)
        .with_jitter()
        .build()
}

/// Reads a record, again where the store is away for a moment.
///
/// # Errors
/// As [`Store::get`], once it has failed for about three seconds.
pub(crate) async fn get(store: &dyn Store, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
    let mut pauses = pauses();
    loop {
        match store.get(kind, key).await {
            Err(error) if error.kind() == StoreErrorKind::Unavailable => match pauses.next() {
                Some(pause) => clock::sleep(pause).await,
                None => return Err(error),
            },
            found => return found,
        }
    }
}

/// Commits a batch whose first write puts a record of its writer's own: again where the store is away
/// for a moment, and, where an answer was lost, once a look has told that the batch was not written.
///
/// # Errors
/// As [`Store::commit`], once it has failed for about three seconds. `Conflict` is certain: the batch
/// was not written.
pub(crate) async fn commit(store: &dyn Store, batch: Batch) -> Result<(), StoreError> {
    let Some(Write::Put { record: mine, .. }) = batch.writes.first() else {
        unreachable!("the first write of a batch that may be repeated puts its writer's record")
    };
    let mut pauses = pauses();
    let mut doubtful = false;
    loop {
        let error = match store.commit(batch.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match error.kind() {
            // A repeated batch meets itself where the first was written after all.
            StoreErrorKind::Conflict if doubtful => {
                return if is_there(store, mine).await? { Ok(()) } else { Err(error) };
            }
            StoreErrorKind::Unknown => doubtful = true,
            StoreErrorKind::Unavailable => {}
            _ => return Err(error),
        }
        let Some(pause) = pauses.next() else { return Err(error) };
        clock::sleep(pause).await;
        if doubtful && is_there(store, mine).await? {
            return Ok(());
        }
    }
}

/// Returns whether this very writing of the record is in the store.
async fn is_there(store: &dyn Store, mine: &Record) -> Result<bool, StoreError> {
    let found = get(store, mine.kind, &mine.key).await?.record;
    Ok(found.is_some_and(|found| found.revision == mine.revision && found.facts.owner == mine.facts.owner))
}
