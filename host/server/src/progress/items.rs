//! Owns what is shown of a batch while it lasts: a bar on a terminal, a line now and then elsewhere. Never decides how
//! far it is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use docket_runtime::{BatchProgress, Every, ItemCounts};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Progress, TICK};
use crate::items::Taken;
use crate::log::HOST;

/// How often a line is written where nothing can be drawn over. 5 s: often enough to see that it goes on, seldom enough
/// for a log.
const LINE: Duration = Duration::from_secs(5);

/// The parts of a bar: finer than a terminal is wide.
const PARTS: u64 = 1000;

impl Progress {
    /// Shows how far a batch is, for as long as this is awaited: it never ends by itself.
    pub(crate) async fn show_items(&self, progress: &BatchProgress, taken: &Taken) {
        if let Some(bar) = &self.bar {
            draw(bar, taken.size.is_some());
        }
        let mut every = Every::new(if self.bar.is_some() { TICK } else { LINE });
        loop {
            let elapsed = every.next().await;
            let counts = progress.counts();
            let share = share(counts, taken);
            let text = said(counts, elapsed, share);
            match &self.bar {
                Some(bar) => {
                    // A share is at most 1, so that nothing is cut off.
                    bar.set_position((share.unwrap_or(0.0) * PARTS as f64) as u64);
                    bar.set_message(text);
                }
                None => tracing::info!(target: HOST, "{text}"),
            }
        }
    }
}

fn draw(bar: &ProgressBar, is_measured: bool) {
    let template = if is_measured { "{bar:24} {percent:>3}%  {wide_msg}" } else { "{spinner} {wide_msg}" };
    bar.set_style(ProgressStyle::with_template(template).expect("the templates are constant"));
    bar.set_length(PARTS);
    bar.set_message("");
    bar.enable_steady_tick(TICK);
}

/// Returns which share of all items has ended, by their bytes: those that were taken and have not ended are held to be
/// as large as the others. None where the size of all is not known.
fn share(counts: ItemCounts, taken: &Taken) -> Option<f64> {
    let size = taken.size.filter(|size| *size > 0)? as f64;
    let ended = (counts.done + counts.failed) as f64 / counts.read.max(1) as f64;
    Some((taken.bytes.load(Ordering::Relaxed) as f64 / size * ended).min(1.0))
}

/// Says how far a batch is, how fast that went, and how long the rest will take.
fn said(counts: ItemCounts, elapsed: Duration, share: Option<f64>) -> String {
    let ended = counts.done + counts.failed;
    let items = if ended == 1 { "item" } else { "items" };
    let failed = if counts.failed == 0 { String::new() } else { format!(", {} failed", counts.failed) };
    let rate = ended as f64 / elapsed.as_secs_f64().max(f64::EPSILON);
    let rate = if rate < 10.0 { format!("{rate:.1}/s") } else { format!("{rate:.0}/s") };
    let rest = share.filter(|share| *share > 0.0).and_then(|share| {
        let rest = Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - share) / share).ok()?;
        Some(format!(", {} left", humantime::format_duration(Duration::from_secs(rest.as_secs()))))
    });
    format!("{ended} {items}{failed}, {rate}{}", rest.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn check(counts: (u64, u64, u64), bytes: u64, size: Option<u64>, expected: &str) {
        let (read, done, failed) = counts;
        let counts = ItemCounts { read, done, failed };
        let taken = Taken { size, bytes: Arc::new(AtomicU64::new(bytes)), progress: Arc::default() };
        assert_eq!(said(counts, Duration::from_secs(10), share(counts, &taken)), expected);
    }

    #[test]
    fn a_batch_says_how_far_it_is_how_fast_and_where_the_size_is_known_how_long_it_takes() {
        check((0, 0, 0), 0, None, "0 items, 0.0/s");
        check((64, 1, 0), 640, None, "1 item, 0.1/s");
        check((1000, 900, 100), 500, Some(1000), "1000 items, 100 failed, 100/s, 10s left");
        // Half of what was read has ended, so that a quarter of all has.
        check((200, 100, 0), 500, Some(1000), "100 items, 10/s, 30s left");
        check((0, 0, 0), 0, Some(1000), "0 items, 0.0/s");
        check((5, 5, 0), 0, Some(0), "5 items, 0.5/s");
        check((5, 5, 0), 2000, Some(1000), "5 items, 0.5/s, 0s left");
    }
}
