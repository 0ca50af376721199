//! Random cases: a graph, how its steps are run, and what they are told to do in some executions. Never
//! knows what ought to come of it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use docket_graph::{Backoff, FailureClass, Growth, Jitter, Match, Reclassify};
use docket_runtime::{HostOptions, RetryOptions, StepOptions};
use proptest::prelude::*;
use proptest::sample::Index;

/// Wall-clock limit of an attempt, where it has a short one.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(250);

/// What the fixture's `later` asks for.
pub(crate) const LATER: Duration = Duration::from_millis(150);

/// The most steps of a graph.
const MOST_STEPS: usize = 12;

/// A graph and some executions of it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) steps: Vec<Step>,
    pub(crate) lanes: usize,
    pub(crate) executions: Vec<Told>,
}

/// One step and how it is run.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) output: String,
    /// The steps whose outputs it takes, and whether as a list.
    pub(crate) needs: Vec<(usize, bool)>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) jitter: bool,
    /// Failures that are retried against their kind, and those that are not.
    pub(crate) always: Vec<Rule>,
    pub(crate) never: Vec<Rule>,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    Class(FailureClass),
    Busy,
}

/// One execution: what its steps do at each attempt, and what stops it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) target: usize,
    /// By step, then by attempt; the last holds for all later ones.
    pub(crate) words: Vec<Vec<Word>>,
    pub(crate) stop: Option<(Stop, Duration)>,
}

/// How an execution is stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stop {
    Deadline,
    Cancel,
}

/// What a step does in one attempt: sleep, then end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word {
    pub(crate) sleep: Duration,
    pub(crate) end: End,
}

/// The ways to end, each the fixture's word for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum End {
    Done,
    Retryable,
    RetryableBusy,
    Later,
    Permanent,
    PermanentBusy,
    Abort,
    Exit,
    Trap,
    Spin,
    Wrong,
    Big,
}

impl End {
    fn word(self) -> &'static str {
        match self {
            End::Done => "done",
            End::Retryable => "retryable",
            End::RetryableBusy => "retryable-busy",
            End::Later => "later",
            End::Permanent => "permanent",
            End::PermanentBusy => "permanent-busy",
            End::Abort => "abort",
            End::Exit => "exit",
            End::Trap => "trap",
            End::Spin => "spin",
            End::Wrong => "wrong",
            End::Big => "big",
        }
    }
}

impl Case {
    /// Returns the graph as the fixture takes it.
    pub(crate) fn graph(&self) -> String {
        let need = |(index, many): &(usize, bool)| format!("{index}{}", if *many { "*" } else { "" });
        let needs = |step: &Step| step.needs.iter().map(need).collect::<Vec<_>>().join(",");
        self.steps.iter().map(|step| format!("{}<{};", step.output, needs(step))).collect()
    }

    /// Returns the operator's options for all steps.
    pub(crate) fn options(&self, base: HostOptions) -> HostOptions {
        let steps = self.steps.iter().enumerate().map(|(i, step)| (format!("S{i}"), step.options()));
        HostOptions { steps: BTreeMap::from_iter(steps), lanes: self.lanes, ..base }
    }
}

impl Step {
    fn options(&self) -> StepOptions {
        let rule = |rule: &Rule| match rule {
            Rule::Class(class) => Match::Class(*class),
            Rule::Busy => Match::Code("busy".into()),
        };
        let rules = |rules: &[Rule]| rules.iter().map(rule).collect();
        let reclassify = Reclassify { always: rules(&self.always), never: rules(&self.never) };
        let retry = RetryOptions {
            max_attempts: NonZeroU32::new(self.max_attempts),
            backoff: self.backoff,
            jitter: Some(if self.jitter { Jitter::Full } else { Jitter::None }),
            reclassify: Some(reclassify),
        };
        StepOptions { timeout: self.timeout, output: Some(60_000), retry, ..StepOptions::default() }
    }
}

impl Told {
    /// Returns the text that tells the steps what to do.
    pub(crate) fn script(&self) -> String {
        let word = |word: &Word| match word.sleep.as_millis() {
            0 => word.end.word().to_owned(),
            millis => format!("{millis}{}", word.end.word()),
        };
        let words = |words: &Vec<Word>| words.iter().map(word).collect::<Vec<_>>().join(" ");
        self.words.iter().map(words).collect::<Vec<_>>().join("|")
    }
}

/// Returns cases of two to twelve steps and up to so many executions.
pub(crate) fn cases(executions: usize) -> impl Strategy<Value = Case> {
    let lanes = prop::sample::select(vec![1_usize, 2, 4]);
    let steps = prop::collection::vec((any::<[bool; 2]>(), needs(), run()), 2..=MOST_STEPS);
    let told = prop::collection::vec(told(), 1..=executions);
    (steps, any::<bool>(), lanes, told).prop_map(|(steps, joined, lanes, told)| {
        let mut steps = joined_up(steps);
        if joined {
            let taken: BTreeSet<usize> = steps.iter().flat_map(|s| &s.needs).map(|(i, _)| *i).collect();
            let last = steps.len() - 1;
            steps[last].needs.extend((0..last).filter(|i| !taken.contains(i)).map(|i| (i, false)));
        }
        let executions = told.into_iter().map(|told| fitted(told, &steps)).collect();
        Case { steps, lanes, executions }
    })
}

/// What of a step has to do with how it is run, without its place in the graph.
fn run() -> impl Strategy<Value = Step> {
    let backoff = |(growth, initial, max)| Backoff {
        growth,
        initial: Duration::from_millis(initial),
        factor: 3.0,
        max: Option::map(max, Duration::from_millis),
    };
    let growth = prop::sample::select(vec![Growth::Fixed, Growth::Linear, Growth::Exponential]);
    let backoff = (growth, 40..120_u64, prop::option::of(100..200_u64)).prop_map(backoff);
    let (timeout, jitter) = (prop::bool::weighted(0.4), prop::bool::weighted(0.3));
    (timeout, 1..=4_u32, prop::option::of(backoff), jitter, rules(), rules()).prop_map(
        |(timed, max_attempts, backoff, jitter, always, never)| Step {
            output: String::new(),
            needs: Vec::new(),
            timeout: timed.then_some(TIMEOUT),
            max_attempts,
            backoff,
            jitter,
            always,
            never,
        },
    )
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    use FailureClass::{Abort, Answer, Permanent, Retryable, Timeout, Trap};
    let classes = [Retryable, Permanent, Abort, Timeout, Trap, Answer].map(Rule::Class);
    let rule = prop::sample::select([&classes[..], &[Rule::Busy, Rule::Busy]].concat());
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(rule, 1..3)]
}

fn needs() -> impl Strategy<Value = Vec<(Index, bool)>> {
    prop::collection::vec((any::<Index>(), prop::bool::weighted(0.2)), 0..4)
}

/// A step before its place in the graph is known: the type of its output and whether it has a label, what it takes, and
/// how it is run.
type RawStep = ([bool; 2], Vec<(Index, bool)>, Step);

/// Gives each step a port of its own, and resolves whose outputs it takes.
fn joined_up(steps: Vec<RawStep>) -> Vec<Step> {
    let mut plain = BTreeSet::new();
    let place = |(i, ([user, labelled], needs, step)): (usize, RawStep)| {
        let message = if user { "example.v1.UserID" } else { "example.v1.UserProfile" };
        // Without a label there is one of a type, and the user id is what the execution is given.
        let bare = !labelled && !user && plain.insert(message);
        let output = if bare { message.to_owned() } else { format!("{message}#s{i}") };
        let needs = needs.iter().filter(|_| i > 0).map(|(index, many)| (index.index(i), *many));
        Step { output, needs: BTreeMap::from_iter(needs).into_iter().collect(), ..step }
    };
    steps.into_iter().enumerate().map(place).collect()
}

/// What an execution is told, before it is known which steps there are: the target, whether it is the last step all
/// the same, the words and the stop.
type RawTold = (Index, bool, Vec<Vec<Word>>, Option<(Stop, Duration)>);

fn told() -> impl Strategy<Value = RawTold> {
    let stop = prop::sample::select(vec![Stop::Deadline, Stop::Cancel]);
    let stop = prop_oneof![
        3 => Just(None),
        1 => (stop, 0..500_u64).prop_map(|(stop, after)| Some((stop, Duration::from_millis(after)))),
    ];
    let words = prop::collection::vec(words(), MOST_STEPS);
    (any::<Index>(), prop::bool::weighted(0.8), words, stop)
}

/// What a step does; mostly it succeeds, so that later steps have their turn.
fn words() -> impl Strategy<Value = Vec<Word>> {
    let sleep = prop::sample::select(vec![0_u64, 0, 0, 120, 300, 450]).prop_map(Duration::from_millis);
    let end = prop_oneof![
        8 => Just(End::Done),
        4 => prop::sample::select(vec![End::Retryable, End::RetryableBusy, End::Later, End::Trap]),
        3 => prop::sample::select(vec![
            End::Permanent, End::PermanentBusy, End::Abort, End::Abort, End::Abort, End::Exit, End::Spin, End::Wrong, End::Big,
        ]),
    ];
    let word = (sleep, end).prop_map(|(sleep, end)| Word { sleep, end });
    let done = word.clone().prop_map(|word| vec![Word { end: End::Done, ..word }]);
    prop_oneof![2 => done, 1 => prop::collection::vec(word, 1..4)]
}

/// Fits what is told to the steps there are. Only what has a short limit may spin.
fn fitted((target, last, mut words, stop): RawTold, steps: &[Step]) -> Told {
    words.truncate(steps.len());
    for (words, step) in words.iter_mut().zip(steps) {
        for word in words.iter_mut().filter(|word| word.end == End::Spin && step.timeout.is_none()) {
            word.end = End::Trap;
        }
    }
    Told { target: if last { steps.len() - 1 } else { target.index(steps.len()) }, words, stop }
}
