//! Tables over files without a list of their own: a folder, a pattern, a file, on this disk or in S3.
//!
//! DataFusion's listing table is not used. It makes listing prefixes of a literal's text, knows no NULL partition, and
//! takes markers for data. Its patterns and sub-folders have other meanings than elsewhere. Formats, scans and
//! statistics are the engine's.
//!
//! ```text
//!  text ─ location ─ glob ─┐
//!                          ├─ listing ─ files ─ schema, widen (no columns declared) ─ table ─ scan ─ DataSourceExec
//!  partitions ─ filter ────┘
//! ```
//!
//! - A table reads a folder with all its sub-folders (unless `datafusion.execution.listing_table_ignore_subdirectory`
//!   is set), a file, or the files that a pattern matches. If a pattern matches no file, the table reads the folders
//!   that it matches.
//! - It does not read names that begin with `_` or `.`, files without a byte, and files of another kind (see `names`).
//! - Folders `key=value` are columns: those of PARTITIONED BY. If no columns are declared at all, they are those that
//!   all files have.
//!
//! A statement asks for each listing once, and may plan by those of earlier statements until its own have come (see `earlier`). Scans whose filters rule out different folders ask for different listings, at
//! different times. The columns stay as they were when the table was made.

mod as_read;
mod earlier;
mod error;
mod filter;
mod footers;
mod glob;
mod listing;
mod listings;
mod location;
mod names;
mod open;
mod partitions;
mod scan;
mod schema;
mod widen;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::{Constraints, Result, TableReference};
use datafusion::datasource::TableType;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::cache::SchemaFingerprint;
use datafusion::logical_expr::{Expr, SortExpr, TableProviderFilterPushDown};

pub use earlier::EarlierListings;
pub use error::FolderError;
pub use listings::Listings;
pub use open::{FolderFactory, Paths, check_format, is_path, tables_only};

use super::boxed::boxed_scan;
use location::TableLocation;
use names::FileKind;

/// A table over the files of some locations of one store.
#[derive(Debug)]
pub struct FolderTable {
    locations: Vec<TableLocation>,
    kind: FileKind,
    format: Arc<dyn FileFormat>,
    /// Columns of the files, then those of the folders.
    columns: TableSchema,
    fingerprint: Arc<SchemaFingerprint>,
    /// True if the table may have text where a file has bytes: its columns were declared, or its format was set so.
    bytes_may_be_text: bool,
    declared: Declared,
}

/// Clauses of CREATE EXTERNAL TABLE beside the columns.
#[derive(Debug, Clone, Default)]
struct Declared {
    name: Option<TableReference>,
    definition: Option<String>,
    order: Vec<Vec<SortExpr>>,
    constraints: Constraints,
    defaults: HashMap<String, Expr>,
}

impl FolderTable {
    /// Returns the beginning of its files' paths, such as `s3://bucket/`; `/` for files of this machine.
    pub fn store_url(&self) -> String {
        match self.locations.first().map(|location| location.store.as_str()) {
            Some(url) if !url.starts_with("file:") => url.to_owned(),
            _ => "/".to_owned(),
        }
    }

    fn partitions(&self) -> &[FieldRef] {
        self.columns.table_partition_cols()
    }
}

impl TableProvider for FolderTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.columns.table_schema())
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.declared.constraints)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.declared.definition.as_deref()
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.declared.defaults.get(column)
    }

    /// Filters over partition columns alone are exact: the listing of files decides them.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let is_exact = |filter: &&Expr| filter::is_decided_by(self.partitions(), filter);
        let how = |filter: &&Expr| {
            if is_exact(filter) { TableProviderFilterPushDown::Exact } else { TableProviderFilterPushDown::Inexact }
        };
        Ok(filters.iter().map(how).collect())
    }

    boxed_scan!(FolderTable, scan::scan);
}
