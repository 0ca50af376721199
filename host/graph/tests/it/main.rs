//! What docket-graph promises, through its public names.

mod support;

mod cases;
mod compatible;
mod cycles;
mod drawings;
mod layering;
mod modules;
mod progress;
mod wire;
