//! The verbs, one a file, each from its arguments to what it shows.

mod completions;
mod graph;
mod inspect;
mod plan;
mod run;
mod table;
mod validate;

pub(crate) use completions::completions;

use crate::args::Verb;
use crate::error::CliError;
use crate::session::Session;

/// Does what was asked.
pub(crate) async fn carry_out(session: &mut Session, verb: Verb) -> Result<(), CliError> {
    let done = match verb {
        Verb::Run(args) => run::run(session, args).await,
        Verb::Plan(args) => plan::plan(session, args).await,
        Verb::Graph(args) => graph::graph(session, args).await,
        Verb::Validate => validate::validate(session).await,
        Verb::Inspect(args) => inspect::inspect(session, args).await,
        Verb::Completions(args) => completions(&session.console, args),
    };
    // Whatever is said last must not be drawn over.
    session.progress.clear();
    done
}
