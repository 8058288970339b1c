//! One manifest: the decision to read it, and the choice of its files.

use bytes::Bytes;
use iceberg::spec as ice;

use crate::avro::with_partition_ids_as_names;
use crate::convert;
use crate::error::{Error, Result};
use crate::plan::{DataFile, FilePlan, Pruned};
use crate::prune::{BoundPredicate, Nulls, PruneReason, RangePredicate, SpecField, ValueRange};
use crate::table::Table;
use crate::types::{PartitionField, Transform};

/// Predicate in the form that applies to the manifests of one partition spec.
#[derive(Debug)]
pub(crate) struct Pruner {
    table: String,
    spec: ice::PartitionSpecRef,
    fields: Vec<SpecField>,
    /// Types of the partition values by the current schema. `None` where the column is gone.
    types: Vec<Option<ice::PrimitiveType>>,
    predicate: RangePredicate,
    column_ids: Vec<i32>,
}

impl Pruner {
    /// Binds a predicate to a spec.
    ///
    /// # Errors
    /// Corrupt: the table has no such spec.
    pub(crate) fn new(table: &Table, spec_id: i32, bound: &BoundPredicate) -> Result<Pruner> {
        let spec = table.metadata().partition_spec_by_id(spec_id);
        let spec = spec.ok_or_else(|| {
            let why = format!("a manifest names partition spec {spec_id}, which it does not have");
            Error::corrupt(table.metadata_location(), why)
        })?;
        let schema = table.metadata().current_schema();
        let fields: Vec<_> = spec.fields().iter().map(|f| spec_field(f, schema)).collect();
        let types = spec.fields().iter().map(|field| {
            let source = schema.field_by_id(field.source_id)?;
            let ty = field.transform.result_type(&source.field_type).ok()?;
            ty.as_primitive_type().cloned()
        });
        Ok(Pruner {
            table: table.name().to_string(),
            types: types.collect(),
            spec: spec.clone(),
            predicate: bound.project(&fields),
            column_ids: bound.column_ids().collect(),
            fields,
        })
    }

    /// Returns the reason why none of the manifest's files can match, by its partition summaries.
    pub(crate) fn excluded_manifest(&self, manifest: &ice::ManifestFile) -> Option<&PruneReason> {
        let summaries = manifest.partitions.as_ref()?;
        if summaries.len() != self.fields.len() {
            return None;
        }
        let ranges = summaries.iter().zip(&self.types).zip(&self.fields);
        let ranges: Vec<_> =
            ranges.map(|((summary, ty), field)| summary_range(summary, ty.as_ref(), field.field.transform)).collect();
        self.predicate.excluded(&ranges)
    }

    /// Returns the reason why no row of the file can match, by its partition values if those suffice.
    fn excluded_file(&self, file: &DataFile) -> Option<&PruneReason> {
        let fields = self.fields.iter().map(|field| &field.field);
        let mut ranges: Vec<_> = fields
            .map(|field| {
                let value = file.partition.iter().find(|value| value.name == field.name);
                value.map_or_else(ValueRange::unknown, |field_value| {
                    ValueRange::of_partition(field_value.value.as_ref(), field.transform)
                })
            })
            .collect();
        if let Some(reason) = self.predicate.excluded(&ranges) {
            return Some(reason);
        }
        let columns = self.column_ids.iter();
        ranges.extend(columns.map(|id| ValueRange::of_column(file, *id)));
        self.predicate.excluded(&ranges)
    }

    fn unsupported(&self, feature: String, next: &'static str) -> Error {
        Error::Unsupported { table: self.table.clone(), feature, next }
    }

    fn unreadable(&self, location: &str, error: iceberg::Error) -> Error {
        let unknown = |field: &SpecField| field.field.transform == Transform::Unknown;
        match self.fields.iter().find(|field| unknown(field)) {
            Some(field) => self.unsupported(
                format!("partition field {} by an unknown transform", field.field.name),
                "use a version that knows the transform, or rewrite the table without it",
            ),
            None => Error::from_iceberg(location, error),
        }
    }
}

/// Selects the live files of a manifest that the pruner keeps, and books the reasons of the others.
pub(crate) fn select(bytes: &Bytes, location: &str, pruner: &Pruner) -> Result<FilePlan> {
    let manifest = ice::Manifest::parse_avro(&with_partition_ids_as_names(bytes))
        .map_err(|error| pruner.unreadable(location, error))?;
    let partition = partition_fields(&manifest, location, pruner)?;
    let mut plan = FilePlan::default();
    for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
        let file = convert::data_file(entry.data_file(), &partition);
        plan.pruning.files_total += 1;
        if let Some(reason) = pruner.excluded_file(&file) {
            plan.pruning.book(Pruned { reason: reason.clone(), manifests: 0, files: 1, bytes: Some(file.size_bytes) });
            continue;
        }
        refuse_unreadable(entry.data_file(), location, pruner)?;
        plan.pruning.files_kept += 1;
        plan.pruning.bytes_kept += file.size_bytes;
        plan.files.push(file);
    }
    Ok(plan)
}

/// Live delete files, by their kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DeleteCounts {
    pub(crate) positions: u64,
    pub(crate) vectors: u64,
    pub(crate) equalities: u64,
}

impl std::ops::Add for DeleteCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            positions: self.positions + other.positions,
            vectors: self.vectors + other.vectors,
            equalities: self.equalities + other.equalities,
        }
    }
}

/// Counts the live delete files of a manifest.
pub(crate) fn count_deletes(bytes: &Bytes, location: &str) -> Result<DeleteCounts> {
    let manifest = ice::Manifest::parse_avro(&with_partition_ids_as_names(bytes))
        .map_err(|error| Error::from_iceberg(location, error))?;
    let mut counts = DeleteCounts::default();
    for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
        let count = match (entry.content_type(), entry.file_format()) {
            (ice::DataContentType::EqualityDeletes, _) => &mut counts.equalities,
            (_, ice::DataFileFormat::Puffin) => &mut counts.vectors,
            _ => &mut counts.positions,
        };
        *count += 1;
    }
    Ok(counts)
}

/// Lists the fields of the manifest's partition values, under the table's names and with the types of their time.
fn partition_fields(
    manifest: &ice::Manifest,
    location: &str,
    pruner: &Pruner,
) -> Result<Vec<convert::PartitionColumn>> {
    let metadata = manifest.metadata();
    let spec = metadata.partition_spec();
    let parts = |spec: &ice::PartitionSpec| -> Vec<_> {
        let fields = spec.fields().iter();
        fields.map(|f| (f.source_id, f.transform)).collect()
    };
    if parts(spec) != parts(&pruner.spec) {
        let id = pruner.spec.spec_id();
        let why = format!("its partition spec is not the table's spec {id}");
        return Err(Error::corrupt(location, why));
    }
    let partition_type =
        spec.partition_type(metadata.schema()).map_err(|error| Error::from_iceberg(location, error))?;
    let fields = partition_type.fields().iter().zip(&pruner.fields);
    Ok(fields
        .map(|(typed, field)| convert::PartitionColumn {
            name: field.field.name.clone(),
            ty: (*typed.field_type).clone(),
            identity_of: (field.field.transform == Transform::Identity).then_some(field.source_id),
        })
        .collect())
}

fn refuse_unreadable(file: &ice::DataFile, manifest: &str, pruner: &Pruner) -> Result<()> {
    if file.content_type() != ice::DataContentType::Data {
        let why = format!("it lists delete file {} among data files", file.file_path());
        return Err(Error::corrupt(manifest, why));
    }
    if file.file_format() != ice::DataFileFormat::Parquet {
        let format = file.file_format();
        return Err(pruner.unsupported(
            format!("data files in format {format} ({})", file.file_path()),
            "rewrite the table's data files as Parquet",
        ));
    }
    if file.key_metadata().is_some() {
        return Err(pruner.unsupported(
            format!("encrypted data files ({})", file.file_path()),
            "rewrite the table without encryption",
        ));
    }
    Ok(())
}

fn spec_field(field: &ice::PartitionField, schema: &ice::Schema) -> SpecField {
    let column = schema.name_by_field_id(field.source_id);
    SpecField {
        source_id: field.source_id,
        field: PartitionField {
            name: field.name.clone(),
            column: column.unwrap_or("dropped column").to_string(),
            transform: convert::transform(field.transform),
        },
    }
}

/// Returns the range of one partition field's values by a manifest's summary.
pub(crate) fn summary_range(
    summary: &ice::FieldSummary,
    ty: Option<&ice::PrimitiveType>,
    transform: Transform,
) -> ValueRange {
    let decode = |bytes: &Option<ice::ByteBuf>| {
        let datum = ice::Datum::try_from_bytes(bytes.as_ref()?, ty?.clone()).ok()?;
        convert::scalar(datum.data_type(), datum.literal())
    };
    let may_be_nan = matches!(ty, None | Some(ice::PrimitiveType::Float | ice::PrimitiveType::Double));
    let nan = may_be_nan && summary.contains_nan != Some(false);
    // Without bounds all values should be NULL or NaN, but some writers never write bounds.
    let nulls = if summary.contains_null { Nulls::Maybe } else { Nulls::None };
    let range =
        ValueRange { lower: decode(&summary.lower_bound), upper: decode(&summary.upper_bound), nulls, nan, cut: true };
    range.trusted().widened(transform)
}
