//! Owns what becomes of a sandbox between two attempts of an instance that is used again: what is an attempt's own begins
//! anew, what the instance has stays. Never decides whose instance that may be.

use super::{HttpAttempt, Sandbox};
use crate::guest_log::LineSink;
use crate::options::Limits;

impl Sandbox {
    /// Ends an attempt that has answered, after which nobody is told anything by this instance. Returns whether it may be
    /// used again: nothing goes on in it, it was refused nothing, and it has used up no more than half of what it may
    /// gather, so that a guest that never gives back what it takes costs now and then a start, and not an attempt.
    pub(crate) fn end_attempt(&mut self) -> bool {
        self.lines = None;
        if let Some(log) = &self.log {
            log.rest();
        }
        let goes_on = self.clock.has_timers() || self.http.as_ref().is_some_and(|http| http.is_busy());
        let was_refused = self.memory.refused || self.tables.refused;
        let handles = self.table.iter_mut().count();
        let gathers = self.memory.is_half_used() || handles > self.table.max_capacity() / 2;
        !goes_on && !was_refused && !gathers
    }

    /// Makes the sandbox ready for the instance's next attempt: its clock, its chance, its log and its HTTP begin anew, and
    /// directories are opened again. Linear memory and tables stay as large as they are, and count as before.
    pub(crate) fn begin_again(&mut self, limits: &Limits, seed: [u8; 32], lines: LineSink) {
        self.clock.begin_again();
        match &self.log {
            Some(log) => log.begin_again(self.log_limit, lines),
            None => self.lines = lines,
        }
        if let Some(files) = &self.files {
            files.begin_again();
        }
        let grant = self.given.as_ref().and_then(|given| given.http.clone());
        self.http = grant.map(|grant| Box::new(HttpAttempt::new(Some(grant), limits.http, seed)));
        self.seed = seed;
        // Made again when it is next asked for, with the new seed.
        self.wasi = None;
    }
}
