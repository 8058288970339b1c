//! Iceberg tables: their places, the files that a query has to read of them, and appends to them.
//!
//! ```text
//! Catalog (SQLite) ─┐
//!                   ├─▶ Table, pinned to a snapshot ── plan(&Predicate) ──▶ FilePlan: data files,
//! metadata file,   ─┘        ▲                                               and what was pruned
//! table folder               └── append(&[DataFile]): one atomic commit
//! ```
//!
//! Contract: `plan` never leaves out a file that may hold a matching row. Contents that would be read
//! wrongly (delete files, unknown types, encryption) are refused by name. All bytes go through the
//! caller's object stores.
//!
//! Only this crate links `iceberg`, which carries an arrow of another version: no type of either is
//! in this API. The crate reads and writes metadata alone; its caller reads and writes Parquet.

#![warn(clippy::unwrap_used)]

mod avro;
mod convert;
mod error;
mod location;
mod manifest;
mod open;
mod plan;
mod predicate;
mod prune;
mod scalar;
mod sql;
mod storage;
mod table;
mod types;
mod write;

pub use error::{Cause, Error, Result};
pub use location::Location;
pub use plan::{DataFile, FilePlan, IdentityValue, PartitionValue, Pruned, Pruning};
pub use predicate::{CompareOp, Predicate};
pub use prune::PruneReason;
pub use scalar::Scalar;
pub use sql::Catalog;
pub use storage::CatalogStores;
pub use table::Table;
pub use types::{Field, MappedField, PartitionField, Schema, SortField, Transform, Type};
