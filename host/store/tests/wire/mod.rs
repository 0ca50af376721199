//! Servers that are not there, connections that break: what a test puts between a store and Redis.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Bytes are passed on.
const PASS: u8 = 0;
/// The answer to the next request is swallowed, and its connection is cut.
const SWALLOW: u8 = 1;
/// Connections are cut, and new ones at once.
const REFUSE: u8 = 2;

/// How often a connection looks whether it is to be cut.
const LOOK: Duration = Duration::from_millis(5);

/// Stands between a store and its server.
pub(crate) struct Proxy {
    address: String,
    mode: Arc<AtomicU8>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Returns a proxy before the server of this address.
    pub(crate) async fn start(server: &str) -> Self {
        let target = server.trim_start_matches("redis://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mode = Arc::new(AtomicU8::new(PASS));
        let mut tasks = JoinSet::new();
        let modes = mode.clone();
        tasks.spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                let (here, _) = listener.accept().await.unwrap();
                if modes.load(Ordering::SeqCst) == REFUSE {
                    continue;
                }
                let there = TcpStream::connect(&target).await.unwrap();
                lines.spawn(pass(here, there, modes.clone()));
            }
        });
        Self { address, mode, _tasks: tasks }
    }

    pub(crate) fn url(&self, rest: &str) -> String {
        format!("redis://{}{rest}", self.address)
    }

    /// The next request reaches the server, and its answer nobody.
    pub(crate) fn swallow_next_answer(&self) {
        self.mode.store(SWALLOW, Ordering::SeqCst);
    }

    /// Cuts every connection, and each new one.
    pub(crate) async fn refuse(&self) {
        self.mode.store(REFUSE, Ordering::SeqCst);
        rest(10 * LOOK).await;
    }

    pub(crate) fn pass(&self) {
        self.mode.store(PASS, Ordering::SeqCst);
    }
}

async fn pass(here: TcpStream, there: TcpStream, mode: Arc<AtomicU8>) {
    let ((mut asks, mut answered), (mut answers, mut asked)) = (here.into_split(), there.into_split());
    let swallow = AtomicBool::new(false);
    let requests = async {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = asks.read(&mut bytes).await {
            // What sets up a connection or a subscription is no request of the store.
            let request = [b"EVALSHA".as_slice(), b"HMGET"].into_iter();
            let request =
                request.flat_map(|word| bytes[..read].windows(word.len()).filter(move |at| *at == word));
            if request.count() > 0
                && mode.compare_exchange(SWALLOW, PASS, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            {
                swallow.store(true, Ordering::SeqCst);
            }
            if asked.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    let replies = async {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = answers.read(&mut bytes).await {
            if swallow.load(Ordering::SeqCst) || answered.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    let refused = async {
        while mode.load(Ordering::SeqCst) != REFUSE {
            rest(LOOK).await;
        }
    };
    tokio::select! { () = requests => {}, () = replies => {}, () = refused => {} }
}

async fn rest(time: Duration) {
    // What never comes, comes too late.
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

/// Returns the address of a server that tells these settings and does nothing else. It lives as long
/// as the test.
#[expect(clippy::disallowed_methods, reason = "the runtime of the test ends it")]
pub(crate) async fn fake_server(settings: &[(&str, &str)]) -> String {
    let settings: HashMap<String, String> =
        settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let settings = settings.clone();
            tokio::spawn(async move { answer(stream, &settings).await });
        }
    });
    address
}

async fn answer(stream: TcpStream, settings: &HashMap<String, String>) -> Option<()> {
    let (reads, mut writes) = stream.into_split();
    let mut lines = BufReader::new(reads).lines();
    loop {
        // `*2`, then for each word its length and itself.
        let count: usize = lines.next_line().await.ok()??.strip_prefix('*')?.parse().ok()?;
        let mut words = Vec::new();
        for _ in 0..count {
            lines.next_line().await.ok()??;
            words.push(lines.next_line().await.ok()??);
        }
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let reply = match (words[0].as_str(), words.last()) {
            ("INFO", _) => bulk(&format!("role:{}\r\n", settings.get("role")?)),
            ("CONFIG", Some(name)) => match settings.get(name) {
                Some(value) => format!("*2\r\n{}{}", bulk(name), bulk(value)),
                None => "*0\r\n".to_owned(),
            },
            _ => "+OK\r\n".to_owned(),
        };
        writes.write_all(reply.as_bytes()).await.ok()?;
    }
}
