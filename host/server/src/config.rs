//! Owns `docket.toml` as it is written: which keys there are, and what each may hold. Every fault
//! in a file is reported at once, with its line. Never applies anything to a host.

mod batch;
mod grants;
mod http;
mod section;
mod step;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use docket_graph::Port;
use docket_runtime::StepOptions;
use docket_store::StoreUrl;

use crate::args::duration;
use crate::error::CliError;
use crate::exit::Exit;
use crate::input::InputArg;
pub(crate) use batch::BatchConfig;
use grants::Surroundings;
pub(crate) use grants::{Environment, ModuleConfig};
use http::HttpConfig;
use section::{File, Section};
use step::{CapsConfig, StepConfig, step_defaults};

/// The name of the file that is looked for.
pub(crate) const FILE_NAME: &str = "docket.toml";

/// The shortest lease that can be set. 1 s: a shorter one lapses while a busy machine is still at it.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// Why there are no grants among the defaults.
const NO_DEFAULT_GRANTS: &str = "it would reach every module, also those that come later; \
     grant to a step as `[step.NAME]` or to a module as `[module.\"NAME.wasm\"]`";

/// Why instances are not used again by default.
const NO_DEFAULT_INSTANCE: &str = "it would reach every module, also those that come later; \
     set it for a step whose module you trust, as `[step.NAME]`";

/// What stands before the directory at the end of settings that are kept.
const BESIDE: &str = "# The directory that this was read in: ";

/// The word for a retention without an end.
const FOR_EVER: &str = "forever";

/// What a `docket.toml` says; nothing where there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Config {
    /// Where it was read; none where there is no file.
    pub(crate) path: Option<PathBuf>,
    /// The whole text, to be kept with executions that may be resumed.
    pub(crate) text: Option<String>,
    /// `[run]`
    pub(crate) run: RunConfig,
    /// `[batch]`
    pub(crate) batch: BatchConfig,
    /// `[defaults]`
    pub(crate) defaults: StepOptions,
    /// `[step.NAME]`, by name.
    pub(crate) steps: BTreeMap<String, StepConfig>,
    /// `[module."NAME"]`, in the order of the names.
    pub(crate) modules: Vec<ModuleConfig>,
    /// `[caps]`
    pub(crate) caps: CapsConfig,
    /// `[host] max-instances`
    pub(crate) max_instances: Option<usize>,
    /// `[host] max-stack`
    pub(crate) max_stack: Option<u64>,
    /// `[http]`
    pub(crate) http: HttpConfig,
    /// `[store]`
    pub(crate) store: StoreConfig,
}

/// Where results and executions are kept, and for how long.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StoreConfig {
    pub(crate) url: Option<StoreUrl>,
    /// For how long an execution that has ended is remembered.
    pub(crate) retention: Option<Duration>,
    /// How long a claim holds when it is not renewed.
    pub(crate) lease: Option<Duration>,
}

/// The default request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunConfig {
    pub(crate) output: Option<Port>,
    pub(crate) inputs: Vec<InputArg>,
    pub(crate) timeout: Option<Duration>,
}

impl Config {
    /// Reads the file that was named, or the one in the directory if it is there.
    ///
    /// # Errors
    /// Where a named file cannot be read, and every fault in the file.
    pub(crate) fn load(named: Option<&Path>, dir: &Path) -> Result<Self, CliError> {
        let path = named.map_or_else(|| dir.join(FILE_NAME), Path::to_owned);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(path, &text, &Environment::of_process()),
            Err(error)
                if named.is_none()
                    && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Ok(Self::default())
            }
            Err(error) => {
                // A name that was mistyped is bad input; a file that is there and cannot be read is not.
                let mistyped = named.is_some() && error.kind() == ErrorKind::NotFound;
                let exit = if mistyped { Exit::Usage } else { Exit::Configuration };
                let sentence = format!("the configuration `{}` cannot be read", path.display());
                Err(CliError::new(exit, sentence).caused_by(&error))
            }
        }
    }

    /// Reads the text of the file of this name.
    ///
    /// # Errors
    /// Every fault in it.
    pub(crate) fn parse(path: PathBuf, text: &str, environment: &Environment) -> Result<Self, CliError> {
        let beside = path.parent().unwrap_or(Path::new("")).to_owned();
        Self::parse_beside(path, &beside, text, environment)
    }

    /// Reads what was kept with an execution, under this name.
    ///
    /// # Errors
    /// Every fault in it.
    pub(crate) fn parse_kept(
        name: &str,
        settings: &str,
        environment: &Environment,
    ) -> Result<Self, CliError> {
        let place = settings.lines().next_back().and_then(|line| line.strip_prefix(BESIDE));
        Self::parse_beside(name.into(), Path::new(place.unwrap_or_default()), settings, environment)
    }

    /// Returns what is kept with an execution, to set a host up in the same way later: the text, with the
    /// store's address in the form without its password, and the directory that it was read in.
    pub(crate) fn settings(&self) -> Option<String> {
        let (path, text) = (self.path.as_deref()?, self.text.as_deref()?);
        let beside = std::path::absolute(path).ok()?;
        let beside = beside.parent().unwrap_or(Path::new("/")).display();
        Some(format!("{}\n{BESIDE}{beside}\n", without_store(text)))
    }

    fn parse_beside(
        path: PathBuf,
        beside: &Path,
        text: &str,
        environment: &Environment,
    ) -> Result<Self, CliError> {
        let file = File::new(&path, text);
        let mut config = Self::default();
        if let Some(mut root) = file.root() {
            let around = Surroundings { beside, environment };
            let mut asks = Vec::new();
            config.run = root.section("run", |section| run(section, beside)).unwrap_or_default();
            config.batch = root.section("batch", |section| batch::batch(section, beside)).unwrap_or_default();
            let defaults = |section: &mut Section<'_, '_>| {
                section.refuse("grants", NO_DEFAULT_GRANTS);
                section.refuse("instance", NO_DEFAULT_INSTANCE);
                step_defaults(section)
            };
            config.defaults = root.section("defaults", defaults).unwrap_or_default();
            let steps = |section: &mut Section<'_, '_>| step::steps(section, &around, &mut asks);
            config.steps = root.section("step", steps).unwrap_or_default();
            let modules = |section: &mut Section<'_, '_>| grants::modules(section, &around, &mut asks);
            config.modules = root.section("module", modules).unwrap_or_default();
            let (caps, bounds) =
                root.section("caps", |section| step::caps(section, beside)).unwrap_or_default();
            config.caps = caps;
            if let Some(bounds) = bounds {
                bounds.hold(&asks, &file);
            }
            let host = |host: &mut Section<'_, '_>| (host.count("max-instances"), host.size("max-stack"));
            let (most, stack) = root.section("host", host).unwrap_or_default();
            config.max_instances = most.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
            config.max_stack = stack;
            config.http = root.section("http", |section| http::http(section, beside)).unwrap_or_default();
            config.store = root.section("store", |section| store(section, beside)).unwrap_or_default();
            root.finish();
        }
        let faults = file.into_faults();
        if !faults.is_empty() {
            let place = format!("`{}`", path.display());
            return Err(CliError::of_faults(Exit::Configuration, &place, &faults));
        }
        Ok(Self { path: Some(path), text: Some(text.to_owned()), ..config })
    }
}

fn run(section: &mut Section<'_, '_>, beside: &Path) -> RunConfig {
    RunConfig {
        output: section.parsed("output", Port::parse),
        inputs: section
            .list("input", InputArg::parse)
            .unwrap_or_default()
            .into_iter()
            .map(|input| input.beside(beside))
            .collect(),
        timeout: section.duration("timeout"),
    }
}

fn store(section: &mut Section<'_, '_>, beside: &Path) -> StoreConfig {
    // A place that the configuration names lies beside it, wherever the command is called.
    let url = section.parsed("url", StoreUrl::parse).map(|url| match url {
        StoreUrl::Sled(path) => StoreUrl::Sled(beside.join(path)),
        StoreUrl::Sqlite(path) => StoreUrl::Sqlite(beside.join(path)),
        url @ (StoreUrl::Memory | StoreUrl::Postgres(_) | StoreUrl::Mysql(_) | StoreUrl::Redis(_)) => url,
    });
    let retention = |text: &str| match text {
        FOR_EVER => Ok(Duration::MAX),
        text => duration(text).map_err(|error| format!("{error}, or `{FOR_EVER}`")),
    };
    let lease = |text: &str| match duration(text)? {
        lease if lease < SHORTEST_LEASE => Err("it must be at least 1s".to_owned()),
        lease => Ok(lease),
    };
    StoreConfig {
        url,
        retention: section.parsed("retention", retention),
        lease: section.parsed("lease", lease),
    }
}

/// Returns the text with the store's address in the form that shows no password. Whoever resumes names
/// the store anyway.
fn without_store(text: &str) -> String {
    let Ok(table) = toml::de::DeTable::parse(text) else { return text.to_owned() };
    let store = table.get_ref().get("store").and_then(|store| store.get_ref().get("url"));
    let Some((url, span)) = store.and_then(|url| Some((url.get_ref().as_str()?, url.span()))) else {
        return text.to_owned();
    };
    match StoreUrl::parse(url) {
        Ok(parsed @ (StoreUrl::Postgres(_) | StoreUrl::Mysql(_) | StoreUrl::Redis(_))) => {
            let shown = toml::Value::String(parsed.to_string());
            format!("{}{shown}{}", &text[..span.start], &text[span.end..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
