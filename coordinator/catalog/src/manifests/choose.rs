//! Choice of a manifest's files, by partition values and metrics.

use std::sync::Arc;

use super::entry::{Content, DecodedManifest, Entry, Format, summed};
use super::list::{ManifestFile, Summary};
use super::value::result_type;
use super::wanted::Wanted;
use crate::error::{Error, Result};
use crate::inspect::{FileContent, FileInfo, PartitionFacts};
use crate::metadata::{SpecPart, TableMetadata};
use crate::prune::{BoundPredicate, Nulls, PruneReason, RangePredicate, SpecField, ValueRange};
use crate::scalar::Scalar;
use crate::scan::{FileDeletes, FilePath, IdentityValue, PartedBy, PartitionHit, Pruning, ScanFile};
use crate::table::Table;
use crate::types::{PartitionField, Transform, Type};

/// Predicate in the form that applies to the manifests of one partition spec.
#[derive(Debug)]
pub(crate) struct Chooser {
    table: String,
    spec_id: i32,
    parts: Vec<SpecPart>,
    fields: Vec<SpecField>,
    /// Types of the partition values by the table's schemas. `None` where none is known.
    types: Vec<Option<Type>>,
    /// Types of the columns that the partition values are made from. `None` where none is known.
    source_types: Vec<Option<Type>>,
    predicate: RangePredicate,
    pub(super) wanted: Arc<Wanted>,
}

/// Partition values of some files of a manifest.
struct Tuple {
    /// Ranges of the fields, in the spec's order. Those of columns come and go behind them.
    ranges: Vec<ValueRange>,
    /// Parts that its files share, once one of them is kept.
    shared: Option<Shared>,
}

struct Shared {
    identity_values: Arc<[IdentityValue]>,
    /// Position in `Selection::partitions`.
    partition: u32,
}

/// Files of one manifest that a query needs.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub(crate) files: Vec<ScanFile>,
    pub(crate) partitions: Vec<SelectedPartition>,
    pub(crate) pruning: Pruning,
}

#[derive(Debug)]
pub(crate) struct SelectedPartition {
    /// Bytes that are equal for equal partitions of one spec.
    pub(crate) key: Arc<[u8]>,
    pub(crate) hit: PartitionHit,
    pub(crate) parted_by: Box<[PartedBy]>,
}

impl Chooser {
    /// Binds a predicate to a spec.
    pub(crate) fn new(table: &Table, spec_id: i32, bound: &BoundPredicate, wanted: &Arc<Wanted>) -> Option<Chooser> {
        let metadata = table.metadata();
        let parts = metadata.spec(spec_id)?.parts.clone();
        let fields: Vec<_> = parts.iter().map(|part| spec_field(part, metadata)).collect();
        let source_type = |part: &SpecPart| Some(metadata.field(part.source()?)?.field.ty.clone());
        let source_types: Vec<Option<Type>> = parts.iter().map(source_type).collect();
        let types = parts.iter().zip(&source_types).map(|(part, ty)| result_type(part.transform, ty.as_ref()?));
        Some(Chooser {
            table: table.name().to_owned(),
            spec_id,
            types: types.collect(),
            source_types,
            predicate: bound.project(&fields),
            fields,
            parts,
            wanted: Arc::clone(wanted),
        })
    }

    /// Returns the reason why none of the manifest's files can match, by its partition summaries.
    pub(crate) fn excluded_manifest(&self, manifest: &ManifestFile) -> Option<&PruneReason> {
        let summaries = manifest.summaries.as_ref()?;
        if summaries.len() != self.fields.len() {
            return None;
        }
        let ranges = summaries.iter().zip(&self.types).zip(&self.fields);
        let ranges: Vec<_> =
            ranges.map(|((summary, ty), field)| summary_range(summary, ty.as_ref(), field.field.transform)).collect();
        self.predicate.excluded(&ranges)
    }

    /// Returns true where the predicate gives the values of all fields.
    pub(crate) fn is_pinned(&self) -> bool {
        let pinned = self.predicate.pinned();
        let fields = self.parts.iter().enumerate().filter(|(_, part)| part.transform != Transform::Void);
        let mut fields = fields.map(|(position, _)| position).peekable();
        fields.peek().is_some() && fields.all(|position| pinned.contains(&position))
    }

    /// Returns true where no field parts the files of the spec.
    pub(crate) fn is_unpartitioned(&self) -> bool {
        self.parts.iter().all(|part| part.transform == Transform::Void)
    }

    /// Selects the files of a manifest that may match, and books the reasons of the others.
    pub(crate) fn select(&self, manifest: &DecodedManifest, of: &ManifestFile) -> Result<Selection> {
        let positions = self.positions(manifest, &of.path)?;
        let mut tuples: Vec<Option<Tuple>> = Vec::new();
        tuples.resize_with(manifest.tuples(), || None);
        let mut excluded: Vec<Option<&PruneReason>> = vec![None; manifest.tuples()];
        let mut selection = Selection::default();
        for entry in &manifest.entries {
            selection.pruning.files_total += 1;
            let place = entry.tuple as usize;
            let (Some(tuple), Some(excluded)) = (tuples.get_mut(place), excluded.get_mut(place)) else {
                return Err(Error::corrupt(&of.path, format!("entry {} has no partition values", entry.number)));
            };
            self.refuse_deletes(manifest, entry, &of.path)?;
            let tuple = tuple.get_or_insert_with(|| {
                let ranges = self.ranges(manifest, entry.tuple, &positions);
                *excluded = self.predicate.excluded(&ranges);
                Tuple { ranges, shared: None }
            });
            let reason = excluded.or_else(|| self.excluded_file(manifest, entry, &mut tuple.ranges));
            if let Some(reason) = reason {
                selection.pruning.book_file(reason, entry.size_bytes);
                continue;
            }
            self.refuse_unreadable(manifest, entry)?;
            selection.pruning.files_kept += 1;
            selection.pruning.bytes_kept = selection.pruning.bytes_kept.saturating_add(entry.size_bytes);
            let shared = tuple.shared.get_or_insert_with(|| {
                let partition = selection.partitions.len() as u32;
                selection.partitions.push(self.partition(manifest, entry.tuple, &positions));
                Shared { identity_values: self.identity_values(manifest, entry.tuple, &positions), partition }
            });
            if let Some(partition) = selection.partitions.get_mut(shared.partition as usize) {
                partition.hit.files += 1;
            }
            selection.files.push(self.scan_file(manifest, entry, of, shared)?);
        }
        Ok(selection)
    }

    /// Lists the files of a manifest.
    pub(crate) fn files(&self, manifest: &DecodedManifest, of: &ManifestFile) -> Result<Vec<FileInfo>> {
        let positions = self.positions(manifest, &of.path)?;
        let mut partitions: Vec<Option<Arc<PartitionFacts>>> = vec![None; manifest.tuples()];
        let mut files = Vec::with_capacity(manifest.entries.len());
        for entry in &manifest.entries {
            let Some(partition) = partitions.get_mut(entry.tuple as usize) else {
                return Err(Error::corrupt(&of.path, format!("entry {} has no partition values", entry.number)));
            };
            let partition = partition.get_or_insert_with(|| Arc::new(self.facts(manifest, entry.tuple, &positions)));
            files.push(FileInfo {
                content: match entry.content {
                    Content::Data => FileContent::Data,
                    Content::PositionDeletes => FileContent::PositionDeletes,
                    Content::EqualityDeletes => FileContent::EqualityDeletes,
                },
                path: manifest.path(entry),
                format: entry.format.to_string().to_uppercase(),
                spec_id: self.spec_id,
                partition: Arc::clone(partition),
                record_count: entry.record_count,
                size_bytes: entry.size_bytes,
                equality_ids: entry.delete.as_ref().map(|parts| parts.equality_ids.to_vec()).unwrap_or_default(),
            });
        }
        Ok(files)
    }

    fn facts(&self, manifest: &DecodedManifest, tuple: u32, positions: &[Option<usize>]) -> PartitionFacts {
        let fields = self.parts.iter().zip(positions).zip(&self.types);
        let value = |((part, position), ty): ((&SpecPart, &Option<usize>), &Option<Type>)| {
            let value = position.and_then(|position| manifest.tuple(tuple).get(position)).and_then(Option::as_ref);
            (part.field_id, value.and_then(|value| value.scalar(ty.as_ref()?)))
        };
        PartitionFacts {
            text: self.partition(manifest, tuple, positions).hit.text,
            values: fields.map(value).collect(),
        }
    }

    /// Describes the partition of values of a manifest.
    fn partition(&self, manifest: &DecodedManifest, tuple: u32, positions: &[Option<usize>]) -> SelectedPartition {
        let fields = self.parts.iter().zip(positions).zip(&self.types);
        let fields = fields.filter(|((part, _), _)| part.transform != Transform::Void);
        let text = fields.map(|((part, position), ty)| {
            let value = position.and_then(|position| manifest.tuple(tuple).get(position));
            let text = match (value, ty) {
                (Some(None), _) => part.transform.text(None),
                (Some(Some(value)), Some(ty)) => match value.scalar(ty) {
                    Some(value) => part.transform.text(Some(&value)),
                    None => "?".to_owned(),
                },
                _ => "?".to_owned(),
            };
            format!("{}={text}", part.name)
        });
        let text = text.collect::<Vec<_>>().join(", ");
        let hit = PartitionHit { spec_id: self.spec_id, text, files: 0 };
        let parted_by = self.parted_by(manifest, tuple, positions);
        SelectedPartition { key: self.partition_key(manifest, tuple, positions), hit, parted_by }
    }

    /// Lists the values of the fields that are made from one column by a transform of which equal values have equal results.
    fn parted_by(&self, manifest: &DecodedManifest, tuple: u32, positions: &[Option<usize>]) -> Box<[PartedBy]> {
        let fields = self.parts.iter().zip(positions).zip(self.types.iter().zip(&self.source_types));
        let parted_by = fields.filter_map(|((part, position), (ty, source_type))| {
            let transform = part.transform;
            if !matches!(transform, Transform::Identity | Transform::Bucket(_) | Transform::Truncate(_)) {
                return None;
            }
            let value = match manifest.tuple(tuple).get((*position)?)? {
                Some(value) => Some(value.scalar(ty.as_ref()?)?),
                None => None,
            };
            Some(PartedBy { source_id: part.source()?, transform, source_type: source_type.clone()?, value })
        });
        parted_by.collect()
    }

    /// Returns bytes that are equal for equal partitions of the spec. Void fields part nothing.
    pub(super) fn partition_key(
        &self,
        manifest: &DecodedManifest,
        tuple: u32,
        positions: &[Option<usize>],
    ) -> Arc<[u8]> {
        let mut key = self.spec_id.to_le_bytes().to_vec();
        for ((part, position), ty) in self.parts.iter().zip(positions).zip(&self.types) {
            if part.transform == Transform::Void {
                continue;
            }
            match position.and_then(|position| manifest.tuple(tuple).get(position)) {
                Some(Some(value)) => value.add_typed_key(ty.as_ref(), &mut key),
                _ => key.push(0),
            }
        }
        key.into()
    }

    /// Finds the spec's fields among the manifest's partition values, by their ids.
    pub(super) fn positions(&self, manifest: &DecodedManifest, location: &str) -> Result<Vec<Option<usize>>> {
        // Values of a transform that nobody knows say nothing, so that they may be anything.
        let agree = |(theirs, ours): (&SpecPart, &SpecPart)| {
            ours.transform == Transform::Unknown
                || (theirs.transform == ours.transform && theirs.sources == ours.sources)
        };
        let is_ours = |spec: &[SpecPart]| spec.len() == self.parts.len() && spec.iter().zip(&self.parts).all(agree);
        if manifest.spec.as_ref().is_some_and(|spec| !is_ours(spec)) {
            let why = format!("its partition spec is not the table's spec {}", self.spec_id);
            return Err(Error::corrupt(location, why));
        }
        let ids = &manifest.partition_ids;
        let find = |(position, part): (usize, &SpecPart)| {
            let by_id = ids.iter().position(|id| *id == Some(i64::from(part.field_id)));
            by_id.or_else(|| ids.get(position)?.is_none().then_some(position))
        };
        Ok(self.parts.iter().enumerate().map(find).collect())
    }

    fn ranges(&self, manifest: &DecodedManifest, tuple: u32, positions: &[Option<usize>]) -> Vec<ValueRange> {
        let values = manifest.tuple(tuple);
        let fields = positions.iter().zip(&self.types).zip(&self.fields);
        let range = |((position, ty), field): ((&Option<usize>, &Option<Type>), &SpecField)| {
            let Some(value) = position.and_then(|position| values.get(position)) else {
                return ValueRange::unknown();
            };
            let transform = field.field.transform;
            match value {
                None => ValueRange::of_partition(None, transform),
                // A value that cannot be understood is not NULL.
                Some(value) => match ty.as_ref().and_then(|ty| value.scalar(ty)) {
                    Some(value) => ValueRange::of_partition(Some(&value), transform),
                    None => ValueRange::unknown(),
                },
            }
        };
        fields.map(range).collect()
    }

    /// Returns the reason why no row of the file can match, by its metrics. `ranges` are those of its partition values.
    fn excluded_file(
        &self,
        manifest: &DecodedManifest,
        entry: &Entry,
        ranges: &mut Vec<ValueRange>,
    ) -> Option<&PruneReason> {
        let of_partition = ranges.len();
        for id in &self.wanted.of_predicate {
            if self.is_partition(*id) {
                // Its value is the partition's, also where an imported file has a column of this name.
                ranges.push(ValueRange::unknown());
                continue;
            }
            let metrics = manifest.metrics(entry).iter().find(|metrics| metrics.id == *id);
            let facts = metrics.map(|metrics| self.wanted.facts(manifest, metrics));
            ranges.push(ValueRange::of_column(entry.record_count, facts.as_ref()));
        }
        let reason = self.predicate.excluded(ranges);
        ranges.truncate(of_partition);
        reason
    }

    /// Returns true if the spec parts files by the column's values themselves.
    fn is_partition(&self, id: i32) -> bool {
        self.parts.iter().any(|part| part.transform == Transform::Identity && part.source() == Some(id))
    }

    fn identity_values(
        &self,
        manifest: &DecodedManifest,
        tuple: u32,
        positions: &[Option<usize>],
    ) -> Arc<[IdentityValue]> {
        let values = manifest.tuple(tuple);
        let fields = self.parts.iter().zip(positions).zip(&self.types);
        let values = fields.filter_map(|((part, position), ty)| {
            if part.transform != Transform::Identity {
                return None;
            }
            let field_id = part.source()?;
            match position.and_then(|position| values.get(position)) {
                // The manifest has no such field, so that the value is not known.
                None => Some(IdentityValue { field_id, value: None }),
                Some(None) => None,
                Some(Some(value)) => {
                    let value = ty.as_ref().and_then(|ty| value.scalar(ty));
                    Some(IdentityValue { field_id, value })
                }
            }
        });
        values.collect()
    }

    fn scan_file(
        &self,
        manifest: &DecodedManifest,
        entry: &Entry,
        of: &ManifestFile,
        shared: &Shared,
    ) -> Result<ScanFile> {
        let asked = manifest.metrics(entry).iter().filter(|metrics| self.wanted.asked.contains(&metrics.id));
        Ok(ScanFile {
            path: FilePath { folder: manifest.folder(entry), name: manifest.name(entry).into() },
            size_bytes: entry.size_bytes,
            record_count: entry.record_count,
            sequence_number: sequence_number(entry, of)?,
            partition: shared.partition,
            identity_values: Arc::clone(&shared.identity_values),
            split_offsets: manifest.split_offsets(entry).into(),
            column_bytes: summed(manifest.column_bytes(entry), |id| self.wanted.asked.contains(&id))
                .map(|column| (column.id, column.bytes))
                .collect(),
            columns: asked.map(|metrics| self.wanted.facts(manifest, metrics)).collect(),
            deletes: FileDeletes::default(),
        })
    }

    /// Refuses a delete file among data files, whatever the query needs: it says that rows of other files are gone.
    fn refuse_deletes(&self, manifest: &DecodedManifest, entry: &Entry, location: &str) -> Result<()> {
        if entry.content == Content::Data {
            return Ok(());
        }
        let path = manifest.path(entry);
        Err(Error::corrupt(location, format!("it lists delete file {path} among data files")))
    }

    fn refuse_unreadable(&self, manifest: &DecodedManifest, entry: &Entry) -> Result<()> {
        let unsupported = |feature, next| Err(Error::Unsupported { table: self.table.clone(), feature, next });
        let path = || manifest.path(entry);
        if entry.format != Format::Parquet {
            let feature = format!("data files in format {} ({})", entry.format, path());
            return unsupported(feature, "rewrite the table's data files as Parquet");
        }
        if entry.is_encrypted {
            let feature = format!("encrypted data files ({})", path());
            return unsupported(feature, "rewrite the table without encryption");
        }
        Ok(())
    }
}

/// Returns the data sequence number of an entry: its own, or where it has none that of the manifest which added it.
pub(crate) fn sequence_number(entry: &Entry, of: &ManifestFile) -> Result<i64> {
    match entry.sequence_number {
        Some(number) => Ok(number),
        // Version 1 knows no numbers: its files are older than all deletes.
        None if entry.is_added || of.sequence_number == 0 => Ok(of.sequence_number),
        None => {
            let why = format!("entry {} is carried over and has no sequence number", entry.number);
            Err(Error::corrupt(&of.path, why))
        }
    }
}

fn spec_field(part: &SpecPart, metadata: &TableMetadata) -> SpecField {
    let current = part.source().and_then(|id| metadata.current_name(id));
    SpecField {
        // No column has this id: the field is made from several, by a transform that is unknown.
        source_id: part.source().unwrap_or(i32::MIN),
        field: PartitionField {
            name: part.name.clone(),
            column: current.unwrap_or_else(|| "dropped column".to_owned()),
            transform: part.transform,
        },
    }
}

/// Returns the range of one partition field's values by a manifest's summary.
pub(crate) fn summary_range(summary: &Summary, ty: Option<&Type>, transform: Transform) -> ValueRange {
    let decode = |bytes: &Option<Box<[u8]>>| Scalar::from_bound(bytes.as_ref()?, ty?);
    let may_be_nan = matches!(ty, None | Some(Type::Float | Type::Double));
    let nan = may_be_nan && summary.contains_nan != Some(false);
    // Without bounds all values should be NULL or NaN, but some writers never write bounds. A summary that tells of no value at
    // all is not believed.
    let tells = summary.lower.is_some() || summary.upper.is_some() || summary.contains_nan == Some(true);
    let nulls = if summary.contains_null == Some(false) && tells { Nulls::None } else { Nulls::Maybe };
    let range = ValueRange { lower: decode(&summary.lower), upper: decode(&summary.upper), nulls, nan, cut: true };
    range.trusted().widened(transform)
}
