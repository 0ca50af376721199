//! Owns how a failure is said to a person: one sentence, the causes below it, no backtrace.
//! Never decides what is a failure.

use std::error::Error;
use std::fmt;

use docket_graph::is_deceptive;

use crate::exit::Exit;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) struct CliError {
    exit: Exit,
    sentence: String,
    /// Each of several faults; the sentence is their heading then.
    faults: Vec<String>,
    causes: Vec<String>,
    /// How to go on from here, where there is a way.
    hint: Option<String>,
}

impl CliError {
    pub(crate) fn new(exit: Exit, sentence: impl fmt::Display) -> Self {
        let (faults, causes, hint) = Default::default();
        Self { exit, sentence: sentence.to_string(), faults, causes, hint }
    }

    /// Returns an error for the faults of one place: the fault itself where there is one, else a
    /// heading with their number and one line each.
    pub(crate) fn of_faults<F: fmt::Display>(exit: Exit, place: &str, faults: &[F]) -> Self {
        match faults {
            [fault] => Self::new(exit, fault),
            _ => Self {
                faults: faults.iter().map(F::to_string).collect(),
                ..Self::new(exit, format_args!("{} faults in {place}:", faults.len()))
            },
        }
    }

    /// Returns an error with the sentence and the causes of another one.
    pub(crate) fn of(exit: Exit, error: &dyn Error) -> Self {
        let this = Self::new(exit, error);
        match error.source() {
            Some(source) => this.caused_by(source),
            None => this,
        }
    }

    /// Adds a cause, and what caused it.
    pub(crate) fn caused_by(mut self, cause: &dyn Error) -> Self {
        let mut next = Some(cause);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    /// Adds the causes of another error, whose sentence this one quotes.
    pub(crate) fn with_causes_of(mut self, other: Self) -> Self {
        self.causes.extend(other.causes);
        self
    }

    /// Adds how to go on from here.
    pub(crate) fn with_hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Returns the sentence, with the faults that it is the heading of.
    pub(crate) fn sentence(&self) -> String {
        let mut text = self.sentence.clone();
        for fault in &self.faults {
            text.push_str("\n  ");
            text.push_str(&fault.replace('\n', "\n    "));
        }
        text
    }

    /// Returns the sentence, and apart from it the faults that it is the heading of.
    pub(crate) fn heading(&self) -> (&str, &[String]) {
        (&self.sentence, &self.faults)
    }

    pub(crate) fn causes(&self) -> &[String] {
        &self.causes
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", harmless(&self.sentence()))?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {}", harmless(&cause.replace('\n', "\n    ")))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  {}", harmless(hint))?;
        }
        Ok(())
    }
}

/// Returns text that came from a guest or a file as it may stand on a terminal: line breaks and
/// tabs stay, other characters that could deceive are shown escaped.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if is_deceptive(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn one_fault_is_the_sentence_and_several_stand_below_a_heading() {
        let one = CliError::of_faults(Exit::Usage, "`x`", &["only this"]);
        assert_eq!(one.to_string(), "error: only this");
        let two = CliError::of_faults(Exit::Usage, "`x`", &["first", "second\nline"]);
        assert_eq!(two.to_string(), "error: 2 faults in `x`:\n  first\n  second\n    line");
    }

    #[test]
    fn causes_stand_below_the_sentence_and_cannot_drive_the_terminal() {
        let error = CliError::of(Exit::Failed, &Outer(std::io::Error::other("\u{1b}[2Jin\u{202e}ner")));
        assert_eq!(error.to_string(), "error: the outer\n  caused by: \\u{1b}[2Jin\\u{202e}ner");
    }
}
