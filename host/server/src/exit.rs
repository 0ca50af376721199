//! Owns how the program can end, as scripts see it. Never decides which end it is.

use std::process::ExitCode;

/// How a command ended. The number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// The execution failed: a step failed or aborted, or the deadline passed.
    Failed = 1,
    /// The command line or an input is wrong; nothing has run.
    Usage = 2,
    /// A module, or the graph of all modules, is wrong.
    Invalid = 3,
    /// The configuration, or what it names on this machine, cannot be used.
    Configuration = 4,
    /// SIGINT or SIGTERM stopped it.
    Interrupted = 130,
}

impl Exit {
    /// Returns the number that the process ends with.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
