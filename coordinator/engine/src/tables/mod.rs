//! Sources of tables: files without a list of their own (`folder`), and Iceberg through `gust-catalog`.

pub mod broken;
pub mod catalog;
pub mod facts;
pub mod folder;
pub mod iceberg;
pub mod memory_table;
mod predicate;
pub mod pruning;
mod schema;
