//! TPC-H, which `gust demo` shows and the tests run.
//!
//! [`queries`] has the SQL, [`table`] makes a table's rows, [`generate`] writes them as Parquet files, and [`tables`] makes
//! Iceberg tables of those files. Only the demo's queries use this module.

pub mod generate;
pub mod metrics;
pub mod queries;
pub mod table;
pub mod tables;
