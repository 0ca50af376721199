//! The verbs, one a file, each from its arguments to what it shows.

mod batch;
mod batching;
mod cache;
mod carrying;
mod completions;
mod executions;
mod explain;
mod graph;
mod inspect;
mod ledger;
mod plan;
mod resume;
mod run;
mod store;
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
        Verb::Batch(args) => batch::batch(session, args).await,
        Verb::Plan(args) => plan::plan(session, args).await,
        Verb::Explain(args) => explain::explain(session, args).await,
        Verb::Resume(args) => resume::resume(session, args).await,
        Verb::Executions(args) => executions::executions(session, args).await,
        Verb::Cache(args) => cache::cache(session, args).await,
        Verb::Store(args) => store::store(session, args).await,
        Verb::Graph(args) => graph::graph(session, args).await,
        Verb::Validate => validate::validate(session).await,
        Verb::Inspect(args) => inspect::inspect(session, args).await,
        Verb::Completions(args) => completions(&session.console, args),
    };
    // Whatever is said last must not be drawn over.
    session.progress.clear();
    done
}
