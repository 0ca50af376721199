//! Finds the steps that cannot have what the host gives beside their inputs: the count of failed elements. Knows no plan:
//! whatever a step takes as many may be gathered in one.

use super::{Draft, StepId, id};
use crate::failed::{FAILED, is_failed, reads_count};
use crate::fault::{FailedMisuse, Fault};
use crate::port::Arity;

impl Draft {
    /// Adds each way in which a step takes or gives the host's count as it cannot be.
    pub(super) fn find_misused_counts(&self, faults: &mut Vec<Fault>) {
        if !self.ports.iter().any(is_failed) {
            return;
        }
        for (i, step) in self.steps.iter().enumerate() {
            let port = |port: super::PortId| &self.ports[port.index()];
            let mut misuses = Vec::new();
            if is_failed(port(step.output.0)) {
                misuses.push(FailedMisuse::Given);
            }
            let (counts, others): (Vec<_>, Vec<_>) =
                step.inputs.iter().partition(|(input, _)| is_failed(port(*input)));
            if counts.iter().any(|(_, arity)| *arity == Arity::Many) {
                misuses.push(FailedMisuse::Many);
            }
            if counts.iter().any(|(input, _)| port(*input).label().is_some()) {
                misuses.push(FailedMisuse::Labelled);
            }
            if !counts.is_empty() {
                if others.iter().all(|(_, arity)| *arity == Arity::One) {
                    misuses.push(FailedMisuse::NothingGathered);
                }
                let own = self.pools[step.module].get_message_by_name(FAILED);
                if own.is_some_and(|own| !reads_count(&own)) {
                    misuses.push(FailedMisuse::Unlike);
                }
            }
            let place = || self.place(StepId(id(i)));
            faults.extend(misuses.into_iter().map(|misuse| Fault::Failed { place: place(), misuse }));
        }
    }
}
