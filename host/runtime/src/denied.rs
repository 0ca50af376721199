//! Owns the functions that a module may import and nobody may use: they stop the guest and name
//! themselves. Never opens a socket, never looks up a name.

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::TrappableError;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{self, ResolveAddressStream};
use wasmtime_wasi::p2::bindings::sockets::network::{self, IpAddress, IpAddressFamily, Network};
use wasmtime_wasi::p2::bindings::sockets::{tcp_create_socket, udp_create_socket};
use wasmtime_wasi::p2::{DynPollable, SocketError, SocketResult, TcpSocket, UdpSocket};

/// What can be done about it.
const HOW: &str = "no step is given sockets; for HTTP use `wasi:http` and grant `http`";

/// The error that stops the guest.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("used `{import}`, which no grant gives")]
pub(crate) struct Denied {
    /// The interface and function.
    pub(crate) import: &'static str,
    /// What can be done about it.
    pub(crate) how: &'static str,
}

fn denied(import: &'static str) -> SocketError {
    TrappableError::trap(Denied { import, how: HOW })
}

/// Replaces the ways in which a guest could come by a socket or an address: without one, the other
/// functions of `wasi:sockets` have nothing to work on.
pub(crate) fn add_to_linker<T: Send + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    tcp_create_socket::add_to_linker::<T, Nothing>(linker, |_| Nothing)?;
    udp_create_socket::add_to_linker::<T, Nothing>(linker, |_| Nothing)?;
    ip_name_lookup::add_to_linker::<T, Nothing>(linker, |_| Nothing)
}

/// What these functions have of a guest.
struct Nothing;

impl HasData for Nothing {
    type Data<'a> = Nothing;
}

// Asked for by the traits below and never linked: the interface itself is wasmtime-wasi's.
impl network::HostNetwork for Nothing {
    fn drop(&mut self, _: Resource<Network>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl network::Host for Nothing {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<network::ErrorCode> {
        error.downcast()
    }

    fn network_error_code(
        &mut self,
        _: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<network::ErrorCode>> {
        Ok(None)
    }
}

impl tcp_create_socket::Host for Nothing {
    fn create_tcp_socket(&mut self, _: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        Err(denied("wasi:sockets/tcp-create-socket.create-tcp-socket"))
    }
}

impl udp_create_socket::Host for Nothing {
    async fn create_udp_socket(&mut self, _: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        Err(denied("wasi:sockets/udp-create-socket.create-udp-socket"))
    }
}

impl ip_name_lookup::Host for Nothing {
    fn resolve_addresses(
        &mut self,
        _: Resource<Network>,
        _: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        Err(denied("wasi:sockets/ip-name-lookup.resolve-addresses"))
    }
}

impl ip_name_lookup::HostResolveAddressStream for Nothing {
    fn resolve_next_address(&mut self, _: Resource<ResolveAddressStream>) -> SocketResult<Option<IpAddress>> {
        Err(denied("wasi:sockets/ip-name-lookup.resolve-next-address"))
    }

    fn subscribe(&mut self, _: Resource<ResolveAddressStream>) -> wasmtime::Result<Resource<DynPollable>> {
        Err(Denied { import: "wasi:sockets/ip-name-lookup.subscribe", how: HOW }.into())
    }

    fn drop(&mut self, _: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        Ok(())
    }
}
