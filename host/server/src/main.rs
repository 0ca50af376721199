//! The binary: hands its arguments to the library and its end to the system. Never does anything itself.

use std::process::ExitCode;

/// What the threads of executions make, those of the store free.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    docket_host::main_with(std::env::args_os()).into()
}
