//! Steps that take longer than they may: one waits, one keeps a core busy and never yields, one is
//! faster when it is tried again.

use std::hint;
use std::thread;
use std::time::Duration;

use docket_guest::{Invocation, Labeled, Retry, StepResult, label};
use pb::{Done, Work};

mod pb {
    docket_guest::include_proto!("timeout.v1");
}

docket_guest::module!(
    step(wait).timeout(Duration::from_millis(200)),
    step(spin).timeout(Duration::from_millis(100)),
    step(second_chance).timeout(Duration::from_millis(50)).retry(Retry::immediate(2)),
);

label!(Waited = "waited");
label!(Spun = "spun");
label!(Again = "again");

fn wait(call: Invocation, work: Work) -> StepResult<Labeled<Waited, Done>> {
    thread::sleep(Duration::from_millis(work.milliseconds.into()));
    Ok(Labeled::new(Done { attempt: call.attempt }))
}

fn spin(_: Work) -> StepResult<Labeled<Spun, Done>> {
    let mut turns = 0_u64;
    loop {
        turns = hint::black_box(turns.wrapping_add(1));
    }
}

/// Takes its time at the first attempt only.
fn second_chance(call: Invocation, work: Work) -> StepResult<Labeled<Again, Done>> {
    if call.attempt == 1 {
        thread::sleep(Duration::from_millis(work.milliseconds.into()));
    }
    Ok(Labeled::new(Done { attempt: call.attempt }))
}
