//! Owns the running under strace and the reading of what it wrote: each call that changes a file or says something,
//! as it begins and as it ends. Never knows which files matter.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use docket_tests::program::Ended;

use super::super::calls::traced;

/// What happens to a file, or is said on stdout or stderr, in the order in which strace has seen it. What begins in
/// one thread before another's ends is not over by then; what ends before another's begins, is.
#[derive(Debug)]
pub(super) enum Step {
    Opened {
        file: i32,
        path: PathBuf,
        empties: bool,
    },
    Doubled {
        file: i32,
        other: i32,
    },
    Closed {
        file: i32,
    },
    Sought {
        file: i32,
        at: u64,
    },
    WriteBegins {
        call: usize,
        file: i32,
        at: Option<u64>,
        bytes: Vec<u8>,
    },
    SyncBegins {
        call: usize,
        file: i32,
    },
    /// A write or a sync is over, with this result.
    Ends {
        call: usize,
        result: i64,
    },
    Resized {
        file: i32,
        bytes: u64,
    },
    Made {
        path: PathBuf,
    },
    Renamed {
        from: PathBuf,
        to: PathBuf,
    },
    Removed {
        path: PathBuf,
    },
    /// Changes a file in another way.
    Else {
        call: String,
        file: Option<i32>,
        paths: Vec<PathBuf>,
    },
}

/// Those that are read here, and those that nobody who is read here makes today.
const CALLS: &str = "open,openat,openat2,creat,close,dup,dup2,dup3,fcntl,lseek,write,pwrite64,writev,pwritev,\
                     pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,syncfs,sync,msync,rename,renameat,\
                     renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,\
                     copy_file_range,sendfile";

/// Runs a command and returns what it said, and each step of it.
pub(super) fn steps(command: &Command) -> (Ended, Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("calls");
    let wanted = format!("trace={CALLS}");
    // Bytes as they are, all of them: none is as many as 32 MiB in one call.
    let ended = traced(command, &log, &["--seccomp-bpf", "-xx", "-s", "33554432", "-e", &wanted]);
    (ended, read(&log))
}

fn read(log: &Path) -> Vec<Step> {
    let mut lines = BufReader::new(File::open(log).unwrap());
    let (mut steps, mut under_way, mut line, mut calls) = (Vec::new(), HashMap::new(), Vec::new(), 0);
    while lines.read_until(b'\n', &mut line).unwrap() > 0 {
        calls += 1;
        read_line(line.trim_ascii_end(), calls, &mut under_way, &mut steps);
        line.clear();
    }
    steps
}

/// A call that another thread's have come between, until it ends.
struct UnderWay {
    call: usize,
    name: String,
    told: Told,
}

fn read_line(line: &[u8], call: usize, under_way: &mut HashMap<Vec<u8>, UnderWay>, steps: &mut Vec<Step>) {
    let thread_end = line.iter().position(|byte| *byte == b' ').expect("a line begins with its thread");
    let (thread, rest) = (line[..thread_end].to_vec(), line[thread_end..].trim_ascii_start());
    if rest.starts_with(b"+++") || rest.starts_with(b"---") {
        return;
    }
    if rest.starts_with(b"<... ") {
        // Where the thread has ended otherwise there is no beginning.
        let Some(UnderWay { call, name, told }) = under_way.remove(&thread) else { return };
        steps.extend(at_end(&name, told, call, result(rest)));
        return;
    }
    let name_end = rest.iter().position(|byte| *byte == b'(').expect("a call has arguments");
    let (name, arguments) = (String::from_utf8_lossy(&rest[..name_end]).into_owned(), &rest[name_end + 1..]);
    let unfinished = arguments.strip_suffix(b"<unfinished ...>");
    let mut told = Told::read(unfinished.unwrap_or_else(|| &arguments[..end_of_arguments(arguments)]));
    steps.extend(at_beginning(&name, &mut told, call));
    match unfinished {
        Some(_) => drop(under_way.insert(thread, UnderWay { call, name, told })),
        None => steps.extend(at_end(&name, told, call, result(rest))),
    }
}

fn end_of_arguments(call: &[u8]) -> usize {
    call.windows(3).rposition(|bytes| bytes == b" = ").expect("a call that is over has a result")
}

fn result(line: &[u8]) -> i64 {
    let text = String::from_utf8_lossy(&line[end_of_arguments(line) + 3..]).into_owned();
    // One that the end of the process has cut off has none.
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(-1)
}

/// The arguments of a call: its strings, and all the others by their places.
struct Told {
    strings: Vec<Vec<u8>>,
    others: Vec<String>,
}

impl Told {
    fn read(arguments: &[u8]) -> Self {
        let (mut strings, mut others) = (Vec::new(), Vec::new());
        // What stands between quotation marks is bytes in hexadecimal.
        for (place, part) in arguments.split(|byte| *byte == b'"').enumerate() {
            if place % 2 == 1 {
                strings.push(part.chunks(4).map(|byte| digit(byte[2]) << 4 | digit(byte[3])).collect());
            } else {
                assert!(!part.starts_with(b"..."), "strace has cut a call short");
                others.extend_from_slice(part);
            }
        }
        let others = String::from_utf8_lossy(&others);
        let others = others.trim_end().trim_end_matches(')').split(',').map(|part| part.trim().to_owned());
        Self { strings, others: others.collect() }
    }

    fn number<N: std::str::FromStr>(&self, place: usize) -> Option<N> {
        self.others.get(place)?.parse().ok()
    }

    /// The file that the call is about; none for a call about paths.
    fn file(&self) -> i32 {
        self.number(0).expect("the first argument is a file")
    }

    fn paths(&mut self) -> Vec<PathBuf> {
        self.strings.drain(..).map(|path| OsString::from_vec(path).into()).collect()
    }

    fn path(&mut self) -> PathBuf {
        self.paths().remove(0)
    }
}

fn digit(byte: u8) -> u8 {
    char::from(byte).to_digit(16).expect("strace writes strings in hexadecimal") as u8
}

/// Returns what a call does as soon as it begins.
fn at_beginning(name: &str, told: &mut Told, call: usize) -> Option<Step> {
    match name {
        "close" => Some(Step::Closed { file: told.file() }),
        "write" | "pwrite64" => {
            let bytes = told.strings.pop().unwrap_or_default();
            let at = if name == "write" { None } else { told.number(3) };
            Some(Step::WriteBegins { call, file: told.file(), at, bytes })
        }
        "fsync" | "fdatasync" => Some(Step::SyncBegins { call, file: told.file() }),
        _ => None,
    }
}

/// Returns what a call has done when it is over.
fn at_end(name: &str, mut told: Told, call: usize, result: i64) -> Option<Step> {
    let is_over = matches!(name, "write" | "pwrite64" | "fsync" | "fdatasync");
    if is_over {
        return Some(Step::Ends { call, result });
    }
    let result = u64::try_from(result).ok()?;
    match name {
        "open" | "openat" => {
            let empties = told.others.iter().any(|flags| flags.contains("O_TRUNC"));
            Some(Step::Opened { file: result as i32, path: told.path(), empties })
        }
        "dup" => Some(Step::Doubled { file: told.file(), other: result as i32 }),
        "fcntl" if told.others[1].starts_with("F_DUPFD") => {
            Some(Step::Doubled { file: told.file(), other: result as i32 })
        }
        "fcntl" | "close" => None,
        "lseek" => Some(Step::Sought { file: told.file(), at: result }),
        "ftruncate" => Some(Step::Resized { file: told.file(), bytes: told.number(1)? }),
        "mkdir" => Some(Step::Made { path: told.path() }),
        "unlink" | "rmdir" => Some(Step::Removed { path: told.path() }),
        // Between the same directories, as long as paths are absolute.
        "rename" | "renameat" => {
            let [from, to] = told.paths().try_into().expect("a name becomes another");
            Some(Step::Renamed { from, to })
        }
        // The second file is the one that changes.
        "copy_file_range" => {
            Some(Step::Else { call: name.to_owned(), file: told.number(2), paths: Vec::new() })
        }
        _ => Some(Step::Else { call: name.to_owned(), file: told.number(0), paths: told.paths() }),
    }
}
