//! Owns when a holder that does not answer is spoken of: once for each silence, after some seconds. Never
//! ends a wait.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::within;

/// How often a holder is looked at that has not answered before that is said, and how long each time:
/// three seconds are longer than an answer takes on a slow disk, and shorter than a greeting may. Whoever
/// was stopped itself meanwhile has looked once, however long that was.
const LOOKS: u32 = 3;
const LOOK: Duration = Duration::from_secs(1);

/// Waits for an answer as long as it takes, and has it said, again and again, that the holder is silent.
pub(crate) async fn patiently<T>(
    answer: impl Future<Output = T>,
    heard: impl Fn() -> u64,
    mut say: impl FnMut(),
) -> T {
    let mut answer = pin!(answer);
    let (mut looks, mut last) = (0, heard());
    loop {
        if let Some(answer) = within(LOOK, answer.as_mut()).await {
            return answer;
        }
        let now = heard();
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        if looks >= LOOKS {
            say();
        }
    }
}

/// What is heard of the holder at the other end of a connection.
pub(super) struct Silence {
    socket: PathBuf,
    pid: Option<u32>,
    answers: AtomicU64,
    is_told: AtomicBool,
}

impl Silence {
    pub(super) fn of(socket: PathBuf, pid: Option<u32>) -> Self {
        Self { socket, pid, answers: AtomicU64::new(0), is_told: AtomicBool::new(false) }
    }

    /// Notes that the holder has answered somebody.
    pub(super) fn ends(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.is_told.store(false, Ordering::Relaxed);
    }

    /// Waits for an answer as long as it takes.
    pub(super) async fn bear<T>(&self, answer: impl Future<Output = T>) -> T {
        patiently(answer, || self.answers.load(Ordering::Relaxed), || self.tell()).await
    }

    fn tell(&self) {
        if self.is_told.swap(true, Ordering::Relaxed) {
            return;
        }
        let socket = self.socket.display();
        let holder = self.pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
        tracing::warn!("the store at `{socket}` is held by {holder}, which does not answer; waiting for it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::sleep;

    #[tokio::test]
    async fn who_answers_soon_or_others_meanwhile_is_not_spoken_of_and_all_are_waited_for() {
        let (answers, told) = (AtomicU64::new(0), AtomicU64::new(0));
        let long = || sleep(LOOK * (LOOKS + 1) + LOOK / 2);
        let silent = patiently(long(), || 0, || _ = told.fetch_add(1, Ordering::Relaxed));
        let busy = || answers.fetch_add(1, Ordering::Relaxed);
        let busy = patiently(long(), busy, || panic!("others are answered"));
        let soon = patiently(sleep(LOOK * (LOOKS - 1) + LOOK / 2), || 0, || panic!("it is no long wait"));
        tokio::join!(silent, busy, soon);
        assert!(told.into_inner() > 0, "the others are spoken of");
    }
}
