//! Owns one turn of one node: wait out the delay, look for a kept result, and where there is none
//! attempt it and keep what comes of it. Never decides what comes next.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use docket_graph::{Arity, Job, NodeId, Scope};
use docket_store::{self as store, Kind, Left, Look, StoreError, StoreErrorKind, Work};
use futures_util::FutureExt as _;

use crate::attempt::attempt;
use crate::board::{Admitted, RowInputs, Run, Taken, Turn};
use crate::call::{Called, Origin, Usage};
use crate::clock;
use crate::failure::{StepFailure, said_by};
use crate::flight::{Landing, Lead, Role, landed};
use crate::generation::{Keep, StepCode};
use crate::held::Beginning;
use crate::keep::{Hold, Keeping};
use crate::key::{self, ElementKey, ElementPart, Parts, WorkKey};
use crate::options::OnStoreError;
use crate::stored;
use crate::value::Value;

/// The first pause between two looks at a record that another process is at, where the store wakes by
/// itself: for what changed just before the waiting began. Each further one is twice as long.
const FIRST_POLL: Duration = Duration::from_millis(10);

/// The longest pause between two such looks. A wake-up from the store usually comes first.
const LONGEST_POLL: Duration = Duration::from_secs(1);

/// How long a step waits for another process before that is said: longer than most steps take.
const TOLD_AFTER: Duration = Duration::from_secs(3);

/// Takes one turn.
///
/// # Cancel safety
/// A dropped turn stops what it has begun and gives back what it holds.
pub(crate) async fn turn<'a>(run: &'a Arc<Run>, taken: &mut Taken<'a>) -> Called {
    unless_it_panics(pin!(carry_out(run, taken))).await
}

/// Makes the first attempt for an item of a batch that has no frame so far: one that keeps nothing, and whose permits are
/// there.
///
/// # Cancel safety
/// As an attempt's.
pub(crate) async fn first_attempt<'a>(
    run: &'a Arc<Run>,
    node: NodeId,
    inputs: &RowInputs,
    begun: &mut Option<Admitted<'a>>,
) -> Called {
    // Nobody is told of it, so it matters to nobody that it is not the job of a frame.
    let turn = Turn { job: Job::once(node), attempt: 1, delay: Duration::ZERO };
    let carried = pin!(async {
        let element = ElementPart { around: None, element: inputs.item() };
        let key = run.elements_key(node).of(element, on(run, node, &inputs.values));
        attempt(run, turn, key, &inputs.values, begun).await
    });
    unless_it_panics(carried).await
}

/// Carries a turn out, of which a panic in the host's part is a failure: it must not take other executions down.
async fn unless_it_panics(carried: Pin<&mut impl Future<Output = Called>>) -> Called {
    match AssertUnwindSafe(carried).catch_unwind().await {
        Ok(called) => called,
        Err(panic) => failed(StepFailure::Internal(said_by(&*panic))),
    }
}

async fn carry_out<'a>(run: &'a Arc<Run>, taken: &mut Taken<'a>) -> Called {
    let Taken { turn, inputs, key, begun } = taken;
    let turn = *turn;
    if !turn.delay.is_zero() {
        clock::sleep_until(clock::deadline(clock::now(), turn.delay)).await;
    }
    let code = run.code(turn.job.node);
    let key = match (&code.keep, &run.journaled) {
        // Boxed: few steps are kept, and all others would carry its size.
        (Some(keep), Some(keeping)) => {
            return Box::pin(kept(run, turn, inputs, code, keep, keeping)).await;
        }
        // There is no store, and the step is to run without.
        (Some(keep), None) => key::work_key(&run.home.tenant, run.id.as_str(), code, keep, inputs).bytes,
        (None, _) => key_of(run, turn, code, key.as_ref(), inputs),
    };
    pin!(attempt(run, turn, key, inputs, begun)).await
}

/// Returns the key of work whose result is not kept.
fn key_of(
    run: &Run,
    turn: Turn,
    code: &StepCode,
    element: Option<&ElementKey>,
    inputs: &[(Arc<Value>, Arity)],
) -> [u8; 32] {
    let on = on(run, turn.job.node, inputs);
    match element {
        Some(element) => run.elements_key(turn.job.node).of(element.part(), on),
        None => run.key.of_step(&code.identity, on),
    }
}

/// Returns what of the inputs is part of such a key.
fn on<'a>(run: &Run, node: NodeId, inputs: &'a [(Arc<Value>, Arity)]) -> &'a [(Arc<Value>, Arity)] {
    if run.is_by_inputs(node) { inputs } else { &[] }
}

/// Brings the kept result of a step: found, waited for, or made.
async fn kept(
    run: &Arc<Run>,
    turn: Turn,
    inputs: &[(Arc<Value>, Arity)],
    code: &StepCode,
    keep: &Keep,
    keeping: &Arc<Keeping>,
) -> Called {
    let key = key::work_key(&keeping.tenant, run.id.as_str(), code, keep, inputs);
    run.has_key(turn.job, &key);
    let seeker = Seeker { run, code, keep, keeping, key: &key, inputs };
    let mut before = run.take_hold(turn.job);
    let mut turn = turn;
    loop {
        let found = match before.take() {
            Some(hold) => hold.again().await.map(Found::Mine),
            None => seeker.look_up(turn.attempt).await,
        };
        let mut hold = match found {
            Ok(Found::Kept(value)) => return ended(Ok(value), Origin::Kept),
            Ok(Found::Failed(failure)) => return ended(Err(failure), Origin::Shared),
            Ok(Found::Mine(hold)) => hold,
            Err(error) if error.kind() == StoreErrorKind::Conflict => continue,
            Err(error) => return seeker.without_store(turn, error).await,
        };
        turn = run.renumber(turn, hold.attempt());
        let mut begun = None;
        let called = tokio::select! {
            biased;
            called = attempt(run, turn, key.bytes, inputs, &mut begun) => called,
            () = hold.lost() => {
                turn = run.attempt_lost(turn);
                hold.superseded();
                continue;
            }
        };
        let Ok(value) = &called.result else {
            run.put_hold(turn.job, hold);
            return called;
        };
        match hold.complete(value, keep.ttl).await {
            Ok(()) => return called,
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                // Another has taken over while this one was at it, and its result is the one that counts.
                turn = run.attempt_lost(turn);
                hold.superseded();
            }
            Err(error) if keep.on_store_error == OnStoreError::Run => {
                tracing::warn!(%error, step = %code.name, "a result could not be kept, and is used all the same");
                return called;
            }
            Err(error) => {
                let failure = StepFailure::Store(error.to_string());
                run.put_hold(turn.job, hold);
                return Called { result: Err(Box::new(failure)), ..called };
            }
        }
    }
}

/// What there is instead of an own attempt, or the right to make one.
enum Found {
    Kept(Arc<Value>),
    Failed(StepFailure),
    Mine(Hold),
}

/// Looks for one result.
struct Seeker<'a> {
    run: &'a Arc<Run>,
    code: &'a StepCode,
    keep: &'a Keep,
    keeping: &'a Arc<Keeping>,
    key: &'a WorkKey,
    inputs: &'a [(Arc<Value>, Arity)],
}

impl Seeker<'_> {
    /// Returns the result that there is, or comes to be while somebody else is at it; else the right to
    /// make it, with an attempt of at least this number.
    async fn look_up(&self, attempt: u32) -> Result<Found, StoreError> {
        let Self { run, keeping, key, .. } = self;
        // Whether somebody was at it meanwhile, so that their failure is the answer to this one too.
        let mut met = false;
        loop {
            let mut look = keeping.claims.look(&key.record, run.id.as_str()).await?;
            if let Look::Kept(record) = look {
                return self.read(&record).map(Found::Kept);
            }
            let lead = match keeping.flights.join(&key.record) {
                Role::Leader(lead) => lead,
                Role::Follower(follower) => {
                    self.recorded().await?;
                    match landed(follower).await {
                        Landing::Kept(value) => return Ok(Found::Kept(value)),
                        Landing::Failed(failure) => return Ok(Found::Failed(failure)),
                        Landing::Left => continue,
                    }
                }
            };
            if let Look::Busy(record) = &look {
                met = true;
                self.recorded().await?;
                look = self.other_process(record).await?;
            }
            match look {
                Look::Kept(record) => {
                    let value = self.read(&record)?;
                    lead.land(Landing::Kept(Arc::clone(&value)));
                    return Ok(Found::Kept(value));
                }
                Look::Free(store::Free { left: Left::Failed(failure), .. }) if met => {
                    let failure = decode_failure(&failure)?;
                    lead.land(Landing::Failed(failure.clone()));
                    return Ok(Found::Failed(failure));
                }
                Look::Free(mut free) => {
                    free.attempts = free.attempts.max(attempt - 1);
                    match self.claim(free, lead).await? {
                        Some(hold) => return Ok(Found::Mine(hold)),
                        None => met = true,
                    }
                }
                Look::Busy(_) => unreachable!("waited until nobody else was at it"),
            }
        }
    }

    /// Claims the work, for the first of the execution's steps in one batch with the execution's record.
    ///
    /// # Cancel safety
    /// A claim that a dropped call has made is given back.
    async fn claim(&self, free: store::Free, lead: Lead) -> Result<Option<Hold>, StoreError> {
        let beginning = match &self.run.record {
            Some(record) => record.beginning().await,
            None => None,
        };
        let (keeping, work) = (Arc::clone(self.keeping), self.work(free.left == Left::Expired));
        let claimed = async move {
            let beside = beginning.as_ref().map(Beginning::write);
            let claim = keeping.claims.claim_beside(work, &free, beside).await?;
            match (&claim, beginning) {
                (_, None) => {}
                (Some(_), Some(beginning)) => beginning.written(),
                (None, Some(beginning)) => beginning.alone().await?,
            }
            Ok(claim.map(|claim| keeping.hold(claim, lead)))
        };
        self.keeping.background.carry("a claim", claimed).await
    }

    /// Sees to it that the execution is recorded, before it waits for another.
    async fn recorded(&self) -> Result<(), StoreError> {
        match &self.run.record {
            Some(record) => record.begun().await,
            None => Ok(()),
        }
    }

    /// Waits until the process that is at the work has ended it, or its lease has lapsed.
    async fn other_process(&self, record: &store::Record) -> Result<Look, StoreError> {
        let Self { run, keeping, key, .. } = self;
        let mut pause = keeping.store().abilities().poll.unwrap_or(FIRST_POLL);
        let since = clock::now();
        loop {
            keeping.store().changed(Kind::Result, &key.record, pause).await;
            if clock::now().duration_since(since) > TOLD_AFTER && run.tells_of_wait() {
                self.warn_of_wait(record);
            }
            pause = (pause * 2).min(LONGEST_POLL);
            match keeping.claims.look(&key.record, run.id.as_str()).await? {
                Look::Busy(_) => {}
                look => return Ok(look),
            }
        }
    }

    /// Says why nothing seems to happen: where the death of a process is not seen, for as long as a lease.
    fn warn_of_wait(&self, record: &store::Record) {
        let (step, other) = (&self.code.name, record.facts.execution.as_deref().unwrap_or_default());
        if self.keeping.store().abilities().process.is_some() {
            tracing::warn!(
                "step `{step}` waits for execution `{other}` of another process, which makes the same"
            );
        } else {
            tracing::warn!(
                "step `{step}` waits for execution `{other}` of another process, which makes the same, or has died \
                 at it; until that ends or its lease lapses"
            );
        }
    }

    fn read(&self, record: &store::Record) -> Result<Arc<Value>, StoreError> {
        let value = stored::decode_value(&record.body).map_err(|error| {
            let message = format!("the kept result `{}` of step `{}`: {error}", record.key, self.code.name);
            StoreError::new(StoreErrorKind::Corrupt, message)
        });
        value.map(Arc::new)
    }

    fn work(&self, after_expired: bool) -> Work {
        let Self { run, code, keep, keeping, key, inputs } = self;
        let parts = Parts { after_expired, ..key::parts(keep, inputs) };
        Work {
            key: key.record.clone(),
            tenant: Arc::clone(&keeping.tenant),
            scope: match keep.scope {
                Scope::Workflow => store::Scope::Workflow,
                Scope::Global => store::Scope::Global,
            },
            step: code.name.as_str().into(),
            execution: run.id.as_str().into(),
            module: Arc::clone(&keep.module),
            detail: serde_json::to_string(&parts).expect("texts become JSON").into(),
        }
    }

    /// What a kept step does where the store cannot be read or written.
    async fn without_store(&self, turn: Turn, error: StoreError) -> Called {
        match self.keep.on_store_error {
            OnStoreError::Fail => failed(StepFailure::Store(error.to_string())),
            OnStoreError::Run => {
                tracing::warn!(%error, step = %self.code.name, "the store cannot be used; the step runs without");
                attempt(self.run, turn, self.key.bytes, self.inputs, &mut None).await
            }
        }
    }
}

fn decode_failure(bytes: &[u8]) -> Result<StepFailure, StoreError> {
    stored::decode_failure(bytes).map_err(|error| StoreError::new(StoreErrorKind::Corrupt, error.to_string()))
}

fn failed(failure: StepFailure) -> Called {
    ended(Err(failure), Origin::Attempt)
}

fn ended(result: Result<Arc<Value>, StepFailure>, origin: Origin) -> Called {
    Called { result: result.map_err(Box::new), usage: Usage::default(), ended: clock::now(), origin }
}
