//! The same work in three steps that differ in how their results are kept: within an execution, for
//! every execution, and for every execution but not for long. Each says in which execution it ran.

use std::time::Duration;

use docket_guest::{Invocation, Labeled, Scope, StepResult, label};
use pb::{Answer, Answers, Question};

mod pb {
    docket_guest::include_proto!("scopecomparison.v1");
}

docket_guest::module!(
    step(answer_in_workflow).version("1").keep(Scope::Workflow),
    step(answer_globally).version("1").keep(Scope::Global),
    step(answer_for_a_while).version("1").keep_for(Scope::Global, Duration::from_secs(5)),
    step(compare),
);

label!(Workflow = "workflow");
label!(Global = "global");
label!(Passing = "passing");

fn answer_in_workflow(call: Invocation, question: Question) -> StepResult<Labeled<Workflow, Answer>> {
    Ok(Labeled::new(answer(&call, &question)))
}

fn answer_globally(call: Invocation, question: Question) -> StepResult<Labeled<Global, Answer>> {
    Ok(Labeled::new(answer(&call, &question)))
}

fn answer_for_a_while(call: Invocation, question: Question) -> StepResult<Labeled<Passing, Answer>> {
    Ok(Labeled::new(answer(&call, &question)))
}

fn answer(call: &Invocation, question: &Question) -> Answer {
    Answer { text: question.text.to_uppercase(), made_in: call.execution_id.clone() }
}

/// Not kept: it is made of what is.
fn compare(
    workflow: Labeled<Workflow, Answer>,
    global: Labeled<Global, Answer>,
    passing: Labeled<Passing, Answer>,
) -> StepResult<Answers> {
    let answers = [workflow.into_inner(), global.into_inner(), passing.into_inner()];
    let [workflow, global, passing] = answers.map(Some);
    Ok(Answers { workflow, global, passing })
}
