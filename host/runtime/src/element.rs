//! Owns how it is said for which element something was done. Never decides which elements there are.

use std::fmt;

use docket_graph::StepName;
use serde::{Deserialize, Serialize};

/// Which element of which list something was done for: the lists around it from the outermost, with the index in each.
/// Empty for what is done once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ElementPath(pub Box<[ElementIndex]>);

/// One element of one list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ElementIndex {
    /// The step that gave the list; none for the items of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<StepName>,
    /// From 0.
    pub index: u64,
}

impl ElementPath {
    /// Returns whether this is of what is done once.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether it comes before another one of the same step: in the order of the lists, from the outermost.
    pub(crate) fn comes_before(&self, other: &Self) -> bool {
        let indices = |path: &Self| path.0.iter().map(|element| element.index).collect::<Vec<_>>();
        indices(self) < indices(other)
    }

    /// Returns which item of a batch this is of, or within.
    pub fn item(&self) -> Option<u64> {
        self.0.first().filter(|outermost| outermost.of.is_none()).map(|outermost| outermost.index)
    }
}

impl fmt::Display for ElementPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, ElementIndex { of, index }) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            match of {
                None => write!(f, "item {index}")?,
                Some(step) => write!(f, "element {index} of `{step}`")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_each_list_from_the_outermost() {
        let of = |step: &str| Some(StepName::parse(step).unwrap());
        let item = ElementIndex { of: None, index: 17 };
        let element = ElementIndex { of: of("Split"), index: 3 };
        let cases = [
            (vec![], "", None, "[]"),
            (vec![item.clone()], "item 17", Some(17), r#"[{"index":17}]"#),
            (vec![element.clone()], "element 3 of `Split`", None, r#"[{"of":"Split","index":3}]"#),
            (
                vec![item, element],
                "item 17, element 3 of `Split`",
                Some(17),
                r#"[{"index":17},{"of":"Split","index":3}]"#,
            ),
        ];
        for (path, words, of_item, json) in cases {
            let path = ElementPath(path.into());
            assert_eq!((path.to_string().as_str(), path.item()), (words, of_item));
            assert_eq!(serde_json::to_string(&path).unwrap(), json);
            assert_eq!(serde_json::from_str::<ElementPath>(json).unwrap(), path);
        }
    }
}
