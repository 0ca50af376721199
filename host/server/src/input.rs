//! Owns the forms in which an input is named: `PORT=JSON`, `PORT=@FILE`, `PORT=-`, each also
//! without `PORT=`; and the place of items, `FILE` or `-`. Never reads what is named, and never knows whether
//! a port exists.

use std::fmt;
use std::path::{Path, PathBuf};

use docket_graph::{Port, PortError};

/// An input as somebody wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputArg {
    /// The port that it is for; none is the one leaf that the target needs.
    pub(crate) port: Option<Port>,
    /// Where its JSON is.
    pub(crate) source: InputSource,
}

/// Where an input's JSON is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InputSource {
    /// Here.
    Text(String),
    /// In a file.
    File(PathBuf),
    /// On standard input.
    Stdin,
}

/// Why a text names no input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InputArgError {
    /// There is a prefix that looks like a port and is none.
    #[error("{0}; write `PORT=JSON`, `PORT=@FILE` or `PORT=-`")]
    Port(#[from] PortError),
    /// Nothing is given.
    #[error("there is no value; write JSON, `@FILE`, or `-` for stdin")]
    Empty,
    /// There is no port where one is needed.
    #[error("there is no port; write `PORT=JSON`, `PORT=@FILE` or `PORT=-`")]
    NoPort,
    /// An `@` alone.
    #[error("there is no file name behind `@`")]
    NoFile,
}

impl InputArg {
    /// Returns the input that the text names.
    ///
    /// JSON may have `=` in it too, so a prefix counts as a port only if it begins as a name does.
    pub(crate) fn parse(text: &str) -> Result<Self, InputArgError> {
        let begins_a_name = text.starts_with(|c: char| c.is_alphabetic() || matches!(c, '_' | '.'));
        let (port, value) = match text.split_once('=') {
            Some((port, value)) if begins_a_name => (Some(Port::parse(port)?), value),
            _ => (None, text),
        };
        let source = match value.strip_prefix('@') {
            Some("") => return Err(InputArgError::NoFile),
            Some(path) => InputSource::File(path.into()),
            None if value == "-" => InputSource::Stdin,
            None if value.trim().is_empty() => return Err(InputArgError::Empty),
            None => InputSource::Text(value.to_owned()),
        };
        Ok(Self { port, source })
    }

    /// Returns the input as it is seen from another directory: a file that the configuration names lies
    /// beside it, wherever the command is called.
    pub(crate) fn beside(self, dir: &Path) -> Self {
        let source = match self.source {
            InputSource::File(path) => InputSource::File(dir.join(path)),
            source @ (InputSource::Text(_) | InputSource::Stdin) => source,
        };
        Self { source, ..self }
    }

    /// Returns the input that the text names, with its port.
    pub(crate) fn parse_with_port(text: &str) -> Result<Self, InputArgError> {
        let input = Self::parse(text)?;
        if input.port.is_none() { Err(InputArgError::NoPort) } else { Ok(input) }
    }
}

/// Where the items of a batch are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a file.
    File(PathBuf),
    /// On standard input.
    Stdin,
}

impl Place {
    /// Returns the place that the text names.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "" => Err("there is no file name; write `FILE`, or `-` for stdin"),
            "-" => Ok(Self::Stdin),
            path => Ok(Self::File(path.into())),
        }
    }

    /// Returns the place as it is seen from another directory.
    pub(crate) fn beside(self, dir: &Path) -> Self {
        match self {
            Self::File(path) => Self::File(dir.join(path)),
            Self::Stdin => Self::Stdin,
        }
    }

    /// Returns what the name of the file ends with.
    pub(crate) fn extension(&self) -> Option<&str> {
        match self {
            Self::File(path) => path.extension()?.to_str(),
            Self::Stdin => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "`{}`", path.display()),
            Self::Stdin => f.write_str("stdin"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, port: Option<&str>, source: InputSource) {
        let port = port.map(|port| Port::parse(port).unwrap());
        assert_eq!(InputArg::parse(text), Ok(InputArg { port, source }), "{text}");
    }

    #[test]
    fn every_form_is_read_with_and_without_a_port() {
        let text = |text: &str| InputSource::Text(text.to_owned());
        check(r#"{"id":"a=b"}"#, None, text(r#"{"id":"a=b"}"#));
        check(r#"a.B={"id":"a=b"}"#, Some("a.B"), text(r#"{"id":"a=b"}"#));
        check("a.B#clean=[]", Some("a.B#clean"), text("[]"));
        check(r#"["x=y"]"#, None, text(r#"["x=y"]"#));
        check(r#""x=y""#, None, text(r#""x=y""#));
        check("-1", None, text("-1"));
        check("true", None, text("true"));
        check("-", None, InputSource::Stdin);
        check("a.B=-", Some("a.B"), InputSource::Stdin);
        check("@in=1.json", None, InputSource::File("in=1.json".into()));
        check("a.B=@in.json", Some("a.B"), InputSource::File("in.json".into()));
    }

    #[test]
    fn a_text_that_names_no_input_is_refused_with_the_reason() {
        assert_eq!(InputArg::parse(""), Err(InputArgError::Empty));
        assert_eq!(InputArg::parse("a.B="), Err(InputArgError::Empty));
        assert_eq!(InputArg::parse_with_port("{}"), Err(InputArgError::NoPort));
        assert_eq!(InputArg::parse_with_port("a.B={}"), InputArg::parse("a.B={}"));
        assert_eq!(InputArg::parse("a.B=@"), Err(InputArgError::NoFile));
        assert!(matches!(InputArg::parse("a..B={}"), Err(InputArgError::Port(_))));
    }
}
