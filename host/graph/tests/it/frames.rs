//! The machine over lists and items, step by step.

use std::num::NonZeroU32;

use docket_graph::{
    Action, Completion, Conclusion, Element, Elements, Ending, FailureClass, FrameId, Graph, Job, NodeId,
    OnItemError, Plan, Progress, Retry, State, StopReason,
};

use crate::support::{port, raw_module};

/// An execution, and what it did since it was last asked.
struct Machine {
    plan: Plan,
    progress: Progress,
    actions: Vec<Action>,
}

impl Machine {
    /// The last of `given` comes as items if `on_item_error` is said.
    fn start(
        steps: &[(&str, &str)],
        target: &str,
        given: &[&str],
        width: u32,
        on_item_error: Option<OnItemError>,
    ) -> Self {
        let graph = Graph::read([("m", &raw_module(steps))]).unwrap();
        let given: Vec<_> = given.iter().map(|text| port(text)).collect();
        let plan = match on_item_error {
            Some(_) => Plan::of_items(&graph, &port(target), &given, given.len() - 1),
            None => Plan::of(&graph, &port(target), &given),
        };
        let plan = plan.unwrap();
        let width = NonZeroU32::new(width).unwrap();
        let on_item_error = on_item_error.unwrap_or(OnItemError::Fail);
        let held = width.saturating_add(1);
        let elements = Elements { width, held, on_item_error };
        let mut progress = Progress::new(&plan, vec![Retry::once(); plan.len()], elements);
        let mut actions = Vec::new();
        progress.start(&mut actions);
        Self { plan, progress, actions }
    }

    fn node(&self, position: usize) -> NodeId {
        self.plan.nodes().nth(position).unwrap().0
    }

    fn on(&mut self, job: Job, completion: Completion) {
        self.progress.on(job, completion, &mut self.actions);
    }

    fn done(&mut self, job: Job, messages: u64) {
        self.on(job, Completion::Done { messages });
    }

    fn item(&mut self) -> Option<FrameId> {
        self.progress.item(&mut self.actions)
    }

    /// Returns what was done since the last time, as `open 0`, `start 1`, `stop`, `passed`, `done`, `failed`, `stopped`, with
    /// indices of elements and positions of nodes, `closed ELEMENTS FAILED` and `finish`.
    fn did(&mut self) -> String {
        let index = |frame| self.progress.path(frame).and_then(|path| Some(path.last()?.1));
        let job = |job: Job| match index(job.frame) {
            Some(index) => format!("{}.{index}", job.node.index()),
            None => job.node.index().to_string(),
        };
        let did = self.actions.iter().map(|action| match *action {
            Action::Open(Element { index, .. }) => format!("open {index}"),
            Action::Start { job: of, .. } => format!("start {}", job(of)),
            Action::Stop { job: of } => format!("stop {}", job(of)),
            Action::Recall => "recall".to_owned(),
            Action::Passed { element, stage } => format!("passed {} {stage}", element.index),
            Action::Ended { element, how: Ending::Done } => format!("done {}", element.index),
            Action::Ended { element, how: Ending::Failed { root } } => {
                format!("failed {} by {}", element.index, root.node.index())
            }
            Action::Ended { element, how: Ending::Stopped } => format!("stopped {}", element.index),
            Action::Closed { elements, failed, .. } => format!("closed {elements} {failed}"),
            Action::Finish(_) => "finish".to_owned(),
        });
        let did = did.collect::<Vec<_>>().join(", ");
        self.actions.clear();
        did
    }
}

const WORDS: [(&str, &str); 3] = [
    ("Split", "t.Text -> t.Text#word[]"),
    ("Length", "t.Text#word -> t.Number#length"),
    ("Sum", "t.Number#length[] -> t.Number"),
];

fn failed() -> Completion {
    Completion::Failed { class: FailureClass::Permanent, code: None, retry_after: None, chance: 0.0 }
}

fn jobs(actions: &[Action]) -> Vec<Job> {
    actions
        .iter()
        .filter_map(|action| if let Action::Start { job, .. } = action { Some(*job) } else { None })
        .collect()
}

#[test]
fn an_empty_list_closes_at_once_and_is_gathered() {
    let mut machine = Machine::start(&WORDS, "t.Number", &["t.Text"], 2, None);
    assert_eq!(machine.did(), "start 0");
    machine.done(Job::once(machine.node(0)), 0);
    assert_eq!(machine.did(), "closed 0 0, start 2");
    machine.done(Job::once(machine.node(2)), 1);
    assert_eq!(machine.did(), "finish");
}

#[test]
fn elements_come_in_order_as_there_is_room_and_their_places_are_used_again() {
    let mut machine = Machine::start(&WORDS, "t.Number", &["t.Text"], 2, None);
    machine.done(Job::once(machine.node(0)), 4);
    let started = jobs(&machine.actions);
    assert_eq!(machine.did(), "start 0, open 0, start 1.0, open 1, start 1.1");
    machine.done(started[2], 1);
    assert_eq!(machine.did(), "done 1, open 2, start 1.2");
    machine.done(started[1], 1);
    let third = jobs(&machine.actions)[0];
    assert_eq!(machine.did(), "done 0, open 3, start 1.3");
    assert_eq!(third.frame.slot(), started[2].frame.slot(), "the place of the first that ended");
    // It has the place, but is another.
    assert_eq!(machine.progress.state(started[2]), None);
    machine.done(started[2], 1);
    machine.on(started[2], failed());
    assert_eq!((machine.did().as_str(), machine.progress.running()), ("", 2));
    machine.on(third, failed());
    assert_eq!(machine.did(), "stop 1.2");
    assert_eq!(machine.progress.root_path().iter().map(|(_, index)| *index).collect::<Vec<_>>(), [3]);
}

#[test]
fn an_item_that_fails_alone_is_stopped_alone() {
    let steps = [
        ("Left", "t.Text -> t.Number#left"),
        ("Right", "t.Text -> t.Number#right"),
        ("Sum", "t.Number#left[], t.Number#right[] -> t.Number"),
    ];
    let mut machine = Machine::start(&steps, "t.Number", &["t.Text"], 2, Some(OnItemError::Continue));
    assert_eq!(machine.did(), "");
    machine.item();
    machine.item();
    assert_eq!(machine.item(), None, "no room");
    let started = jobs(&machine.actions);
    assert_eq!(machine.did(), "open 0, start 0.0, start 1.0, open 1, start 0.1, start 1.1");
    machine.on(started[0], failed());
    assert_eq!(machine.did(), "stop 1.0");
    machine.on(started[1], Completion::Stopped { began: true });
    assert_eq!(machine.did(), "failed 0 by 0");
    machine.done(started[2], 1);
    machine.done(started[3], 1);
    machine.progress.items_end(&mut machine.actions);
    assert_eq!(machine.did(), "done 1, closed 2 1, start 2");
    machine.done(Job::once(machine.node(2)), 1);
    assert_eq!(machine.did(), "finish");
    assert_eq!((machine.progress.conclusion(), machine.progress.failed_items()), (Some(Conclusion::Done), 1));
}

#[test]
fn a_failed_item_ends_all_where_it_is_to() {
    let mut machine = Machine::start(&WORDS[..2], "t.Number#length", &["t.Text"], 2, Some(OnItemError::Fail));
    machine.item();
    machine.item();
    let started = jobs(&machine.actions);
    machine.done(started[1], 1);
    let inner = *jobs(&machine.actions).last().unwrap();
    machine.did();
    machine.on(inner, failed());
    assert_eq!(machine.did(), "stop 0.0");
    assert!(!machine.progress.wants_item());
    machine.on(started[0], Completion::Stopped { began: true });
    assert_eq!(machine.did(), "stopped 0, failed 0 by 1, failed 1 by 1, finish");
    assert_eq!(machine.progress.conclusion(), Some(Conclusion::Failed { root: inner }));
    assert_eq!(machine.progress.root_path().iter().map(|(_, index)| *index).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn an_item_that_ended_before_those_ahead_of_it_holds_its_place() {
    let mut machine = Machine::start(
        &[("Count", "t.Text -> t.Number")],
        "t.Number",
        &["t.Text"],
        2,
        Some(OnItemError::Fail),
    );
    machine.item();
    machine.item();
    assert!(!machine.progress.wants_item(), "two are under way");
    let started = jobs(&machine.actions);
    machine.done(started[1], 1);
    assert_eq!(machine.did(), "open 0, start 0.0, open 1, start 0.1, done 1");
    machine.item();
    let next = jobs(&machine.actions)[0];
    machine.done(next, 1);
    assert_eq!(machine.did(), "open 2, start 0.2, done 2");
    assert!(!machine.progress.wants_item(), "two results wait for the first");
    machine.done(started[0], 1);
    assert!(machine.progress.wants_item());
}

#[test]
fn lent_items_are_one_job_each_of_which_only_the_end_is_told() {
    let step = [("Count", "t.Text -> t.Number")];
    let start = |width| Machine::start(&step, "t.Number", &["t.Text"], width, Some(OnItemError::Continue));
    let mut machine = start(4);
    assert_eq!(machine.progress.lend(3), Some(0..3));
    assert_eq!(machine.progress.lend(3), Some(3..4), "four are under way");
    assert_eq!((machine.progress.lend(3), machine.progress.running()), (None, 4));
    assert!(machine.progress.lent_done(3, 1, &mut machine.actions));
    assert_eq!(machine.progress.lend(3), Some(4..5), "four and one wait for the first");
    assert!(machine.progress.lent_done(0, 1, &mut machine.actions));
    assert_eq!(machine.did(), "");
    let failing = machine.progress.take_back(1, true, &mut machine.actions).unwrap();
    assert_eq!(machine.did(), "open 1");
    machine.on(failing, failed());
    assert_eq!(machine.did(), "failed 1 by 0");
    machine.progress.take_back(2, false, &mut machine.actions).unwrap();
    machine.progress.items_end(&mut machine.actions);
    let started = jobs(&machine.actions)[0];
    assert_eq!(machine.did(), "open 2, start 0.2");
    machine.done(started, 1);
    assert_eq!(machine.did(), "done 2");
    assert!(machine.progress.lent_done(4, 1, &mut machine.actions));
    assert_eq!(machine.did(), "closed 5 1, finish");
    assert_eq!((machine.progress.conclusion(), machine.progress.failed_items()), (Some(Conclusion::Done), 1));
    // What is lent is asked for where nothing more is to begin, and may be told of even so.
    for began in [false, true] {
        let mut machine = start(4);
        assert_eq!(machine.progress.lend(3), Some(0..3));
        machine.progress.stop(StopReason::Deadline, &mut machine.actions);
        assert_eq!(machine.did(), "recall");
        assert!(machine.progress.lent_done(0, 1, &mut machine.actions));
        let job = machine.progress.take_back(1, began, &mut machine.actions).unwrap();
        assert_eq!(machine.did(), if began { "open 1, stop 0.1" } else { "open 1" });
        if began {
            machine.on(job, Completion::Stopped { began });
        }
        machine.progress.take_back(2, false, &mut machine.actions).unwrap();
        assert_eq!(machine.did(), "open 2, stopped 1, stopped 2, finish");
    }
    // Whoever had them is gone.
    let mut machine = start(4);
    assert_eq!(machine.progress.lend(3), Some(0..3));
    machine.progress.stop(StopReason::Cancelled, &mut machine.actions);
    machine.progress.give_up_lent(&mut machine.actions);
    assert_eq!(machine.did(), "recall, finish");
    assert!(!machine.progress.lent_done(0, 3, &mut machine.actions));
}

#[test]
fn only_items_with_one_job_and_a_result_each_are_lent() {
    let count = ("Count", "t.Text -> t.Number");
    let is_lent = |steps: &[(&str, &str)], target: &str, given: &[&str]| {
        Machine::start(steps, target, given, 2, Some(OnItemError::Fail)).progress.lend(1).is_some()
    };
    assert!(is_lent(&[count], "t.Number", &["t.Text"]));
    let pad = ("Pad", "t.Number#wide, t.Text -> t.Number");
    assert!(is_lent(&[pad], "t.Number", &["t.Number#wide", "t.Text"]));
    let show = ("Show", "t.Number -> t.Text#shown");
    assert!(!is_lent(&[count, show], "t.Text#shown", &["t.Text"]), "two steps");
    let sum = ("Sum", "t.Number[] -> t.Number#sum");
    assert!(!is_lent(&[count, sum], "t.Number#sum", &["t.Text"]), "one result for all");
    assert!(!is_lent(&WORDS[..2], "t.Number#length", &["t.Text"]), "a list in an item");
    // What runs once comes first.
    let steps = [("Width", "t.Text#head -> t.Number#wide"), ("Pad", "t.Number#wide, t.Text -> t.Number")];
    let mut machine =
        Machine::start(&steps, "t.Number", &["t.Text#head", "t.Text"], 2, Some(OnItemError::Fail));
    assert_eq!(machine.progress.lend(1), None);
    machine.done(Job::once(machine.node(0)), 1);
    assert_eq!(machine.progress.lend(1), Some(0..1));
}

#[test]
fn items_go_on_in_a_second_stage_when_all_have_passed_the_first() {
    let steps = [
        ("Score", "t.Text -> t.Number#score"),
        ("Mean", "t.Number#score[] -> t.Number#mean"),
        ("Excess", "t.Number#score, t.Number#mean -> t.Number"),
    ];
    let mut machine = Machine::start(&steps, "t.Number", &["t.Text"], 1, Some(OnItemError::Fail));
    for index in 0..3 {
        machine.item().unwrap();
        let score = jobs(&machine.actions)[0];
        machine.done(score, 1);
        assert_eq!(machine.did(), format!("open {index}, start 0.{index}, passed {index} 0"));
    }
    machine.progress.items_end(&mut machine.actions);
    assert_eq!(machine.did(), "closed 3 0, start 1");
    machine.done(Job::once(machine.node(1)), 1);
    for index in 0..3 {
        let excess = jobs(&machine.actions)[0];
        assert_eq!(machine.progress.state(excess), Some(State::Running { attempt: 1 }));
        machine.actions.clear();
        machine.done(excess, 1);
        if index < 2 {
            assert_eq!(machine.actions.len(), 2, "one after the other: {:?}", machine.actions);
        }
    }
    assert_eq!(machine.did(), "done 2, closed 3 0, finish");
}

#[test]
fn no_items_are_a_batch_too_and_a_stop_ends_the_wait_for_them() {
    let mut machine = Machine::start(&WORDS[..1], "t.Text#word", &["t.Text"], 1, Some(OnItemError::Continue));
    assert!(machine.progress.wants_item());
    machine.progress.items_end(&mut machine.actions);
    assert_eq!(machine.did(), "closed 0 0, finish");
    let mut machine = Machine::start(&WORDS[..1], "t.Text#word", &["t.Text"], 1, Some(OnItemError::Continue));
    machine.progress.stop(StopReason::Cancelled, &mut machine.actions);
    assert_eq!(machine.did(), "finish");
    assert!(!machine.progress.wants_item());
}
