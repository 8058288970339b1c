//! All suites, one binary.

mod bad_input;
mod fleet;
mod fragment;
mod harness;
mod iceberg;
mod invokers;
mod shapes;
mod tpch;
