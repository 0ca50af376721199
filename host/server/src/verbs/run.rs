//! `run`: computes what a request asks for, and writes the result.

use docket_runtime::Request;

use super::carrying::{carry, settle};
use crate::args::RunArgs;
use crate::bring_up;
use crate::error::CliError;
use crate::request::{Asked, refused};
use crate::session::Session;
use crate::store::{Door, Notice};

pub(super) async fn run(session: &mut Session, args: RunArgs) -> Result<(), CliError> {
    let RunArgs { request, execution_id, ending, store } = args;
    let config = session.config()?;
    let door = Door::of(&store, &config, Notice::Abandoned(execution_id.clone()))?;
    let host = bring_up::keeping_host(session, &config, &door).await?;
    let asked = Asked::of(request, &config, host.graph())?;
    let target = asked.target.clone();
    let mut request = Request::new(target.clone());
    for (port, value) in asked.values(session, host.graph()).await? {
        request = request.value(port, value);
    }
    if let Some(id) = execution_id {
        request = request.execution_id(id);
    }
    if let Some(timeout) = ending.timeout.or(config.run.timeout) {
        request = request.timeout(timeout);
    }

    let execution = host.start(request).map_err(|error| refused(&error))?;
    let shown = match carry(session, execution, &door, ending.report).await {
        Ok(carried) => carried.show(session, &host, &target, ending),
        Err(error) => Err(error),
    };
    settle(session, host, &door).await;
    shown
}
