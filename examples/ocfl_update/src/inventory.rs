//! Owns the inventory of an OCFL object as data, and what must hold of an object before it can be updated. Never
//! decides what changes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use docket_guest::{Failure, StepResult};
use serde::{Deserialize, Serialize};

use crate::files;

/// The file that says that a directory is an OCFL object, and what it holds.
pub(crate) const DECLARATION: (&str, &str) = ("0=ocfl_object_1.1", "ocfl_object_1.1\n");
/// The inventory's name, and its sidecar's.
pub(crate) const INVENTORY: &str = "inventory.json";
pub(crate) const SIDECAR: &str = "inventory.json.sha512";

const TYPE: &str = "https://ocfl.io/1.1/spec/#inventory";
const ALGORITHM: &str = "sha512";

/// Paths by the digest of what they hold.
pub(crate) type Paths = BTreeMap<String, Vec<String>>;

/// `inventory.json`. What it does not know is refused, because it would be lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Inventory {
    pub(crate) id: String,
    r#type: String,
    digest_algorithm: String,
    pub(crate) head: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fixity: Option<BTreeMap<String, Paths>>,
    pub(crate) manifest: Paths,
    pub(crate) versions: BTreeMap<String, Version>,
}

/// One version of the object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Version {
    pub(crate) created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    pub(crate) state: Paths,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<User>,
}

/// Who made a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
}

/// The inventory that an object has, and the digest of its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) inventory: Inventory,
    pub(crate) sha512: String,
}

/// Returns the object's inventory, or none where there is no object.
///
/// # Errors
/// Permanent, where there is something that this cannot update.
pub(crate) fn read(object: &Path, name: &str) -> StepResult<Option<Current>> {
    let refused = |why: &str| Err(Failure::permanent(format!("`{name}` {why}")).code("object_refused"));
    let half = || {
        let sentence = format!(
            "an update of `{name}` was killed in its last moment, or is there now; resume that execution"
        );
        Failure::permanent(sentence).code("update_under_way")
    };
    if !object.is_dir() {
        return Ok(None);
    }
    if files::read(&object.join(DECLARATION.0))?.is_none() {
        return refused(&format!("is no OCFL 1.1 object: it has no `{}`", DECLARATION.0));
    }
    let Some(bytes) = files::read(&object.join(INVENTORY))? else {
        return refused(&format!("has no `{INVENTORY}`"));
    };
    let inventory: Inventory = match serde_json::from_slice(&bytes) {
        Ok(inventory) => inventory,
        Err(error) => return refused(&format!("has an inventory that cannot be read: {error}")),
    };
    if (&*inventory.r#type, &*inventory.digest_algorithm) != (TYPE, ALGORITHM) {
        let Inventory { r#type, digest_algorithm, .. } = inventory;
        return refused(&format!(
            "is of `{type}` with {digest_algorithm}; only OCFL 1.1 with {ALGORITHM} is updated"
        ));
    }
    if !inventory.versions.contains_key(&inventory.head) {
        return refused(&format!("has the head `{}`, which is no version of it", inventory.head));
    }
    let sha512 = files::sha512(&bytes);
    let is_torn = files::read(&object.join(SIDECAR))? != Some(sidecar(&sha512).into_bytes());
    if is_torn || object.join(inventory.next()?).exists() {
        return Err(half());
    }
    Ok(Some(Current { inventory, sha512 }))
}

/// Returns the sidecar of an inventory.
pub(crate) fn sidecar(sha512: &str) -> String {
    format!("{sha512} {INVENTORY}\n")
}

impl Inventory {
    /// Returns that of an object that has no version yet.
    pub(crate) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            r#type: TYPE.to_owned(),
            digest_algorithm: ALGORITHM.to_owned(),
            head: "v0".to_owned(),
            content_directory: None,
            fixity: None,
            manifest: Paths::new(),
            versions: BTreeMap::new(),
        }
    }

    /// Returns the name of the next version, with as many digits as the head's where those begin with a zero.
    pub(crate) fn next(&self) -> StepResult<String> {
        let refused = |why: &str| {
            Failure::permanent(format!("`{}` cannot be followed: {why}", self.head)).code("object_refused")
        };
        let digits = self.head.strip_prefix('v').unwrap_or_default();
        let number: u32 = digits.parse().map_err(|_| refused("it is no `v` and a number"))?;
        let next = number.checked_add(1).ok_or_else(|| refused("there is no greater number"))?;
        let is_padded = number > 0 && digits.starts_with('0');
        if !is_padded {
            return Ok(format!("v{next}"));
        }
        let padded = format!("v{next:0width$}", width = digits.len());
        let fits = padded.starts_with("v0") && padded.len() == self.head.len();
        fits.then_some(padded).ok_or_else(|| refused("all of its digits are used up"))
    }

    /// Returns the name of the directory of a version's content.
    pub(crate) fn content_directory(&self) -> &str {
        self.content_directory.as_deref().unwrap_or("content")
    }

    /// Returns what the head holds: the digest under each path, in small letters.
    pub(crate) fn state(&self) -> BTreeMap<&str, String> {
        let state = self.versions.get(&self.head).map(|version| &version.state);
        let pairs = state.into_iter().flatten();
        pairs.flat_map(|(digest, paths)| paths.iter().map(|path| (&**path, digest.to_lowercase()))).collect()
    }

    /// Returns what the object has: the digest as the manifest writes it, and the first of its content's paths, by
    /// the digest in small letters.
    pub(crate) fn contents(&self) -> HashMap<String, (String, String)> {
        let first = |paths: &[String]| paths.first().cloned().unwrap_or_default();
        self.manifest
            .iter()
            .map(|(digest, paths)| (digest.to_lowercase(), (digest.clone(), first(paths))))
            .collect()
    }

    /// Returns it with one more version, which is its head.
    pub(crate) fn with(mut self, name: &str, version: Version, manifest: Paths) -> Self {
        self.versions.insert(name.to_owned(), version);
        Self { head: name.to_owned(), manifest, ..self }
    }

    /// Returns it as bytes: always the same for the same inventory.
    pub(crate) fn to_bytes(&self) -> StepResult<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(Failure::permanent)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_next_version_has_the_form_of_the_last() {
        for (head, next) in
            [("v1", "v2"), ("v9", "v10"), ("v0001", "v0002"), ("v009", "v010"), ("v098", "v099")]
        {
            let inventory = Inventory { head: head.into(), ..Inventory::new("") };
            assert_eq!(inventory.next(), Ok(next.to_owned()));
        }
        for (head, why) in [
            ("v099", "all of its digits are used up"),
            ("v09", "all of its digits are used up"),
            ("1", "it is no `v` and a number"),
            ("v4294967295", "there is no greater number"),
        ] {
            let failure = Inventory { head: head.into(), ..Inventory::new("") }.next().unwrap_err();
            assert_eq!(failure.message, format!("`{head}` cannot be followed: {why}"));
        }
    }

    /// Returns the failure at an object that is well but for one thing.
    fn check(spoil: impl FnOnce(&Path), expected: Result<bool, &str>) {
        let dir = tempfile::tempdir().unwrap();
        let object = dir.path().join("o");
        fs::create_dir(&object).unwrap();
        let version = Version { created: String::new(), message: None, state: Paths::new(), user: None };
        let bytes = Inventory::new("urn:example:o").with("v1", version, Paths::new()).to_bytes().unwrap();
        fs::write(object.join(DECLARATION.0), DECLARATION.1).unwrap();
        fs::write(object.join(INVENTORY), &bytes).unwrap();
        fs::write(object.join(SIDECAR), sidecar(&files::sha512(&bytes))).unwrap();
        spoil(&object);
        let read = read(&object, "o").map(|current| current.is_some()).map_err(|failure| failure.message);
        assert_eq!(read, expected.map_err(str::to_owned));
    }

    /// Replaces a part of the inventory, and its sidecar with it.
    fn rewrite(object: &Path, from: &str, to: &str) {
        let text = fs::read_to_string(object.join(INVENTORY)).unwrap();
        assert!(text.contains(from), "{text}");
        let text = text.replace(from, to);
        fs::write(object.join(SIDECAR), sidecar(&files::sha512(text.as_bytes()))).unwrap();
        fs::write(object.join(INVENTORY), text).unwrap();
    }

    #[test]
    fn what_cannot_be_updated_is_refused_by_name() {
        check(|_| {}, Ok(true));
        check(|object| fs::remove_dir_all(object).unwrap(), Ok(false));
        let spoil = |object: &Path| fs::remove_file(object.join(DECLARATION.0)).unwrap();
        check(spoil, Err("`o` is no OCFL 1.1 object: it has no `0=ocfl_object_1.1`"));
        check(|object| fs::remove_file(object.join(INVENTORY)).unwrap(), Err("`o` has no `inventory.json`"));
        check(
            |object| rewrite(object, "\"sha512\"", "\"sha256\""),
            Err(
                "`o` is of `https://ocfl.io/1.1/spec/#inventory` with sha256; only OCFL 1.1 with sha512 is updated",
            ),
        );
        check(
            |object| rewrite(object, "\"head\": \"v1\"", "\"head\": \"v2\""),
            Err("`o` has the head `v2`, which is no version of it"),
        );
        let half = "an update of `o` was killed in its last moment, or is there now; resume that execution";
        check(|object| fs::write(object.join(SIDECAR), "0 inventory.json\n").unwrap(), Err(half));
        check(|object| fs::create_dir(object.join("v2")).unwrap(), Err(half));
    }

    #[test]
    fn what_is_not_known_of_an_inventory_is_not_lost() {
        let message = "`o` has an inventory that cannot be read: unknown field `colour`, expected one of `id`, `type`, \
            `digestAlgorithm`, `head`, `contentDirectory`, `fixity`, `manifest`, `versions` at line 2 column 10";
        check(|object| rewrite(object, "{\n  \"id\"", "{\n  \"colour\": 1, \"id\""), Err(message));
    }
}
