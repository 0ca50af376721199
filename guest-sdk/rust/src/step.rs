//! A function as a step. Owns what a function's type declares and the wishes put to it; never knows
//! which module it becomes part of.

use std::any::type_name;
use std::time::Duration;

use crate::message::Inputs;
use crate::policy::milliseconds;
use crate::{Argument, Config, Flow, FromConfig, Invocation, Retry, Scope, StepResult, wire};

/// Returns the step that a function, or a method of a configured type, is.
///
/// Its name is the function's in upper camel case, `enrich_user` becoming `EnrichUser`; for a
/// method it is the type's.
pub fn step<M, S: IntoStep<M>>(function: S) -> Step {
    function.into_step()
}

/// One step: what it declares, and the function that runs it.
pub struct Step {
    name: String,
    version: Option<String>,
    ports: fn() -> Ports,
    policy: wire::Policy,
    run: Run,
}

/// What a step takes, in order, and gives.
type Ports = (Vec<wire::Port>, wire::Port);
type Run = Box<dyn Fn(&Invocation, Vec<wire::Value>) -> StepResult<wire::Value>>;

impl Step {
    fn new(name: String, ports: fn() -> Ports, run: Run) -> Self {
        let policy = wire::Policy { timeout_ms: None, retry: None, persistence: None, max_concurrency: None };
        Self { name, version: None, ports, policy, run }
    }

    /// Names the step otherwise than its function. A closure has no name of its own and needs this.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Stands for the step's code in the keys of kept results. Without it every new build computes
    /// afresh.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Bounds one attempt by the wall clock.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.policy.timeout_ms = Some(milliseconds(timeout));
        self
    }

    /// Says when and how often a failed attempt is tried again. Without it there is one attempt.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.policy.retry = Some(retry.into());
        self
    }

    /// Asks the host to keep the result for ever.
    #[must_use]
    pub fn keep(mut self, scope: Scope) -> Self {
        self.policy.persistence = Some(wire::Persistence { scope: scope.into(), ttl_ms: None });
        self
    }

    /// Asks the host to keep the result for a time.
    #[must_use]
    pub fn keep_for(mut self, scope: Scope, ttl: Duration) -> Self {
        self.policy.persistence =
            Some(wire::Persistence { scope: scope.into(), ttl_ms: Some(milliseconds(ttl)) });
        self
    }

    /// Bounds how many attempts of this step run at once in one host.
    #[must_use]
    pub fn max_concurrency(mut self, attempts: u32) -> Self {
        self.policy.max_concurrency = Some(attempts);
        self
    }

    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.name == name
    }

    pub(crate) fn run(&self, call: &Invocation, inputs: Vec<wire::Value>) -> StepResult<wire::Value> {
        (self.run)(call, inputs)
    }

    pub(crate) fn into_declaration(self) -> wire::Declaration {
        let Self { name, version, ports, policy, run: _ } = self;
        let (inputs, output) = ports();
        wire::Declaration { name, version, inputs, output, policy }
    }
}

/// A function that is a step. `M` only tells the implementations apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a step",
    note = "a step is a function of up to 12 messages, `Many`, `Labeled` or the `Invocation`, by value, that returns a `StepResult`",
    note = "or a method that takes `&self` before them, of a type that implements `FromConfig`"
)]
pub trait IntoStep<M> {
    /// Returns the step.
    fn into_step(self) -> Step;
}

macro_rules! functions_and_methods_of {
    ($($argument:ident)*) => {
        impl<F, O, $($argument,)*> IntoStep<fn($($argument),*) -> O> for F
        where
            F: Fn($($argument),*) -> StepResult<O> + 'static,
            O: Flow,
            $($argument: Argument,)*
        {
            fn into_step(self) -> Step {
                Step::new(
                    name_of_function(type_name::<F>()),
                    || (listed([$($argument::port()),*]), O::port()),
                    Box::new(move |call, inputs| {
                        bind!(call, inputs, $($argument)*);
                        self($($argument),*).map(O::encode)
                    }),
                )
            }
        }

        impl<F, C, O, $($argument,)*> IntoStep<(C, fn($($argument),*) -> O)> for F
        where
            F: Fn(&C, $($argument),*) -> StepResult<O> + 'static,
            C: FromConfig,
            O: Flow,
            $($argument: Argument,)*
        {
            fn into_step(self) -> Step {
                Step::new(
                    last_segment(type_name::<C>()).to_owned(),
                    || (listed([$($argument::port()),*]), O::port()),
                    Box::new(move |call, inputs| {
                        bind!(call, inputs, $($argument)*);
                        let this = C::from_config(&Config::of_host())?;
                        self(&this, $($argument),*).map(O::encode)
                    }),
                )
            }
        }
    };
}

/// Binds each argument to a variable of its type's name; all of them before the step's own code
/// runs.
macro_rules! bind {
    ($call:ident, $inputs:ident, $($argument:ident)*) => {
        #[allow(non_snake_case, reason = "one name serves as type and as variable")]
        let ($($argument,)*) = {
            let inputs = &mut Inputs::new($call, $inputs);
            let arguments = ($($argument::take(inputs)?,)*);
            inputs.finish()?;
            arguments
        };
    };
}

functions_and_methods_of!();
functions_and_methods_of!(A1);
functions_and_methods_of!(A1 A2);
functions_and_methods_of!(A1 A2 A3);
functions_and_methods_of!(A1 A2 A3 A4);
functions_and_methods_of!(A1 A2 A3 A4 A5);
functions_and_methods_of!(A1 A2 A3 A4 A5 A6);
functions_and_methods_of!(A1 A2 A3 A4 A5 A6 A7);
functions_and_methods_of!(A1 A2 A3 A4 A5 A6 A7 A8);
functions_and_methods_of!(A1 A2 A3 A4 A5 A6 A7 A8 A9);
functions_and_methods_of!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10);
functions_and_methods_of!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11);
functions_and_methods_of!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12);

fn listed<const N: usize>(ports: [Option<wire::Port>; N]) -> Vec<wire::Port> {
    ports.into_iter().flatten().collect()
}

/// `my_crate::steps::enrich_user` is the step `EnrichUser`; a closure has no name.
fn name_of_function(path: &str) -> String {
    let function = last_segment(path);
    if function.starts_with('{') {
        return String::new();
    }
    let words = function.trim_start_matches("r#").split('_');
    words.fold(String::new(), |mut name, word| {
        let mut letters = word.chars();
        name.extend(letters.next().into_iter().flat_map(char::to_uppercase));
        name.push_str(letters.as_str());
        name
    })
}

/// `my_crate::LetterCounter<my_crate::Latin>` ends in `LetterCounter`.
fn last_segment(path: &str) -> &str {
    let path = path.split_once('<').map_or(path, |(path, _)| path);
    path.rsplit("::").next().unwrap_or(path)
}
