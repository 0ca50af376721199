//! The binary: hands its arguments to the library and its end to the system. Never does anything itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    docket_host::main_with(std::env::args_os()).into()
}
