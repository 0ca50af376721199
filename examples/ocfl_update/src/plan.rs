//! Decides what an update does. Never touches a file and never reads a clock: the same request, object and listing
//! give the same plan, byte for byte.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use docket_guest::{Failure, StepResult};

use crate::files::Found;
use crate::inventory::{Current, Inventory, Paths, User, Version};
use crate::pb::{self, Action, Activity, Update, UpdatePlan};
use crate::publish;

/// Checks that the request says all that it must.
///
/// # Errors
/// Permanent, with all faults at once.
pub(crate) fn check(update: &Update) -> StepResult<()> {
    let Update { id, object, source, created, message, user, hang_at: _ } = update;
    let mut faults = Vec::new();
    let user = user.as_ref().map(|user| &*user.name).unwrap_or_default();
    for (name, text) in [("id", &**id), ("message", message), ("user.name", user)] {
        if text.is_empty() {
            faults.push(format!("`{name}` is missing"));
        }
    }
    for (name, path) in [("object", object), ("source", source)] {
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            faults.push(format!("`{name}` = `{path}` is no path below a directory"));
        }
    }
    if created.is_none() {
        faults.push("`created` is missing: it is the new version's time, and no clock is read".to_owned());
    }
    if faults.is_empty() { Ok(()) } else { Err(Failure::permanent(faults.join("; ")).code("bad_update")) }
}

/// Returns the plan of an update.
///
/// # Errors
/// Permanent, where the object is another one, or the request asks for what is not there.
pub(crate) fn plan(
    update: Update,
    current: Option<Current>,
    listing: &BTreeMap<String, Found>,
) -> StepResult<UpdatePlan> {
    let Update { id, object, source, created, message, user, hang_at } = update;
    let (base_version, base_sha512, base) = match current {
        Some(Current { inventory, sha512 }) => (inventory.head.clone(), sha512, inventory),
        None => (String::new(), String::new(), Inventory::new(&id)),
    };
    if base.id != id {
        return Err(Failure::permanent(format!("`{object}` is the object `{}`, not `{id}`", base.id))
            .code("bad_update"));
    }
    let mut draft = Draft::new(&base, &source)?;
    let paths: BTreeSet<&str> = draft.old.keys().copied().chain(listing.keys().map(|path| &**path)).collect();
    for path in paths {
        draft.decide(path, listing.get(path));
    }
    let Draft { old, new, state, manifest, version, mut activities, .. } = draft;
    let has_changed = base_version.is_empty() || old != new;
    let mut plan = UpdatePlan { id, object, base_version, base_sha512, hang_at, ..UpdatePlan::default() };
    if has_changed {
        let created = created.map(|created| created.to_string()).unwrap_or_default();
        let user = user.map(|pb::User { name, address }| User {
            name,
            address: Some(address).filter(|address| !address.is_empty()),
        });
        let made = Version { created, message: Some(message), state, user };
        plan.inventory = base.clone().with(&version, made, manifest).to_bytes()?;
        plan.version = version;
    }
    let of = u32::try_from(activities.len())? + publish::count(&plan);
    if hang_at > of {
        let sentence = format!("`hang_at` = {hang_at}, and there are {of} activities");
        return Err(Failure::permanent(sentence).code("bad_update"));
    }
    for (number, activity) in (1..).zip(&mut activities) {
        (activity.number, activity.of, activity.hangs) = (number, of, number == hang_at);
    }
    plan.activities = activities;
    Ok(plan)
}

/// What is decided so far.
struct Draft<'a> {
    source: &'a str,
    /// The version that is made, if anything changes.
    version: String,
    content: String,
    /// What the object's head holds, and what the new one will: digests by path.
    old: BTreeMap<&'a str, String>,
    new: BTreeMap<&'a str, String>,
    /// What the object has anywhere: the digest as it is written, and a path of its content.
    known: HashMap<String, (String, String)>,
    manifest: Paths,
    state: Paths,
    activities: Vec<Activity>,
}

impl<'a> Draft<'a> {
    fn new(base: &'a Inventory, source: &'a str) -> StepResult<Self> {
        let version = base.next()?;
        Ok(Self {
            source,
            content: format!("{version}/{}", base.content_directory()),
            version,
            old: base.state(),
            new: BTreeMap::new(),
            known: base.contents(),
            manifest: base.manifest.clone(),
            state: Paths::new(),
            activities: Vec::new(),
        })
    }

    /// Decides about one path, of which the source has what was found.
    fn decide(&mut self, path: &'a str, found: Option<&Found>) {
        let before = self.old.get(path);
        let activity = match found {
            None => nothing(path, Action::Remove, "no longer in the source"),
            Some(Found::Other(reason)) if before.is_some() => nothing(path, Action::Remove, reason),
            Some(Found::Other(reason)) => nothing(path, Action::Skip, reason),
            Some(Found::File { sha512, .. }) if before == Some(sha512) => {
                self.hold(path, sha512);
                nothing(path, Action::Skip, "unchanged")
            }
            Some(Found::File { sha512, .. }) if self.known.contains_key(sha512) => {
                let (_, content) = self.hold(path, sha512);
                nothing(path, Action::Skip, &format!("its content is {content}"))
            }
            Some(Found::File { sha512, bytes }) => {
                let action = if before.is_some() { Action::Update } else { Action::Add };
                let content_path = format!("{}/{path}", self.content);
                self.manifest.insert(sha512.clone(), vec![content_path.clone()]);
                self.known.insert(sha512.clone(), (sha512.clone(), content_path.clone()));
                self.hold(path, sha512);
                let (source, sha512) = (format!("{}/{path}", self.source), sha512.clone());
                Activity { source, content_path, sha512, bytes: *bytes, ..nothing(path, action, "") }
            }
        };
        self.activities.push(activity);
    }

    /// Puts content that is known under a path of the new version; returns its digest as it is written, and where
    /// it lies.
    fn hold(&mut self, path: &'a str, sha512: &str) -> (String, String) {
        self.new.insert(path, sha512.to_owned());
        let known = self.known.get(sha512).cloned().unwrap_or_else(|| (sha512.to_owned(), String::new()));
        self.state.entry(known.0.clone()).or_default().push(path.to_owned());
        known
    }
}

/// Returns the activity that copies nothing.
fn nothing(path: &str, action: Action, reason: &str) -> Activity {
    let (path, reason) = (path.to_owned(), reason.to_owned());
    Activity { path, reason, action: action.into(), ..Activity::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    fn update() -> Update {
        Update {
            id: "urn:example:o".into(),
            object: "o".into(),
            source: "s".into(),
            created: Some("2026-11-21T09:00:00Z".parse().unwrap()),
            message: "m".into(),
            user: Some(pb::User { name: "Ada".into(), address: String::new() }),
            hang_at: 0,
        }
    }

    /// Returns a listing of files by their content; `/` stands for an empty directory.
    fn listing(files: &[(&str, &str)]) -> BTreeMap<String, Found> {
        let found = |content: &str| match content {
            "/" => Found::Other("an empty directory"),
            _ => Found::File { sha512: files::sha512(content.as_bytes()), bytes: content.len() as u64 },
        };
        files.iter().map(|(path, content)| ((*path).to_owned(), found(content))).collect()
    }

    /// Plans one update after the other; returns the last plan.
    fn planned(updates: &[&[(&str, &str)]]) -> UpdatePlan {
        let mut current = None;
        let mut last = UpdatePlan::default();
        for files in updates {
            last = plan(update(), current.clone(), &listing(files)).unwrap();
            if !last.version.is_empty() {
                let inventory = serde_json::from_slice(&last.inventory).unwrap();
                current = Some(Current { inventory, sha512: files::sha512(&last.inventory) });
            }
        }
        last
    }

    /// Checks what the last of some updates does, as `version`, and a line for each activity.
    fn check(updates: &[&[(&str, &str)]], version: &str, activities: &[&str]) {
        let plan = planned(updates);
        let lines = plan.activities.iter().map(|activity| {
            let Activity { number, of, path, reason, content_path, .. } = activity;
            format!("{number}/{of} {:?} {path}: {reason}{content_path}", activity.action())
        });
        let lines: Vec<_> = lines.collect();
        assert_eq!(
            (plan.version.as_str(), lines),
            (version, activities.iter().map(|line| (*line).to_owned()).collect())
        );
    }

    #[test]
    fn new_content_is_copied_once_and_known_content_not_at_all() {
        check(
            &[&[("b", "two"), ("a", "one"), ("c", "one")]],
            "v1",
            &[
                "1/9 Add a: v1/content/a",
                "2/9 Add b: v1/content/b",
                "3/9 Skip c: its content is v1/content/a",
            ],
        );
        check(
            &[&[("a", "one"), ("b", "two")], &[("a", "two"), ("b", "three"), ("c", "one")]],
            "v2",
            &[
                "1/8 Skip a: its content is v1/content/b",
                "2/8 Update b: v2/content/b",
                "3/8 Skip c: its content is v1/content/a",
            ],
        );
    }

    #[test]
    fn what_is_gone_is_removed_and_known_again_when_it_comes_back() {
        let gone = ["1/6 Remove a: no longer in the source"];
        check(&[&[("a", "one")], &[]], "v2", &gone);
        check(&[&[("a", "one")], &[], &[("a", "one")]], "v3", &["1/6 Skip a: its content is v1/content/a"]);
    }

    #[test]
    fn where_nothing_changes_there_is_no_version() {
        check(&[&[("a", "one")], &[("a", "one")]], "", &["1/1 Skip a: unchanged"]);
        check(&[&[], &[]], "", &[]);
        // What an object cannot hold changes nothing, unless it takes the place of what it held.
        check(&[&[], &[("d", "/")]], "", &["1/1 Skip d: an empty directory"]);
        check(&[&[("d", "one")], &[("d", "/")]], "v2", &["1/6 Remove d: an empty directory"]);
    }

    #[test]
    fn a_new_object_may_be_empty() {
        check(&[&[]], "v1", &[]);
    }

    #[test]
    fn another_object_and_a_number_that_is_none_are_refused() {
        let Update { id, .. } = update();
        let inventory = Inventory::new("urn:example:other");
        let current = Current { inventory, sha512: String::new() };
        let failure = plan(update(), Some(current), &BTreeMap::new()).unwrap_err();
        assert_eq!(failure.message, format!("`o` is the object `urn:example:other`, not `{id}`"));
        let failure = plan(Update { hang_at: 7, ..update() }, None, &BTreeMap::new()).unwrap_err();
        assert_eq!(failure.message, "`hang_at` = 7, and there are 6 activities");
    }
}
