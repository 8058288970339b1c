//! All suites, one binary.

mod bad_input;
mod caps;
mod cloud;
mod deploy;
mod fleet;
mod fragment;
mod harness;
mod iceberg;
mod invokers;
mod lake;
mod lambda;
mod plans;
mod refusals;
mod session;
mod shapes;
mod slt;
mod tpch;
