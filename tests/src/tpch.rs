//! TPC-H tables for tests: bare Parquet, made once and kept.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use gust::demo::generate::{Layout, generate};
use gust::demo::table::TpchTable;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Deserialize;

/// Scale factor of the tests' tables: 60,000 rows of lineitem.
pub const SCALE: f64 = 0.01;
/// Files of every table but nation and region, which have one.
pub const FILES: usize = 4;
/// Rows of a row group. They are few, so that a file has several row groups to be cut at.
pub const ROW_GROUP_ROWS: usize = 4096;
/// Version of the files. Raise it whenever this module or the generator changes them, so that kept ones are made anew.
const LAYOUT_VERSION: u32 = 1;

/// Numbers of files. A table that does not grow with the scale has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    pub lineitem: usize,
    pub orders: usize,
    /// Files of each other table.
    pub others: usize,
}

impl Files {
    fn of(self, table: TpchTable) -> usize {
        match table {
            TpchTable::LineItem => self.lineitem,
            TpchTable::Orders => self.orders,
            _ => self.others,
        }
    }
}

/// Folder with a folder of Parquet files for each table.
#[derive(Debug, Clone)]
pub struct Tables {
    folder: PathBuf,
}

impl Tables {
    /// Returns the folder of a table.
    pub fn folder(&self, table: TpchTable) -> PathBuf {
        self.folder.join(table.name())
    }

    /// Returns the folder that holds a folder of each table's name.
    pub fn root(&self) -> &Path {
        &self.folder
    }

    /// Returns the location of each table by its name.
    pub fn locations(&self) -> BTreeMap<String, String> {
        Self::locations_at(&self.folder.display().to_string())
    }

    /// Returns the same locations for tables elsewhere in the same layout.
    pub fn locations_at(root: &str) -> BTreeMap<String, String> {
        let location = |table: TpchTable| (table.name().to_owned(), format!("{root}/{}/", table.name()));
        TpchTable::ALL.map(location).into()
    }

    /// Returns `CREATE EXTERNAL TABLE` for each of the tables, in DataFusion's SQL.
    pub fn create_statements(&self) -> Vec<String> {
        Self::create_statements_at(&self.folder.display().to_string())
    }

    /// Returns the same statements for tables elsewhere in the same layout.
    fn create_statements_at(root: &str) -> Vec<String> {
        let create = |table: TpchTable| {
            format!("CREATE EXTERNAL TABLE {0} STORED AS PARQUET LOCATION '{root}/{0}/'", table.name())
        };
        TpchTable::ALL.map(create).to_vec()
    }

    /// Copies all files into a store whose URL is `url`, and returns the statements that create the tables there.
    pub async fn upload(&self, store: &dyn ObjectStore, url: &str) -> anyhow::Result<Vec<String>> {
        for table in TpchTable::ALL {
            for file in fs::read_dir(self.folder(table))? {
                let file = file?;
                let key = Key::from(format!("{}/{}", table.name(), file.file_name().to_string_lossy()));
                store.put(&key, fs::read(file.path())?.into()).await?;
            }
        }
        Ok(Self::create_statements_at(url))
    }
}

/// Returns the tables at [`SCALE`], as [`tables_at`] makes them.
///
/// # Errors
/// When the files cannot be written.
pub fn tables(cache: &Path) -> anyhow::Result<Tables> {
    tables_at(cache, SCALE, FILES, ROW_GROUP_ROWS)
}

/// Returns the tables at a scale factor, made under `cache` unless they are there. A test gives its `CARGO_TARGET_TMPDIR`.
/// Each table but nation and region has `files` files, and a row group has at most `row_group_rows` rows.
///
/// Several processes may do so at once: each makes them in a folder of its own, and the first to finish wins.
///
/// # Errors
/// When the files cannot be written.
pub fn tables_at(cache: &Path, scale: f64, files: usize, row_group_rows: usize) -> anyhow::Result<Tables> {
    let all = Files { lineitem: files, orders: files, others: files };
    made(cache, &format!("sf{scale}-{files}x{row_group_rows}"), scale, all, row_group_rows)
}

/// Returns the tables as [`tables_at`] does, with a number of files for each.
///
/// # Errors
/// When the files cannot be written.
pub fn tables_in_files(cache: &Path, scale: f64, files: Files, row_group_rows: usize) -> anyhow::Result<Tables> {
    let Files { lineitem, orders, others } = files;
    made(cache, &format!("sf{scale}-{lineitem}-{orders}-{others}x{row_group_rows}"), scale, files, row_group_rows)
}

fn made(cache: &Path, name: &str, scale: f64, files: Files, row_group_rows: usize) -> anyhow::Result<Tables> {
    let folder = cache.join(format!("tpch-{name}-v{LAYOUT_VERSION}"));
    if !folder.exists() {
        fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let unfinished = tempfile::Builder::new().prefix("tpch-unfinished-").tempdir_in(cache)?;
        for table in TpchTable::ALL {
            let layout = Layout::bare(files.of(table), row_group_rows);
            let folder = unfinished.path().join(table.name());
            generate(table, scale, &folder, &layout, &|_| ControlFlow::Continue(()))?;
        }
        let finished = unfinished.keep();
        if let Err(error) = fs::rename(&finished, &folder) {
            drop(fs::remove_dir_all(&finished));
            anyhow::ensure!(folder.exists(), "cannot move the tables to {}: {error}", folder.display());
        }
    }
    Ok(Tables { folder })
}
