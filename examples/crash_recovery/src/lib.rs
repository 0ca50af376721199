//! Three steps in a chain. The second one's first attempt takes so long that its process can be killed
//! in the middle of it.

#![expect(clippy::print_stdout, reason = "a step's stdout is its log")]

use std::thread;
use std::time::Duration;

use docket_guest::{Invocation, Scope, StepResult};
use pb::{Enriched, Ingested, Processed, Raw};

mod pb {
    docket_guest::include_proto!("crashrecovery.v1");
}

docket_guest::module!(
    step(ingest).version("1").keep(Scope::Workflow),
    step(process).version("1").keep(Scope::Workflow),
    step(enrich).version("1").keep(Scope::Workflow),
);

/// Longer than the process of the first attempt lives.
const HANGS: Duration = Duration::from_secs(20);

fn ingest(call: Invocation, raw: Raw) -> StepResult<Ingested> {
    println!("attempt {}", call.attempt);
    Ok(Ingested {
        words: raw.lines.iter().flat_map(|line| line.split_whitespace()).map(str::to_owned).collect(),
    })
}

fn process(call: Invocation, ingested: Ingested) -> StepResult<Processed> {
    println!("attempt {}, idempotency key {}", call.attempt, call.idempotency_key);
    if call.attempt == 1 {
        thread::sleep(HANGS);
    }
    Ok(Processed { words: u32::try_from(ingested.words.len()).unwrap_or(u32::MAX), attempt: call.attempt })
}

fn enrich(call: Invocation, processed: Processed) -> StepResult<Enriched> {
    println!("attempt {}", call.attempt);
    let Processed { words, attempt } = processed;
    Ok(Enriched { summary: format!("{words} words, counted in attempt {attempt}") })
}
