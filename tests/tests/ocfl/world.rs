//! Owns a copy of the example in a directory of its own: modules, configuration, source, storage, store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use docket_tests::program::{Running, command, ended};
use docket_tests::repository;

/// The object's place in the storage.
const OBJECT: &str = "films";

/// The two updates: that of the example's `docket.toml`, and one of what it has made.
pub(crate) const FIRST: &str = r#"{"id":"urn:example:films","object":"films","source":"first","created":"2026-11-21T09:00:00Z",
    "message":"The first notes","user":{"name":"Ada","address":"mailto:ada@example.org"}}"#;
pub(crate) const SECOND: &str = r#"{"id":"urn:example:films","object":"films","source":"second","created":"2026-11-22T09:00:00Z",
    "message":"An archive","user":{"name":"Ada","address":"mailto:ada@example.org"}}"#;

/// What lies below a directory, by path, in order: the content of files, none of directories.
pub(crate) type Tree = Vec<(String, Option<Vec<u8>>)>;

/// One copy of the example.
pub(crate) struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// Returns a new one, with `extra` in the section of `CarryOut`.
    pub(crate) fn new(extra: &str) -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        let example = repository().join("examples/ocfl_update");
        copy(&example.join("source"), &this.path().join("source"));
        for dir in ["storage", "staging"] {
            fs::create_dir(this.path().join(dir)).unwrap();
        }
        for file in ["ocfl_update.wasm", "storage/0=ocfl_1.1"] {
            fs::copy(example.join(file), this.path().join(file))
                .unwrap_or_else(|error| panic!("{file}: {error}; run `make modules` first"));
        }
        let config = fs::read_to_string(example.join("docket.toml")).unwrap();
        let section = "[step.CarryOut]\n";
        assert!(config.contains(section));
        fs::write(this.path().join("docket.toml"), config.replace(section, &format!("{section}{extra}")))
            .unwrap();
        // So that no command says that it compiles.
        let valid = ended(&mut this.command(["validate"]));
        assert_eq!(valid.code, Some(0), "{}", valid.err);
        this
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn object(&self) -> PathBuf {
        self.path().join("storage").join(OBJECT)
    }

    /// Returns a command on the store, over the modules.
    pub(crate) fn command<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = command(&self.store(), args);
        command.env("DOCKET_MODULE_DIR", self.path());
        command
    }

    fn store(&self) -> String {
        format!("sled:{}", self.path().join("store").display())
    }

    /// Begins an update whose activity of that number hangs, if it is one.
    pub(crate) fn run(&self, id: &str, update: &str, hang_at: usize) -> Running {
        let end = update.rfind('}').unwrap();
        let input = format!("{},\"hangAt\":{hang_at}}}", &update[..end]);
        Running::start(&mut self.command(["run", "-v", "--execution-id", id, "--input", &input]))
    }

    /// Goes on with an execution.
    pub(crate) fn resume(&self, id: &str) -> Running {
        Running::start(&mut self.command(["resume", "-v", id]))
    }

    /// Returns what is staged.
    pub(crate) fn stages(&self) -> Vec<PathBuf> {
        fs::read_dir(self.path().join("staging")).unwrap().map(|stage| stage.unwrap().path()).collect()
    }

    /// Returns whether nothing is left in the staging directory, nor in the storage beside the object.
    pub(crate) fn is_tidy(&self) -> bool {
        self.stages().is_empty() && fs::read_dir(self.path().join("storage")).unwrap().count() == 2
    }

    /// Returns a copy of the object as it is now, if it is there.
    pub(crate) fn keep_object(&self) -> Option<PathBuf> {
        let kept = self.path().join("kept");
        self.object().exists().then(|| {
            copy(&self.object(), &kept);
            kept
        })
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (path, content) in tree(from) {
        match content {
            Some(content) => fs::write(to.join(path), content).unwrap(),
            None => fs::create_dir(to.join(path)).unwrap(),
        }
    }
}

/// Returns all of a directory; nothing where there is none.
pub(crate) fn tree(root: &Path) -> Tree {
    let below = walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name().into_iter();
    below
        .filter_map(Result::ok)
        .map(|entry| {
            let path = entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let content = entry.file_type().is_file().then(|| fs::read(entry.path()).unwrap());
            (path, content)
        })
        .collect()
}
