//! Owns what is shown of work while it lasts: one line that is drawn over on a terminal, plain
//! lines for long work elsewhere, nothing when quiet. Never decides what is worked on.

mod items;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use docket_graph::StepName;
use docket_runtime::{Event, ExecutionId, Observer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::console::{Console, Surface};
use crate::log::HOST;

/// How often the line is drawn while nothing happens: often enough to look alive.
const TICK: Duration = Duration::from_millis(100);

/// Shows what is being worked on.
pub(crate) struct Progress {
    console: Console,
    bar: Option<ProgressBar>,
    /// Whether the items of a batch are counted, and no steps shown.
    of_items: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    total: usize,
    over: usize,
    running: BTreeSet<StepName>,
}

/// Whether progress is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    No,
}

impl Progress {
    pub(crate) fn new(console: &Console, wanted: Wanted) -> Self {
        let bar = match (wanted, console.surface()) {
            (Wanted::Yes, Surface::Terminal) => Some(line()),
            (Wanted::No, _) | (_, Surface::Plain) => None,
        };
        console.keep_below(bar.clone());
        Self { console: console.clone(), bar, of_items: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Returns whether steps are drawn.
    pub(crate) fn is_live(&self) -> bool {
        self.bar.is_some() && !self.of_items.load(Ordering::Relaxed)
    }

    /// Says that the host will have a batch, whose steps are not drawn.
    pub(crate) fn expect_items(&self) {
        self.of_items.store(true, Ordering::Relaxed);
    }

    /// Says that a module is being compiled, which takes a while.
    pub(crate) fn compiling(&self, module: &str) {
        match &self.bar {
            Some(bar) => draw(bar, format!("compiling {module}")),
            None => tracing::info!(target: HOST, "compiling {module} (first use; kept for the next time)"),
        }
    }

    /// Removes the line; what is written from now on stays.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            self.console.keep_below(None);
            bar.finish_and_clear();
        }
    }
}

fn line() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is constant");
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style)
}

fn draw(bar: &ProgressBar, text: String) {
    bar.set_message(text);
    // Begins with the first text: a command that is done at once draws nothing.
    bar.enable_steady_tick(TICK);
}

impl Observer for Progress {
    fn on_event(&self, _: &ExecutionId, event: &Event<'_>) {
        let Some(bar) = &self.bar else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::ExecutionStarted { steps, .. } => state.total = *steps,
            Event::AttemptStarted { step, .. } => _ = state.running.insert((*step).clone()),
            Event::AttemptEnded { step, .. } => _ = state.running.remove(*step),
            Event::StepEnded { step, .. } => {
                state.running.remove(*step);
                state.over += 1;
            }
            Event::ExecutionEnded { .. } => {
                drop(state);
                return self.clear();
            }
            // What guests write and when retries are due belongs to the log.
            _ => return,
        }
        let running: Vec<_> = state.running.iter().map(StepName::as_str).collect();
        draw(bar, format!("{}/{} steps  {}", state.over, state.total, running.join(", ")));
    }
}
