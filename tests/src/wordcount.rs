//! The messages of the example that counts the words of sentences, as its `.proto` has them. Owns nothing else.

use prost::Message;

/// A text, and a sentence as well: each is a message whose first field is a text.
#[derive(Clone, PartialEq, Message)]
pub struct Text {
    /// The text.
    #[prost(string, tag = "1")]
    pub text: String,
}

/// How many words a sentence has.
#[derive(Clone, PartialEq, Message)]
pub struct WordCount {
    /// The sentence.
    #[prost(string, tag = "1")]
    pub sentence: String,
    /// How many.
    #[prost(uint32, tag = "2")]
    pub words: u32,
}

/// What all sentences are together.
#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    /// How many sentences.
    #[prost(uint32, tag = "1")]
    pub sentences: u32,
    /// How many words they have together.
    #[prost(uint32, tag = "2")]
    pub words: u32,
    /// The sentence with the most words.
    #[prost(string, tag = "3")]
    pub longest: String,
}
