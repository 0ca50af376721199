//! How many times the letter R stands in a word, whatever its case.

use docket_guest::StepResult;
use pb::{LetterCount, Word};

mod pb {
    docket_guest::include_proto!("lettercount.v1");
}

docket_guest::module!(step(count_letters));

fn count_letters(word: Word) -> StepResult<LetterCount> {
    let r = word.text.chars().filter(|letter| letter.eq_ignore_ascii_case(&'r')).count();
    Ok(LetterCount { word: word.text, r: u32::try_from(r)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_r_counts_once() {
        for (word, r) in [("strawberry", 3), ("raspberry", 3), ("apple", 0), ("RACEAR", 2), ("", 0)] {
            assert_eq!(count_letters(Word { text: word.into() }), Ok(LetterCount { word: word.into(), r }));
        }
    }
}
