//! Owns a store that fails on purpose, for the tests of whoever builds on a store. It fails in the ways
//! in which a store may, and in no other: a conflict is never made up, and what it says was not
//! written was not. Never used outside tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::sleep;
use crate::error::{StoreError, StoreErrorKind};
use crate::record::{Kind, RecordKey};
use crate::store::{Abilities, Batch, Found, Page, Query, Store};

/// A store that does what the one below it does, but for the mishaps it was given.
pub struct FaultyStore {
    below: Arc<dyn Store>,
    seed: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    mishaps: Vec<Mishap>,
    calls: HashMap<Method, u64>,
}

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Mishap {
    /// In which method.
    pub method: Method,
    /// At which of its calls.
    pub when: When,
    /// How.
    pub harm: Harm,
}

/// The methods of a store in which something can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// [`Store::get`].
    Get,
    /// [`Store::commit`].
    Commit,
    /// [`Store::scan`].
    Scan,
    /// [`Store::sync`].
    Sync,
}

/// At which calls of a method something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// At this one, counted from 1.
    Call(u64),
    /// From this one on, counted from 1.
    From(u64),
    /// At each with this probability: the same calls whenever the seed is the same.
    Chance(f64),
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// `Unavailable`, and nothing is done.
    Refused,
    /// It is done, but the answer is lost: `Unknown` of a commit, `Unavailable` of anything else.
    AnswerLost,
    /// The request is lost and nothing is done: `Unknown` of a commit, `Unavailable` of anything else.
    RequestLost,
    /// It is done this much later.
    Late(Duration),
}

impl FaultyStore {
    /// Returns a store over this one that has these mishaps; what is left to chance depends on the seed.
    pub fn over(below: Arc<dyn Store>, seed: u64, mishaps: Vec<Mishap>) -> Self {
        Self { below, seed, state: Mutex::new(State { mishaps, calls: HashMap::new() }) }
    }

    /// Replaces the mishaps, and counts calls from the beginning again.
    pub fn set_mishaps(&self, mishaps: Vec<Mishap>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { mishaps, calls: HashMap::new() };
    }

    /// Returns how often this method was called since the mishaps were set.
    pub fn calls(&self, method: Method) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.calls.get(&method).copied().unwrap_or_default()
    }

    /// Counts a call; returns everything that goes wrong with it.
    fn harms(&self, method: Method) -> Vec<Harm> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = state.calls.entry(method).or_default();
        *calls += 1;
        let call = *calls;
        let strikes = |(n, mishap): &(u64, &Mishap)| {
            mishap.method == method
                && match mishap.when {
                    When::Call(number) => number == call,
                    When::From(number) => number <= call,
                    When::Chance(probability) => fraction(self.seed ^ mix(call) ^ mix(n << 32)) < probability,
                }
        };
        (0..).zip(&state.mishaps).filter(strikes).map(|(_, mishap)| mishap.harm).collect()
    }

    /// Makes the call, or fails it; `lost` is the kind of an answer that is lost.
    async fn call<T>(
        &self,
        method: Method,
        lost: StoreErrorKind,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let mut answer_lost = false;
        for harm in self.harms(method) {
            let failed = |kind, what| Err(StoreError::new(kind, format!("a mishap of the test: {what}")));
            match harm {
                Harm::Refused => return failed(StoreErrorKind::Unavailable, "the call was refused"),
                Harm::RequestLost => return failed(lost, "the request was lost"),
                Harm::AnswerLost => answer_lost = true,
                Harm::Late(time) => sleep(time).await,
            }
        }
        let answer = call.await?;
        if answer_lost {
            return Err(StoreError::new(lost, "a mishap of the test: the answer was lost"));
        }
        Ok(answer)
    }
}

/// Mixes the bits of a number (SplitMix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// Returns a number from 0 to below 1.
fn fraction(number: u64) -> f64 {
    (mix(number) >> 11) as f64 / (1_u64 << 53) as f64
}

#[async_trait]
impl Store for FaultyStore {
    fn abilities(&self) -> Abilities {
        self.below.abilities()
    }

    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        self.call(Method::Get, StoreErrorKind::Unavailable, self.below.get(kind, key)).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.call(Method::Commit, StoreErrorKind::Unknown, self.below.commit(batch)).await
    }

    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        self.call(Method::Scan, StoreErrorKind::Unavailable, self.below.scan(query, limit)).await
    }

    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.below.changed(kind, key, most).await;
    }

    fn is_gone(&self, owner: &str) -> bool {
        self.below.is_gone(owner)
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.call(Method::Sync, StoreErrorKind::Unavailable, self.below.sync()).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.below.close().await
    }
}
