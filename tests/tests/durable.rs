//! What is kept, seen from outside: the real program on real stores, killed, paused, raced, filled up and
//! cut off, and without power. Each file holds one kind of trouble. `DOCKET_TORTURE=1` makes the killing long, and loses
//! the power more often.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "durable/killing.rs"]
mod killing;
#[path = "durable/racing.rs"]
mod racing;
#[path = "durable/outages.rs"]
mod outages;
#[path = "durable/holders.rs"]
mod holders;
#[path = "durable/gone.rs"]
mod gone;
#[path = "durable/places.rs"]
mod places;
#[path = "durable/calls.rs"]
mod calls;
#[path = "durable/power.rs"]
mod power;
