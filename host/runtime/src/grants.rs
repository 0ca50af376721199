//! Owns what an operator lets a step touch beyond its inputs. Default nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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

impl Grants {
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
        let Self { http: rules, secrets: granted } = self;
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
