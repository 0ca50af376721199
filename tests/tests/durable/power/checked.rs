//! Owns what is compared after a loss of power: what is there with what was promised, and what comes of going on. Never
//! loses any itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use docket_tests::program::{Modules, command, ended};
use docket_tests::stores::{Backend, Records, try_records, word};

use super::super::killing::Chance;
use super::{BATCH, Loss, Run};

/// Results that are done: their bodies by their keys.
pub(super) type Results = BTreeMap<String, String>;

/// Returns the results that are done.
pub(super) fn results(records: &Records) -> Results {
    let done = records.iter().filter(|((kind, _), record)| kind == "result" && record["status"] == "done");
    done.map(|((_, key), record)| (key.clone(), word(&record["body"]))).collect()
}

/// Remembers what was right, and what was not.
#[derive(Default)]
pub(super) struct Checked {
    /// What there is without any loss.
    whole: Results,
    out: String,
    losses: usize,
    /// How many results were looked for that were promised.
    promises: usize,
    /// How many stores were opened again after a copy had been made of them.
    mended: usize,
    faults: Vec<String>,
}

impl Checked {
    /// Returns what compares with the results, and with what was written, where the power was not lost.
    pub(super) fn against(whole: Results, out: String) -> Self {
        Self { whole, out, ..Self::default() }
    }

    /// Opens what is left, and compares it with what was promised, and was there before. Returns whether
    /// the execution is in it.
    pub(super) fn look(&mut self, url: &str, loss: Loss, before: &BTreeSet<&str>) -> bool {
        let Loss { left, promised, what } = loss;
        self.losses += 1;
        self.promises += promised.len() + before.len();
        let records = match try_records(url) {
            Ok(records) => records,
            Err(error) => {
                self.faults.push(format!("{what}: {error}"));
                return false;
            }
        };
        self.mended += usize::from(left.join("store.damaged-1").exists());
        let now = results(&records);
        let lost = promised.union(before).filter(|key| !now.contains_key(**key)).count();
        let changed = now.iter().filter(|(key, body)| self.whole.get(*key) != Some(*body)).count();
        let is_there = records.contains_key(&("execution".to_owned(), format!("default/{BATCH}")));
        let is_missed = !(is_there || promised.is_empty() && before.is_empty());
        if lost > 0 || changed > 0 || is_missed {
            let all = promised.len() + before.len();
            let fault = format!("{what}: {lost} of {all} are lost, {changed} changed, execution {is_there}");
            self.faults.push(fault);
        }
        is_there
    }

    /// Looks, goes on with the batch, and loses the power of that too.
    pub(super) fn go_on(
        &mut self,
        modules: &Modules,
        items: &Path,
        url: &str,
        loss: Loss,
        again: usize,
        chance: &mut Chance,
    ) {
        let Loss { left, promised, what } = loss;
        // A copy, because looking mends.
        let dir = tempfile::tempdir().unwrap();
        let (looked_at, still) = (dir.path().join("looked-at"), dir.path().join("still"));
        copy(left, &looked_at);
        let at = |dir: &Path| url.replace(&*left.to_string_lossy(), &dir.to_string_lossy());
        let first = Loss { left: &looked_at, promised: promised.clone(), what: what.clone() };
        let is_there = self.look(&at(&looked_at), first, &BTreeSet::new());

        let second = Run::new(modules, items, left, url, is_there);
        if second.out != self.out {
            self.faults.push(format!("{what}: gone on with, it comes to something else"));
        }
        let repeated = promised.iter().filter(|key| second.started.contains(**key)).count();
        if repeated > 0 {
            self.faults.push(format!("{what}: gone on with, it starts {repeated} that were done"));
        }
        let now = try_records(url).map(|records| results(&records));
        if now.as_ref().ok() != Some(&self.whole) {
            self.faults.push(format!("{what}: gone on with, the store holds something else"));
        }
        let check = ended(&mut command(url, ["store", "check"]));
        if check.code != Some(0) {
            self.faults.push(format!("{what}: gone on with, `store check` says {}", check.err));
        }
        let whole = self.whole.clone();
        let before = whole.keys().map(|key| &**key).filter(|key| !second.started.contains(*key)).collect();
        second.lose(again, &still, chance, |loss| {
            let what = format!("{what}, gone on with, and {}", loss.what);
            self.look(&at(&still), Loss { what, ..loss }, &before);
        });
    }

    #[expect(clippy::print_stdout, reason = "how much was tried is worth knowing where it is long")]
    pub(super) fn check(&self, backend: Backend, losses: usize) {
        let Self { promises, mended, faults, .. } = self;
        println!(
            "{backend:?}: {losses} losses of power, {promises} results looked for, {mended} stores mended"
        );
        assert!(faults.is_empty(), "{backend:?}: {} of {losses}: {faults:#?}", faults.len());
        assert_eq!(self.losses, losses);
        assert!(*promises > losses * 10, "{backend:?}: the power went too early to lose anything");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in from.read_dir().unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
