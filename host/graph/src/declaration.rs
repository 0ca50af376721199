//! Owns what a module says of itself: raw, as it came from the guest and is kept on disk, and parsed.
//! Never compares modules with each other.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use prost_reflect::DescriptorPool;
use serde::{Deserialize, Serialize};

use crate::descriptors::{self, Refusal};
use crate::fault::{Fault, Place, PolicyError, Position};
use crate::policy::{Backoff, Growth, Jitter, Persistence, Policy, Reclassify, Retry, Scope};
use crate::port::{Arity, Port, PortDecl, StepName, clip};

/// What `describe` gave, unchecked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawModule {
    /// The steps, in the module's own order.
    pub steps: Vec<RawStep>,
    /// A serialized `google.protobuf.FileDescriptorSet`; a hexadecimal string in JSON.
    #[serde(with = "hexadecimal")]
    pub descriptors: Vec<u8>,
}

/// A step as declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawStep {
    /// Its name.
    pub name: String,
    /// What stands for its code in the keys of kept results.
    pub version: Option<String>,
    /// What it takes.
    pub inputs: Vec<RawPort>,
    /// What it gives.
    pub output: RawPort,
    /// How it wants to be run.
    pub policy: RawPolicy,
}

/// A port as declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPort {
    /// The message's full name.
    pub message: String,
    /// The label.
    pub label: Option<String>,
    /// One or many.
    pub arity: Arity,
}

/// A policy as declared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPolicy {
    /// Wall-clock limit of an attempt, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Trying again.
    pub retry: Option<RawRetry>,
    /// Keeping the result.
    pub persistence: Option<RawPersistence>,
    /// The most attempts at once.
    pub max_concurrency: Option<u32>,
}

/// Trying again, as declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRetry {
    /// All attempts together.
    pub max_attempts: u32,
    /// The delay between them.
    pub backoff: Option<RawBackoff>,
    /// Whether chance shortens a delay.
    pub jitter: bool,
}

/// A backoff as declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawBackoff {
    /// The formula.
    pub growth: Growth,
    /// The first delay, in milliseconds.
    pub initial_ms: u64,
    /// The base of exponential growth.
    #[serde(deserialize_with = "number_or_nan")]
    pub factor: f64,
    /// The upper bound, in milliseconds.
    pub max_ms: Option<u64>,
}

/// Keeping the result, as declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPersistence {
    /// Who may be served.
    pub scope: Scope,
    /// For how long, in milliseconds.
    pub ttl_ms: Option<u64>,
}

/// A step, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct StepDecl {
    /// Its name.
    pub name: StepName,
    /// What stands for its code in the keys of kept results.
    pub version: Option<String>,
    /// What it takes, in order.
    pub inputs: Vec<PortDecl>,
    /// What it gives.
    pub output: PortDecl,
    /// How it wants to be run.
    pub policy: Policy,
}

/// A module, parsed: at least one step, no name twice, each port's message in the descriptors.
#[derive(Debug, Clone)]
pub struct ModuleDecl {
    /// The file's name as the user knows it.
    pub name: Arc<str>,
    /// The steps, in the module's own order.
    pub steps: Vec<StepDecl>,
    /// The module's message types.
    pub descriptors: DescriptorPool,
}

impl ModuleDecl {
    /// Returns the module, checked by itself.
    ///
    /// # Errors
    /// Every fault that the module has.
    pub fn parse(name: &str, raw: &RawModule) -> Result<Self, Vec<Fault>> {
        let (module, mut faults) = Self::parse_what_is_sound(name, raw);
        faults.extend(duplicate_names(raw.steps.iter().map(|step| (step.name.as_str(), &module.name))));
        if faults.is_empty() { Ok(module) } else { Err(faults) }
    }

    /// Returns what can be read of a module, so that they can be checked against other modules in the same report, and
    /// the faults of the rest. Names that stand twice are left to the caller.
    pub(crate) fn parse_what_is_sound(name: &str, raw: &RawModule) -> (Self, Vec<Fault>) {
        let mut faults = Vec::new();
        let name: Arc<str> = name.into();
        if raw.steps.is_empty() {
            faults.push(Fault::NoSteps { module: name.clone() });
        }
        let descriptors = descriptors::read(&raw.descriptors).map_err(|refusal| {
            let module = name.clone();
            faults.push(match refusal {
                Refusal::Bad(reason) => Fault::BadDescriptors { module, reason: clip(&reason) },
                Refusal::TooMuch(excess, most) => Fault::TooManyDescriptors { module, excess, most },
            });
        });
        let mut steps = Vec::with_capacity(raw.steps.len());
        for (i, step) in raw.steps.iter().enumerate() {
            steps.extend(parse_step(&name, i + 1, step, descriptors.as_ref().ok(), &mut faults));
        }
        let descriptors = descriptors.unwrap_or_else(|()| {
            // Without message types nothing can be compared with other modules.
            steps.clear();
            DescriptorPool::new()
        });
        (Self { name, steps, descriptors }, faults)
    }
}

fn parse_step(
    module: &Arc<str>,
    number: usize,
    raw: &RawStep,
    descriptors: Option<&DescriptorPool>,
    faults: &mut Vec<Fault>,
) -> Option<StepDecl> {
    let shown: Arc<str> = clip(&raw.name).into();
    let place = Place { module: module.clone(), step: shown.clone() };
    let name = StepName::parse(&raw.name).map_err(|source| {
        faults.push(Fault::BadName { module: module.clone(), number, name: shown, source })
    });
    let mut port = |raw: &RawPort, position| match Port::new(&raw.message, raw.label.as_deref()) {
        Ok(port) => {
            if descriptors.is_some_and(|pool| pool.get_message_by_name(port.message()).is_none()) {
                faults.push(Fault::MissingMessage { place: place.clone(), port: port.clone() });
            }
            Some(PortDecl { port, arity: raw.arity })
        }
        Err(source) => {
            faults.push(Fault::BadPort { place: place.clone(), position, source });
            None
        }
    };
    let inputs: Vec<_> =
        raw.inputs.iter().enumerate().map(|(i, input)| port(input, Position::Input(i + 1))).collect();
    let output = port(&raw.output, Position::Output);
    let policy = parse_policy(&raw.policy, |source| {
        faults.push(Fault::BadPolicy { place: place.clone(), source });
    });
    Some(StepDecl {
        name: name.ok()?,
        version: raw.version.clone(),
        inputs: inputs.into_iter().collect::<Option<_>>()?,
        output: output?,
        policy,
    })
}

/// Returns the policy without what is bad in it, which is reported.
fn parse_policy(raw: &RawPolicy, mut bad: impl FnMut(PolicyError)) -> Policy {
    let RawPolicy { timeout_ms, retry, persistence, max_concurrency } = raw;
    if *timeout_ms == Some(0) {
        bad(PolicyError::ZeroTimeout);
    }
    if *max_concurrency == Some(0) {
        bad(PolicyError::ZeroConcurrency);
    }
    Policy {
        timeout: timeout_ms.map(Duration::from_millis),
        retry: retry.as_ref().map(|retry| parse_retry(retry, &mut bad)),
        persistence: persistence.as_ref().map(|RawPersistence { scope, ttl_ms }| Persistence {
            scope: *scope,
            ttl: ttl_ms.map(Duration::from_millis),
        }),
        max_concurrency: max_concurrency.and_then(NonZeroU32::new),
    }
}

fn parse_retry(raw: &RawRetry, bad: &mut impl FnMut(PolicyError)) -> Retry {
    let RawRetry { max_attempts, backoff, jitter } = raw;
    if *max_attempts == 0 {
        bad(PolicyError::ZeroAttempts);
    }
    let backoff = backoff.as_ref().map(|RawBackoff { growth, initial_ms, factor, max_ms }| {
        // The other growths ignore the factor, and languages without an option fill in anything.
        if *growth == Growth::Exponential && !(factor.is_finite() && *factor >= 1.0) {
            bad(PolicyError::Factor { factor: factor.to_string() });
        }
        Backoff {
            growth: *growth,
            initial: Duration::from_millis(*initial_ms),
            factor: *factor,
            max: max_ms.map(Duration::from_millis),
        }
    });
    Retry {
        max_attempts: NonZeroU32::new(*max_attempts).unwrap_or(NonZeroU32::MIN),
        backoff,
        jitter: if *jitter { Jitter::Full } else { Jitter::None },
        reclassify: Reclassify::default(),
    }
}

/// Returns a fault for each name that stands more than once among these steps and their modules.
pub(crate) fn duplicate_names<'a>(
    steps: impl Iterator<Item = (&'a str, &'a Arc<str>)> + Clone,
) -> Vec<Fault> {
    let mut seen = HashSet::new();
    if steps.clone().all(|(name, _)| seen.insert(name)) {
        return Vec::new();
    }
    let mut places: HashMap<&str, Vec<Arc<str>>> = HashMap::new();
    for (name, module) in steps {
        places.entry(name).or_default().push(module.clone());
    }
    let twice = places.into_iter().filter(|(_, modules)| modules.len() > 1);
    twice.map(|(name, modules)| Fault::DuplicateStep { name: clip(name).into(), modules }).collect()
}

/// JSON has no number that is none; it is written as null.
fn number_or_nan<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Bytes as a string, a third of the size of an array of numbers.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
        let text: String = bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect();
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes =
            pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<_>>();
        bytes
            .filter(|_| rest.is_empty())
            .ok_or_else(|| D::Error::custom("not a string of hexadecimal digit pairs"))
    }
}
