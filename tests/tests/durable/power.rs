//! What is kept through the loss of power: of all that was written, only what was synced is sure to be there.
//!
//! The program carries a batch out under strace, which sees each call that changes a file ([`trace`]) and each line
//! by which a result is acknowledged. At moments drawn by a seed the power goes: what a disk may hold then ([`disk`],
//! [`file`]) is made as a directory, opened, compared with what was promised until then, and gone on with. The
//! second run is traced too, and loses its power as well: what it writes over is what the first has left.
//!
//! The model is what POSIX promises and no more, so it is stricter than any one file system:
//!
//! - `fsync` and `fdatasync` make safe what was written to the file by calls that were over when the sync began,
//!   with the length that this needs (POSIX.1-2017, fsync and fdatasync), once they have returned.
//! - Of what was written since, each page (4 KiB, or a sector of 512 bytes, for what is torn) may be as it was after
//!   any of the writes to it, whatever came of the others. The file is as long as it was at any time since; what
//!   was not written in between is zeros. ext4 does this where it overwrites, and where files grow it is kinder
//!   (`data=ordered`: data before the length that covers it).
//! - A name that was made, changed or taken away is safe once its directory was synced: syncing the file need not
//!   do that (fsync(2)), though ext4 does. Without that, of the changes in a directory the first few are there.
//! - `sync_file_range` makes nothing safe: neither lengths nor what the disk holds back (sync_file_range(2)).
//!
//! The store's own tests take the power of sled alone, at a kill, and leave nothing that was not synced
//! (`host/store/tests/sled/crash.rs`). Here some of it is left, which is worse: what was written over may be gone while
//! what took its place is not there.
//!
//! What is mapped into memory is not seen: only SQLite's `-shm` is, which is made anew. `DOCKET_TORTURE=1` loses the
//! power some thousand times.

#[path = "power/trace.rs"]
mod trace;
#[path = "power/file.rs"]
mod file;
#[path = "power/disk.rs"]
mod disk;
#[path = "power/checked.rs"]
mod checked;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use docket_tests::program::{Ended, Modules, ended};
use docket_tests::stores::{Backend, try_records, word};
use serde_json::Value;

use super::killing::{Chance, chain};
use checked::{Checked, results};
use disk::Disk;
use file::Luck;
use trace::{Step, steps};

/// The name of each batch.
const BATCH: &str = "power";

/// About how many of the last steps are those of a store that is closed.
const CLOSING: usize = 40;

/// What is carried out, and how often its power goes.
struct Trouble {
    /// How many items there are, of five steps, each of which keeps some five thousand bytes.
    items: usize,
    /// How many losses are only looked at.
    looked_at: usize,
    /// How many are gone on with, and how many losses each of these has itself.
    gone_on_with: usize,
    again: usize,
}

/// How many runs of the program are looked at: each lays the store out in another way.
fn rounds() -> u64 {
    if std::env::var_os("DOCKET_TORTURE").is_some() { 20 } else { 1 }
}

/// Small results, all of which stay in the log of the sled store until it is closed.
fn small() -> Trouble {
    Trouble { items: 60, looked_at: 80, gone_on_with: 5, again: 15 }
}

/// More than the log takes in one turn: the rest goes into sled's tree while others are acknowledged.
fn large() -> Trouble {
    Trouble { items: 800, looked_at: 30, gone_on_with: 1, again: 10 }
}

#[test]
fn no_loss_of_power_loses_or_repeats_what_sled_keeps() {
    lose_power(Backend::Sled, &small());
}

/// What sled does when it opens a store, whatever its layout: few of them have something to be written over then.
#[test]
fn the_name_of_a_summary_is_safe_before_sled_writes_to_its_database_again() {
    let (modules, place, dir) = (chain(), Backend::Sled.place(), tempfile::tempdir().unwrap());
    let (items, left) = (dir.path().join("items.jsonl"), dir.path().join("left"));
    std::fs::write(&items, "{\"id\":\"u\"}\n").unwrap();
    let before = ended(&mut modules.command(&place.url, ["batch", "--items", &items.to_string_lossy()]));
    assert_eq!(before.code, Some(0), "{}", before.err);
    let Run { mut disk, steps, .. } = Run::new(&modules, &items, place.dir(), &place.url, false);
    let mut summary: Option<&Path> = None;
    for step in &steps {
        let writes = matches!(step, Step::WriteBegins { .. });
        if let Some(summary) = summary.filter(|_| writes)
            && disk.place(step).is_some_and(|path| path.ends_with("db"))
        {
            disk.leave(&left, Luck::None, &mut Chance(42));
            let summary = left.join(summary.strip_prefix(place.dir()).unwrap());
            assert!(summary.exists(), "{} is not safe", summary.display());
            return;
        }
        disk.take(step);
        if let Step::Renamed { to, .. } = step
            && to.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap."))
        {
            summary.get_or_insert(to);
        }
    }
    panic!("sled has not written a summary, and then to its database");
}

#[test]
fn no_loss_of_power_loses_what_sled_is_taking_into_its_tree() {
    lose_power(Backend::Sled, &large());
}

#[test]
fn no_loss_of_power_loses_or_repeats_what_sqlite_keeps() {
    lose_power(Backend::Sqlite, &small());
}

#[test]
fn no_loss_of_power_loses_what_sqlite_takes_out_of_its_log() {
    lose_power(Backend::Sqlite, &large());
}

fn lose_power(backend: Backend, trouble: &Trouble) {
    (0..rounds()).for_each(|round| lose_power_of_one_run(backend, trouble, round));
}

fn lose_power_of_one_run(backend: Backend, trouble: &Trouble, round: u64) {
    let Trouble { items, looked_at, gone_on_with, again } = trouble;
    let (modules, place, dir) = (chain(), backend.place(), tempfile::tempdir().unwrap());
    let file = dir.path().join("items.jsonl");
    let words = (0..*items).map(|n| format!("{{\"id\":\"u{n}\"}}\n"));
    std::fs::write(&file, words.collect::<String>()).unwrap();

    let first = Run::new(&modules, &file, place.dir(), &place.url, false);
    let whole = results(&try_records(&place.url).unwrap());
    assert_eq!(whole.len(), items * 5, "one result a step and item");
    let mut checked = Checked::against(whole, first.out.clone());
    let mut chance = Chance(42 + 2 * round);
    let left = dir.path().join("left");
    let url = place.url.replace(&*place.dir().to_string_lossy(), &left.to_string_lossy());
    first.lose(*looked_at, &left, &mut chance, |loss| {
        checked.look(&url, loss, &BTreeSet::new());
    });
    let mut more = Chance(43 + 2 * round);
    first.lose(*gone_on_with, &left, &mut chance, |loss| {
        checked.go_on(&modules, &file, &url, loss, *again, &mut more);
    });
    checked.check(backend, looked_at + gone_on_with * (again + 1));
}

/// A loss of power.
struct Loss<'a> {
    /// What it leaves.
    left: &'a Path,
    /// The keys of the results that were acknowledged before.
    promised: BTreeSet<&'a str>,
    /// Which one it is.
    what: String,
}

/// One run of the program, as strace has seen it.
struct Run {
    /// The disk before it.
    disk: Disk,
    steps: Vec<Step>,
    /// The keys of the results that were acknowledged, and by which step.
    promises: Vec<(usize, String)>,
    /// The keys of what was started.
    started: BTreeSet<String>,
    out: String,
}

impl Run {
    /// Carries the batch out, or goes on with it by its name alone, in a directory.
    fn new(modules: &Modules, items: &Path, dir: &Path, url: &str, by_name: bool) -> Self {
        let disk = Disk::of(dir);
        let items = items.to_string_lossy();
        let batch: &[&str] = &["batch", "-v", "-v", "--execution-id", BATCH, "--items", &items];
        let args: &[&str] = if by_name { &["resume", "-v", "-v", BATCH] } else { batch };
        let (Ended { out, err, code }, steps) = steps(&modules.command(url, args));
        assert_eq!(code, Some(0), "{err}");
        let mut this = Self { disk, steps, promises: Vec::new(), started: BTreeSet::new(), out };
        this.hear();
        this
    }

    /// Notes what was said, and when.
    fn hear(&mut self) {
        let (mut keys, mut said) = (BTreeMap::new(), [Vec::new(), Vec::new()]);
        for (n, step) in self.steps.iter().enumerate() {
            let Step::WriteBegins { file: file @ (1 | 2), bytes, .. } = step else { continue };
            let said = &mut said[*file as usize - 1];
            said.extend(bytes);
            let end = said.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            for line in String::from_utf8(said.drain(..end).collect()).unwrap().lines() {
                let key =
                    if *file == 1 { of_line(line) } else { of_step(line, &mut keys, &mut self.started) };
                self.promises.extend(key.map(|key| (n, key)));
            }
        }
    }

    /// Loses the power so many times, each time from the beginning, and shows what is left.
    fn lose(&self, times: usize, left: &Path, chance: &mut Chance, mut show: impl FnMut(Loss)) {
        let mut disk = self.disk.clone();
        let mut moments = self.moments(times, chance);
        for n in 0..=self.steps.len() {
            while moments.first() == Some(&n) {
                moments.remove(0);
                let luck =
                    [Luck::None, Luck::All, Luck::Some, Luck::Some, Luck::Some][chance.below(5) as usize];
                disk.leave(left, luck, chance);
                let before = self.promises.iter().take_while(|(when, _)| *when < n);
                let promised = before.map(|(_, key)| &**key).collect();
                let what = format!("before step {n} of {}, {luck:?} of what was not safe", self.steps.len());
                show(Loss { left, promised, what });
                std::fs::remove_dir_all(left).unwrap();
            }
            self.steps.get(n).into_iter().for_each(|step| disk.take(step));
        }
    }

    /// Returns moments, in order: some when something has just been acknowledged, some at any step since the store was
    /// touched, some at a step that is about this file or that, each file as often, some where much is written, and some
    /// while the store is closed, or soon before.
    fn moments(&self, count: usize, chance: &mut Chance) -> Vec<usize> {
        let (mut disk, mut files) = (self.disk.clone(), BTreeMap::<PathBuf, Vec<usize>>::new());
        let (mut written, mut bytes_written) = (Vec::new(), 0);
        for (n, step) in self.steps.iter().enumerate() {
            disk.take(step);
            let Some(path) = disk.place(step) else { continue };
            files.entry(path).or_default().push(n);
            if let Step::WriteBegins { bytes, .. } = step {
                bytes_written += bytes.len();
                written.push((bytes_written, n));
            }
        }
        let mut below = |bound: usize| chance.below(bound as u64) as usize;
        let first = *files.values().flatten().min().expect("the store is touched");
        let files: Vec<_> = files.into_values().collect();
        let mut moments: Vec<_> = (0..count)
            .map(|n| match n % 5 {
                0 if !self.promises.is_empty() => self.promises[below(self.promises.len())].0 + 1,
                1 => first + below(self.steps.len() + 1 - first),
                2 => {
                    let file = &files[below(files.len())];
                    file[below(file.len())] + below(2)
                }
                3 => self.steps.len() - below(self.steps.len().min(CLOSING)),
                _ => {
                    let byte = below(bytes_written);
                    written[written.partition_point(|(end, _)| *end <= byte)].1 + 1
                }
            })
            .collect();
        moments.sort_unstable();
        moments
    }
}

/// Returns the key of a step that is said to be done.
fn of_step(
    line: &str,
    keys: &mut BTreeMap<String, String>,
    started: &mut BTreeSet<String>,
) -> Option<String> {
    let (step, rest) = line.split_once("): ")?;
    if let Some((key, _)) = rest.strip_prefix("starts ").and_then(|start| start.split_once(' ')) {
        keys.insert(step.to_owned(), key.to_owned());
        started.insert(key.to_owned());
    }
    if rest == "done" { keys.get(step).cloned() } else { None }
}

/// Returns the key of the last step of an item whose result is written.
fn of_line(line: &str) -> Option<String> {
    let result: Value = serde_json::from_str(line).unwrap();
    Some(word(&result["email"])[..64].to_owned())
}
