//! Two ways to a folder's table: CREATE EXTERNAL TABLE, and a path straight in FROM.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory, UrlTableFactory};
use datafusion::common::{Result, ToDFSchema, plan_datafusion_err, plan_err};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::table_schema::TableSchemaBuilder;
use datafusion::execution::SessionState;
use datafusion::execution::cache::SchemaFingerprint;
use datafusion::logical_expr::CreateExternalTable;
use datafusion::prelude::SessionContext;
use object_store::ObjectStore;

use super::error::FolderError;
use super::listing::{File, ListFilter, find};
use super::location::TableLocation;
use super::names::{FileKind, is_of_tabs, tells_nothing};
use super::scan::{is_read_as, refuse_compressed};
use super::{Declared, FolderTable, partitions, schema};
use crate::error::QueryError;
use crate::sql::Refusal;
use crate::storage::{Reach, Stores};
use crate::tables::boxed::{Boxed, boxed_create};
use crate::tables::broken::BrokenTable;
use crate::tables::grants::TableGrants;
use crate::tables::text::TextFormat;

/// Factory of `CREATE EXTERNAL TABLE … STORED AS PARQUET | CSV | JSON | ARROW LOCATION …`.
#[derive(Debug)]
pub struct FolderFactory;

impl FolderFactory {
    /// Lists the names of formats after STORED AS.
    pub fn formats() -> impl Iterator<Item = String> {
        FileKind::ALL.into_iter().map(|format| format.name().to_uppercase())
    }
}

impl TableProviderFactory for FolderFactory {
    boxed_create!(make);
}

async fn make(state: &dyn Session, command: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
    if command.unbounded {
        let what = "CREATE UNBOUNDED EXTERNAL TABLE is not supported";
        return Err(Refusal::new(what, "leave UNBOUNDED out").into());
    }
    let Some(kind) = FileKind::named(&command.file_type) else {
        return plan_err!("no format is named {}", command.file_type);
    };
    let format = format(state, kind, &command.options)?;
    let locations = locations(state, &command.locations)?;
    let columns = match command.schema.fields().is_empty() {
        false => declared(command)?,
        true => {
            let store = state.runtime_env().object_store(&locations[0].store)?;
            let files = all_files(state, &store, &locations, Some(kind)).await?.files;
            refuse_compressed(&format, &files)?;
            let of_folders = if command.table_partition_cols.is_empty() {
                let infers = state.config_options().execution.listing_table_factory_infer_partitions;
                if infers { folders(&files) } else { Vec::new() }
            } else {
                named(&command.table_partition_cols, &files)?
            };
            let of_files = schema::infer(state, &store, &format, kind, &files).await?;
            TableColumns { of_files, of_folders }
        }
    };
    let declared = Declared {
        name: Some(command.name.clone()),
        definition: command.definition.clone(),
        order: command.order_exprs.clone(),
        constraints: command.constraints.clone(),
        defaults: command.column_defaults.clone(),
    };
    let mut table = FolderTable::new(locations, kind, format, columns, declared);
    table.bytes_may_be_text |= !command.schema.fields().is_empty();
    let names = Arc::clone(table.columns.table_schema()).to_dfschema()?;
    let sorted_by = command.order_exprs.iter().flatten().flat_map(|sort| sort.expr.column_refs());
    if let Some(column) = sorted_by.into_iter().find(|column| !names.has_column(column)) {
        return plan_err!("WITH ORDER: there is no column {column}");
    }
    Ok(Arc::new(table))
}

/// Columns of a table before those of its files that folders replace are left out.
struct TableColumns {
    of_files: SchemaRef,
    of_folders: Vec<FieldRef>,
}

impl FolderTable {
    /// Makes a table. A folder's column replaces a column of that name in the files, as in DuckDB.
    fn new(
        locations: Vec<TableLocation>,
        kind: FileKind,
        format: Arc<dyn FileFormat>,
        TableColumns { of_files, of_folders }: TableColumns,
        declared: Declared,
    ) -> Self {
        let is_own = |field: &&FieldRef| of_folders.iter().all(|folder| folder.name() != field.name());
        let own: Vec<FieldRef> = of_files.fields().iter().filter(is_own).cloned().collect();
        let own = Arc::new(Schema::new_with_metadata(own, of_files.metadata().clone()));
        let fingerprint = Arc::new(SchemaFingerprint::from_schema(&own));
        let columns = TableSchemaBuilder::new(own).with_table_partition_cols(of_folders).build();
        let parquet = format.downcast_ref::<ParquetFormat>();
        let bytes_may_be_text = parquet.is_some_and(ParquetFormat::binary_as_string);
        Self { locations, kind, format, columns, fingerprint, bytes_may_be_text, declared }
    }

    /// Makes the same table with other columns for the files.
    pub(super) fn with_columns(&self, of_files: SchemaRef) -> Self {
        let columns = TableColumns { of_files, of_folders: self.partitions().to_vec() };
        Self::new(self.locations.clone(), self.kind, Arc::clone(&self.format), columns, self.declared.clone())
    }
}

/// Tables for paths, patterns and URLs in FROM.
pub struct Paths {
    /// True if a bare name may be a folder of this machine.
    has_files: bool,
    /// Grants of the session's user; None for one who may name every place.
    grants: Option<Arc<TableGrants>>,
    /// Function that returns the state of the session. It returns None when the session is gone.
    state: OnceLock<Box<dyn Fn() -> Option<SessionState> + Send + Sync>>,
}

impl std::fmt::Debug for Paths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Paths")
    }
}

impl Paths {
    pub fn new(reach: &Reach, grants: Option<Arc<TableGrants>>) -> Self {
        Self { has_files: reach.has_files(), grants, state: OnceLock::new() }
    }

    /// Tells if a bare name is a folder or a file of this machine. Nobody looks for one that no grant gives.
    fn is_there(&self, name: &str) -> bool {
        let is_granted = |grants: &Arc<TableGrants>| {
            TableLocation::parse(name).is_ok_and(|location| location.check(grants.paths()).is_ok())
        };
        self.has_files && self.grants.as_ref().is_none_or(is_granted) && std::path::Path::new(name).exists()
    }

    /// Looks paths up with this session's stores and settings from now on.
    pub fn serve(&self, context: &SessionContext) {
        let state = context.state_weak_ref();
        let current = move || state.upgrade().map(|state| state.read().clone());
        // A second session keeps the first.
        let _ = self.state.set(Box::new(current));
    }
}

tokio::task_local! {
    static TABLES_ONLY: ();
}

/// Runs work that makes or drops a table. Meanwhile a folder of the table's name is not taken for the table.
pub async fn tables_only<F: Future>(work: F) -> F::Output {
    TABLES_ONLY.scope((), work).await
}

#[async_trait]
impl UrlTableFactory for Paths {
    /// Returns None for a name that is no path: then it is a table that does not exist.
    async fn try_new(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let is_path = is_path(name);
        let is_table = TABLES_ONLY.try_with(|()| ()).is_ok();
        if is_table || !(is_path || self.is_there(name)) {
            return Ok(None);
        }
        let state = self.state.get().and_then(|state| state());
        let state = state.ok_or_else(|| plan_datafusion_err!("the session is gone"))?;
        match opened(state, name).await {
            // Planning CREATE TABLE looks up its own name, too, and a folder may have that name.
            Err(error) if !is_path => Ok(Some(Arc::new(BrokenTable::new(error)))),
            opened => opened.map(Some),
        }
    }
}

/// Tells if a name in FROM looks like a path.
pub fn is_path(name: &str) -> bool {
    name.contains(['/', '*']) || FileKind::of_file(name).is_some()
}

/// Checks the name of a format after STORED AS.
///
/// # Errors
/// [`FolderError`] if the format is none of `known`.
pub fn check_format<'a>(
    format: &str,
    known: impl IntoIterator<Item = &'a String>,
) -> std::result::Result<(), FolderError> {
    let mut known: Vec<&str> = known.into_iter().map(String::as_str).collect();
    if known.iter().any(|name| name.eq_ignore_ascii_case(format)) {
        return Ok(());
    }
    known.sort_unstable();
    let hint = match format.to_ascii_uppercase().as_str() {
        "NDJSON" | "JSONL" | "JSONLINES" => "STORED AS JSON reads a JSON object a line",
        "TEXTFILE" | "TSV" | "TEXT" => {
            "STORED AS CSV reads lines, with OPTIONS ('format.delimiter' '…') for another separator"
        }
        "DELTA" | "HUDI" => "read it with a tool that knows the format, or name its files",
        _ => "write it in one of these with another tool",
    };
    Err(FolderError::NoFormat { format: format.to_owned(), known: known.join(", "), hint })
}

/// Opens a path, boxed for the same reason as [`Boxed`]: the method that calls it does not hold the state of the session.
fn opened(state: SessionState, name: &str) -> Boxed<'_, dyn TableProvider> {
    Box::pin(async move { open(&state, name).await })
}

async fn open(state: &SessionState, name: &str) -> Result<Arc<dyn TableProvider>> {
    let locations = locations(state, &[name.to_owned()])?;
    let store = state.runtime_env().object_store(&locations[0].store)?;
    let FoundFiles { kind, files } = all_files(state, &store, &locations, None).await?;
    let mut options = HashMap::new();
    if files.iter().all(|file| is_of_tabs(file.name())) {
        options.insert("format.delimiter".to_owned(), "\t".to_owned());
    }
    let format = format(state, kind, &options)?;
    refuse_compressed(&format, &files)?;
    let of_files = schema::infer(state, &store, &format, kind, &files).await?;
    let columns = TableColumns { of_files, of_folders: folders(&files) };
    Ok(Arc::new(FolderTable::new(locations, kind, format, columns, Declared::default())))
}

fn format(state: &dyn Session, kind: FileKind, options: &HashMap<String, String>) -> Result<Arc<dyn FileFormat>> {
    match kind {
        FileKind::Csv => return Ok(Arc::new(TextFormat::csv(state, options)?)),
        FileKind::Json => return Ok(Arc::new(TextFormat::json(state, options)?)),
        FileKind::Parquet | FileKind::Arrow => {}
    }
    let session = state.as_any().downcast_ref::<SessionState>();
    let factory = session.and_then(|session| session.get_file_format_factory(kind.name()));
    factory.ok_or_else(|| plan_datafusion_err!("the session has no format {}", kind.name()))?.create(state, options)
}

/// Parses locations, all of one store and each once.
///
/// # Errors
/// [`FolderError`] for a second store or a second mention, and [`QueryError`] for a place that the session may not read.
fn locations(state: &dyn Session, texts: &[String]) -> Result<Vec<TableLocation>> {
    let stores = state.config().get_extension::<Stores>();
    let grants = state.config().get_extension::<TableGrants>();
    let parsed = |text: &String| {
        let reach = stores.as_ref().map(|stores| stores.reach());
        // A refusal tells nothing about the disk. Without a grant it is the same everywhere.
        grants.as_ref().map_or(Ok(()), |grants| grants.check_text(text))?;
        reach.map_or(Ok(()), |reach| reach.check_text(text))?;
        let location = TableLocation { grants: grants.clone(), ..TableLocation::parse(text)? };
        location.check_granted()?;
        reach.map_or(Ok(()), |reach| location.check(reach))?;
        Ok(location)
    };
    let locations: Vec<TableLocation> = texts.iter().map(parsed).collect::<Result<_>>()?;
    let Some(first) = locations.first() else { return plan_err!("CREATE EXTERNAL TABLE needs a LOCATION") };
    let mut seen = HashSet::new();
    for location in &locations {
        let text = || location.text.clone();
        if location.store != first.store {
            let (first, other) = (first.store.to_string(), location.store.to_string());
            return Err(FolderError::SeveralStores { location: text(), first, other }.into());
        }
        if !seen.insert(&location.names) {
            return Err(FolderError::SameLocation { location: text() }.into());
        }
    }
    Ok(locations)
}

/// Files that were found, and their format.
struct FoundFiles {
    kind: FileKind,
    files: Vec<File>,
}

/// Finds the files that a table without declared columns is made from, and their format.
///
/// # Errors
/// [`FolderError`] if there are none.
async fn all_files(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    locations: &[TableLocation],
    kind: Option<FileKind>,
) -> Result<FoundFiles> {
    let nested = !state.config_options().execution.listing_table_ignore_subdirectory;
    let mut all: Vec<FoundFiles> = Vec::new();
    for location in locations {
        let mut found = find(state, store, location, ListFilter { columns: &[], filter: None, nested }).await?;
        let kind = match kind {
            Some(kind) => kind,
            None => guessed(location, &found.files)?,
        };
        let files = std::mem::take(&mut found.files);
        let (files, other): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| is_read_as(kind, file));
        if files.is_empty() {
            return Err(found.with_other(&other).no_file_error(location).into());
        }
        all.push(FoundFiles { kind, files });
    }
    let kind = all.first().map_or(FileKind::Parquet, |found| found.kind);
    Ok(FoundFiles { kind, files: all.into_iter().flat_map(|found| found.files).collect() })
}

/// Guesses the format of files: Parquet if any name says so, else the format that the names say. Names without an extension are Parquet's.
fn guessed(location: &TableLocation, files: &[File]) -> std::result::Result<FileKind, FolderError> {
    let told: Vec<(FileKind, &File)> =
        files.iter().filter_map(|file| Some((FileKind::of_file(file.name())?, file))).collect();
    let Some((first, file)) = told.iter().min_by_key(|(format, _)| *format) else {
        return match files.first() {
            Some(file) if files.iter().all(|file| tells_nothing(file.name())) => {
                Err(FolderError::NoKind { location: location.text.clone(), example: file.name().to_owned() })
            }
            _ => Ok(FileKind::Parquet),
        };
    };
    match told.iter().find(|(format, _)| *first != FileKind::Parquet && format != first) {
        Some((_, other)) => Err(FolderError::SeveralFormats {
            location: location.text.clone(),
            first: file.name().to_owned(),
            second: other.name().to_owned(),
            extension: first.name().to_owned(),
        }),
        None => Ok(*first),
    }
}

/// Finds partition columns without a declaration.
fn folders(files: &[File]) -> Vec<FieldRef> {
    partitions::infer(&files.iter().map(File::folders).collect::<Vec<_>>())
}

/// Finds partition columns of which only the names are declared.
fn named(names: &[String], files: &[File]) -> Result<Vec<FieldRef>> {
    let found = folders(files);
    let column = |name: &String| {
        let exact = found.iter().find(|field| field.name() == name);
        let field = exact.or_else(|| found.iter().find(|field| field.name().eq_ignore_ascii_case(name)));
        let missing = || FolderError::NoPartition {
            file: files.first().map(|file| file.meta.location.to_string()).unwrap_or_default(),
            column: name.clone(),
        };
        let field = field.ok_or_else(missing)?;
        Ok(Arc::new(field.as_ref().clone().with_name(name)))
    };
    names.iter().map(column).collect()
}

/// Returns the declared columns.
fn declared(command: &CreateExternalTable) -> Result<TableColumns> {
    let all = command.schema.inner();
    let is_folder = |field: &&FieldRef| command.table_partition_cols.contains(field.name());
    let of_files: Vec<FieldRef> = all.fields().iter().filter(|field| !is_folder(field)).cloned().collect();
    let of_folders = command.table_partition_cols.iter().map(|name| {
        let field = all.field_with_name(name).map_err(|_| {
            QueryError::sql(format!("PARTITIONED BY ({name}): there is no such column"))
                .with_hint("declare it with its type among the columns")
        })?;
        // A folder's value may be NULL.
        Ok(Arc::new(Field::new(name, field.data_type().clone(), true)))
    });
    Ok(TableColumns { of_files: Arc::new(Schema::new(of_files)), of_folders: of_folders.collect::<Result<_>>()? })
}
