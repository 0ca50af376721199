//! A text is split into its sentences, the words of each are counted on their own, and the counts come together.
//! Nobody says so anywhere: `split` gives many, `count` takes one, `summarise` takes many.

use docket_guest::{Failure, Many, StepResult};
use pb::{Sentence, Summary, Text, WordCount};

mod pb {
    docket_guest::include_proto!("wordcount.v1");
}

docket_guest::module!(step(split), step(count), step(summarise));

fn split(text: Text) -> StepResult<Many<Sentence>> {
    let sentences = text.text.split(['.', '!', '?']).map(str::trim).filter(|text| !text.is_empty());
    Ok(sentences.map(|text| Sentence { text: text.to_owned() }).collect())
}

fn count(sentence: Sentence) -> StepResult<WordCount> {
    if sentence.text.contains('\u{fffd}') {
        return Err(Failure::permanent(format!("`{}` is not text", sentence.text)));
    }
    let words = u32::try_from(sentence.text.split_whitespace().count())?;
    Ok(WordCount { sentence: sentence.text, words })
}

fn summarise(counts: Many<WordCount>) -> StepResult<Summary> {
    // The first of the longest: `max_by_key` would give the last.
    let longest = counts.iter().reduce(|best, next| if next.words > best.words { next } else { best });
    Ok(Summary {
        sentences: u32::try_from(counts.len())?,
        words: counts.iter().map(|count| count.words).sum(),
        longest: longest.map(|count| count.sentence.clone()).unwrap_or_default(),
    })
}
