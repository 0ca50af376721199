//! Owns the thread that syncs the log: once for all that was written until then. Never writes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::common::{Answer, Common, Disk, answer};

/// How long a sync waits at most for those who are about to want it too: about as long as a quick one
/// takes, so that nobody waits much longer than for two.
const PATIENCE: Duration = Duration::from_micros(300);

/// Who waits for a sync.
#[derive(Default)]
pub(super) struct Waiting {
    state: Mutex<State>,
    /// Rung when as many wait as the thread wants.
    enough: Condvar,
}

#[derive(Default)]
struct State {
    answers: Vec<Answer>,
    /// How many the thread waits for; none while it is at a sync.
    wanted: Option<usize>,
    /// Whether nobody comes any more.
    ended: bool,
}

impl Waiting {
    /// Has these answered once everything is safe that was written before.
    pub(super) fn add(&self, answers: impl IntoIterator<Item = Answer>) {
        let mut state = self.lock();
        state.answers.extend(answers);
        let is_enough = state.wanted.is_some_and(|wanted| state.answers.len() >= wanted);
        if is_enough {
            state.wanted = None;
        }
        drop(state);
        if is_enough {
            self.enough.notify_one();
        }
    }

    /// Has the thread end once all are answered.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.enough.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns who waits, as soon as somebody does and then so many or nobody else for a while; none at the
    /// end.
    pub(super) fn take(&self, together: usize) -> Option<Vec<Answer>> {
        let mut state = self.lock();
        state.wanted = Some(1);
        let nobody = |state: &mut State| state.answers.is_empty() && !state.ended;
        state = self.enough.wait_while(state, nobody).unwrap_or_else(PoisonError::into_inner);
        let few = |state: &mut State| state.answers.len() < together && !state.ended;
        if few(&mut state) {
            state.wanted = Some(together);
            let waited = self.enough.wait_timeout_while(state, PATIENCE, few);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.wanted = None;
        Some(std::mem::take(&mut state.answers)).filter(|answers| !answers.is_empty())
    }

    fn len(&self) -> usize {
        self.lock().answers.len()
    }
}

/// The thread.
pub(super) struct Syncing {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) common: Arc<Common>,
}

impl Syncing {
    pub(super) fn run(self) {
        // How many are known to be at it: those just answered, most of whom will come again, and those who
        // came meanwhile.
        let mut together = 1;
        while let Some(answers) = self.waiting.take(together) {
            let synced = self.common.sync(&*self.disk);
            together = answers.len() + self.waiting.len();
            answers.into_iter().for_each(|to| answer(to, synced.clone()));
        }
    }
}
