//! Helpers that the test suites share: a real S3 server, judges, data, and functions that fail on purpose.

pub mod asks;
pub mod chaos;
pub mod cloud;
pub mod compare;
pub mod duckdb;
pub mod fleet;
pub mod formats;
pub mod fuzz;
pub mod iceberg;
pub mod invokers;
pub mod lake;
pub mod localstack;
pub mod lost_parts;
pub mod odd_values;
pub mod parquet_files;
pub mod peer;
pub mod pressure;
pub mod python;
pub mod query;
pub mod rest;
pub mod rounds;
pub mod s3;
pub mod stats;
pub mod subqueries;
pub mod tpch;
pub mod typed_queries;
