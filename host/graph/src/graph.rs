//! Owns the graph: all steps of a set of modules, joined by their ports and checked. Immutable once inferred.
//! Never asks what is to be computed; that is the plan's question.

mod dimensions;
mod host_given;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::compatible::{MOST_PAIRS, TooManyPairs, differences};
use crate::cycle::cycles;
use crate::declaration::{ModuleDecl, RawModule, StepDecl, duplicate_names};
use crate::edges::Edges;
use crate::failed::is_failed;
use crate::fault::{Fault, GraphErrors, Place};
use crate::policy::Policy;
use crate::port::{Arity, Port, StepName};
use crate::schema::Schema;

/// The most fields in the tables of all messages that one module's steps take and give, each message with those
/// inside it. 2,097,152: the tables are then some 40 MB, and were made of descriptors that claimed to be a few.
const MOST_FIELDS: usize = 1 << 21;

/// A step of one graph. Ids follow the order of names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(u32);

/// A port of one graph. Ids follow the order of texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u32);

impl StepId {
    /// Returns the position in [`Graph::steps`].
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl PortId {
    /// Returns the position in [`Graph::ports`].
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A step in its graph.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Step {
    /// Its name.
    pub name: StepName,
    /// What stands for its code in the keys of kept results.
    pub version: Option<String>,
    /// How it wants to be run.
    pub policy: Policy,
    /// The module's position in the list that the graph was inferred from, and in [`Graph::modules`].
    pub module: usize,
    /// What it takes, in the order of its declaration.
    pub inputs: Vec<(PortId, Arity)>,
    /// What it gives.
    pub output: (PortId, Arity),
}

/// All steps of a set of modules, inferred and checked.
#[derive(Debug)]
pub struct Graph {
    modules: Vec<Arc<str>>,
    steps: Vec<Step>,
    ports: Vec<Node>,
    /// By port, apart from all else that is known of it: they are asked for once a step that runs.
    schemas: Vec<SharedSchema>,
    consumers: Edges<StepId>,
    leaves: Vec<PortId>,
    outputs: Vec<PortId>,
    /// The port of the host's count of failed elements, where some step takes it.
    failed: Option<PortId>,
    /// By step; empty where every step runs once.
    per_element_of: Vec<Option<PortId>>,
}

#[derive(Debug)]
struct Node {
    port: Port,
    producer: Option<StepId>,
    arity: Arity,
    message: MessageDescriptor,
}

impl Graph {
    /// Returns the graph of these modules.
    ///
    /// # Errors
    /// Every fault between them: no step, two steps of one name, two producers, cycles, steps that would run for each
    /// element of two unrelated lists, steps that cannot have the host's count, messages that differ between modules.
    pub fn infer(modules: Vec<ModuleDecl>) -> Result<Self, GraphErrors> {
        let names = modules
            .iter()
            .flat_map(|module| module.steps.iter().map(move |step| (step.name.as_str(), &module.name)));
        let faults = duplicate_names(names);
        Self::infer_beside(modules, faults)
    }

    /// Returns the graph of raw modules, each with the name that the user knows it by.
    ///
    /// # Errors
    /// Every fault in each module, and between what can be read of them, in one report.
    pub fn read<'a>(
        modules: impl IntoIterator<Item = (&'a str, &'a RawModule)>,
    ) -> Result<Self, GraphErrors> {
        let mut faults = Vec::new();
        let mut parsed = Vec::new();
        let mut names = Vec::new();
        for (name, raw) in modules {
            let (module, found) = ModuleDecl::parse_what_is_sound(name, raw);
            faults.extend(found);
            parsed.push(module);
            names.push(raw.steps.iter().map(|step| step.name.as_str()));
        }
        let modules = parsed.iter().map(|module| &module.name);
        let names = names
            .iter()
            .zip(modules)
            .flat_map(|(names, module)| names.clone().map(move |name| (name, module)));
        faults.extend(duplicate_names(names));
        Self::infer_beside(parsed, faults)
    }

    fn infer_beside(modules: Vec<ModuleDecl>, mut faults: Vec<Fault>) -> Result<Self, GraphErrors> {
        let draft = Draft::of(modules);
        if draft.steps.is_empty() && faults.is_empty() {
            faults.push(Fault::EmptyGraph);
        }
        draft.find_two_producers(&mut faults);
        draft.find_misused_counts(&mut faults);
        let per_element_of = draft.find_dimensions(&mut faults);
        draft.find_cycles(&mut faults);
        let messages = draft.find_messages(&mut faults);
        match GraphErrors::of(faults) {
            Some(errors) => Err(errors),
            None => Ok(draft.finish(messages, per_element_of)),
        }
    }

    /// Returns the names of the modules, in the order they were given.
    pub fn modules(&self) -> &[Arc<str>] {
        &self.modules
    }

    /// Returns all steps, by name.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = (StepId, &Step)> {
        self.steps.iter().enumerate().map(|(i, step)| (StepId(id(i)), step))
    }

    /// Returns a step.
    #[inline]
    pub fn step(&self, step: StepId) -> &Step {
        &self.steps[step.index()]
    }

    /// Returns the step of this name.
    pub fn find_step(&self, name: &str) -> Option<StepId> {
        self.steps.binary_search_by(|step| step.name.as_str().cmp(name)).ok().map(|i| StepId(id(i)))
    }

    /// Returns all ports, by their texts.
    pub fn ports(&self) -> impl ExactSizeIterator<Item = (PortId, &Port)> {
        self.ports.iter().enumerate().map(|(i, node)| (PortId(id(i)), &node.port))
    }

    /// Returns a port.
    #[inline]
    pub fn port(&self, port: PortId) -> &Port {
        &self.ports[port.index()].port
    }

    /// Returns the id of a port, if any step takes or gives it.
    pub fn find_port(&self, port: &Port) -> Option<PortId> {
        self.ports.binary_search_by(|node| node.port.cmp(port)).ok().map(|i| PortId(id(i)))
    }

    /// Returns whether the host itself gives a port: [`FAILED`](crate::FAILED), how many elements failed of those that a
    /// step gathers. It is no leaf, and nobody is asked for it.
    pub fn is_from_host(&self, port: PortId) -> bool {
        self.failed == Some(port)
    }

    /// Returns the ports that a request can name, by their texts.
    pub(crate) fn nameable(&self) -> impl Iterator<Item = &Port> {
        self.ports().filter(|(id, _)| !self.is_from_host(*id)).map(|(_, port)| port)
    }

    /// Returns the step that gives a port; none for a leaf and for what the host gives.
    pub fn producer(&self, port: PortId) -> Option<StepId> {
        self.ports[port.index()].producer
    }

    /// Returns the steps that take a port, each once, by name.
    #[inline]
    pub fn consumers(&self, port: PortId) -> &[StepId] {
        self.consumers.of_source(port.index())
    }

    /// Returns what no step gives, and the host neither, by text.
    pub fn leaves(&self) -> &[PortId] {
        &self.leaves
    }

    /// Returns what some step gives and none takes, by text.
    pub fn outputs(&self) -> &[PortId] {
        &self.outputs
    }

    /// Returns how much flows through a port: what its producer gives, or for a leaf many only if every consumer
    /// takes many.
    pub fn arity(&self, port: PortId) -> Arity {
        self.ports[port.index()].arity
    }

    /// Returns the port for each element of whose list a step runs, the innermost where lists are nested; none for a step
    /// that runs once. The list itself is given once for each element of what its own producer runs for.
    ///
    /// A plan may differ: given inputs take the place of lists, and the items of a batch are a list around all others.
    pub fn per_element_of(&self, step: StepId) -> Option<PortId> {
        self.per_element_of.get(step.index()).copied().flatten()
    }

    /// Returns the message type of a port: its producer's, or for a leaf that of the consumer whose definition has the
    /// most fields.
    pub fn message(&self, port: PortId) -> &MessageDescriptor {
        &self.ports[port.index()].message
    }

    /// Returns the tables to check the bytes of a port by.
    #[inline]
    pub fn schema(&self, port: PortId) -> &Schema {
        self.schemas[port.index()].get_or_init(|| Schema::of(self.message(port)))
    }
}

/// The joined steps, before anything is known to be right.
struct Draft {
    modules: Vec<Arc<str>>,
    pools: Vec<DescriptorPool>,
    steps: Vec<Step>,
    ports: Vec<Port>,
    producers: Edges<StepId>,
    consumers: Edges<StepId>,
}

/// How one module uses a message.
struct Use {
    module: usize,
    port: PortId,
    step: StepId,
    message: MessageDescriptor,
}

impl Draft {
    fn of(declarations: Vec<ModuleDecl>) -> Self {
        let (mut modules, mut pools, mut declared) = (Vec::new(), Vec::new(), Vec::new());
        for (i, ModuleDecl { name, steps, descriptors }) in declarations.into_iter().enumerate() {
            modules.push(name);
            pools.push(descriptors);
            declared.extend(steps.into_iter().map(|step| (i, step)));
        }
        declared.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        let (mut steps, ports) = join(declared);
        let ports = sort(ports, &mut steps);
        let producers = steps.iter().enumerate().map(|(i, step)| (step.output.0.0, StepId(id(i))));
        let producers = Edges::of(ports.len(), producers);
        let consumers = Edges::of(ports.len(), distinct_inputs(&steps, ports.len()).into_iter());
        Self { modules, pools, steps, ports, producers, consumers }
    }

    fn place(&self, step: StepId) -> Place {
        let Step { module, name, .. } = &self.steps[step.index()];
        Place { module: self.modules[*module].clone(), step: name.shared() }
    }

    fn find_two_producers(&self, faults: &mut Vec<Fault>) {
        for (i, port) in self.ports.iter().enumerate() {
            let producers = self.producers.of_source(i);
            if producers.len() > 1 {
                let mut producers: Vec<_> = producers.iter().map(|step| self.place(*step)).collect();
                producers.sort();
                faults.push(Fault::TwoProducers { port: port.clone(), producers });
            }
        }
    }

    fn find_cycles(&self, faults: &mut Vec<Fault>) {
        let followers = |step: &Step| self.consumers.of_source(step.output.0.index()).iter();
        let pairs = (0..).zip(&self.steps).flat_map(|(i, step)| followers(step).map(move |next| (i, next.0)));
        for cycle in cycles(&Edges::of(self.steps.len(), pairs)) {
            let to_itself = (cycle.len() == 1).then(|| self.steps[cycle[0] as usize].output.0);
            let round = cycle.iter().chain(cycle.first());
            faults.push(Fault::Cycle {
                path: round.map(|step| self.place(StepId(*step))).collect(),
                same_message: to_itself.map(|port| self.ports[port.index()].clone()),
            });
        }
    }

    /// Returns the message type of each port, as far as there is one, and compares the modules that share a message.
    fn find_messages(&self, faults: &mut Vec<Fault>) -> Vec<Option<MessageDescriptor>> {
        let mut messages = Vec::with_capacity(self.ports.len());
        // The last message that each module was seen to use: ports are sorted by message.
        let mut seen = vec![usize::MAX; self.modules.len()];
        let mut uses = Vec::new();
        let mut left = vec![Some(MOST_FIELDS); self.modules.len()];
        for same in self.ports.chunk_by(|a, b| a.message() == b.message()) {
            let first = messages.len();
            let ports = first..first + same.len();
            uses.clear();
            for port in ports.clone() {
                self.find_uses(port, first, &mut seen, &mut uses, faults);
            }
            uses.retain(|one| self.is_bearable(one, &mut left, faults));
            if uses.len() > 1 {
                self.compare(&mut uses, faults);
            }
            messages.extend(ports.map(|port| self.message(port, &uses)));
        }
        messages
    }

    /// Returns whether tables can be made of the message beside all others that its module uses; takes what they need
    /// from what is left. Said once a module.
    fn is_bearable(&self, one: &Use, left: &mut [Option<usize>], faults: &mut Vec<Fault>) -> bool {
        let Some(most) = left[one.module] else { return false };
        left[one.module] = Schema::weight(&one.message, most).map(|weight| most - weight);
        if left[one.module].is_none() {
            let (place, port) = (self.place(one.step), self.ports[one.port.index()].clone());
            faults.push(Fault::TooManyFields { place, port, most: MOST_FIELDS });
        }
        left[one.module].is_some()
    }

    /// Adds each module that takes or gives the port and was not yet seen with its message.
    fn find_uses(
        &self,
        port: usize,
        message: usize,
        seen: &mut [usize],
        uses: &mut Vec<Use>,
        faults: &mut Vec<Fault>,
    ) {
        for step in self.producers.of_source(port).iter().chain(self.consumers.of_source(port)) {
            let module = self.steps[step.index()].module;
            if std::mem::replace(&mut seen[module], message) == message {
                continue;
            }
            match self.pools[module].get_message_by_name(self.ports[port].message()) {
                Some(message) => uses.push(Use { module, port: PortId(id(port)), step: *step, message }),
                None => {
                    let place = self.place(*step);
                    faults.push(Fault::MissingMessage { place, port: self.ports[port].clone() });
                }
            }
        }
    }

    /// Compares all definitions of one message, each pair of different ones once.
    fn compare(&self, uses: &mut [Use], faults: &mut Vec<Fault>) {
        uses.sort_by_key(|one| one.module);
        let mut distinct: Vec<(&Use, Schema)> = Vec::new();
        for one in &*uses {
            if distinct.iter().any(|(other, _)| one.message == other.message) {
                // The same pool, so the same definition.
                continue;
            }
            let schema = Schema::of(&one.message);
            if distinct.iter().all(|(_, other)| schema != *other) {
                distinct.push((one, schema));
            }
        }
        for (i, (first, schema)) in distinct.iter().enumerate() {
            for (second, other) in &distinct[i + 1..] {
                let port = || self.ports[first.port.index()].clone();
                let (first, second) = (self.place(first.step), self.place(second.step));
                let found = match differences(schema, other) {
                    Ok(found) => found,
                    Err(TooManyPairs) => {
                        faults.push(Fault::Incomparable { port: port(), first, second, most: MOST_PAIRS });
                        continue;
                    }
                };
                faults.extend(found.into_iter().map(|difference| Fault::Incompatible {
                    port: port(),
                    message: difference.message,
                    field: difference.field,
                    first: first.clone(),
                    second: second.clone(),
                    difference: difference.text,
                }));
            }
        }
    }

    fn message(&self, port: usize, uses: &[Use]) -> Option<MessageDescriptor> {
        let of_module = |step: &StepId| {
            let module = self.steps[step.index()].module;
            uses.iter().find(|one| one.module == module).map(|one| &one.message)
        };
        let message = match self.producers.of_source(port) {
            [producer, ..] => of_module(producer),
            [] if uses.len() == 1 => Some(&uses[0].message),
            [] => {
                let candidates = self.consumers.of_source(port).iter().filter_map(of_module);
                // The first of the richest: `max_by_key` would give the last.
                candidates
                    .reduce(|best, next| if next.fields().len() > best.fields().len() { next } else { best })
            }
        };
        message.cloned()
    }

    /// Builds the graph of a draft without a fault.
    fn finish(self, messages: Vec<Option<MessageDescriptor>>, per_element_of: Vec<Option<PortId>>) -> Graph {
        let Self { modules, pools: _, steps, ports, producers, consumers } = self;
        let mut leaf_arity = vec![Arity::Many; ports.len()];
        let inputs = steps.iter().flat_map(|step| &step.inputs);
        inputs
            .filter(|input| input.1 == Arity::One)
            .for_each(|input| leaf_arity[input.0.index()] = Arity::One);
        let ports: Vec<Node> = ports
            .into_iter()
            .zip(messages)
            .enumerate()
            .map(|(i, (port, message))| {
                let message = message.expect("a message that is missing is a fault, and there is none");
                let producer = producers.of_source(i).first().copied();
                let arity = producer.map_or(leaf_arity[i], |step| steps[step.index()].output.1);
                Node { port, producer, arity, message }
            })
            .collect();
        let mut shared = Schemas::default();
        let schemas = ports.iter().map(|node| shared.of(&node.message)).collect();
        let select = |wanted: fn(&Node, &[StepId]) -> bool| {
            let all = ports.iter().enumerate();
            all.filter(|(i, node)| wanted(node, consumers.of_source(*i)))
                .map(|(i, _)| PortId(id(i)))
                .collect()
        };
        let leaves = select(|node, _| node.producer.is_none() && !is_failed(&node.port));
        let failed = ports.iter().position(|node| is_failed(&node.port)).map(|i| PortId(id(i)));
        let outputs = select(|node, consumers| node.producer.is_some() && consumers.is_empty());
        Graph { modules, steps, ports, schemas, consumers, leaves, outputs, failed, per_element_of }
    }
}

/// Built when first asked for, once for all ports of a message: most are never checked on their own.
type SharedSchema = Arc<OnceLock<Schema>>;

/// The schemas of a graph by message. Modules may have different descriptors of one name.
#[derive(Default)]
struct Schemas(HashMap<String, Vec<(MessageDescriptor, SharedSchema)>>);

impl Schemas {
    fn of(&mut self, message: &MessageDescriptor) -> SharedSchema {
        let alike = match self.0.get_mut(message.full_name()) {
            Some(alike) => alike,
            None => self.0.entry(message.full_name().to_owned()).or_default(),
        };
        match alike.iter().find(|(known, _)| known == message) {
            Some((_, schema)) => Arc::clone(schema),
            None => {
                let schema = SharedSchema::default();
                alike.push((message.clone(), Arc::clone(&schema)));
                schema
            }
        }
    }
}

/// Gives each port a number, in the order of appearance.
fn join(declared: Vec<(usize, StepDecl)>) -> (Vec<Step>, Vec<Port>) {
    let mut ids: HashMap<Port, PortId> = HashMap::with_capacity(declared.len());
    let mut ports = Vec::with_capacity(declared.len());
    let mut number = |port: Port| {
        if let Some(known) = ids.get(&port) {
            return *known;
        }
        let new = PortId(id(ports.len()));
        ports.push(port.clone());
        ids.insert(port, new);
        new
    };
    let steps = declared
        .into_iter()
        .map(|(module, StepDecl { name, version, inputs, output, policy })| Step {
            name,
            version,
            policy,
            module,
            inputs: inputs.into_iter().map(|input| (number(input.port), input.arity)).collect(),
            output: (number(output.port), output.arity),
        })
        .collect();
    (steps, ports)
}

/// Sorts the ports by text, and renumbers them in the steps.
fn sort(ports: Vec<Port>, steps: &mut [Step]) -> Vec<Port> {
    let mut order: Vec<(Port, usize)> = ports.into_iter().zip(0..).collect();
    order.sort_unstable();
    let mut new = vec![PortId(0); order.len()];
    for (i, (_, old)) in order.iter().enumerate() {
        new[*old] = PortId(id(i));
    }
    for step in steps {
        for (port, _) in step.inputs.iter_mut().chain([&mut step.output]) {
            *port = new[port.index()];
        }
    }
    order.into_iter().map(|(port, _)| port).collect()
}

/// Returns each port with each step that takes it, a step that takes it twice once.
fn distinct_inputs(steps: &[Step], ports: usize) -> Vec<(u32, StepId)> {
    let mut last = vec![u32::MAX; ports];
    let mut pairs = Vec::with_capacity(ports);
    for (i, step) in (0..).zip(steps) {
        for (port, _) in &step.inputs {
            if std::mem::replace(&mut last[port.index()], i) != i {
                pairs.push((port.0, StepId(i)));
            }
        }
    }
    pairs
}

/// Declarations are held in memory, so there are fewer of anything than 2^32.
fn id(index: usize) -> u32 {
    u32::try_from(index).expect("a graph has fewer than 2^32 steps and ports")
}
