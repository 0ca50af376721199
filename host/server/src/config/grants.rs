//! Owns what `docket.toml` says of grants and of their bounds: reads both, looks up what they name in the
//! environment and among the directories, and compares them. Never reads a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use docket_runtime::{
    Circumstance, DirGrant, GrantCaps, GrantOptions, HostPattern, HttpRule, ModulePattern, NamePattern,
    SecretGrant, SecretName, SecretSource,
};

use super::section::{self, File, Section};

/// The variables of this process, as far as they are text; read once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Returns those of this process.
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    #[cfg(test)]
    pub(super) fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }
}

/// What grants are read with.
pub(super) struct Surroundings<'a> {
    /// The directory that relative paths are in.
    pub(super) beside: &'a Path,
    pub(super) environment: &'a Environment,
}

/// One grant as it was asked for, to be held against the bounds.
pub(super) struct Ask {
    line: usize,
    /// The key, with the names of all tables around it.
    place: String,
    what: Asked,
}

enum Asked {
    Http(HttpRule),
    Dir(DirGrant),
    Env(String),
    Secret(SecretName),
    Clock,
    Random,
}

/// The bounds, and where each stands.
pub(super) struct Bounds {
    line: usize,
    lines: BTreeMap<&'static str, usize>,
    caps: GrantCaps,
}

const CIRCUMSTANCES: [(&str, Circumstance); 2] =
    [("virtual", Circumstance::Virtual), ("real", Circumstance::Real)];

/// Reads the table `grants` of a step or a module.
pub(super) fn grants(
    section: &mut Section<'_, '_>,
    around: &Surroundings<'_>,
    asks: &mut Vec<Ask>,
) -> Option<GrantOptions> {
    section.section("grants", |section| {
        let mut ask = |line: usize, place: String, what: Asked| asks.push(Ask { line, place, what });
        let place = section.full_name("http");
        let http = section.items("http", str::parse::<HttpRule>);
        for (line, rule) in http.iter().flatten() {
            ask(*line, place.clone(), Asked::Http(rule.clone()));
        }
        let (line, place) = (section.line_of_key("env"), section.full_name("env"));
        let env = env(section, around.environment);
        for name in env.iter().flat_map(BTreeMap::keys) {
            ask(line, place.clone(), Asked::Env(name.clone()));
        }
        let (line, place) = (section.line_of_key("secrets"), section.full_name("secrets"));
        let secrets = section.section("secrets", |section| secrets(section, around.beside));
        for name in secrets.iter().flat_map(BTreeMap::keys) {
            ask(line, place.clone(), Asked::Secret(name.clone()));
        }
        for name in secrets.iter().flat_map(BTreeMap::keys) {
            if env.as_ref().is_some_and(|env| env.contains_key(name.as_str())) {
                let text =
                    format!("`{name}` is a secret too, whose placeholder stands in the variable of its name");
                section.fault_at(section.line_of_key("env"), "env", &text);
            }
        }
        let place = section.full_name("dir");
        let dirs = dirs(section, around.beside);
        for (line, dir) in dirs.iter().flatten() {
            ask(*line, place.clone(), Asked::Dir(dir.clone()));
        }
        let mut circumstance = |section: &mut Section<'_, '_>, key: &str, what: Asked| {
            let (line, place) = (section.line_of_key(key), section.full_name(key));
            let found = section.parsed(key, |text| section::choice(text, &CIRCUMSTANCES))?;
            if found == Circumstance::Real {
                ask(line, place, what);
            }
            Some(found)
        };
        let clock = circumstance(section, "clock", Asked::Clock);
        let random = circumstance(section, "random", Asked::Random);
        section.refuse("config", "write `config` beside `grants`; to set it is to grant it");
        let without_lines = |items: Vec<(usize, HttpRule)>| items.into_iter().map(|(_, rule)| rule).collect();
        GrantOptions {
            http: http.map(without_lines),
            secrets,
            env,
            dirs: dirs.map(|dirs| dirs.into_iter().map(|(_, dir)| dir).collect()),
            clock,
            random,
        }
    })
}

/// Reads names to look up in the environment, or names with their values.
fn env(section: &mut Section<'_, '_>, environment: &Environment) -> Option<BTreeMap<String, String>> {
    if section.has_table("env") {
        return section.section("env", |section| {
            let mut env = BTreeMap::new();
            for name in section.names() {
                let value = section.text(&name);
                if let Err(error) = name.parse::<NamePattern>() {
                    section.fault(&error.to_string());
                }
                env.extend(value.map(|value| (name, value)));
            }
            env
        });
    }
    let patterns = section.items("env", str::parse::<NamePattern>)?;
    let mut env = BTreeMap::new();
    for (line, pattern) in patterns {
        let matching = environment.0.iter().filter(|(name, _)| pattern.matches(name));
        env.extend(matching.map(|(name, value)| (name.clone(), value.clone())));
        if pattern.is_exact() && !environment.0.contains_key(pattern.as_str()) {
            let text = format!(
                "`{pattern}` is not set in the environment of this process; set it, or write `env = {{ {pattern} = \"…\" }}`"
            );
            section.fault_at(line, "env", &text);
        }
    }
    Some(env)
}

fn secrets(section: &mut Section<'_, '_>, beside: &Path) -> BTreeMap<SecretName, SecretGrant> {
    let source = |text: &str| {
        text.parse::<SecretSource>().map(|source| match source {
            // Absolute: the place is in the key of kept results, which must not depend on where a command is
            // called, nor change when an execution is resumed.
            SecretSource::File(path) => {
                let path = beside.join(path);
                SecretSource::File(std::path::absolute(&path).unwrap_or(path))
            }
            source @ SecretSource::Env(_) => source,
        })
    };
    let mut secrets = BTreeMap::new();
    for name in section.names() {
        let line = section.line_of_key(&name);
        let grant = if section.has_table(&name) {
            let read = |section: &mut Section<'_, '_>| {
                let from = section.parsed("from", source);
                let hosts = section.list("hosts", str::parse::<HostPattern>);
                section.require(["from"]);
                let hosts = hosts.map(|hosts| hosts.into_iter().collect::<BTreeSet<_>>());
                from.map(|from| SecretGrant { from, hosts })
            };
            section.section(&name, read).flatten()
        } else {
            section.parsed(&name, source).map(|from| SecretGrant { from, hosts: None })
        };
        match name.parse::<SecretName>() {
            Ok(name) => secrets.extend(grant.map(|grant| (name, grant))),
            Err(error) => section.fault_at(line, &name, &error.to_string()),
        }
    }
    secrets
}

/// Reads directories, which must be there, and resolves them: what is granted is the directory that the
/// path names now, not what may stand there later.
fn dirs(section: &mut Section<'_, '_>, beside: &Path) -> Option<Vec<(usize, DirGrant)>> {
    let parse = |text: &str| -> Result<DirGrant, String> {
        let grant = DirGrant::parse(text).map_err(|error| error.to_string())?;
        Ok(DirGrant { host: directory(&beside.join(&grant.host))?, ..grant })
    };
    let dirs = section.items("dir", parse)?;
    for (index, (line, dir)) in dirs.iter().enumerate() {
        if dirs[..index].iter().any(|(_, other)| other.guest == dir.guest) {
            let text = format!(
                "the guest would find two directories at `{}`; write one as `{}:PATH=/OTHER`",
                dir.guest,
                dir.to_string().split_once(':').map_or("ro", |(access, _)| access),
            );
            section.fault_at(*line, "dir", &text);
        }
    }
    Some(dirs)
}

fn directory(path: &Path) -> Result<PathBuf, String> {
    match std::fs::canonicalize(path) {
        Ok(found) if found.is_dir() => Ok(found),
        Ok(_) => Err(format!("`{}` is not a directory", path.display())),
        Err(error) => Err(format!("the directory `{}` cannot be used: {error}", path.display())),
    }
}

/// Reads the table `grants` of `caps`. What it does not name cannot be granted.
pub(super) fn bounds(section: &mut Section<'_, '_>, beside: &Path) -> Option<Bounds> {
    let line = section.line_of_key("grants");
    section.section("grants", |section| {
        let kinds = ["http", "dir", "env", "secrets", "clock", "random"];
        let lines = kinds.map(|kind| (kind, section.line_of_key(kind)));
        let mut real = |key: &str| {
            let found = section.parsed(key, |text| section::choice(text, &CIRCUMSTANCES));
            found == Some(Circumstance::Real)
        };
        let (clock, random) = (real("clock"), real("random"));
        let caps = GrantCaps {
            http: section.list("http", str::parse::<HttpRule>).unwrap_or_default(),
            dirs: section.list("dir", |text| directory(&beside.join(text))).unwrap_or_default(),
            env: section.list("env", str::parse::<NamePattern>).unwrap_or_default(),
            secrets: section.list("secrets", str::parse::<NamePattern>).unwrap_or_default(),
            clock,
            random,
        };
        Bounds { line, lines: lines.into(), caps }
    })
}

impl Bounds {
    /// Notes every grant that is not within the bounds, with both lines.
    pub(super) fn hold(&self, asks: &[Ask], file: &File<'_>) {
        for Ask { line, place, what } in asks {
            let caps = &self.caps;
            let (kind, given, within) = match what {
                Asked::Http(rule) => ("http", rule.to_string(), caps.allow_http(rule)),
                Asked::Dir(dir) => ("dir", dir.host.display().to_string(), caps.allow_dir(&dir.host)),
                Asked::Env(name) => ("env", name.clone(), caps.allow_env(name)),
                Asked::Secret(name) => ("secrets", name.to_string(), caps.allow_secret(name.as_str())),
                Asked::Clock => ("clock", "real".to_owned(), caps.clock),
                Asked::Random => ("random", "real".to_owned(), caps.random),
            };
            if !within {
                let bound = match self.lines[kind] {
                    bound if bound == self.line => format!("`caps.grants` in line {bound}"),
                    bound => format!("`caps.grants.{kind}` in line {bound}"),
                };
                file.fault(*line, format!("`{place}` grants `{given}`, which {bound} does not allow"));
            }
        }
    }
}

/// Reads the tables `module.NAME`.
pub(super) fn modules(
    section: &mut Section<'_, '_>,
    around: &Surroundings<'_>,
    asks: &mut Vec<Ask>,
) -> Vec<ModuleConfig> {
    let mut modules = Vec::new();
    for name in section.names() {
        let read = |module: &mut Section<'_, '_>| {
            let line = module.line();
            let grants = grants(module, around, asks);
            module.require(["grants"]);
            grants.map(|grants| (line, grants))
        };
        let found = section.section(&name, read).flatten();
        match name.parse::<ModulePattern>() {
            Ok(pattern) => {
                modules.extend(found.map(|(line, grants)| ModuleConfig { line, pattern, grants }));
            }
            Err(error) => section.fault(&error.to_string()),
        }
    }
    modules
}

/// What is set for the modules of a name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModuleConfig {
    /// Where it is set, for messages.
    pub(crate) line: usize,
    pub(crate) pattern: ModulePattern,
    pub(crate) grants: GrantOptions,
}
