//! The bodies of the fuzz targets, which the tests share, and what a target does before its first input.

#[path = "../../tests/src/fuzzed.rs"]
pub mod fuzzed;

/// Lets the one panic pass that Docket expects and catches: that of the decoder of descriptors while it words some
/// of its errors. Every other one ends the process, as libFuzzer wants it.
pub fn begin() {
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let file = panic.location().map_or("", |place| place.file());
        if !(file.contains("/prost-reflect-") && file.ends_with("/descriptor/error.rs")) {
            end(panic);
        }
    }));
}
