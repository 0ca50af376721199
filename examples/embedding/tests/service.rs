//! Runs the real service on a free port and asks it over HTTP.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a machine that is busy compiling.
const PATIENCE: Duration = Duration::from_secs(60);

/// The service as a process; killed when dropped.
struct Service {
    process: Child,
    address: String,
    log: Receiver<String>,
}

impl Service {
    fn start() -> Self {
        let modules = repository().join("guests");
        assert!(modules.join("enrich_user.wasm").exists(), "no guests; run `make modules` first");
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_example-embedding"));
        let cache = binary.with_file_name("test-embedding-cache");
        let mut process = Command::new(binary)
            .arg(modules)
            .arg("127.0.0.1:0")
            .env("XDG_CACHE_HOME", cache)
            .env("NO_COLOR", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, log) = mpsc::channel();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        let mut greeting = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
        let address = greeting.trim().strip_prefix("listening on http://").map(str::to_owned);
        let address = address.unwrap_or_else(|| panic!("{greeting}: {:#?}", log.iter().collect::<Vec<_>>()));
        Service { process, address, log }
    }

    /// Sends a request and leaves its answer unread.
    fn ask(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: docket\r\nConnection: close\r\n\r\n").unwrap();
        stream
    }

    fn get(&self, path: &str) -> (u16, String) {
        read(self.ask(path))
    }

    /// Waits for a line of the log that contains the words.
    #[expect(clippy::disallowed_methods, reason = "a test waits for a process in real time")]
    fn wait_for(&self, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let line = self.log.recv_timeout(until.saturating_duration_since(Instant::now()));
            match line {
                Ok(line) if line.contains(words) => return line,
                Ok(_) => {}
                Err(error) => panic!("the log never said `{words}`: {error}"),
            }
        }
    }

    fn terminate(&self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    fn ended(mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// Returns the status and the body of an answer.
fn read(mut stream: TcpStream) -> (u16, String) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

const ALICE: &str = r#"{
    "profile": { "name": "Alice", "email": "alice@example.com" },
    "prefs": { "darkMode": true },
    "activity": { "loginCount": 42, "lastLogin": "2024-01-15" }
}"#;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_user_is_json_and_an_unknown_one_is_not_found() {
    let service = Service::start();
    let (status, body) = service.get("/users/user-123");
    assert_eq!((status, json(&body)), (200, json(ALICE)));
    let (status, body) = service.get("/users/user-0");
    assert_eq!(status, 404);
    assert!(json(&body)["error"].as_str().unwrap().contains("there is no user `user-0`"), "{body}");
    assert_eq!(service.get("/elsewhere").0, 404);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn ten_requests_at_once_take_about_the_time_of_one() {
    let service = Service::start();
    service.get("/users/user-123");
    let began = Instant::now();
    let streams: Vec<_> = (0..10).map(|_| service.ask("/users/user-123")).collect();
    for stream in streams {
        assert_eq!(read(stream).0, 200);
    }
    let elapsed = began.elapsed();
    assert!(elapsed >= Duration::from_millis(100), "each waits for 100 ms, all took {elapsed:?}");
    assert!(elapsed < Duration::from_millis(400), "ten took {elapsed:?}; one after the other takes 1 s");
}

#[test]
fn a_client_that_leaves_takes_its_execution_along() {
    let service = Service::start();
    let stream = service.ask("/users/user-123");
    service.wait_for("started");
    drop(stream);
    service.wait_for("the execution was cancelled");
    assert_eq!(service.get("/users/user-123").0, 200, "the service goes on");
}

#[test]
fn asked_to_end_it_answers_who_waits_and_takes_no_more() {
    let service = Service::start();
    let streams: Vec<_> = (0..3).map(|_| service.ask("/users/user-123")).collect();
    for _ in &streams {
        service.wait_for("started");
    }
    service.terminate();
    for stream in streams {
        assert_eq!(read(stream).0, 200);
    }
    service.wait_for("shut down: Complete");
    let address = service.address.clone();
    assert_eq!(service.ended().code(), Some(0));
    assert!(TcpStream::connect(address).is_err());
}
