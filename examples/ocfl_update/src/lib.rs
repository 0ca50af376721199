//! An update of an OCFL object that can be killed at any moment and gone on with. `PlanUpdate` reads the world once
//! and decides everything; `CarryOut` copies one file, beside the others; `Publish` writes the inventories and
//! moves the new version into the object. Owns the steps and what they log; the work is in the modules.

#![expect(clippy::print_stdout, reason = "a step's stdout is its log")]

mod files;
mod inventory;
mod plan;
mod publish;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use docket_guest::{Invocation, Many, Retry, Scope, StepResult};
use files::Placed;
use pb::{Action, Activity, Receipt, Update, UpdatePlan, Updated};

mod pb {
    docket_guest::include_proto!("ocfl.v1");
}

/// Longer than it takes to read, or to copy, what one attempt may.
const ATTEMPT: Duration = Duration::from_secs(600);

docket_guest::module!(
    step(plan_update).version("1").keep(Scope::Workflow).timeout(ATTEMPT),
    step(list_activities).version("1"),
    step(carry_out).version("1").keep(Scope::Workflow).timeout(ATTEMPT).retry(retry()),
    step(publish).version("1").keep(Scope::Workflow).timeout(ATTEMPT).retry(retry()),
);

/// A disk that fails for a moment is asked again after 100 ms, and after 200 ms more.
fn retry() -> Retry {
    Retry::linear(3, Duration::from_millis(100))
}

/// How long the activity of `hang_at` hangs: longer than a process that is to be killed lives.
const HANGS: Duration = Duration::from_secs(20);

/// The directories, where the grants of `docket.toml` put them.
const SOURCE: &str = "/source";
const STORAGE: &str = "/storage";
const STAGING: &str = "/staging";

/// Reads the source and the object, and decides what will be done.
fn plan_update(update: Update) -> StepResult<UpdatePlan> {
    plan::check(&update)?;
    let current = inventory::read(&Path::new(STORAGE).join(&update.object), &update.object)?;
    let listing = files::list(&Path::new(SOURCE).join(&update.source))?;
    plan::plan(update, current, &listing)
}

/// Hands the activities out, so that the next step runs once for each.
fn list_activities(plan: UpdatePlan) -> StepResult<Many<Activity>> {
    Ok(plan.activities.into())
}

/// Copies one file into the new version, or says why not.
fn carry_out(call: Invocation, activity: Activity) -> StepResult<Receipt> {
    let Activity { number, of, path, reason, content_path, bytes, .. } = &activity;
    let action = activity.action();
    let (word, what) = match action {
        Action::Add | Action::Update => {
            let placed = copy(&stage(&call), &activity)?;
            let word = if action == Action::Add { "add" } else { "update" };
            (word, format!("{bytes} bytes to {content_path}{}", said(placed)))
        }
        Action::Skip => ("skip", reason.clone()),
        Action::Remove => ("remove", reason.clone()),
        Action::Unspecified => unreachable!("every activity of a plan has an action"),
    };
    println!("[{number}/{of}] {word} {path}: {what}");
    hang(&call, activity.hangs);
    let copied = if content_path.is_empty() { 0 } else { *bytes };
    Ok(Receipt {
        number: *number,
        action: activity.action,
        content_path: activity.content_path,
        bytes: copied,
    })
}

fn copy(stage: &Path, activity: &Activity) -> StepResult<Placed> {
    let Activity { number, source, content_path, sha512, .. } = activity;
    let target = publish::staged_object(stage).join(content_path);
    files::make_dirs(target.parent().unwrap_or(stage), Path::new(STAGING))?;
    let draft = stage.join(format!("draft-{number}"));
    let source = Path::new(SOURCE).join(source);
    files::place(files::open(&source)?, &source.to_string_lossy(), sha512, &target, &draft)
}

/// Writes the inventories, and makes the new version the object's.
fn publish(call: Invocation, plan: UpdatePlan, receipts: Many<Receipt>) -> StepResult<Updated> {
    let UpdatePlan { id, object, base_version, version, activities, .. } = &plan;
    let counted = |actions: &[Action]| receipts.iter().filter(|one| actions.contains(&one.action())).count();
    let copied = u32::try_from(counted(&[Action::Add, Action::Update]))?;
    let (skipped, removed) =
        (u32::try_from(counted(&[Action::Skip]))?, u32::try_from(counted(&[Action::Remove]))?);
    let bytes = receipts.iter().map(|receipt| receipt.bytes).sum();
    let (version, summary) = if version.is_empty() {
        (base_version, format!("nothing has changed: `{object}` stays at {base_version}"))
    } else {
        let mut number = u32::try_from(activities.len())?;
        let of = number + publish::count(&plan);
        publish::publish(Path::new(STORAGE), Path::new(STAGING), &stage(&call), &plan, |what, placed| {
            number += 1;
            println!("[{number}/{of}] {what}{}", said(placed));
            hang(&call, number == plan.hang_at);
        })?;
        (version, format!("`{object}` is at {version} now"))
    };
    println!("{summary}");
    Ok(Updated { id: id.clone(), version: version.clone(), copied, skipped, removed, bytes, summary })
}

/// Returns where an execution gathers the new version. The id is hashed, because it may hold what a path cannot.
fn stage(call: &Invocation) -> PathBuf {
    let name = &files::sha512(call.execution_id.as_bytes())[..16];
    Path::new(STAGING).join(name)
}

fn said(placed: Placed) -> &'static str {
    match placed {
        Placed::Written => "",
        Placed::Found => ", which an earlier attempt has done",
    }
}

fn hang(call: &Invocation, hangs: bool) {
    if hangs && call.attempt == 1 {
        thread::sleep(HANGS);
    }
}
