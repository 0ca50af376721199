//! Finds what was meant by a name that is not known. Never decides whether it is known.

/// How alike two names must be, from 0 to 1, to be worth a suggestion: as for ports in a graph.
const ALIKE: f64 = 0.5;

/// Returns `; did you mean …?` with the candidate that looks most like the name, or nothing.
pub(crate) fn meant<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let wanted = name.to_lowercase();
    let score = |candidate: &str| strsim::normalized_damerau_levenshtein(&wanted, &candidate.to_lowercase());
    candidates
        .into_iter()
        .map(|candidate| (score(candidate), candidate))
        .filter(|(score, _)| *score >= ALIKE)
        // The first of equals.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, candidate)| format!("; did you mean `{candidate}`?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_looks_alike_is_suggested() {
        let known = ["timeout", "memory", "fuel"];
        assert_eq!(meant("timout", known), "; did you mean `timeout`?");
        assert_eq!(meant("Memroy", known), "; did you mean `memory`?");
        assert_eq!(meant("grants", known), "");
        assert_eq!(meant("x", []), "");
    }
}
