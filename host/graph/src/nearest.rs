//! Finds what was meant by a name that does not exist. Never decides whether it exists.

use crate::port::Port;

/// How alike two texts must be, from 0 to 1, to be worth a suggestion. Half: `UserProfil` suggests `UserProfile`,
/// `Text` does not suggest `Movie`.
const ALIKE: f64 = 0.5;

/// Returns the candidate that looks most like the port, if any does; the first of equals.
pub(crate) fn nearest<'a>(port: &Port, candidates: impl Iterator<Item = &'a Port>) -> Option<&'a Port> {
    let wanted = port.to_string().to_lowercase();
    let mut best = (ALIKE, None);
    for candidate in candidates {
        let text = candidate.to_string().to_lowercase();
        // A package that was left out or differs says less than the message itself.
        let whole = strsim::normalized_damerau_levenshtein(&wanted, &text);
        let short = strsim::normalized_damerau_levenshtein(short(&wanted), short(&text));
        let score = f64::midpoint(whole, short);
        if score >= best.0 && (score > best.0 || best.1.is_none()) {
            best = (score, Some(candidate));
        }
    }
    best.1
}

/// Returns the text without the package; a label may have dots too.
pub(crate) fn short(port: &str) -> &str {
    let message = port.find('#').unwrap_or(port.len());
    port[..message].rfind('.').map_or(port, |dot| &port[dot + 1..])
}
