//! What the types of a step's parameters and result mean. Owns the way between ports and Rust
//! values; never knows a message's fields.

use std::ops::{Deref, DerefMut};

use prost::{Message, Name};

use crate::{Failure, Invocation, StepResult, wire};

/// What can flow through a port: a message, or [`Many`] of them.
pub trait Payload: Sized {
    /// Whether one message flows or a list.
    const ARITY: wire::Arity;

    /// Returns the message's full name, such as `example.v1.UserProfile`.
    fn message() -> String;

    /// Returns the value that the host's bytes stand for.
    ///
    /// # Errors
    /// Permanent, with the code `invalid_input`, when the arity is the other one or the bytes do
    /// not decode.
    fn decode(value: wire::Value) -> StepResult<Self>;

    /// Returns the value as the host takes it.
    fn encode(self) -> wire::Value;
}

/// A payload with its label, if it has one: all that makes a port.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot flow through a port",
    note = "a port takes a prost message that has a type name, `Many` of it, or `Labeled` with either"
)]
pub trait Flow: Sized {
    /// Returns the port that this type declares.
    fn port() -> wire::Port;

    /// Returns the value that the host's bytes stand for.
    ///
    /// # Errors
    /// As [`Payload::decode`].
    fn decode(value: wire::Value) -> StepResult<Self>;

    /// Returns the value as the host takes it.
    fn encode(self) -> wire::Value;
}

/// What a step's function can take: an input, or the [`Invocation`].
#[diagnostic::on_unimplemented(
    message = "a step cannot take a `{Self}`",
    note = "a step takes prost messages that have a type name, `Many` or `Labeled` of them, and the `Invocation`, each by value"
)]
pub trait Argument: Sized {
    /// Returns the port that this parameter declares, or `None` where it is no input.
    fn port() -> Option<wire::Port>;

    /// Returns the argument for one call.
    ///
    /// # Errors
    /// Permanent, with the code `invalid_input`, when the host's value does not fit.
    fn take(inputs: &mut Inputs<'_>) -> StepResult<Self>;
}

/// Any number of messages, in order: an input or output of arity many.
///
/// It is a `Vec` in all but name, because a plain `Vec<u8>` is already a message to [`prost`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Many<T>(pub Vec<T>);

/// A payload that flows through the port with the label `L`, so that one message type can take
/// several ways.
///
/// ```
/// use docket_guest::{Labeled, StepResult, label};
/// # #[derive(Clone, PartialEq, docket_guest::prost::Message)]
/// # #[prost(prost_path = "docket_guest::prost")]
/// # struct Text { #[prost(string, tag = "1")] text: String }
///
/// label!(pub Raw = "raw");
/// label!(pub Clean = "clean");
///
/// fn clean(text: Labeled<Raw, Text>) -> StepResult<Labeled<Clean, Text>> {
///     Ok(Labeled::new(Text { text: text.text.trim().to_owned() }))
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labeled<L, T> {
    value: T,
    label: std::marker::PhantomData<fn() -> L>,
}

/// A type that stands for a label; made by [`label!`](crate::label).
pub trait Label: 'static {
    /// The label as ports carry it, without `#`.
    const NAME: &'static str;
}

/// Makes a type that stands for a label, for use with [`Labeled`].
///
/// ```
/// docket_guest::label!(
///     /// Text without surrounding blanks.
///     pub Clean = "clean"
/// );
/// ```
#[macro_export]
macro_rules! label {
    ($(#[$attribute:meta])* $visibility:vis $name:ident = $label:literal) => {
        #[doc = concat!("The label `#", $label, "`.")]
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility enum $name {}

        impl $crate::Label for $name {
            const NAME: &'static str = $label;
        }
    };
}

/// The host's values of one call, handed out to the parameters in their order.
#[doc(hidden)]
pub struct Inputs<'a> {
    call: &'a Invocation,
    values: std::vec::IntoIter<wire::Value>,
    given: usize,
}

impl<'a> Inputs<'a> {
    pub(crate) fn new(call: &'a Invocation, values: Vec<wire::Value>) -> Self {
        let given = values.len();
        Self { call, values: values.into_iter(), given }
    }

    /// Checks that every value found its parameter.
    pub(crate) fn finish(&self) -> StepResult<()> {
        match self.values.len() {
            0 => Ok(()),
            spare => Err(self.miscounted(self.given - spare)),
        }
    }

    fn miscounted(&self, taken: usize) -> Failure {
        let (step, given) = (&self.call.step, self.given);
        let relation = if given > taken { "more" } else { "fewer" };
        invalid_input(format!("step `{step}` was given {given} inputs, {relation} than it declares"))
    }
}

impl<F: Flow> Argument for F {
    fn port() -> Option<wire::Port> {
        Some(F::port())
    }

    fn take(inputs: &mut Inputs<'_>) -> StepResult<Self> {
        let Some(value) = inputs.values.next() else {
            return Err(inputs.miscounted(inputs.given + 1));
        };
        F::decode(value)
    }
}

impl Argument for Invocation {
    fn port() -> Option<wire::Port> {
        None
    }

    fn take(inputs: &mut Inputs<'_>) -> StepResult<Self> {
        Ok(inputs.call.clone())
    }
}

impl<P: Payload> Flow for P {
    fn port() -> wire::Port {
        wire::Port { message: P::message(), label: None, arity: P::ARITY }
    }

    fn decode(value: wire::Value) -> StepResult<Self> {
        P::decode(value)
    }

    fn encode(self) -> wire::Value {
        P::encode(self)
    }
}

impl<L: Label, P: Payload> Flow for Labeled<L, P> {
    fn port() -> wire::Port {
        wire::Port { message: P::message(), label: Some(L::NAME.to_owned()), arity: P::ARITY }
    }

    fn decode(value: wire::Value) -> StepResult<Self> {
        P::decode(value).map(Self::new)
    }

    fn encode(self) -> wire::Value {
        P::encode(self.value)
    }
}

impl<T: Message + Name + Default> Payload for T {
    const ARITY: wire::Arity = wire::Arity::One;

    fn message() -> String {
        T::full_name()
    }

    fn decode(value: wire::Value) -> StepResult<Self> {
        match value {
            wire::Value::One(bytes) => decode_one(&bytes),
            wire::Value::Many(_) => Err(wrong_arity::<T>("one message", "a list")),
        }
    }

    fn encode(self) -> wire::Value {
        wire::Value::One(self.encode_to_vec())
    }
}

impl<T: Message + Name + Default> Payload for Many<T> {
    const ARITY: wire::Arity = wire::Arity::Many;

    fn message() -> String {
        T::full_name()
    }

    fn decode(value: wire::Value) -> StepResult<Self> {
        match value {
            wire::Value::Many(list) => list.iter().map(|bytes| decode_one(bytes)).collect(),
            wire::Value::One(_) => Err(wrong_arity::<T>("a list", "one message")),
        }
    }

    fn encode(self) -> wire::Value {
        wire::Value::Many(self.iter().map(T::encode_to_vec).collect())
    }
}

fn decode_one<T: Message + Name + Default>(bytes: &[u8]) -> StepResult<T> {
    T::decode(bytes).map_err(|error| {
        let cause = error.to_string();
        let cause = cause.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&cause);
        invalid_input(format!("an input is not a valid `{}`: {cause}", T::full_name()))
    })
}

fn wrong_arity<T: Name>(expected: &str, given: &str) -> Failure {
    invalid_input(format!("input `{}` takes {expected} and was given {given}", T::full_name()))
}

fn invalid_input(message: String) -> Failure {
    Failure::permanent(message).code("invalid_input")
}

impl<T> Default for Many<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Deref for Many<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T> DerefMut for Many<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

impl<T> From<Vec<T>> for Many<T> {
    fn from(list: Vec<T>) -> Self {
        Self(list)
    }
}

impl<T> FromIterator<T> for Many<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

impl<T> IntoIterator for Many<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Many<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<L, T> Labeled<L, T> {
    /// Returns the value under the label.
    pub fn new(value: T) -> Self {
        Self { value, label: std::marker::PhantomData }
    }

    /// Returns the value without the label.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<L, T> Deref for Labeled<L, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<L, T> DerefMut for Labeled<L, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
