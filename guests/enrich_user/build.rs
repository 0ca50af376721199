//! Makes the messages and descriptors that the step names.

fn main() -> Result<(), docket_guest_build::Error> {
    docket_guest_build::compile_all(&["../../proto/example/v1/example.proto"], &["../../proto"])
}
