//! `explain`: which steps of an execution were answered from what was kept, and why the others were
//! not. Never runs a step.

use std::sync::Arc;

use docket_runtime::{Came, ExplainedElements, Explanation};

use super::ledger::Ledger;
use super::table::{short, table};
use crate::args::{ExplainArgs, ViewFormat};
use crate::error::{CliError, harmless};
use crate::output;
use crate::session::Session;
use crate::store::{Door, TENANT, unusable};

pub(super) async fn explain(session: &mut Session, args: ExplainArgs) -> Result<(), CliError> {
    let ExplainArgs { id, format, store } = args;
    let door = Door::of_existing(&store, &session.config()?)?;
    let way = door.clone();
    let found = session.elsewhere(async move {
        let store = way.store().await.map_err(|error| unusable(&error))?;
        // One that is not recorded has no steps to explain.
        Ledger::of(Arc::clone(&store)).execution(&id).await?;
        docket_runtime::explain(&store, TENANT, id.as_str()).await.map_err(|error| unusable(&error))
    });
    let found = found.await;
    door.close().await;
    let found = found?;
    let data = match format {
        ViewFormat::Json => output::pretty(&found)?,
        ViewFormat::Text => text(&found).into_bytes(),
    };
    session.console.show(&data)
}

fn text(found: &[Explanation]) -> String {
    if found.is_empty() {
        return "no step whose result is kept has begun\n".to_owned();
    }
    let rows = found.iter().map(|explanation| {
        let Explanation { step, result, key, reason: _, attempts, elements: _ } = explanation;
        [
            step.clone(),
            came(*result).to_owned(),
            harmless(&reason(explanation)),
            attempts.to_string(),
            short(key.as_deref().unwrap_or("-")).to_owned(),
        ]
    });
    table(["STEP", "RESULT", "REASON", "ATTEMPTS", "KEY"], rows)
}

/// Returns the reason; where the step runs for each element, how many were found, and the reason for one that was not.
fn reason(Explanation { reason, elements, .. }: &Explanation) -> String {
    let Some(ExplainedElements { found, missed, first_missed }) = elements else { return reason.clone() };
    match (found, first_missed) {
        (Some(found), Some(first)) => {
            format!("{found} of {} elements found; not found was {first}: {reason}", found + missed)
        }
        (Some(found), None) => format!("{found} of {} elements found: {reason}", found + missed),
        (None, _) => format!("{missed} elements begun; of one of them: {reason}"),
    }
}

fn came(came: Came) -> &'static str {
    match came {
        Came::Made => "made",
        Came::Found => "found",
        Came::Failed => "failed",
        Came::Stopped => "stopped",
    }
}

#[cfg(test)]
mod tests {
    use docket_graph::StepName;
    use docket_runtime::{ElementIndex, ElementPath};

    use super::*;

    #[test]
    fn of_elements_it_is_said_how_many_were_found_and_which_is_explained() {
        let of = StepName::parse("Split").ok();
        let first = ElementPath([ElementIndex { of, index: 3 }].into());
        let cases = [
            (None, "changed"),
            (
                Some((Some(7), 3, Some(first))),
                "7 of 10 elements found; not found was element 3 of `Split`: changed",
            ),
            (Some((Some(10), 0, None)), "10 of 10 elements found: changed"),
            (Some((None, 4, None)), "4 elements begun; of one of them: changed"),
        ];
        for (elements, expected) in cases {
            let elements = elements.map(|(found, missed, first_missed)| ExplainedElements {
                found,
                missed,
                first_missed,
            });
            let (step, reason, result) = ("Count".to_owned(), "changed".to_owned(), Came::Made);
            let explanation = Explanation { step, result, key: None, reason, attempts: 1, elements };
            assert_eq!(super::reason(&explanation), expected);
        }
    }
}
