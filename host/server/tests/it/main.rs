//! What `docket-host` promises, through the binary and its library.

mod support;

mod faults;
mod layering;
mod run;
mod show;
