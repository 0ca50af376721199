//! Owns the key of a kept result: what makes two pieces of work the same.
//!
//! SHA-256 over these parts, each behind its length as eight bytes, least first:
//!
//! | part | in the key? | why |
//! |---|---|---|
//! | format number | yes | a later way to make keys must not meet results of this one |
//! | tenant | yes | tenants share nothing |
//! | scope; the execution id, where the scope is `workflow` | yes | that is what the scope means |
//! | step name | yes | two steps of one module may take and give the same types |
//! | the declared version, else the module's digest | yes | other code, other answer; a version says that the answer is the same |
//! | configuration | yes | it is an input of the step, given by the operator |
//! | grants, where there are any: environment variables by name and value, HTTP rules by text, secrets by name and source, directories by mode and path, `clock` and `random` | yes | what a step may reach decides what it answers |
//! | `instance = "reuse"`, where it is set | yes | the answer may depend on what else the instance was asked |
//! | what a granted directory holds, what a granted server answers, the value of a secret | no | nobody knows them beforehand; a step whose answer depends on them says so by a time to live |
//! | output port, with its arity | yes | a step may come to answer with another type |
//! | each input's port with its arity, and the SHA-256 of each of its messages, canonical | yes | the inputs; how many items failed is one, where a step takes it |
//! | attempt, deadline, timeout, memory, retries, other limits | no | they decide whether there is an answer, not which |
//! | time to live | no | it decides for how long an answer is good, not which it is |
//! | execution id, where the scope is `global` | no | that is what the scope means |
//! | the execution's start, which is a step's clock | no | else nothing would ever be found again; a step whose answer depends on the time says so by a time to live |
//! | host, engine, processor, wasmtime's version | no | a step gives the same answer on each |

mod unkept;

use std::sync::Arc;

use docket_graph::{Arity, FAILED, Scope, StepName};
use docket_store::RecordKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::generation::{Keep, StepCode, frame};
use crate::options::Instance;
use crate::value::Value;

pub(crate) use unkept::{ElementKey, ElementPart, ElementsKey, RunKey};

/// Changes whenever keys are made in another way.
const FORMAT: u32 = 1;

/// The key of one piece of work, and what it is made of.
#[derive(Clone, Debug)]
pub(crate) struct WorkKey {
    /// The hash: also the step's idempotency key and the seed of its randomness.
    pub(crate) bytes: [u8; 32],
    /// The hash as the key of a record.
    pub(crate) record: RecordKey,
}

/// What a key is made of, for people: kept beside the result, so that two keys can be told apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parts {
    pub(crate) format: u32,
    pub(crate) scope: Scope,
    /// `version:` and the declared version, or `module:` and the digest.
    pub(crate) code: String,
    /// A hash of the configuration, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<String>,
    /// What was granted, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) grants: Vec<String>,
    /// Where it is not a fresh one for each attempt.
    #[serde(default, skip_serializing_if = "is_fresh")]
    pub(crate) instance: Instance,
    pub(crate) output: String,
    pub(crate) inputs: Vec<InputPart>,
    /// Whether the result stands in the place of one of the same key that had expired; no part of the key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) after_expired: bool,
}

fn is_fresh(instance: &Instance) -> bool {
    *instance == Instance::Fresh
}

/// An input in [`Parts`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputPart {
    pub(crate) port: String,
    /// The SHA-256 of its one message, or of the list of its messages' hashes.
    pub(crate) digest: String,
}

/// Returns the key of a step's work on these inputs, whose messages must be canonical.
pub(crate) fn work_key(
    tenant: &str,
    execution: &str,
    code: &StepCode,
    keep: &Keep,
    inputs: &[(Arc<Value>, Arity)],
) -> WorkKey {
    key_of(tenant, execution, &code.name, keep, inputs)
}

fn key_of(
    tenant: &str,
    execution: &str,
    step: &StepName,
    keep: &Keep,
    inputs: &[(Arc<Value>, Arity)],
) -> WorkKey {
    let mut hash = Sha256::new();
    frame(&mut hash, b"docket result");
    frame(&mut hash, &FORMAT.to_le_bytes());
    frame(&mut hash, tenant.as_bytes());
    match keep.scope {
        Scope::Workflow => {
            frame(&mut hash, b"workflow");
            frame(&mut hash, execution.as_bytes());
        }
        Scope::Global => frame(&mut hash, b"global"),
    }
    frame(&mut hash, step.as_str().as_bytes());
    frame(&mut hash, keep.code.as_bytes());
    frame(&mut hash, keep.config.as_deref().unwrap_or_default().as_bytes());
    if !keep.grants.is_empty() {
        // No port is called like this, so that no key without grants is like one with them.
        frame(&mut hash, b"\0grants");
        frame(&mut hash, &(keep.grants.len() as u64).to_le_bytes());
        keep.grants.iter().for_each(|line| frame(&mut hash, line.as_bytes()));
    }
    if keep.instance == Instance::Reuse {
        frame(&mut hash, b"\0instance");
        frame(&mut hash, b"reuse");
    }
    frame(&mut hash, keep.output.as_bytes());
    for (port, (value, _)) in keep.inputs.iter().zip(inputs) {
        frame(&mut hash, port.as_bytes());
        frame(&mut hash, &(value.payloads().len() as u64).to_le_bytes());
        for payload in value.payloads() {
            frame(&mut hash, payload.digest());
        }
    }
    let bytes: [u8; 32] = hash.finalize().into();
    let record = RecordKey::parse(&hex(&bytes)).expect("64 hexadecimal digits are a key");
    WorkKey { bytes, record }
}

/// Returns what a step's key on these inputs is made of.
pub(crate) fn parts(keep: &Keep, inputs: &[(Arc<Value>, Arity)]) -> Parts {
    let input = |(port, (value, _)): (&String, &(Arc<Value>, Arity))| {
        let digest = match value.payloads() {
            [payload] if value.arity() == Arity::One => hex(payload.digest()),
            payloads => {
                let mut hash = Sha256::new();
                payloads.iter().for_each(|payload| hash.update(payload.digest()));
                hex(&hash.finalize().into())
            }
        };
        InputPart { port: port.clone(), digest }
    };
    Parts {
        format: FORMAT,
        scope: keep.scope,
        code: keep.code.clone(),
        config: keep.config.clone(),
        grants: keep.grants.clone(),
        instance: keep.instance,
        output: keep.output.clone(),
        inputs: keep.inputs.iter().zip(inputs).map(input).collect(),
        after_expired: false,
    }
}

/// Returns what differs between two keys of one step, in words, the most telling first.
pub(crate) fn differences(then: &Parts, now: &Parts) -> Vec<String> {
    let mut found = Vec::new();
    if then.code != now.code {
        found.push(match (then.code.split_once(':'), now.code.split_once(':')) {
            (Some(("version", then)), Some(("version", now))) => {
                format!("the version changed from `{then}` to `{now}`")
            }
            _ => "the module changed".to_owned(),
        });
    }
    if then.config != now.config {
        found.push("the configuration changed".to_owned());
    }
    found.extend(granted(&then.grants, &now.grants));
    match (then.instance, now.instance) {
        (Instance::Fresh, Instance::Reuse) => found.push("instances are used again".to_owned()),
        (Instance::Reuse, Instance::Fresh) => found.push("instances are no longer used again".to_owned()),
        (Instance::Fresh, Instance::Fresh) | (Instance::Reuse, Instance::Reuse) => {}
    }
    if then.output != now.output {
        found.push(format!("the output changed from `{}` to `{}`", then.output, now.output));
    }
    let named = |port: &str| match port {
        FAILED => format!("the input `{port}`, which the host counts,"),
        _ => format!("the input `{port}`"),
    };
    for input in &now.inputs {
        match then.inputs.iter().find(|before| before.port == input.port) {
            None => found.push(format!("{} is new", named(&input.port))),
            Some(before) if before.digest != input.digest => {
                found.push(format!("{} changed", named(&input.port)));
            }
            Some(_) => {}
        }
    }
    for before in &then.inputs {
        if !now.inputs.iter().any(|input| input.port == before.port) {
            found.push(format!("{} is gone", named(&before.port)));
        }
    }
    if then.scope != now.scope {
        found.push("the scope changed".to_owned());
    }
    if then.format != now.format {
        found.push("keys are made in another way".to_owned());
    }
    found
}

/// Returns which grants are new and which are gone, without the hashes of values.
fn granted(then: &[String], now: &[String]) -> Vec<String> {
    let shown = |line: &String| match line.split_once(' ') {
        Some(("env", rest)) => format!("env {}", rest.split(' ').next().unwrap_or_default()),
        _ => line.clone(),
    };
    let missing = |these: &[String], those: &[String]| {
        these.iter().filter(|line| !those.contains(line)).map(shown).collect::<Vec<_>>()
    };
    let (new, gone) = (missing(now, then), missing(then, now));
    let changed =
        new.iter().filter(|line| gone.contains(line)).map(|line| format!("the grant `{line}` changed"));
    let added =
        new.iter().filter(|line| !gone.contains(line)).map(|line| format!("the grant `{line}` is new"));
    let lost =
        gone.iter().filter(|line| !new.contains(line)).map(|line| format!("the grant `{line}` is gone"));
    changed.chain(added).chain(lost).collect()
}

pub(crate) fn hex(bytes: &[u8; 32]) -> String {
    base16ct::lower::encode_string(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::OnStoreError;

    /// What a key is made of.
    #[derive(Clone)]
    struct Sample {
        tenant: &'static str,
        execution: &'static str,
        step: &'static str,
        scope: Scope,
        code: &'static str,
        config: Option<&'static str>,
        grants: Vec<&'static str>,
        instance: Instance,
        output: &'static str,
        inputs: Vec<(&'static str, Value)>,
    }

    fn sample() -> Sample {
        Sample {
            tenant: "acme",
            execution: "order-42",
            step: "FetchProfile",
            scope: Scope::Global,
            code: "version:1",
            config: None,
            grants: Vec::new(),
            instance: Instance::Fresh,
            output: "example.v1.UserProfile",
            inputs: vec![
                ("example.v1.UserID", Value::one("\x0a\x04user")),
                ("example.v1.Tag[]", Value::many(["a", "b"])),
            ],
        }
    }

    impl Sample {
        fn keep(&self) -> (Keep, Vec<(Arc<Value>, Arity)>) {
            let keep = Keep {
                scope: self.scope,
                ttl: None,
                on_store_error: OnStoreError::Fail,
                module: "c0ffee".into(),
                code: self.code.to_owned(),
                config: self.config.map(str::to_owned),
                grants: self.grants.iter().map(ToString::to_string).collect(),
                instance: self.instance,
                output: self.output.to_owned(),
                inputs: self.inputs.iter().map(|(port, _)| (*port).to_owned()).collect(),
            };
            let inputs = self.inputs.iter().map(|(_, value)| (Arc::new(value.clone()), value.arity()));
            (keep, inputs.collect())
        }

        fn key(&self) -> String {
            let (keep, inputs) = self.keep();
            let step = StepName::parse(self.step).unwrap();
            key_of(self.tenant, self.execution, &step, &keep, &inputs).record.as_str().to_owned()
        }
    }

    fn changed(change: impl FnOnce(&mut Sample)) -> Sample {
        let mut sample = sample();
        change(&mut sample);
        sample
    }

    /// Whoever changes one of these makes every kept result of every user a miss: raise [`FORMAT`].
    #[test]
    fn keys_are_what_they_were() {
        let workflow = changed(|sample| sample.scope = Scope::Workflow);
        let keys = [sample().key(), workflow.key()];
        assert_eq!(
            keys,
            [
                "7f1b6ff959133e65a5e1bdb9e8c305a152709f4e989a962662438166a04b220b",
                "50542e6cfbae739220484c9c4ee07249c3925943d5ed4f9dc47ed94b7330c071",
            ]
        );
    }

    #[test]
    fn every_part_changes_the_key_and_nothing_else_does() {
        let others = [
            changed(|sample| sample.tenant = "other"),
            changed(|sample| sample.step = "FetchPicture"),
            changed(|sample| sample.scope = Scope::Workflow),
            changed(|sample| sample.code = "version:2"),
            changed(|sample| sample.code = "module:1"),
            changed(|sample| sample.config = Some("c0ffee")),
            changed(|sample| sample.grants = vec!["clock real"]),
            changed(|sample| sample.grants = vec!["clock real", "random real"]),
            changed(|sample| sample.grants = vec!["clock realrandom real"]),
            changed(|sample| sample.instance = Instance::Reuse),
            changed(|sample| sample.output = "example.v1.UserProfile#clean"),
            changed(|sample| sample.output = "example.v1.UserProfile[]"),
            changed(|sample| sample.inputs[0].0 = "example.v1.UserID#other"),
            changed(|sample| sample.inputs[0].1 = Value::one("\x0a\x04USER")),
            changed(|sample| sample.inputs[1].1 = Value::many(["a"])),
            changed(|sample| sample.inputs[1].1 = Value::many(["b", "a"])),
            changed(|sample| sample.inputs[1].1 = Value::many(["ab"])),
            changed(|sample| sample.inputs[1].1 = Value::many(["a", "b", ""])),
            changed(|sample| sample.inputs.truncate(1)),
            changed(|sample| sample.inputs.swap(0, 1)),
        ];
        let keys: std::collections::BTreeSet<String> =
            others.iter().chain([&sample()]).map(Sample::key).collect();
        assert_eq!(keys.len(), others.len() + 1);
        let workflow = |id: &'static str| {
            changed(|sample| (sample.scope, sample.execution) = (Scope::Workflow, id)).key()
        };
        assert_ne!(workflow("one"), workflow("two"));
        assert_eq!(changed(|sample| sample.execution = "another").key(), sample().key());
    }

    #[test]
    fn what_differs_between_two_keys_is_said_in_words() {
        let parts_of = |sample: &Sample| {
            let (keep, inputs) = sample.keep();
            parts(&keep, &inputs)
        };
        type Change = fn(&mut Sample);
        let cases: [(Change, &[&str]); 11] = [
            (|sample| sample.instance = Instance::Reuse, &["instances are used again"]),
            (
                |sample| sample.grants = vec!["dir ro:/a=/a", "env REGION c0ffee"],
                &["the grant `dir ro:/a=/a` is new", "the grant `env REGION` is new"],
            ),
            (|_| {}, &[]),
            (|sample| sample.code = "version:2", &["the version changed from `1` to `2`"]),
            (|sample| sample.code = "module:1", &["the module changed"]),
            (|sample| sample.config = Some("c0ffee"), &["the configuration changed"]),
            (|sample| sample.output = "a.B", &["the output changed from `example.v1.UserProfile` to `a.B`"]),
            (|sample| sample.inputs[0].1 = Value::one("x"), &["the input `example.v1.UserID` changed"]),
            (
                |sample| sample.inputs[0].0 = "a.B",
                &["the input `a.B` is new", "the input `example.v1.UserID` is gone"],
            ),
            (|sample| sample.scope = Scope::Workflow, &["the scope changed"]),
            (
                |sample| {
                    sample.scope = Scope::Workflow;
                    sample.code = "version:2";
                },
                &["the version changed from `1` to `2`", "the scope changed"],
            ),
        ];
        for (change, words) in cases {
            let (then, now) = (parts_of(&sample()), parts_of(&changed(change)));
            assert_eq!(differences(&then, &now), words);
            let json = serde_json::to_string(&now).unwrap();
            assert_eq!(serde_json::from_str::<Parts>(&json).unwrap(), now, "parts are read back");
        }
    }
}
