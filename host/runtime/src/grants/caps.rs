//! Owns the bounds on what may be granted at all. Never grants anything.

use std::path::{Path, PathBuf};

use super::NamePattern;
use crate::http::HttpRule;

/// Bounds on grants. What is not within them is not to be granted; the default lets nothing through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantCaps {
    /// A rule must lie within one of these.
    pub http: Vec<HttpRule>,
    /// A directory must lie below one of these, or be it. Without links: both as the system resolves them.
    pub dirs: Vec<PathBuf>,
    /// The name of a variable must match one of these.
    pub env: Vec<NamePattern>,
    /// The name of a secret must match one of these.
    pub secrets: Vec<NamePattern>,
    /// Whether the host's clock may be granted.
    pub clock: bool,
    /// Whether the host's randomness may be granted.
    pub random: bool,
}

impl GrantCaps {
    /// Returns whether every request that the rule allows may be granted.
    pub fn allow_http(&self, rule: &HttpRule) -> bool {
        self.http.iter().any(|bound| rule.is_within(bound))
    }

    /// Returns whether the directory may be granted.
    pub fn allow_dir(&self, dir: &Path) -> bool {
        self.dirs.iter().any(|root| dir.starts_with(root))
    }

    /// Returns whether a variable of this name may be granted.
    pub fn allow_env(&self, name: &str) -> bool {
        self.env.iter().any(|pattern| pattern.matches(name))
    }

    /// Returns whether a secret of this name may be granted.
    pub fn allow_secret(&self, name: &str) -> bool {
        self.secrets.iter().any(|pattern| pattern.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_lies_within_another_if_all_that_it_allows_the_other_allows() {
        let cases = [
            ("GET https://a.example.com/v1", "GET https://a.example.com/", true),
            ("GET https://a.example.com/v1", "* https://*.example.com", true),
            ("GET https://a.example.com/v1/x", "GET,POST https://a.example.com/v1", true),
            ("GET https://*.a.example.com", "GET https://*.example.com", true),
            ("GET https://*.example.com", "GET https://*.a.example.com", false),
            ("GET https://*.example.com", "GET https://a.example.com", false),
            ("GET https://example.com", "GET https://*.example.com", false),
            ("* https://a.example.com", "GET https://a.example.com", false),
            ("GET,POST https://a.example.com", "GET https://a.example.com", false),
            ("GET http://a.example.com", "GET https://a.example.com", false),
            ("GET http://a.example.com:443", "GET https://a.example.com", false),
            ("GET https://a.example.com:444", "GET https://a.example.com", false),
            ("GET https://a.example.com/", "GET https://a.example.com/v1", false),
            ("GET https://a.example.com/v10", "GET https://a.example.com/v1", false),
            ("GET https://a.example.com/v1", "GET https://a.example.com/v1/", false),
        ];
        for (rule, bound, expected) in cases {
            let caps = GrantCaps { http: vec![bound.parse().unwrap()], ..GrantCaps::default() };
            assert_eq!(caps.allow_http(&rule.parse().unwrap()), expected, "{rule} within {bound}");
        }
    }

    #[test]
    fn a_directory_lies_below_a_root_by_whole_components_and_nothing_lies_within_nothing() {
        let caps = GrantCaps { dirs: vec!["/srv/data".into()], ..GrantCaps::default() };
        for (dir, expected) in
            [("/srv/data", true), ("/srv/data/a", true), ("/srv/data2", false), ("/srv", false)]
        {
            assert_eq!(caps.allow_dir(Path::new(dir)), expected, "{dir}");
        }
        assert!(!caps.allow_env("REGION") && !caps.allow_secret("API_KEY"));
    }
}
