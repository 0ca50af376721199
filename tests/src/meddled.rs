//! Owns a store that asks before each call whether it may be: for stores that fail, that are gone, or
//! that nobody is to touch. Never changes what is stored.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use docket_store::{
    Abilities, Batch, Found, Kind, Page, Query, RecordKey, Store, StoreError, StoreErrorKind,
};

/// A call of a store that is about to be made.
#[derive(Clone, Copy, Debug)]
pub enum StoreCall<'a> {
    /// A record is read.
    Get(Kind),
    /// A batch is written.
    Commit(&'a Batch),
    /// Records are listed.
    Scan,
    /// Everything is synced, or the store closed.
    Sync,
}

/// What is asked before each call.
type Ask = dyn Fn(StoreCall<'_>) -> Result<(), StoreError> + Send + Sync;

/// A store of whose calls each may be refused. Clones are one store.
#[derive(Clone)]
pub struct Meddled {
    inner: Arc<dyn Store>,
    ask: Arc<Ask>,
    is_gone: bool,
}

impl Meddled {
    /// Returns a store whose calls reach the inner one where `ask` has nothing against it.
    pub fn new(
        inner: Arc<dyn Store>,
        ask: impl Fn(StoreCall<'_>) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, ask: Arc::new(ask), is_gone: false }
    }

    /// Says of every owner that its process has ended.
    #[must_use]
    pub fn without_owners(mut self) -> Self {
        self.is_gone = true;
        self
    }
}

/// Returns the error of a store that is away.
pub fn unavailable() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the store is away")
}

#[async_trait]
impl Store for Meddled {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        (self.ask)(StoreCall::Get(kind))?;
        self.inner.get(kind, key).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        (self.ask)(StoreCall::Commit(&batch))?;
        self.inner.commit(batch).await
    }

    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        (self.ask)(StoreCall::Scan)?;
        self.inner.scan(query, limit).await
    }

    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.inner.changed(kind, key, most).await;
    }

    fn is_gone(&self, owner: &str) -> bool {
        self.is_gone || self.inner.is_gone(owner)
    }

    async fn sync(&self) -> Result<(), StoreError> {
        (self.ask)(StoreCall::Sync)?;
        self.inner.sync().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        (self.ask)(StoreCall::Sync)?;
        self.inner.close().await
    }
}
