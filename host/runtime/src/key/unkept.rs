//! Owns the keys of work whose result is not kept: they need only be the same for every attempt at the same work, and others
//! for any other. Never decides what is kept.

use std::sync::Arc;

use docket_graph::Arity;
use sha2::{Digest as _, Sha256};

use crate::execution_id::ExecutionId;
use crate::generation::{Prepared, frame};
use crate::value::{Payload, Value};

/// The most bytes of an element that are part of a key themselves. 110: two blocks of SHA-256 with what is beside them, as many
/// as its hash would take with what it is made of; a longer element is hashed once for all steps.
const LONGEST_PART: usize = 110;

/// What the keys of one execution's work have in common.
#[derive(Clone)]
pub(crate) struct RunKey(Sha256);

impl RunKey {
    /// Begins the keys of an execution with these inputs, in the order of their ports.
    pub(crate) fn of<'a>(
        execution: &ExecutionId,
        prepared: &Prepared,
        given: impl Iterator<Item = &'a Value>,
    ) -> Self {
        // Where results are kept the digests are needed anyway, and nothing is hashed twice.
        let part: fn(&Payload) -> &[u8] =
            if prepared.keeps { |payload| payload.digest() } else { |payload| payload.bytes() };
        Self::begun(prepared.key.clone(), execution, given, part)
    }

    fn begun<'a>(
        mut hash: Sha256,
        execution: &ExecutionId,
        given: impl Iterator<Item = &'a Value>,
        part: fn(&Payload) -> &[u8],
    ) -> Self {
        let id = execution.as_str().as_bytes();
        hash.update([u8::try_from(id.len()).expect("an id has at most 128 bytes")]);
        hash.update(id);
        for value in given {
            // Few bytes beside the messages: each block costs.
            match value.payloads() {
                [_] if value.arity() == Arity::One => hash.update([0]),
                payloads => {
                    hash.update([1]);
                    hash.update((payloads.len() as u64).to_le_bytes());
                }
            }
            value.payloads().iter().for_each(|payload| frame(&mut hash, part(payload)));
        }
        Self(hash)
    }

    /// Returns the key of one step's work. What it takes follows from the execution's inputs, or else from these, which do not.
    pub(crate) fn of_step(&self, identity: &[u8; 32], on: &[(Arc<Value>, Arity)]) -> [u8; 32] {
        let mut hash = self.0.clone().chain_update(identity);
        add_inputs(&mut hash, on);
        hash.finalize().into()
    }

    /// Begins the keys of one step's work for elements.
    pub(crate) fn of_elements(&self, identity: &[u8; 32]) -> ElementsKey {
        // A block of its own, which is hashed once for many elements.
        let step = self.of_step(identity, &[]);
        ElementsKey(Sha256::new().chain_update(step).chain_update([0; 32]))
    }
}

fn add_inputs(hash: &mut Sha256, inputs: &[(Arc<Value>, Arity)]) {
    for (value, _) in inputs {
        frame(hash, &(value.payloads().len() as u64).to_le_bytes());
        value.payloads().iter().for_each(|payload| frame(hash, payload.digest()));
    }
}

/// What the keys of one step's work for elements have in common, in one execution.
pub(crate) struct ElementsKey(Sha256);

impl ElementsKey {
    /// Returns the key of the step's work for one element. What it takes follows from that and the execution's inputs, or else
    /// from these.
    pub(crate) fn of(&self, element: ElementPart<'_>, on: &[(Arc<Value>, Arity)]) -> [u8; 32] {
        let mut hash = self.0.clone();
        element.add_to(&mut hash);
        add_inputs(&mut hash, on);
        hash.finalize().into()
    }
}

/// What tells an element from all others, in keys.
#[derive(Clone, Copy)]
pub(crate) struct ElementPart<'a> {
    /// The [digest](ElementPart::digest) of the element around it; none where it is an element of what runs once.
    pub(crate) around: Option<&'a [u8; 32]>,
    pub(crate) element: &'a Payload,
}

impl ElementPart<'_> {
    fn add_to(self, hash: &mut Sha256) {
        let bytes = self.element.bytes();
        let is_long = bytes.len() > LONGEST_PART;
        hash.update([u8::from(self.around.is_some()) | u8::from(is_long) << 1]);
        if let Some(around) = self.around {
            hash.update(around);
        }
        if is_long { frame(hash, self.element.digest()) } else { frame(hash, bytes) }
    }

    /// Returns what stands for the element in the keys of those within it.
    fn digest(self) -> [u8; 32] {
        let mut hash = Sha256::new();
        self.add_to(&mut hash);
        hash.finalize().into()
    }
}

/// An element, as keys are made of it: by whoever needs one, and not where elements are opened.
pub(crate) struct ElementKey {
    around: Option<Arc<[u8; 32]>>,
    element: Arc<Value>,
}

impl ElementKey {
    /// Returns an element, given the [digest](ElementKey::digest) of the one around it.
    pub(crate) fn new(around: Option<Arc<[u8; 32]>>, element: Arc<Value>) -> Self {
        Self { around, element }
    }

    /// Returns what is hashed.
    pub(crate) fn part(&self) -> ElementPart<'_> {
        let [element] = self.element.payloads() else { unreachable!("an element is one message") };
        ElementPart { around: self.around.as_deref(), element }
    }

    /// Returns what stands for the element in the keys of those within it.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.part().digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_has_another_key_in_each_execution_and_for_each_input() {
        let one = |text: &'static str| Value::one(text);
        let executions = [
            ("a", vec![one("a")]),
            ("b", vec![one("a")]),
            ("aa", vec![one("a")]),
            ("a", vec![]),
            ("a", vec![one("")]),
            ("a", vec![one("b")]),
            ("a", vec![one("aa")]),
            ("a", vec![one("a"), one("b")]),
            ("a", vec![one("b"), one("a")]),
            ("a", vec![one("ab"), one("")]),
            ("a", vec![Value::many(["a"])]),
            ("a", vec![Value::many(["a", "b"])]),
            ("a", vec![Value::many(["ab"])]),
            ("a", vec![Value::many([""; 0])]),
            ("a", vec![Value::many([""; 0]), Value::many([""; 0])]),
            ("a", vec![Value::many(["", ""])]),
        ];
        for part in [(|payload| payload.bytes()) as fn(&Payload) -> &[u8], |payload| payload.digest()] {
            let key = |(id, given): &(&str, Vec<Value>)| {
                let id = ExecutionId::parse(id).unwrap();
                RunKey::begun(Sha256::new(), &id, given.iter(), part).of_step(&[0; 32], &[])
            };
            let keys: std::collections::BTreeSet<_> = executions.iter().map(key).collect();
            assert_eq!(keys.len(), executions.len());
            assert_eq!(key(&executions[0]), key(&executions[0]));
        }
    }

    #[test]
    fn the_key_of_an_element_is_that_of_no_other_step_element_or_place() {
        let key = |run: &str, step: u8, path: &[&[u8]], on: &[&[&[u8]]]| {
            let run = RunKey(Sha256::new().chain_update(run));
            let element = |bytes: &[u8]| Arc::new(Value::one(bytes.to_vec()));
            let within = |around: Option<ElementKey>, bytes: &&[u8]| {
                Some(ElementKey::new(around.map(|around| Arc::new(around.digest())), element(bytes)))
            };
            let list = |list: &&[&[u8]]| Arc::new(Value::many(list.iter().map(|bytes| bytes.to_vec())));
            let on: Vec<_> = on.iter().map(|on| (list(on), Arity::Many)).collect();
            match path.iter().fold(None, within) {
                Some(path) => run.of_elements(&[step; 32]).of(path.part(), &on),
                None => run.of_step(&[step; 32], &on),
            }
        };
        let (longest, longer, other) = (&[b'x'; 110][..], &[b'x'; 111][..], &[b'y'; 111][..]);
        let hash = Sha256::digest(longer);
        // What the hash is given of one element and a list with one message, as the bytes of an element.
        let [length, many, size] = [8_u64, 1, 32].map(u64::to_le_bytes);
        let both = [&b"a"[..], &length, &many, &size, &Sha256::digest(b"a")].concat();
        /// Of a run, a step, an element with those around it, and what else it takes.
        type Case<'a> = (&'a str, u8, &'a [&'a [u8]], &'a [&'a [&'a [u8]]]);
        let cases: [Case<'_>; 25] = [
            ("run", 0, &[], &[]),
            ("run", 1, &[], &[]),
            ("run", 0, &[], &[&[b"a"]]),
            ("run", 0, &[b""], &[]),
            ("run", 0, &[b"a"], &[]),
            ("other", 0, &[b"a"], &[]),
            ("run", 1, &[b"a"], &[]),
            ("run", 0, &[b"b"], &[]),
            ("run", 0, &[b"a"], &[&[b"a"]]),
            ("run", 0, &[&both], &[]),
            ("run", 0, &[b"a"], &[&[b"b"]]),
            ("run", 0, &[b"a"], &[&[b"a", b"b"]]),
            ("run", 0, &[b"a"], &[&[b"a"], &[b"b"]]),
            ("run", 0, &[b"a"], &[&[], &[b"a", b"b"]]),
            ("run", 0, &[b"a", b"b"], &[]),
            ("run", 0, &[b"b", b"a"], &[]),
            ("run", 0, &[b"a", b"a"], &[]),
            ("run", 0, &[b"", b"a"], &[]),
            ("run", 0, &[b"a", b"b", b"c"], &[]),
            ("run", 0, &[b"b", b"a", b"c"], &[]),
            ("run", 0, &[longest], &[]),
            ("run", 0, &[longer], &[]),
            ("run", 0, &[other], &[]),
            ("run", 0, &[&hash], &[]),
            ("run", 0, &[longer, longer], &[]),
        ];
        let of = |(run, step, path, on): &Case<'_>| key(run, *step, path, on);
        let keys: std::collections::BTreeSet<_> = cases.iter().map(of).collect();
        assert_eq!(keys.len(), cases.len());
        assert!(cases.iter().all(|case| of(case) == of(case)));
    }
}
