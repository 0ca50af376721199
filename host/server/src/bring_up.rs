//! Owns the way from arguments and configuration to a host: as typed, as configured, as used.
//! Never runs a step.

use std::path::Path;
use std::sync::Arc;

use docket_runtime::{
    Artifacts, BuildError, Caps, DEFAULT_RETENTION, DEFAULT_STACK, Host, HostBuilder, HostOptions,
    LoadErrors, LoadFault, Observer,
};
use docket_store::LEASE;

use crate::args::GlobalArgs;
use crate::config::{Config, ModuleConfig};
use crate::error::CliError;
use crate::exit::Exit;
use crate::log::LogObserver;
use crate::nearest::meant;
use crate::session::Session;
use crate::store::{Door, TENANT};

/// The most guest instances of one command at once. 64: more than the steps of most graphs that can
/// run at once, and a pool that is quickly set up, because a command has but one execution.
const DEFAULT_INSTANCES: usize = 64;

/// Returns what the host is told.
pub(crate) fn options(args: &GlobalArgs, config: &Config) -> HostOptions {
    let caps = Caps::default();
    HostOptions {
        max_instances: config.max_instances.unwrap_or(DEFAULT_INSTANCES),
        max_stack: config.max_stack.unwrap_or(DEFAULT_STACK),
        artifacts: args.artifact_dir.clone().map_or(Artifacts::UserCache, Artifacts::Dir),
        defaults: config.defaults.clone(),
        modules: config
            .modules
            .iter()
            .map(|module| (module.pattern.clone(), module.grants.clone()))
            .collect(),
        steps: config.steps.iter().map(|(name, step)| (name.clone(), step.options.clone())).collect(),
        caps: Caps {
            timeout: config.caps.timeout.unwrap_or(caps.timeout),
            memory: config.caps.memory.unwrap_or(caps.memory),
            table_elements: config.caps.table_elements.unwrap_or(caps.table_elements),
            output: config.caps.output.unwrap_or(caps.output),
            logs: config.caps.logs.unwrap_or(caps.logs),
            log_lines: config.caps.log_lines.unwrap_or(caps.log_lines),
            open_files: config.caps.open_files.unwrap_or(caps.open_files),
            dir_bytes: config.caps.dir_bytes.unwrap_or(caps.dir_bytes),
            cpu: config.caps.cpu.or(caps.cpu),
            http_requests: config.caps.http_requests.unwrap_or(caps.http_requests),
            http_bytes: config.caps.http_bytes.unwrap_or(caps.http_bytes),
            http_concurrent: config.caps.http_concurrent.unwrap_or(caps.http_concurrent),
            fuel: config.caps.fuel.or(caps.fuel),
            max_attempts: config.caps.max_attempts.unwrap_or(caps.max_attempts),
            instance: config.caps.instance.unwrap_or(caps.instance),
        },
        tenant: TENANT.to_owned(),
        lease: config.store.lease.unwrap_or(LEASE),
        retention: config.store.retention.unwrap_or(DEFAULT_RETENTION),
        http: config.http.options(),
        settings: config.settings(),
        ..HostOptions::default()
    }
}

/// Returns a host of all modules, to look at or to run what keeps nothing.
pub(crate) async fn host(session: &mut Session, config: &Config) -> Result<Host, CliError> {
    let builder = builder(session, config).module_dir(session.args.module_dir());
    of_directory(session, config, builder).await
}

/// Returns a host of all modules that keeps results behind this door.
pub(crate) async fn keeping_host(
    session: &mut Session,
    config: &Config,
    door: &Door,
) -> Result<Host, CliError> {
    let builder = keeping(builder(session, config), door).module_dir(session.args.module_dir());
    of_directory(session, config, builder).await
}

/// Returns a host of these modules that keeps results behind this door.
pub(crate) async fn host_of(
    session: &mut Session,
    config: &Config,
    door: &Door,
    modules: Vec<(String, Arc<[u8]>)>,
) -> Result<Host, CliError> {
    let mut builder = keeping(builder(session, config), door);
    for (name, bytes) in modules {
        builder = builder.module(&name, bytes);
    }
    let build = async move { builder.build().await.map_err(|error| refused(error, "the kept modules")) };
    session.elsewhere(build).await
}

async fn of_directory(
    session: &mut Session,
    config: &Config,
    builder: HostBuilder,
) -> Result<Host, CliError> {
    let place = modules_of(session.args.module_dir());
    let build = async move { builder.build().await.map_err(|error| refused(error, &place)) };
    let host = session.elsewhere(build).await?;
    check_names(config, &host)?;
    Ok(host)
}

/// Returns a builder with whoever is to be told of what happens.
fn builder(session: &Session, config: &Config) -> HostBuilder {
    let progress = Arc::clone(&session.progress);
    let builder = Host::builder()
        .options(options(&session.args, config))
        .on_compile(move |module| progress.compiling(module));
    match observer(session) {
        Some(observer) => builder.observer(observer),
        None => builder,
    }
}

fn keeping(builder: HostBuilder, door: &Door) -> HostBuilder {
    let door = door.clone();
    builder.open_store(move || {
        let door = door.clone();
        async move { door.store().await }
    })
}

/// Returns how the modules of a directory are named in messages.
pub(crate) fn modules_of(dir: &Path) -> String {
    format!("the modules of `{}`", dir.display())
}

/// A host that nobody listens to works faster.
fn observer(session: &Session) -> Option<Arc<dyn Observer>> {
    let logged = session.args.verbose > 0 || session.args.log_filter.is_some();
    let log = logged.then(|| Arc::new(LogObserver) as Arc<dyn Observer>);
    let progress = session.progress.is_live().then(|| Arc::clone(&session.progress) as Arc<dyn Observer>);
    match (log, progress) {
        (Some(log), Some(progress)) => Some(Arc::new(vec![log, progress])),
        (log, progress) => log.or(progress),
    }
}

/// Returns how it is said that there is no host.
pub(crate) fn refused(error: BuildError, place: &str) -> CliError {
    match error {
        BuildError::Load(errors) => unloadable(&errors, place),
        BuildError::Instances(_)
        | BuildError::Stack(_)
        | BuildError::Artifacts(_)
        | BuildError::Engine(_) => CliError::of(Exit::Configuration, &error),
        // A reason of a later version of the runtime.
        other => CliError::of(Exit::Configuration, &other),
    }
}

/// Returns how it is said that modules cannot be loaded.
pub(crate) fn unloadable(errors: &LoadErrors, place: &str) -> CliError {
    let exit = if errors.0.iter().all(is_not_there) { Exit::Usage } else { Exit::Invalid };
    CliError::of_faults(exit, place, &errors.0)
}

/// What was named on the command line and is not there is bad input, not a bad module.
fn is_not_there(fault: &LoadFault) -> bool {
    match fault {
        LoadFault::Directory { source, .. } | LoadFault::Read { source, .. } => {
            source.kind() == std::io::ErrorKind::NotFound
        }
        _ => false,
    }
}

/// Checks that every step and module that is configured exists: a policy for one that was misspelt
/// would be obeyed by none.
fn check_names(config: &Config, host: &Host) -> Result<(), CliError> {
    let Some(path) = &config.path else { return Ok(()) };
    let (graph, modules) = (host.graph(), host.generation().modules());
    let unknown = |name: &&String| graph.find_step(name).is_none();
    let mut faults: Vec<_> = config
        .steps
        .keys()
        .filter(unknown)
        .map(|name| {
            let meant = meant(name, graph.steps().map(|(_, step)| step.name.as_str()));
            let line = config.steps[name].line;
            (line, format!("{}:{line}: no module has a step `{name}`{meant}", path.display()))
        })
        .collect();
    for ModuleConfig { line, pattern, .. } in &config.modules {
        if !modules.iter().any(|module| pattern.matches(&module.name, &module.digest)) {
            let meant = meant(pattern.as_str(), modules.iter().map(|module| &*module.name));
            faults.push((*line, format!("{}:{line}: there is no module `{pattern}`{meant}", path.display())));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    faults.sort();
    let faults: Vec<_> = faults.into_iter().map(|(_, fault)| fault).collect();
    Err(CliError::of_faults(Exit::Configuration, &format!("`{}`", path.display()), &faults))
}
