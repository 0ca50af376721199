//! Generates the demonstration types, and how they become JSON.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "../../proto/example/v1/example.proto";
    println!("cargo::rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["../../proto"])?;
    prost_build::Config::new()
        .enable_type_names()
        .message_attribute(".", "#[derive(serde::Serialize)] #[serde(rename_all = \"camelCase\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
