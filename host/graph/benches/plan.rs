//! Inferring, planning and stepping through a graph of 10,000 steps and 30,000 edges.
fn main() {}
