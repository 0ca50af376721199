//! A step with configuration is a method of a struct that is made from it. Two steps share the
//! struct here, and the operator configures each of them in `docket.toml`.

use docket_guest::{Config, Failure, FromConfig, Labeled, StepResult, label};
use pb::{Count, Report, Text};

mod pb {
    docket_guest::include_proto!("structstep.v1");
}

docket_guest::module!(
    step(LetterCounter::count_loosely).name("CountLoosely"),
    step(LetterCounter::count_strictly).name("CountStrictly"),
    step(report),
);

label!(Loose = "loose");
label!(Strict = "strict");

/// Counts the letter that the operator chose.
#[derive(Debug, PartialEq)]
struct LetterCounter {
    letter: char,
    case: Case,
}

#[derive(Debug, PartialEq)]
enum Case {
    Exact,
    Ignored,
}

impl FromConfig for LetterCounter {
    fn from_config(config: &Config) -> StepResult<Self> {
        let case = match config.get("case")?.as_deref() {
            None | Some("exact") => Case::Exact,
            Some("ignored") => Case::Ignored,
            Some(other) => {
                let message = format!("configuration `case` = `{other}` is neither `exact` nor `ignored`");
                return Err(Failure::permanent(message).code(Config::INVALID));
            }
        };
        Ok(Self { letter: config.require("letter")?, case })
    }
}

impl LetterCounter {
    fn count_loosely(&self, text: Text) -> StepResult<Labeled<Loose, Count>> {
        self.count(&text.text).map(Labeled::new)
    }

    fn count_strictly(&self, text: Text) -> StepResult<Labeled<Strict, Count>> {
        self.count(&text.text).map(Labeled::new)
    }

    fn count(&self, text: &str) -> StepResult<Count> {
        let count = text.chars().filter(|letter| self.counts(*letter)).count();
        Ok(Count { letter: self.letter.into(), count: u32::try_from(count)? })
    }

    fn counts(&self, letter: char) -> bool {
        match self.case {
            Case::Exact => letter == self.letter,
            Case::Ignored => letter.to_lowercase().eq(self.letter.to_lowercase()),
        }
    }
}

fn report(loose: Labeled<Loose, Count>, strict: Labeled<Strict, Count>) -> StepResult<Report> {
    Ok(Report { loose: Some(loose.into_inner()), strict: Some(strict.into_inner()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(letter: &str, case: &str, text: &str, expected: u32) {
        let counter =
            LetterCounter::from_config(&Config::given([("letter", letter), ("case", case)])).unwrap();
        assert_eq!(counter.count(text).unwrap().count, expected);
    }

    #[test]
    fn the_configuration_decides_what_counts() {
        check("e", "ignored", "Excellence", 4);
        check("e", "exact", "Excellence", 3);
        check("a", "exact", "ABRACADABRA", 0);
        check("o", "ignored", "ABRACADABRA", 0);
    }

    #[test]
    fn a_case_that_is_no_case_is_refused() {
        let refused = LetterCounter::from_config(&Config::given([("letter", "e"), ("case", "upper")]));
        assert_eq!(refused.unwrap_err().code.as_deref(), Some(Config::INVALID));
    }
}
