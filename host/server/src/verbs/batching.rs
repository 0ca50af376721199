//! One batch from its beginning to the last of its results, for the verbs that carry one out. Never decides which batch.

use std::num::NonZeroUsize;
use std::time::Duration;

use docket_graph::{Arity, Graph, Plan, Port, Source};
use docket_runtime::{
    Batch, BatchOutcome, BatchProgress, BatchRequest, ErrorKind, Every, ExecutionError, ExecutionId, Host,
    ItemCounts, ItemSource, Request, Value,
};
use prost_reflect::MessageDescriptor;

use super::carrying::{said, with_resume};
use crate::args::{BatchFormat, ItemsFormat, OnItemErrorArg, ResultFormat};
use crate::error::CliError;
use crate::exit::Exit;
use crate::input::Place;
use crate::interrupt::interrupted;
use crate::items::{Opened, Patience, Taken};
use crate::output::{self, LineForm, Lines};
use crate::request::{ItemsAsked, refused};
use crate::session::Session;
use crate::store::Door;

/// How long results that are done may take to be written once a signal came: a reader that has stopped is not waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a batch is made of, whoever asked for it.
pub(super) struct Parts {
    /// With what all items share.
    pub(super) request: Request,
    pub(super) plan: Plan,
    pub(super) items: ItemsAsked,
    pub(super) format: Option<BatchFormat>,
    pub(super) report: bool,
}

impl Parts {
    /// Returns the batch, of which nothing has run.
    ///
    /// # Errors
    /// Where its results could not be written, its items not be read, or the request does not fit the graph.
    pub(super) async fn begin(self, session: &mut Session, host: &Host) -> Result<Batching, CliError> {
        let Self { request, plan, items, format, report } = self;
        let ItemsAsked { place, port, form, max_concurrency, on_item_error } = items;
        let graph = host.graph();
        let target = graph.port(plan.target());
        let writing = Shape::of(graph, &plan).writing(graph, target, format, on_item_error)?;
        let opened = open(session, &place, &port).await?;
        let mut request = BatchRequest::new(request).items(port).on_item_error(on_item_error.into());
        // A path that is no text cannot stand in a record.
        let path = opened.regular.as_ref().and_then(|(path, _)| path.to_str());
        let by_name = form.format == ItemsFormat::of(&place);
        let again = path.map(|_| if by_name { "" } else { form.format.option() });
        if let Some(path) = path {
            request = request.source(ItemSource::File(path.to_owned()));
        }
        if let Some(most) = max_concurrency {
            request = request.max_concurrency(NonZeroUsize::try_from(most).unwrap_or(NonZeroUsize::MAX));
        }
        let patience = match on_item_error {
            OnItemErrorArg::Fail if is_pipelined(&plan) => Patience::UntilEnded,
            OnItemErrorArg::Fail | OnItemErrorArg::Continue => Patience::None,
        };
        let (items, taken) = opened.stream(form, patience);
        let batch = host.batch(request, items).map_err(|error| refused(&error))?;
        taken.follow(&batch.progress());
        Ok(Batching { host: host.clone(), batch, taken, writing, report, again })
    }
}

/// Returns whether each item comes to its end whatever becomes of those after it.
fn is_pipelined(plan: &Plan) -> bool {
    plan.items().is_some_and(|items| plan.result_dimension() == items && plan.gathered(items).is_empty())
}

/// Opens the place of items. What is no file may wait for its writer, and a signal is heard meanwhile.
async fn open(session: &mut Session, place: &Place, port: &Port) -> Result<Opened, CliError> {
    let (place, sentence) = (place.clone(), format!("the items for `{port}` cannot be read from {place}"));
    let open =
        move || Opened::of(&place).map_err(|error| CliError::new(Exit::Usage, sentence).caused_by(&error));
    session.blocking(open).await
}

/// What a batch gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A value of its own for each item.
    PerItem(Arity),
    /// One value that is made of all items.
    Once,
}

impl Shape {
    fn of(graph: &Graph, plan: &Plan) -> Self {
        let Some(items) = plan.items().filter(|items| *items == plan.result_dimension()) else {
            return Self::Once;
        };
        let gives = match plan.target_source() {
            Source::Node(_) => graph.arity(plan.target()),
            // An item that is asked for is one message, however many of them a step would take.
            Source::Given(_) | Source::Failed => Arity::One,
        };
        let is_list = plan.target_dimension() != items || gives == Arity::Many;
        Self::PerItem(if is_list { Arity::Many } else { Arity::One })
    }

    /// Returns how the results are written.
    ///
    /// # Errors
    /// Where the format has no place for them.
    fn writing(
        self,
        graph: &Graph,
        target: &Port,
        format: Option<BatchFormat>,
        on_item_error: OnItemErrorArg,
    ) -> Result<Writing, CliError> {
        let message = output::message(graph, target).clone();
        let Self::PerItem(arity) = self else {
            let format = match format {
                None => ResultFormat::Json,
                Some(BatchFormat::Ndjson) => ResultFormat::Ndjson,
                Some(BatchFormat::Proto) => ResultFormat::Proto,
            };
            return Ok(Writing::Once { message, format });
        };
        let refuse = |why: String| {
            let sentence = format!("`--format proto` {why}; write `--format ndjson`");
            Err(CliError::new(Exit::Usage, sentence))
        };
        match (format, on_item_error, arity) {
            (Some(BatchFormat::Proto), OnItemErrorArg::Continue, _) => refuse(
                "has no place for the error of an item, which `--on-item-error continue` writes".into(),
            ),
            (Some(BatchFormat::Proto), OnItemErrorArg::Fail, Arity::Many) => refuse(format!(
                "cannot tell where the list of one item ends, and each item gives many `{target}`"
            )),
            _ => {
                let format = format.unwrap_or(BatchFormat::Ndjson);
                Ok(Writing::PerItem(LineForm { message, format, on_item_error }))
            }
        }
    }
}

/// How the results of a batch are written.
enum Writing {
    PerItem(LineForm),
    Once { message: MessageDescriptor, format: ResultFormat },
}

/// A batch that is about to begin.
pub(super) struct Batching {
    host: Host,
    batch: Batch,
    taken: Taken,
    writing: Writing,
    report: bool,
    /// The options with which its items are read again by `resume`; none where they cannot be.
    again: Option<&'static str>,
}

/// Why results are no longer written while the batch lasts.
enum Stopped {
    /// It is over, or gives none.
    Over,
    /// They cannot be written any more.
    Unwritable,
    /// By a signal.
    Signal(&'static str),
}

impl Batching {
    /// Carries the batch out and writes its results as they come. A signal stops it; a second one does not wait until it
    /// has.
    ///
    /// # Errors
    /// Where the request is refused, the store cannot be used, an item fails or the results cannot be written.
    pub(super) async fn carry(self, session: &mut Session, door: &Door) -> Result<(), CliError> {
        let Self { host, mut batch, taken, writing, report, again } = self;
        let id = batch.id().clone();
        let resume = (batch.is_journaled() && door.outlives_the_call()).then(|| way_on(&id, door, again));
        let (progress, canceller) = (batch.progress(), batch.canceller());
        let mut lines = match &writing {
            Writing::PerItem(form) => Some(Lines::begin(&session.console, form.clone())),
            Writing::Once { .. } => None,
        };
        let stopped = tokio::select! {
            stopped = relay(&mut batch, lines.as_ref()) => stopped,
            () = session.progress.show_items(&progress, &taken) => unreachable!("it never ends by itself"),
            name = session.interrupt.signal() => Stopped::Signal(name),
        };
        if !matches!(stopped, Stopped::Over) {
            canceller.cancel();
        }
        let outcome = tokio::select! {
            outcome = batch.outcome() => outcome,
            again = session.interrupt.signal() => {
                return Err(with_resume(interrupted(again, &format!("batch `{id}` was left")), resume));
            }
        };
        let written = match lines.take() {
            Some(lines) => end(lines, session, &stopped).await,
            None => Ok(()),
        };
        session.progress.clear();
        let BatchOutcome { result, report: facts, items } = outcome.map_err(|error| refused(&error))?;
        if report {
            session.console.complain(&said(&facts, session.args.log_format)?);
        }
        written?;
        match (result, stopped) {
            (Ok(value), _) => writing.finish(session, value.as_deref(), items, &progress),
            // Whoever read the results has gone away, and got what it wanted.
            (Err(ExecutionError::Cancelled), Stopped::Unwritable) => Ok(()),
            (Err(ExecutionError::Cancelled), Stopped::Signal(name)) => {
                Err(with_resume(interrupted(name, &format!("batch `{id}` was stopped")), resume))
            }
            (Err(error), _) => {
                let exit = if error.kind() == ErrorKind::Invalid { Exit::Usage } else { Exit::Failed };
                let resume = resume.filter(|_| host.may_end_otherwise(&error, &facts));
                Err(with_resume(CliError::of(exit, &error), resume))
            }
        }
    }
}

/// Hands results over to be written until there are no more.
async fn relay(batch: &mut Batch, lines: Option<&Lines>) -> Stopped {
    while let Some(outcome) = batch.next().await {
        if let Some(lines) = lines
            && lines.send(outcome).await.is_err()
        {
            return Stopped::Unwritable;
        }
    }
    Stopped::Over
}

/// Waits until what was handed over is written; not for long, once somebody wants an end.
async fn end(lines: Lines, session: &mut Session, stopped: &Stopped) -> Result<(), CliError> {
    let mut patience = Every::new(LAST_WORDS);
    let patience = async {
        match stopped {
            Stopped::Signal(_) => _ = patience.next().await,
            Stopped::Over | Stopped::Unwritable => std::future::pending().await,
        }
    };
    tokio::select! {
        written = lines.end() => written,
        () = patience => Ok(()),
        name = session.interrupt.signal() => {
            Err(interrupted(name, "the batch is over, and the last of its results are not written"))
        }
    }
}

impl Writing {
    /// Writes what there is once, and says how many items failed; why the first did, where no line of its own has said it.
    fn finish(
        self,
        session: &Session,
        value: Option<&Value>,
        items: ItemCounts,
        progress: &BatchProgress,
    ) -> Result<(), CliError> {
        if let (Self::Once { message, format }, Some(value)) = (&self, value) {
            session.console.show(&output::write_as(*format, message, value)?)?;
        }
        let ItemCounts { read, failed, .. } = items;
        let failed = match (failed, read) {
            (0, _) => return Ok(()),
            (1, 1) => "the one item failed".to_owned(),
            _ => format!("{failed} of {read} items failed"),
        };
        let error = CliError::new(Exit::Failed, failed);
        let first = match self {
            Self::Once { .. } => progress.first_failed(),
            Self::PerItem(_) => None,
        };
        Err(match first {
            Some(first) => error.caused_by(&first.error),
            None => error,
        })
    }
}

/// Returns how a batch that was stopped is gone on with.
pub(super) fn way_on(id: &ExecutionId, door: &Door, again: Option<&str>) -> String {
    match again {
        Some(options) => format!("docket-host resume {id}{options}{}", door.option()),
        None => format!("give the same command the same items again, with `--execution-id {id}`"),
    }
}
