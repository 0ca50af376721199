//! What the operator set for a step. Owns reading and parsing it; never has a default of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

#[cfg(target_family = "wasm")]
use crate::bindings::configured::wasi::config::store;
use crate::{Failure, StepResult};

/// A step that is made from configuration: its steps are its methods.
///
/// ```ignore
/// struct LetterCounter { letter: char }
///
/// impl FromConfig for LetterCounter {
///     fn from_config(config: &Config) -> StepResult<Self> {
///         Ok(Self { letter: config.require("letter")? })
///     }
/// }
///
/// impl LetterCounter {
///     fn count(&self, text: Text) -> StepResult<Count> { … }
/// }
///
/// docket_guest::module!(step(LetterCounter::count));
/// ```
pub trait FromConfig: Sized + 'static {
    /// Returns the step, made for one attempt.
    ///
    /// # Errors
    /// Any failure; it becomes the attempt's.
    fn from_config(config: &Config) -> StepResult<Self>;
}

/// The settings that the operator gave to a step, by name.
pub struct Config(Source);

enum Source {
    Host,
    Given(BTreeMap<String, String>),
}

impl Config {
    /// The code of a failure that says that a setting is missing.
    pub const MISSING: &str = "config_missing";
    /// The code of a failure that says that a setting does not parse.
    pub const INVALID: &str = "config_invalid";

    /// Returns the host's settings for the step that runs.
    pub(crate) fn of_host() -> Self {
        Self(Source::Host)
    }

    /// Returns settings for a test.
    ///
    /// ```
    /// let config = docket_guest::Config::given([("letter", "e")]);
    /// assert_eq!(config.require::<char>("letter"), Ok('e'));
    /// ```
    pub fn given<K: Into<String>, V: Into<String>>(settings: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(Source::Given(settings.into_iter().map(|(key, value)| (key.into(), value.into())).collect()))
    }

    /// Returns a setting as it stands, or `None` where the operator did not set it.
    ///
    /// # Errors
    /// Retryable, when the host cannot read its configuration.
    pub fn get(&self, key: &str) -> StepResult<Option<String>> {
        match &self.0 {
            Source::Host => ask_host(key),
            Source::Given(settings) => Ok(settings.get(key).cloned()),
        }
    }

    /// Returns a setting as a value, or `None` where the operator did not set it.
    ///
    /// # Errors
    /// Permanent, with the code [`Config::INVALID`], when the setting does not parse; and as
    /// [`Config::get`].
    pub fn parse<T>(&self, key: &str) -> StepResult<Option<T>>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let Some(text) = self.get(key)? else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|error| {
            Failure::permanent(format!("configuration `{key}` = `{text}` is not valid: {error}"))
                .code(Self::INVALID)
        })
    }

    /// Returns a setting as a value.
    ///
    /// # Errors
    /// Permanent, with the code [`Config::MISSING`], when the operator did not set it; and as
    /// [`Config::parse`].
    pub fn require<T>(&self, key: &str) -> StepResult<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.parse(key)?.ok_or_else(|| {
            Failure::permanent(format!("configuration `{key}` is not set")).code(Self::MISSING)
        })
    }
}

#[cfg(target_family = "wasm")]
fn ask_host(key: &str) -> StepResult<Option<String>> {
    store::get(key).map_err(|error| match error {
        store::Error::Upstream(cause) | store::Error::Io(cause) => {
            Failure::retryable(format!("configuration `{key}` cannot be read: {cause}"))
        }
    })
}

/// Natively there is no host, so nothing is set; tests use [`Config::given`].
#[cfg(not(target_family = "wasm"))]
fn ask_host(_key: &str) -> StepResult<Option<String>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr<Err: fmt::Display> + PartialEq + fmt::Debug>(
        key: &str,
        expected: Result<T, (&str, &str)>,
    ) {
        let config = Config::given([("letter", "e"), ("limit", "many")]);
        let result = config.require::<T>(key);
        assert_eq!(result, expected.map_err(|(code, message)| Failure::permanent(message).code(code)));
    }

    #[test]
    fn a_setting_is_read_as_any_type_that_parses() {
        check("letter", Ok('e'));
        check("letter", Ok(String::from("e")));
    }

    #[test]
    fn a_missing_setting_is_named() {
        check::<u32>("size", Err(("config_missing", "configuration `size` is not set")));
        assert_eq!(Config::given([("a", "b")]).get("size"), Ok(None));
    }

    #[test]
    fn a_setting_that_does_not_parse_is_named_with_its_text() {
        let message = "configuration `limit` = `many` is not valid: invalid digit found in string";
        check::<u32>("limit", Err(("config_invalid", message)));
    }
}
