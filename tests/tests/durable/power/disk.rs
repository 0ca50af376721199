//! Owns the model of a disk that loses its power: what is safe on it, what may be, and the directories that can be
//! found afterwards. The model is said in [`super`]. Never runs anything.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::killing::Chance;
use super::file::{Contents, Luck, What};
use super::trace::Step;

/// The directory that is looked at, with all below it.
#[derive(Clone)]
pub(super) struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    /// Which is where, as the program sees it.
    now: HashMap<PathBuf, usize>,
    open: HashMap<i32, Open>,
    /// All changes of names, in order.
    namings: Vec<Naming>,
    under_way: HashMap<usize, UnderWay>,
}

#[derive(Clone)]
enum Node {
    /// The names in it that are safe.
    Dir(BTreeMap<OsString, usize>),
    File(Contents),
}

#[derive(Clone, Copy)]
struct Open {
    node: usize,
    /// Where the next write goes that does not say where.
    at: u64,
}

/// A change of names in one directory, all of it or nothing.
#[derive(Clone)]
struct Naming {
    dir: usize,
    names: Vec<(OsString, Option<usize>)>,
    is_safe: bool,
}

#[derive(Clone)]
enum UnderWay {
    Write {
        node: usize,
    },
    /// Makes these changes safe: those that were over when it began.
    Sync {
        node: usize,
        changes: Vec<usize>,
    },
}

impl Disk {
    /// Returns a disk on which all that the directory has is safe.
    pub(super) fn of(root: &Path) -> Self {
        let mut this = Self {
            root: root.to_owned(),
            nodes: Vec::new(),
            now: HashMap::new(),
            open: HashMap::new(),
            namings: Vec::new(),
            under_way: HashMap::new(),
        };
        this.load(root);
        this
    }

    fn load(&mut self, path: &Path) -> usize {
        let node = if path.is_dir() {
            let entries = path.read_dir().unwrap().map(Result::unwrap);
            Node::Dir(entries.map(|entry| (entry.file_name(), self.load(&entry.path()))).collect())
        } else {
            Node::File(Contents::of(fs::read(path).unwrap()))
        };
        self.add(path, node)
    }

    fn add(&mut self, path: &Path, node: Node) -> usize {
        self.nodes.push(node);
        self.now.insert(path.to_owned(), self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// Returns the path of the file that a step is about, below the directory; none where it is not there.
    pub(super) fn place(&self, step: &Step) -> Option<PathBuf> {
        let of_file = |file: &i32| {
            let node = self.open.get(file)?.node;
            self.now.iter().find(|(_, there)| **there == node).map(|(path, _)| path.clone())
        };
        let path = match step {
            Step::WriteBegins { file, .. } | Step::SyncBegins { file, .. } | Step::Resized { file, .. } => {
                of_file(file)
            }
            Step::Opened { path, .. } | Step::Made { path } | Step::Removed { path } => Some(path.clone()),
            Step::Renamed { to, .. } => Some(to.clone()),
            _ => None,
        };
        path.filter(|path| self.has(path))
    }

    /// Returns whether a path is looked at: all below the directory, but copies of damaged stores, which nobody reads.
    fn has(&self, path: &Path) -> bool {
        let copied = |path: &Path| path.to_string_lossy().contains(".damaged-");
        path.strip_prefix(&self.root).is_ok_and(|below| !copied(below))
    }

    /// Takes a step.
    pub(super) fn take(&mut self, step: &Step) {
        match step {
            Step::Opened { file, path, empties } => self.opened(*file, path, *empties),
            Step::Doubled { file, other } => {
                if let Some(open) = self.open.get(file).copied() {
                    self.open.insert(*other, open);
                }
            }
            Step::Closed { file } => drop(self.open.remove(file)),
            Step::Sought { file, at } => {
                self.open.entry(*file).and_modify(|open| open.at = *at);
            }
            Step::WriteBegins { call, file, at, bytes } => self.write(*call, *file, *at, bytes),
            Step::SyncBegins { call, file } => self.sync(*call, *file),
            Step::Ends { call, result } => self.end(*call, *result),
            Step::Resized { file, bytes } => {
                if let Some(Open { node, .. }) = self.open.get(file) {
                    contents(&mut self.nodes[*node]).change(None, What::Size(*bytes));
                }
            }
            Step::Made { path } if self.has(path) => {
                let node = self.add(path, Node::Dir(BTreeMap::new()));
                self.name(path, vec![(name(path), Some(node))]);
            }
            Step::Renamed { from, to } if self.has(to) => {
                assert_eq!(from.parent(), to.parent(), "only names are known that stay in one directory");
                let node = self.now.remove(from).expect("what gets another name has one");
                self.now.insert(to.clone(), node);
                self.name(to, vec![(name(from), None), (name(to), Some(node))]);
            }
            Step::Removed { path } => {
                if self.now.remove(path).is_some() {
                    self.name(path, vec![(name(path), None)]);
                }
            }
            Step::Made { .. } | Step::Renamed { .. } => {}
            Step::Else { call, file, paths } => {
                let is_ours = file.is_some_and(|file| self.open.contains_key(&file))
                    || paths.iter().any(|path| self.has(path));
                assert!(!is_ours, "the model does not know what `{call}` does: {paths:?}");
            }
        }
    }

    fn opened(&mut self, file: i32, path: &Path, empties: bool) {
        self.open.remove(&file);
        if !self.has(path) {
            return;
        }
        let node = match self.now.get(path) {
            Some(node) => *node,
            None => {
                let node = self.add(path, Node::File(Contents::of(Vec::new())));
                self.name(path, vec![(name(path), Some(node))]);
                node
            }
        };
        if empties {
            contents(&mut self.nodes[node]).change(None, What::Size(0));
        }
        self.open.insert(file, Open { node, at: 0 });
    }

    fn name(&mut self, path: &Path, names: Vec<(OsString, Option<usize>)>) {
        let dir = self.now[path.parent().expect("it is below the directory")];
        self.namings.push(Naming { dir, names, is_safe: false });
    }

    fn write(&mut self, call: usize, file: i32, at: Option<u64>, bytes: &[u8]) {
        let Some(open) = self.open.get_mut(&file) else { return };
        let at = at.unwrap_or_else(|| {
            open.at += bytes.len() as u64;
            open.at - bytes.len() as u64
        });
        contents(&mut self.nodes[open.node]).change(Some(call), What::Bytes { at, bytes: bytes.into() });
        self.under_way.insert(call, UnderWay::Write { node: open.node });
    }

    fn sync(&mut self, call: usize, file: i32) {
        let Some(Open { node, .. }) = self.open.get(&file) else { return };
        let changes = match &self.nodes[*node] {
            Node::File(contents) => contents.are_over(),
            Node::Dir(_) => (0..self.namings.len()).filter(|n| self.namings[*n].dir == *node).collect(),
        };
        self.under_way.insert(call, UnderWay::Sync { node: *node, changes });
    }

    fn end(&mut self, call: usize, result: i64) {
        match self.under_way.remove(&call) {
            Some(UnderWay::Write { node }) => contents(&mut self.nodes[node]).is_over(call, result),
            Some(UnderWay::Sync { node, changes }) => {
                assert_eq!(result, 0, "a sync has failed");
                match &mut self.nodes[node] {
                    Node::File(contents) => contents.are_safe(&changes),
                    Node::Dir(_) => changes.iter().for_each(|naming| self.namings[*naming].is_safe = true),
                }
            }
            None => {}
        }
    }

    /// Makes a directory that the loss of power can leave now.
    pub(super) fn leave(&self, to: &Path, luck: Luck, chance: &mut Chance) {
        self.leave_node(self.now[&self.root], to, luck, chance);
    }

    fn leave_node(&self, node: usize, to: &Path, luck: Luck, chance: &mut Chance) {
        match &self.nodes[node] {
            Node::File(contents) => fs::write(to, contents.left(luck, chance)).unwrap(),
            Node::Dir(safe) => {
                fs::create_dir(to).unwrap();
                for (name, node) in self.names_left(node, safe, luck, chance) {
                    self.leave_node(node, &to.join(name), luck, chance);
                }
            }
        }
    }

    /// Returns the names that are left in a directory: those that are safe, and some of the changes since, in order.
    fn names_left(
        &self,
        dir: usize,
        safe: &BTreeMap<OsString, usize>,
        luck: Luck,
        chance: &mut Chance,
    ) -> BTreeMap<OsString, usize> {
        let namings: Vec<_> = self.namings.iter().filter(|naming| naming.dir == dir).collect();
        let least = namings.iter().rposition(|naming| naming.is_safe).map_or(0, |last| last + 1);
        let mut names = safe.clone();
        for naming in &namings[..luck.between(least, namings.len(), chance)] {
            for (name, node) in &naming.names {
                match node {
                    Some(node) => drop(names.insert(name.clone(), *node)),
                    None => drop(names.remove(name)),
                }
            }
        }
        names
    }
}

fn contents(node: &mut Node) -> &mut Contents {
    match node {
        Node::File(contents) => contents,
        Node::Dir(_) => panic!("nobody writes into a directory"),
    }
}

fn name(path: &Path) -> OsString {
    path.file_name().expect("it is below the directory").to_owned()
}
