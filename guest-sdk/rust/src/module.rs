//! The steps of one component. Owns what `describe` and `run` answer; never touches a message
//! itself.

use crate::failed::with_failed;
use crate::{Failure, Invocation, Step, wire};

/// The steps of one crate with the descriptors of their messages; made by
/// [`module!`](crate::module).
pub struct Module {
    descriptors: &'static [u8],
    steps: Vec<Step>,
}

impl Module {
    /// Returns the module. `descriptors` is a serialized `google.protobuf.FileDescriptorSet` with
    /// all imports.
    pub fn new(descriptors: &'static [u8], steps: Vec<Step>) -> Self {
        Self { descriptors, steps }
    }

    /// Returns what the module declares.
    pub fn describe(self) -> wire::Module {
        let steps: Vec<_> = self.steps.into_iter().map(Step::into_declaration).collect();
        let descriptors = with_failed(self.descriptors, &steps);
        wire::Module { steps, descriptors }
    }

    /// Runs one step once.
    ///
    /// # Errors
    /// What the step reports; permanent with the code `unknown_step` where there is none of that
    /// name, or with `invalid_input` where the inputs are not what it declares.
    pub fn run(
        &self,
        call: wire::Invocation,
        inputs: Vec<wire::Value>,
    ) -> Result<wire::Value, wire::Failure> {
        let Some(step) = self.steps.iter().find(|step| step.is_named(&call.step)) else {
            let message = format!("this module has no step `{}`", call.step);
            return Err(Failure::permanent(message).code("unknown_step").into());
        };
        step.run(&Invocation::from(call), inputs).map_err(wire::Failure::from)
    }
}

/// Makes the crate a step module with the steps listed, each a [`step`](crate::step) with its
/// wishes.
///
/// It embeds the descriptors that the build script left, exports the component's interface, and
/// defines `docket_module()`, which returns the same steps for tests.
///
/// ```ignore
/// docket_guest::module!(
///     step(fetch_profile),
///     step(enrich_user).timeout(Duration::from_secs(5)).retry(Retry::exponential(3, Duration::from_millis(100))),
/// );
/// ```
#[macro_export]
macro_rules! module {
    ($($step:expr),+ $(,)?) => {
        /// Returns the steps of this crate, as a host meets them.
        pub fn docket_module() -> $crate::Module {
            use $crate::step;
            $crate::Module::new(
                include_bytes!(concat!(env!("OUT_DIR"), "/docket.descriptors")),
                vec![$($step),+],
            )
        }

        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "generated: the canonical ABI is raw memory")]
        const _: () = {
            struct Exported;

            impl $crate::bindings::exports::docket::step::step::Guest for Exported {
                fn describe() -> $crate::wire::Module {
                    docket_module().describe()
                }

                fn run(
                    call: $crate::wire::Invocation,
                    inputs: Vec<$crate::wire::Value>,
                ) -> Result<$crate::wire::Value, $crate::wire::Failure> {
                    docket_module().run(call, inputs)
                }
            }

            $crate::bindings::export!(Exported with_types_in $crate::bindings);
        };
    };
}
