//! Owns the one call of a guest: a fresh instance, and the call under its limits. The only file that calls guests. Never
//! retries, never keeps a result.

mod answer;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use docket_graph::{Arity, RawModule, Schema};
use wasmtime::{Store, UpdateDeadline};

use crate::bindings::{RunModule, RunModulePre, StepModule, raw_module, wit};
use crate::clock::{self, ProcessorTime};
use crate::digest::Digest;
use crate::failure::StepFailure;
use crate::guest_log::LineSink;
use crate::http::HttpLimits;
use crate::options::{
    DEFAULT_DIR_BYTES, DEFAULT_LOG_LINES, DEFAULT_LOGS, DEFAULT_MEMORY, DEFAULT_OPEN_FILES, DEFAULT_OUTPUT,
    DEFAULT_TABLE_ELEMENTS, Limits,
};
use crate::sandbox::{Given, MOST_HANDLES, Sandbox};
use crate::value::Value;

pub(crate) use answer::{Form, canonical, name_of, said, undecodable};
use answer::{answered, explain, with_http};

/// The time a module has to describe itself: building a few records. The heaviest language
/// runtimes need 3 ms; a machine that is busy with other work may need a thousand times that.
pub const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// What an answer may take beyond its messages, in bytes: list headers, a failure's texts.
const ANSWER_OVERHEAD: u64 = 1 << 20;

/// For how many calls an instance is used at most. 10,000: what it gathers that nobody counts goes with it, and one start in
/// ten thousand calls costs nothing.
const MOST_CALLS: u32 = 10_000;

/// One attempt at one step.
pub(crate) struct Call<'a> {
    pub(crate) pre: &'a RunModulePre<Sandbox>,
    pub(crate) limits: &'a Limits,
    pub(crate) given: Option<&'a Arc<Given>>,
    pub(crate) invocation: Invocation<'a>,
    pub(crate) inputs: &'a [(Arc<Value>, Arity)],
    pub(crate) output: (&'a Schema, Arity, Form),
    pub(crate) lines: LineSink,
    /// From when the timeout counts.
    pub(crate) began: Instant,
    /// The place of an instance that is used again: the call takes it from there, and leaves it there where it may be used
    /// once more. None where the instance is a fresh one, for this call alone.
    pub(crate) again: Option<&'a mut Option<Box<Used>>>,
}

/// An instance that has answered, and may be called again: for the same step of the same execution.
pub(crate) struct Used {
    store: Store<Sandbox>,
    step: Option<RunModule>,
    calls: u32,
}

/// What the guest is told of its circumstances.
pub(crate) struct Invocation<'a> {
    pub(crate) step: &'a str,
    pub(crate) execution_id: &'a str,
    pub(crate) attempt: u32,
    /// The key of the work; told to the guest as hexadecimal digits, and its seed.
    pub(crate) key: [u8; 32],
    pub(crate) started_at_ms: u64,
}

/// How an attempt ended, and what it used.
pub(crate) struct Called {
    /// A failure is boxed: most attempts have none, and all would carry its size.
    pub(crate) result: Result<Arc<Value>, Box<StepFailure>>,
    pub(crate) usage: Usage,
    pub(crate) ended: Instant,
    pub(crate) origin: Origin,
}

/// Where a result or a failure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An attempt of this execution, or the way to one.
    Attempt,
    /// A result that was kept.
    Kept,
    /// An attempt that another execution made for both.
    Shared,
}

/// What one attempt used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// The largest size of the guest's linear memories together, in bytes.
    pub peak_memory: u64,
    /// Fuel units used; only where the step has a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
}

/// Runs a step once, in a fresh instance unless one is to be used again. Whatever the guest does, this returns: at the
/// latest when the timeout has passed and the guest has reached the end of its time slice.
///
/// # Cancel safety
/// A dropped call drops its instance; nothing of it runs on.
pub(crate) async fn run(call: Call<'_>) -> Called {
    let Call { pre, limits, given, invocation, inputs, output, lines, began, mut again } = call;
    let lists = lists_of(inputs);
    let values = as_told(inputs, &lists);
    let Invocation { step, execution_id, attempt, key, started_at_ms } = invocation;
    let mut digits = [0; 64];
    let idempotency_key = base16ct::lower::encode_str(&key, &mut digits).expect("64 digits for 32 bytes");

    let deadline = clock::deadline(began, limits.timeout);
    let processor = limits.cpu.map(|_| Arc::new(ProcessorTime::default()));
    let fresh = |lines| {
        let sandbox = Sandbox::new(limits, started_at_ms, key, given.cloned(), lines);
        Used { store: new_store(pre.engine(), sandbox, limits, processor.as_ref()), step: None, calls: 0 }
    };
    let mut once;
    let mut boxed = again.as_deref_mut().map(|used| match used.take() {
        Some(mut used) => {
            used.store.data_mut().begin_again(limits, key, lines.clone());
            arm(&mut used.store, limits, processor.as_ref());
            used
        }
        None => Box::new(fresh(lines.clone())),
    });
    let Used { store, step: known, calls } = match &mut boxed {
        Some(used) => &mut **used,
        None => {
            once = fresh(lines);
            &mut once
        }
    };
    *calls += 1;
    let opened = store.data_mut().open_dirs();
    let told = wit::Invocation { step, execution_id, attempt, idempotency_key, started_at_ms };
    let (answer, ended) = {
        let called = pin!(async {
            opened.map_err(Unopened)?;
            let instance = match known {
                Some(instance) => instance,
                None => known.insert(pre.instantiate_async(&mut *store).await?),
            };
            instance.docket_step_step().call_run(&mut *store, told, &values).await
        });
        within(deadline, processor.as_deref(), called).await
    };

    let result = answered(answer, output, store.data(), limits);
    let result = match store.data().http_noted() {
        Some(noted) => with_http(result, noted, step, execution_id),
        None => result,
    };
    if let Some(log) = store.data().log() {
        log.finish();
    }
    let usage = usage(store, limits);
    let may_go_on =
        result.is_ok() && *calls < MOST_CALLS && again.is_some() && store.data_mut().end_attempt();
    if let Some(again) = again.filter(|_| may_go_on) {
        *again = boxed;
    }
    Called { result: result.map(Arc::new).map_err(Box::new), usage, ended, origin: Origin::Attempt }
}

/// Returns the messages of each input that is told as a list.
fn lists_of(inputs: &[(Arc<Value>, Arity)]) -> Vec<Vec<&[u8]>> {
    inputs
        .iter()
        .filter(|(_, arity)| *arity == Arity::Many)
        .map(|(value, _)| value.payloads().iter().map(|payload| &payload.bytes()[..]).collect())
        .collect()
}

/// Returns the inputs as the guest is told them, with [their lists](lists_of).
fn as_told<'a>(inputs: &'a [(Arc<Value>, Arity)], lists: &'a [Vec<&'a [u8]>]) -> Vec<wit::ValueParam<'a>> {
    let mut lists = lists.iter();
    inputs
        .iter()
        .map(|(value, arity)| match (arity, value.payloads()) {
            (Arity::One, [payload]) => wit::ValueParam::One(payload.bytes()),
            (Arity::One, payloads) => unreachable!("one message is wanted, {} are given", payloads.len()),
            (Arity::Many, _) => wit::ValueParam::Many(lists.next().expect("one list for each such input")),
        })
        .collect()
}

/// Why a module did not say what it offers.
#[derive(Debug)]
pub(crate) enum Undescribed {
    /// Its functions have other types than the interface's; this is what the engine says of it.
    OtherTypes(String),
    /// It failed.
    Failed(StepFailure),
}

/// Asks a module what it offers, in a fresh instance with nothing granted.
pub(crate) async fn describe(
    pre: &RunModulePre<Sandbox>,
    digest: &Digest,
    stack: u64,
    timeout: Duration,
) -> Result<RawModule, Undescribed> {
    let limits = Limits {
        timeout,
        memory: DEFAULT_MEMORY,
        table_elements: DEFAULT_TABLE_ELEMENTS,
        output: DEFAULT_OUTPUT,
        logs: DEFAULT_LOGS,
        http: HttpLimits::default(),
        log_lines: DEFAULT_LOG_LINES,
        open_files: DEFAULT_OPEN_FILES,
        dir_bytes: DEFAULT_DIR_BYTES,
        cpu: None,
        stack,
        fuel: None,
    };
    // The answer is kept by the digest, so everything that could shape it comes from the digest.
    let sandbox = Sandbox::new(&limits, 0, *digest.as_bytes(), None, None);
    let mut store = new_store(pre.engine(), sandbox, &limits, None);
    let deadline = clock::deadline(clock::now(), limits.timeout);
    let (answer, _) = {
        let called = pin!(async {
            let instance = pre.instance_pre().instantiate_async(&mut store).await?;
            // Here all functions are held against the interface, `run` too.
            let step = match StepModule::new(&mut store, &instance) {
                Ok(step) => step,
                Err(error) => return Ok(Err(error)),
            };
            step.docket_step_step().call_describe(&mut store).await.map(Ok)
        });
        within(deadline, None, called).await
    };
    match answer {
        None => Err(Undescribed::Failed(StepFailure::Timeout { limit: limits.timeout })),
        Some(Ok(Ok(module))) => Ok(raw_module(module)),
        Some(Ok(Err(error))) => Err(Undescribed::OtherTypes(said(&error))),
        Some(Err(error)) => Err(Undescribed::Failed(explain(&error, store.data(), &limits))),
    }
}

fn new_store(
    engine: &wasmtime::Engine,
    sandbox: Sandbox,
    limits: &Limits,
    processor: Option<&Arc<ProcessorTime>>,
) -> Store<Sandbox> {
    let mut store = Store::new(engine, sandbox);
    store.limiter(|sandbox| sandbox);
    arm(&mut store, limits, processor);
    store
}

/// Sets what holds for one call.
fn arm(store: &mut Store<Sandbox>, limits: &Limits, processor: Option<&Arc<ProcessorTime>>) {
    store.set_epoch_deadline(1);
    // Each tick the guest yields through tokio, which then also looks at its timers and sockets:
    // guests that spin cannot starve those that wait.
    let go_on = || Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())));
    match limits.cpu.zip(processor.cloned()) {
        Some((most, processor)) => store.epoch_deadline_callback(move |_| {
            if processor.so_far() > most { Err(TooMuchComputing.into()) } else { go_on() }
        }),
        // Without anything of its own, so that nothing is allocated for it.
        None => store.epoch_deadline_callback(move |_| go_on()),
    }
    store.set_hostcall_fuel(usize::try_from(longest_copy(limits)).unwrap_or(usize::MAX));
    // Those that the guest makes of its own resources, which cost the host as much as its own.
    store.set_max_component_handles(MOST_HANDLES);
    if let Some(fuel) = limits.fuel {
        store.set_fuel(fuel).expect("a step with a budget is linked on the engine that counts");
    }
}

/// Returns how many bytes the host copies out of a guest at once: an answer, or what it hands to a function of the host's.
fn longest_copy(limits: &Limits) -> u64 {
    limits.output.saturating_add(ANSWER_OVERHEAD)
}

/// The error before a call whose directories cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Unopened(StepFailure);

/// The error that stops a guest which has computed for too long.
#[derive(Debug, thiserror::Error)]
#[error("the limit on the processor time of a step was reached")]
struct TooMuchComputing;

/// Returns what the work gives, or `None` once the deadline has passed: also for work that never
/// waits, and for an answer that comes too late. Beside it, when that was.
///
/// Each poll is measured where the processor's time is limited: the guest runs within it, and what runs between
/// two polls on the same thread is somebody else's.
async fn within<T>(
    deadline: Option<Instant>,
    processor: Option<&ProcessorTime>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> (Option<T>, Instant) {
    let mut alarm = pin!(clock::sleep_until(deadline));
    let late = |now| deadline.is_some_and(|deadline| now >= deadline);
    let mut polled = false;
    poll_fn(|context| {
        // Work that was set aside may come back to the processor long after its deadline.
        if std::mem::replace(&mut polled, true) {
            let now = clock::now();
            if late(now) {
                return Poll::Ready((None, now));
            }
        }
        processor.inspect(|processor| processor.begin());
        let worked = work.as_mut().poll(context);
        processor.inspect(|processor| processor.end());
        if let Poll::Ready(value) = worked {
            let now = clock::now();
            return Poll::Ready((Some(value).filter(|_| !late(now)), now));
        }
        alarm.as_mut().poll(context).map(|()| (None, clock::now()))
    })
    .await
}

fn usage(store: &Store<Sandbox>, limits: &Limits) -> Usage {
    let fuel = limits.fuel.map(|budget| budget - store.get_fuel().unwrap_or(0).min(budget));
    Usage { peak_memory: store.data().peak_memory(), fuel }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::thread;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn an_answer_that_comes_after_the_deadline_is_none() {
        let past = || thread::sleep(LIMIT * 2);
        for (work, expected) in [(&(|| ()) as &dyn Fn(), Some(7)), (&past, None)] {
            let began = clock::now();
            let answer = pin!(async {
                work();
                7
            });
            let (answer, ended) = within(clock::deadline(began, LIMIT), None, answer).await;
            assert_eq!(answer, expected);
            assert_eq!(ended >= began + LIMIT, expected.is_none());
        }
    }

    #[tokio::test]
    async fn work_that_was_set_aside_is_not_gone_on_with_after_the_deadline() {
        let polled = Cell::new(0);
        let work = pin!(poll_fn(|_| {
            polled.set(polled.get() + 1);
            if polled.get() == 1 { Poll::Pending } else { Poll::Ready(()) }
        }));
        let deadline = clock::deadline(clock::now(), LIMIT);
        let mut waiting = pin!(within(deadline, None, work));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        thread::sleep(LIMIT * 2);
        assert!(matches!(waiting.as_mut().poll(&mut context), Poll::Ready((None, _))));
        assert_eq!(polled.get(), 1);
    }
}
