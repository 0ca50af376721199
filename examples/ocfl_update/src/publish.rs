//! Makes a staged version the object's. Owns the order of what is written and moved, which is what makes every
//! moment but the last one harmless; never decides what the version holds.
//!
//! A new object is made whole in the staging directory and appears in the storage by one rename. A new version is
//! made whole there too; then three renames follow on each other: the version's directory, the sidecar, and last
//! the inventory. An object in which these have begun is finished by the next attempt.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use docket_guest::{Failure, StepResult};

use crate::files::{self, Placed, at};
use crate::inventory::{DECLARATION, INVENTORY, SIDECAR, sidecar};
use crate::pb::UpdatePlan;

/// Returns how many activities publishing a plan has: none where nothing changes.
pub(crate) fn count(plan: &UpdatePlan) -> u32 {
    match (plan.version.is_empty(), plan.base_version.is_empty()) {
        (true, _) => 0,
        (false, true) => 6,
        (false, false) => 5,
    }
}

/// Returns the object, or the part of it, that is staged.
pub(crate) fn staged_object(stage: &Path) -> PathBuf {
    stage.join("object")
}

/// Publishes what is staged, and tells `done` of each activity once it survives the loss of power.
///
/// # Errors
/// Permanent, where the object is no longer what the plan was made for, or what was staged is gone.
pub(crate) fn publish(
    storage: &Path,
    staging: &Path,
    stage: &Path,
    plan: &UpdatePlan,
    done: impl FnMut(String, Placed),
) -> StepResult<()> {
    files::make_dirs(&staged_object(stage).join(&plan.version), staging)?;
    let object = storage.join(&plan.object);
    let sidecar = sidecar(&files::sha512(&plan.inventory)).into_bytes();
    let mut publication = Publication { plan, object, stage, sidecar, done };
    if plan.base_version.is_empty() {
        publication.create(storage)?
    } else {
        publication.add_version()?
    }
    fs::remove_dir_all(stage).map_err(at(stage))
}

struct Publication<'a, D> {
    plan: &'a UpdatePlan,
    object: PathBuf,
    stage: &'a Path,
    sidecar: Vec<u8>,
    done: D,
}

impl<D: FnMut(String, Placed)> Publication<'_, D> {
    /// Completes the staged object, and moves it into the storage.
    fn create(&mut self, storage: &Path) -> StepResult<()> {
        let is_there = self.has(&self.object.join(INVENTORY), &self.plan.inventory)?;
        if !is_there {
            if self.object.exists() {
                return Err(self.has_changed());
            }
            self.check_content()?;
        }
        let (version, inventory) = (&self.plan.version, &self.plan.inventory);
        let sidecar = self.sidecar.clone();
        for (name, bytes) in [
            (format!("{version}/{INVENTORY}"), &inventory[..]),
            (format!("{version}/{SIDECAR}"), &sidecar),
            (DECLARATION.0.to_owned(), DECLARATION.1.as_bytes()),
            (SIDECAR.to_owned(), &sidecar),
            (INVENTORY.to_owned(), inventory),
        ] {
            let placed = if is_there { Placed::Found } else { self.stage(&name, bytes)? };
            (self.done)(format!("write {name}"), placed);
        }
        let parent = self.object.parent().unwrap_or(storage).to_owned();
        let placed = if is_there {
            Placed::Found
        } else {
            files::make_dirs(&parent, storage)?;
            self.claim(&staged_object(self.stage), &self.object)?;
            Placed::Written
        };
        files::sync(&parent)?;
        (self.done)("move the object into the storage".to_owned(), placed);
        Ok(())
    }

    /// Completes the staged version, and makes it the object's head.
    fn add_version(&mut self) -> StepResult<()> {
        let (version, inventory) = (&self.plan.version, &self.plan.inventory);
        let sidecar = self.sidecar.clone();
        let target = self.object.join(version);
        let is_moved = self.has(&target.join(INVENTORY), inventory)?;
        if !is_moved {
            let now = files::read(&self.object.join(INVENTORY))?.unwrap_or_default();
            if files::sha512(&now) != self.plan.base_sha512 {
                return Err(self.has_changed());
            }
            self.check_content()?;
        }
        for (name, bytes) in [(INVENTORY, &inventory[..]), (SIDECAR, &sidecar)] {
            let name = format!("{version}/{name}");
            let placed = if is_moved { Placed::Found } else { self.stage(&name, bytes)? };
            (self.done)(format!("write {name}"), placed);
        }
        // Written before the first of the three renames, so that nothing slow is between them.
        let last = [(SIDECAR, &sidecar[..]), (INVENTORY, inventory)];
        for (name, bytes) in last {
            self.stage(name, bytes)?;
        }
        if !is_moved {
            self.claim(&staged_object(self.stage).join(version), &target)?;
        }
        files::sync(&self.object)?;
        (self.done)(
            format!("move {version} into the object"),
            if is_moved { Placed::Found } else { Placed::Written },
        );
        for (name, bytes) in last {
            let target = self.object.join(name);
            let is_there = self.has(&target, bytes)?;
            if !is_there {
                fs::rename(staged_object(self.stage).join(name), &target).map_err(at(&target))?;
            }
            files::sync(&self.object)?;
            (self.done)(format!("replace {name}"), if is_there { Placed::Found } else { Placed::Written });
        }
        Ok(())
    }

    /// Writes a file of the staged object.
    fn stage(&self, name: &str, bytes: &[u8]) -> StepResult<Placed> {
        let target = staged_object(self.stage).join(name);
        files::place(bytes, name, &files::sha512(bytes), &target, &self.stage.join("draft"))
    }

    /// Moves a directory to where there is none. Of two updates that plan the same version one succeeds, because a
    /// directory that holds something is not replaced.
    fn claim(&self, from: &Path, to: &Path) -> StepResult<()> {
        fs::rename(from, to).map_err(|error| match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => self.has_changed(),
            ErrorKind::CrossesDevices => Failure::permanent(format!(
                "{} and {} lie on two file systems; give both directories on one",
                from.display(),
                to.display()
            )),
            _ => at(to)(error),
        })
    }

    /// A receipt that is kept says that a file was copied, not that nobody has removed it since.
    fn check_content(&self) -> StepResult<()> {
        for activity in self.plan.activities.iter().filter(|activity| !activity.content_path.is_empty()) {
            let path = staged_object(self.stage).join(&activity.content_path);
            if !fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == activity.bytes) {
                let sentence =
                    format!("{} was staged and is gone; begin a new execution", activity.content_path);
                return Err(Failure::permanent(sentence).code("stage_gone"));
            }
        }
        Ok(())
    }

    fn has(&self, path: &Path, bytes: &[u8]) -> StepResult<bool> {
        Ok(files::read(path)?.is_some_and(|found| found == bytes))
    }

    fn has_changed(&self) -> Failure {
        let object = &self.plan.object;
        Failure::permanent(format!(
            "`{object}` has changed since the update was planned; begin a new execution"
        ))
        .code("object_changed")
    }
}
