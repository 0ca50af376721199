//! Owns the way to a connection: look the name up once, check every address, connect to what was
//! checked, and speak TLS where the scheme says so. Never sends a request, never uses a proxy.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hyper::client::conn::http1::{self, SendRequest};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use url::Host;
use wasmtime_wasi_http::io::TokioIo;

use super::body::RequestBody;
use super::limits::LONGEST_HEAD;
use super::target::{Scheme, Target};
use crate::clock;

/// How long a host may take to be connected to, to begin its answer, and to go on with it. 30 s, as
/// long as a step has by default; what a guest asks for counts where it is shorter.
pub const DEFAULT_HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may be idle before it is closed. 20 s: shorter than most servers wait.
pub const DEFAULT_HTTP_IDLE: Duration = Duration::from_secs(20);

/// How outgoing requests are made. Construct with `HttpOptions::default()` and change fields.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Certificate authorities to be trusted beside the browsers', each as a PEM text of one or more.
    pub roots: Vec<Vec<u8>>,
    /// What names are looked up with. Default the operating system.
    pub resolver: Arc<dyn Resolve>,
    /// The most time for looking up, connecting and TLS together.
    pub connect_timeout: Duration,
    /// The most time without progress until the head of an answer has come.
    pub first_byte_timeout: Duration,
    /// The most time between two pieces of an answer.
    pub between_bytes_timeout: Duration,
    /// How long a connection may be idle before it is closed.
    pub idle_timeout: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            resolver: Arc::new(SystemResolver),
            connect_timeout: DEFAULT_HTTP_TIMEOUT,
            first_byte_timeout: DEFAULT_HTTP_TIMEOUT,
            between_bytes_timeout: DEFAULT_HTTP_TIMEOUT,
            idle_timeout: DEFAULT_HTTP_IDLE,
        }
    }
}

/// Why a host cannot make requests as it was told.
#[derive(Debug, thiserror::Error)]
pub enum HttpOptionsError {
    /// A text is no certificate.
    #[error("certificate authority {index} cannot be used: {reason}")]
    Root {
        /// Which of [`HttpOptions::roots`], from 1.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The cryptography does not offer what TLS needs.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Looks names up.
#[async_trait]
pub trait Resolve: Debug + Send + Sync {
    /// Returns the addresses of a host, the best first.
    ///
    /// # Errors
    /// Where they cannot be known now.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// Asks the operating system.
#[derive(Debug)]
struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let addresses = tokio::net::lookup_host((host, 0)).await?;
        Ok(addresses.map(|address| address.ip()).collect())
    }
}

/// Makes connections for all steps of a host, and ends them with it. The steps have TLS sessions in common,
/// by which a server may know the host again, and nothing of a step.
pub(crate) struct Connector {
    tls: TlsConnector,
    pub(crate) options: HttpOptions,
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
}

/// A connection that requests can be sent over, one after another. Ends when it is dropped.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<RequestBody>,
    pub(crate) address: IpAddr,
    _driver: AbortOnDropHandle<()>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectFault {
    #[error("the name cannot be looked up: {0}")]
    Lookup(io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("none of its addresses is public: {}", list(.0))]
    NotPublic(Vec<IpAddr>),
    #[error("no connection: {0}")]
    Refused(io::Error),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("the certificate is not good: {0}")]
    Certificate(rustls::CertificateError),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("HTTP failed: {0}")]
    Http(hyper::Error),
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Connector {
    /// Returns a connector that trusts the browsers' authorities and those of the options.
    ///
    /// # Errors
    /// Where one of those cannot be used.
    pub(crate) fn new(options: HttpOptions) -> Result<Self, HttpOptionsError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for (index, pem) in options.roots.iter().enumerate() {
            let fault = |reason: String| HttpOptionsError::Root { index: index + 1, reason };
            let mut any = false;
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| fault(error.to_string()))?;
                roots.add(certificate).map_err(|error| fault(error.to_string()))?;
                any = true;
            }
            if !any {
                return Err(fault("the text has no certificate in PEM form".to_owned()));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| HttpOptionsError::Tls(error.to_string()))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), options, tasks, closing })
    }

    /// Ends all connections, and waits until they have.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Returns a new connection, to an address that is admitted.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub(crate) async fn connect(
        &self,
        target: &Target,
        limit: Duration,
        admits: impl Fn(IpAddr) -> bool,
    ) -> Result<Connection, ConnectFault> {
        let connected = clock::within(limit, self.connect_unbounded(target, limit, admits)).await;
        connected.ok_or(ConnectFault::Timeout(limit))?
    }

    async fn connect_unbounded(
        &self,
        target: &Target,
        limit: Duration,
        admits: impl Fn(IpAddr) -> bool,
    ) -> Result<Connection, ConnectFault> {
        let until = clock::deadline(clock::now(), limit);
        let found = self.addresses(target).await?;
        let admitted: Vec<IpAddr> = found.iter().copied().filter(|address| admits(*address)).collect();
        match (found.is_empty(), admitted.is_empty()) {
            (true, _) => return Err(ConnectFault::NoAddress),
            (false, true) => return Err(ConnectFault::NotPublic(found)),
            (false, false) => {}
        }
        let (stream, address) = tcp(&admitted, target.port, until).await?;
        let stream: Box<dyn Stream> = match target.scheme {
            Scheme::Http => Box::new(stream),
            Scheme::Https => self.secured(stream, &target.host).await?,
        };
        let mut builder = http1::Builder::new();
        builder.max_buf_size(LONGEST_HEAD);
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(ConnectFault::Http)?;
        let closing = self.closing.clone();
        let driver = async move {
            tokio::select! {
                () = closing.cancelled() => {}
                ended = driver => if let Err(error) = ended {
                    tracing::debug!(%error, "an HTTP connection ended");
                }
            }
        };
        let driver = AbortOnDropHandle::new(self.tasks.spawn(driver));
        Ok(Connection { sender, address, _driver: driver })
    }

    /// Returns all addresses of the host: looked up once, so that what is checked is what is used.
    async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, ConnectFault> {
        match &target.host {
            Host::Ipv4(address) => Ok(vec![(*address).into()]),
            Host::Ipv6(address) => Ok(vec![(*address).into()]),
            Host::Domain(name) => self.options.resolver.resolve(name).await.map_err(ConnectFault::Lookup),
        }
    }

    async fn secured(&self, stream: TcpStream, host: &Host) -> Result<Box<dyn Stream>, ConnectFault> {
        let name = match host {
            Host::Domain(name) => ServerName::try_from(name.clone()),
            Host::Ipv4(address) => Ok(ServerName::from(IpAddr::from(*address))),
            Host::Ipv6(address) => Ok(ServerName::from(IpAddr::from(*address))),
        };
        let name = name.map_err(|error| ConnectFault::Tls(error.to_string()))?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(fault)) => ConnectFault::Certificate(fault.clone()),
                _ => ConnectFault::Tls(error.to_string()),
            }
        })?;
        Ok(Box::new(stream))
    }
}

/// What HTTP is spoken over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Returns a connection to the first address that answers. None may use up the time of those after it.
async fn tcp(
    addresses: &[IpAddr],
    port: u16,
    until: Option<Instant>,
) -> Result<(TcpStream, IpAddr), ConnectFault> {
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for (index, address) in addresses.iter().enumerate() {
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(clock::now()));
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        match clock::within(share, TcpStream::connect(SocketAddr::new(*address, port))).await {
            Some(Ok(stream)) => {
                stream.set_nodelay(true).map_err(ConnectFault::Refused)?;
                return Ok((stream, *address));
            }
            Some(Err(error)) => last = error,
            None => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(ConnectFault::Refused(last))
}
