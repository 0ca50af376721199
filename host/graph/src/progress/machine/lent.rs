//! Owns the items that are lent: their one job is carried out by a caller who says what became of many of them at once.
//! Never decides what an item needs, nor whether it may be lent.

use std::ops::Range;

use super::super::frames::ROOT;
use super::super::{Action, FrameId};
use super::{Machine, Open, Phase, Turn};
use crate::plan::Wiring;

impl Machine {
    pub(in super::super) fn lend(&mut self, wiring: &Wiring, most: u32) -> Option<Range<u64>> {
        if !self.takes_items(wiring) {
            return None;
        }
        let mut waits_for = wiring.outside.of_source(wiring.items.index()).iter();
        if waits_for.any(|(event, _)| !self.frames.happened(wiring, ROOT, *event)) {
            return None;
        }
        let count = self.room(wiring).min(most);
        if count == 0 {
            return None;
        }
        let series = self.frames.series_mut(wiring, ROOT, wiring.items);
        let lent = series.opened..series.opened + u64::from(count);
        series.opened = lent.end;
        series.working += count;
        self.running += count as usize;
        self.lent.push(lent.clone());
        Some(lent)
    }

    pub(in super::super) fn lent_done(&mut self, first: u64, count: u32, turn: &mut Turn<'_>) -> bool {
        self.frames.reclaim();
        let is_known = self.take_lent(turn.wiring, first, count);
        if is_known {
            self.pass_lent(turn.wiring, count);
            self.conclude(turn);
        }
        is_known
    }

    pub(in super::super) fn take_back(
        &mut self,
        index: u64,
        began: bool,
        turn: &mut Turn<'_>,
    ) -> Option<FrameId> {
        self.frames.reclaim();
        if !self.take_lent(turn.wiring, index, 1) {
            return None;
        }
        let slot = self.frames.open_at(turn.wiring, ROOT, turn.wiring.items, index);
        turn.actions.push(Action::Open(self.frames.element(slot)));
        let is_open = self.phase == Phase::Open;
        if is_open || began {
            self.enter(slot, 0, turn);
        }
        if began {
            // The caller has done so.
            let started = turn.actions.pop();
            debug_assert!(matches!(started, Some(Action::Start { attempt: 1, .. })), "{started:?}");
        }
        if !is_open {
            self.give_up(slot, true, turn);
        }
        self.conclude(turn);
        Some(self.frames.id(slot))
    }

    pub(in super::super) fn give_up_lent(&mut self, turn: &mut Turn<'_>) {
        self.frames.reclaim();
        while let Some(Range { start, end }) = self.lent.first().cloned() {
            let count = u32::try_from(end - start).expect("no more are lent than may be under way");
            self.take_lent(turn.wiring, start, count);
            self.pass_lent(turn.wiring, count);
        }
        self.conclude(turn);
    }

    /// Takes so many from what is lent, if they are the first of those that were lent together.
    fn take_lent(&mut self, wiring: &Wiring, first: u64, count: u32) -> bool {
        let ours = |lent: &Range<u64>| lent.start == first && lent.end - lent.start >= u64::from(count);
        let Some(at) = self.lent.iter().position(ours) else { return false };
        self.lent[at].start += u64::from(count);
        if self.lent[at].is_empty() {
            self.lent.swap_remove(at);
        }
        self.frames.series_mut(wiring, ROOT, wiring.items).working -= count;
        self.running -= count as usize;
        true
    }

    fn pass_lent(&mut self, wiring: &Wiring, count: u32) {
        self.frames.series_mut(wiring, ROOT, wiring.items).passed += u64::from(count);
        self.open.push(Open::Series(ROOT, wiring.items));
    }
}
