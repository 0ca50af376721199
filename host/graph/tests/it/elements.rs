//! Plans and the machine over random graphs with lists and items, beside the reference: same values in the same order,
//! whatever the order of completions, the width and the failures.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroU32;
use std::ops::Range;

use docket_graph::prost_reflect::DescriptorPool;
use docket_graph::{
    Action, Arity, Completion, Conclusion, DimensionId, Element, Elements, Ending, FailureClass, FrameId,
    Graph, Input, Job, NodeId, OnItemError, Opener, Plan, Progress, Retry, Source, State, StopReason, Take,
};
use proptest::prelude::*;

use crate::reference::{
    Chain, Drawn, Reference, SHARED, Value, drawn, from_port, hash, items_port, shared_port, step,
};
use crate::support::{node_port, pool};

/// One case: a graph, and how it is carried out.
#[derive(Debug, Clone)]
struct Case {
    drawn: Drawn,
    /// The items; none where the input is given once.
    items: Option<Vec<u64>>,
    width: u32,
    /// From the first item that has not ended on, where each has a result of its own.
    held: u32,
    on_item_error: OnItemError,
    /// One job in so many fails for good; none if 0.
    failing: u64,
    seed: u64,
    /// Whether the execution may be stopped from outside.
    stops: bool,
}

/// What came of it.
#[derive(Debug, PartialEq)]
struct Outcome {
    conclusion: Conclusion,
    /// By item where each has its own, else all.
    results: BTreeMap<u64, Vec<u64>>,
    failed: BTreeSet<u64>,
}

impl Case {
    fn plan(&self, graph: &Graph) -> Plan {
        let mut given = Vec::new();
        let used = |from| self.uses(from);
        given.extend(used(items_port()).then(items_port));
        given.extend(used(shared_port()).then(shared_port));
        let target = node_port(self.drawn.nodes.len() - 1);
        match (&self.items, used(items_port())) {
            (Some(_), true) => Plan::of_items(graph, &target, &given, 0).unwrap(),
            _ => Plan::of(graph, &target, &given).unwrap(),
        }
    }

    fn uses(&self, port: docket_graph::Port) -> bool {
        let needed = self.drawn.needed();
        let nodes = self.drawn.nodes.iter().zip(needed).filter(|(_, needed)| *needed);
        nodes.flat_map(|(node, _)| &node.inputs).any(|(from, _)| from_port(*from) == port)
    }

    fn item_values(&self) -> Vec<u64> {
        self.items.clone().unwrap_or_else(|| vec![23])
    }

    /// Returns how a job of a step fails for good, if it does.
    fn fails(&self, step: usize, path: &[usize]) -> Option<FailureClass> {
        let drawn = hash(&(self.seed, "fails", step, path));
        let fails = self.failing > 0 && drawn.is_multiple_of(self.failing);
        let class =
            if (drawn / 1024).is_multiple_of(4) { FailureClass::Abort } else { FailureClass::Permanent };
        fails.then_some(class)
    }
}

/// A script of choices.
struct Chance {
    state: u64,
}

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.state = hash(&self.state);
        self.state as usize % below
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.next(times) == 0
    }
}

#[derive(Default)]
struct Frame {
    element: Option<Element>,
    values: HashMap<NodeId, Value>,
    gathered: HashMap<Source, BTreeMap<u64, Value>>,
    /// How many elements had failed when a stage closed.
    closed: HashMap<(DimensionId, u32), u64>,
    results: BTreeMap<u64, Vec<u64>>,
}

/// Carries a plan out by what is public of it and of the machine, and checks each action.
struct Executor<'a> {
    case: &'a Case,
    plan: &'a Plan,
    steps: Vec<usize>,
    frames: HashMap<FrameId, Frame>,
    running: Vec<(Job, u32, Value)>,
    stopping: HashSet<Job>,
    settled: Vec<Job>,
    /// Each job that ever started, by the indices of its element.
    started: HashSet<(usize, Vec<usize>)>,
    /// Lent items that were not given back, those of each time together.
    lent: Vec<Range<u64>>,
    /// The item that is just taken back.
    back: Option<u64>,
    opened: HashMap<(FrameId, DimensionId), u64>,
    ended: HashMap<(FrameId, DimensionId), u64>,
    root: Option<Conclusion>,
    root_path: Vec<(DimensionId, u64)>,
    lost: HashMap<FrameId, Job>,
    failed: BTreeSet<u64>,
    finished: Option<Conclusion>,
}

impl<'a> Executor<'a> {
    fn new(case: &'a Case, plan: &'a Plan) -> Self {
        Self {
            case,
            plan,
            steps: plan.nodes().map(|(_, step)| step.index()).collect(),
            frames: HashMap::from([(FrameId::ROOT, Frame::default())]),
            running: Vec::new(),
            stopping: HashSet::new(),
            settled: Vec::new(),
            started: HashSet::new(),
            lent: Vec::new(),
            back: None,
            opened: HashMap::new(),
            ended: HashMap::new(),
            root: None,
            root_path: Vec::new(),
            lost: HashMap::new(),
            failed: BTreeSet::new(),
            finished: None,
        }
    }

    fn path(&self, frame: FrameId) -> Vec<(DimensionId, u64)> {
        let up = |frame: &FrameId| Some(self.frames[frame].element?.parent);
        let around = std::iter::successors(Some(frame), up);
        let mut path: Vec<_> = around
            .filter_map(|frame| self.frames[&frame].element)
            .map(|element| (element.dimension, element.index))
            .collect();
        path.reverse();
        path
    }

    fn indices(&self, frame: FrameId) -> Vec<usize> {
        self.path(frame).into_iter().map(|(_, index)| index as usize).collect()
    }

    fn dimension(&self, frame: FrameId) -> DimensionId {
        self.frames[&frame].element.map_or(DimensionId::ROOT, |element| element.dimension)
    }

    fn around(&self, mut frame: FrameId, dimension: DimensionId) -> FrameId {
        while self.dimension(frame) != dimension {
            frame = self.frames[&frame].element.unwrap().parent;
        }
        frame
    }

    fn item_of(&self, mut frame: FrameId) -> Option<FrameId> {
        loop {
            let element = self.frames[&frame].element?;
            if Some(element.dimension) == self.plan.items() {
                return Some(frame);
            }
            frame = element.parent;
        }
    }

    fn input(&self, job: Job, input: &Input, takes: Arity) -> Value {
        let frame = self.around(job.frame, input.dimension);
        let items = self.case.item_values();
        let given = |position: usize| match (position, self.case.uses(items_port())) {
            (0, true) => Value::Many(items.clone()),
            _ => SHARED,
        };
        let value = match (input.take, input.source) {
            (Take::Whole, Source::Given(position)) => match given(position) {
                Value::Many(one) if self.case.items.is_none() => Value::One(one[0]),
                value => value,
            },
            (Take::Whole, Source::Node(node)) => self.frames[&frame].values[&node].clone(),
            (Take::Whole, Source::Failed) => {
                let failed = self.plan.gathers_from(job.node).into_iter().map(|from| {
                    let around = self.around(job.frame, self.plan.dimension(from.0).parent);
                    self.frames[&around].closed[&from]
                });
                Value::One(failed.sum())
            }
            (Take::Element, source) => {
                let element = self.frames[&frame].element.unwrap();
                let list = match source {
                    Source::Given(position) => given(position),
                    Source::Node(node) => self.frames[&element.parent].values[&node].clone(),
                    Source::Failed => panic!("a count has no elements"),
                };
                Value::One(list.flat()[element.index as usize])
            }
            (Take::Gathered, Source::Given(position)) if self.plan.items().is_none() => given(position),
            (Take::Gathered, source) => {
                let (from, stage) = match source {
                    Source::Node(node) => (self.plan.dimension_of(node), self.plan.stage(node)),
                    Source::Given(_) => (self.plan.items().unwrap(), 0),
                    Source::Failed => panic!("a count is not gathered"),
                };
                assert!(
                    self.frames[&frame].closed.contains_key(&(from, stage)),
                    "gathered before it is complete"
                );
                let gathered = self.frames[&frame].gathered.get(&source);
                Value::Many(gathered.into_iter().flatten().flat_map(|(_, value)| value.flat()).collect())
            }
        };
        match (takes, value) {
            (Arity::Many, value) => Value::Many(value.flat()),
            (Arity::One, Value::One(one)) => Value::One(one),
            (Arity::One, value) => panic!("{job:?} takes one, not {value:?}"),
        }
    }

    /// Performs actions.
    fn perform(&mut self, actions: &mut Vec<Action>, progress: &Progress) {
        for action in actions.drain(..) {
            assert_eq!(self.finished, None, "no action after the end: {action:?}");
            match action {
                Action::Open(element) => self.open(element),
                Action::Start { job, attempt, delay: _ } => self.start(job, attempt),
                Action::Recall => assert!(self.root.is_some() && !self.lent.is_empty(), "no reason to"),
                Action::Stop { job } => {
                    assert!(self.running.iter().any(|(running, ..)| *running == job), "{job:?} does not run");
                    let lost = self.item_of(job.frame).is_some_and(|item| self.lost.contains_key(&item));
                    assert!(self.root.is_some() || lost, "no reason to stop {job:?}");
                    assert!(self.stopping.insert(job), "{job:?} is stopped twice");
                }
                Action::Passed { element, stage } => {
                    assert!(stage + 1 < self.plan.dimension(element.dimension).stages);
                    self.gather(element, stage);
                }
                Action::Ended { element, how } => {
                    // Its place is not another's before the next call.
                    assert_eq!(progress.path(element.frame), Some(self.path(element.frame)));
                    self.end(element, how);
                }
                Action::Closed { frame, dimension, stage, elements, failed } => {
                    assert_eq!(self.opened.get(&(frame, dimension)).copied().unwrap_or(0), elements);
                    let closed = &mut self.frames.get_mut(&frame).unwrap().closed;
                    assert_eq!(closed.insert((dimension, stage), failed), None);
                    if stage + 1 == self.plan.dimension(dimension).stages {
                        let ended = self.ended.get(&(frame, dimension)).copied().unwrap_or(0);
                        assert_eq!(ended, elements, "closed with open elements");
                    }
                    let items = Some(dimension) == self.plan.items();
                    assert_eq!(failed, if items { self.failed.len() as u64 } else { 0 });
                }
                Action::Finish(conclusion) => {
                    assert!(self.is_idle() && self.frames.len() == 1, "something is left");
                    assert_eq!(conclusion, self.root.unwrap_or(Conclusion::Done));
                    assert_eq!(progress.root_path(), self.root_path);
                    self.finished = Some(conclusion);
                }
            }
        }
        self.look_around(progress);
    }

    fn open(&mut self, element: Element) {
        let opened = self.opened.entry((element.parent, element.dimension)).or_default();
        match self.back.take() {
            Some(back) => assert!(back == element.index && element.index < *opened, "another one"),
            None => {
                assert_eq!(self.root, None, "nothing opens once there is a root cause");
                assert_eq!(*opened, element.index, "in order");
                *opened += 1;
            }
        }
        assert!(self.frames.contains_key(&element.parent));
        let frame = Frame { element: Some(element), ..Frame::default() };
        assert!(self.frames.insert(element.frame, frame).is_none());
        assert!(self.frames.keys().filter(|frame| frame.slot() == element.frame.slot()).count() == 1);
        let parent = self.plan.dimension(element.dimension);
        assert_eq!(parent.parent, self.dimension(element.parent));
        if let Opener::Node(node) = parent.opener {
            assert!(
                self.frames[&element.parent].values.contains_key(&node),
                "elements of a list that is not there"
            );
        }
    }

    fn start(&mut self, job: Job, attempt: u32) {
        assert_eq!(self.root, None, "nothing starts once there is a root cause");
        let item = self.item_of(job.frame);
        assert!(item.is_none_or(|item| !self.lost.contains_key(&item)), "an item that failed goes on");
        assert!(self.running.iter().all(|(running, ..)| *running != job), "{job:?} twice at once");
        let node = self.steps[job.node.index()];
        let path = self.indices(job.frame);
        assert_eq!(self.started.insert((node, path)), attempt == 1, "{job:?} twice");
        let drawn = &self.case.drawn.nodes[node];
        let takes = drawn.inputs.iter().map(|(_, takes)| *takes).chain(drawn.counts().then_some(Arity::One));
        let inputs = self.plan.inputs(job.node).iter().zip(takes);
        let inputs: Vec<Value> = inputs.map(|(input, takes)| self.input(job, input, takes)).collect();
        assert_eq!(inputs.len(), drawn.inputs.len() + usize::from(drawn.counts()));
        let value = step(node, drawn.gives, &inputs);
        self.running.push((job, attempt, value));
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.lent.is_empty()
    }

    /// Notes that items were lent.
    fn lend(&mut self, lent: Range<u64>) {
        assert_eq!(self.root, None, "nothing is lent once there is a root cause");
        let opened = self.opened.entry((FrameId::ROOT, self.plan.items().unwrap())).or_default();
        assert!(*opened == lent.start && !lent.is_empty(), "in order");
        *opened = lent.end;
        self.lent.push(lent);
    }

    /// Returns what the step gives for a lent item.
    fn value_of_lent(&self, index: u64) -> Value {
        let node = self.plan.sole_of_items().unwrap();
        let drawn = &self.case.drawn.nodes[self.steps[node.index()]];
        let inputs = self.plan.inputs(node).iter().zip(&drawn.inputs).map(|(input, (_, takes))| {
            let value = match (input.take, input.source) {
                (Take::Element, _) => Value::One(self.case.item_values()[index as usize]),
                (Take::Whole, Source::Node(node)) => self.frames[&FrameId::ROOT].values[&node].clone(),
                (Take::Whole, Source::Given(_)) => SHARED,
                (take, source) => panic!("{take:?} of {source:?}"),
            };
            if *takes == Arity::Many { Value::Many(value.flat()) } else { value }
        });
        step(self.steps[node.index()], drawn.gives, &inputs.collect::<Vec<_>>())
    }

    /// Goes on with lent items of one time: some are done, or the first of them is taken back.
    fn go_on_with_lent(&mut self, progress: &mut Progress, actions: &mut Vec<Action>, chance: &mut Chance) {
        let which = chance.next(self.lent.len());
        let lent = self.lent[which].clone();
        let node = self.plan.sole_of_items().unwrap();
        let of_step = self.steps[node.index()];
        if lent.end - lent.start > 1 {
            assert!(!progress.lent_done(lent.start + 1, 1, actions), "not the first");
        }
        assert!(!progress.lent_done(lent.start, (lent.end - lent.start) as u32 + 1, actions), "too many");
        assert_eq!(progress.take_back(u64::MAX, chance.once_in(2), actions), None, "not lent");
        let is_good = |index: &u64| {
            let path = [*index as usize];
            self.case.fails(of_step, &path).is_none() && !self.fails_first(of_step, &path)
        };
        let good = lent.clone().take_while(is_good).count();
        let count = if good == 0 { 0 } else { chance.next(good + 1) as u64 };
        self.lent[which].start += count.max(1);
        if self.lent[which].is_empty() {
            self.lent.remove(which);
        }
        for index in lent.start..lent.start + count {
            assert!(self.started.insert((of_step, vec![index as usize])), "item {index} twice");
            let value = self.value_of_lent(index).flat();
            let once = self.frames.get_mut(&FrameId::ROOT).unwrap();
            assert!(once.results.insert(index, value).is_none());
        }
        if count > 0 {
            *self.ended.entry((FrameId::ROOT, self.plan.items().unwrap())).or_default() += count;
            assert!(progress.lent_done(lent.start, count as u32, actions));
            return;
        }
        // Its attempt has not given a result at once, or has not begun because something was stopped.
        let began = good == 0 && self.root.is_none() || chance.once_in(2);
        let job = progress.take_back(lent.start, began, actions).unwrap();
        self.back = Some(lent.start);
        if began {
            assert!(self.started.insert((of_step, vec![lent.start as usize])));
            self.running.push((job, 1, self.value_of_lent(lent.start)));
        }
    }

    /// Returns whether the first attempt fails, and the second does not.
    fn fails_first(&self, step: usize, path: &[usize]) -> bool {
        hash(&(self.case.seed, "again", step, path)).is_multiple_of(5)
    }

    fn gather(&mut self, element: Element, stage: u32) {
        for gathered in
            self.plan.gathered(element.dimension).iter().filter(|gathered| gathered.stage == stage)
        {
            let value = match gathered.source {
                Source::Node(node) => self.frames[&element.frame].values[&node].clone(),
                Source::Given(_) => Value::One(self.case.item_values()[element.index as usize]),
                Source::Failed => panic!("a count is not gathered"),
            };
            let parent = self.frames.get_mut(&element.parent).unwrap();
            assert!(
                parent.gathered.entry(gathered.source).or_default().insert(element.index, value).is_none()
            );
        }
    }

    fn result(&self, frame: FrameId) -> Vec<u64> {
        let of = &self.frames[&frame];
        match self.plan.target_source() {
            Source::Node(node) if self.dimension(frame) == self.plan.target_dimension() => {
                of.values[&node].flat()
            }
            _ => of.results.values().flatten().copied().collect(),
        }
    }

    fn end(&mut self, element: Element, how: Ending) {
        assert!(self.running.iter().all(|(job, ..)| job.frame != element.frame), "{element:?} still runs");
        let inner = self.frames.values().filter_map(|frame| frame.element);
        assert!(inner.into_iter().all(|inner| inner.parent != element.frame), "inner ones end before");
        *self.ended.entry((element.parent, element.dimension)).or_default() += 1;
        match how {
            Ending::Done => {
                self.gather(element, self.plan.dimension(element.dimension).stages - 1);
                let mut around = self.plan.target_dimension();
                while around != element.dimension && around != DimensionId::ROOT {
                    around = self.plan.dimension(around).parent;
                }
                if around == element.dimension {
                    let result = self.result(element.frame);
                    self.frames.get_mut(&element.parent).unwrap().results.insert(element.index, result);
                }
            }
            Ending::Failed { root } if Some(element.dimension) == self.plan.items() => {
                let first = match self.root {
                    Some(Conclusion::Failed { root } | Conclusion::Aborted { root }) => root,
                    _ => root,
                };
                let lost = self.lost.get(&element.frame).copied().unwrap_or(first);
                assert_eq!(root, lost, "the first failure of an item is its root cause");
                self.failed.insert(element.index);
            }
            Ending::Failed { .. } => {}
            Ending::Stopped => assert!(self.root.is_some() || !self.lost.is_empty()),
        }
        self.frames.remove(&element.frame).unwrap();
        self.opened.retain(|(frame, _), _| *frame != element.frame);
        self.ended.retain(|(frame, _), _| *frame != element.frame);
    }

    /// Checks what holds between any two calls.
    fn look_around(&self, progress: &Progress) {
        let lent = self.lent.iter().map(|lent| lent.end - lent.start).sum::<u64>() as usize;
        assert_eq!(progress.running(), self.running.len() + lent);
        let mut working: HashMap<(FrameId, DimensionId), BTreeSet<u64>> = HashMap::new();
        if let Some(items) = self.plan.items() {
            working.insert((FrameId::ROOT, items), self.lent.iter().cloned().flatten().collect());
        }
        for (job, attempt, _) in &self.running {
            assert_eq!(progress.state(*job), Some(State::Running { attempt: *attempt }));
            assert_eq!(progress.path(job.frame).unwrap(), self.path(job.frame));
            let mut frame = job.frame;
            while let Some(element) = self.frames[&frame].element {
                working.entry((element.parent, element.dimension)).or_default().insert(element.index);
                frame = element.parent;
            }
        }
        assert!(
            working.values().all(|working| working.len() <= self.case.width as usize),
            "wider than allowed"
        );
        for ((parent, dimension), opened) in &self.opened {
            let dimension_is = self.plan.dimension(*dimension);
            let left = opened - self.ended.get(&(*parent, *dimension)).copied().unwrap_or(0);
            assert!(dimension_is.stages > 1 || left <= u64::from(self.case.width), "more open than allowed");
            let elements = self.frames.values().filter_map(|frame| frame.element);
            let first =
                elements.filter(|element| element.dimension == *dimension).map(|element| element.index).min();
            if dimension_is.stages == 1
                && self.plan.items() == Some(*dimension)
                && self.plan.result_dimension() == *dimension
                && let Some(first) = first.into_iter().chain(self.lent.iter().map(|lent| lent.start)).min()
            {
                assert!(
                    opened - first <= u64::from(self.case.held),
                    "more results wait for an item than allowed"
                );
            }
        }
    }

    /// Returns how an attempt of a running job ends, and notes what that means.
    fn complete(&mut self, which: usize, chance: &mut Chance) -> (Job, Completion) {
        let (job, attempt, value) = self.running.swap_remove(which);
        let step = self.steps[job.node.index()];
        let path = self.indices(job.frame);
        let failed = |class| Completion::Failed { class, code: None, retry_after: None, chance: 0.5 };
        let stopping = self.stopping.remove(&job);
        let item = self.item_of(job.frame);
        let lost = item.is_some_and(|item| self.lost.contains_key(&item));
        assert!(!lost && self.root.is_none() || stopping);
        let open = self.root.is_none() && !lost;
        if open && attempt == 1 && self.fails_first(step, &path) {
            return (job, failed(FailureClass::Retryable));
        }
        self.settled.push(job);
        if !open && chance.once_in(4) {
            // What is given up is not tried again.
            return (job, failed(FailureClass::Retryable));
        }
        if stopping && chance.once_in(2) {
            return (job, Completion::Stopped { began: chance.once_in(2) });
        }
        if let Some(class) = self.case.fails(step, &path) {
            let alone = self.case.on_item_error == OnItemError::Continue;
            match (class, item) {
                (FailureClass::Abort, _) if self.root.is_none() => {
                    self.root = Some(Conclusion::Aborted { root: job });
                    self.root_path = self.path(job.frame);
                }
                (_, Some(item)) if alone && open => {
                    self.lost.insert(item, job);
                }
                _ if open => {
                    self.root = Some(Conclusion::Failed { root: job });
                    self.root_path = self.path(job.frame);
                }
                _ => {}
            }
            return (job, if chance.once_in(3) { Completion::Shared { class } } else { failed(class) });
        }
        let messages = value.flat().len() as u64;
        let frame = self.frames.get_mut(&job.frame).unwrap();
        assert!(frame.values.insert(job.node, value).is_none());
        (job, if chance.once_in(4) { Completion::Kept { messages } } else { Completion::Done { messages } })
    }
}

/// Carries a case out on a script, and returns what came of it with each value that was made.
fn run(case: &Case, plan: &Plan, script: u64) -> (Outcome, HashSet<(usize, Vec<usize>)>) {
    let mut chance = Chance { state: script };
    let retry = Retry { max_attempts: NonZeroU32::new(2).unwrap(), ..Retry::once() };
    let width = NonZeroU32::new(case.width).unwrap();
    let held = NonZeroU32::new(case.held).unwrap();
    let elements = Elements { width, held, on_item_error: case.on_item_error };
    let mut progress = Progress::new(plan, vec![retry; plan.len()], elements);
    let mut executor = Executor::new(case, plan);
    let mut actions = Vec::new();
    let mut items = plan.items().map_or(0, |_| case.items.as_ref().unwrap().len());
    let mut ended = plan.items().is_none();
    assert!(!progress.wants_item());
    progress.start(&mut actions);
    executor.perform(&mut actions, &progress);
    while executor.finished.is_none() {
        let wants = progress.wants_item();
        if case.stops && executor.root.is_none() && chance.once_in(50) {
            executor.root = Some(Conclusion::Stopped(StopReason::Deadline));
            progress.stop(StopReason::Deadline, &mut actions);
        } else if wants
            && items > 0
            && chance.once_in(2)
            && let Some(lent) = progress.lend(1 + chance.next(items.min(4)) as u32)
        {
            items -= (lent.end - lent.start) as usize;
            executor.lend(lent);
        } else if wants && items > 0 && (executor.is_idle() || chance.once_in(2)) {
            items -= 1;
            let frame = progress.item(&mut actions).unwrap();
            assert!(matches!(actions[0], Action::Open(element) if element.frame == frame));
        } else if items == 0 && !ended && (executor.is_idle() || chance.once_in(3)) {
            ended = true;
            progress.items_end(&mut actions);
        } else if !executor.settled.is_empty() && chance.once_in(6) {
            let late = executor.settled[chance.next(executor.settled.len())];
            progress.on(late, Completion::Done { messages: 2 }, &mut actions);
            progress.renumber(late, 7);
            assert_eq!(actions, [], "{late:?} has ended before");
        } else if !executor.lent.is_empty() && (executor.running.is_empty() || chance.once_in(2)) {
            executor.go_on_with_lent(&mut progress, &mut actions, &mut chance);
        } else {
            assert!(!executor.running.is_empty(), "neither runs nor ends");
            let (job, completion) = executor.complete(chance.next(executor.running.len()), &mut chance);
            progress.on(job, completion, &mut actions);
        }
        executor.perform(&mut actions, &progress);
    }
    let conclusion = executor.finished.unwrap();
    assert_eq!(progress.conclusion(), Some(conclusion));
    if conclusion == Conclusion::Done {
        assert_eq!(progress.failed_items(), executor.failed.len() as u64);
    }
    for job in &executor.settled {
        progress.on(*job, Completion::Done { messages: 1 }, &mut actions);
    }
    progress.items_end(&mut actions);
    progress.stop(StopReason::Shutdown, &mut actions);
    progress.give_up_lent(&mut actions);
    assert_eq!(progress.lend(1), None, "nothing is lent after the end");
    assert!(actions.is_empty() && progress.item(&mut actions).is_none(), "nothing happens after the end");
    let results = match plan.result_dimension() {
        DimensionId::ROOT if conclusion != Conclusion::Done => BTreeMap::new(),
        DimensionId::ROOT => BTreeMap::from([(0, executor.result(FrameId::ROOT))]),
        _ => std::mem::take(&mut executor.frames.get_mut(&FrameId::ROOT).unwrap().results),
    };
    let Executor { failed, started, .. } = executor;
    (Outcome { conclusion, results, failed }, started)
}

/// Returns the dimensions around a node of a plan, as the reference names them.
fn chain(plan: &Plan, mut dimension: DimensionId) -> Chain {
    let mut chain = Chain::new();
    while dimension != DimensionId::ROOT {
        let of = plan.dimension(dimension);
        match of.opener {
            Opener::Items(_) => chain.push(None),
            Opener::Node(node) => chain.push(Some(plan.step(node).index())),
            Opener::Root => panic!("only the root is the root"),
        }
        dimension = of.parent;
    }
    chain.reverse();
    chain
}

fn check(mut case: Case, script: u64, pool: &DescriptorPool) {
    let batch = case.items.is_some();
    case.drawn.mend(batch);
    let graph = case.drawn.graph(pool).unwrap();
    let plan = case.plan(&graph);
    let chains: Vec<Chain> = case.drawn.chains(batch).into_iter().map(Option::unwrap).collect();
    for (node, step) in plan.nodes() {
        assert_eq!(chain(&plan, plan.dimension_of(node)), chains[step.index()], "{step:?}");
    }
    let (outcome, started) = run(&case, &plan, script);
    let items = case.item_values();
    let mut reference = Reference {
        drawn: &case.drawn,
        chains,
        good: vec![true; items.len()],
        items,
        batch,
        known: HashMap::new(),
    };
    // What is in an item that fails before others gather from it cannot be told without the stages.
    let stages = plan.items().map_or(1, |items| plan.dimension(items).stages);
    if outcome.conclusion != Conclusion::Done || stages > 1 && !outcome.failed.is_empty() {
        // Yet neither the order nor the width makes a difference.
        if case.on_item_error == OnItemError::Continue && outcome.conclusion == Conclusion::Done {
            for width in 1..4 {
                let (again, again_started) =
                    run(&Case { width, stops: false, ..case.clone() }, &plan, hash(&(script, width)));
                if matches!(again.conclusion, Conclusion::Aborted { .. }) {
                    // Of two failures in one item the other came first.
                    continue;
                }
                assert_eq!(again.results, outcome.results);
                assert_eq!(again.failed, outcome.failed);
                let good = |started: HashSet<(usize, Vec<usize>)>| -> BTreeSet<_> {
                    started
                        .into_iter()
                        .filter(|(_, path)| {
                            path.first().is_none_or(|item| !outcome.failed.contains(&(*item as u64)))
                        })
                        .collect()
                };
                assert_eq!(good(again_started), good(started.clone()));
            }
        }
        return;
    }
    if plan.items().is_some() {
        for item in 0..reference.items.len() {
            let is_in = |path: &Vec<usize>| path.first() == Some(&item);
            let in_items: Vec<usize> = plan
                .nodes()
                .map(|(_, step)| step.index())
                .filter(|node| reference.chains[*node].first() == Some(&None))
                .collect();
            let fails = in_items.into_iter().any(|node| {
                let paths = reference.paths(node).into_iter().filter(is_in).collect::<Vec<_>>();
                paths.iter().any(|path| case.fails(node, path).is_some())
            });
            assert_eq!(fails, outcome.failed.contains(&(item as u64)), "item {item}");
        }
        for item in 0..reference.items.len() {
            reference.good[item] = !outcome.failed.contains(&(item as u64));
        }
        reference.known.clear();
    }
    let all: HashSet<(usize, Vec<usize>)> = plan
        .nodes()
        .map(|(_, step)| step.index())
        .flat_map(|node| reference.paths(node).into_iter().map(move |path| (node, path)))
        .collect();
    let lost =
        |path: &Vec<usize>| plan.items().is_some() && path.first().is_some_and(|item| !reference.good[*item]);
    let done: HashSet<_> = started
        .into_iter()
        .filter(|(node, path)| reference.chains[*node].first() != Some(&None) || !lost(path))
        .collect();
    assert_eq!(done, all, "each step once for each element");
    let target = case.drawn.nodes.len() - 1;
    let mut expected: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    if plan.result_dimension() == DimensionId::ROOT {
        expected.insert(0, Vec::new());
    }
    for path in reference.paths(target) {
        let whose = if plan.result_dimension() == DimensionId::ROOT { 0 } else { path[0] as u64 };
        expected.entry(whose).or_default().extend(reference.value(target, &path).flat());
    }
    if plan.result_dimension() != DimensionId::ROOT {
        // An item whose lists are empty has an empty result.
        (0..).zip(&reference.good).filter(|(_, good)| **good).for_each(|(item, _)| {
            expected.entry(item).or_default();
        });
    }
    assert_eq!(outcome.results, expected);
}

fn cases() -> impl Strategy<Value = Case> {
    let items = prop::option::of(prop::collection::vec(any::<u64>(), 0..6));
    let policy = prop_oneof![1 => Just(OnItemError::Fail), 2 => Just(OnItemError::Continue)];
    let failing = prop_oneof![3 => Just(0), 1 => Just(4), 1 => Just(12), 1 => Just(60)];
    (drawn(), items, 1..4u32, policy, failing, any::<u64>(), prop::bool::weighted(0.1)).prop_map(
        |(drawn, items, width, on_item_error, failing, seed, stops)| Case {
            drawn,
            items,
            width,
            held: width + u32::try_from(seed % 4).unwrap(),
            on_item_error,
            failing,
            seed,
            stops,
        },
    )
}

#[test]
fn every_execution_gives_what_the_reference_gives_in_its_order() {
    let pool = pool();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) };
    proptest!(config, |(case in cases(), script in any::<u64>())| {
        check(case, script, &pool);
    });
}

#[test]
fn items_that_were_lent_give_what_the_reference_gives_in_its_order() {
    let pool = pool();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) };
    let items = prop::collection::vec(any::<u64>(), 0..20);
    let gives = prop_oneof![3 => Just(Arity::One), 1 => Just(Arity::Many)];
    let sole = (0..3usize, gives, items, 1..8u32, cases(), any::<u64>());
    proptest!(config, |((once, gives, items, width, case, script) in sole)| {
        let held = width + case.held - case.width;
        let case = Case { drawn: Drawn::with_sole_step(once, gives), items: Some(items), width, held, ..case };
        let plan = case.plan(&case.drawn.graph(&pool).unwrap());
        prop_assert_eq!(plan.sole_of_items().map(|node| node.index()), Some(once));
        check(case, script, &pool);
    });
}

#[test]
fn unrelated_dimensions_are_found_where_the_reference_finds_them() {
    let pool = pool();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) };
    proptest!(config, |(mut drawn in drawn(), batch in any::<bool>())| {
        let chains = drawn.chains(false);
        match drawn.graph(&pool) {
            Err(errors) => {
                // A step that is lost only because one before it is has no fault.
                let faulty = chains.iter().filter(|chain| chain.is_none()).count();
                prop_assert!(faulty > 0, "{}", errors);
                let first = chains.iter().position(Option::is_none).unwrap();
                let named = format!("step `s{first:05}` of module `m` takes");
                prop_assert!(errors.to_string().contains(&named), "{}", errors);
            }
            Ok(graph) => {
                for (id, step) in graph.steps() {
                    let chain = chains[id.index()].as_ref();
                    prop_assert!(chain.is_some(), "{} is not refused", step.name);
                    let list = graph.per_element_of(id).map(|list| graph.port(list).clone());
                    let expected = chain.unwrap().last().map(|opener| node_port(opener.unwrap()));
                    prop_assert_eq!(list, expected, "{}", &step.name);
                }
                if !batch {
                    return Ok(());
                }
                let chains = drawn.chains(true);
                let needed = drawn.needed();
                let faulty = chains.iter().zip(&needed).any(|(chain, needed)| chain.is_none() && *needed);
                let case = Case { drawn: drawn.clone(), items: Some(vec![]), width: 1, held: 1, on_item_error: OnItemError::Fail, failing: 0, seed: 0, stops: false };
                if case.uses(items_port()) {
                    let given = [vec![items_port()], case.uses(shared_port()).then(shared_port).into_iter().collect()].concat();
                    let plan = Plan::of_items(&graph, &node_port(drawn.nodes.len() - 1), &given, 0);
                    prop_assert_eq!(plan.is_err(), faulty);
                }
            }
        }
        drawn.mend(batch);
        prop_assert!(drawn.graph(&pool).is_ok());
    });
}
