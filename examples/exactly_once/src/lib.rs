//! A step that must not be done twice: it charges a customer. Its result is kept for every execution,
//! and its declared version stands for its code, so that a new build does not charge again.

#![expect(clippy::print_stdout, reason = "a step's stdout is its log")]

use docket_guest::{Invocation, Scope, StepResult};
use pb::{Order, Receipt};

mod pb {
    docket_guest::include_proto!("exactlyonce.v1");
}

docket_guest::module!(step(charge).version("1").keep(Scope::Global));

fn charge(call: Invocation, order: Order) -> StepResult<Receipt> {
    let Order { customer, cents } = order;
    println!("charging {customer} {cents} cents");
    Ok(Receipt { text: format!("{customer} paid {cents} cents"), idempotency_key: call.idempotency_key })
}
