//! Sources of tables: files without a list of their own (`folder`), CSV and JSON among them (`text`), and Iceberg through
//! `gust-catalog`; and the readers of their scans (`reading`).

mod boxed;
pub mod broken;
pub mod catalog;
pub mod catalogs;
pub mod facts;
pub mod folder;
pub mod grants;
pub mod iceberg;
pub mod keys;
pub mod memory_table;
mod metadata_table;
pub mod path_catalogs;
pub mod pins;
mod predicate;
pub mod pruning;
pub mod reading;
mod schema;
pub mod text;
