//! Owns the names that flow through everything: steps and ports. A value of these types is well formed, and two that
//! look the same are the same, as far as characters that are not seen go. Never knows whether a named message exists.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A step's name: unique among all modules of a graph.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepName(Arc<str>);

impl StepName {
    /// The longest name, in bytes. It is part of keys, log lines and drawings.
    pub const MAX_BYTES: usize = 128;

    /// Returns the name, if it is one.
    ///
    /// # Errors
    /// When the text is empty, too long, begins or ends with white space, or has a character that is not seen.
    pub fn parse(text: &str) -> Result<Self, StepNameError> {
        if text.is_empty() {
            return Err(StepNameError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(StepNameError::Long { bytes: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(StepNameError::Control);
        }
        if let Some(character) = text.chars().find(|c| is_hidden(*c)) {
            return Err(StepNameError::Hidden { character });
        }
        if text.trim().len() != text.len() {
            return Err(StepNameError::WhiteSpace);
        }
        Ok(Self(text.into()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl AsRef<str> for StepName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for StepName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Why a text is not a step's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum StepNameError {
    /// There is nothing.
    #[error("it is empty")]
    Empty,
    /// Longer than [`StepName::MAX_BYTES`].
    #[error("it has {bytes} bytes, more than {}", StepName::MAX_BYTES)]
    Long {
        /// Its length.
        bytes: usize,
    },
    /// A control character anywhere.
    #[error("it has a control character")]
    Control,
    /// A character that is not seen, or that turns around how others are.
    #[error("it has the character `{}`, which is not seen", .character.escape_unicode())]
    Hidden {
        /// The first of them.
        character: char,
    },
    /// White space at either end.
    #[error("it begins or ends with white space")]
    WhiteSpace,
}

/// What flows between steps, and a node of the graph: a message type and perhaps a label.
///
/// Printed, parsed and serialized as `example.v1.Text` or `example.v1.Text#clean`. The order is that of the text: by
/// message and then by label, because `#` sorts before every character of a message name. Held as that one text, because
/// every request clones, compares and drops some.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(Arc<str>);

impl Port {
    /// The longest label, in bytes.
    pub const MAX_LABEL_BYTES: usize = 128;

    /// Returns the port of a message's full name and a label.
    ///
    /// # Errors
    /// When the message is not a dotted protobuf name, or the label is empty, too long, or has `#`, white space or a
    /// character that is not seen.
    pub fn new(message: &str, label: Option<&str>) -> Result<Self, PortError> {
        if !message.split('.').all(is_identifier) {
            return Err(PortError::Message { text: clip(message) });
        }
        if let Some(label) = label {
            let bad = |c: char| c == '#' || c.is_control() || is_hidden(c) || c.is_whitespace();
            if label.is_empty() || label.len() > Self::MAX_LABEL_BYTES || label.contains(bad) {
                return Err(PortError::Label { text: clip(label) });
            }
        }
        Ok(Self(match label {
            Some(label) => format!("{message}#{label}").into(),
            None => message.into(),
        }))
    }

    /// Returns the port that is written as `message` or `message#label`.
    ///
    /// # Errors
    /// As [`Port::new`].
    pub fn parse(text: &str) -> Result<Self, PortError> {
        match text.split_once('#') {
            Some((message, label)) => Self::new(message, Some(label)),
            None => Self::new(text, None),
        }
    }

    /// Returns the message's full name.
    pub fn message(&self) -> &str {
        self.0.split_once('#').map_or(&*self.0, |(message, _)| message)
    }

    /// Returns the label, if there is one.
    pub fn label(&self) -> Option<&str> {
        self.0.split_once('#').map(|(_, label)| label)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl std::str::FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        Self::parse(text)
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StepName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Why a text is not a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The message is not a name.
    #[error("`{text}` is not the full name of a protobuf message, such as `example.v1.Text`")]
    Message {
        /// The text, perhaps shortened.
        text: String,
    },
    /// The label is not one.
    #[error(
        "`{text}` is not a label: it needs 1 to {} bytes without `#`, white space and what is not seen",
        Port::MAX_LABEL_BYTES
    )]
    Label {
        /// The text, perhaps shortened.
        text: String,
    },
}

/// How many messages flow through a port in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arity {
    /// Exactly one message.
    One,
    /// A list of messages, in order, perhaps empty.
    Many,
}

impl fmt::Display for Arity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::One => "one",
            Self::Many => "many",
        })
    }
}

/// A port as one step takes or gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortDecl {
    /// What flows.
    pub port: Port,
    /// How much of it.
    pub arity: Arity,
}

/// Returns a text from an untrusted module as it may stand in a message: escaped, and no longer than a line.
pub(crate) fn clip(text: &str) -> String {
    /// Names are at most this long, so only what is none is shortened.
    const CHARS: usize = StepName::MAX_BYTES;
    let mut escaped: String = text.chars().take(CHARS).flat_map(escape).collect();
    if text.chars().nth(CHARS).is_some() {
        escaped.push('…');
    }
    escaped
}

/// Leaves quotes as they are: they cannot harm a terminal, and back-quotes stand around the text.
fn escape(c: char) -> impl Iterator<Item = char> {
    let plain = matches!(c, '\'' | '"');
    std::iter::once(c).filter(move |_| plain).chain(c.escape_debug().filter(move |_| !plain))
}

/// Returns whether a character has no place in a name: it is not seen, or it turns around how others are.
fn is_hidden(c: char) -> bool {
    // Joiners, which texts need in some languages and names can do without.
    is_deceptive(c) || matches!(c, '\u{200c}' | '\u{200d}')
}

/// Returns whether a character of a stranger's text could make a reader see something else than is there: control
/// characters; those that change the direction of writing; marks, spaces and tags without width, and other ends of lines.
/// To be shown escaped.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

fn is_identifier(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_prints_what_it_was_parsed_from() {
        for text in ["T", "example.v1.Text", "example.v1.Text#clean", "_a.B2#ümlaut-1/x"] {
            assert_eq!(Port::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_text_that_is_no_port_is_refused() {
        for text in
            ["", ".", ".a", "a.", "a..b", "1a", "a-b", "a b", "a#", "a#b#c", "a#b c", "a#\u{7}", "#a", "é"]
        {
            assert!(Port::parse(text).is_err(), "{text}");
        }
        assert!(Port::parse(&format!("a#{}", "x".repeat(129))).is_err());
    }

    #[test]
    fn ports_sort_as_their_texts_do() {
        let texts = ["a.B", "a.B#x", "a.B#y", "a.B.C", "a.B1", "a.BC", "a.B_"];
        let mut ports: Vec<Port> = texts.iter().rev().map(|t| Port::parse(t).unwrap()).collect();
        ports.sort();
        let mut sorted = texts;
        sorted.sort_unstable();
        assert_eq!(ports.iter().map(ToString::to_string).collect::<Vec<_>>(), sorted);
    }

    #[test]
    fn a_text_that_is_no_step_name_is_refused_with_its_reason() {
        assert_eq!(StepName::parse(""), Err(StepNameError::Empty));
        assert_eq!(StepName::parse(&"é".repeat(65)), Err(StepNameError::Long { bytes: 130 }));
        assert_eq!(StepName::parse("a\nb"), Err(StepNameError::Control));
        assert_eq!(StepName::parse(" a"), Err(StepNameError::WhiteSpace));
        for character in ['\u{200b}', '\u{200d}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{ad}', '\u{e0041}'] {
            let found = StepName::parse(&format!("Fetch{character}"));
            assert_eq!(found, Err(StepNameError::Hidden { character }));
            assert!(Port::parse(&format!("a.T#x{character}")).is_err(), "{character:?}");
        }
        let words = "it has the character `\\u{202e}`, which is not seen";
        assert_eq!(StepName::parse("a\u{202e}").unwrap_err().to_string(), words);
        assert_eq!(StepName::parse("Fetch the profile").unwrap().as_str(), "Fetch the profile");
    }

    #[test]
    fn a_text_from_a_module_is_shortened_and_escaped_in_messages() {
        assert_eq!(clip("a\u{1b}[31m"), "a\\u{1b}[31m");
        assert_eq!(clip(&"x".repeat(1 << 20)).chars().count(), 129);
    }
}
