//! All suites, one binary.

mod bad_input;
mod fragment;
mod harness;
mod iceberg;
mod invokers;
mod lake;
mod plans;
mod session;
mod shapes;
mod slt;
mod tpch;
