//! `batch`: computes what a request asks for, for each of many items, and writes the results in their order.

use std::num::NonZeroUsize;

use docket_runtime::{BatchRequest, ItemSource, Request};

use super::batching::{Batching, Shape, open};
use super::carrying::settle;
use crate::args::{BatchArgs, ItemsFormat};
use crate::bring_up;
use crate::error::CliError;
use crate::request::{AskedBatch, refused};
use crate::session::Session;
use crate::store::{Door, Notice};

pub(super) async fn batch(session: &mut Session, args: BatchArgs) -> Result<(), CliError> {
    let BatchArgs { request, execution_id, timeout, report, format, store } = args;
    let config = session.config()?;
    let door = Door::of(&store, &config, Notice::Abandoned(execution_id.clone()))?;
    session.progress.expect_items();
    let host = bring_up::keeping_host(session, &config, &door).await?;
    let asked = AskedBatch::of(request, &config, host.graph())?;
    let AskedBatch { asked, place, port, form, max_concurrency, on_item_error } = asked;
    let target = asked.target.clone();
    let shape = Shape::of(host.graph(), &asked.plan);
    let writing = shape.writing(host.graph(), &target, format, on_item_error)?;
    let opened = open(session, &place, &port).await?;
    let mut request = Request::new(target);
    for (port, value) in asked.values(session, host.graph()).await? {
        request = request.value(port, value);
    }
    if let Some(id) = execution_id {
        request = request.execution_id(id);
    }
    if let Some(timeout) = timeout.or(config.batch.timeout) {
        request = request.timeout(timeout);
    }
    let mut request = BatchRequest::new(request).items(port).on_item_error(on_item_error.into());
    // A path that is no text cannot stand in a record.
    let path = opened.regular.as_ref().and_then(|(path, _)| path.to_str());
    let by_name = form.format == ItemsFormat::of(&place);
    let again = path.map(|_| if by_name { "" } else { form.format.option() });
    if let Some(path) = path {
        request = request.source(ItemSource::File(path.to_owned()));
    }
    if let Some(most) = max_concurrency {
        let most = NonZeroUsize::try_from(most).unwrap_or(NonZeroUsize::MAX);
        request = request.max_concurrency(most);
    }

    let (items, taken) = opened.stream(form);
    let batch = host.batch(request, items).map_err(|error| refused(&error))?;
    let batching = Batching { batch, taken, writing, report, again };
    let shown = batching.carry(session, &door).await;
    settle(session, host, &door).await;
    shown
}
