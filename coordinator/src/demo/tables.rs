//! The demo's Iceberg tables. They are made once, and found again.
//!
//! ```text
//!  HOME/catalog.db                    the catalog `demo`
//!  HOME/warehouse/tpch_sf1/lineitem/  metadata/ and data/l_shipdate_year=1992/part-00000.parquet …
//!  HOME/lock                          held while tables are made
//! ```
//!
//! A table is whole exactly when the catalog has it with a snapshot, because its one commit is the last step. The table of
//! an interrupted run has no snapshot: the next run deletes its files and writes them anew. Each scale factor has a
//! namespace of its own.
//!
//! Non-goals: other tables than the demo's. A table that somebody else has written to is used as it is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use gust_catalog::{
    Catalog, CatalogStores, DataFile, Field, PartitionField, PartitionValue, Scalar, Schema, Table, Transform, Type,
};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use thiserror::Error;

use super::generate::{GenerateError, GeneratedFile, Layout, generate};
use super::table::TpchTable;

/// Name of the catalog in the database.
pub const CATALOG: &str = "demo";
/// Least scale factor: below it tables are too small to have rows of every kind.
pub const SCALE_MIN: f64 = 0.001;
/// Largest scale factor: above it a laptop's disk is too small.
pub const SCALE_MAX: f64 = 1000.0;

/// Year from which Iceberg counts the years of a partition.
const EPOCH_YEAR: i32 = 1970;

/// Place of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoTables {
    /// SQLite file of the catalog [`CATALOG`].
    pub database: PathBuf,
    /// Location below which the tables lie, `file:///…`.
    pub warehouse: String,
    /// Namespace of the tables, such as `tpch_sf1` or `tpch_sf0_01`.
    pub namespace: String,
}

/// Step in the making of a table, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The table was there.
    Reused,
    /// The table is about to be made, with about this many rows.
    Started { rows_about: u64 },
    /// More rows are written.
    Wrote { rows: u64 },
    /// The table is whole.
    Committed { files: usize, size_bytes: u64 },
}

/// Callback for each step. Several threads call it.
pub type OnStep = Arc<dyn Fn(TpchTable, Step) + Send + Sync>;

/// Reason why there are no tables.
#[derive(Debug, Error)]
pub enum TablesError {
    #[error("cannot make TPC-H at scale factor {scale}: it must be from {SCALE_MIN} to {SCALE_MAX}")]
    Scale { scale: f64 },
    /// The home folder cannot be used: choose another, or free space.
    #[error("cannot use {path} for the demo's tables: {source}")]
    Home { path: PathBuf, source: io::Error },
    #[error("cannot make the demo's tables: {0}")]
    Generate(#[from] GenerateError),
    #[error("cannot make or find the demo's tables")]
    Catalog { home: PathBuf, source: gust_catalog::Error },
    /// A defect of the program.
    #[error("cannot describe a TPC-H table to the catalog: {0}")]
    Internal(String),
}

impl TablesError {
    /// Returns the next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Catalog { home, .. } => Some(format!("delete {} to have them made again", home.display())),
            Self::Scale { .. } | Self::Home { .. } | Self::Generate(_) | Self::Internal(_) => None,
        }
    }
}

/// Returns the namespace of a scale factor's tables.
pub fn namespace(scale: f64) -> String {
    format!("tpch_sf{scale}").replace('.', "_")
}

/// Makes the eight tables at `scale` under `home`, one after the other, unless they are there.
///
/// It waits while another process makes tables in the same home. A dropped future stops the work within a batch.
///
/// # Errors
/// [`TablesError`]. Tables that were finished before it are kept, and the rest is made anew the next time.
pub async fn ensure_tables(home: &Path, scale: f64, on_step: OnStep) -> Result<DemoTables, TablesError> {
    if !(SCALE_MIN..=SCALE_MAX).contains(&scale) {
        return Err(TablesError::Scale { scale });
    }
    let at_home = |source| TablesError::Home { path: home.to_owned(), source };
    let home = std::path::absolute(home).map_err(at_home)?;
    fs::create_dir_all(&home).map_err(at_home)?;
    let lock = lock(&home.join("lock")).await.map_err(at_home)?;

    let maker = TableMaker::open(&home, scale, on_step, lock).await?;
    for table in TpchTable::ALL {
        maker.ensure(table).await?;
    }
    Ok(maker.tables)
}

/// Takes the lock, which is held until the file is dropped or its process has ended.
async fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    let locking = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
    locking.await.map_err(io::Error::other)?
}

struct TableMaker {
    home: PathBuf,
    scale: f64,
    on_step: OnStep,
    catalog: Catalog,
    tables: DemoTables,
    /// Lock that the writing threads share: they outlive a dropped future by a batch.
    lock: Arc<File>,
}

impl TableMaker {
    async fn open(home: &Path, scale: f64, on_step: OnStep, lock: File) -> Result<Self, TablesError> {
        let Some(home_text) = home.to_str() else {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "its name is not Unicode");
            return Err(TablesError::Home { path: home.to_owned(), source });
        };
        let database = home.join("catalog.db");
        let warehouse = format!("file://{home_text}/warehouse");
        let local: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
        let stores = CatalogStores::new(move |_| Ok(Arc::clone(&local)));
        let opened = Catalog::create_sqlite(&database, CATALOG, &warehouse, stores).await;
        let catalog = opened.map_err(|source| TablesError::Catalog { home: home.to_owned(), source })?;
        let tables = DemoTables { database, warehouse, namespace: namespace(scale) };
        Ok(Self { home: home.to_owned(), scale, on_step, catalog, tables, lock: Arc::new(lock) })
    }

    async fn ensure(&self, table: TpchTable) -> Result<(), TablesError> {
        let known = self.catalog.tables(&self.tables.namespace).await.map_err(|error| self.failed(error))?;
        let present = if known.iter().any(|name| name == table.name()) {
            let loaded = self.catalog.load(&self.tables.namespace, table.name()).await;
            Some(loaded.map_err(|error| self.failed(error))?)
        } else {
            None
        };
        if present.as_ref().is_some_and(|present| present.snapshot_id().is_some()) {
            (self.on_step)(table, Step::Reused);
            return Ok(());
        }

        let folder = self.home.join("warehouse").join(&self.tables.namespace).join(table.name());
        let leftovers = if present.is_some() { folder.join("data") } else { folder.clone() };
        match fs::remove_dir_all(&leftovers) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(TablesError::Home { path: leftovers, source });
            }
            _ => {}
        }
        (self.on_step)(table, Step::Started { rows_about: table.rows_about(self.scale) });
        let files = self.generate(table, folder.join("data")).await?;
        let present = match present {
            Some(present) => present,
            None => self.create(table).await?,
        };
        let added = files.iter().map(|file| data_file(file, &present)).collect::<Result<Vec<_>, _>>()?;
        self.catalog.append(&present, &added).await.map_err(|error| self.failed(error))?;
        let size_bytes = files.iter().map(|file| file.size_bytes).sum();
        (self.on_step)(table, Step::Committed { files: files.len(), size_bytes });
        Ok(())
    }

    async fn generate(&self, table: TpchTable, folder: PathBuf) -> Result<Vec<GeneratedFile>, TablesError> {
        let (scale, on_step, lock) = (self.scale, Arc::clone(&self.on_step), Arc::clone(&self.lock));
        let is_dropped = Arc::new(AtomicBool::new(false));
        let _stop = StopOnDrop(Arc::clone(&is_dropped));
        let generating = tokio::task::spawn_blocking(move || {
            let _lock = lock;
            generate(table, scale, &folder, &Layout::demo(table, scale), &|rows| {
                on_step(table, Step::Wrote { rows });
                if is_dropped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        let generated = generating.await.map_err(|error| TablesError::Internal(error.to_string()))?;
        Ok(generated?)
    }

    async fn create(&self, table: TpchTable) -> Result<Table, TablesError> {
        let layout = Layout::demo(table, self.scale);
        let partition = layout.partition_by_year_of.map(|column| PartitionField {
            name: format!("{column}_year"),
            column: column.to_owned(),
            transform: Transform::Year,
        });
        let schema = catalog_schema(table)?;
        let namespace = &self.tables.namespace;
        let created = self.catalog.create_table(namespace, table.name(), &schema, partition.as_slice(), &[]).await;
        let created = created.map_err(|error| self.failed(error))?;
        // The files were written with our schema's field ids, which have to be the table's.
        if created.schema() != &schema {
            return Err(TablesError::Internal(format!("table {} has field ids of its own", table.name())));
        }
        Ok(created)
    }

    fn failed(&self, source: gust_catalog::Error) -> TablesError {
        TablesError::Catalog { home: self.home.clone(), source }
    }
}

/// Flag that is set on drop. The work goes on in threads that do not see the future that waits for them.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn catalog_schema(table: TpchTable) -> Result<Schema, TablesError> {
    let schema = table.schema();
    let fields = schema.fields().iter().zip(1..).map(|(field, id)| {
        let ty = match field.data_type() {
            DataType::Int32 => Type::Int,
            DataType::Int64 => Type::Long,
            DataType::Date32 => Type::Date,
            DataType::Utf8 => Type::String,
            DataType::Decimal128(precision, scale) if *scale >= 0 => {
                Type::Decimal { precision: u32::from(*precision), scale: scale.unsigned_abs().into() }
            }
            other => return Err(TablesError::Internal(format!("column {} is {other}", field.name()))),
        };
        Ok(Field { id, name: field.name().clone(), required: !field.is_nullable(), ty, initial_default: None })
    });
    Ok(Schema { fields: fields.collect::<Result<_, _>>()? })
}

fn data_file(file: &GeneratedFile, table: &Table) -> Result<DataFile, TablesError> {
    let columns = &file.metrics.columns;
    let mut lower_bounds = BTreeMap::new();
    let mut upper_bounds = BTreeMap::new();
    for (id, column) in columns {
        if let Some(bound) = &column.lower {
            lower_bounds.insert(*id, catalog_scalar(bound)?);
        }
        if let Some(bound) = &column.upper {
            upper_bounds.insert(*id, catalog_scalar(bound)?);
        }
    }
    let year = file.year.map(|year| Scalar::Int(year - EPOCH_YEAR));
    let partition =
        table.partition_fields().into_iter().map(|field| PartitionValue { name: field.name, value: year.clone() });
    Ok(DataFile {
        path: format!("file://{}", file.path.display()),
        size_bytes: file.size_bytes,
        record_count: file.rows,
        column_sizes: columns.iter().map(|(id, column)| (*id, column.size_bytes)).collect(),
        value_counts: columns.iter().map(|(id, column)| (*id, column.values)).collect(),
        null_counts: columns.iter().map(|(id, column)| (*id, column.nulls)).collect(),
        lower_bounds,
        upper_bounds,
        partition: partition.collect(),
        split_offsets: file.metrics.split_offsets.clone(),
        ..Default::default()
    })
}

fn catalog_scalar(value: &ScalarValue) -> Result<Scalar, TablesError> {
    match value {
        ScalarValue::Int32(Some(value)) => Ok(Scalar::Int(*value)),
        ScalarValue::Int64(Some(value)) => Ok(Scalar::Long(*value)),
        ScalarValue::Date32(Some(days)) => Ok(Scalar::Date(*days)),
        ScalarValue::Utf8(Some(text)) => Ok(Scalar::String(text.clone())),
        ScalarValue::Decimal128(Some(unscaled), precision, scale) if *scale >= 0 => Ok(Scalar::Decimal {
            unscaled: *unscaled,
            precision: u32::from(*precision),
            scale: scale.unsigned_abs().into(),
        }),
        other => Err(TablesError::Internal(format!("a bound is {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use gust_catalog::{CompareOp, FilePlan, Predicate, ScanRequest};

    use super::*;

    async fn planned(table: &Table, predicate: &Predicate) -> FilePlan {
        table.plan(&ScanRequest { predicate, columns: &BTreeSet::new(), also: &BTreeSet::new() }).await.unwrap()
    }

    async fn steps(home: &Path, scale: f64) -> (DemoTables, Vec<(TpchTable, Step)>) {
        let steps = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&steps);
        let on_step: OnStep = Arc::new(move |table, step| noted.lock().unwrap().push((table, step)));
        let tables = ensure_tables(home, scale, on_step).await.unwrap();
        let steps = steps.lock().unwrap().clone();
        (tables, steps)
    }

    async fn catalog(tables: &DemoTables) -> Catalog {
        let local: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
        let stores = CatalogStores::new(move |_| Ok(Arc::clone(&local)));
        Catalog::sqlite(&tables.database, CATALOG, &tables.warehouse, stores).await.unwrap()
    }

    #[tokio::test]
    async fn tables_are_made_once_a_scale() {
        let home = tempfile::tempdir().unwrap();
        let (tables, made) = steps(home.path(), 0.001).await;
        assert_eq!(tables.namespace, "tpch_sf0_001");
        let committed = made.iter().filter(|(_, step)| matches!(step, Step::Committed { .. })).count();
        assert_eq!(committed, TpchTable::ALL.len());
        let (again, found) = steps(home.path(), 0.001).await;
        assert_eq!(again, tables);
        assert_eq!(found, TpchTable::ALL.map(|table| (table, Step::Reused)));
        let (other, made) = steps(home.path(), 0.002).await;
        assert_eq!(other.namespace, "tpch_sf0_002");
        assert!(made.iter().all(|(_, step)| *step != Step::Reused));
    }

    #[tokio::test]
    async fn the_catalog_knows_rows_partitions_and_bounds() {
        let home = tempfile::tempdir().unwrap();
        let (tables, made) = steps(home.path(), 0.001).await;
        let lineitem = catalog(&tables).await.load(&tables.namespace, "lineitem").await.unwrap();
        let all = planned(&lineitem, &Predicate::AlwaysTrue).await;
        let written: u64 = made
            .iter()
            .filter(|(table, _)| *table == TpchTable::LineItem)
            .map(|(_, step)| if let Step::Wrote { rows } = step { *rows } else { 0 })
            .sum();
        assert_eq!(all.files.iter().map(|file| file.record_count).sum::<u64>(), written);
        assert_eq!(all.files.len(), 7 * 2);

        let day = |year: i32| Scalar::Date((year - EPOCH_YEAR) * 365 + (year - 1969) / 4);
        let compare = |op, year| Predicate::Compare { column: "l_shipdate".to_owned(), op, value: day(year) };
        let in_1994 = Predicate::And(vec![compare(CompareOp::GtEq, 1994), compare(CompareOp::Lt, 1995)]);
        let pruned = planned(&lineitem, &in_1994).await;
        assert_eq!(pruned.files.len(), 2);
        assert!(pruned.files.iter().all(|file| file.path.to_string().contains("l_shipdate_year=1994/")));
    }

    #[tokio::test]
    async fn an_interrupted_run_is_made_good() {
        let home = tempfile::tempdir().unwrap();
        let scale = 0.001;
        let unnoted: OnStep = Arc::new(|_, _| ());
        let held = lock(&home.path().join("lock")).await.unwrap();
        let maker = TableMaker::open(home.path(), scale, unnoted, held).await.unwrap();
        // One run ended between the creation of a table and its commit, another before the creation.
        maker.create(TpchTable::Region).await.unwrap();
        drop(maker);
        let folder = home.path().join("warehouse").join(namespace(scale));
        let leftovers = [folder.join("region/data/part-00099.parquet"), folder.join("nation/data/part-00099.parquet")];
        for leftover in &leftovers {
            fs::create_dir_all(leftover.parent().unwrap()).unwrap();
            fs::write(leftover, "half a file").unwrap();
        }
        let (tables, made) = steps(home.path(), scale).await;
        assert!(made.iter().all(|(_, step)| *step != Step::Reused));
        assert!(leftovers.iter().all(|leftover| !leftover.exists()));
        for (name, rows) in [("region", 5), ("nation", 25)] {
            let table = catalog(&tables).await.load(&tables.namespace, name).await.unwrap();
            let plan = planned(&table, &Predicate::AlwaysTrue).await;
            assert_eq!(plan.files.iter().map(|file| file.record_count).sum::<u64>(), rows, "{name}");
        }
    }

    #[tokio::test]
    async fn a_dropped_future_stops_the_work() {
        let home = tempfile::tempdir().unwrap();
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let (wrote, mut writing) = tokio::sync::mpsc::unbounded_channel();
        let gate = Mutex::new(gate);
        let on_step: OnStep = Arc::new(move |table, step| {
            if matches!(step, Step::Wrote { .. }) {
                let _ = wrote.send(table);
                // The thread waits until the other end is gone.
                let _ = gate.lock().unwrap().recv();
            }
        });
        let home_path = home.path().to_owned();
        let making = tokio::spawn(async move { ensure_tables(&home_path, 0.001, on_step).await });
        assert_eq!(writing.recv().await, Some(TpchTable::Region));
        making.abort();
        assert!(making.await.unwrap_err().is_cancelled());
        drop(release);
        // The first run's threads let go of the home before the second begins.
        let (_, made) = steps(home.path(), 0.001).await;
        assert!(made.iter().all(|(_, step)| *step != Step::Reused));
        assert_eq!(writing.recv().await, None, "the first run wrote on");
    }

    #[tokio::test]
    async fn two_at_once_make_the_tables_once() {
        let home = tempfile::tempdir().unwrap();
        let ((_, one), (_, other)) = tokio::join!(steps(home.path(), 0.001), steps(home.path(), 0.001));
        let reused = [one, other].map(|steps| steps.iter().filter(|(_, step)| *step == Step::Reused).count());
        assert!(reused == [0, 8] || reused == [8, 0], "{reused:?}");
    }

    #[tokio::test]
    async fn a_scale_out_of_bounds_is_refused() {
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY, 1001.0] {
            let error = ensure_tables(Path::new("unused"), scale, Arc::new(|_, _| ())).await.unwrap_err();
            assert!(matches!(error, TablesError::Scale { .. }), "{error}");
        }
    }
}
