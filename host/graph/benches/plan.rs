//! How long it takes to infer, plan and step through a graph of 10,000 steps and about 30,000 edges.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up measures nothing")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use docket_graph::prost_reflect::DescriptorPool;
use docket_graph::prost_reflect::prost::Message;
use docket_graph::prost_reflect::prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use docket_graph::{
    Action, Arity, Completion, Elements, Graph, ModuleDecl, Plan, Policy, Port, PortDecl, Progress, Retry,
    Schema, StepDecl, StepName,
};

const STEPS: usize = 10_000;
const MODULES: usize = 100;
/// How far before a step its producers stand: layers of 100, three inputs a step.
const BEFORE: [usize; 3] = [100, 137, 173];

/// Each step gives a message of its own, as steps of people do.
fn modules() -> (Vec<ModuleDecl>, Port, u64) {
    let messages = (0..=STEPS)
        .map(|i| DescriptorProto { name: Some(format!("Message{i}")), ..Default::default() })
        .collect();
    let file = FileDescriptorProto {
        name: Some("bench.proto".to_owned()),
        package: Some("example.v1".to_owned()),
        message_type: messages,
        syntax: Some("proto3".to_owned()),
        ..Default::default()
    };
    let descriptors =
        DescriptorPool::decode(&*FileDescriptorSet { file: vec![file] }.encode_to_vec()).unwrap();
    let port = |i: usize| Port::new(&format!("example.v1.Message{i}"), None).unwrap();
    let one = |i: usize| PortDecl { port: port(i), arity: Arity::One };
    let mut edges = 0;
    let mut modules: Vec<ModuleDecl> = (0..MODULES)
        .map(|i| ModuleDecl {
            name: format!("module{i}.wasm").into(),
            steps: Vec::new(),
            descriptors: descriptors.clone(),
        })
        .collect();
    for i in 0..STEPS {
        let last: Vec<usize> = (STEPS - 174..STEPS - 1).collect();
        let inputs: Vec<usize> = match i {
            _ if i == STEPS - 1 => last,
            _ if i < 173 => vec![STEPS],
            _ => BEFORE.iter().map(|before| i - before).collect(),
        };
        edges += inputs.len() as u64;
        modules[i % MODULES].steps.push(StepDecl {
            name: StepName::parse(&format!("Step{i}")).unwrap(),
            version: None,
            inputs: inputs.into_iter().map(one).collect(),
            output: one(i),
            policy: Policy::default(),
        });
    }
    (modules, port(STEPS - 1), edges)
}

fn run(plan: &Plan) -> usize {
    let mut progress = Progress::new(plan, vec![Retry::once(); plan.len()], Elements::default());
    let mut actions = Vec::new();
    progress.start(&mut actions);
    let mut next = 0;
    while let Some(Action::Start { job, .. }) = actions.get(next).copied() {
        next += 1;
        progress.on(job, Completion::Done { messages: 1 }, &mut actions);
    }
    next
}

const ITEMS: u64 = 1_000_000;

/// One step for each of a million items, 64 under way at once.
fn run_items(plan: &Plan) -> u64 {
    let mut progress = Progress::new(plan, vec![Retry::once(); plan.len()], Elements::default());
    let mut actions = Vec::new();
    let mut open = VecDeque::new();
    let (mut brought, mut done) = (0, 0);
    progress.start(&mut actions);
    while progress.conclusion().is_none() {
        while brought < ITEMS && progress.item(&mut actions).is_some() {
            brought += 1;
        }
        if brought == ITEMS {
            progress.items_end(&mut actions);
        }
        if let Some(job) = open.pop_front() {
            progress.on(job, Completion::Done { messages: 1 }, &mut actions);
        }
        for action in actions.drain(..) {
            match action {
                Action::Start { job, .. } => open.push_back(job),
                Action::Ended { .. } => done += 1,
                Action::Open(_)
                | Action::Stop { .. }
                | Action::Recall
                | Action::Passed { .. }
                | Action::Closed { .. }
                | Action::Finish(_) => {}
            }
        }
    }
    done
}

fn graph(criterion: &mut Criterion) {
    let (modules, target, edges) = modules();
    let given = [Port::new(&format!("example.v1.Message{STEPS}"), None).unwrap()];
    let graph = Graph::infer(modules.clone()).unwrap();
    let plan = Plan::of(&graph, &target, &given).unwrap();
    assert_eq!(plan.len(), STEPS, "the target needs every step");

    // Per element is per edge.
    let mut group = criterion.benchmark_group("edges");
    group.throughput(Throughput::Elements(edges)).measurement_time(Duration::from_secs(5)).sample_size(20);
    group.bench_function("infer", |b| {
        b.iter_batched(|| modules.clone(), |modules| Graph::infer(modules).unwrap(), BatchSize::LargeInput);
    });
    group.bench_function("plan", |b| b.iter(|| Plan::of(black_box(&graph), &target, &given).unwrap()));
    group.bench_function("infer and plan", |b| {
        b.iter_batched(
            || modules.clone(),
            |modules| {
                let graph = Graph::infer(modules).unwrap();
                let plan = Plan::of(&graph, &target, &given).unwrap();
                (graph, plan)
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();

    // Per element is per node.
    let mut group = criterion.benchmark_group("nodes");
    group
        .throughput(Throughput::Elements(STEPS as u64))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20);
    group.bench_function("progress", |b| b.iter(|| assert_eq!(run(black_box(&plan)), STEPS)));
    group.finish();

    // Per element is per item.
    let first = Port::new("example.v1.Message0", None).unwrap();
    let plan = Plan::of_items(&graph, &first, &given, 0).unwrap();
    let mut group = criterion.benchmark_group("items");
    group.throughput(Throughput::Elements(ITEMS)).measurement_time(Duration::from_secs(3)).sample_size(10);
    group.bench_function("progress", |b| b.iter(|| assert_eq!(run_items(black_box(&plan)), ITEMS)));
    group.finish();
}

/// Checking bytes, per byte: a `FileDescriptorSet`, which nests and has text, as a message of its own type.
fn wire(criterion: &mut Criterion) {
    let pool = DescriptorPool::global();
    let descriptor =
        pool.get_message_by_name("google.protobuf.FileDescriptorSet").expect("prost-reflect has it");
    let schema = Schema::of(&descriptor);
    let bytes = pool.encode_to_vec();
    let mut group = criterion.benchmark_group("bytes");
    group
        .throughput(Throughput::Bytes(bytes.len() as u64))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20);
    group.bench_function("check", |b| b.iter(|| schema.check(black_box(&bytes)).unwrap()));
    group.finish();
}

criterion_group!(benches, graph, wire);
criterion_main!(benches);
