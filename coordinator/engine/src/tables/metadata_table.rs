//! Tables about an Iceberg table: `"t$snapshots"`, `"t$history"`, `"t$refs"`, `"t$properties"`, `"t$manifests"`, `"t$files"`,
//! `"t$partitions"`. Their rows are made on the coordinator, of the table's metadata alone, when a query scans them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int32Builder, Int64Array, ListBuilder, MapBuilder, RecordBatch, StringArray,
    StringBuilder, StructArray, TimestampMillisecondArray, new_empty_array,
};
use arrow::datatypes::{Field, SchemaRef};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::datasource::TableType;
use datafusion::physical_plan::ExecutionPlan;
use gust_catalog::{FileContent, FileInfo, PartitionColumn, PartitionFacts, Table};

use super::boxed::{AskedScan, boxed_scan};
use super::iceberg::stores_of;
use super::schema::{arrow_type, engine_value};

/// Mark between a table's name and the name of what is told about it.
const MARK: char = '$';

/// Facts that a metadata table tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Facts {
    Snapshots,
    History,
    Refs,
    Properties,
    Manifests,
    Files,
    Partitions,
}

impl Facts {
    const ALL: [Self; 7] =
        [Self::Snapshots, Self::History, Self::Refs, Self::Properties, Self::Manifests, Self::Files, Self::Partitions];

    const fn name(self) -> &'static str {
        match self {
            Self::Snapshots => "snapshots",
            Self::History => "history",
            Self::Refs => "refs",
            Self::Properties => "properties",
            Self::Manifests => "manifests",
            Self::Files => "files",
            Self::Partitions => "partitions",
        }
    }

    /// Finds the facts by their name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|facts| facts.name() == name)
    }

    /// Tells if they are about one snapshot. Others are the same at every version.
    pub fn are_of_a_snapshot(self) -> bool {
        matches!(self, Self::Manifests | Self::Files | Self::Partitions)
    }

    /// Splits `t$snapshots`. None for any other name.
    pub fn of(name: &str) -> Option<(&str, Self)> {
        let (table, facts) = name.rsplit_once(MARK)?;
        Some((table, Self::named(facts)?)).filter(|(table, _)| !table.is_empty())
    }
}

/// Facts about one table.
#[derive(Debug)]
pub struct MetadataTable {
    table: Table,
    facts: Facts,
    schema: SchemaRef,
}

impl MetadataTable {
    /// # Errors
    /// None that is expected: rows of no table make columns, too.
    pub fn new(table: Table, facts: Facts) -> Result<Self> {
        let empty = match facts {
            Facts::Manifests => manifests(&[])?,
            Facts::Files => files(&[], &table.partition_columns())?,
            Facts::Partitions => partitions(&[], &table.partition_columns())?,
            Facts::Snapshots | Facts::History | Facts::Refs | Facts::Properties => of_file(&table, facts)?,
        };
        Ok(Self { table, facts, schema: empty.schema() })
    }

    async fn rows(&self, table: &Table) -> Result<RecordBatch> {
        let failed = |error: gust_catalog::Error| DataFusionError::External(Box::new(error));
        match self.facts {
            Facts::Manifests => manifests(&table.manifest_facts().await.map_err(failed)?),
            Facts::Files => files(&table.live_files().await.map_err(failed)?, &table.partition_columns()),
            Facts::Partitions => partitions(&table.live_files().await.map_err(failed)?, &table.partition_columns()),
            Facts::Snapshots | Facts::History | Facts::Refs | Facts::Properties => of_file(table, self.facts),
        }
    }

    async fn planned(&self, asked: AskedScan<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let AskedScan { state, projection, filters, limit } = asked;
        let table = self.table.with_stores(stores_of(state)?.for_catalog());
        let rows = self.rows(&table).await?;
        MemTable::try_new(rows.schema(), vec![vec![rows]])?.scan(state, projection, filters, limit).await
    }
}

impl TableProvider for MetadataTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    boxed_scan!(MetadataTable, MetadataTable::planned);
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

fn longs(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

fn ints(values: impl IntoIterator<Item = Option<i32>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int32Array>())
}

fn texts<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

fn times(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(values).with_timezone("+00:00"))
}

fn signed(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}

/// Tells what the metadata file says.
fn of_file(table: &Table, facts: Facts) -> Result<RecordBatch> {
    match facts {
        Facts::History => {
            let entries = table.history();
            batch(vec![
                ("made_current_at", times(entries.iter().map(|entry| entry.made_current_ms))),
                ("snapshot_id", longs(entries.iter().map(|entry| Some(entry.snapshot)))),
                ("parent_id", longs(entries.iter().map(|entry| entry.parent))),
                (
                    "is_current_ancestor",
                    Arc::new(entries.iter().map(|entry| Some(entry.is_current_ancestor)).collect::<BooleanArray>()),
                ),
            ])
        }
        Facts::Refs => {
            let references = table.references();
            let kind = |is_branch| Some(if is_branch { "BRANCH" } else { "TAG" });
            batch(vec![
                ("name", texts(references.iter().map(|told| Some(told.name.as_str())))),
                ("type", texts(references.iter().map(|told| kind(told.is_branch)))),
                ("snapshot_id", longs(references.iter().map(|told| Some(told.snapshot)))),
                ("max_reference_age_in_ms", longs(references.iter().map(|told| told.max_age_ms))),
                ("min_snapshots_to_keep", ints(references.iter().map(|told| told.min_snapshots))),
                ("max_snapshot_age_in_ms", longs(references.iter().map(|told| told.max_snapshot_age_ms))),
            ])
        }
        Facts::Properties => {
            let properties = table.properties();
            batch(vec![
                ("key", texts(properties.keys().map(|key| Some(key.as_str())))),
                ("value", texts(properties.values().map(|value| Some(value.as_str())))),
            ])
        }
        Facts::Snapshots | Facts::Manifests | Facts::Files | Facts::Partitions => {
            let snapshots = table.snapshots();
            let mut summaries = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
            for snapshot in &snapshots {
                for (key, value) in &snapshot.summary {
                    summaries.keys().append_value(key);
                    summaries.values().append_value(value);
                }
                summaries.append(true)?;
            }
            batch(vec![
                ("committed_at", times(snapshots.iter().map(|snapshot| snapshot.timestamp_ms))),
                ("snapshot_id", longs(snapshots.iter().map(|snapshot| Some(snapshot.id)))),
                ("parent_id", longs(snapshots.iter().map(|snapshot| snapshot.parent))),
                ("operation", texts(snapshots.iter().map(|snapshot| snapshot.operation.as_deref()))),
                ("manifest_list", texts(snapshots.iter().map(|snapshot| snapshot.manifest_list.as_deref()))),
                ("summary", Arc::new(summaries.finish())),
            ])
        }
    }
}

/// Tells of manifests. Counts are those of files of data or of deletes, by the manifest's content.
fn manifests(manifests: &[gust_catalog::ManifestFacts]) -> Result<RecordBatch> {
    let count = |has_deletes: bool, count: fn(&gust_catalog::ManifestFacts) -> Option<u64>| {
        longs(manifests.iter().map(|told| match told.has_deletes == has_deletes {
            true => count(told).and_then(signed),
            false => Some(0),
        }))
    };
    batch(vec![
        ("content", ints(manifests.iter().map(|told| Some(i32::from(told.has_deletes))))),
        ("path", texts(manifests.iter().map(|told| Some(told.path.as_str())))),
        ("length", longs(manifests.iter().map(|told| signed(told.bytes)))),
        ("partition_spec_id", ints(manifests.iter().map(|told| told.spec_id))),
        ("added_snapshot_id", longs(manifests.iter().map(|told| told.snapshot))),
        ("added_data_files_count", count(false, |told| told.added_files)),
        ("existing_data_files_count", count(false, |told| told.existing_files)),
        ("deleted_data_files_count", count(false, |told| told.deleted_files)),
        ("added_delete_files_count", count(true, |told| told.added_files)),
        ("existing_delete_files_count", count(true, |told| told.existing_files)),
        ("deleted_delete_files_count", count(true, |told| told.deleted_files)),
        ("sequence_number", longs(manifests.iter().map(|told| Some(told.sequence_number)))),
    ])
}

fn files(files: &[FileInfo], columns: &[PartitionColumn]) -> Result<RecordBatch> {
    let content = |content| match content {
        FileContent::Data => 0,
        FileContent::PositionDeletes => 1,
        FileContent::EqualityDeletes => 2,
    };
    let mut keys = ListBuilder::new(Int32Builder::new());
    for file in files {
        keys.values().append_slice(&file.equality_ids);
        keys.append(!file.equality_ids.is_empty());
    }
    let mut told = vec![
        ("content", ints(files.iter().map(|file| Some(content(file.content))))),
        ("file_path", texts(files.iter().map(|file| Some(file.path.as_str())))),
        ("file_format", texts(files.iter().map(|file| Some(file.format.as_str())))),
        ("spec_id", ints(files.iter().map(|file| Some(file.spec_id)))),
    ];
    told.extend(partition(files.iter().map(|file| &*file.partition), columns)?);
    told.extend([
        ("record_count", longs(files.iter().map(|file| signed(file.record_count)))),
        ("file_size_in_bytes", longs(files.iter().map(|file| signed(file.size_bytes)))),
        ("equality_ids", Arc::new(keys.finish()) as ArrayRef),
    ]);
    batch(told)
}

/// Tells partitions as structs. Without partition fields there is no such column, as in Spark.
fn partition<'a>(
    partitions: impl Iterator<Item = &'a PartitionFacts> + Clone,
    columns: &[PartitionColumn],
) -> Result<Option<(&'static str, ArrayRef)>> {
    let mut fields = Vec::with_capacity(columns.len());
    for PartitionColumn { field_id, name, ty } in columns {
        let kind = arrow_type(ty, false);
        let null = ScalarValue::try_from(&kind)?;
        let value = |facts: &PartitionFacts| {
            let own = facts.values.iter().find(|(id, _)| id == field_id).and_then(|(_, value)| value.as_ref());
            own.and_then(|value| engine_value(value).cast_to(&kind).ok()).unwrap_or_else(|| null.clone())
        };
        let mut values = partitions.clone().map(value).peekable();
        let array = match values.peek() {
            Some(_) => ScalarValue::iter_to_array(values)?,
            None => new_empty_array(&kind),
        };
        fields.push((Arc::new(Field::new(name, kind, true)), array));
    }
    Ok((!fields.is_empty()).then(|| ("partition", Arc::new(StructArray::from(fields)) as ArrayRef)))
}

/// Sums up the files by their partitions, in the order of spec and values.
fn partitions(files: &[FileInfo], columns: &[PartitionColumn]) -> Result<RecordBatch> {
    #[derive(Default)]
    struct Sum {
        files: u64,
        records: u64,
        bytes: u64,
    }
    impl Sum {
        fn add(&mut self, file: &FileInfo) {
            self.files += 1;
            self.records = self.records.saturating_add(file.record_count);
            self.bytes = self.bytes.saturating_add(file.size_bytes);
        }
    }
    #[derive(Default)]
    struct Sums {
        data: Sum,
        positions: Sum,
        keys: Sum,
    }
    let mut partitions: BTreeMap<(i32, &str), (&PartitionFacts, Sums)> = BTreeMap::new();
    for file in files {
        let facts = &*file.partition;
        let (_, sums) = partitions.entry((file.spec_id, &facts.text)).or_insert_with(|| (facts, Sums::default()));
        match file.content {
            FileContent::Data => sums.data.add(file),
            FileContent::PositionDeletes => sums.positions.add(file),
            FileContent::EqualityDeletes => sums.keys.add(file),
        }
    }
    let counts = |count: fn(&Sums) -> u64| longs(partitions.values().map(|(_, sums)| signed(count(sums))));
    let mut told = Vec::from_iter(partition(partitions.values().map(|(facts, _)| *facts), columns)?);
    told.extend([
        ("spec_id", ints(partitions.keys().map(|(spec, _)| Some(*spec)))),
        ("record_count", counts(|sums| sums.data.records)),
        ("file_count", counts(|sums| sums.data.files)),
        ("total_data_file_size_in_bytes", counts(|sums| sums.data.bytes)),
        ("position_delete_record_count", counts(|sums| sums.positions.records)),
        ("position_delete_file_count", counts(|sums| sums.positions.files)),
        ("equality_delete_record_count", counts(|sums| sums.keys.records)),
        ("equality_delete_file_count", counts(|sums| sums.keys.files)),
    ]);
    batch(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_named_behind_a_table() {
        for (name, expect) in [
            ("t$snapshots", Some(("t", Facts::Snapshots))),
            ("a$b$files", Some(("a$b", Facts::Files))),
            ("t$other", None),
            ("$files", None),
            ("snapshots", None),
        ] {
            assert_eq!(Facts::of(name), expect, "{name}");
        }
    }
}
