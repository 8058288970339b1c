//! All suites, one binary.

mod bad_input;
mod bill;
mod calibrate;
mod caps;
mod cloud;
mod deploy;
mod estimate;
mod fleet;
mod folders;
mod formats;
mod fragment;
mod harness;
mod history;
mod iceberg;
mod invokers;
mod lake;
mod lambda;
mod meaning;
mod memory;
mod plans;
mod refusals;
mod session;
mod shapes;
mod slt;
mod statements;
mod tpch;
