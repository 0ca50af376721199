//! The three kinds of failure, and what each of them does to an execution.

use std::thread;
use std::time::Duration;

use docket_guest::{Failure, Invocation, Retry, StepResult};
use pb::{Audit, Length, Report, Text};

mod pb {
    docket_guest::include_proto!("errors.v1");
}

docket_guest::module!(
    step(measure).retry(Retry::fixed(3, Duration::from_millis(10))),
    step(slow_audit),
    step(report),
);

/// The longest text that is measured, in bytes.
const LIMIT: usize = 100;

fn measure(call: Invocation, text: Text) -> StepResult<Length> {
    match text.text.as_str() {
        "" => Err(invalid("the text is empty")),
        long if long.len() > LIMIT => {
            Err(invalid(&format!("the text has {} bytes, more than {LIMIT}", long.len())))
        }
        "flaky" => {
            Err(Failure::retryable(format!("the network failed at attempt {}", call.attempt)).code("network"))
        }
        "critical" => Err(Failure::abort("the text must not be processed at all")),
        text => Ok(Length { length: u32::try_from(text.len())? }),
    }
}

/// Runs beside `measure` and takes far longer.
fn slow_audit(_: Text) -> StepResult<Audit> {
    thread::sleep(Duration::from_secs(20));
    Ok(Audit { note: "audited".into() })
}

fn report(length: Length, audit: Audit) -> StepResult<Report> {
    Ok(Report { length: Some(length), audit: Some(audit) })
}

fn invalid(message: &str) -> Failure {
    Failure::permanent(message).code("validation")
}
