//! TPC-H: what `gust demo` shows and what the tests run.
//!
//! [`queries`] holds the SQL, [`table`] says what a table's rows are, [`generate`] writes them as Parquet files, and
//! [`tables`] makes Iceberg tables of those files. Nothing here is used by a query that is not the demo's.

pub mod generate;
pub mod metrics;
pub mod queries;
pub mod table;
pub mod tables;
