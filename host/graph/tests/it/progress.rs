//! The machine of one execution, over random graphs, orders of completion and outcomes.

use std::num::NonZeroU32;
use std::time::Duration;

use docket_graph::prost_reflect::DescriptorPool;
use docket_graph::{
    Action, Completion, Conclusion, Elements, FailureClass, Job, NodeId, Plan, Progress, Retry, Source,
    State, StopReason,
};
use proptest::prelude::*;

use crate::support::{node_port, numbered, pool};

const DONE: Completion = Completion::Done { messages: 1 };
const KEPT: Completion = Completion::Kept { messages: 1 };

/// Returns how each node of the plan is retried.
fn retries(plan: &Plan, retry: impl Fn(NodeId) -> Retry) -> Vec<Retry> {
    plan.nodes().map(|(node, _)| retry(node)).collect()
}

/// Runs an execution on a script, and checks each action against what a bystander knows.
fn check(nodes: &[Vec<usize>], max_attempts: &[u32], script: &[u32], pool: &DescriptorPool) {
    let graph = numbered(nodes, pool).unwrap();
    let plan = Plan::of(&graph, &node_port(nodes.len() - 1), &[]).unwrap();
    let max = |node: NodeId| max_attempts[node.index() % max_attempts.len()];
    let retry = |node| Retry { max_attempts: NonZeroU32::new(max(node)).unwrap(), ..Retry::once() };
    let mut bystander =
        Bystander { plan: &plan, seen: vec![Seen::default(); plan.len()], root: None, finished: None };
    let mut progress = Progress::new(&plan, retries(&plan, retry), Elements::default());
    let mut actions = Vec::new();
    progress.start(&mut actions);
    bystander.watch(&actions, &progress, max);
    let mut script = script.iter().copied().cycle();
    let mut next = move || script.next().unwrap();
    // A script that repeats itself may say nothing but stop.
    let mut stops = 3;
    while bystander.finished.is_none() {
        actions.clear();
        if stops > 0 && next().is_multiple_of(40) {
            stops -= 1;
            let reason =
                [StopReason::Cancelled, StopReason::Deadline, StopReason::Shutdown][next() as usize % 3];
            bystander.root.get_or_insert(Conclusion::Stopped(reason));
            progress.stop(reason, &mut actions);
            bystander.watch(&actions, &progress, max);
            continue;
        }
        if next().is_multiple_of(5) {
            // Any node: most are not under way.
            let (node, _) = plan.nodes().nth(next() as usize % plan.len()).unwrap();
            let attempt = next() % 6;
            bystander.renumber(node, attempt);
            progress.renumber(Job::once(node), attempt);
            bystander.watch(&[], &progress, max);
        }
        let running: Vec<NodeId> =
            plan.nodes().map(|(n, _)| n).filter(|n| bystander.seen[n.index()].running).collect();
        let node = running[next() as usize % running.len()];
        let completion = completion(next(), bystander.seen[node.index()].stopping);
        bystander.tell(node, &completion, max(node));
        progress.on(Job::once(node), completion, &mut actions);
        bystander.watch(&actions, &progress, max);
    }
    bystander.end(&progress);
    actions.clear();
    progress.stop(StopReason::Shutdown, &mut actions);
    progress.start(&mut actions);
    plan.nodes().for_each(|(node, _)| {
        progress.on(Job::once(node), DONE, &mut actions);
        progress.renumber(Job::once(node), 9);
    });
    assert_eq!(actions, [], "nothing happens after the end");
    bystander.end(&progress);
    assert_eq!(progress.conclusion(), bystander.finished);
}

fn completion(chance: u32, stopping: bool) -> Completion {
    let failed = |class| Completion::Failed { class, code: None, retry_after: None, chance: 0.5 };
    let shared = |class| Completion::Shared { class };
    match (stopping, chance % 20) {
        (true, 0..10) => Completion::Stopped { began: chance.is_multiple_of(2) },
        (_, 0..10) => DONE,
        (_, 10) => KEPT,
        (_, 11 | 12) => failed(FailureClass::Retryable),
        (_, 13) => failed(FailureClass::Timeout),
        (_, 14) => failed(FailureClass::Permanent),
        (_, 15) => failed(FailureClass::Store),
        (_, 16) => shared(FailureClass::Retryable),
        (_, 17) => shared(FailureClass::Permanent),
        (_, 18) => shared(FailureClass::Abort),
        _ => failed(FailureClass::Abort),
    }
}

#[derive(Clone, Copy, Default)]
struct Seen {
    began: u32,
    running: bool,
    stopping: bool,
    good: bool,
    /// It failed by attempts that were made elsewhere.
    shared: bool,
}

struct Bystander<'a> {
    plan: &'a Plan,
    seen: Vec<Seen>,
    root: Option<Conclusion>,
    finished: Option<Conclusion>,
}

impl Bystander<'_> {
    fn tell(&mut self, node: NodeId, completion: &Completion, max: u32) {
        let open = self.root.is_none();
        let seen = &mut self.seen[node.index()];
        seen.running = false;
        match completion {
            Completion::Done { .. } => seen.good = true,
            Completion::Kept { .. } => (seen.good, seen.began) = (true, seen.began - 1),
            Completion::Stopped { began } => seen.began -= u32::from(!began),
            Completion::Failed { class, .. } => {
                use FailureClass::{Retryable, Store, Timeout};
                let again = matches!(class, Retryable | Store | Timeout) && seen.began < max;
                if open && !again {
                    self.root = Some(failure(Job::once(node), *class));
                }
            }
            Completion::Shared { class } => {
                (seen.shared, seen.began) = (true, seen.began - 1);
                if open {
                    self.root = Some(failure(Job::once(node), *class));
                }
            }
        }
    }

    fn renumber(&mut self, node: NodeId, attempt: u32) {
        let seen = &mut self.seen[node.index()];
        if seen.running {
            seen.began = seen.began.max(attempt);
        }
    }

    fn watch(&mut self, actions: &[Action], progress: &Progress, max: impl Fn(NodeId) -> u32) {
        for action in actions {
            assert_eq!(self.finished, None, "no action after the end: {action:?}");
            match *action {
                Action::Start { job: Job { node, .. }, attempt, delay } => {
                    assert_eq!(self.root, None, "nothing starts once there is a root cause");
                    assert_eq!(delay, Duration::ZERO);
                    for input in self.plan.inputs(node) {
                        if let Source::Node(other) = input.source {
                            assert!(self.seen[other.index()].good, "{node:?} before its producer {other:?}");
                        }
                    }
                    let seen = &mut self.seen[node.index()];
                    assert!(!seen.running && !seen.good, "{node:?} twice");
                    assert_eq!(attempt, seen.began + 1);
                    assert!(attempt <= max(node));
                    (seen.began, seen.running) = (attempt, true);
                }
                Action::Stop { job: Job { node, .. } } => {
                    assert!(self.root.is_some());
                    let seen = &mut self.seen[node.index()];
                    assert!(seen.running && !seen.stopping);
                    seen.stopping = true;
                }
                Action::Open(_)
                | Action::Recall
                | Action::Passed { .. }
                | Action::Ended { .. }
                | Action::Closed { .. } => {
                    panic!("nothing runs for each element: {action:?}")
                }
                Action::Finish(conclusion) => {
                    assert!(self.seen.iter().all(|seen| !seen.running), "something still runs");
                    assert_eq!(conclusion, self.root.unwrap_or(Conclusion::Done));
                    self.finished = Some(conclusion);
                }
            }
        }
        for (node, _) in self.plan.nodes() {
            let seen = self.seen[node.index()];
            assert_eq!(progress.attempts(Job::once(node)).unwrap(), seen.began, "{node:?}");
            if seen.running {
                assert_eq!(progress.state(Job::once(node)).unwrap(), State::Running { attempt: seen.began });
            }
        }
        assert_eq!(progress.running(), self.seen.iter().filter(|seen| seen.running).count());
        assert!(self.finished.is_some() || progress.running() > 0, "an execution that neither runs nor ends");
        let stopped = self.seen.iter().all(|seen| seen.stopping || !seen.running);
        assert!(self.root.is_none() || stopped, "a running node was not stopped");
    }

    fn end(&self, progress: &Progress) {
        for (node, _) in self.plan.nodes() {
            let Seen { began, good, shared, .. } = self.seen[node.index()];
            assert_eq!(progress.attempts(Job::once(node)).unwrap(), began);
            match progress.state(Job::once(node)).unwrap() {
                State::Done | State::Kept => assert!(good),
                State::Failed => assert!(!good && (shared || began > 0)),
                State::Stopped => assert!(!good && began > 0),
                State::NeverStarted => assert!(!good && began == 0),
                state @ (State::Waiting | State::Running { .. }) => panic!("{node:?} ended as {state:?}"),
            }
        }
        match self.finished {
            Some(Conclusion::Done) => assert!(self.seen.iter().all(|seen| seen.good)),
            Some(Conclusion::Failed { root } | Conclusion::Aborted { root }) => {
                assert_eq!(progress.state(root).unwrap(), State::Failed);
            }
            Some(Conclusion::Stopped(_)) | None => {}
        }
    }
}

fn failure(root: Job, class: FailureClass) -> Conclusion {
    match class {
        FailureClass::Abort => Conclusion::Aborted { root },
        _ => Conclusion::Failed { root },
    }
}

/// Each node takes some of those before it; the last takes all that nobody else does.
fn nodes() -> impl Strategy<Value = Vec<Vec<usize>>> {
    prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), 1..14).prop_map(
        |drawn| {
            let last = drawn.len() - 1;
            let mut nodes: Vec<Vec<usize>> = Vec::new();
            for (i, takes) in drawn.iter().enumerate() {
                nodes.push(if i == 0 {
                    Vec::new()
                } else {
                    takes.iter().map(|take| take.index(i)).collect()
                });
            }
            let taken: Vec<usize> = nodes.iter().flatten().copied().collect();
            nodes[last].extend((0..last).filter(|node| !taken.contains(node)));
            nodes
        },
    )
}

#[test]
fn every_execution_keeps_its_order_and_ends_once_with_its_root_cause() {
    let pool = pool();
    let script = prop::collection::vec(any::<u32>(), 1..200);
    let max_attempts = prop::collection::vec(1..4u32, 1..14);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) };
    proptest!(config, |(nodes in nodes(), max_attempts in max_attempts, script in script)| {
        check(&nodes, &max_attempts, &script, &pool);
    });
}

/// The nodes of the diamond 0 → {1, 2} → 3.
fn diamond() -> (Plan, Vec<NodeId>) {
    let graph = numbered(&[vec![], vec![0], vec![0], vec![1, 2]], &pool()).unwrap();
    let plan = Plan::of(&graph, &node_port(3), &[]).unwrap();
    let nodes = plan.nodes().map(|(node, _)| node).collect();
    (plan, nodes)
}

fn start(node: NodeId, attempt: u32) -> Action {
    Action::Start { job: Job::once(node), attempt, delay: Duration::ZERO }
}

fn failed(class: FailureClass) -> Completion {
    Completion::Failed { class, code: None, retry_after: None, chance: 0.0 }
}

fn on(progress: &mut Progress, node: NodeId, completion: Completion) -> Vec<Action> {
    let mut actions = Vec::new();
    progress.on(Job::once(node), completion, &mut actions);
    actions
}

#[test]
fn a_shared_producer_runs_once_and_a_join_waits_for_both() {
    let (plan, n) = diamond();
    let mut progress = Progress::new(&plan, retries(&plan, |_| Retry::once()), Elements::default());
    let mut actions = Vec::new();
    progress.start(&mut actions);
    assert_eq!(actions, [start(n[0], 1)]);
    assert_eq!(on(&mut progress, n[0], DONE), [start(n[1], 1), start(n[2], 1)]);
    assert_eq!(on(&mut progress, n[2], KEPT), []);
    assert_eq!(on(&mut progress, n[1], DONE), [start(n[3], 1)]);
    assert_eq!(on(&mut progress, n[3], DONE), [Action::Finish(Conclusion::Done)]);
    assert_eq!(n.iter().map(|n| progress.attempts(Job::once(*n)).unwrap()).collect::<Vec<_>>(), [1, 1, 0, 1]);
}

#[test]
fn a_failure_beside_a_slow_sibling_is_the_root_cause_whatever_the_sibling_says_later() {
    for late in [DONE, Completion::Stopped { began: true }, failed(FailureClass::Abort)] {
        let (plan, n) = diamond();
        let mut progress = Progress::new(&plan, retries(&plan, |_| Retry::once()), Elements::default());
        progress.start(&mut Vec::new());
        on(&mut progress, n[0], DONE);
        assert_eq!(
            on(&mut progress, n[1], failed(FailureClass::Permanent)),
            [Action::Stop { job: Job::once(n[2]) }]
        );
        assert_eq!(progress.conclusion(), None, "not before the sibling has ended");
        let root = Conclusion::Failed { root: Job::once(n[1]) };
        assert_eq!(on(&mut progress, n[2], late), [Action::Finish(root)]);
        assert_eq!(progress.state(Job::once(n[3])).unwrap(), State::NeverStarted);
    }
}

#[test]
fn a_stop_during_a_delay_ends_the_retries() {
    let (plan, n) = diamond();
    let retry = |_| Retry { max_attempts: NonZeroU32::new(3).unwrap(), ..Retry::once() };
    let mut progress = Progress::new(&plan, retries(&plan, retry), Elements::default());
    let mut actions = Vec::new();
    progress.start(&mut actions);
    assert_eq!(on(&mut progress, n[0], failed(FailureClass::Timeout)), [start(n[0], 2)]);
    actions.clear();
    progress.stop(StopReason::Deadline, &mut actions);
    assert_eq!(actions, [Action::Stop { job: Job::once(n[0]) }]);
    let end = Conclusion::Stopped(StopReason::Deadline);
    assert_eq!(on(&mut progress, n[0], Completion::Stopped { began: false }), [Action::Finish(end)]);
    assert_eq!(
        (progress.state(Job::once(n[0])).unwrap(), progress.attempts(Job::once(n[0])).unwrap()),
        (State::Stopped, 1)
    );
}

#[test]
fn attempts_count_on_from_those_before_a_restart() {
    let (plan, n) = diamond();
    let retry = |_| Retry { max_attempts: NonZeroU32::new(4).unwrap(), ..Retry::once() };
    let mut progress = Progress::new(&plan, retries(&plan, retry), Elements::default());
    progress.start(&mut Vec::new());
    progress.renumber(Job::once(n[0]), 3);
    progress.renumber(Job::once(n[0]), 2);
    progress.renumber(Job::once(n[1]), 7);
    assert_eq!(progress.state(Job::once(n[0])).unwrap(), State::Running { attempt: 3 });
    assert_eq!(
        (progress.attempts(Job::once(n[0])).unwrap(), progress.attempts(Job::once(n[1])).unwrap()),
        (3, 0)
    );
    assert_eq!(on(&mut progress, n[0], failed(FailureClass::Timeout)), [start(n[0], 4)]);
    let end = Action::Finish(Conclusion::Failed { root: Job::once(n[0]) });
    assert_eq!(on(&mut progress, n[0], failed(FailureClass::Timeout)), [end]);
    assert_eq!(progress.attempts(Job::once(n[0])).unwrap(), 4);
}

#[test]
fn the_attempt_of_a_restart_is_made_past_the_limit_and_its_failure_is_final() {
    let (plan, n) = diamond();
    let mut progress = Progress::new(&plan, retries(&plan, |_| Retry::once()), Elements::default());
    progress.start(&mut Vec::new());
    progress.renumber(Job::once(n[0]), u32::MAX);
    let end = Action::Finish(Conclusion::Failed { root: Job::once(n[0]) });
    assert_eq!(on(&mut progress, n[0], failed(FailureClass::Retryable)), [end]);
    assert_eq!(
        (progress.state(Job::once(n[0])).unwrap(), progress.attempts(Job::once(n[0])).unwrap()),
        (State::Failed, u32::MAX)
    );
}

#[test]
fn a_result_found_after_a_restart_leaves_the_attempts_that_were_made() {
    for (last, attempts) in [(KEPT, 2), (DONE, 3)] {
        let (plan, n) = diamond();
        let mut progress = Progress::new(&plan, retries(&plan, |_| Retry::once()), Elements::default());
        progress.start(&mut Vec::new());
        progress.renumber(Job::once(n[0]), 3);
        on(&mut progress, n[0], last);
        assert_eq!(progress.attempts(Job::once(n[0])).unwrap(), attempts);
    }
}

#[test]
fn a_failure_that_another_execution_had_for_good_is_not_tried_again_here() {
    for (class, root) in [
        (
            FailureClass::Retryable,
            (|root| Conclusion::Failed { root: Job::once(root) }) as fn(NodeId) -> Conclusion,
        ),
        (FailureClass::Abort, |root| Conclusion::Aborted { root: Job::once(root) }),
    ] {
        let (plan, n) = diamond();
        let retry = |_| Retry { max_attempts: NonZeroU32::new(9).unwrap(), ..Retry::once() };
        let mut progress = Progress::new(&plan, retries(&plan, retry), Elements::default());
        progress.start(&mut Vec::new());
        on(&mut progress, n[0], DONE);
        let stop = [Action::Stop { job: Job::once(n[2]) }];
        assert_eq!(on(&mut progress, n[1], Completion::Shared { class }), stop);
        assert_eq!(
            (progress.state(Job::once(n[1])).unwrap(), progress.attempts(Job::once(n[1])).unwrap()),
            (State::Failed, 0)
        );
        let late = Completion::Shared { class: FailureClass::Permanent };
        assert_eq!(on(&mut progress, n[2], late), [Action::Finish(root(n[1]))]);
        assert_eq!(
            (progress.state(Job::once(n[2])).unwrap(), progress.attempts(Job::once(n[2])).unwrap()),
            (State::Failed, 0)
        );
    }
}

#[test]
fn a_stop_before_the_start_is_the_end() {
    let (plan, n) = diamond();
    let mut progress = Progress::new(&plan, retries(&plan, |_| Retry::once()), Elements::default());
    let mut actions = Vec::new();
    progress.stop(StopReason::Cancelled, &mut actions);
    progress.start(&mut actions);
    assert_eq!(actions, [Action::Finish(Conclusion::Stopped(StopReason::Cancelled))]);
    assert_eq!(progress.state(Job::once(n[0])).unwrap(), State::NeverStarted);
}

#[test]
fn an_empty_plan_is_done_at_its_start() {
    let graph = numbered(&[vec![]], &pool()).unwrap();
    let plan = Plan::of(&graph, &node_port(0), &[node_port(0)]).unwrap();
    let mut actions = Vec::new();
    Progress::new(&plan, retries(&plan, |_| Retry::once()), Elements::default()).start(&mut actions);
    assert_eq!(actions, [Action::Finish(Conclusion::Done)]);
}
