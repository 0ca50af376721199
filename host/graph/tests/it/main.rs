//! What docket-graph promises, through its public names.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;
mod chance;
mod scramble;
mod reference;
mod same;

mod canonical;
mod cases;
mod compatible;
mod cycles;
mod drawings;
mod elements;
mod frames;
mod giants;
mod hostile;
mod layering;
mod modules;
mod plans;
mod progress;
mod wire;
