//! New tables, and data files appended to them in one atomic commit.
//!
//! An append is made for the snapshot that its table was loaded at. If the table has moved on, the
//! append fails with a conflict and changes nothing, so that two loaders cannot both fill an empty
//! table. An append does not merge manifests, check that the files exist, or look for them in the
//! table.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use iceberg::spec as ice;
use iceberg::{MetadataLocation, TableCreation};
use uuid::Uuid;

use crate::convert;
use crate::error::{Error, MetadataFile, Result};
use crate::scalar::Scalar;
use crate::scan::DataFile;
use crate::sql::SqliteCatalog;
use crate::table::{CatalogName, Table};
use crate::types::{PartitionField, Schema, SortField};

impl SqliteCatalog {
    /// Creates an empty table in format version 2, below the warehouse. The namespace need not exist.
    /// Field ids need only be unique: the table assigns its own, found in its `schema()`.
    ///
    /// # Errors
    /// Exists already, invalid (a bad schema, an unknown column, a transform that does not take the
    /// column's type), unreachable.
    pub(crate) async fn create_table(
        &self,
        namespace: &str,
        name: &str,
        schema: &Schema,
        partition: &[PartitionField],
        sort: &[SortField],
    ) -> Result<Table> {
        let folder = namespace.replace('.', "/");
        let location = format!("{}/{folder}/{name}", self.warehouse());
        let full_name = format!("{namespace}.{name}");
        let metadata = new_metadata(name, &location, schema, partition, sort)?;
        let metadata_location = MetadataLocation::new_with_metadata(&location, &metadata);
        write_metadata(&metadata, &metadata_location, self).await?;
        let metadata_location = metadata_location.to_string();
        let inserted = self.insert(namespace, name, &metadata_location).await;
        self.discard_if_rejected(inserted, &metadata_location).await?;
        let table = table_of(&full_name, &metadata_location, &metadata, self)?;
        Ok(table.register(namespace, name))
    }

    /// Commits the files as one snapshot on top of the table's, and returns the table at it.
    /// Partition values are given by name, and all of `partition_fields()` are needed.
    ///
    /// # Errors
    /// Conflict, commit unknown, invalid (a value that does not fit its column), unreachable.
    pub(crate) async fn append(&self, table: &Table, files: &[DataFile]) -> Result<Table> {
        let Some(CatalogName { namespace, name }) = table.registered() else {
            return Err(Error::Invalid(format!(
                "table {} was not loaded from a catalog, so nothing can be appended to it",
                table.name()
            )));
        };
        if files.is_empty() {
            return Err(Error::Invalid(format!("no data files to append to table {}", table.name())));
        }
        refuse_unwritable(table)?;
        let from = table.metadata_location();
        let failed = |error| Error::from_iceberg(from, error);
        // Tables that other engines have made may be beyond what can be written.
        let metadata = ice::TableMetadata::read_from(&self.stores().file_io(), from).await.map_err(|error| {
            failed(error).in_table(table.name(), MetadataFile::Metadata).with_next(
                "append with the engine that created the table, or restore the file if no engine can read it",
            )
        })?;
        let append = Append { table, metadata: &metadata };
        let snapshot = append.write_snapshot(files).await?;
        let metadata = metadata
            .into_builder(Some(from.to_string()))
            .set_branch_snapshot(snapshot, ice::MAIN_BRANCH)
            .and_then(|builder| builder.build())
            .map_err(failed)?
            .metadata;
        let to = match MetadataLocation::from_str(from) {
            Ok(location) => location.with_next_version().with_new_metadata(&metadata),
            // The table was registered from elsewhere, and its metadata file is not named by this rule.
            Err(_) => MetadataLocation::new_with_metadata(table.location(), &metadata),
        };
        write_metadata(&metadata, &to, self).await?;
        let to = to.to_string();
        let swapped = self.swap(namespace, name, from, &to).await;
        self.discard_if_rejected(swapped, &to).await?;
        let table = table_of(table.name(), &to, &metadata, self)?;
        Ok(table.register(namespace, name))
    }
}

/// Makes the table that was written, as a reader finds it.
fn table_of(name: &str, location: &str, metadata: &ice::TableMetadata, catalog: &SqliteCatalog) -> Result<Table> {
    let bytes = serde_json::to_vec(metadata).map_err(|error| Error::corrupt(location, error))?;
    Table::parse(name, location, &bytes, catalog.stores())
}

impl SqliteCatalog {
    /// Tries to remove the metadata file of a commit that certainly did not happen. In a folder that is
    /// opened without a catalog it would pass for a version of the table.
    async fn discard_if_rejected(&self, commit: Result<()>, metadata_location: &str) -> Result<()> {
        if let Err(Error::Conflict { .. } | Error::AlreadyExists { .. }) = commit {
            let removed = self.stores().file_io().delete(metadata_location).await;
            drop(removed);
        }
        commit
    }
}

fn refuse_unwritable(table: &Table) -> Result<()> {
    let unsupported = |feature: String, next| Error::Unsupported { table: table.name().to_string(), feature, next };
    let version = table.metadata().format_version;
    if version != 2 {
        return Err(unsupported(
            format!("format version v{version} to write"),
            "append to a table in format version 2",
        ));
    }
    match table.metadata().default_spec().iter().find(|field| !is_avro_name(&field.name)) {
        Some(field) => Err(unsupported(
            format!("partition field {:?} to write", field.name),
            "append with the engine that created the table",
        )),
        None => Ok(()),
    }
}

fn new_metadata(
    name: &str,
    location: &str,
    schema: &Schema,
    partition: &[PartitionField],
    sort: &[SortField],
) -> Result<ice::TableMetadata> {
    let invalid = |error: iceberg::Error| Error::Invalid(format!("cannot create table {name}: {}", error.message()));
    let source_id = |column: &str| match schema.field(column) {
        Some(field) => Ok(field.id),
        None => Err(Error::Invalid(format!(
            "cannot create table {name}: it has no column {column} to partition or sort by"
        ))),
    };
    let mut spec = ice::UnboundPartitionSpec::builder();
    for field in partition {
        if !is_avro_name(&field.name) {
            return Err(Error::Invalid(format!(
                "cannot create table {name}: partition field {:?} is not of ASCII letters, digits \
                 and underscores",
                field.name
            )));
        }
        let transform = convert::to_transform(field.transform);
        spec = spec.add_partition_field(source_id(&field.column)?, &field.name, transform).map_err(invalid)?;
    }
    let mut order = ice::SortOrder::builder();
    for field in sort {
        order.with_sort_field(ice::SortField {
            source_id: source_id(&field.column)?,
            transform: ice::Transform::Identity,
            direction: match field.descending {
                true => ice::SortDirection::Descending,
                false => ice::SortDirection::Ascending,
            },
            null_order: match field.nulls_first {
                true => ice::NullOrder::First,
                false => ice::NullOrder::Last,
            },
        });
    }
    let creation = TableCreation::builder()
        .name(name.to_string())
        .location(location.to_string())
        .schema(convert::to_schema(schema).map_err(invalid)?)
        .partition_spec(spec.build())
        .sort_order(order.build_unbound().map_err(invalid)?)
        .build();
    let builder = ice::TableMetadataBuilder::from_table_creation(creation).map_err(invalid)?;
    Ok(builder.build().map_err(invalid)?.metadata)
}

async fn write_metadata(
    metadata: &ice::TableMetadata,
    location: &MetadataLocation,
    catalog: &SqliteCatalog,
) -> Result<()> {
    let written = metadata.write_to(&catalog.stores().file_io(), location).await;
    written.map_err(|error| Error::from_iceberg(&location.to_string(), error))
}

/// Append to a table, with the metadata that it changes.
struct Append<'a> {
    table: &'a Table,
    metadata: &'a ice::TableMetadata,
}

impl Append<'_> {
    /// Writes a manifest of the files, and the list of it and all manifests before it.
    async fn write_snapshot(&self, files: &[DataFile]) -> Result<ice::Snapshot> {
        let Append { table, metadata } = self;
        let commit_id = Uuid::now_v7();
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let snapshot_id = ((high ^ low) & i64::MAX as u64) as i64;

        let parent = metadata.current_snapshot();
        let parent_id = parent.map(|parent| parent.snapshot_id());
        let mut manifests = match parent {
            Some(parent) => self.manifests(parent).await?,
            None => Vec::new(),
        };
        let manifest = format!("{}/metadata/{commit_id}-m0.avro", table.location());
        manifests.push(self.write_manifest(files, &manifest, snapshot_id).await?);

        let list = format!("{}/metadata/snap-{snapshot_id}-0-{commit_id}.avro", table.location());
        let failed = |error| Error::from_iceberg(&list, error);
        let sequence_number = metadata.next_sequence_number();
        let output = table.stores().file_io().new_output(&list).map_err(failed)?;
        let mut writer = ice::ManifestListWriter::v2(
            output.writer().await.map_err(failed)?,
            snapshot_id,
            parent_id,
            sequence_number,
        );
        writer.add_manifests(manifests.into_iter()).map_err(failed)?;
        writer.close().await.map_err(failed)?;

        Ok(ice::Snapshot::builder()
            .with_snapshot_id(snapshot_id)
            .with_parent_snapshot_id(parent_id)
            .with_sequence_number(sequence_number)
            .with_timestamp_ms(now_unix_ms().max(metadata.last_updated_ms()))
            .with_schema_id(metadata.current_schema_id())
            .with_summary(summary(files, parent.map(|parent| parent.summary())))
            .with_manifest_list(list)
            .build())
    }

    async fn write_manifest(&self, files: &[DataFile], location: &str, snapshot_id: i64) -> Result<ice::ManifestFile> {
        let Append { table, metadata } = self;
        let failed = |error| Error::from_iceberg(location, error);
        let output = table.stores().file_io().new_output(location).map_err(failed)?;
        let schema = metadata.current_schema().clone();
        let spec = ice::PartitionSpec::clone(metadata.default_partition_spec());
        let mut writer = ice::ManifestWriterBuilder::new(output, Some(snapshot_id), schema, spec).build_v2_data();
        for file in files {
            let file = self.data_file(file)?;
            // The file inherits the number from the manifest once it is committed.
            const SEQUENCE_NUMBER_UNASSIGNED: i64 = -1;
            writer.add_file(file, SEQUENCE_NUMBER_UNASSIGNED).map_err(failed)?;
        }
        writer.write_manifest_file().await.map_err(failed)
    }

    fn data_file(&self, file: &DataFile) -> Result<ice::DataFile> {
        let invalid = |why: String| Error::Invalid(format!("cannot add file {}: {why}", file.path));
        let metadata = self.metadata;
        let spec_type = metadata.default_partition_type();
        let by_name: HashMap<_, _> = file.partition.iter().map(|field| (&field.name, &field.value)).collect();
        let mut partition = Vec::with_capacity(spec_type.fields().len());
        for field in spec_type.fields() {
            let value = by_name
                .get(&field.name)
                .ok_or_else(|| invalid(format!("it has no value of partition field {}", field.name)))?;
            partition.push(match value {
                Some(value) => Some(
                    partition_literal(value, &field.field_type)
                        .ok_or_else(|| invalid(format!("{value:?} is no value of partition field {}", field.name)))?,
                ),
                None => None,
            });
        }
        let bounds = |bounds: &BTreeMap<i32, Scalar>| -> Result<HashMap<i32, ice::Datum>> {
            let datums = bounds.iter().map(|(id, bound)| {
                let field = metadata.current_schema().field_by_id(*id);
                let ty = field.and_then(|field| field.field_type.as_primitive_type());
                let datum = ty.and_then(|ty| convert::to_datum(bound, ty));
                let datum = datum.ok_or_else(|| invalid(format!("{bound:?} is no bound of field {id}")));
                Ok((*id, datum?))
            });
            datums.collect()
        };
        let counts = |counts: &BTreeMap<i32, u64>| counts.iter().map(|(id, n)| (*id, *n)).collect();
        let offsets = file.split_offsets.iter().map(|offset| *offset as i64);
        ice::DataFileBuilder::default()
            .content(ice::DataContentType::Data)
            .file_path(file.path.clone())
            .file_format(ice::DataFileFormat::Parquet)
            .partition(ice::Struct::from_iter(partition))
            .partition_spec_id(metadata.default_partition_spec_id())
            .record_count(file.record_count)
            .file_size_in_bytes(file.size_bytes)
            .column_sizes(counts(&file.column_sizes))
            .value_counts(counts(&file.value_counts))
            .null_value_counts(counts(&file.null_counts))
            .nan_value_counts(counts(&file.nan_counts))
            .lower_bounds(bounds(&file.lower_bounds)?)
            .upper_bounds(bounds(&file.upper_bounds)?)
            .split_offsets((!file.split_offsets.is_empty()).then(|| offsets.collect()))
            .build()
            .map_err(|error| invalid(error.to_string()))
    }

    /// Reads the manifests of the snapshot before, live or not.
    async fn manifests(&self, snapshot: &ice::Snapshot) -> Result<Vec<ice::ManifestFile>> {
        let location = snapshot.manifest_list();
        let list = async {
            let bytes = self.table.stores().read(location).await?;
            let list = ice::ManifestList::parse_with_version(&bytes, self.metadata.format_version());
            list.map_err(|error| Error::from_iceberg(location, error))
        };
        let list = list.await.map_err(|error| error.in_table(self.table.name(), MetadataFile::ManifestList))?;
        Ok(list.entries().to_vec())
    }
}

fn partition_literal(value: &Scalar, ty: &ice::Type) -> Option<ice::Literal> {
    let datum = convert::to_datum(value, ty.as_primitive_type()?)?;
    Some(ice::Literal::Primitive(datum.literal().clone()))
}

/// Summarizes the snapshot's additions, and the totals if its parent has them.
fn summary(files: &[DataFile], parent: Option<&ice::Summary>) -> ice::Summary {
    let added = [
        ("data-files", files.len() as u64),
        ("records", files.iter().map(|file| file.record_count).sum()),
        ("files-size", files.iter().map(|file| file.size_bytes).sum()),
    ];
    let mut properties = HashMap::new();
    for (what, count) in added {
        let total = format!("total-{what}");
        let before: Option<u64> = match parent {
            Some(parent) => {
                let total = parent.additional_properties.get(&total);
                total.and_then(|total| total.parse().ok())
            }
            None => Some(0),
        };
        properties.insert(format!("added-{what}"), count.to_string());
        if let Some(before) = before {
            properties.insert(total, (before + count).to_string());
        }
    }
    ice::Summary { operation: ice::Operation::Append, additional_properties: properties }
}

fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// Returns true where Avro takes `name` as a field name: iceberg cannot write others.
fn is_avro_name(name: &str) -> bool {
    let mut chars = name.chars();
    let starts_well = chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    starts_well && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_avro_name_takes_what_iceberg_writes() {
        let check = |name, expect| assert_eq!(is_avro_name(name), expect, "{name}");
        check("l_shipmonth", true);
        check("_1", true);
        check("1st", false);
        check("event-day", false);
        check("prix_\u{e9}t\u{e9}", false);
        check("", false);
    }
}
