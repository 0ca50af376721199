//! Owns what goes on when whoever has begun it is gone: writes whose outcome is to be known, and what is still to be
//! written when a handle was dropped. Never decides what is written.

use std::pin::Pin;
use std::task::{Context, Poll};

use docket_store::{StoreError, StoreErrorKind};
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// The tasks of a host that no caller waits for. The host waits for them when it ends.
pub(crate) struct Background {
    tasks: TaskTracker,
    /// For what is dropped on a thread without a runtime.
    runtime: Handle,
}

impl Background {
    /// Returns one without tasks, whose tasks run on the runtime of the caller.
    pub(crate) fn new() -> Self {
        Self { tasks: TaskTracker::new(), runtime: Handle::current() }
    }

    /// Begins something that goes on until it ends by itself.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let runtime = Handle::try_current().unwrap_or_else(|_| self.runtime.clone());
        self.tasks.spawn_on(task, &runtime)
    }

    /// Writes something while the caller goes on. Where there is no runtime any more nothing is written, and the lease
    /// lapses by itself.
    pub(crate) fn later(
        &self,
        what: &'static str,
        write: impl Future<Output = Result<(), StoreError>> + Send + 'static,
    ) -> JoinHandle<()> {
        self.spawn(async move {
            match write.await {
                Err(error) if error.kind() != StoreErrorKind::Conflict => {
                    tracing::warn!(%error, "{what} could not be noted in the store");
                }
                _ => {}
            }
        })
    }

    /// Returns a write that is seen through once it has begun: where the returned future is dropped, a task goes on with
    /// it, and drops what comes of it. So what a write has taken is given back, and what is written behind it knows of it.
    pub(crate) fn carry<T>(
        &self,
        what: &'static str,
        write: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Carried<'_, T> {
        Carried { background: self, what, write: Some(Box::pin(write)) }
    }

    /// Waits until everything has ended.
    pub(crate) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A write that is seen through.
#[must_use = "a write begins when it is awaited"]
pub(crate) struct Carried<'a, T: 'static> {
    background: &'a Background,
    what: &'static str,
    /// None once it has ended.
    write: Option<BoxFuture<'static, Result<T, StoreError>>>,
}

impl<T> Future for Carried<'_, T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Taken out, so that one that panics is not gone on with.
        let Some(mut write) = self.write.take() else { unreachable!("it is not polled after its end") };
        let polled = write.as_mut().poll(context);
        if polled.is_pending() {
            self.write = Some(write);
        }
        polled
    }
}

impl<T> Drop for Carried<'_, T> {
    fn drop(&mut self) {
        if let Some(write) = self.write.take() {
            // Dropped within the task: what that writes begins before the host may think that nothing is left.
            self.background.later(self.what, async move { write.await.map(drop) });
        }
    }
}
