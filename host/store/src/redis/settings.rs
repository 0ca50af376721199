//! Owns what is asked of the server's settings when a store is opened, and what they promise. Changes
//! none.

use std::collections::HashMap;

use redis::{Value, pipe};

use super::line::Line;
use crate::error::{StoreError, StoreErrorKind};
use crate::store::Durability;

/// The largest body of a record here, in bytes: Redis keeps it in memory, twice while it is written.
const MAX_BODY: u64 = 64 << 20;

/// What the server promises.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) durability: Durability,
    pub(super) max_body: u64,
    /// What the operator should know.
    pub(super) warning: Option<String>,
}

/// Asks the server for its settings.
///
/// # Errors
/// `Unusable` where the server forgets records by itself, or is a replica; the errors of the line.
pub(super) async fn ask(line: &Line) -> Result<Settings, StoreError> {
    let info: (String, String) =
        line.read(pipe().cmd("INFO").arg("memory").cmd("INFO").arg("replication")).await?;
    let info = format!("{}\n{}", info.0, info.1);
    let informed =
        |name: &str| info.lines().find_map(|told| told.trim().strip_prefix(name)?.strip_prefix(':'));
    if informed("role") == Some("slave") {
        let message = format!("the Redis server at `{}` is a replica: name the primary", line.address());
        return Err(StoreError::new(StoreErrorKind::Unusable, message));
    }
    let mut asked = pipe();
    for name in
        ["appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy", "proto-max-bulk-len"]
    {
        asked.cmd("CONFIG").arg("GET").arg(name);
    }
    // A server that hides its settings answers with an error.
    let config: Option<HashMap<String, String>> = match line.read::<Vec<Value>>(&asked).await {
        Ok(answers) => Some(answers.into_iter().flat_map(pairs).collect()),
        Err(error) if error.kind() == StoreErrorKind::Unavailable => return Err(error),
        Err(_) => None,
    };
    judge(line.address(), config.as_ref(), informed("maxmemory_policy"))
}

fn pairs(answer: Value) -> Vec<(String, String)> {
    redis::from_redis_value(answer).unwrap_or_default()
}

/// Says what the settings promise; `config` is none where the server hides them.
fn judge(
    address: &str,
    config: Option<&HashMap<String, String>>,
    informed_policy: Option<&str>,
) -> Result<Settings, StoreError> {
    let set = |name: &str| config.and_then(|config| config.get(name)).map(String::as_str);
    let policy = set("maxmemory-policy").or(informed_policy);
    // The `volatile-` policies remove only keys that Redis is to expire, and records never are.
    if let Some(policy) = policy.filter(|policy| policy.starts_with("allkeys-")) {
        let message = format!(
            "the Redis server at `{address}` removes records when its memory is full (`maxmemory-policy` is \
             `{policy}`): run `redis-cli CONFIG SET maxmemory-policy noeviction`, and set the same in its \
             configuration"
        );
        return Err(StoreError::new(StoreErrorKind::Unusable, message));
    }
    let bulk = set("proto-max-bulk-len").and_then(|bytes| bytes.parse().ok()).unwrap_or(MAX_BODY);
    let max_body = bulk.min(MAX_BODY);
    let (durability, loses) = match (set("appendonly"), set("appendfsync"), set("no-appendfsync-on-rewrite"))
    {
        (Some("yes"), Some("always"), Some("no")) => (Durability::Power, None),
        (Some("yes"), Some("always"), Some(_)) => (
            Durability::Process,
            Some(("at a loss of power while it rewrites its log", "no-appendfsync-on-rewrite no")),
        ),
        (Some("yes"), Some(_), _) => {
            (Durability::Process, Some(("at a loss of power", "appendfsync always")))
        }
        (Some(_), _, _) => (Durability::None, Some(("when it ends", "appendonly yes"))),
        (None, _, _) => {
            let warning = format!(
                "the Redis server at `{address}` does not show its settings (`CONFIG GET`), so that it is unknown \
                 what its records survive"
            );
            return Ok(Settings { durability: Durability::Unknown, max_body, warning: Some(warning) });
        }
    };
    let warning = loses.map(|(when, cure)| {
        format!(
            "the Redis server at `{address}` may lose the last results {when}: run `redis-cli CONFIG SET {cure}`, \
             and set the same in its configuration"
        )
    });
    Ok(Settings { durability, max_body, warning })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &[(&str, &str)], durability: Durability, warning: Option<&str>) {
        let config = config.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let settings = judge("host:1", Some(&config), None).unwrap();
        assert_eq!(settings.durability, durability);
        match (settings.warning, warning) {
            (None, None) => {}
            (Some(said), Some(expected)) => assert!(said.contains(expected), "{said}"),
            (said, _) => panic!("{said:?}"),
        }
    }

    #[test]
    fn a_setting_that_loses_results_is_told_with_the_command_that_mends_it() {
        let always = ("appendfsync", "always");
        let syncs = ("no-appendfsync-on-rewrite", "no");
        check(&[("appendonly", "yes"), always, syncs], Durability::Power, None);
        let cure = "CONFIG SET no-appendfsync-on-rewrite no`";
        check(
            &[("appendonly", "yes"), always, ("no-appendfsync-on-rewrite", "yes")],
            Durability::Process,
            Some(cure),
        );
        let cure = "CONFIG SET appendfsync always`";
        check(&[("appendonly", "yes"), ("appendfsync", "everysec"), syncs], Durability::Process, Some(cure));
        check(&[("appendonly", "no"), always, syncs], Durability::None, Some("CONFIG SET appendonly yes`"));
    }

    #[test]
    fn a_server_that_hides_its_settings_has_an_unknown_durability() {
        let settings = judge("host:1", None, Some("noeviction")).unwrap();
        assert_eq!(settings.durability, Durability::Unknown);
        assert_eq!(settings.max_body, MAX_BODY);
        assert!(settings.warning.unwrap().contains("`CONFIG GET`"));
    }

    #[test]
    fn a_server_that_evicts_is_refused_even_where_it_hides_its_settings() {
        for config in [None, Some(HashMap::from([("maxmemory-policy".to_owned(), "allkeys-lru".to_owned())]))]
        {
            let error = judge("host:1", config.as_ref(), Some("allkeys-lru")).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Unusable);
            assert!(error.to_string().contains("CONFIG SET maxmemory-policy noeviction`"), "{error}");
        }
    }
}
