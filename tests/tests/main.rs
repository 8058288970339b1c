//! All suites, one binary.

mod bad_input;
mod fragment;
mod harness;
mod invokers;
mod tpch;
