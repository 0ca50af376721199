//! Owns how a step wants to be run, and the one decision in it: whether and when a failed attempt is tried again.
//! Never draws a random number and never waits: chance comes in, a delay goes out.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest delay between two attempts: one day. A longer one is a slip of units or an overflow, and keeps an
/// execution open past anybody's patience; a step that must wait for days should fail and be asked for again.
pub const LONGEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a step asks of the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Wall-clock limit of one attempt.
    pub timeout: Option<Duration>,
    /// Whether a failed attempt is tried again; none is one attempt.
    pub retry: Option<Retry>,
    /// Whether the result is kept.
    pub persistence: Option<Persistence>,
    /// The most attempts of the step that run at once in one host.
    pub max_concurrency: Option<NonZeroU32>,
}

/// How far a kept result is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Within one execution id.
    Workflow,
    /// Among all executions of the tenant.
    Global,
}

/// How a result is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// Who may be served the kept result.
    pub scope: Scope,
    /// How long it may be served; none is for ever.
    pub ttl: Option<Duration>,
}

/// How the delay grows; n is the number of the attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Growth {
    /// `initial`
    Fixed,
    /// `initial * n`
    Linear,
    /// `initial * factor^(n-1)`
    Exponential,
}

/// The delay between attempts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The formula.
    pub growth: Growth,
    /// The delay before the second attempt.
    pub initial: Duration,
    /// The base of exponential growth; below 1 it counts as 1.
    pub factor: f64,
    /// An upper bound; none leaves only [`LONGEST_DELAY`].
    pub max: Option<Duration>,
}

/// How chance changes a delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Jitter {
    /// Not at all.
    None,
    /// The delay is drawn evenly from zero up to its computed length.
    Full,
}

/// Why an attempt failed, as far as trying again is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The step says: try again.
    Retryable,
    /// The step says: trying again is useless.
    Permanent,
    /// The step says: stop the whole execution.
    Abort,
    /// The attempt took longer than its limit.
    Timeout,
    /// The guest computed for longer than it may.
    Cpu,
    /// The guest trapped.
    Trap,
    /// The guest called itself more deeply than its stack allows.
    Stack,
    /// The guest called exit.
    Exit,
    /// The guest used up its fuel.
    Fuel,
    /// The guest asked for more memory than it may have.
    Memory,
    /// The guest asked for more table elements than it may have.
    Table,
    /// The answer is larger than allowed.
    Output,
    /// The guest wrote more to its standard output or error than allowed.
    Logs,
    /// The guest held more files open, or wrote more into directories, than allowed.
    Files,
    /// The guest used what nobody granted it, or what was granted could not be given.
    Grant,
    /// The guest asked for more HTTP than it may have.
    Http,
    /// The answer is not what was declared: the wrong arity, or bytes that are not the message.
    Answer,
    /// The store could not be read or written.
    Store,
    /// The host's own fault.
    Internal,
}

impl FailureClass {
    /// Whether a failure of this class is tried again when nothing else was said: the step's own `retryable`, a timeout,
    /// and a store that did not answer. Everything else would most likely end the same way, or must not be repeated.
    pub fn is_retried_by_default(self) -> bool {
        match self {
            Self::Retryable | Self::Timeout | Self::Store => true,
            Self::Permanent
            | Self::Abort
            | Self::Cpu
            | Self::Trap
            | Self::Stack
            | Self::Exit
            | Self::Fuel
            | Self::Memory
            | Self::Table
            | Self::Output
            | Self::Logs
            | Self::Files
            | Self::Grant
            | Self::Http
            | Self::Answer
            | Self::Internal => false,
        }
    }
}

/// Which failures a rule of [`Reclassify`] is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Match {
    /// All of one class.
    Class(FailureClass),
    /// Those that the step gave this code.
    Code(Arc<str>),
}

/// What the operator says about trying again. A code wins over a class, `never` over `always`; an abort stays an abort.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reclassify {
    /// Failures that are tried again.
    pub always: Vec<Match>,
    /// Failures that are not.
    pub never: Vec<Match>,
}

impl Reclassify {
    /// Returns whether a failure is worth another attempt.
    pub fn is_retried(&self, class: FailureClass, code: Option<&str>) -> bool {
        let class_in = |rules: &[Match]| rules.iter().any(|r| matches!(r, Match::Class(c) if *c == class));
        let code_in =
            |rules: &[Match]| rules.iter().any(|r| matches!(r, Match::Code(c) if Some(&**c) == code));
        if class == FailureClass::Abort || code_in(&self.never) {
            return false;
        }
        if code_in(&self.always) {
            return true;
        }
        !class_in(&self.never) && (class_in(&self.always) || class.is_retried_by_default())
    }
}

/// When and how often a failed attempt is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// All attempts together, the first included.
    pub max_attempts: NonZeroU32,
    /// The delay between attempts; none tries again at once.
    pub backoff: Option<Backoff>,
    /// How chance changes the delay.
    pub jitter: Jitter,
    /// What the operator says about trying again.
    pub reclassify: Reclassify,
}

impl Retry {
    /// Returns the policy of a step that says nothing: one attempt.
    pub fn once() -> Self {
        Self {
            max_attempts: NonZeroU32::MIN,
            backoff: None,
            jitter: Jitter::None,
            reclassify: Reclassify::default(),
        }
    }

    /// Returns how long to wait before attempt `failed_attempt + 1`, or none when there is to be none.
    ///
    /// `chance` is drawn evenly from `[0, 1)` by the caller and matters only with jitter. `retry_after` is the
    /// least delay that the failure asks for; no cap of the backoff shortens it, but [`LONGEST_DELAY`] does.
    pub fn delay_after(
        &self,
        failed_attempt: u32,
        class: FailureClass,
        code: Option<&str>,
        retry_after: Option<Duration>,
        chance: f64,
    ) -> Option<Duration> {
        if failed_attempt >= self.max_attempts.get() || !self.reclassify.is_retried(class, code) {
            return None;
        }
        let computed = self.backoff.map_or(Duration::ZERO, |backoff| backoff.delay_after(failed_attempt));
        let drawn = match self.jitter {
            Jitter::None => computed,
            // A duration cannot be multiplied by what is no number.
            Jitter::Full if chance.is_nan() => computed,
            Jitter::Full => computed.mul_f64(chance.clamp(0.0, 1.0)),
        };
        Some(drawn.max(retry_after.unwrap_or_default()).min(LONGEST_DELAY))
    }
}

impl Backoff {
    /// Returns the delay after the attempt of this number, before jitter.
    fn delay_after(&self, failed_attempt: u32) -> Duration {
        let n = failed_attempt.max(1);
        let grown = match self.growth {
            Growth::Fixed => self.initial,
            Growth::Linear => self.initial.saturating_mul(n),
            Growth::Exponential => self.exponential(n),
        };
        grown.min(self.max.unwrap_or(LONGEST_DELAY)).min(LONGEST_DELAY)
    }

    fn exponential(&self, n: u32) -> Duration {
        if self.initial.is_zero() {
            // Zero times an infinite power is not a number.
            return Duration::ZERO;
        }
        let seconds = self.initial.as_secs_f64() * self.factor.max(1.0).powf(f64::from(n - 1));
        Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn retry(max_attempts: u32, backoff: Option<Backoff>) -> Retry {
        Retry { max_attempts: NonZeroU32::new(max_attempts).unwrap(), backoff, ..Retry::once() }
    }

    fn backoff(growth: Growth, factor: f64, max: Option<u64>) -> Option<Backoff> {
        Some(Backoff { growth, initial: ms(100), factor, max: max.map(ms) })
    }

    fn delays(retry: &Retry) -> Vec<u128> {
        (1..)
            .map_while(|n| retry.delay_after(n, FailureClass::Retryable, None, None, 0.5))
            .map(|d| d.as_millis())
            .collect()
    }

    #[test]
    fn delays_follow_the_formula_of_their_growth() {
        assert_eq!(delays(&Retry::once()), [] as [u128; 0]);
        assert_eq!(delays(&retry(3, None)), [0, 0]);
        assert_eq!(delays(&retry(4, backoff(Growth::Fixed, 9.0, None))), [100, 100, 100]);
        assert_eq!(delays(&retry(4, backoff(Growth::Linear, 9.0, None))), [100, 200, 300]);
        assert_eq!(delays(&retry(5, backoff(Growth::Exponential, 2.0, None))), [100, 200, 400, 800]);
        assert_eq!(delays(&retry(5, backoff(Growth::Exponential, 2.0, Some(300)))), [100, 200, 300, 300]);
    }

    #[test]
    fn without_a_cap_a_delay_grows_to_the_longest_and_stays_there() {
        let retry = retry(u32::MAX, backoff(Growth::Exponential, 10.0, None));
        let after = |n| retry.delay_after(n, FailureClass::Timeout, None, None, 0.0).unwrap();
        assert_eq!(after(3), ms(10_000));
        assert_eq!(after(400), LONGEST_DELAY);
        assert_eq!(after(u32::MAX - 1), LONGEST_DELAY);
    }

    #[test]
    fn jitter_scales_the_delay_and_retry_after_bounds_it_from_below() {
        let retry = Retry { jitter: Jitter::Full, ..retry(9, backoff(Growth::Fixed, 1.0, Some(100))) };
        let after = |chance, at_least| {
            retry.delay_after(1, FailureClass::Retryable, None, Some(ms(at_least)), chance).unwrap()
        };
        assert_eq!(after(0.25, 0), ms(25));
        assert_eq!(after(0.25, 60), ms(60));
        assert_eq!(after(0.0, 5_000), ms(5_000));
        assert_eq!(after(0.0, u64::MAX), LONGEST_DELAY);
    }

    #[test]
    fn only_retryable_failures_timeouts_and_the_stores_are_tried_again_unless_reclassified() {
        use FailureClass::*;
        let all = [
            Retryable, Permanent, Abort, Timeout, Cpu, Trap, Stack, Exit, Fuel, Memory, Table, Output, Logs,
            Files, Grant, Http, Answer, Store, Internal,
        ];
        let retried = |rules: &Reclassify| {
            all.iter().copied().filter(|c| rules.is_retried(*c, None)).collect::<Vec<_>>()
        };
        assert_eq!(retried(&Reclassify::default()), [Retryable, Timeout, Store]);
        let rules = Reclassify {
            always: vec![Match::Class(Trap), Match::Class(Abort), Match::Code("busy".into())],
            never: vec![Match::Class(Timeout), Match::Code("card_declined".into())],
        };
        assert_eq!(retried(&rules), [Retryable, Trap, Store]);
        assert!(rules.is_retried(Permanent, Some("busy")));
        assert!(rules.is_retried(Timeout, Some("busy")), "a code wins over a class");
        assert!(!rules.is_retried(Retryable, Some("card_declined")));
        assert!(!rules.is_retried(Abort, Some("busy")), "an abort stays an abort");
        let never = Reclassify { never: vec![Match::Class(Store)], ..Reclassify::default() };
        assert_eq!(retried(&never), [Retryable, Timeout]);
    }

    #[test]
    fn each_class_is_configured_by_one_word() {
        for (class, word) in [
            (FailureClass::Retryable, "retryable"),
            (FailureClass::Timeout, "timeout"),
            (FailureClass::Store, "store"),
            (FailureClass::Internal, "internal"),
        ] {
            assert_eq!(serde_json::to_value(class).unwrap(), word);
        }
    }

    proptest! {
        #[test]
        fn no_input_makes_a_delay_panic_or_pass_the_longest(
            attempt: u32, max_attempts in 1u32.., growth in 0..3u8, initial: u64, factor: f64,
            max: Option<u64>, jitter: bool, after: Option<u64>, chance: f64,
        ) {
            let growth = [Growth::Fixed, Growth::Linear, Growth::Exponential][usize::from(growth)];
            let backoff = Backoff { growth, initial: ms(initial), factor, max: max.map(ms) };
            let retry = Retry {
                jitter: if jitter { Jitter::Full } else { Jitter::None },
                ..retry(max_attempts, Some(backoff))
            };
            let delay = retry.delay_after(attempt, FailureClass::Retryable, None, after.map(ms), chance);
            prop_assert_eq!(delay.is_some(), attempt < max_attempts);
            prop_assert!(delay.is_none_or(|d| d <= LONGEST_DELAY && d >= ms(after.unwrap_or(0)).min(LONGEST_DELAY)));
        }
    }
}
