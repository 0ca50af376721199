//! Random graphs with lists, and what they give, written down as a recursion over nested indices. Shares nothing with the
//! planner or the machine.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use docket_graph::prost_reflect::DescriptorPool;
use docket_graph::{
    Arity, FAILED, Graph, GraphErrors, ModuleDecl, Policy, Port, PortDecl, StepDecl, StepName,
};
use proptest::prelude::*;

use crate::support::{node_port, port};

/// What flows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    One(u64),
    Many(Vec<u64>),
}

impl Value {
    pub(crate) fn flat(&self) -> Vec<u64> {
        match self {
            Value::One(one) => vec![*one],
            Value::Many(many) => many.clone(),
        }
    }
}

/// What a step takes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum From {
    /// A leaf that is given once.
    Shared,
    /// A leaf that may come as items.
    Items,
    Node(usize),
}

/// A graph of numbered steps.
#[derive(Debug, Clone)]
pub(crate) struct Drawn {
    pub(crate) nodes: Vec<DrawnNode>,
}

#[derive(Debug, Clone)]
pub(crate) struct DrawnNode {
    pub(crate) inputs: Vec<(From, Arity)>,
    pub(crate) gives: Arity,
    /// Whether it takes how many elements failed of those that it gathers, after its other inputs, where it can.
    counts: bool,
}

/// What opens a dimension: the items, or the list of a node.
pub(crate) type Opener = Option<usize>;

/// The dimensions around something, from the outermost.
pub(crate) type Chain = Vec<Opener>;

pub(crate) fn shared_port() -> Port {
    port("t.Text#shared")
}

pub(crate) fn items_port() -> Port {
    port("t.Text#items")
}

pub(crate) fn from_port(from: From) -> Port {
    match from {
        From::Shared => shared_port(),
        From::Items => items_port(),
        From::Node(node) => node_port(node),
    }
}

impl DrawnNode {
    pub(crate) fn counts(&self) -> bool {
        self.counts && self.inputs.iter().any(|(_, takes)| *takes == Arity::Many)
    }
}

impl Drawn {
    /// Returns a graph of which one step is all that is done for an item: it takes the item, and what so many steps one after
    /// the other make once.
    pub(crate) fn with_sole_step(once: usize, gives: Arity) -> Self {
        let one = |inputs: Vec<From>, gives| {
            let inputs = inputs.into_iter().map(|from| (from, Arity::One)).collect();
            DrawnNode { inputs, gives, counts: false }
        };
        let last = |i: usize| if i == 0 { From::Shared } else { From::Node(i - 1) };
        let mut nodes: Vec<_> = (0..once).map(|i| one(vec![last(i)], Arity::One)).collect();
        nodes.push(one(vec![From::Items, last(once)], gives));
        Self { nodes }
    }

    pub(crate) fn graph(&self, pool: &DescriptorPool) -> Result<Graph, GraphErrors> {
        let steps = self.nodes.iter().enumerate().map(|(i, node)| StepDecl {
            name: StepName::parse(&format!("s{i:05}")).unwrap(),
            version: None,
            inputs: node
                .inputs
                .iter()
                .map(|(from, arity)| PortDecl { port: from_port(*from), arity: *arity })
                .chain(node.counts().then(|| PortDecl { port: port(FAILED), arity: Arity::One }))
                .collect(),
            output: PortDecl { port: node_port(i), arity: node.gives },
            policy: Policy::default(),
        });
        Graph::infer(vec![ModuleDecl { name: "m".into(), steps: steps.collect(), descriptors: pool.clone() }])
    }

    /// Returns the dimensions that an input adds.
    fn contributed(&self, chains: &[Option<Chain>], batch: bool, from: From, takes: Arity) -> Option<Chain> {
        let (home, gives) = match from {
            From::Node(node) => (chains[node].clone()?, self.nodes[node].gives),
            From::Items if batch => (vec![None], Arity::One),
            From::Items | From::Shared => (Vec::new(), Arity::One),
        };
        let mut all = home;
        if gives == Arity::Many {
            let From::Node(node) = from else { unreachable!("leaves are given one by one") };
            all.push(Some(node));
        }
        if takes == Arity::Many {
            all.pop();
        }
        Some(all)
    }

    /// Returns the dimensions around each node; none where unrelated ones meet, there or before.
    pub(crate) fn chains(&self, batch: bool) -> Vec<Option<Chain>> {
        let mut chains: Vec<Option<Chain>> = Vec::new();
        for node in &self.nodes {
            let mut chain = Some(Chain::new());
            for (from, takes) in &node.inputs {
                let added = self.contributed(&chains, batch, *from, *takes);
                chain = chain.zip(added).and_then(|(chain, added)| meet(chain, added));
            }
            chains.push(chain);
        }
        chains
    }

    /// Changes inputs until no unrelated dimensions meet: takes many where that helps, else leaves the input out.
    pub(crate) fn mend(&mut self, batch: bool) {
        let mut chains: Vec<Option<Chain>> = Vec::new();
        for i in 0..self.nodes.len() {
            let mut chain = Chain::new();
            let mut inputs = Vec::new();
            for (from, takes) in std::mem::take(&mut self.nodes[i].inputs) {
                for takes in [takes, Arity::Many] {
                    let added = self.contributed(&chains, batch, from, takes).unwrap();
                    if let Some(met) = meet(chain.clone(), added) {
                        chain = met;
                        inputs.push((from, takes));
                        break;
                    }
                }
            }
            self.nodes[i].inputs = inputs;
            chains.push(Some(chain));
        }
    }

    /// Returns whether the last node needs each node.
    pub(crate) fn needed(&self) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        *needed.last_mut().unwrap() = true;
        for (i, node) in self.nodes.iter().enumerate().rev() {
            for (from, _) in &node.inputs {
                if let From::Node(taken) = from {
                    needed[*taken] |= needed[i];
                }
            }
        }
        needed
    }
}

/// Returns the longer of two where the other is its beginning.
fn meet(one: Chain, other: Chain) -> Option<Chain> {
    let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
    long.starts_with(&short).then_some(long)
}

/// Graphs in which the last node takes what nobody else takes.
pub(crate) fn drawn() -> impl Strategy<Value = Drawn> {
    let arity = prop_oneof![3 => Just(Arity::One), 2 => Just(Arity::Many)];
    let input = (any::<prop::sample::Index>(), arity.clone());
    let node = (prop::collection::vec(input, 0..4), arity, any::<bool>());
    prop::collection::vec(node, 1..12).prop_map(|drawn| {
        let last = drawn.len() - 1;
        let mut taken = vec![false; drawn.len()];
        let mut nodes: Vec<DrawnNode> = Vec::new();
        for (i, (inputs, gives, counts)) in drawn.into_iter().enumerate() {
            // Near ones more often: long chains nest more deeply.
            let from = |index: prop::sample::Index| match index.index(i * 2 + 2) {
                0 => From::Shared,
                1 => From::Items,
                near if near - 2 < i => From::Node(near - 2),
                near => From::Node(i - 1 - (near - 2 - i) % 2.min(i)),
            };
            let mut inputs: Vec<(From, Arity)> =
                inputs.into_iter().map(|(index, arity)| (from(index), arity)).collect();
            inputs.iter().for_each(|(from, _)| {
                if let From::Node(node) = from {
                    taken[*node] = true;
                }
            });
            if i == last {
                inputs.extend(
                    (0..last).filter(|node| !taken[*node]).map(|node| (From::Node(node), Arity::One)),
                );
            }
            nodes.push(DrawnNode { inputs, gives, counts });
        }
        Drawn { nodes }
    })
}

/// Returns what a step gives for its inputs.
pub(crate) fn step(node: usize, gives: Arity, inputs: &[Value]) -> Value {
    let number = hash(&(node, inputs));
    match gives {
        Arity::One => Value::One(number),
        Arity::Many => Value::Many((0..number % 4).map(|i| hash(&(number, i))).collect()),
    }
}

pub(crate) fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

pub(crate) const SHARED: Value = Value::One(17);

/// The value of a graph's nodes for each element, asked for one by one.
pub(crate) struct Reference<'a> {
    pub(crate) drawn: &'a Drawn,
    pub(crate) chains: Vec<Chain>,
    /// The values of the items; of one, where there is no batch.
    pub(crate) items: Vec<u64>,
    pub(crate) batch: bool,
    /// Which items are gathered.
    pub(crate) good: Vec<bool>,
    pub(crate) known: HashMap<(usize, Vec<usize>), Value>,
}

impl Reference<'_> {
    /// Returns what a node gives for the element at these indices.
    pub(crate) fn value(&mut self, node: usize, path: &[usize]) -> Value {
        if let Some(known) = self.known.get(&(node, path.to_vec())) {
            return known.clone();
        }
        let drawn = self.drawn;
        let mut inputs: Vec<Value> =
            drawn.nodes[node].inputs.iter().map(|(from, takes)| self.input(*from, *takes, path)).collect();
        inputs.extend(drawn.nodes[node].counts().then(|| Value::One(self.failed(node))));
        let value = step(node, drawn.nodes[node].gives, &inputs);
        self.known.insert((node, path.to_vec()), value.clone());
        value
    }

    fn input(&mut self, from: From, takes: Arity, path: &[usize]) -> Value {
        match (from, takes) {
            (From::Shared, Arity::One) => SHARED,
            (From::Shared, Arity::Many) => Value::Many(SHARED.flat()),
            (From::Items, Arity::One) => Value::One(self.items[if self.batch { path[0] } else { 0 }]),
            (From::Items, Arity::Many) => {
                let good = self.items.iter().zip(&self.good).filter(|(_, good)| **good);
                Value::Many(good.map(|(item, _)| *item).collect())
            }
            (From::Node(node), takes) => {
                let depth = self.chains[node].len();
                match (self.drawn.nodes[node].gives, takes) {
                    (Arity::One, Arity::One) | (Arity::Many, Arity::Many) => self.value(node, &path[..depth]),
                    (Arity::Many, Arity::One) => {
                        Value::One(self.value(node, &path[..depth]).flat()[path[depth]])
                    }
                    (Arity::One, Arity::Many) if depth == 0 => Value::Many(self.value(node, &[]).flat()),
                    (Arity::One, Arity::Many) => {
                        let outer = path[..depth - 1].to_vec();
                        let opener = *self.chains[node].last().unwrap();
                        let all = self.elements(opener, &outer).into_iter();
                        Value::Many(
                            all.flat_map(|i| self.value(node, &[&outer[..], &[i]].concat()).flat()).collect(),
                        )
                    }
                }
            }
        }
    }

    /// Returns how many items a node does not see of those that it gathers.
    fn failed(&self, node: usize) -> u64 {
        let gathers_items = |(from, takes): &(From, Arity)| match from {
            From::Shared => false,
            From::Items => *takes == Arity::Many,
            From::Node(from) => {
                let gathers = self.drawn.nodes[*from].gives == Arity::One && *takes == Arity::Many;
                gathers && self.chains[*from].last() == Some(&None)
            }
        };
        let bad = self.good.iter().filter(|good| !**good).count() as u64;
        if self.drawn.nodes[node].inputs.iter().any(gathers_items) { bad } else { 0 }
    }

    /// Returns the indices of the elements of a dimension.
    fn elements(&mut self, opener: Opener, outer: &[usize]) -> Vec<usize> {
        match opener {
            None => (0..self.items.len()).filter(|item| self.good[*item]).collect(),
            Some(node) => (0..self.value(node, outer).flat().len()).collect(),
        }
    }

    /// Returns all indices of the elements for which a node runs.
    pub(crate) fn paths(&mut self, node: usize) -> Vec<Vec<usize>> {
        let mut paths = vec![Vec::new()];
        for opener in self.chains[node].clone() {
            paths = paths
                .into_iter()
                .flat_map(|outer| {
                    let inner = self.elements(opener, &outer).into_iter();
                    inner.map(move |i| [&outer[..], &[i]].concat()).collect::<Vec<_>>()
                })
                .collect();
        }
        paths
    }
}
