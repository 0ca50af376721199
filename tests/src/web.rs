//! Owns a server that misbehaves on demand: what it does with a request stands in its path. Counts
//! connections, and remembers every request as it came. Never asserts anything.

#![expect(clippy::disallowed_methods, reason = "a server for tests has no tracker for its tasks")]

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufStream};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::repository;

/// A server on an address of this machine. Ends when it is dropped.
pub struct Web {
    /// Where it listens.
    pub address: SocketAddr,
    log: Arc<Mutex<Log>>,
    listening: AbortHandle,
}

#[derive(Default)]
struct Log {
    requests: Vec<String>,
    accepted: usize,
    open: usize,
}

/// The certificate authority that signed [`Web::with_tls`]'s certificate, for `api.example.test` and `127.0.0.1`.
pub fn authority() -> Vec<u8> {
    tls_file("authority.pem")
}

fn tls_file(name: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/tls").join(name)).expect("the file is in the repository")
}

impl Web {
    /// Starts a server on 127.0.0.1.
    pub async fn start() -> Self {
        Self::listen([127, 0, 0, 1].into(), None).await
    }

    /// Starts a server on this address.
    pub async fn on(address: IpAddr) -> Self {
        Self::listen(address, None).await
    }

    /// Starts a server that speaks TLS.
    pub async fn with_tls() -> Self {
        let chain = CertificateDer::pem_slice_iter(&tls_file("server.pem"))
            .collect::<Result<Vec<_>, _>>()
            .expect("it is a certificate");
        let key = PrivateKeyDer::from_pem_slice(&tls_file("server.key")).expect("it is a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they belong together");
        Self::listen([127, 0, 0, 1].into(), Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(address: IpAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let log = Arc::new(Mutex::new(Log::default()));
        let of_server = Arc::clone(&log);
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let open = Open::new(&of_server);
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &open).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &open).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { address, log, listening: listening.abort_handle() }
    }

    /// Returns an address of this server, by its number.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns an address of this server, by a name.
    pub fn named(&self, scheme: &str, name: &str, path: &str) -> String {
        format!("{scheme}://{name}:{}{path}", self.address.port())
    }

    /// Returns every request so far: heads and bodies.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.log).requests.clone()
    }

    /// Returns the values of a header in all requests so far; `-` where one does not have it.
    pub fn header(&self, name: &str) -> Vec<String> {
        let of = |request: &String| {
            let headers = request.lines().skip(1).map_while(|line| line.split_once(": "));
            let mut values = headers.filter(|(found, _)| found.eq_ignore_ascii_case(name));
            values.next().map_or("-".to_owned(), |(_, value)| value.to_owned())
        };
        self.requests().iter().map(of).collect()
    }

    /// Returns how many connections were accepted.
    pub fn accepted(&self) -> usize {
        lock(&self.log).accepted
    }

    /// Waits until so many connections are open.
    ///
    /// # Panics
    /// Where that takes five seconds.
    pub async fn until_open(&self, count: usize) {
        for _ in 0..1000 {
            if lock(&self.log).open == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} connections are open, not {count}", lock(&self.log).open);
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Counts a connection for as long as it is open.
struct Open(Arc<Mutex<Log>>);

impl Open {
    fn new(log: &Arc<Mutex<Log>>) -> Self {
        let mut counts = lock(log);
        counts.accepted += 1;
        counts.open += 1;
        drop(counts);
        Self(Arc::clone(log))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.0).open -= 1;
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers requests until the connection ends; `None` where it ended in the middle of something.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, open: &Open) -> Option<()> {
    let mut stream = BufStream::new(stream);
    loop {
        let head = head(&mut stream).await?;
        let path = head.split(' ').nth(1)?.to_owned();
        let body = if path == "/reset" { String::new() } else { body(&mut stream, &head).await? };
        lock(&open.0).requests.push(format!("{head}{body}"));
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        match path {
            "/echo" => {
                let reflected = head.lines().find_map(|line| line.strip_prefix("authorization: "));
                let headers = format!("x-reflected: {}\r\n", reflected.unwrap_or("nothing"));
                answer(&mut stream, "200 OK", &headers, &format!("{head}{body}")).await?;
            }
            "/redirect" => answer(&mut stream, "302 Found", &format!("location: {query}\r\n"), "").await?,
            "/status" => answer(&mut stream, &format!("{query} Said So"), "", "").await?,
            // Nothing more is sent; the reading ends when the other side goes.
            "/stall-head" => gone(&mut stream).await?,
            "/stall-body" => {
                write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nten bytes.").await?;
                gone(&mut stream).await?;
            }
            "/cut" => {
                write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nten bytes.").await?;
                return None;
            }
            // Closed with something unread, which makes the system send a reset.
            "/reset" => return None,
            "/endless" => {
                write(&mut stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                let piece = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
                loop {
                    write(&mut stream, &piece).await?;
                }
            }
            "/sized" => {
                let size: usize = query.parse().ok()?;
                answer(&mut stream, "200 OK", "", &"x".repeat(size)).await?;
            }
            "/giant-header" => {
                let headers = format!("x-giant: {}\r\n", "x".repeat(1 << 20));
                answer(&mut stream, "200 OK", &headers, "").await?;
            }
            "/many-headers" => {
                let headers: String = (0..100_000).map(|n| format!("x-{n}: y\r\n")).collect();
                answer(&mut stream, "200 OK", &headers, "").await?;
            }
            "/trailers" => {
                let value = authorization(&head);
                let text = format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-late\r\n\r\n2\r\nhi\r\n0\r\nx-late: {value}\r\n\r\n"
                );
                write(&mut stream, &text).await?;
            }
            "/101-headers" => {
                let headers: String = (0..100).map(|n| format!("x-{n}: y\r\n")).collect();
                answer(&mut stream, "200 OK", &headers, "").await?;
            }
            "/100-headers" => {
                let headers: String = (0..99).map(|n| format!("x-{n}: y\r\n")).collect();
                answer(&mut stream, "200 OK", &headers, "hi").await?;
            }
            "/length-endless" => {
                write(&mut stream, &format!("{OK}content-length: {}\r\n\r\n", u64::MAX)).await?
            }
            "/chunk-nonsense" => {
                write(&mut stream, &format!("{OK}transfer-encoding: chunked\r\n\r\nzz\r\n")).await?
            }
            "/chunk-huge" => {
                write(&mut stream, &format!("{OK}transfer-encoding: chunked\r\n\r\n{}\r\n", "f".repeat(18)))
                    .await?;
                gone(&mut stream).await?;
            }
            "/chunk-endless" => {
                write(&mut stream, &format!("{OK}transfer-encoding: chunked\r\n\r\n5;")).await?;
                endless(&mut stream, "x").await?;
            }
            "/trailers-endless" => {
                write(&mut stream, &format!("{OK}transfer-encoding: chunked\r\n\r\n0\r\n")).await?;
                endless(&mut stream, "x-late: y\r\n").await?;
            }
            "/head-endless" => endless(&mut stream, "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await?,
            "/two-lengths" => {
                write(&mut stream, &format!("{OK}content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"))
                    .await?;
            }
            // What looks like the answer to the next request comes with this one.
            "/more-than-said" => {
                let next = format!("{OK}content-length: 8\r\n\r\nsmuggled");
                write(&mut stream, &format!("{OK}content-length: 2\r\n\r\nhi{next}")).await?;
            }
            // What was sent comes back wherever it can, and in what is no answer.
            "/reflect" => {
                let value = authorization(&head);
                let headers = format!("www-authenticate: {value}\r\nx-reflected: {value}\r\n");
                answer(&mut stream, &format!("401 {value}"), &headers, "").await?;
            }
            "/reflect-garbage" => write(&mut stream, &format!("{}\r\n\r\n", authorization(&head))).await?,
            "/reflect-chunk" => {
                let text = format!("{OK}transfer-encoding: chunked\r\n\r\n{}\r\n", authorization(&head));
                write(&mut stream, &text).await?;
                gone(&mut stream).await?;
            }
            "/garbage" => write(&mut stream, "this is no HTTP\r\n\r\n").await?,
            // Looks as if the connection could be used again, and is closed a moment later.
            "/leave" => {
                answer(&mut stream, "200 OK", "", "bye").await?;
                return Some(());
            }
            _ => answer(&mut stream, "200 OK", "", "hello").await?,
        }
    }
}

/// How a good answer begins.
const OK: &str = "HTTP/1.1 200 OK\r\n";

fn authorization(head: &str) -> &str {
    head.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or("-")
}

async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    status: &str,
    headers: &str,
    body: &str,
) -> Option<()> {
    let length = body.len();
    write(stream, &format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}")).await
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> Option<()> {
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.flush().await.ok()
}

async fn endless(stream: &mut (impl AsyncWrite + Unpin), piece: &str) -> Option<()> {
    let pieces = piece.repeat(1000);
    loop {
        write(stream, &pieces).await?;
    }
}

async fn gone(stream: &mut (impl AsyncRead + Unpin)) -> Option<()> {
    while stream.read(&mut [0; 1024]).await.ok()? > 0 {}
    None
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn body(stream: &mut (impl AsyncRead + Unpin), head: &str) -> Option<String> {
    let head = head.to_ascii_lowercase();
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            body.push(stream.read_u8().await.ok()?);
        }
    } else if let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
        body.resize(length.parse().ok()?, 0);
        stream.read_exact(&mut body).await.ok()?;
    }
    String::from_utf8(body).ok()
}
