//! The verb `batch`, as it is typed. Never acts on it.

use std::num::NonZeroU32;

use clap::{ValueEnum, ValueHint};
use docket_graph::{OnItemError, Port};
use docket_runtime::ExecutionId;

use super::{StoreArg, duration};
use crate::input::{InputArg, Place};

/// `batch`
#[derive(Debug, clap::Args)]
pub(crate) struct BatchArgs {
    #[command(flatten)]
    pub(crate) request: BatchRequestArgs,
    /// The name of the batch [default: a new one that sorts by time]. Where its steps keep results, the same
    /// request with the same items under the same name goes on, and runs nothing again
    #[arg(long, value_name = "ID", value_parser = ExecutionId::parse)]
    pub(crate) execution_id: Option<ExecutionId>,
    /// The deadline of the whole batch, such as 30s or 1h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<std::time::Duration>,
    /// Write a report on every step to stderr, as JSON
    #[arg(long)]
    pub(crate) report: bool,
    /// How results are written [default: a line of JSON an item; what is one for all items, as `run` writes it]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<BatchFormat>,
    #[command(flatten)]
    pub(crate) store: StoreArg,
}

/// What is asked for. What is left out comes from `[batch]` of docket.toml.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct BatchRequestArgs {
    /// The items: a file, or `-` for stdin
    #[arg(long, value_name = "FILE", value_parser = Place::parse, value_hint = ValueHint::FilePath)]
    pub(crate) items: Option<Place>,
    /// How items are written [default: by the file's name, `proto` for *.binpb and *.pb, else `json`]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) items_format: Option<ItemsFormat>,
    /// The port that the items are for [default: the one input that is not shared]
    #[arg(long, value_name = "PORT", value_parser = Port::parse)]
    pub(crate) items_port: Option<Port>,
    /// An input that all items share: PORT=JSON, PORT=@FILE or PORT=- for stdin
    #[arg(long, value_name = "INPUT", value_parser = InputArg::parse_with_port)]
    pub(crate) shared: Vec<InputArg>,
    /// The port to compute, such as example.v1.Text#clean [default: the graph's one final output]
    #[arg(long, value_name = "PORT", value_parser = Port::parse)]
    pub(crate) output: Option<Port>,
    /// The most items that are under way at once [default: 64]
    #[arg(long, value_name = "N", value_parser = concurrency)]
    pub(crate) max_concurrency: Option<NonZeroU32>,
    /// What an item that fails is to the others [default: fail]
    #[arg(long, value_enum, value_name = "POLICY")]
    pub(crate) on_item_error: Option<OnItemErrorArg>,
}

/// How items are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ItemsFormat {
    /// One JSON object a line; empty lines are passed over
    Json,
    /// Encoded messages, each behind its length, a varint
    Proto,
}

/// How the results of a batch are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BatchFormat {
    /// One JSON object a line
    Ndjson,
    /// Encoded messages, each behind its length, a varint
    Proto,
}

/// What an item that fails is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnItemErrorArg {
    /// It ends the batch; those under way are stopped, and what is done before the first of them is written
    Fail,
    /// It has a line of its own, and the others go on
    Continue,
}

impl OnItemErrorArg {
    /// Every choice, as the configuration writes it.
    pub(crate) const WORDS: [(&str, Self); 2] = [("fail", Self::Fail), ("continue", Self::Continue)];
}

impl From<OnItemErrorArg> for OnItemError {
    fn from(arg: OnItemErrorArg) -> Self {
        match arg {
            OnItemErrorArg::Fail => Self::Fail,
            OnItemErrorArg::Continue => Self::Continue,
        }
    }
}

impl From<OnItemError> for OnItemErrorArg {
    fn from(policy: OnItemError) -> Self {
        match policy {
            OnItemError::Fail => Self::Fail,
            OnItemError::Continue => Self::Continue,
        }
    }
}

impl ItemsFormat {
    /// Every choice, as the configuration writes it.
    pub(crate) const WORDS: [(&str, Self); 2] = [("json", Self::Json), ("proto", Self::Proto)];

    /// Returns how items are written in a place, by its name.
    pub(crate) fn of(place: &Place) -> Self {
        match place.extension() {
            Some("binpb" | "pb") => Self::Proto,
            _ => Self::Json,
        }
    }

    /// Returns the option that says so, with a space before it.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Json => " --items-format json",
            Self::Proto => " --items-format proto",
        }
    }
}

fn concurrency(text: &str) -> Result<NonZeroU32, String> {
    match text.parse::<u32>() {
        Ok(most) => NonZeroU32::new(most).ok_or_else(|| "it must be more than zero".to_owned()),
        Err(_) => Err("it must be a whole number".to_owned()),
    }
}
