//! Owns single flight within one process: of all who want one result at the same time, one leads and
//! the others wait for what comes of it. Never asks a store, never computes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use docket_store::RecordKey;
use tokio::sync::watch;

use crate::failure::StepFailure;
use crate::value::Value;

/// What comes of a flight.
#[derive(Clone, Debug)]
pub(crate) enum Landing {
    /// The result.
    Kept(Arc<Value>),
    /// The leader failed for good.
    Failed(StepFailure),
    /// The leader left without either; somebody else may lead.
    Left,
}

/// The flights of one process: each key that somebody leads, and whom to tell where somebody follows.
#[derive(Clone, Default)]
pub(crate) struct Flights(Arc<Mutex<HashMap<RecordKey, Option<Followed>>>>);

/// `None` while the leader is at it.
type Followed = watch::Sender<Option<Landing>>;

/// The part of a caller in a flight.
pub(crate) enum Role {
    /// The caller is to bring the result.
    Leader(Lead),
    /// Somebody else is; this waits for it.
    Follower(watch::Receiver<Option<Landing>>),
}

/// Leading a flight. When dropped before it has landed, somebody else may lead.
pub(crate) struct Lead {
    flights: Flights,
    key: RecordKey,
    landed: bool,
}

impl Flights {
    /// Joins the flight for a key: as its leader, if there is none.
    pub(crate) fn join(&self, key: &RecordKey) -> Role {
        match self.lock().entry(key.clone()) {
            Entry::Occupied(mut flight) => {
                // Most are never followed, and need nothing by which to tell.
                let followed = flight.get_mut().get_or_insert_with(|| watch::Sender::new(None));
                Role::Follower(followed.subscribe())
            }
            Entry::Vacant(free) => {
                free.insert(None);
                Role::Leader(Lead { flights: self.clone(), key: key.clone(), landed: false })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RecordKey, Option<Followed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead {
    /// Ends the flight: everyone who follows gets this, and whoever comes later begins anew.
    pub(crate) fn land(mut self, landing: Landing) {
        self.leave(landing);
    }

    fn leave(&mut self, landing: Landing) {
        if std::mem::replace(&mut self.landed, true) {
            return;
        }
        let followed = self.flights.lock().remove(&self.key).flatten();
        if let Some(followed) = followed {
            followed.send_replace(Some(landing));
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.leave(Landing::Left);
    }
}

/// Waits until a flight has landed.
///
/// # Cancel safety
/// Who stops waiting leaves the flight alone.
pub(crate) async fn landed(mut follower: watch::Receiver<Option<Landing>>) -> Landing {
    match follower.wait_for(Option::is_some).await {
        Ok(landing) => landing.clone().expect("waited for just that"),
        // The leader is gone, and its drop has landed the flight; only a torn-down process skips that.
        Err(_) => Landing::Left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> RecordKey {
        RecordKey::parse("k").unwrap()
    }

    fn leader(flights: &Flights) -> Lead {
        match flights.join(&key()) {
            Role::Leader(lead) => lead,
            Role::Follower(_) => panic!("there is a leader already"),
        }
    }

    fn follower(flights: &Flights) -> watch::Receiver<Option<Landing>> {
        match flights.join(&key()) {
            Role::Follower(follower) => follower,
            Role::Leader(_) => panic!("there is no leader"),
        }
    }

    #[tokio::test]
    async fn one_leads_and_all_others_get_what_it_brings() {
        let flights = Flights::default();
        let lead = leader(&flights);
        let followers: Vec<_> = (0..100).map(|_| follower(&flights)).collect();
        lead.land(Landing::Kept(Arc::new(Value::one("brought"))));
        for follower in followers {
            assert!(matches!(landed(follower).await, Landing::Kept(value) if value.len_bytes() == 7));
        }
        assert!(flights.lock().is_empty());
        drop(leader(&flights));
    }

    #[tokio::test]
    async fn a_leader_that_leaves_makes_room_and_a_follower_that_leaves_changes_nothing() {
        let flights = Flights::default();
        let lead = leader(&flights);
        drop(follower(&flights));
        let waits = follower(&flights);
        drop(lead);
        assert!(matches!(landed(waits).await, Landing::Left));
        let next = leader(&flights);
        let waits = follower(&flights);
        next.land(Landing::Failed(StepFailure::Internal("x".into())));
        assert!(matches!(landed(waits).await, Landing::Failed(_)));
    }
}
