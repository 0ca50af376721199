//! The reference: what may come of an execution, by intervals of time. It follows no events and shares no
//! code with what it judges. Never runs anything.
//!
//! Each step's attempts are laid out as if it were alone: when each begins and ends at the earliest and at
//! the latest, and how. What ends first ends the execution; where several may have been first, each is
//! allowed. What another step may have come to by then follows from its own intervals.

use std::collections::BTreeSet;
use std::time::Duration;

use docket_graph::{FailureClass, Growth};
use docket_runtime::{AttemptOutcome, AttemptReport, Report, StepOutcome, StepReport};

use crate::case::{Case, End, LATER, Rule, Step, Stop, Told, Word};

/// How much later than it should something may happen because the machine is busy.
pub(crate) const SLACK: Duration = Duration::from_millis(90);

/// How much earlier than computed something may seem to happen: clocks are read at different moments.
const EARLY: Duration = Duration::from_millis(2);

/// At the earliest and, on an idle machine, at the latest.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    from: Duration,
    to: Duration,
}

impl Span {
    const ZERO: Self = Self { from: Duration::ZERO, to: Duration::ZERO };

    fn after(self, delay: Span) -> Self {
        Self { from: self.from + delay.from, to: self.to + delay.to }
    }

    fn latest(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), to: self.to.max(other.to) }
    }

    /// The latest on a busy machine.
    fn slack(self) -> Duration {
        self.to + SLACK
    }
}

/// One attempt of a step that nothing stops.
#[derive(Debug, Clone)]
struct Attempt {
    begins: Span,
    ends: Span,
    /// How it fails, if it does.
    class: Option<FailureClass>,
    /// The least pause before it.
    pause: Duration,
}

/// What may end an execution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ending {
    Done,
    Failed { root: usize, class: FailureClass, attempts: u32 },
    Aborted { root: usize },
    Stopped(Stop),
}

/// All that may come of one execution.
#[derive(Debug)]
pub(crate) struct Allowed {
    /// By step; none where it is not needed or never has all that it needs.
    attempts: Vec<Option<Vec<Attempt>>>,
    needed: BTreeSet<usize>,
    /// Each with when it may come.
    endings: Vec<(Ending, Span)>,
}

impl Allowed {
    /// Returns what may come of an execution.
    pub(crate) fn of(case: &Case, told: &Told) -> Self {
        let needed = needed(case, told.target);
        let mut attempts: Vec<Option<Vec<Attempt>>> = vec![None; case.steps.len()];
        for &step in &needed {
            let ready = case.steps[step].needs.iter().try_fold(Span::ZERO, |ready, (need, _)| {
                let last = attempts[*need].as_ref()?.last()?;
                last.class.is_none().then(|| ready.latest(last.ends))
            });
            attempts[step] = ready.map(|ready| alone(&case.steps[step], &told.words[step], ready));
        }
        let mut endings = Vec::new();
        for &root in &needed {
            let Some(own) = &attempts[root] else { continue };
            let last = own.last().expect("at least one attempt");
            let ending = match last.class {
                None => continue,
                Some(FailureClass::Abort) => Ending::Aborted { root },
                Some(class) => Ending::Failed { root, class, attempts: own.len() as u32 },
            };
            endings.push((ending, last.ends));
        }
        if endings.is_empty() {
            let target = attempts[told.target].as_ref().and_then(|own| own.last());
            endings.push((Ending::Done, target.expect("nothing fails, so everything is reached").ends));
        }
        if let Some((stop, at)) = told.stop {
            endings.push((Ending::Stopped(stop), Span { from: at, to: at }));
        }
        let first = endings.iter().map(|(_, span)| span.slack()).min().expect("one at least");
        endings.retain(|(_, span)| span.from <= first);
        Self { attempts, needed, endings }
    }

    /// Returns whether there is one ending only.
    pub(crate) fn is_certain(&self) -> bool {
        self.endings.len() == 1
    }

    /// Returns what of the report cannot be.
    pub(crate) fn faults(&self, ending: Ending, report: &Report) -> Vec<String> {
        let Some((_, span)) = self.endings.iter().find(|(allowed, _)| *allowed == ending) else {
            return vec![format!("it ended as {ending:?}, but may only end as {:?}", self.endings)];
        };
        let end = Span { from: span.from, to: self.endings.iter().map(|(_, it)| it.to).min().expect("one") };
        let named = |name: &str| name.strip_prefix('S').and_then(|digits| digits.parse::<usize>().ok());
        let reported: BTreeSet<usize> =
            report.steps.iter().filter_map(|it| named(it.step.as_str())).collect();
        if reported != self.needed {
            return vec![format!("it reports {reported:?}, but needs {:?}", self.needed)];
        }
        let fault = |step: &StepReport| {
            let index = named(step.step.as_str()).expect("looked at just above");
            let is_root =
                matches!(ending, Ending::Failed { root, .. } | Ending::Aborted { root } if root == index);
            let fault = self.fault(index, step, end, is_root)?;
            Some(format!("{}: {fault}: {step:?} of {:?}", step.step, self.attempts[index]))
        };
        report.steps.iter().filter_map(fault).collect()
    }

    /// Returns what cannot be of one step, when the execution ended in this span.
    fn fault(&self, index: usize, report: &StepReport, end: Span, is_root: bool) -> Option<String> {
        let made = &report.attempts;
        let Some(alone) = &self.attempts[index] else {
            let idle = report.outcome == StepOutcome::NeverStarted && made.is_empty();
            return (!idle).then(|| "it never had all that it needs".to_owned());
        };
        if let Some(fault) = alone.iter().zip(made).enumerate().find_map(|(i, pair)| differs(i, pair, made)) {
            return Some(fault);
        }
        if made.len() > alone.len() {
            return Some(format!("{} attempts are made, {} are right", made.len(), alone.len()));
        }
        let last = made.len().checked_sub(1).map(|i| &alone[i]);
        let cancelled = made.last().is_some_and(|it| it.outcome == AttemptOutcome::Cancelled);
        // What still came in while all else was being stopped counts.
        let ended_by_then = |attempt: &Attempt| attempt.ends.from <= end.slack() + SLACK;
        let after = |span: Span| span.slack() >= end.from;
        let all = made.len() == alone.len();
        let fits = match (report.outcome, last) {
            (StepOutcome::NeverStarted, None) => after(alone[0].begins),
            (StepOutcome::Done, Some(last)) => all && last.class.is_none() && ended_by_then(last),
            (StepOutcome::Failed, Some(last)) if is_root => all && last.class.is_some(),
            (StepOutcome::Failed, Some(last)) => {
                !cancelled && last.class.is_some() && ended_by_then(last) && after(last.ends)
            }
            (StepOutcome::Cancelled, Some(last)) if cancelled => {
                last.begins.from <= end.slack() && after(last.ends)
            }
            (StepOutcome::Cancelled, Some(last)) => {
                !all && last.ends.from <= end.slack() && after(alone[made.len()].begins)
            }
            _ => false,
        };
        (!fits).then(|| format!("it cannot be so when the execution ends in {end:?}"))
    }

    /// Returns whether the machine was later with something than this reckons with.
    pub(crate) fn was_late(&self, report: &Report) -> bool {
        let late = |step: &StepReport| {
            let index = step.step.as_str()[1..].parse::<usize>().expect("a number");
            let alone = self.attempts[index].as_deref().unwrap_or_default();
            alone.iter().zip(&step.attempts).any(|(alone, made)| {
                made.started_after > alone.begins.slack()
                    || made.started_after + made.elapsed > alone.ends.slack()
            })
        };
        report.steps.iter().any(late)
    }
}

/// Returns how an attempt that was made is not the one that is right.
fn differs(i: usize, (alone, made): (&Attempt, &AttemptReport), all: &[AttemptReport]) -> Option<String> {
    let right = match alone.class {
        None => AttemptOutcome::Done,
        Some(class) => AttemptOutcome::Failed(class),
    };
    let last = i + 1 == all.len();
    if made.attempt as usize != i + 1 {
        return Some(format!("attempt {} stands in the place of {}", made.attempt, i + 1));
    }
    if made.outcome != right && !(last && made.outcome == AttemptOutcome::Cancelled) {
        return Some(format!("attempt {} is {:?}, but {right:?} is right", i + 1, made.outcome));
    }
    if made.started_after + EARLY < alone.begins.from {
        return Some(format!("attempt {} began too early", i + 1));
    }
    let paused =
        i.checked_sub(1).map(|i| made.started_after.saturating_sub(all[i].started_after + all[i].elapsed));
    let hasty = paused.is_some_and(|paused| paused + EARLY < alone.pause);
    hasty.then(|| format!("attempt {} began after {paused:?}, not {:?}", i + 1, alone.pause))
}

/// Returns the target and all that it needs, before what needs it.
fn needed(case: &Case, target: usize) -> BTreeSet<usize> {
    let mut needed = BTreeSet::from([target]);
    for step in (0..=target).rev().filter(|step| *step <= target) {
        if needed.contains(&step) {
            needed.extend(case.steps[step].needs.iter().map(|(need, _)| *need));
        }
    }
    needed
}

/// Lays out the attempts of a step that nothing stops.
fn alone(step: &Step, words: &[Word], ready: Span) -> Vec<Attempt> {
    let mut attempts: Vec<Attempt> = Vec::new();
    let (mut begins, mut pause) = (ready, Duration::ZERO);
    loop {
        let number = attempts.len() as u32 + 1;
        let word = words[(attempts.len()).min(words.len() - 1)];
        let (class, takes, asks) = ending(step, word);
        let ends = begins.after(Span { from: takes, to: takes });
        attempts.push(Attempt { begins, ends, class, pause });
        let Some(class) = class else { return attempts };
        let busy =
            matches!(word.end, End::RetryableBusy | End::PermanentBusy) && class != FailureClass::Timeout;
        if number >= step.max_attempts || !is_retried(step, class, busy) {
            return attempts;
        }
        let delay = delay(step, number, asks);
        (begins, pause) = (ends.after(delay), delay.from);
    }
}

/// Returns how an attempt fails, if it does, how long it takes, and what pause it asks for.
fn ending(step: &Step, word: Word) -> (Option<FailureClass>, Duration, Duration) {
    if let Some(limit) = step.timeout.filter(|limit| word.sleep >= *limit || word.end == End::Spin) {
        return (Some(FailureClass::Timeout), limit, Duration::ZERO);
    }
    let class = match word.end {
        End::Done => None,
        End::Retryable | End::RetryableBusy | End::Later => Some(FailureClass::Retryable),
        End::Permanent | End::PermanentBusy => Some(FailureClass::Permanent),
        End::Abort => Some(FailureClass::Abort),
        End::Exit => Some(FailureClass::Exit),
        End::Trap => Some(FailureClass::Trap),
        End::Wrong => Some(FailureClass::Answer),
        End::Big => Some(FailureClass::Output),
        End::Spin => unreachable!("only what has a short limit spins"),
    };
    (class, word.sleep, if word.end == End::Later { LATER } else { Duration::ZERO })
}

/// The rules of retrying, as the contract says them: a code wins over a class, `never` over `always`, an
/// abort stays one, and by themselves `retryable` and timeouts are tried again.
fn is_retried(step: &Step, class: FailureClass, busy: bool) -> bool {
    let of_class = |rules: &[Rule]| rules.contains(&Rule::Class(class));
    let of_code = |rules: &[Rule]| busy && rules.contains(&Rule::Busy);
    match class {
        FailureClass::Abort => false,
        _ if of_code(&step.never) => false,
        _ if of_code(&step.always) => true,
        _ if of_class(&step.never) => false,
        _ if of_class(&step.always) => true,
        FailureClass::Retryable | FailureClass::Timeout => true,
        _ => false,
    }
}

/// The pause after the attempt of this number: initial, initial*n or initial*3^(n-1), at most the maximum,
/// at least what the failure asks for.
fn delay(step: &Step, number: u32, asks: Duration) -> Span {
    let Some(backoff) = step.backoff else { return Span { from: asks, to: asks } };
    let factor = match backoff.growth {
        Growth::Fixed => 1,
        Growth::Linear => number,
        Growth::Exponential => 3_u32.pow(number - 1),
    };
    let grown = (backoff.initial * factor).min(backoff.max.unwrap_or(Duration::MAX));
    let shortest = if step.jitter { Duration::ZERO } else { grown };
    Span { from: shortest.max(asks), to: grown.max(asks) }
}
