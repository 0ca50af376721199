//! Owns what a guest can see and use: the state behind one instance, its limits, and the linker.
//! Without grants that is nothing beyond the step's own configuration.

mod again;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use chacha20::ChaCha12Rng;
use chacha20::rand_core::SeedableRng as _;
use sha2::{Digest as _, Sha256};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime::{ResourceLimiter, StoreContextMut};
use wasmtime_wasi::filesystem::WasiFilesystemCtxView;
use wasmtime_wasi::p2::IoError;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::filesystem::types;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::{
    ErrorCode, HostOutgoingRequest as HostOutgoingRequestMethods, Method,
};
use wasmtime_wasi_http::p2::types::HostOutgoingRequest;
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_io::bindings::wasi::io::poll;

use crate::bindings::config;
use crate::denied;
use crate::dirs::OpenDir;
use crate::failure::StepFailure;
use crate::files::{Files, FilesView};
use crate::grants::{Access, Circumstance, Grants};
use crate::guest_clock::{ClockView, GuestClock};
use crate::guest_log::{GuestLog, LineSink, Stream, Volume};
use crate::http::{self, HttpAttempt, HttpGrant, HttpLimits, Noted};
use crate::options::Limits;

/// What a step's configuration is: keys and values, in the order of the keys.
pub(crate) type StepConfig = Arc<BTreeMap<String, String>>;

/// The most handles of the host's that one guest may hold: streams, timers, files. 65,536: far more than
/// a program needs, and a few megabytes of the host's memory.
pub(crate) const MOST_HANDLES: usize = 1 << 16;

/// The same for a guest that uses files or HTTP: what stands behind such a handle may hold 128 KiB, the
/// headers of a request or what was read ahead. 4,096: four for each file that may be open at all, and
/// half a gigabyte of the host's memory at the very worst.
const MOST_HEAVY_HANDLES: usize = 1 << 12;

/// The longest name of a method, in bytes. The longest that is registered has 17.
const LONGEST_METHOD: usize = 64;

/// The most random bytes that are drawn at once. 1 MiB: some milliseconds of work, which nothing interrupts; left to
/// wasmtime-wasi it would be a fifth of a second, in which nobody else has the thread.
const MOST_RANDOM: u64 = 1 << 20;

/// What an operator gives a step.
#[derive(Default)]
pub(crate) struct Given {
    pub(crate) config: Option<StepConfig>,
    pub(crate) grants: Grants,
    /// What of the grants is about HTTP, with the values of secrets.
    pub(crate) http: Option<Arc<HttpGrant>>,
}

impl Given {
    /// Returns what most steps are given.
    pub(crate) fn nothing() -> &'static Self {
        static NOTHING: LazyLock<Given> = LazyLock::new(Given::default);
        &NOTHING
    }

    /// Returns this to be shared by all attempts; none where there is nothing in it, so that attempts on many
    /// processors do not count one number up and down.
    pub(crate) fn shared(self) -> Option<Arc<Self>> {
        let Self { config, grants, http } = &self;
        let nothing = config.is_none() && *grants == Grants::default() && http.is_none();
        (!nothing).then(|| Arc::new(self))
    }
}

/// Everything one instance has from the host.
pub(crate) struct Sandbox {
    table: ResourceTable,
    /// Made when the guest first asks WASI for something; most steps never do.
    wasi: Option<Box<WasiCtx>>,
    clock: GuestClock,
    /// Made with `wasi`.
    log: Option<GuestLog>,
    log_limit: Volume,
    lines: LineSink,
    given: Option<Arc<Given>>,
    /// Made with `wasi`.
    files: Option<Files>,
    open_files: u64,
    dir_bytes: u64,
    /// Of a step with a grant; without one it is made when the guest first asks for HTTP, and refuses all.
    http: Option<Box<HttpAttempt>>,
    /// What all the guest's randomness comes from.
    seed: [u8; 32],
    memory: Meter,
    tables: Meter,
}

impl Sandbox {
    pub(crate) fn new(
        limits: &Limits,
        started_at_ms: u64,
        seed: [u8; 32],
        given: Option<Arc<Given>>,
        lines: LineSink,
    ) -> Self {
        let Given { grants, http, config: _ } = given.as_deref().unwrap_or(Given::nothing());
        let mut table = ResourceTable::new();
        let is_light = grants.dirs.is_empty() && http.is_none();
        table.set_max_capacity(if is_light { MOST_HANDLES } else { MOST_HEAVY_HANDLES });
        let clock = match grants.clock {
            Circumstance::Virtual => GuestClock::new(started_at_ms),
            Circumstance::Real => GuestClock::real(),
        };
        Self {
            table,
            wasi: None,
            clock,
            files: None,
            open_files: limits.open_files,
            dir_bytes: limits.dir_bytes,
            log: None,
            log_limit: Volume { bytes: limits.logs, lines: limits.log_lines },
            lines,
            http: http.clone().map(|grant| Box::new(HttpAttempt::new(Some(grant), limits.http, seed))),
            given,
            seed,
            memory: Meter::new(limits.memory),
            tables: Meter::new(limits.table_elements),
        }
    }

    /// Returns the largest size that the guest's linear memories had together, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.memory.used
    }

    /// Returns whether the guest was refused more memory.
    pub(crate) fn memory_refused(&self) -> bool {
        self.memory.refused
    }

    /// Returns whether the guest was refused more table elements.
    pub(crate) fn tables_refused(&self) -> bool {
        self.tables.refused
    }

    /// Returns how many handles of the host's the guest may hold.
    pub(crate) fn most_handles(&self) -> u64 {
        self.table.max_capacity() as u64
    }

    /// Returns what the guest has written, if it ever came to write.
    pub(crate) fn log(&self) -> Option<&GuestLog> {
        self.log.as_ref()
    }

    /// Returns what went wrong in the guest's use of HTTP, if it ever came to that.
    pub(crate) fn http_noted(&self) -> Option<Noted> {
        self.http.as_ref().map(|http| http.take_noted())
    }

    /// Opens the directories that were granted, if any were.
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub(crate) fn open_dirs(&mut self) -> Result<(), StepFailure> {
        let Some(given) = self.given.clone().filter(|given| !given.grants.dirs.is_empty()) else {
            return Ok(());
        };
        let mut wasi = self.wasi_builder();
        for dir in &given.grants.dirs {
            let perms = match dir.access {
                Access::ReadOnly => FsPerms::ReadOnly,
                Access::ReadWrite => FsPerms::ReadWrite,
            };
            let fault = |error: &dyn std::fmt::Display| {
                StepFailure::Grant(format!("`{}` cannot be opened: {error}", dir.host.display()))
            };
            let opened = OpenDir::open(&dir.host).map_err(|error| fault(&error))?;
            wasi.preopened_dir(opened.path(), &dir.guest, perms)
                .map_err(|error| fault(&error.root_cause()))?;
        }
        self.wasi = Some(Box::new(wasi.build()));
        Ok(())
    }

    fn wasi_builder(&mut self) -> WasiCtxBuilder {
        let (limit, lines) = (self.log_limit, &mut self.lines);
        // An instance that is used again has streams into the log that there is.
        let log = self.log.get_or_insert_with(|| GuestLog::new(limit, lines.take()));
        let [secure, insecure, seed] = ["secure", "insecure", "insecure-seed"].map(|purpose| {
            let digest = Sha256::new().chain_update(purpose).chain_update([0]).chain_update(self.seed);
            <[u8; 32]>::from(digest.finalize())
        });
        let seed = u128::from_le_bytes(*seed.first_chunk().expect("a digest has 32 bytes"));
        // Whatever is not set here is empty or denied; randomness is the system's.
        let mut wasi = WasiCtx::builder();
        wasi.stdout(log.stream(Stream::Stdout)).stderr(log.stream(Stream::Stderr));
        wasi.max_random_size(MOST_RANDOM);
        let grants = &self.given.as_deref().unwrap_or(Given::nothing()).grants;
        if grants.random == Circumstance::Virtual {
            wasi.secure_random(ChaCha12Rng::from_seed(secure))
                .insecure_random(ChaCha12Rng::from_seed(insecure))
                .insecure_random_seed(seed);
        }
        for (name, value) in &grants.env {
            wasi.env(name, value);
        }
        // As programs commonly find their secrets, so that they need not know of placeholders.
        for (name, placeholder) in self.http.iter().flat_map(|http| http.placeholders()) {
            wasi.env(name, placeholder);
        }
        wasi
    }
}

/// Counts what grows in one instance. Linear memories and tables never shrink, so what is used
/// now is also the peak.
struct Meter {
    limit: u64,
    used: u64,
    refused: bool,
}

impl Meter {
    fn new(limit: u64) -> Self {
        Self { limit, used: 0, refused: false }
    }

    fn is_half_used(&self) -> bool {
        self.used > self.limit / 2
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let used = self.used.saturating_add(desired.saturating_sub(current) as u64);
        if used > self.limit {
            self.refused = true;
            return false;
        }
        self.used = used;
        true
    }
}

impl ResourceLimiter for Sandbox {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.memory.grow(current, desired))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.tables.grow(current, desired))
    }
}

/// What WASI's views are made of.
struct Parts<'a> {
    wasi: &'a mut WasiCtx,
    table: &'a mut ResourceTable,
    files: &'a mut Files,
}

impl Sandbox {
    fn parts(&mut self) -> Parts<'_> {
        if self.wasi.is_none() {
            let wasi = self.wasi_builder().build();
            self.wasi = Some(Box::new(wasi));
        }
        let wasi = self.wasi.as_mut().expect("made just above");
        let files = self.files.get_or_insert_with(|| Files::new(self.open_files, self.dir_bytes));
        Parts { wasi, table: &mut self.table, files }
    }
}

impl WasiView for Sandbox {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Parts { wasi, table, files: _ } = self.parts();
        WasiCtxView { ctx: wasi, table }
    }
}

impl WasiHttpView for Sandbox {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let table = &mut self.table;
        let refusing = || {
            // A step that was granted nothing, in a module of which another was.
            table.set_max_capacity(MOST_HEAVY_HANDLES);
            Box::new(HttpAttempt::new(None, HttpLimits::default(), self.seed))
        };
        let HttpAttempt { context, hooks } = &mut **self.http.get_or_insert_with(refusing);
        WasiHttpCtxView { hooks, table, ctx: context }
    }
}

/// Returns the linker of all guests: WASI preview 2, of which clocks, waiting, files and sockets are
/// replaced by ours, `wasi:config` and `wasi:http`. Who may import those two is decided when a module is
/// loaded.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    linker.allow_shadowing(true);
    wall_clock::add_to_linker::<Sandbox, GuestClock>(&mut linker, clock_view)?;
    monotonic_clock::add_to_linker::<Sandbox, GuestClock>(&mut linker, clock_view)?;
    poll::add_to_linker::<Sandbox, GuestClock>(&mut linker, clock_view)?;
    types::add_to_linker::<Sandbox, Files>(&mut linker, files_view)?;
    denied::add_to_linker(&mut linker)?;
    let mut http_types = linker.instance(HTTP_TYPES)?;
    http_types.func_wrap("http-error-code", http_error_code)?;
    http_types.func_wrap("[method]outgoing-request.set-method", set_method)?;
    linker.allow_shadowing(false);
    config::store::add_to_linker::<Sandbox, HasConfig>(&mut linker, config_view)?;
    Ok(linker)
}

/// The interface as wasmtime-wasi-http names it; guests with another 0.2 find it too.
const HTTP_TYPES: &str = "wasi:http/types@0.2.12";

/// `http-error-code`: why the reading of a body failed.
fn http_error_code(
    store: StoreContextMut<'_, Sandbox>,
    (error,): (Resource<IoError>,),
) -> wasmtime::Result<(Option<ErrorCode>,)> {
    Ok((http::code(store.data().table.get(&error)?),))
}

/// `outgoing-request.set-method`: of its parts, the only one that nobody else bounds.
fn set_method(
    mut store: StoreContextMut<'_, Sandbox>,
    (request, method): (Resource<HostOutgoingRequest>, Method),
) -> wasmtime::Result<(Result<(), ()>,)> {
    if matches!(&method, Method::Other(name) if name.len() > LONGEST_METHOD) {
        return Ok((Err(()),));
    }
    Ok((HostOutgoingRequestMethods::set_method(&mut store.data_mut().http(), request, method)?,))
}

fn clock_view(sandbox: &mut Sandbox) -> ClockView<'_> {
    ClockView { clock: &mut sandbox.clock, table: &mut sandbox.table }
}

fn files_view(sandbox: &mut Sandbox) -> FilesView<'_> {
    let parts = sandbox.parts();
    let wasi = WasiFilesystemCtxView { ctx: parts.wasi.filesystem(), table: parts.table };
    FilesView { files: parts.files, wasi }
}

fn config_view(sandbox: &mut Sandbox) -> ConfigView<'_> {
    ConfigView { config: sandbox.given.as_ref().and_then(|given| given.config.as_deref()) }
}

/// What `wasi:config` shows of a sandbox.
struct ConfigView<'a> {
    config: Option<&'a BTreeMap<String, String>>,
}

struct HasConfig;

impl HasData for HasConfig {
    type Data<'a> = ConfigView<'a>;
}

impl config::store::Host for ConfigView<'_> {
    fn get(&mut self, key: String) -> Result<Option<String>, config::store::Error> {
        Ok(self.config.and_then(|config| config.get(&key)).cloned())
    }

    fn get_all(&mut self) -> Result<Vec<(String, String)>, config::store::Error> {
        Ok(self.config.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
