//! Generates the demonstration types, for tests that pass messages by their Rust types.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "../proto/example/v1/example.proto";
    println!("cargo::rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["../proto"])?;
    prost_build::Config::new().enable_type_names().compile_fds(descriptors)?;
    Ok(())
}
