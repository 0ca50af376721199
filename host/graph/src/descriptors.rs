//! Owns the way from a module's descriptors to its message types: what of them matters here, and how much there may
//! be. They come from anybody, and the library that reads them trusts whoever wrote them: it follows files that import
//! each other for ever, looks at everything as often as it is named, and copies names as often as something stands
//! inside of them. Never knows a step.

mod imports;
mod lean;
mod measure;

use std::fmt;

use prost_reflect::DescriptorPool;
use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::FileDescriptorSet;

use measure::Left;

use crate::fault::Excess;

/// The most definitions of one module. 262,144: four times as many messages as the largest collections have, and the
/// library needs about one KiB for each.
const MOST_DEFINITIONS: usize = 1 << 18;

/// Why no message types can be made of descriptors.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// They are no complete set, for this reason.
    Bad(String),
    /// There is more of this than so many.
    TooMuch(Excess, usize),
}

/// Returns the message types of these descriptors.
pub(crate) fn read(descriptors: &[u8]) -> Result<DescriptorPool, Refusal> {
    let bad = |error: &dyn fmt::Display| Refusal::Bad(error.to_string());
    let lean = lean::copy(descriptors, MOST_DEFINITIONS)?;
    let mut set = FileDescriptorSet::decode(&*lean).map_err(|error| bad(&error))?;
    let mut left = Left::all();
    set.file.iter_mut().try_for_each(|file| left.take_file(file))?;
    left.take_all_files()?;
    imports::open(&mut set.file, &mut left)?;
    // Nothing that comes so far is known to make it panic: what did is left out, or refused above. It indexes by numbers
    // of strangers all the same, and a panic must not end whoever reads them.
    match std::panic::catch_unwind(|| DescriptorPool::from_file_descriptor_set(set)) {
        Ok(made) => made.map_err(|error| bad(&error)),
        Err(_) => Err(Refusal::Bad("they contradict themselves".to_owned())),
    }
}
