//! `batch`: computes what a request asks for, for each of many items, and writes the results in their order.

use docket_runtime::Request;

use super::batching::Parts;
use super::carrying::settle;
use crate::args::BatchArgs;
use crate::bring_up;
use crate::error::CliError;
use crate::request::AskedBatch;
use crate::session::Session;
use crate::store::{Door, Notice};

pub(super) async fn batch(session: &mut Session, args: BatchArgs) -> Result<(), CliError> {
    let BatchArgs { request, execution_id, timeout, report, format, store } = args;
    let config = session.config()?;
    let door = Door::of(&store, &config, Notice::Abandoned(execution_id.clone()))?;
    session.progress.expect_items();
    let host = bring_up::keeping_host(session, &config, &door).await?;
    let AskedBatch { asked, items } = AskedBatch::of(request, &config, host.graph())?;
    let plan = asked.plan.clone();
    let mut request = Request::new(asked.target.clone());
    for (port, value) in asked.values(session, host.graph()).await? {
        request = request.value(port, value);
    }
    if let Some(id) = execution_id {
        request = request.execution_id(id);
    }
    if let Some(timeout) = timeout.or(config.batch.timeout) {
        request = request.timeout(timeout);
    }
    let batching = Parts { request, plan, items, format, report }.begin(session, &host).await?;
    let shown = batching.carry(session, &door).await;
    settle(session, host, &door).await;
    shown
}
