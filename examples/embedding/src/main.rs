//! A web service with Docket inside: no binary of Docket's, one handler, typed messages in and out.
//! Owns the process: arguments, the listener, and an orderly end. What a request asks for is in `users`.

mod users;

use std::future::IntoFuture as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use docket_graph::Port;
use docket_runtime::{Event, ExecutionId, Host, Observer};
use prost::Name as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::example::{EnrichedUser, UserId};

#[allow(missing_docs, unreachable_pub, reason = "generated from the proto file, which has the documentation")]
mod example {
    include!(concat!(env!("OUT_DIR"), "/example.v1.rs"));
}

/// Where the service listens unless told otherwise.
const ADDRESS: &str = "127.0.0.1:8080";

/// What executions under way get to end by themselves. 5 s: more than a request's deadline, less than
/// the 10 s after which a supervisor kills.
const DRAIN: Duration = Duration::from_secs(5);

/// What connections get to take their last answer, once nothing runs any more.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let modules = arguments.next().map_or_else(default_modules, PathBuf::from);
    let address = arguments.next().unwrap_or_else(|| ADDRESS.to_owned());

    let host = Host::builder()
        .module_dir(&modules)
        .observer(Arc::new(Log))
        .on_compile(|module| tracing::info!("compiling {module}"))
        .build()
        .await?;
    // Modules that cannot serve are noticed now and not by the first client.
    let port = |name: String| Port::new(&name, None);
    host.plan(&port(EnrichedUser::full_name())?, &[port(UserId::full_name())?])
        .with_context(|| format!("the modules in `{}` do not serve users", modules.display()))?;

    let listener =
        TcpListener::bind(&address).await.with_context(|| format!("cannot listen on `{address}`"))?;
    writeln!(std::io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    serve(host, listener).await
}

/// Serves until the process is asked to end. Then nothing new is taken, executions get [`DRAIN`] to
/// end and are stopped, and whoever waits for one still gets an answer.
async fn serve(host: Host, listener: TcpListener) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let service = axum::serve(listener, users::routes(host.clone()))
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    let mut service = pin!(service);
    tokio::select! {
        served = &mut service => return Ok(served?),
        asked = asked_to_end() => asked?,
    }
    stop.cancel();
    let answered = tokio::time::timeout(DRAIN + LAST_ANSWERS, service);
    let (drained, answered) = tokio::join!(host.shutdown(DRAIN), answered);
    tracing::info!("shut down: {drained:?}");
    match answered {
        Ok(served) => Ok(served?),
        Err(_) => anyhow::bail!("some clients did not take their answers in time"),
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn asked_to_end() -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Returns the demonstration modules: seen from the repository's root, or from this folder.
fn default_modules() -> PathBuf {
    let from_root = Path::new("guests");
    if from_root.is_dir() { from_root.to_owned() } else { PathBuf::from("../../guests") }
}

/// Writes to the log when an execution starts and how it ends.
struct Log;

impl Observer for Log {
    fn on_event(&self, execution: &ExecutionId, event: &Event<'_>) {
        match event {
            Event::ExecutionStarted { target, .. } => tracing::info!(%execution, "started: {target}"),
            Event::ExecutionEnded { elapsed, error } => {
                let ended = error.map_or_else(|| "done".to_owned(), ToString::to_string);
                tracing::info!(%execution, ?elapsed, "{ended}");
            }
            _ => {}
        }
    }
}
