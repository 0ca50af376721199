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

    /// Returns how many the thread waits for; none while it is at a sync.
    #[cfg(test)]
    pub(super) fn wanted(&self) -> Option<usize> {
        self.lock().wanted
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use tokio::sync::oneshot;

    use super::*;

    /// How long a test waits for what comes at once, before it says that it does not come.
    const NEVER: Duration = Duration::from_secs(20);

    /// Somebody who wants to be answered, and has gone.
    fn somebody() -> [Answer; 1] {
        [oneshot::channel().0]
    }

    #[test]
    fn a_sync_waits_a_little_for_those_who_are_about_to_come() {
        let waiting = Waiting::default();
        let is_over = AtomicBool::new(false);
        // Comes only once somebody waits for a second one.
        let second = || {
            while !is_over.load(Ordering::Relaxed) {
                if waiting.wanted() == Some(2) {
                    waiting.add(somebody());
                }
                thread::yield_now();
            }
        };
        let is_joined = thread::scope(|scope| {
            scope.spawn(second);
            // Whoever comes too late comes in time for one of the next.
            let is_joined = (0..1000).any(|_| {
                waiting.add(somebody());
                waiting.take(2).is_some_and(|answers| answers.len() == 2)
            });
            is_over.store(true, Ordering::Relaxed);
            is_joined
        });
        assert!(is_joined, "nobody was waited for");
    }

    #[test]
    fn a_sync_is_not_long_in_coming_where_nobody_else_comes() {
        let (taken, takes) = mpsc::channel();
        thread::spawn(move || {
            let waiting = Waiting::default();
            for _ in 0..100 {
                waiting.add(somebody());
                taken.send(waiting.take(1000).map(|answers| answers.len())).unwrap();
            }
        });
        for n in 1..=100 {
            assert_eq!(takes.recv_timeout(NEVER), Ok(Some(1)), "the sync {n}");
        }
    }

    #[test]
    fn whoever_waits_for_so_many_is_woken_when_the_last_of_them_comes() {
        let waiting = Waiting::default();
        for wanted in [1, 2, 3] {
            let mut state = waiting.lock();
            state.wanted = Some(wanted);
            thread::scope(|scope| {
                scope.spawn(|| (0..wanted).for_each(|_| waiting.add(somebody())));
                while state.answers.len() < wanted {
                    let (locked, woken) = waiting.enough.wait_timeout(state, NEVER).unwrap();
                    assert!(!woken.timed_out(), "{} of {wanted} have come", locked.answers.len());
                    state = locked;
                }
                state.answers.clear();
                assert_eq!(state.wanted, None);
                drop(state);
            });
        }
    }
}
