//! How a step asks to be run. Owns the wishes; the operator's configuration overrides each of them.

use std::time::Duration;

use crate::wire;

/// How far a kept result is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Within one execution id.
    Workflow,
    /// Among all executions of the tenant.
    Global,
}

impl From<Scope> for wire::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Workflow => Self::Workflow,
            Scope::Global => Self::Global,
        }
    }
}

/// When and how often a failed attempt is tried again. `attempts` counts all of them, the first
/// included.
///
/// ```
/// use docket_guest::Retry;
/// use std::time::Duration;
///
/// // 100 ms, 200 ms, 400 ms, 800 ms, then 1 s for ever; each drawn evenly from zero up to that.
/// let retry = Retry::exponential(10, Duration::from_millis(100)).max_delay(Duration::from_secs(1)).jitter();
/// # let _ = retry;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    attempts: u32,
    backoff: Option<Backoff>,
    jitter: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Backoff {
    growth: Growth,
    initial: Duration,
    max: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Growth {
    Fixed,
    Linear,
    Exponential { factor: f64 },
}

impl Retry {
    /// The growth of [`Retry::exponential`] unless [`Retry::factor`] says otherwise. Doubling: the
    /// common choice, and ten attempts stay within minutes of a delay of 100 ms.
    const FACTOR: f64 = 2.0;

    /// One attempt.
    pub fn none() -> Self {
        Self { attempts: 1, backoff: None, jitter: false }
    }

    /// The next attempt follows at once.
    pub fn immediate(attempts: u32) -> Self {
        Self { attempts, ..Self::none() }
    }

    /// The same delay before each further attempt.
    pub fn fixed(attempts: u32, delay: Duration) -> Self {
        Self::growing(attempts, delay, Growth::Fixed)
    }

    /// `initial`, twice `initial`, three times `initial`, and so on.
    pub fn linear(attempts: u32, initial: Duration) -> Self {
        Self::growing(attempts, initial, Growth::Linear)
    }

    /// `initial`, then each delay twice the one before; see [`Retry::factor`].
    pub fn exponential(attempts: u32, initial: Duration) -> Self {
        Self::growing(attempts, initial, Growth::Exponential { factor: Self::FACTOR })
    }

    /// Makes the growth exponential, each delay `factor` times the one before. Finite, at least 1.
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        if let Some(backoff) = &mut self.backoff {
            backoff.growth = Growth::Exponential { factor };
        }
        self
    }

    /// Bounds each delay. Without it the growth is not capped.
    #[must_use]
    pub fn max_delay(mut self, max: Duration) -> Self {
        if let Some(backoff) = &mut self.backoff {
            backoff.max = Some(max);
        }
        self
    }

    /// Draws each delay evenly from zero up to its computed length.
    #[must_use]
    pub fn jitter(mut self) -> Self {
        self.jitter = true;
        self
    }

    fn growing(attempts: u32, initial: Duration, growth: Growth) -> Self {
        Self { attempts, backoff: Some(Backoff { growth, initial, max: None }), jitter: false }
    }
}

impl From<Retry> for wire::Retry {
    fn from(retry: Retry) -> Self {
        let Retry { attempts, backoff, jitter } = retry;
        Self { max_attempts: attempts, backoff: backoff.map(wire::Backoff::from), jitter }
    }
}

impl From<Backoff> for wire::Backoff {
    fn from(backoff: Backoff) -> Self {
        let Backoff { growth, initial, max } = backoff;
        let (growth, factor) = match growth {
            Growth::Fixed => (wire::Growth::Fixed, 1.0),
            Growth::Linear => (wire::Growth::Linear, 1.0),
            Growth::Exponential { factor } => (wire::Growth::Exponential, factor),
        };
        Self { growth, initial_ms: milliseconds(initial), factor, max_ms: max.map(milliseconds) }
    }
}

/// Whole milliseconds, rounded up, so that a short duration is never none at all.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(100);

    fn check(retry: Retry, attempts: u32, jitter: bool, backoff: Option<(wire::Growth, f64, Option<u64>)>) {
        let wire = wire::Retry::from(retry);
        assert_eq!((wire.max_attempts, wire.jitter), (attempts, jitter));
        let given = wire.backoff.map(|backoff| {
            assert_eq!(backoff.initial_ms, 100);
            (backoff.growth, backoff.factor, backoff.max_ms)
        });
        assert_eq!(given, backoff);
    }

    #[test]
    fn each_constructor_declares_what_it_says() {
        check(Retry::none(), 1, false, None);
        check(Retry::immediate(4), 4, false, None);
        check(Retry::fixed(3, DELAY), 3, false, Some((wire::Growth::Fixed, 1.0, None)));
        check(Retry::linear(3, DELAY), 3, false, Some((wire::Growth::Linear, 1.0, None)));
        check(Retry::exponential(5, DELAY), 5, false, Some((wire::Growth::Exponential, 2.0, None)));
    }

    #[test]
    fn factor_cap_and_jitter_are_declared() {
        let retry = Retry::exponential(5, DELAY).factor(1.5).max_delay(Duration::from_secs(2)).jitter();
        check(retry, 5, true, Some((wire::Growth::Exponential, 1.5, Some(2000))));
    }

    #[test]
    fn a_duration_below_a_millisecond_is_one_millisecond() {
        assert_eq!(milliseconds(Duration::from_micros(1)), 1);
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::MAX), u64::MAX);
    }
}
