//! Owns names with `*` in them, of environment variables and of modules. Never looks anything up.

use std::fmt::{self, Display};
use std::str::FromStr;

use crate::digest::Digest;

/// A name, in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamePattern(String);

/// Which module is meant: by its name, by a pattern for names, or by its digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModulePattern(String);

/// Why a text is no name of an environment variable and no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a name; it must not be empty, nor hold `=`", .0.escape_debug())]
pub struct PatternError(String);

/// How exactly a module is named; more is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exactness {
    /// By a pattern with so many characters beside the stars.
    Pattern(usize),
    Name,
    Digest,
}

impl NamePattern {
    /// Returns whether the name is one of these.
    pub fn matches(&self, name: &str) -> bool {
        matches(&self.0, name)
    }

    /// Returns whether it is one name, without a star.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// Returns it as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ModulePattern {
    /// Returns whether the module of this name and digest is meant.
    pub fn matches(&self, name: &str, digest: &Digest) -> bool {
        match self.exactness() {
            Exactness::Digest => digest.to_string() == self.0,
            Exactness::Name => self.0 == name,
            Exactness::Pattern(_) => matches(&self.0, name),
        }
    }

    /// Returns it as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn exactness(&self) -> Exactness {
        let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if self.0.contains('*') {
            Exactness::Pattern(self.0.chars().filter(|c| *c != '*').count())
        } else if self.0.len() == 64 && self.0.bytes().all(digits) {
            Exactness::Digest
        } else {
            Exactness::Name
        }
    }
}

fn parse(text: &str) -> Result<String, PatternError> {
    if text.is_empty() || text.contains(['=', '\0']) {
        return Err(PatternError(text.to_owned()));
    }
    Ok(text.to_owned())
}

impl FromStr for NamePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Self)
    }
}

impl FromStr for ModulePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Self)
    }
}

impl Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Display for ModulePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The parts between the stars must come in their order; the first begins the name, the last ends it.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_all_else_for_itself() {
        let cases = [
            ("REGION", "REGION", true),
            ("REGION", "REGIONS", false),
            ("AWS_*", "AWS_", true),
            ("AWS_*", "AWS_KEY", true),
            ("AWS_*", "XAWS_KEY", false),
            ("*", "", true),
            ("*_URL", "DB_URL", true),
            ("*_URL", "DB_URLS", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("a**b", "ab", true),
            ("*x*", "axb", true),
        ];
        for (pattern, name, expected) in cases {
            let pattern: NamePattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(name), expected, "{pattern} {name}");
        }
        for wrong in ["", "A=B", "A\0"] {
            assert!(wrong.parse::<NamePattern>().is_err(), "{wrong:?}");
        }
    }
}
