//! Owns everything that can be wrong with a set of modules, and how it is said. Never finds a fault itself.

use std::fmt;
use std::sync::Arc;

use crate::port::{Port, PortError, StepNameError};

/// A step in a module, as far as a message must name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The module's name.
    pub module: Arc<str>,
    /// The step's name as declared, perhaps shortened.
    pub step: Arc<str>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step `{}` of module `{}`", self.step, self.module)
    }
}

/// One thing that is wrong with a set of modules. The order is that of a report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// There is no step at all.
    #[error("the graph is empty: give at least one module that declares a step")]
    EmptyGraph,
    /// A module declares nothing.
    #[error("module `{module}` declares no step")]
    NoSteps {
        /// The module's name.
        module: Arc<str>,
    },
    /// The descriptors cannot be read.
    #[error(
        "module `{module}` has descriptors that are not a complete `google.protobuf.FileDescriptorSet`: {reason}"
    )]
    BadDescriptors {
        /// The module's name.
        module: Arc<str>,
        /// What the decoder says.
        reason: String,
    },
    /// The descriptors are too many, or too large once they are read.
    #[error(
        "module `{module}` has descriptors with more than {most} {excess}; leave out the files that its steps' messages \
         do not need, and shorten names"
    )]
    TooManyDescriptors {
        /// The module's name.
        module: Arc<str>,
        /// What there is too much of.
        excess: Excess,
        /// The limit.
        most: usize,
    },
    /// A step's name is none.
    #[error(
        "module `{module}` names its step number {number} `{name}`, which is not a step's name: {source}"
    )]
    BadName {
        /// The module's name.
        module: Arc<str>,
        /// The position in the module's list, from 1.
        number: usize,
        /// The name as declared, perhaps shortened.
        name: Arc<str>,
        /// Why.
        source: StepNameError,
    },
    /// A port is none.
    #[error("{place} declares a bad port as its {position}: {source}")]
    BadPort {
        /// Where.
        place: Place,
        /// `output`, or which input.
        position: Position,
        /// Why.
        source: PortError,
    },
    /// A value of the policy cannot be meant.
    #[error("{place} declares a bad policy: {source}")]
    BadPolicy {
        /// Where.
        place: Place,
        /// What.
        source: PolicyError,
    },
    /// A port's message is not in the module's descriptors.
    #[error("{place} names `{port}`, but the module's descriptors have no message `{}`; add its file", port.message())]
    MissingMessage {
        /// Where.
        place: Place,
        /// Which.
        port: Port,
    },
    /// A module's messages are too many, or hold too many others, for tables of them to be made.
    #[error(
        "{place} names `{port}`, with which the messages of the module's steps come to more than {most} fields, those of the \
         messages inside counted with each; use smaller messages, or spread the steps over several modules"
    )]
    TooManyFields {
        /// Where the limit was passed.
        place: Place,
        /// With which port.
        port: Port,
        /// The limit.
        most: usize,
    },
    /// Two modules define a message so differently that they cannot be compared.
    #[error(
        "port `{port}`: the definitions of {first} and {second} hold one another's messages in more than {most} ways, \
         so they cannot be compared; build both from one definition"
    )]
    Incomparable {
        /// A port that carries the message.
        port: Port,
        /// Who uses the port in one module.
        first: Place,
        /// Who uses it in the other.
        second: Place,
        /// The limit.
        most: usize,
    },
    /// Two steps have one name.
    #[error("step `{name}` is declared {} times, in {}; rename all but one", modules.len(), List(modules))]
    DuplicateStep {
        /// The name.
        name: Arc<str>,
        /// The modules' names; a module that declares it twice stands here twice.
        modules: Vec<Arc<str>>,
    },
    /// A port has more than one producer.
    #[error(
        "port `{port}` has {} producers: {}; keep one, or give the outputs different labels",
        producers.len(),
        Sentence(producers)
    )]
    TwoProducers {
        /// The port.
        port: Port,
        /// All of them.
        producers: Vec<Place>,
    },
    /// Steps that wait for each other.
    #[error("cycle: {}{}", Arrows(path), hint(path, same_message.as_ref()))]
    Cycle {
        /// The steps, from the smallest name round to it again.
        path: Vec<Place>,
        /// The port of a step that takes what it gives.
        same_message: Option<Port>,
    },
    /// One message means different things in two modules.
    #[error(
        "port `{port}`: {first} and {second} do not mean the same by it: field {field} of `{message}` is {difference}; \
         build both from one definition, or give the new field a new number"
    )]
    Incompatible {
        /// A port that carries the message.
        port: Port,
        /// The message that differs: the port's, or one inside it.
        message: Arc<str>,
        /// The field's number.
        field: u32,
        /// Who uses the port in one module.
        first: Place,
        /// Who uses it in the other.
        second: Place,
        /// What the field is in each.
        difference: String,
    },
    /// A step that would have to run for each element of two lists which have nothing to do with each other.
    #[error(
        "{place} takes {}, and {}: nothing says which of them belong together; \
         take one of the two as many, in this step or in one before it, so that it is gathered first",
        inputs[0], inputs[1]
    )]
    UnrelatedDimensions {
        /// The step where they meet.
        place: Place,
        /// One input for each of them.
        inputs: Box<[PerElement; 2]>,
    },
    /// A step that cannot have the host's count of failed elements.
    #[error("{place} {misuse}")]
    Failed {
        /// Where.
        place: Place,
        /// Why.
        misuse: FailedMisuse,
    },
}

/// Why a step cannot have the host's count of failed elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum FailedMisuse {
    /// It gives one itself.
    #[error("gives `docket.v1.Failed`, which only the host gives; give a message of your own")]
    Given,
    /// No other input of it could be gathered.
    #[error(
        "takes `docket.v1.Failed`, and nothing as many: it is how many elements are missing from what a step gathers; \
         take an input as many, or leave it out"
    )]
    NothingGathered,
    /// It takes a list of counts.
    #[error("takes `docket.v1.Failed` as many; there is one count for each call, so take it as one")]
    Many,
    /// It takes it with a label.
    #[error("takes `docket.v1.Failed` with a label; the host gives it without one, so leave the label out")]
    Labelled,
    /// Its module has another message of this name.
    #[error(
        "takes `docket.v1.Failed`, which its module defines otherwise; the host's is \
         `message Failed {{ uint64 count = 1; }}`"
    )]
    Unlike,
}

/// An input that a step takes once for each element of a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PerElement {
    /// What it takes.
    pub port: Port,
    /// The port of the list.
    pub list: Port,
    /// Who gives the list.
    pub by: Place,
}

impl fmt::Display for PerElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, list, by } = self;
        if port == list {
            write!(f, "each element of `{list}`, which {by} gives")
        } else {
            write!(f, "`{port}` for each element of `{list}`, which {by} gives")
        }
    }
}

/// What descriptors may have only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Excess {
    /// Messages, fields, enums and their values, and all else that stands in files.
    Definitions,
    /// Bytes of names.
    Names,
    /// Looks at one definition for the sake of another.
    Comparisons,
    /// Files that are reached by imports.
    Imports,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Definitions => "definitions",
            Self::Names => "bytes of names, each counted with those it stands in and that of its file",
            Self::Comparisons => {
                "comparisons, of fields with the ranges of their message and with the values of enums"
            }
            Self::Imports => "imports, public ones counted for each file that reaches them",
        })
    }
}

/// Which of a step's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Position {
    /// The input at this position, from 1.
    Input(usize),
    /// The output.
    Output,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(number) => write!(f, "input {number}"),
            Self::Output => f.write_str("output"),
        }
    }
}

/// A value of a policy that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A limit of no time.
    #[error("`timeout-ms` is 0, so that no attempt could end in time; leave it out for no limit")]
    ZeroTimeout,
    /// No attempt at all.
    #[error("`max-attempts` is 0; it counts the first attempt too, so it is at least 1")]
    ZeroAttempts,
    /// Not a base of growth.
    #[error("`factor` is {factor}; it must be finite and at least 1")]
    Factor {
        /// As printed.
        factor: String,
    },
    /// No attempt at any time.
    #[error("`max-concurrency` is 0, so that no attempt could ever start; leave it out for no limit")]
    ZeroConcurrency,
}

/// All faults of a set of modules: sorted, each once, never none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Lines(.0))]
pub struct GraphErrors(Vec<Fault>);

impl GraphErrors {
    /// Returns the report of these faults, or nothing when there are none.
    pub fn of(mut faults: Vec<Fault>) -> Option<Self> {
        faults.sort();
        faults.dedup();
        (!faults.is_empty()).then_some(Self(faults))
    }

    /// Returns the faults in order.
    pub fn faults(&self) -> &[Fault] {
        &self.0
    }

    /// Returns the faults, to report them beside others.
    pub fn into_faults(self) -> Vec<Fault> {
        self.0
    }
}

/// Prints one a line.
pub(crate) struct Lines<'a, T>(pub(crate) &'a [T]);

impl<T: fmt::Display> fmt::Display for Lines<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, self.0, "\n", |f, item| write!(f, "{item}"))
    }
}

/// Prints names in back-quotes.
pub(crate) struct List<'a, T>(pub(crate) &'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, self.0, ", ", |f, item| write!(f, "`{item}`"))
    }
}

struct Sentence<'a>(&'a [Place]);

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, self.0, ", ", |f, item| write!(f, "{item}"))
    }
}

struct Arrows<'a>(&'a [Place]);

impl fmt::Display for Arrows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, self.0, " -> ", |f, place| write!(f, "`{}` (`{}`)", place.step, place.module))
    }
}

fn join<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    between: &str,
    one: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            f.write_str(between)?;
        }
        one(f, item)?;
    }
    Ok(())
}

fn hint(path: &[Place], same_message: Option<&Port>) -> String {
    match same_message {
        Some(port) => format!(
            "; it takes and gives `{port}`: give one of the two a label, as in `{}#{}`",
            port.message(),
            if port.label() == Some("done") { "clean" } else { "done" }
        ),
        None => format!("; none of these {} steps can start: one must take another port", path.len() - 1),
    }
}
