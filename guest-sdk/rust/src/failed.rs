//! How many elements failed of those that a step gathers, as the host says it. Owns the message; never counts.

use prost::{Message, Name};

use crate::wire;

/// How many elements are missing from what a step gathers, because they failed. A step that takes [`Many`](crate::Many) of
/// anything takes it as one more parameter; the host counts.
///
/// It is 0 but in a batch that goes on where an item fails.
///
/// ```ignore
/// fn average(ratings: Many<Rating>, failed: Failed) -> StepResult<Average> {
///     Ok(Average { of: ratings.len() as u64, left_out: failed.count, … })
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Failed {
    /// How many.
    #[prost(uint64, tag = "1")]
    pub count: u64,
}

impl Name for Failed {
    const NAME: &'static str = "Failed";
    const PACKAGE: &'static str = "docket.v1";
}

/// The message's file as it stands in a serialized `google.protobuf.FileDescriptorSet`. By hand, so that no step brings the
/// code that would make it along; a test holds it to `proto/docket/v1/failed.proto`.
const FILE: &[u8] = b"\x0a\x44\
    \x0a\x16docket/v1/failed.proto\
    \x12\x09docket.v1\
    \x22\x17\
    \x0a\x06Failed\
    \x12\x0d\x0a\x05count\x18\x01\x20\x01\x28\x04\
    \x62\x06proto3";

/// How a file of that package says that it is: `package`, with its length.
const PACKAGE: &[u8] = b"\x12\x09docket.v1";

/// Returns the descriptors of a module, with the message's file where a step takes the message and the module's own files
/// have no such package.
pub(crate) fn with_failed(own: &[u8], steps: &[wire::Declaration]) -> Vec<u8> {
    let takes = |step: &wire::Declaration| step.inputs.iter().any(|port| port.message == Failed::full_name());
    let mut descriptors = own.to_vec();
    if steps.iter().any(takes) && !own.windows(PACKAGE.len()).any(|bytes| bytes == PACKAGE) {
        // Two sets, one after the other, are one.
        descriptors.extend_from_slice(FILE);
    }
    descriptors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Many, Module, StepResult, step};
    use prost_types::FileDescriptorSet;

    fn compiled() -> FileDescriptorSet {
        let mut set = protox::compile(["docket/v1/failed.proto"], ["../../proto"]).unwrap();
        set.file.iter_mut().for_each(|file| file.source_code_info = None);
        FileDescriptorSet::decode(&prost::Message::encode_to_vec(&set)[..]).unwrap()
    }

    #[test]
    fn the_message_is_that_of_the_repository() {
        let mut own = FileDescriptorSet::decode(FILE).unwrap();
        let field = &mut own.file[0].message_type[0].field[0];
        // What compilers add of themselves.
        field.json_name = Some("count".to_owned());
        assert_eq!(own, compiled());
        assert_eq!(Failed::full_name(), "docket.v1.Failed");
        assert_eq!(Failed { count: 300 }.encode_to_vec(), b"\x08\xac\x02");
    }

    fn without(failed: Many<Failed>) -> StepResult<Failed> {
        Ok(failed[0])
    }

    #[test]
    fn the_message_stands_in_the_descriptors_of_a_module_with_a_step_that_takes_it_and_once() {
        let other = |_: Many<Other>| Ok(Other {});
        let taking = |_: Many<Other>, _: Failed| Ok(Other {});
        let describe = |own: &'static [u8], steps| Module::new(own, steps).describe().descriptors;
        assert_eq!(describe(b"", vec![step(other).name("Other")]), b"");
        assert_eq!(describe(b"", vec![step(other).name("Other"), step(taking).name("Taking")]), FILE);
        assert_eq!(describe(FILE, vec![step(without)]), FILE);
    }

    #[derive(Clone, PartialEq, Message)]
    struct Other {}

    impl Name for Other {
        const NAME: &'static str = "Other";
        const PACKAGE: &'static str = "a.v1";
    }
}
