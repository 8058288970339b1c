//! All suites, one binary.

mod bad_input;
mod fragment;
mod harness;
mod iceberg;
mod invokers;
mod lambda;
mod shapes;
mod tpch;
