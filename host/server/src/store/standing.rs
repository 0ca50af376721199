//! Owns a store that outlives the process that held it: where this one goes through another process
//! and that one ends, the store is opened again, and this process may become the holder. Never repeats
//! what may have been written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use docket_store::{
    Abilities, Batch, Found, Kind, OpenedStore, Page, Query, RecordKey, Store, StoreError, StoreErrorKind,
    StoreUrl, WhenHeld, open,
};
use tokio::sync::Mutex as AsyncMutex;

use crate::log::HOST;

/// A store, and the way to open it again.
pub(super) struct Standing {
    url: StoreUrl,
    abilities: Abilities,
    current: Mutex<Current>,
    /// Held while it is opened again.
    reopening: AsyncMutex<()>,
}

struct Current {
    store: Arc<dyn Store>,
    /// None once it was closed.
    opened: Option<OpenedStore>,
    /// Whether it is reached through another process.
    attached: bool,
    /// How often it was opened.
    round: u64,
}

/// The store as it is now.
struct Now {
    store: Arc<dyn Store>,
    attached: bool,
    round: u64,
}

impl Current {
    fn of(opened: OpenedStore, round: u64) -> Self {
        let attached = opened.attached_to.is_some();
        Self { store: Arc::clone(&opened.store), opened: Some(opened), attached, round }
    }
}

impl Standing {
    pub(super) async fn open(url: &StoreUrl) -> Result<Self, StoreError> {
        let opened = open(url, WhenHeld::Attach).await?;
        mention(url, &opened);
        Ok(Self {
            url: url.clone(),
            abilities: opened.store.abilities(),
            current: Mutex::new(Current::of(opened, 1)),
            reopening: AsyncMutex::new(()),
        })
    }

    fn now(&self) -> Now {
        let Current { store, attached, round, .. } = &*self.lock();
        Now { store: Arc::clone(store), attached: *attached, round: *round }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the store to ask once more, where the error means that the holder is gone.
    async fn again(&self, now: &Now, error: StoreError) -> Result<Arc<dyn Store>, StoreError> {
        if error.kind() != StoreErrorKind::Unavailable || !now.attached {
            return Err(error);
        }
        let _one = self.reopening.lock().await;
        let found = self.now();
        if found.round != now.round {
            return Ok(found.store);
        }
        if self.lock().opened.is_none() {
            return Err(error);
        }
        let opened = open(&self.url, WhenHeld::Attach).await?;
        let store = Arc::clone(&opened.store);
        let last = std::mem::replace(&mut *self.lock(), Current::of(opened, now.round + 1));
        drop(last);
        Ok(store)
    }
}

/// Says what is unusual about a store.
fn mention(url: &StoreUrl, opened: &OpenedStore) {
    if let Some(holder) = &opened.attached_to {
        tracing::info!(target: HOST, "the store `{url}` is in use by process {}; working through it", holder.pid);
    }
    if let Some(warning) = &opened.warning {
        tracing::warn!(target: HOST, "{warning}");
    }
}

#[async_trait]
impl Store for Standing {
    fn abilities(&self) -> Abilities {
        self.abilities.clone()
    }

    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        let now = self.now();
        match now.store.get(kind, key).await {
            Err(error) => self.again(&now, error).await?.get(kind, key).await,
            found => found,
        }
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let now = self.now();
        match now.store.commit(batch.clone()).await {
            // Nothing was written where the store was away.
            Err(error) => self.again(&now, error).await?.commit(batch).await,
            done => done,
        }
    }

    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        let now = self.now();
        match now.store.scan(query, limit).await {
            Err(error) => self.again(&now, error).await?.scan(query, limit).await,
            page => page,
        }
    }

    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.now().store.changed(kind, key, most).await;
    }

    fn is_gone(&self, owner: &str) -> bool {
        self.now().store.is_gone(owner)
    }

    async fn sync(&self) -> Result<(), StoreError> {
        let now = self.now();
        match now.store.sync().await {
            Err(error) => self.again(&now, error).await?.sync().await,
            done => done,
        }
    }

    async fn close(&self) -> Result<(), StoreError> {
        let opened = self.lock().opened.take();
        match opened {
            Some(opened) => opened.close().await,
            None => Ok(()),
        }
    }
}
