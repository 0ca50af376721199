//! Cycles in random graphs, beside a search that is too simple to be wrong.

use docket_graph::{Fault, Plan};
use proptest::prelude::*;

use crate::support::{node_port, numbered, pool};

/// Which nodes each node reaches by at least one edge.
fn reach(nodes: &[Vec<usize>]) -> Vec<Vec<bool>> {
    let mut reach = vec![vec![false; nodes.len()]; nodes.len()];
    for (node, takes) in nodes.iter().enumerate() {
        takes.iter().for_each(|from| reach[*from][node] = true);
    }
    for via in 0..nodes.len() {
        for from in 0..nodes.len() {
            for to in 0..nodes.len() {
                reach[from][to] |= reach[from][via] && reach[via][to];
            }
        }
    }
    reach
}

/// The length of the shortest way from a node back to it.
fn round(nodes: &[Vec<usize>], start: usize) -> usize {
    let mut front = vec![start];
    for length in 1.. {
        front =
            (0..nodes.len()).filter(|node| nodes[*node].iter().any(|from| front.contains(from))).collect();
        if front.contains(&start) {
            return length;
        }
    }
    unreachable!()
}

#[test]
fn each_set_of_steps_that_wait_for_each_other_is_reported_once_by_its_shortest_cycle() {
    let pool = pool();
    let takes = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    let drawn = prop::collection::vec(takes, 1..9);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) };
    proptest!(config, |(drawn in drawn)| {
        let nodes: Vec<Vec<usize>> =
            drawn.iter().map(|takes| takes.iter().map(|take| take.index(drawn.len())).collect()).collect();
        let reach = reach(&nodes);
        let smallest: Vec<usize> = (0..nodes.len())
            .filter(|node| reach[*node][*node] && (0..*node).all(|other| !(reach[*node][other] && reach[other][*node])))
            .collect();
        let faults = numbered(&nodes, &pool).map_or_else(|errors| errors.into_faults(), |_| Vec::new());
        prop_assert_eq!(faults.len(), smallest.len());
        for (fault, start) in faults.iter().zip(smallest) {
            let Fault::Cycle { path, same_message } = fault else { panic!("{fault}") };
            let path: Vec<usize> = path.iter().map(|place| place.step[1..].parse().unwrap()).collect();
            prop_assert_eq!((path[0], path[path.len() - 1]), (start, start));
            prop_assert!(path.windows(2).all(|pair| nodes[pair[1]].contains(&pair[0])), "{:?}", path);
            prop_assert_eq!(path.len() - 1, round(&nodes, start));
            prop_assert_eq!(same_message.is_some(), path.len() == 2);
        }
    });
}

#[test]
fn a_chain_of_a_hundred_thousand_steps_is_inferred_planned_and_found_to_be_a_cycle() {
    let mut nodes: Vec<Vec<usize>> =
        (0..100_000usize).map(|node| node.checked_sub(1).into_iter().collect()).collect();
    let graph = numbered(&nodes, &pool()).unwrap();
    let plan = Plan::of(&graph, &node_port(99_999), &[]).unwrap();
    assert_eq!(plan.len(), 100_000);
    assert_eq!(plan.nodes().last().map(|(node, _)| plan.depth(node)), Some(99_999));
    nodes[0].push(99_999);
    let faults = numbered(&nodes, &pool()).unwrap_err();
    assert!(matches!(&faults.faults()[0], Fault::Cycle { path, .. } if path.len() == 100_001));
}
