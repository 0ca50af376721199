//! Owns the names of secrets and where their values come from. Values stand in no public type.

use std::borrow::Borrow;
use std::fmt::{self, Display};
use std::path::PathBuf;
use std::str::FromStr;

/// The name of a secret: letters, digits and `_`, not a digit first, as environment variables have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretName(String);

impl SecretName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what a step writes into a header where the value is to stand: `{{secret:NAME}}`.
    pub fn placeholder(&self) -> String {
        format!("{PLACEHOLDER_START}{self}{PLACEHOLDER_END}")
    }
}

/// How a placeholder begins. Anyone can guess a placeholder: it is worth nothing without the grant.
pub(crate) const PLACEHOLDER_START: &str = "{{secret:";

/// How a placeholder ends.
pub(crate) const PLACEHOLDER_END: &str = "}}";

/// Where the value of a secret comes from when the host starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretSource {
    /// `env:NAME`: the host's environment variable.
    Env(String),
    /// `file:PATH`: the content of a file, without one line break at its end.
    File(PathBuf),
}

/// Why a text is no name or no source of a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The name has other characters, or none.
    #[error("`{0}` is not a name for a secret; use letters, digits and `_`, not a digit first")]
    Name(String),
    /// The source is of no known kind. The text is not repeated: it may be the secret itself.
    #[error("where a secret comes from is written `env:NAME` or `file:PATH`")]
    Source,
}

impl FromStr for SecretName {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = !text.starts_with(|first: char| first.is_ascii_digit())
            && !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if good { Ok(Self(text.to_owned())) } else { Err(SecretError::Name(text.to_owned())) }
    }
}

impl Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for SecretName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretSource {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Ok(Self::Env(name.to_owned()))
            }
            Some(("file", path)) if !path.is_empty() && !path.contains('\0') => Ok(Self::File(path.into())),
            _ => Err(SecretError::Source),
        }
    }
}

impl Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_environment_variable_or_a_file_and_its_fault_does_not_repeat_it() {
        for good in ["env:API_KEY", "file:/run/secrets/key", "file:key:1"] {
            assert_eq!(good.parse::<SecretSource>().unwrap().to_string(), good);
        }
        for bad in ["", "hunter2", "env:", "file:", "env:A=B", "vault:key"] {
            let error = bad.parse::<SecretSource>().unwrap_err().to_string();
            assert_eq!(error, "where a secret comes from is written `env:NAME` or `file:PATH`");
        }
    }

    #[test]
    fn a_name_is_one_that_an_environment_variable_could_have() {
        for good in ["API_KEY", "_", "a1"] {
            let name: SecretName = good.parse().unwrap();
            assert_eq!(name.placeholder(), format!("{{{{secret:{good}}}}}"));
        }
        for bad in ["", "1a", "API-KEY", "a}}", "ä", "a b"] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
    }
}
