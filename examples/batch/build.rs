//! Makes the messages and descriptors that the steps name.

fn main() -> Result<(), docket_guest_build::Error> {
    docket_guest_build::compile("proto/films.proto")
}
