//! Owns what an operator lets a step touch beyond its inputs, and within which bounds. Default nothing.
//! Never reads a file or the environment, and never does what it grants.

mod caps;
mod dir;
mod pattern;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

pub use caps::GrantCaps;
pub use dir::{Access, DirGrant, DirGrantError};
pub use pattern::{ModulePattern, NamePattern, PatternError};

use crate::digest::Digest;
use crate::http::{
    Connector, HostPattern, HttpGrant, HttpRule, Keyed, Pool, Secret, SecretName, SecretSource, Vault,
};

/// What a step may touch beyond its inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// The requests it may make.
    pub http: BTreeSet<HttpRule>,
    /// What the host fills into headers of these requests, where the step wrote the placeholder.
    pub secrets: BTreeMap<SecretName, SecretGrant>,
    /// The environment variables it sees, by name, with their values.
    pub env: BTreeMap<String, String>,
    /// The directories it may open.
    pub dirs: BTreeSet<DirGrant>,
    /// Where its time comes from.
    pub clock: Circumstance,
    /// Where its randomness comes from.
    pub random: Circumstance,
}

/// Where a secret comes from, and where it may go.
///
/// A step never has the value: it writes `{{secret:NAME}}` into a header, which is also what it finds in
/// its environment variable `NAME`, and the host puts the value there on the way out. Not in addresses or
/// bodies, and not in what the step has encoded, such as the base64 of `Basic` authorisation: keep the
/// encoded text as the secret. The hosts that get a secret could tell the step, and so could whoever listens
/// where a rule says `http`; headers that send a value back are emptied, bodies are not looked into.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretGrant {
    /// Where its value comes from.
    pub from: SecretSource,
    /// Towards which of the hosts of the step's HTTP rules it may go. `None` is all of them.
    pub hosts: Option<BTreeSet<HostPattern>>,
}

/// Where time or randomness comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Circumstance {
    /// From the execution, the same on every host and at every try.
    #[default]
    Virtual,
    /// From the host.
    Real,
}

/// What is said of a step's grants in one place. `None` leaves a kind to the next: the step's own
/// options, then those of its module, then nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantOptions {
    /// See [`Grants::http`].
    pub http: Option<BTreeSet<HttpRule>>,
    /// See [`Grants::secrets`].
    pub secrets: Option<BTreeMap<SecretName, SecretGrant>>,
    /// See [`Grants::env`].
    pub env: Option<BTreeMap<String, String>>,
    /// See [`Grants::dirs`].
    pub dirs: Option<BTreeSet<DirGrant>>,
    /// See [`Grants::clock`].
    pub clock: Option<Circumstance>,
    /// See [`Grants::random`].
    pub random: Option<Circumstance>,
}

impl From<Grants> for GrantOptions {
    /// Says everything, also what is not granted.
    fn from(grants: Grants) -> Self {
        let Grants { http, secrets, env, dirs, clock, random } = grants;
        Self {
            http: Some(http),
            secrets: Some(secrets),
            env: Some(env),
            dirs: Some(dirs),
            clock: Some(clock),
            random: Some(random),
        }
    }
}

impl GrantOptions {
    /// Returns what is granted when these are said, the most telling first.
    pub(crate) fn resolve<'a>(said: impl IntoIterator<Item = &'a GrantOptions>) -> Grants {
        let mut found = GrantOptions::default();
        for GrantOptions { http, secrets, env, dirs, clock, random } in said {
            found.http = found.http.or_else(|| http.clone());
            found.secrets = found.secrets.or_else(|| secrets.clone());
            found.env = found.env.or_else(|| env.clone());
            found.dirs = found.dirs.or_else(|| dirs.clone());
            found.clock = found.clock.or(*clock);
            found.random = found.random.or(*random);
        }
        let GrantOptions { http, secrets, env, dirs, clock, random } = found;
        Grants {
            http: http.unwrap_or_default(),
            secrets: secrets.unwrap_or_default(),
            env: env.unwrap_or_default(),
            dirs: dirs.unwrap_or_default(),
            clock: clock.unwrap_or_default(),
            random: random.unwrap_or_default(),
        }
    }
}

impl Grants {
    /// Returns what lets the step reach outside or depend on more than its inputs and its execution,
    /// in words, in a fixed order.
    pub fn effects(&self) -> Vec<String> {
        let Self { http, secrets: _, env: _, dirs, clock, random } = self;
        let mut effects = Vec::new();
        effects.extend(http.iter().map(|rule| format!("http {rule}")));
        effects.extend(dirs.iter().map(|dir| format!("dir {dir}")));
        effects.extend((*clock == Circumstance::Real).then(|| "clock real".to_owned()));
        effects.extend((*random == Circumstance::Real).then(|| "random real".to_owned()));
        effects
    }

    /// Returns the canonical text of all that is granted, a line each: what stands in keys. The values
    /// of environment variables stand there as their hashes, those of secrets not at all.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.effects();
        for (name, value) in &self.env {
            let hash: [u8; 32] = Sha256::digest(value).into();
            lines.push(format!("env {name} {}", base16ct::lower::encode_string(&hash)));
        }
        for (name, SecretGrant { from, hosts }) in &self.secrets {
            let hosts = hosts.as_ref().map(|hosts| {
                let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
                format!(" to {}", hosts.join(","))
            });
            lines.push(format!("secret {name} from {from}{}", hosts.unwrap_or_default()));
        }
        lines.sort();
        lines
    }

    /// Returns what the step may do over HTTP, with the values of its secrets; none where it may do
    /// nothing.
    ///
    /// # Errors
    /// All secrets that cannot be used, in sentences without their values.
    pub(crate) fn http_grant(
        &self,
        step: &str,
        keyed: Keyed,
        connector: &Arc<Connector>,
        vault: &mut Vault,
    ) -> Result<Option<HttpGrant>, Vec<String>> {
        let Self { http: rules, secrets: granted, env: _, dirs: _, clock: _, random: _ } = self;
        let mut secrets = Vec::new();
        let mut faults = Vec::new();
        for (name, SecretGrant { from, hosts }) in granted {
            for host in
                hosts.iter().flatten().filter(|host| !rules.iter().any(|rule| rule.host().overlaps(host)))
            {
                faults.push(format!("secret `{name}` of step `{step}` may go to `{host}`, which none of the step's `http` rules names"));
            }
            if rules.is_empty() {
                faults.push(format!(
                    "secret `{name}` of step `{step}` can go nowhere, because the step has no `http` rules"
                ));
            }
            match vault.value(from) {
                Ok(value) => secrets.push(Secret { name: name.clone(), value, hosts: hosts.clone() }),
                Err(fault) => faults.push(format!("secret `{name}` of step `{step}` from `{from}`: {fault}")),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let (connector, pool) = (Arc::clone(connector), Arc::<Pool>::default());
        let grant = HttpGrant { rules: rules.clone(), secrets, keyed, connector, pool };
        Ok((!rules.is_empty()).then_some(grant))
    }
}

/// Returns what is granted to a step: by its own options, else by those of its module, of which the
/// one that names it most exactly wins, kind by kind.
pub(crate) fn granted(
    own: Option<&GrantOptions>,
    modules: &[(ModulePattern, GrantOptions)],
    module: &str,
    digest: &Digest,
) -> Grants {
    let mut matching: Vec<_> =
        modules.iter().filter(|(pattern, _)| pattern.matches(module, digest)).collect();
    matching.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.exactness()));
    GrantOptions::resolve(own.into_iter().chain(matching.into_iter().map(|(_, said)| said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(value: &str) -> Option<BTreeMap<String, String>> {
        Some(BTreeMap::from([("REGION".to_owned(), value.to_owned())]))
    }

    fn said(value: &str) -> GrantOptions {
        GrantOptions { env: env(value), ..GrantOptions::default() }
    }

    #[test]
    fn the_step_beats_its_module_and_the_more_exact_name_the_less_exact_kind_by_kind() {
        let digest = Digest::of(b"module");
        let real = GrantOptions { clock: Some(Circumstance::Real), ..GrantOptions::default() };
        let modules: Vec<(ModulePattern, GrantOptions)> = [
            ("*", GrantOptions { random: Some(Circumstance::Real), ..said("any") }),
            ("fetch*", said("glob")),
            ("fetch.wasm", said("name")),
            (&digest.to_string(), real),
        ]
        .map(|(pattern, said)| (pattern.parse().unwrap(), said))
        .into();
        let granted = |own: Option<&GrantOptions>, module: &str, digest: &Digest| {
            let Grants { env, clock, random, .. } = granted(own, &modules, module, digest);
            (env.get("REGION").cloned().unwrap_or_default(), clock, random)
        };
        use Circumstance::{Real, Virtual};
        let other = Digest::of(b"other");
        assert_eq!(granted(None, "fetch.wasm", &digest), ("name".to_owned(), Real, Real));
        assert_eq!(granted(None, "fetch.wasm", &other), ("name".to_owned(), Virtual, Real));
        assert_eq!(granted(None, "fetch_more.wasm", &other), ("glob".to_owned(), Virtual, Real));
        assert_eq!(granted(None, "a/fetch.wasm", &other), ("any".to_owned(), Virtual, Real));
        let own = GrantOptions { random: Some(Virtual), ..said("own") };
        assert_eq!(granted(Some(&own), "fetch.wasm", &digest), ("own".to_owned(), Real, Virtual));
        let nothing = GrantOptions::from(Grants::default());
        assert_eq!(granted(Some(&nothing), "fetch.wasm", &digest), (String::new(), Virtual, Virtual));
    }

    #[test]
    fn the_lines_name_everything_and_show_no_value() {
        let grants = Grants {
            http: ["GET https://api.example.com/v1/".parse().unwrap()].into(),
            secrets: [(
                "API_KEY".parse().unwrap(),
                SecretGrant {
                    from: "env:API_KEY".parse().unwrap(),
                    hosts: Some(["api.example.com".parse().unwrap()].into()),
                },
            )]
            .into(),
            env: env("eu-hidden").unwrap(),
            dirs: [DirGrant::parse("rw:/srv/out").unwrap()].into(),
            clock: Circumstance::Real,
            random: Circumstance::Real,
        };
        let lines = grants.lines();
        assert_eq!(lines.len(), 6, "{lines:?}");
        assert_eq!(lines[..2], ["clock real", "dir rw:/srv/out=/out"]);
        assert!(lines[2].starts_with("env REGION ") && !lines[2].contains("hidden"), "{lines:?}");
        assert_eq!(lines[3], "http GET https://api.example.com/v1/");
        assert_eq!(lines[4..], ["random real", "secret API_KEY from env:API_KEY to api.example.com"]);
        assert!(Grants::default().lines().is_empty());
    }
}
