//! All suites, one binary.

mod bad_input;
mod cloud;
mod deploy;
mod fragment;
mod harness;
mod iceberg;
mod invokers;
mod lambda;
mod refusals;
mod shapes;
mod tpch;
