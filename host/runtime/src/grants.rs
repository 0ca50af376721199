//! Owns what an operator lets a step touch beyond its inputs. Default nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::http::{HostPattern, HttpRule, SecretName, SecretSource};

/// What a step may touch beyond its inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// The requests it may make.
    pub http: BTreeSet<HttpRule>,
    /// What the host fills into headers of these requests, where the step wrote the placeholder.
    pub secrets: BTreeMap<SecretName, SecretGrant>,
}

/// Where a secret comes from, and where it may go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretGrant {
    /// Where its value comes from.
    pub from: SecretSource,
    /// Towards which of the hosts of the step's HTTP rules it may go. `None` is all of them.
    pub hosts: Option<BTreeSet<HostPattern>>,
}
