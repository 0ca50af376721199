//! Owns the name of an execution.

use std::sync::Arc;

use rand::RngExt as _;

use crate::clock;

/// The longest id, in bytes: what every store can index.
const LONGEST: usize = 128;

/// The name of an execution: given by the caller, or a new one that sorts by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutionId(Arc<str>);

/// Why a text is no execution id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not an execution id: it must have 1 to {LONGEST} visible ASCII characters", .0.escape_debug())]
pub struct ExecutionIdError(String);

impl ExecutionId {
    /// Returns the id that the text names.
    ///
    /// # Errors
    /// Unless the text has 1 to 128 visible ASCII characters: ids travel in URLs, headers and logs.
    pub fn parse(text: &str) -> Result<Self, ExecutionIdError> {
        let fits = (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.into())) } else { Err(ExecutionIdError(text.chars().take(LONGEST).collect())) }
    }

    /// Returns a new id: a UUID of version 7, so that ids sort by the millisecond they were made in.
    pub fn new() -> Self {
        Self::at(clock::wall_millis())
    }

    /// Returns a new id that was made at this time, in milliseconds since the Unix epoch.
    pub(crate) fn at(unix_millis: u64) -> Self {
        // Filled at once: drawn byte by byte they cost four times as many numbers.
        let mut random = [0; 10];
        rand::rng().fill(&mut random);
        let id = uuid::Builder::from_unix_timestamp_millis(unix_millis, &random).into_uuid();
        Self(Arc::from(&*id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ExecutionId {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ExecutionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for ExecutionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_128_visible_ascii_characters() {
        let longest = "x".repeat(128);
        for text in ["a", "order-42", "~!/#%{}`", &longest] {
            assert_eq!(ExecutionId::parse(text).unwrap().as_str(), text);
        }
        let too_long = "x".repeat(129);
        for text in ["", " ", "a b", "a\n", "a\t", "\u{7f}", "\0", "é", "a\u{200b}", &too_long] {
            assert!(ExecutionId::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_error_shows_the_text_on_one_line_and_not_all_of_an_endless_one() {
        let error = |text: &str| ExecutionId::parse(text).unwrap_err().to_string();
        assert_eq!(
            error("a\nb"),
            "`a\\nb` is not an execution id: it must have 1 to 128 visible ASCII characters"
        );
        assert!(error(&"x".repeat(1 << 20)).len() < 300);
    }

    #[test]
    fn new_ids_differ_sort_by_their_millisecond_and_can_be_given_again() {
        let ids: Vec<_> = (0..1000).map(|millis| ExecutionId::at(1_700_000_000_000 + millis)).collect();
        assert!(ids.is_sorted_by(|older, newer| older < newer));
        let new: std::collections::BTreeSet<_> =
            std::iter::repeat_with(ExecutionId::new).take(1000).collect();
        assert_eq!(new.len(), 1000);
        assert!(ids.iter().chain(&new).all(|id| ExecutionId::parse(id.as_str()).as_ref() == Ok(id)));
    }
}
