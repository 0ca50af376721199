//! `examples/ocfl_update` on the real program: an object that is updated, killed at every activity, and gone on with is
//! the same as one that nobody has disturbed, and ocfl-py says that it is valid. Asserts nothing of OCFL itself.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "ocfl/validator.rs"]
mod validator;
#[path = "ocfl/world.rs"]
mod world;

use std::fs;
use std::path::PathBuf;

use docket_tests::program::ended;
use docket_tests::repository;
use sha2::{Digest as _, Sha512};
use validator::{check_valid, faults};
use world::{FIRST, SECOND, Tree, World, tree};

/// One after the other, so that what comes after an activity that hangs is not done.
const IN_TURN: &str = "\nmax-concurrency = 1\n";

/// Both updates, and how many activities each has.
const UPDATES: [(&str, usize); 2] = [(FIRST, 10), (SECOND, 11)];

/// Returns a world in which the updates before this one are done.
fn before(update: &str, extra: &str) -> World {
    let world = World::new(extra);
    if update == SECOND {
        assert_eq!(world.run("first", FIRST, 0).ended().code, Some(0));
    }
    world
}

/// Returns where an execution stages: the first of the digits of its id's SHA-512.
fn stage(id: &str) -> String {
    let digest = Sha512::digest(id);
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_second_run_skips_every_file_and_makes_no_version() {
    let world = before(SECOND, "");
    let object = tree(&world.object());
    let again = world.run("again", FIRST, 0).ended();
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert!(again.out.contains("\"summary\": \"nothing has changed: `films` stays at v1\""), "{}", again.out);
    assert!(again.out.contains("\"copied\": 0"), "{}", again.out);
    assert_eq!(again.err.matches(": unchanged").count(), 4, "{}", again.err);
    assert_eq!(tree(&world.object()), object);
    assert!(world.is_tidy());
    check_valid(&[world.object()]);
}

#[test]
fn what_an_object_is_updated_to_is_what_the_source_holds() {
    let world = before(SECOND, "");
    assert_eq!(world.run("second", SECOND, 0).ended().code, Some(0));
    check_valid(&[world.object()]);
    let inventory = fs::read(world.object().join("inventory.json")).unwrap();
    let inventory: serde_json::Value = serde_json::from_slice(&inventory).unwrap();
    for (version, source) in [("v1", "first"), ("v2", "second")] {
        let state = inventory["versions"][version]["state"].as_object().unwrap();
        let mut held = Vec::new();
        for (digest, paths) in state {
            let content = inventory["manifest"][digest][0].as_str().unwrap();
            let content = fs::read(world.object().join(content)).unwrap();
            let paths = paths.as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned());
            held.extend(paths.map(|path| (path, Some(content.clone()))));
        }
        held.sort();
        let files = tree(&world.path().join("source").join(source));
        assert_eq!(held, files.into_iter().filter(|(_, content)| content.is_some()).collect::<Vec<_>>());
    }
}

#[test]
fn the_same_request_over_the_same_files_is_the_same_plan() {
    let plan = || {
        let world = before(SECOND, "");
        let mut command = world.command(["run", "--output", "ocfl.v1.UpdatePlan", "--input", SECOND]);
        let ended = ended(&mut command);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.out
    };
    let (one, other) = (plan(), plan());
    assert!(one.contains("\"version\": \"v2\""), "{one}");
    assert_eq!(one, other);
}

/// What a kill has left: the number of the activity, and the object then, if there was one.
struct Left {
    number: usize,
    object: Option<PathBuf>,
    /// Holds the object.
    _world: World,
}

/// Kills an update at each of its activities, goes on, and compares with one that nobody has disturbed. What
/// the kill has left is judged too.
fn killed_at_every_activity(update: &str, activities: usize, extra: &str, hangs: bool) {
    let whole = before(update, extra);
    let ended = whole.run("whole", update, 0).ended();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains(&format!("[{activities}/{activities}]")), "{}", ended.err);
    let (old, new) = (tree(&before(update, extra).object()), tree(&whole.object()));
    let mut left = Vec::new();
    for number in 1..=activities {
        let world = before(update, extra);
        let at = format!("[{number}/{activities}]");
        let mut process = world.run("killed", update, if hangs { number } else { 0 });
        assert!(process.says(&at), "{number}");
        let killed = process.killed();
        assert!(killed.code.is_none() || !hangs, "{number}: it has ended by itself: {killed:?}");
        let object = world.keep_object();
        let resumed = world.resume("killed").ended();
        assert_eq!(resumed.code, Some(0), "{number}: {}", resumed.err);
        assert!(tree(&world.object()) == new, "{number}: the object is another one: {}", resumed.err);
        assert!(world.is_tidy(), "{number}");
        if hangs {
            let line = resumed.err.lines().find(|line| line.contains(&at));
            let line = line.unwrap_or_else(|| panic!("{number} was not done again: {}", resumed.err));
            let writes = ![" skip ", " remove "].iter().any(|word| line.contains(word));
            assert_eq!(line.contains("which an earlier attempt has done"), writes, "{line}");
        }
        left.push(Left { number, object, _world: world });
    }
    judge(&left, &old, &new);
    let torn = left
        .iter()
        .filter(|left| left.object.as_ref().is_some_and(|path| ![&old, &new].contains(&&tree(path))));
    let torn: Vec<_> = torn.map(|left| left.number).collect();
    if hangs && update == SECOND {
        assert_eq!(torn, [activities - 2, activities - 1], "only between the last renames");
    }
    check_valid(&[whole.object()]);
}

/// Checks that each kill has left the old object or the new one, and that ocfl-py finds these valid; or one that was
/// between the last renames, and lacks only its root's inventory.
fn judge(left: &[Left], old: &Tree, new: &Tree) {
    let objects: Vec<_> = left.iter().filter_map(|left| left.object.clone()).collect();
    let mut faults = faults(&objects).into_iter();
    for Left { number, object, .. } in left {
        let Some(object) = object else {
            assert!(old.is_empty(), "{number}: the object is gone");
            continue;
        };
        let (fault, now) = (faults.next().unwrap(), tree(object));
        let is_whole = [old, new].contains(&&now);
        assert_eq!(fault.is_none(), is_whole, "{number}: {fault:?}");
        assert!(
            is_whole || but_for_the_root_inventory(&now) == but_for_the_root_inventory(new),
            "{number}: {fault:?}"
        );
    }
}

fn but_for_the_root_inventory(tree: &Tree) -> Vec<&(String, Option<Vec<u8>>)> {
    tree.iter().filter(|(path, _)| !path.starts_with("inventory.json")).collect()
}

#[test]
fn killed_when_an_activity_is_done_and_nobody_knows_and_resumed_the_object_is_the_same() {
    for (update, activities) in UPDATES {
        killed_at_every_activity(update, activities, IN_TURN, true);
    }
}

#[test]
fn killed_at_any_line_of_activities_side_by_side_and_resumed_the_object_is_the_same() {
    for (update, activities) in UPDATES {
        killed_at_every_activity(update, activities, "", false);
    }
}

#[test]
fn how_many_files_are_done_can_be_asked_of_what_was_killed_and_of_what_has_ended() {
    let world = before(SECOND, "");
    let shown = || ended(&mut world.command(["executions", "show", "killed"])).out;
    let check = |step: &str, status: &str, result: &str| {
        let (shown, row) = (shown(), [step, status, result]);
        let is_row =
            |line: &&str| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).take(3).eq(row);
        assert!(shown.lines().any(|line| is_row(&line)), "{row:?}: {shown}");
    };
    let mut process = world.run("killed", SECOND, 7);
    assert!(process.says("[7/11]"));
    process.killed();
    check("CarryOut", "done", "6 made");
    check("PlanUpdate", "done", "made");
    assert_eq!(world.resume("killed").ended().code, Some(0));
    check("CarryOut", "done", "6 found");
    check("Publish", "done", "made");

    let (world, _) = stuck();
    let shown = ended(&mut world.command(["executions", "show", "stuck", "--format", "json"])).out;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let step = shown["steps"].as_array().unwrap().iter().find(|step| step["step"] == "CarryOut").unwrap();
    let counts = ["made", "found", "open"].map(|name| step["elements"][name].as_u64().unwrap());
    assert_eq!((counts[0] + counts[2], counts[1]), (6, 0), "{step}");
    assert!(counts[2] >= 1 && step["key"].is_null(), "{step}");
}

/// Returns a world in which the second update has failed, because there is a directory where its sixth file is to
/// be written first; and that directory.
fn stuck() -> (World, PathBuf) {
    let world = before(SECOND, "");
    let draft = world.path().join("staging").join(stage("stuck")).join("draft-6");
    fs::create_dir_all(&draft).unwrap();
    let ended = world.run("stuck", SECOND, 0).ended();
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    let sentence = "step `CarryOut` failed for element 5 of `ListActivities` after 3 attempts";
    assert!(ended.err.contains(sentence), "{}", ended.err);
    assert!(ended.err.contains("draft-6"), "{}", ended.err);
    (world, draft)
}

#[test]
fn a_file_that_cannot_be_written_is_tried_three_times_and_gone_on_with_later() {
    let (world, draft) = stuck();
    check_valid(&[world.object()]);
    fs::remove_dir(draft).unwrap();
    let resumed = world.resume("stuck").ended();
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
    assert!(resumed.out.contains("`films` is at v2 now"), "{}", resumed.out);
    assert!(world.is_tidy());
    check_valid(&[world.object()]);
}

#[test]
fn a_source_that_has_changed_since_the_plan_is_refused() {
    let (world, draft) = stuck();
    let object = tree(&world.object());
    fs::remove_dir(draft).unwrap();
    fs::write(world.path().join("source/second/readme.txt"), "Other notes.\n").unwrap();
    let resumed = world.resume("stuck").ended();
    assert_eq!(resumed.code, Some(1), "{}", resumed.err);
    let sentence = "/source/second/readme.txt has changed since the update was planned";
    assert!(resumed.err.contains(sentence), "{}", resumed.err);
    assert_eq!(tree(&world.object()), object);
}

/// Kills the second update at its seventh activity, when every file is staged; changes the world, and goes on,
/// which fails and leaves the object as it is.
fn check_refused(change: impl FnOnce(&World), sentence: &str) {
    let world = before(SECOND, IN_TURN);
    let mut process = world.run("killed", SECOND, 7);
    assert!(process.says("[7/11]"));
    process.killed();
    change(&world);
    let object = tree(&world.object());
    let resumed = world.resume("killed").ended();
    assert_eq!(resumed.code, Some(1), "{}", resumed.err);
    assert!(resumed.err.contains(sentence), "{}", resumed.err);
    assert_eq!(tree(&world.object()), object);
    check_valid(&[world.object()]);
}

#[test]
fn an_object_that_has_changed_since_the_plan_is_refused() {
    let other = SECOND.replace("An archive", "The archive of another");
    let change = |world: &World| assert_eq!(world.run("other", &other, 0).ended().code, Some(0));
    check_refused(change, "`films` has changed since the update was planned");
}

#[test]
fn staged_content_that_somebody_has_removed_is_missed() {
    let change = |world: &World| {
        let stage = world.stages().pop().unwrap();
        fs::remove_file(stage.join("object/v2/content/readme.txt")).unwrap();
    };
    check_refused(change, "v2/content/readme.txt was staged and is gone");
}

#[test]
fn an_update_that_was_killed_between_its_last_renames_is_gone_on_with_and_not_followed_by_another() {
    for number in [9, 10] {
        let id = format!("killed-{number}");
        let world = before(SECOND, IN_TURN);
        let mut process = world.run(&id, SECOND, number);
        assert!(process.says(&format!("[{number}/11]")));
        process.killed();
        let other = world.run("other", FIRST, 0).ended();
        assert_eq!(other.code, Some(1), "{}", other.err);
        let sentence =
            "an update of `films` was killed in its last moment, or is there now; resume that execution";
        assert!(other.err.contains(sentence), "{}", other.err);
        assert_eq!(world.resume(&id).ended().code, Some(0));
        check_valid(&[world.object()]);
    }
}

#[test]
fn what_is_asked_is_checked_and_all_faults_come_at_once() {
    let world = World::new("");
    let input = r#"{"id":"urn:example:films","object":"../films","source":"first/"}"#;
    let ended = world.run("bad", input, 0).ended();
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    for fault in [
        "`message` is missing",
        "`user.name` is missing",
        "`object` = `../films` is no path below a directory",
        "`source` = `first/` is no path below a directory",
        "`created` is missing",
    ] {
        assert!(ended.err.contains(fault), "{}", ended.err);
    }
    assert_eq!(tree(&world.object()), []);
}

#[test]
fn the_readme_shows_what_an_update_says() {
    let readme = fs::read_to_string(repository().join("examples/ocfl_update/README.md")).unwrap();
    let shown = readme.split_once("```text\n").expect("the log is shown").1.split_once("```").unwrap().0;
    let ended = World::new("").run("first", FIRST, 0).ended();
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&ended.err), sorted(shown));
    assert_eq!(ended.code, Some(0));
}
