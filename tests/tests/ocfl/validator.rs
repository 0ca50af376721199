//! Owns ocfl-py, which says whether an object is one: installed once, below the target directory, from
//! PyPI. Never says so itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use docket_tests::{repository, target_dir};

/// What ocfl-py says of a valid object.
const VALID: &str = "OCFL v1.1 Object at ";

/// Checks that each of these is a valid object.
pub(crate) fn check_valid(objects: &[PathBuf]) {
    for (object, fault) in objects.iter().zip(faults(objects)) {
        assert_eq!(fault, None, "{}", object.display());
    }
}

/// Returns of each object what is wrong with it; none where it is valid. One process does them all,
/// because it takes a second to start.
pub(crate) fn faults(objects: &[PathBuf]) -> Vec<Option<String>> {
    let output = tool().validate(objects);
    let said = String::from_utf8_lossy(&output.stdout);
    // The verdict follows the faults.
    let mut faults = Vec::new();
    let mut before = Vec::new();
    for line in said.lines() {
        match line.strip_prefix(VALID).and_then(|rest| rest.rsplit_once(" is ")) {
            Some((_, "VALID")) => faults.push(None),
            Some((_, "INVALID")) => faults.push(Some(before.join("\n"))),
            _ => {
                before.push(line);
                continue;
            }
        }
        before.clear();
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(faults.len(), objects.len(), "ocfl-py has judged otherwise: {said}\n{complaint}");
    let is_good = faults.iter().all(Option::is_none);
    assert_eq!(output.status.success(), is_good, "{said}\n{complaint}");
    faults
}

/// The Python that has ocfl-py, and where its modules are if that is no environment of its own.
struct Tool {
    python: PathBuf,
    script: PathBuf,
    modules: Option<PathBuf>,
}

impl Tool {
    fn validate(&self, objects: &[PathBuf]) -> Output {
        let mut command = Command::new(&self.python);
        command.arg(&self.script).args(objects);
        if let Some(modules) = &self.modules {
            command.env("PYTHONPATH", modules);
        }
        command.output().unwrap_or_else(|error| panic!("{}: {error}", self.python.display()))
    }
}

fn tool() -> &'static Tool {
    static TOOL: OnceLock<Tool> = OnceLock::new();
    TOOL.get_or_init(|| {
        let requirements = repository().join("tests/tests/ocfl/requirements.txt");
        let wanted = std::fs::read_to_string(&requirements).expect("it is in the repository");
        let version = wanted.lines().find_map(|line| line.strip_prefix("ocfl-py==")).expect("it is named");
        let dir = target_dir().join(format!("ocfl-py-{version}"));
        if !dir.join(COMPLETE).is_file() {
            install(&requirements, &dir);
        }
        let script = dir.join("bin/ocfl-validate.py");
        match dir.join("bin/python") {
            python if python.exists() => Tool { python, script, modules: None },
            _ => Tool { python: "python3".into(), script, modules: Some(dir) },
        }
    })
}

/// The file that is written when everything else is there.
const COMPLETE: &str = "docket-complete";

/// Installs ocfl-py into an environment of its own, or beside its scripts where Python has no `venv`.
fn install(requirements: &Path, dir: &Path) {
    // Not by `eprintln`, which a passing test keeps to itself: who runs the tests should know.
    let _ = writeln!(std::io::stderr(), "installing ocfl-py from PyPI into {}", dir.display());
    let _ = std::fs::remove_dir_all(dir);
    let has_venv = python("python3", &["-m", "venv", &dir.to_string_lossy()]).is_ok();
    let (python3, target) = if has_venv {
        (dir.join("bin/python"), Vec::new())
    } else {
        // One without pip is half made.
        let _ = std::fs::remove_dir_all(dir);
        ("python3".into(), vec!["--target".to_owned(), dir.to_string_lossy().into_owned()])
    };
    let mut args = vec!["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
    let requirements = requirements.to_string_lossy();
    args.extend(["--requirement", &requirements]);
    args.extend(target.iter().map(|arg| &**arg));
    if let Err(complaint) = python(&python3.to_string_lossy(), &args) {
        panic!(
            "ocfl-py cannot be installed, and without it nobody says whether the objects are valid; it needs Python 3.11 \
             or newer with pip, and the network: {complaint}"
        );
    }
    std::fs::write(dir.join(COMPLETE), "").expect("what is made can be written into");
}

fn python(python: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(python).args(args).output().map_err(|error| format!("{python}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
