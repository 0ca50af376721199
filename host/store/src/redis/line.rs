//! Owns the connection to the server: dialling, dialling again, and what an answer that fails says of
//! the request. Never decides what to ask.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, Pipeline, RedisError, Script, ServerErrorKind,
};
use tokio::sync::Mutex;

use crate::error::{StoreError, StoreErrorKind};

/// How long a connection may take to come about.
pub(super) const DIAL: Duration = Duration::from_secs(5);

/// How long an answer may take: a body of 64 MiB, written and synced by a slow disk.
const ANSWER: Duration = Duration::from_secs(30);

/// The way to the server. All requests share one connection.
pub(super) struct Line {
    client: Client,
    /// `host:port`, for people; never the password.
    address: String,
    /// How often it was dialled, with or without success.
    dialled: AtomicU64,
    slot: Mutex<Slot>,
}

struct Slot {
    state: State,
    /// The value of `dialled` when this state came about.
    since: u64,
}

enum State {
    Live(MultiplexedConnection),
    Down(StoreError),
    Closed,
}

/// How a request failed.
pub(super) enum Failed {
    /// The server has not got it, or has refused it.
    Refused(StoreError),
    /// The server may have done it; the answer was lost.
    Lost(RedisError),
}

impl Line {
    pub(super) fn new(client: Client, address: String) -> Self {
        let state = State::Down(unavailable(&address, "not yet dialled"));
        Self { client, address, dialled: AtomicU64::new(0), slot: Mutex::new(Slot { state, since: 0 }) }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Sends what may be repeated, and once more where the connection breaks.
    pub(super) async fn read<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, StoreError> {
        match self.send(async |line| pipeline.query_async(line).await).await {
            Err(Failed::Lost(error)) if !error.is_timeout() => {
                self.send(async |line| pipeline.query_async(line).await).await
            }
            answer => answer,
        }
        .map_err(|failed| self.away(failed))
    }

    /// Runs a script that may be repeated, and once more where the connection breaks.
    pub(super) async fn read_script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[Vec<u8>],
    ) -> Result<T, StoreError> {
        match self.run(script, keys, arguments).await {
            Err(Failed::Lost(error)) if !error.is_timeout() => self.run(script, keys, arguments).await,
            answer => answer,
        }
        .map_err(|failed| self.away(failed))
    }

    /// Runs a script once.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[impl redis::ToRedisArgs],
    ) -> Result<T, Failed> {
        let mut invocation = script.prepare_invoke();
        keys.iter().for_each(|key| {
            invocation.key(key);
        });
        arguments.iter().for_each(|argument| {
            invocation.arg(argument);
        });
        self.send(async |line| invocation.invoke_async(line).await).await
    }

    /// Lets go of the connection; whoever asks for it later is refused.
    pub(super) async fn close(&self) {
        self.slot.lock().await.state = State::Closed;
    }

    async fn send<T>(
        &self,
        request: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, Failed> {
        let (mut line, since) = self.connection().await.map_err(Failed::Refused)?;
        match request(&mut line).await {
            Ok(answer) => Ok(answer),
            Err(error) if refused(&error) => Err(Failed::Refused(self.refusal(&error))),
            Err(error) => {
                self.hang_up(since, &error).await;
                Err(Failed::Lost(error))
            }
        }
    }

    /// Returns the connection, dialled anew where it is down. Whoever waited while another dialled in
    /// vain is told the same, and does not dial one after the other.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64), StoreError> {
        let before = self.dialled.load(Ordering::Acquire);
        let mut slot = self.slot.lock().await;
        match &slot.state {
            State::Live(line) => return Ok((line.clone(), slot.since)),
            State::Closed => return Err(StoreError::new(StoreErrorKind::Unavailable, "the store is closed")),
            State::Down(error) if slot.since > before => return Err(error.clone()),
            State::Down(_) => {}
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DIAL))
            .set_response_timeout(Some(ANSWER));
        let dialled = self.client.get_multiplexed_async_connection_with_config(&config).await;
        slot.since = self.dialled.fetch_add(1, Ordering::AcqRel) + 1;
        match dialled {
            Ok(line) => {
                slot.state = State::Live(line.clone());
                Ok((line, slot.since))
            }
            Err(error) => {
                let error = self.refusal(&error);
                slot.state = State::Down(error.clone());
                Err(error)
            }
        }
    }

    async fn hang_up(&self, since: u64, error: &RedisError) {
        let mut slot = self.slot.lock().await;
        if slot.since == since && matches!(slot.state, State::Live(_)) {
            slot.state = State::Down(unavailable(&self.address, error));
        }
    }

    fn away(&self, failed: Failed) -> StoreError {
        match failed {
            Failed::Refused(error) => error,
            Failed::Lost(error) => unavailable(&self.address, error),
        }
    }

    /// Returns what a refusal means, and who must act.
    fn refusal(&self, error: &RedisError) -> StoreError {
        let address = &self.address;
        let said = error.to_string();
        let unusable = |what: &str| {
            StoreError::new(StoreErrorKind::Unusable, format!("the Redis server at `{address}` {what}"))
        };
        // Redis 6 says the code of what failed within a script in the text only.
        let says = |code: &str| error.code() == Some(code) || said.contains(&format!("-{code} "));
        if error.kind() == ErrorKind::AuthenticationFailed || says("WRONGPASS") || says("NOAUTH") {
            return unusable("refuses the user or the password");
        }
        // Redis 7 says it in a script without the code.
        if says("NOPERM") || said.contains("can't run this command") {
            return unusable(&format!("lacks a permission for this user: {said}"));
        }
        if says("OOM") || said.contains("OOM command not allowed") {
            return unusable("is out of memory: raise its `maxmemory`, or purge the store");
        }
        if says("MISCONF") {
            return unusable(&format!("cannot write to its disk: {said}"));
        }
        if says("WRONGTYPE") {
            let message = format!("something else stands under the store's prefix at `{address}`: {said}");
            return StoreError::new(StoreErrorKind::Corrupt, message);
        }
        let passing = ["BUSY", "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"];
        if error.is_io_error() || passing.into_iter().any(says) {
            return unavailable(address, said);
        }
        unusable(&format!("refuses: {said}"))
    }
}

/// Returns whether the server has answered, with a refusal, so that nothing was done.
fn refused(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ExecAbort | ServerErrorKind::NoSub) => false,
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => true,
        _ => false,
    }
}

fn unavailable(address: &str, why: impl std::fmt::Display) -> StoreError {
    let message = format!("the Redis server at `{address}` cannot be reached: {why}");
    StoreError::new(StoreErrorKind::Unavailable, message)
}
