//! Owns `docket.toml` as it is written: which keys there are, and what each may hold. Every fault
//! in a file is reported at once, with its line. Never applies anything to a host.

mod section;
mod grants;
mod batch;
mod http;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use docket_graph::{Backoff, FailureClass, Growth, Jitter, Match, Persistence, Port, Reclassify, Scope};
use docket_runtime::{Instance, Keeping, OnStoreError, RetryOptions, StepOptions};
use docket_store::StoreUrl;

use crate::args::duration;
use crate::error::CliError;
use crate::exit::Exit;
use crate::input::InputArg;
pub(crate) use batch::BatchConfig;
use grants::{Ask, Surroundings};
pub(crate) use grants::{Environment, ModuleConfig};
use http::HttpConfig;
use section::{File, Section};

/// The name of the file that is looked for.
pub(crate) const FILE_NAME: &str = "docket.toml";

/// The base of exponential growth where none is given: each delay is twice the one before.
const DEFAULT_FACTOR: f64 = 2.0;

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

/// What is set for one step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StepConfig {
    /// Where it is set, for messages.
    pub(crate) line: usize,
    pub(crate) options: StepOptions,
}

/// Bounds on declarations and options.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CapsConfig {
    pub(crate) timeout: Option<Duration>,
    pub(crate) memory: Option<u64>,
    pub(crate) output: Option<u64>,
    pub(crate) logs: Option<u64>,
    pub(crate) log_lines: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) dir_bytes: Option<u64>,
    pub(crate) cpu: Option<Duration>,
    pub(crate) http_requests: Option<u64>,
    pub(crate) http_bytes: Option<u64>,
    pub(crate) http_concurrent: Option<u64>,
    pub(crate) fuel: Option<u64>,
    pub(crate) table_elements: Option<u64>,
    pub(crate) max_attempts: Option<NonZeroU32>,
    pub(crate) instance: Option<Instance>,
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
            let steps = |section: &mut Section<'_, '_>| steps(section, &around, &mut asks);
            config.steps = root.section("step", steps).unwrap_or_default();
            let modules = |section: &mut Section<'_, '_>| grants::modules(section, &around, &mut asks);
            config.modules = root.section("module", modules).unwrap_or_default();
            let (caps, bounds) = root.section("caps", |section| caps(section, beside)).unwrap_or_default();
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

fn steps(
    section: &mut Section<'_, '_>,
    around: &Surroundings<'_>,
    asks: &mut Vec<Ask>,
) -> BTreeMap<String, StepConfig> {
    let mut steps = BTreeMap::new();
    for name in section.names() {
        let read = |step: &mut Section<'_, '_>| StepConfig {
            line: step.line(),
            options: StepOptions {
                config: step.section("config", step_config),
                grants: grants::grants(step, around, asks),
                instance: instance(step),
                ..step_defaults(step)
            },
        };
        if let Some(step) = section.section(&name, read) {
            steps.insert(name, step);
        }
    }
    steps
}

fn instance(section: &mut Section<'_, '_>) -> Option<Instance> {
    const INSTANCES: [(&str, Instance); 2] = [("fresh", Instance::Fresh), ("reuse", Instance::Reuse)];
    section.parsed("instance", |text| section::choice(text, &INSTANCES))
}

/// Reads what can be set for all steps at once: everything but what is for the modules of single steps.
fn step_defaults(section: &mut Section<'_, '_>) -> StepOptions {
    StepOptions {
        timeout: section.duration("timeout"),
        memory: section.size("memory"),
        table_elements: section.count("table-elements"),
        output: section.size("output-size"),
        logs: section.size("log-size"),
        log_lines: section.count("log-lines"),
        open_files: section.count("open-files"),
        dir_bytes: section.size("dir-bytes"),
        cpu: section.duration("cpu"),
        http_requests: section.count("http-requests"),
        http_bytes: section.size("http-bytes"),
        http_concurrent: section.count("http-concurrent"),
        fuel: section.count("fuel"),
        retry: section.section("retry", retry).unwrap_or_default(),
        max_concurrency: section.count_u32("max-concurrency"),
        config: None,
        grants: None,
        persistence: section.section_or_off("persistence", persistence).and_then(|keep| match keep {
            Some(persistence) => persistence.map(Keeping::On),
            None => Some(Keeping::Off),
        }),
        on_store_error: section.parsed("on-store-error", |text| section::choice(text, &ON_STORE_ERROR)),
        instance: None,
    }
}

const ON_STORE_ERROR: [(&str, OnStoreError); 2] = [("fail", OnStoreError::Fail), ("run", OnStoreError::Run)];

fn persistence(section: &mut Section<'_, '_>) -> Option<Persistence> {
    const SCOPES: [(&str, Scope); 2] = [("workflow", Scope::Workflow), ("global", Scope::Global)];
    let scope = section.parsed("scope", |text| section::choice(text, &SCOPES));
    let ttl = section.duration("ttl");
    section.require(["scope"]);
    Some(Persistence { scope: scope?, ttl })
}

fn step_config(section: &mut Section<'_, '_>) -> BTreeMap<String, String> {
    let names = section.names();
    names.into_iter().filter_map(|name| section.text(&name).map(|text| (name, text))).collect()
}

fn retry(section: &mut Section<'_, '_>) -> RetryOptions {
    let jitter = |jitter| if jitter { Jitter::Full } else { Jitter::None };
    let codes = section.section("codes", |section| rules(section, code));
    let kinds = section.section("kinds", |section| {
        let rules = rules(section, kind);
        if rules.always.contains(&Match::Class(FailureClass::Abort)) {
            section.fault("`abort` cannot be tried again: it stops the whole execution");
        }
        rules
    });
    let reclassify = match (codes, kinds) {
        (None, None) => None,
        (codes, kinds) => {
            let (mut codes, kinds) = (codes.unwrap_or_default(), kinds.unwrap_or_default());
            codes.always.extend(kinds.always);
            codes.never.extend(kinds.never);
            Some(codes)
        }
    };
    RetryOptions {
        max_attempts: section.count_u32("max-attempts"),
        backoff: section.section("backoff", backoff).flatten(),
        jitter: section.boolean("jitter").map(jitter),
        reclassify,
    }
}

fn rules<E: ToString>(section: &mut Section<'_, '_>, rule: fn(&str) -> Result<Match, E>) -> Reclassify {
    Reclassify {
        always: section.list("always", rule).unwrap_or_default(),
        never: section.list("never", rule).unwrap_or_default(),
    }
}

fn code(text: &str) -> Result<Match, &'static str> {
    if text.is_empty() { Err("a code is not empty") } else { Ok(Match::Code(text.into())) }
}

fn kind(text: &str) -> Result<Match, String> {
    use FailureClass::*;
    const KINDS: [(&str, FailureClass); 19] = [
        ("retryable", Retryable),
        ("permanent", Permanent),
        ("abort", Abort),
        ("timeout", Timeout),
        ("cpu", Cpu),
        ("trap", Trap),
        ("stack", Stack),
        ("exit", Exit),
        ("fuel", Fuel),
        ("memory", Memory),
        ("table", Table),
        ("output", Output),
        ("logs", Logs),
        ("files", Files),
        ("grant", Grant),
        ("http", Http),
        ("answer", Answer),
        ("store", Store),
        ("internal", Internal),
    ];
    section::choice(text, &KINDS).map(Match::Class)
}

fn backoff(section: &mut Section<'_, '_>) -> Option<Backoff> {
    const GROWTHS: [(&str, Growth); 3] =
        [("fixed", Growth::Fixed), ("linear", Growth::Linear), ("exponential", Growth::Exponential)];
    let growth = section.parsed("growth", |text| section::choice(text, &GROWTHS));
    let initial = section.duration("initial");
    let factor = section.parsed_number("factor", |factor| {
        let fits = factor.is_finite() && factor >= 1.0;
        if fits { Ok(factor) } else { Err("it must be a number of at least 1") }
    });
    let max = section.duration("max");
    section.require(["growth", "initial"]);
    Some(Backoff { growth: growth?, initial: initial?, factor: factor.unwrap_or(DEFAULT_FACTOR), max })
}

fn caps(section: &mut Section<'_, '_>, beside: &Path) -> (CapsConfig, Option<grants::Bounds>) {
    let bounds = grants::bounds(section, beside);
    let caps = CapsConfig {
        timeout: section.duration("timeout"),
        memory: section.size("memory"),
        output: section.size("output-size"),
        logs: section.size("log-size"),
        log_lines: section.count("log-lines"),
        open_files: section.count("open-files"),
        dir_bytes: section.size("dir-bytes"),
        cpu: section.duration("cpu"),
        http_requests: section.count("http-requests"),
        http_bytes: section.size("http-bytes"),
        http_concurrent: section.count("http-concurrent"),
        fuel: section.count("fuel"),
        table_elements: section.count("table-elements"),
        max_attempts: section.count_u32("max-attempts"),
        instance: instance(section),
    };
    (caps, bounds)
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
mod tests {
    use docket_runtime::{Circumstance, GrantOptions, SecretSource};

    use super::*;
    use crate::args::{ItemsFormat, OnItemErrorArg};
    use crate::input::{InputSource, Place};

    fn parse(text: &str) -> Result<Config, String> {
        let environment = Environment::of([("REGION", "eu"), ("AWS_A", "1"), ("AWS_B", "2")]);
        Config::parse("dir/docket.toml".into(), text, &environment).map_err(|error| error.sentence())
    }

    /// Each text has exactly these faults, in this order.
    fn check(text: &str, faults: &[&str]) {
        let found = parse(text).expect_err(text);
        let expected: Vec<_> = faults.iter().map(|fault| format!("dir/docket.toml:{fault}")).collect();
        match &expected[..] {
            [fault] => assert_eq!(found, *fault),
            faults => {
                let heading = format!("{} faults in `dir/docket.toml`:", faults.len());
                assert_eq!(found, [&[heading], faults].concat().join("\n  "));
            }
        }
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            r#"
            run = { output = "a.B#c", input = ['{}', 'a.A=@in.json'], timeout = "1m" }
            defaults = { timeout = "5s", memory = "256MiB", output-size = "16 MiB", log-size = "1kB" }
            caps = { timeout = "1h", memory = "1GiB", output-size = "2B", log-size = "3B", table-elements = 4, max-attempts = 5, log-lines = 6, open-files = 7, dir-bytes = "8B", cpu = "9s", fuel = 10, http-requests = 11, http-bytes = "12B", http-concurrent = 13, instance = "fresh" }
            host = { max-instances = 6, max-stack = "2MiB" }
            batch = { items = "in.pb", items-format = "json", items-port = "a.A", shared = ['a.C=@c.json'], output = "a.B", max-concurrency = 8, on-item-error = "continue", timeout = "2m" }
            store = { url = "sled:.docket", retention = "7d", lease = "10s" }
            [step.B]
            persistence = false
            on-store-error = "fail"
            [step.A]
            persistence = { scope = "global", ttl = "1h" }
            on-store-error = "run"
            table-elements = 100_000
            fuel = 1_000_000_000
            max-concurrency = 4
            instance = "reuse"
            config = { word = "x", number = 0x1F, real = 1.50, truth = true }
            [step.A.retry]
            max-attempts = 3
            backoff = { growth = "exponential", initial = "100ms", factor = 3, max = "5s" }
            jitter = true
            codes = { never = ["card_declined"] }
            kinds = { always = ["trap"], never = ["timeout"] }
            "#,
        )
        .unwrap();
        assert_eq!(config.run.output, Some(Port::parse("a.B#c").unwrap()));
        assert_eq!(config.run.inputs[1].source, InputSource::File("dir/in.json".into()));
        assert_eq!(config.run.timeout, Some(Duration::from_secs(60)));
        let BatchConfig {
            items,
            items_format,
            items_port,
            shared,
            output,
            max_concurrency,
            on_item_error,
            timeout,
        } = config.batch;
        assert_eq!(items, Some(Place::File("dir/in.pb".into())));
        assert_eq!((items_format, items_port), (Some(ItemsFormat::Json), Some(Port::parse("a.A").unwrap())));
        assert_eq!(shared[0].source, InputSource::File("dir/c.json".into()));
        assert_eq!((output, max_concurrency), (Some(Port::parse("a.B").unwrap()), NonZeroU32::new(8)));
        let policy = Some(OnItemErrorArg::Continue);
        assert_eq!((on_item_error, timeout), (policy, Some(Duration::from_secs(120))));
        assert_eq!(config.defaults.memory, Some(256 << 20));
        assert_eq!((config.defaults.output, config.defaults.logs), (Some(16 << 20), Some(1000)));
        let CapsConfig {
            timeout,
            memory,
            output,
            logs,
            log_lines,
            open_files,
            dir_bytes,
            cpu,
            http_requests,
            http_bytes,
            http_concurrent,
            fuel,
            table_elements,
            max_attempts,
            instance,
        } = config.caps;
        assert_eq!(
            (instance, config.steps["A"].options.instance),
            (Some(Instance::Fresh), Some(Instance::Reuse))
        );
        assert_eq!((log_lines, open_files, dir_bytes), (Some(6), Some(7), Some(8)));
        assert_eq!((cpu, fuel), (Some(Duration::from_secs(9)), Some(10)));
        assert_eq!((http_requests, http_bytes, http_concurrent), (Some(11), Some(12), Some(13)));
        assert_eq!(config.max_stack, Some(2 << 20));
        assert_eq!((timeout, memory), (Some(Duration::from_secs(3600)), Some(1 << 30)));
        assert_eq!((output, logs, table_elements), (Some(2), Some(3), Some(4)));
        assert_eq!((max_attempts, config.max_instances), (NonZeroU32::new(5), Some(6)));
        let StepConfig { line, options } = &config.steps["A"];
        assert_eq!(*line, 11);
        let keep = Persistence { scope: Scope::Global, ttl: Some(Duration::from_secs(3600)) };
        assert_eq!(options.persistence, Some(Keeping::On(keep)));
        assert_eq!(options.on_store_error, Some(OnStoreError::Run));
        let other = &config.steps["B"].options;
        assert_eq!((other.persistence, other.on_store_error), (Some(Keeping::Off), Some(OnStoreError::Fail)));
        assert_eq!(config.defaults.persistence, None);
        let StoreConfig { url, retention, lease } = &config.store;
        assert_eq!(*url, Some(StoreUrl::Sled("dir/.docket".into())));
        assert_eq!((retention.unwrap().as_secs(), lease.unwrap().as_secs()), (7 * 24 * 3600, 10));
        assert_eq!((options.table_elements, options.fuel), (Some(100_000), Some(1_000_000_000)));
        assert_eq!(options.max_concurrency, NonZeroU32::new(4));
        let config = [("number", "0x1F"), ("real", "1.50"), ("truth", "true"), ("word", "x")];
        let config = config.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(options.config, Some(BTreeMap::from(config)));
        let RetryOptions { max_attempts, backoff, jitter, reclassify } = options.retry.clone();
        assert_eq!((max_attempts, jitter), (NonZeroU32::new(3), Some(Jitter::Full)));
        let backoff = backoff.unwrap();
        assert_eq!((backoff.growth, backoff.factor), (Growth::Exponential, 3.0));
        assert_eq!((backoff.initial.as_millis(), backoff.max), (100, Some(Duration::from_secs(5))));
        let reclassify = reclassify.unwrap();
        assert_eq!(reclassify.always, [Match::Class(FailureClass::Trap)]);
        let never = [Match::Code("card_declined".into()), Match::Class(FailureClass::Timeout)];
        assert_eq!(reclassify.never, never);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one_and_all_faults_come_at_once() {
        check("[batch]\nitmes = '-'\n", &["2: unknown key `itmes` in `batch`; did you mean `items`?"]);
        check("[run]\noutptu = 'a.B'\n", &["2: unknown key `outptu` in `run`; did you mean `output`?"]);
        check(
            "[stpe.A]\n[step.B]\ntimout = '1s'\nretry = { max-attempt = 1 }\n[defaults]\nconfig = {}\n",
            &[
                "1: unknown key `stpe`; did you mean `step`?",
                "3: unknown key `timout` in `step.B`; did you mean `timeout`?",
                "4: unknown key `max-attempt` in `step.B.retry`; did you mean `max-attempts`?",
                "6: unknown key `config` in `defaults`",
            ],
        );
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_with_what_is_wanted() {
        let zero = "must be more than zero";
        check("defaults.timeout = '0s'", &["1: `defaults.timeout` is wrong: it must be longer than zero"]);
        check("defaults.memory = '0MiB'", &[&format!("1: `defaults.memory` {zero}")]);
        check("defaults.fuel = 0", &[&format!("1: `defaults.fuel` {zero}")]);
        check("defaults.retry.max-attempts = 0", &[&format!("1: `defaults.retry.max-attempts` {zero}")]);
        check(
            "defaults.instance = 'reuse'",
            &[
                "1: `defaults.instance` cannot be set: it would reach every module, also those that come later; set it for a step whose module you trust, as `[step.NAME]`",
            ],
        );
        check(
            "[step.A]\ninstance = 'reused'",
            &["2: `step.A.instance` is wrong: `reused` is unknown; did you mean `reuse`?"],
        );
        check(
            "defaults.max-concurrency = -1",
            &["1: `defaults.max-concurrency` is too small or too large: -1"],
        );
        check("defaults.timeout = 5", &["1: `defaults.timeout` must be a string, not an integer"]);
        check(
            "defaults.memory = '5 MiBs'",
            &["1: `defaults.memory` is wrong: `5 MiBs` is not a size; write it like `256MiB` or `1GB`"],
        );
        check(
            "defaults.retry.kinds.always = ['trpa', 'abort']",
            &[
                "1: `defaults.retry.kinds.always` is wrong: `trpa` is unknown; did you mean `trap`?",
                "1: in `defaults.retry.kinds`: `abort` cannot be tried again: it stops the whole execution",
            ],
        );
        check(
            "[defaults.retry]\nbackoff = { initial = '1s', factor = 0.5 }",
            &[
                "2: `defaults.retry.backoff.factor` is wrong: it must be a number of at least 1",
                "2: `defaults.retry.backoff` needs `growth`",
            ],
        );
        check("step = 1", &["1: `step` must be a table, not an integer"]);
        check(
            "[step.A]\nconfig = { x = [] }",
            &["2: `step.A.config.x` must be a string, a number or a boolean, not an array"],
        );
    }

    #[test]
    fn grants_are_read_with_the_environment_and_the_directories_around_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("data/in")).unwrap();
        let text = "[step.A]\ngrants = { env = ['REGION', 'AWS_*'], dir = ['ro:data/in', 'rw:data=/out'], \
                    http = ['GET https://a.example.com/v1'], secrets = { KEY = 'env:KEY', FILE = { from = 'file:f', hosts = ['a.example.com'] } }, \
                    clock = 'real', random = 'virtual' }\n[module.'a*.wasm']\ngrants.env = { REGION = 'us', N = 7 }\n";
        let environment = Environment::of([("REGION", "eu"), ("AWS_A", "1"), ("AWS_B", "2"), ("HOME", "/")]);
        let config = Config::parse(dir.path().join("docket.toml"), text, &environment).unwrap();
        let grants = config.steps["A"].options.grants.clone().unwrap();
        let env: Vec<_> =
            grants.env.as_ref().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["AWS_A=1", "AWS_B=2", "REGION=eu"]);
        let root = dir.path().canonicalize().unwrap();
        let dirs: Vec<_> = grants.dirs.as_ref().unwrap().iter().map(ToString::to_string).collect();
        let expected = [
            format!("ro:{}=/in", root.join("data/in").display()),
            format!("rw:{}=/out", root.join("data").display()),
        ];
        assert_eq!(dirs, expected);
        assert_eq!(grants.http.unwrap().len(), 1);
        let secrets = grants.secrets.unwrap();
        let file = SecretSource::File(dir.path().join("f"));
        assert_eq!((&secrets["FILE"].from, secrets["FILE"].hosts.as_ref().unwrap().len()), (&file, 1));
        assert_eq!(secrets["KEY"].hosts, None);
        assert_eq!((grants.clock, grants.random), (Some(Circumstance::Real), Some(Circumstance::Virtual)));
        let ModuleConfig { line, pattern, grants } = &config.modules[0];
        assert_eq!((*line, pattern.as_str()), (3, "a*.wasm"));
        let env = BTreeMap::from(
            [("N", "7"), ("REGION", "us")].map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        assert_eq!(*grants, GrantOptions { env: Some(env), ..GrantOptions::default() });
    }

    #[test]
    fn what_is_wrong_about_grants_comes_at_once_with_what_to_do() {
        check(
            "[defaults]\ngrants = { clock = 'real' }\n[step.A]\ngrants = { env = ['REGIONS', 'A=B'], dir = ['data',\n\
             'ro:nowhere', 'ro:/'], clock = 'rael', config = {}, htpp = [], http = ['GET ftp://x'] }\n[module.'b.wasm']\n\
             grant = {}\n[module.'c.wasm']\ngrants = { secrets = { '7' = 'env:X', Y = 'verbatim', Z = {} }, dir = ['ro:/=/x', 'rw:/=/x'] }\n",
            &[
                "2: `defaults.grants` cannot be set: it would reach every module, also those that come later; grant to a step as `[step.NAME]` or to a module as `[module.\"NAME.wasm\"]`",
                "4: `step.A.grants.env` is wrong: `A=B` is not a name; it must not be empty, nor hold `=`",
                "4: `step.A.grants.env` is wrong: `REGIONS` is not set in the environment of this process; set it, or write `env = { REGIONS = \"…\" }`",
                "4: `step.A.grants.dir` is wrong: `data` is not a directory with an access; write `ro:PATH` or `rw:PATH`",
                "5: `step.A.grants.http` is wrong: `GET ftp://x` is not a rule for HTTP requests: `ftp` is not a scheme of HTTP; use `http` or `https`",
                "5: `step.A.grants.dir` is wrong: the directory `dir/nowhere` cannot be used: No such file or directory (os error 2)",
                "5: `step.A.grants.dir` is wrong: `ro:/` has no name for the guest to find it under; write `ro:/=/NAME`",
                "5: `step.A.grants.clock` is wrong: `rael` is unknown; did you mean `real`?",
                "5: `step.A.grants.config` cannot be set: write `config` beside `grants`; to set it is to grant it",
                "5: unknown key `htpp` in `step.A.grants`; did you mean `http`?",
                "6: `module.b.wasm` needs `grants`",
                "7: unknown key `grant` in `module.b.wasm`; did you mean `grants`?",
                "9: `module.c.wasm.grants.secrets.7` is wrong: `7` is not a name for a secret; use letters, digits and `_`, not a digit first",
                "9: `module.c.wasm.grants.secrets.Y` is wrong: where a secret comes from is written `env:NAME` or `file:PATH`",
                "9: `module.c.wasm.grants.secrets.Z` needs `from`",
                "9: `module.c.wasm.grants.dir` is wrong: the guest would find two directories at `/x`; write one as `rw:PATH=/OTHER`",
            ],
        );
    }

    #[test]
    fn a_grant_outside_the_caps_is_refused_with_both_lines() {
        let asked = "[step.A]\ngrants.http = ['GET https://a.example.com/v1']\ngrants.env = ['REGION']\n\
                     grants.dir = ['ro:/usr/bin']\ngrants.clock = 'real'\ngrants.random = 'real'\n\
                     grants.secrets.KEY = 'env:KEY'\n";
        assert!(parse(asked).is_ok(), "without caps for grants there is no bound");
        assert!(parse(&format!("{asked}[caps]\nmemory = '1GiB'\n")).is_ok());
        let wide = "[caps.grants]\nhttp = ['* https://*.example.com']\nenv = ['REG*']\ndir = ['/usr']\n\
                    clock = 'real'\nrandom = 'real'\nsecrets = ['*']\n";
        assert!(parse(&format!("{asked}{wide}")).is_ok());
        let narrow =
            "[caps.grants]\nhttp = ['GET https://b.example.com']\nenv = ['AWS_*']\ndir = ['/usr/lib']\n";
        check(
            &format!("{asked}{narrow}"),
            &[
                "2: `step.A.grants.http` grants `GET https://a.example.com/v1`, which `caps.grants.http` in line 9 does not allow",
                "3: `step.A.grants.env` grants `REGION`, which `caps.grants.env` in line 10 does not allow",
                "4: `step.A.grants.dir` grants `/usr/bin`, which `caps.grants.dir` in line 11 does not allow",
                "5: `step.A.grants.clock` grants `real`, which `caps.grants` in line 8 does not allow",
                "6: `step.A.grants.random` grants `real`, which `caps.grants` in line 8 does not allow",
                "7: `step.A.grants.secrets` grants `KEY`, which `caps.grants` in line 8 does not allow",
            ],
        );
        check(
            "[module.a]\ngrants = { clock = 'real' }\n[caps.grants]\n",
            &["2: `module.a.grants.clock` grants `real`, which `caps.grants` in line 3 does not allow"],
        );
    }

    #[test]
    fn what_is_kept_to_resume_has_no_password_and_finds_its_directories_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let text = "# a\nstore.url = \"postgres://me:hunter2@host/db?application_name=x&password=hunter2\"\n\
                    [step.A]\ngrants.dir = ['ro:data']\ntimeout = '5s'";
        let none = Environment::default();
        let config = Config::parse(dir.path().join("docket.toml"), text, &none).unwrap();
        let settings = config.settings().unwrap();
        assert!(!settings.contains("hunter2") && settings.contains("me:***@host"), "{settings}");
        let kept = Config::parse_kept("the kept one", &settings, &none).unwrap();
        assert_eq!((kept.steps, kept.caps), (config.steps, config.caps));
        assert_eq!(Config::default().settings(), None);
        let older = Config::parse_kept("the kept one", "[step.A]\ntimeout = '5s'\n", &none).unwrap();
        assert_eq!(older.steps["A"].options.timeout, Some(Duration::from_secs(5)));
    }

    #[test]
    fn what_is_wrong_about_keeping_comes_at_once_with_what_was_meant() {
        check(
            "[defaults]\npersistence = true\non-store-error = 'rnu'\n[step.A]\npersistence = { ttl = '0s' }\n\
             [step.B]\npersistence = { scope = 'globl', tll = '1s' }\n\
             [store]\nurl = 'slde:x'\nretention = 'always'\nlease = '10ms'\nlaese = 1\n",
            &[
                "2: `defaults.persistence` must be a table or false, not true",
                "3: `defaults.on-store-error` is wrong: `rnu` is unknown; did you mean `run`?",
                "5: `step.A.persistence.ttl` is wrong: it must be longer than zero",
                "5: `step.A.persistence` needs `scope`",
                "7: `step.B.persistence.scope` is wrong: `globl` is unknown; did you mean `global`?",
                "7: unknown key `tll` in `step.B.persistence`; did you mean `ttl`?",
                "9: `store.url` is wrong: there is no store of the kind `slde`; did you mean `sled`?",
                "10: `store.retention` is wrong: expected number at 0; write it like `30s` or `1h 5m`, or `forever`",
                "11: `store.lease` is wrong: it must be at least 1s",
                "12: unknown key `laese` in `store`; did you mean `lease`?",
            ],
        );
    }

    #[test]
    fn a_place_is_beside_the_file_unless_it_is_absolute_and_nothing_else_is_a_place() {
        for (url, expected) in [
            ("sqlite:a.db", "sqlite:dir/a.db"),
            ("sled:/a", "sled:/a"),
            ("memory:", "memory:"),
            ("redis://host", "redis://host"),
        ] {
            let config = parse(&format!("store = {{ url = '{url}', retention = 'forever' }}")).unwrap();
            assert_eq!(config.store.url.unwrap().to_string(), expected);
            assert_eq!(config.store.retention, Some(Duration::MAX));
        }
    }

    #[test]
    fn bad_toml_is_refused_with_its_line() {
        let found = parse("[run]\noutput = \n").unwrap_err();
        assert!(found.starts_with("dir/docket.toml:2: "), "{found}");
    }

    #[test]
    fn no_file_is_no_fault_unless_it_was_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Config::load(None, dir.path()).unwrap(), Config::default());
        let named = dir.path().join("other.toml");
        let error = Config::load(Some(&named), dir.path()).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
    }
}
