//! Owns how a step is run in the end: what it declares, the operator's options and the caps, put
//! together. Never invents a default.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use docket_graph::{Persistence, Policy, Retry};

use super::{
    DEFAULT_DIR_BYTES, DEFAULT_LOG_LINES, DEFAULT_LOGS, DEFAULT_MEMORY, DEFAULT_OPEN_FILES, DEFAULT_OUTPUT,
    DEFAULT_TABLE_ELEMENTS, DEFAULT_TIMEOUT, HostOptions, Instance, Keeping, OnStoreError, StepOptions,
};
use crate::digest::Digest;
use crate::grants::{self, Grants};
use crate::http::{DEFAULT_HTTP_BYTES, DEFAULT_HTTP_CONCURRENT, DEFAULT_HTTP_REQUESTS, HttpLimits};

/// The limits of one attempt, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time.
    pub timeout: Duration,
    /// Linear memory, in bytes.
    pub memory: u64,
    /// Elements of all tables.
    pub table_elements: u64,
    /// Bytes of the answer.
    pub output: u64,
    /// Bytes of stdout and stderr together.
    pub logs: u64,
    /// Lines of stdout and stderr together.
    pub log_lines: u64,
    /// Files, directories and listings held open at once.
    pub open_files: u64,
    /// Bytes written into granted directories.
    pub dir_bytes: u64,
    /// Stack, in bytes: the host's, the same for all steps.
    pub stack: u64,
    /// Processor time; none is not measured.
    pub cpu: Option<Duration>,
    /// Outgoing HTTP.
    pub http: HttpLimits,
    /// Fuel units; none is not counted.
    pub fuel: Option<u64>,
}

/// How one step is run: its declaration, the operator's options and the caps, put together.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// The limits of each attempt.
    pub limits: Limits,
    /// When a failed attempt is tried again.
    pub retry: Retry,
    /// The most attempts of this step at once in this host.
    pub max_concurrency: Option<NonZeroU32>,
    /// What the step reads by `wasi:config`, if it may.
    pub config: Option<BTreeMap<String, String>>,
    /// What the step may touch beyond its inputs.
    pub grants: Grants,
    /// How its results are kept, if they are.
    pub persistence: Option<Persistence>,
    /// What to do where the store cannot be read or written.
    pub on_store_error: OnStoreError,
    /// For how many attempts an instance is used.
    pub instance: Instance,
}

impl HostOptions {
    /// Returns how a step of this name and declaration is run, in the module of this name and digest.
    pub fn effective(&self, module: (&str, &Digest), step: &str, declared: &Policy) -> Effective {
        let none = StepOptions::default();
        let own = self.steps.get(step).unwrap_or(&none);
        let defaults = &self.defaults;
        let caps = &self.caps;
        let size = |own: Option<u64>, default: Option<u64>, built_in: u64, cap: u64| {
            own.or(default).unwrap_or(built_in).min(cap)
        };
        let timeout = own.timeout.or(declared.timeout).or(defaults.timeout).unwrap_or(DEFAULT_TIMEOUT);
        let limits = Limits {
            timeout: timeout.min(caps.timeout),
            memory: size(own.memory, defaults.memory, DEFAULT_MEMORY, caps.memory),
            table_elements: size(
                own.table_elements,
                defaults.table_elements,
                DEFAULT_TABLE_ELEMENTS,
                caps.table_elements,
            ),
            output: size(own.output, defaults.output, DEFAULT_OUTPUT, caps.output),
            logs: size(own.logs, defaults.logs, DEFAULT_LOGS, caps.logs),
            http: HttpLimits {
                requests: size(
                    own.http_requests,
                    defaults.http_requests,
                    DEFAULT_HTTP_REQUESTS,
                    caps.http_requests,
                ),
                bytes: size(own.http_bytes, defaults.http_bytes, DEFAULT_HTTP_BYTES, caps.http_bytes),
                concurrent: size(
                    own.http_concurrent,
                    defaults.http_concurrent,
                    DEFAULT_HTTP_CONCURRENT,
                    caps.http_concurrent,
                ),
            },
            log_lines: size(own.log_lines, defaults.log_lines, DEFAULT_LOG_LINES, caps.log_lines),
            open_files: size(own.open_files, defaults.open_files, DEFAULT_OPEN_FILES, caps.open_files),
            dir_bytes: size(own.dir_bytes, defaults.dir_bytes, DEFAULT_DIR_BYTES, caps.dir_bytes),
            stack: self.max_stack,
            cpu: least(own.cpu.or(defaults.cpu), caps.cpu),
            fuel: least(own.fuel.or(defaults.fuel), caps.fuel),
        };
        let mut retry = declared.retry.clone().unwrap_or_else(|| {
            let mut retry = Retry::once();
            defaults.retry.apply(&mut retry);
            retry
        });
        own.retry.apply(&mut retry);
        retry.max_attempts = retry.max_attempts.min(caps.max_attempts);
        Effective {
            limits,
            retry,
            max_concurrency: own.max_concurrency.or(declared.max_concurrency).or(defaults.max_concurrency),
            config: own.config.clone().or_else(|| defaults.config.clone()),
            grants: grants::granted(own.grants.as_ref(), &self.modules, module.0, module.1),
            persistence: match own
                .persistence
                .or(declared.persistence.map(Keeping::On))
                .or(defaults.persistence)
            {
                Some(Keeping::On(persistence)) => Some(persistence),
                Some(Keeping::Off) | None => None,
            },
            on_store_error: own.on_store_error.or(defaults.on_store_error).unwrap_or_default(),
            instance: own.instance.unwrap_or_default().min(caps.instance),
        }
    }
}

/// Returns what was set, but no more than the cap; the cap where nothing was.
fn least<T: Ord>(set: Option<T>, cap: Option<T>) -> Option<T> {
    match (set, cap) {
        (Some(set), Some(cap)) => Some(set.min(cap)),
        (set, cap) => set.or(cap),
    }
}

#[cfg(test)]
mod tests {
    use docket_graph::{Backoff, Growth, Jitter, Match, Reclassify};

    use super::*;
    use crate::options::{Caps, DEFAULT_STACK, RetryOptions};

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    fn number(number: u32) -> Option<NonZeroU32> {
        NonZeroU32::new(number)
    }

    /// Where the sources of one value stand: the step's options, its declaration, the host's
    /// defaults; and the value that comes of it.
    type Case<T> = ([Option<T>; 3], T);

    fn effective(edit: impl FnOnce(&mut StepOptions, &mut Policy, &mut HostOptions)) -> Effective {
        let (mut own, mut declared, mut host) =
            (StepOptions::default(), Policy::default(), HostOptions::default());
        edit(&mut own, &mut declared, &mut host);
        host.steps.insert("Step".to_owned(), own);
        host.effective(("a.wasm", &Digest::of(b"a")), "Step", &declared)
    }

    #[test]
    fn nothing_said_is_the_constants() {
        let expected = Effective {
            limits: Limits {
                timeout: DEFAULT_TIMEOUT,
                memory: DEFAULT_MEMORY,
                table_elements: DEFAULT_TABLE_ELEMENTS,
                output: DEFAULT_OUTPUT,
                logs: DEFAULT_LOGS,
                log_lines: DEFAULT_LOG_LINES,
                open_files: DEFAULT_OPEN_FILES,
                dir_bytes: DEFAULT_DIR_BYTES,
                stack: DEFAULT_STACK,
                cpu: None,
                http: HttpLimits::default(),
                fuel: None,
            },
            retry: Retry::once(),
            max_concurrency: None,
            config: None,
            grants: Grants::default(),
            persistence: None,
            on_store_error: OnStoreError::Fail,
            instance: Instance::Fresh,
        };
        assert_eq!(effective(|_, _, _| {}), expected);
        let module = ("a.wasm", &Digest::of(b"a"));
        assert_eq!(HostOptions::default().effective(module, "Another", &Policy::default()), expected);
    }

    #[test]
    fn a_steps_options_beat_its_declaration_which_beats_the_defaults_and_the_cap_bounds_all() {
        let timeouts: [Case<Duration>; 6] = [
            ([None, None, seconds(3)], Duration::from_secs(3)),
            ([None, seconds(2), seconds(3)], Duration::from_secs(2)),
            ([seconds(1), seconds(2), seconds(3)], Duration::from_secs(1)),
            ([seconds(100), None, None], Duration::from_secs(60)),
            ([None, seconds(100), None], Duration::from_secs(60)),
            ([None, None, seconds(100)], Duration::from_secs(60)),
        ];
        for ([of_step, of_declaration, of_host], expected) in timeouts {
            let found = effective(|own, declared, host| {
                own.timeout = of_step;
                declared.timeout = of_declaration;
                host.defaults.timeout = of_host;
                host.caps.timeout = Duration::from_secs(60);
            });
            assert_eq!(found.limits.timeout, expected, "{of_step:?} {of_declaration:?} {of_host:?}");
        }
        let concurrency: [Case<u32>; 3] =
            [([None, None, Some(3)], 3), ([None, Some(2), Some(3)], 2), ([Some(1), Some(2), Some(3)], 1)];
        for ([of_step, of_declaration, of_host], expected) in concurrency {
            let found = effective(|own, declared, host| {
                own.max_concurrency = of_step.and_then(number);
                declared.max_concurrency = of_declaration.and_then(number);
                host.defaults.max_concurrency = of_host.and_then(number);
            });
            assert_eq!(found.max_concurrency, number(expected));
        }
    }

    /// Sets one size in options, its cap, and reads what came of it.
    type Size = (fn(&mut StepOptions, u64), fn(&mut Caps, u64), fn(&Limits) -> u64);

    #[test]
    fn every_size_is_the_steps_or_the_hosts_and_never_above_its_cap() {
        let sizes: [Size; 10] = [
            (|own, n| own.memory = Some(n), |caps, n| caps.memory = n, |limits| limits.memory),
            (
                |own, n| own.table_elements = Some(n),
                |caps, n| caps.table_elements = n,
                |limits| limits.table_elements,
            ),
            (|own, n| own.output = Some(n), |caps, n| caps.output = n, |limits| limits.output),
            (|own, n| own.logs = Some(n), |caps, n| caps.logs = n, |limits| limits.logs),
            (|own, n| own.log_lines = Some(n), |caps, n| caps.log_lines = n, |limits| limits.log_lines),
            (|own, n| own.open_files = Some(n), |caps, n| caps.open_files = n, |limits| limits.open_files),
            (|own, n| own.dir_bytes = Some(n), |caps, n| caps.dir_bytes = n, |limits| limits.dir_bytes),
            (
                |own, n| own.http_requests = Some(n),
                |caps, n| caps.http_requests = n,
                |limits| limits.http.requests,
            ),
            (|own, n| own.http_bytes = Some(n), |caps, n| caps.http_bytes = n, |limits| limits.http.bytes),
            (
                |own, n| own.http_concurrent = Some(n),
                |caps, n| caps.http_concurrent = n,
                |limits| limits.http.concurrent,
            ),
        ];
        for (set, cap, read) in sizes {
            let found = |own_size: Option<u64>, default: Option<u64>, most: u64| {
                read(
                    &effective(|own, _, host| {
                        own_size.into_iter().for_each(|size| set(own, size));
                        default.into_iter().for_each(|size| set(&mut host.defaults, size));
                        cap(&mut host.caps, most);
                    })
                    .limits,
                )
            };
            assert_eq!(found(Some(10), Some(20), 50), 10);
            assert_eq!(found(None, Some(20), 50), 20);
            assert_eq!(found(Some(60), Some(20), 50), 50);
            assert_eq!(found(None, Some(60), 50), 50);
            assert_eq!(found(None, None, 5), 5, "the constant is bounded too");
        }
    }

    #[test]
    fn what_is_not_limited_by_default_is_bounded_by_its_cap_once_there_is_one() {
        let cases = [
            (None, None, None, None),
            (Some(3), Some(5), None, Some(3)),
            (None, Some(5), None, Some(5)),
            (None, None, Some(4), Some(4)),
            (Some(9), Some(2), Some(4), Some(4)),
            (Some(3), None, Some(4), Some(3)),
        ];
        for (own_amount, default, cap, expected) in cases {
            let found = effective(|own, _, host| {
                (own.fuel, own.cpu) = (own_amount, own_amount.and_then(seconds));
                (host.defaults.fuel, host.defaults.cpu) = (default, default.and_then(seconds));
                (host.caps.fuel, host.caps.cpu) = (cap, cap.and_then(seconds));
            });
            assert_eq!((found.limits.fuel, found.limits.cpu), (expected, expected.and_then(seconds)));
        }
    }

    #[test]
    fn retries_are_merged_field_by_field() {
        let backoff = |initial: u64| Backoff {
            growth: Growth::Fixed,
            initial: Duration::from_millis(initial),
            factor: 1.0,
            max: None,
        };
        let declared = Retry { max_attempts: number(5).unwrap(), backoff: Some(backoff(5)), ..Retry::once() };
        let never = Reclassify { never: vec![Match::Code("declined".into())], ..Reclassify::default() };
        let defaults =
            RetryOptions { max_attempts: number(9), jitter: Some(Jitter::Full), ..Default::default() };
        type Said = (Option<Retry>, RetryOptions, RetryOptions, Retry);
        let cases: [Said; 5] = [
            // The host's defaults are for steps that declare no retry at all.
            (
                None,
                defaults.clone(),
                RetryOptions::default(),
                Retry { max_attempts: number(9).unwrap(), jitter: Jitter::Full, ..Retry::once() },
            ),
            (Some(declared.clone()), defaults.clone(), RetryOptions::default(), declared.clone()),
            // The step's options change what they name and leave the rest.
            (
                Some(declared.clone()),
                defaults.clone(),
                RetryOptions { max_attempts: number(2), ..Default::default() },
                Retry { max_attempts: number(2).unwrap(), ..declared.clone() },
            ),
            (
                Some(declared.clone()),
                RetryOptions::default(),
                RetryOptions {
                    backoff: Some(backoff(7)),
                    reclassify: Some(never.clone()),
                    ..Default::default()
                },
                Retry { backoff: Some(backoff(7)), reclassify: never, ..declared.clone() },
            ),
            (
                None,
                RetryOptions::default(),
                RetryOptions { max_attempts: number(4_000), ..Default::default() },
                Retry { max_attempts: number(1_000).unwrap(), ..Retry::once() },
            ),
        ];
        for (of_declaration, of_host, of_step, expected) in cases {
            let found = effective(|own, declared, host| {
                own.retry = of_step;
                declared.retry = of_declaration;
                host.defaults.retry = of_host;
            });
            assert_eq!(found.retry, expected);
        }
    }

    #[test]
    fn an_instance_is_used_again_only_where_the_step_has_it_so_and_the_cap_allows_it() {
        use Instance::{Fresh, Reuse};
        let cases = [
            (None, None, Reuse, Fresh),
            (Some(Reuse), None, Reuse, Reuse),
            (Some(Fresh), None, Reuse, Fresh),
            (None, Some(Reuse), Reuse, Fresh),
            (Some(Reuse), None, Fresh, Fresh),
        ];
        for (of_step, of_host, cap, expected) in cases {
            let found = effective(|own, _, host| {
                (own.instance, host.defaults.instance, host.caps.instance) = (of_step, of_host, cap);
            });
            assert_eq!(found.instance, expected, "{of_step:?} {of_host:?} {cap:?}");
        }
    }

    #[test]
    fn fuel_and_configuration_come_from_the_operator_alone() {
        let found = effective(|own, _, host| {
            own.config = Some(BTreeMap::from([("key".to_owned(), "value".to_owned())]));
            host.defaults.fuel = Some(7);
        });
        assert_eq!(found.limits.fuel, Some(7));
        assert_eq!(found.config.unwrap()["key"], "value");

        let config = |value: &str| Some(BTreeMap::from([("key".to_owned(), value.to_owned())]));
        let found = effective(|_, _, options| options.defaults.config = config("default"));
        assert_eq!(found.config, config("default"), "the defaults' configuration is every step's");
        let found = effective(|own, _, options| {
            own.config = config("own");
            options.defaults.config = config("default");
        });
        assert_eq!(found.config, config("own"), "the step's own replaces it");
    }
}
