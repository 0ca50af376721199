//! Steps that fail as often as they are told, each with another policy. A step sees the number of
//! its attempt.

use std::time::Duration;

use docket_guest::{Failure, Invocation, Labeled, Retry, StepResult, label};
use pb::{Done, Job};

mod pb {
    docket_guest::include_proto!("retry.v1");
}

docket_guest::module!(
    step(fixed).retry(Retry::fixed(3, DELAY)),
    step(exponential).retry(Retry::exponential(4, DELAY)),
    step(hopeless).retry(Retry::fixed(3, DELAY)),
    step(charge).retry(Retry::fixed(3, DELAY)),
);

const DELAY: Duration = Duration::from_millis(100);

label!(Fixed = "fixed");
label!(Exponential = "exponential");
label!(Hopeless = "hopeless");
label!(Charged = "charged");

fn fixed(call: Invocation, job: Job) -> StepResult<Labeled<Fixed, Done>> {
    fail_first(&call, &job).map(Labeled::new)
}

fn exponential(call: Invocation, job: Job) -> StepResult<Labeled<Exponential, Done>> {
    fail_first(&call, &job).map(Labeled::new)
}

/// Says itself that no further attempt would help.
fn hopeless(call: Invocation, job: Job) -> StepResult<Labeled<Hopeless, Done>> {
    let attempt = fail_first(&call, &job).map_err(|_| Failure::permanent("no attempt will ever succeed"))?;
    Ok(Labeled::new(attempt))
}

/// Says that another attempt might help; the operator knows better, see `docket.toml`.
fn charge(call: Invocation, job: Job) -> StepResult<Labeled<Charged, Done>> {
    let attempt = fail_first(&call, &job).map_err(|failure| failure.code("card_declined"))?;
    Ok(Labeled::new(attempt))
}

fn fail_first(call: &Invocation, job: &Job) -> StepResult<Done> {
    let attempt = call.attempt;
    if attempt <= job.failures {
        return Err(Failure::retryable(format!("attempt {attempt} did not succeed")));
    }
    Ok(Done { attempt })
}
