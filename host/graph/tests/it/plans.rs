//! Plans of random graphs with random inputs, beside the definition written down as a recursion.

use std::collections::BTreeSet;

use docket_graph::{DimensionId, Graph, Plan, Source};
use proptest::prelude::*;

use crate::support::{node_port, numbered, pool, port, raw_module};

/// Returns the steps that a node needs, itself included, and adds the inputs that are met.
fn needed(nodes: &[Vec<usize>], node: usize, given: &[usize], used: &mut BTreeSet<usize>) -> BTreeSet<usize> {
    if given.contains(&node) {
        used.insert(node);
        return BTreeSet::new();
    }
    let before = nodes[node].iter().flat_map(|take| needed(nodes, *take, given, used));
    before.chain([node]).collect()
}

fn depth(nodes: &[Vec<usize>], node: usize, given: &[usize]) -> u32 {
    let before = nodes[node].iter().filter(|take| !given.contains(take));
    before.map(|take| depth(nodes, *take, given) + 1).max().unwrap_or(0)
}

#[test]
fn a_plan_has_exactly_what_its_target_needs_by_depth_and_name() {
    let pool = pool();
    let takes = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let drawn = prop::collection::vec(takes, 1..12);
    let given = prop::collection::btree_set(0..12usize, 0..4);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) };
    proptest!(config, |(drawn in drawn, given in given, target in any::<prop::sample::Index>())| {
        let nodes: Vec<Vec<usize>> = (0..)
            .zip(&drawn)
            .map(|(i, takes)| takes.iter().filter(|_| i > 0).map(|take| take.index(i)).collect())
            .collect();
        let target = target.index(nodes.len());
        let given: Vec<usize> = given.into_iter().filter(|node| *node < nodes.len()).collect();
        let mut used = BTreeSet::new();
        let needed = needed(&nodes, target, &given, &mut used);
        let ports: Vec<_> = given.iter().map(|node| node_port(*node)).collect();
        let graph = numbered(&nodes, &pool).unwrap();
        let plan = match Plan::of(&graph, &node_port(target), &ports) {
            Ok(plan) => plan,
            Err(errors) => {
                prop_assert_eq!(errors.faults().len(), given.len() - used.len(), "{}", errors);
                return Ok(());
            }
        };
        prop_assert_eq!(used.len(), given.len());
        let mut expected: Vec<(u32, usize)> = needed.iter().map(|n| (depth(&nodes, *n, &given), *n)).collect();
        expected.sort_unstable();
        let steps: Vec<usize> = plan.nodes().map(|(_, step)| step.index()).collect();
        let planned: Vec<_> = plan.nodes().map(|(node, step)| (plan.depth(node), step.index())).collect();
        prop_assert_eq!(planned, expected);
        for (node, step) in plan.nodes() {
            let takes = plan.inputs(node).iter().map(|input| match &input.source {
                Source::Given(i) => given[*i],
                Source::Node(producer) => steps[producer.index()],
                Source::Failed => panic!("no step takes the count"),
            });
            prop_assert_eq!(takes.collect::<Vec<_>>(), nodes[step.index()].clone());
            prop_assert_eq!(plan.dimension_of(node), DimensionId::ROOT);
        }
    });
}

#[test]
fn a_count_is_of_the_last_stage_after_which_the_step_gathers_and_of_each_dimension_once() {
    let raw = raw_module(&[
        ("Clean", "t.Text -> t.Text#clean"),
        ("Mean", "t.Text#clean[], docket.v1.Failed -> t.Number#mean"),
        ("Rate", "t.Text#clean, t.Number#mean -> t.Number#rate"),
        ("Report", "t.Number#rate[], t.Text[], t.Text#clean[], docket.v1.Failed -> t.Text#report"),
        ("Words", "t.Text#clean -> t.Text#word[]"),
        ("Long", "t.Text#word -> t.Number#long"),
        ("Place", "t.Number#long[], t.Text#clean[], docket.v1.Failed -> t.Number#place"),
    ]);
    let graph = Graph::read([("m.wasm", &raw)]).unwrap();
    let check = |target: &str, step: &str, expected: &[(usize, u32)]| {
        let plan = Plan::of_items(&graph, &port(target), &[port("t.Text")], 0).unwrap();
        let id = graph.find_step(step).unwrap();
        let (node, _) = plan.nodes().find(|(_, found)| *found == id).unwrap();
        let from: Vec<_> = plan.gathers_from(node).iter().map(|(of, stage)| (of.index(), *stage)).collect();
        assert_eq!(from, expected, "{step} for {target}");
    };
    // The items are the first dimension.
    check("t.Text#report", "Clean", &[]);
    check("t.Text#report", "Mean", &[(1, 0)]);
    check("t.Text#report", "Report", &[(1, 1)]);
    // It runs for each item, after a stage in which all were gathered, and gathers words within its own.
    check("t.Number#place", "Place", &[(2, 0), (1, 0)]);
}
