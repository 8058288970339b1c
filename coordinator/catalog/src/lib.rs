//! Iceberg tables: their places, the files that a query has to read of them, and appends to them.
//!
//! ```text
//! Catalog: SQLite, REST ─┐
//!                        ├─▶ Table, pinned to a snapshot ── plan(&ScanRequest) ▶ FilePlan: data files,
//! metadata file,        ─┘        ▲                                               and what was pruned
//! table folder                    └── append(&[DataFile]): one atomic commit
//! ```
//!
//! Contract: `plan` never leaves out a file that may hold a matching row, nor a delete that applies to one. Contents that
//! would be read wrongly (unknown types, encryption) are refused by name. All bytes go through the
//! caller's object stores.
//!
//! Only this crate links `iceberg`, which carries an arrow of another version: no type of either is
//! in this API. It serves writes alone: metadata is read by `metadata` and `manifests`, over the Avro decoder in `avro`.
//! The crate reads and writes metadata alone; its caller reads and writes Parquet.

#![warn(clippy::unwrap_used)]

mod avro;
mod cache;
mod catalog;
mod convert;
mod deletes;
mod error;
mod inspect;
mod location;
mod manifests;
mod metadata;
mod open;
mod plan;
mod predicate;
mod prune;
mod rest;
mod room;
mod scalar;
mod scan;
mod sql;
mod storage;
mod table;
mod types;
mod versions;
mod write;

pub use cache::MetadataCache;
pub use catalog::Catalog;
pub use error::{Cause, Error, Result};
pub use inspect::{
    FileContent, FileInfo, HistoryEntry, ManifestFacts, PartitionColumn, PartitionFacts, ReferenceFacts, SnapshotFacts,
};
pub use location::Location;
pub use plan::{VersionRequest, plan_versions};
pub use predicate::{CompareOp, Predicate};
pub use prune::PruneReason;
pub use rest::{Grant, Grants, RestAuth, RestSettings, SecretPlace, SecretText, StoreSettings};
pub use room::NamesRoom;
pub use scalar::Scalar;
pub use scan::{
    ColumnFacts, DataFile, DeleteContent, DeleteCounts, DeleteFile, DeleteSet, FileDeletes, FilePath, FilePlan,
    IdentityValue, PartedBy, PartitionHit, PartitionValue, Pruned, Pruning, Route, ScanFile, ScanRequest,
};
pub use storage::CatalogStores;
pub use table::Table;
pub use types::{Field, InitialDefault, MappedField, PartitionField, Schema, SortField, Transform, Type};
pub use versions::Version;
