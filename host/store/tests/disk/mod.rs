//! A small disk for a test that fills it.

use std::path::Path;
use std::process::Command;

/// Runs an ignored test in a process of its own, on a disk of so many MiB, of which it is told a path in this variable. Says
/// so where this machine lets nobody have such a disk.
#[track_caller]
#[expect(clippy::print_stdout, reason = "a test says that it was not run")]
pub(crate) fn check_on_a_small_disk(test: &str, mebibytes: u32, variable: &str, file: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size={mebibytes}m tmpfs \"$1\" || exit 77; shift; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &mount, "sh"]).arg(dir.path());
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--ignored", "--nocapture"]);
    command.env(variable, dir.path().join(Path::new(file)));
    let ran = command.output().map(|output| {
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status, said(&output.stdout), said(&output.stderr))
    });
    match ran {
        Ok((status, said, why)) if status.code() != Some(77) && !why.contains("unshare:") => {
            assert!(status.success() && said.contains("1 passed"), "{said}\n{why}");
        }
        _ => println!("not run: this machine lets nobody mount a small disk"),
    }
}
