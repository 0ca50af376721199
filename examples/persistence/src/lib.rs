//! A slow step whose result is kept for every execution, and a quick one that is kept for its own.
//! Which store they are kept in is the operator's to say: the module knows of none.

#![expect(clippy::print_stdout, reason = "a step's stdout is its log")]

use std::thread;
use std::time::Duration;

use docket_guest::{Scope, StepResult};
use pb::{Letters, Summary, Text};

mod pb {
    docket_guest::include_proto!("persistence.v1");
}

docket_guest::module!(
    step(count_letters).version("1").keep_for(Scope::Global, Duration::from_secs(3600)),
    step(summarize).version("1").keep(Scope::Workflow),
);

/// What a distant service would take.
const LATENCY: Duration = Duration::from_millis(200);

fn count_letters(text: Text) -> StepResult<Letters> {
    println!("counting the letters of `{}`", text.text);
    thread::sleep(LATENCY);
    Ok(Letters { count: u32::try_from(text.text.chars().count()).unwrap_or(u32::MAX) })
}

fn summarize(letters: Letters) -> StepResult<Summary> {
    Ok(Summary { text: format!("{} letters", letters.count) })
}
