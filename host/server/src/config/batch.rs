//! Reads `[batch]`: the default request of `batch`. Never reads an item.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use docket_graph::Port;

use super::section::{Section, choice};
use crate::args::{ItemsFormat, OnItemErrorArg};
use crate::input::{InputArg, Place};

/// The default request of `batch`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BatchConfig {
    pub(crate) items: Option<Place>,
    pub(crate) items_format: Option<ItemsFormat>,
    pub(crate) items_port: Option<Port>,
    pub(crate) shared: Vec<InputArg>,
    pub(crate) output: Option<Port>,
    pub(crate) max_concurrency: Option<NonZeroU32>,
    pub(crate) on_item_error: Option<OnItemErrorArg>,
    pub(crate) timeout: Option<Duration>,
}

pub(super) fn batch(section: &mut Section<'_, '_>, beside: &Path) -> BatchConfig {
    let shared = section.list("shared", InputArg::parse_with_port).unwrap_or_default();
    BatchConfig {
        items: section.parsed("items", Place::parse).map(|place| place.beside(beside)),
        items_format: section.parsed("items-format", |text| choice(text, &ItemsFormat::WORDS)),
        items_port: section.parsed("items-port", Port::parse),
        shared: shared.into_iter().map(|input| input.beside(beside)).collect(),
        output: section.parsed("output", Port::parse),
        max_concurrency: section.count_u32("max-concurrency"),
        on_item_error: section.parsed("on-item-error", |text| choice(text, &OnItemErrorArg::WORDS)),
        timeout: section.duration("timeout"),
    }
}
