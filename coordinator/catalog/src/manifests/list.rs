//! A manifest list: the manifests of a snapshot.

use std::sync::Arc;

use super::{Known, known, slot};
use crate::avro::{AvroFault, Container, Program, Room, Sink, Slot, Value};
use crate::metadata::{Total, Totals};

/// Most bytes of a decoded list.
const HELD_BYTES_MAX: usize = 128 << 20;

const PARTITIONS: Slot = 507;
const SUMMARY: Slot = 508;
const FIELDS: [Known; 18] = [
    known(500, &["manifest_path"], None),
    known(501, &["manifest_length"], None),
    known(502, &["partition_spec_id"], None),
    known(517, &["content"], None),
    known(515, &["sequence_number"], None),
    known(503, &["added_snapshot_id"], None),
    known(504, &["added_files_count", "added_data_files_count"], None),
    known(505, &["existing_files_count", "existing_data_files_count"], None),
    known(506, &["deleted_files_count", "deleted_data_files_count"], None),
    known(512, &["added_rows_count"], None),
    known(513, &["existing_rows_count"], None),
    known(519, &["key_metadata"], None),
    known(PARTITIONS, &["partitions"], None),
    known(SUMMARY, &[""], Some(PARTITIONS)),
    known(509, &["contains_null"], Some(SUMMARY)),
    known(518, &["contains_nan"], Some(SUMMARY)),
    known(510, &["lower_bound"], Some(SUMMARY)),
    known(511, &["upper_bound"], Some(SUMMARY)),
];

/// Manifest as its list describes it. What the writer did not say is `None`, or as in version 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct ManifestFile {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    /// `None` for manifests without a list: their own headers say it.
    pub(crate) spec_id: Option<i32>,
    pub(crate) has_deletes: bool,
    pub(crate) sequence_number: i64,
    pub(crate) added_files: Option<u64>,
    pub(crate) existing_files: Option<u64>,
    pub(crate) deleted_files: Option<u64>,
    /// Snapshot that added the manifest.
    pub(crate) snapshot: Option<i64>,
    pub(crate) added_rows: Option<u64>,
    pub(crate) existing_rows: Option<u64>,
    /// One summary a field of the spec. `None` where the writer left them out.
    pub(crate) summaries: Option<Vec<Summary>>,
    pub(crate) is_encrypted: bool,
}

/// Summary of the values of a partition field in a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Summary {
    pub(crate) contains_null: Option<bool>,
    pub(crate) contains_nan: Option<bool>,
    pub(crate) lower: Option<Box<[u8]>>,
    pub(crate) upper: Option<Box<[u8]>>,
}

impl ManifestFile {
    /// Returns the number of files that are not removed, where the writer says it.
    pub(crate) fn live_files(&self) -> Option<u64> {
        self.added_files?.checked_add(self.existing_files?)
    }

    /// Returns the files and their rows that are not removed, where the writer says both.
    fn live(&self) -> Option<Total> {
        Some(Total { files: self.live_files()?, rows: self.added_rows?.checked_add(self.existing_rows?)? })
    }

    /// Returns the memory that it holds, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let bound = |bound: &Option<Box<[u8]>>| bound.as_ref().map_or(0, |bytes| bytes.len());
        let summary = |summary: &Summary| size_of::<Summary>() + bound(&summary.lower) + bound(&summary.upper);
        size_of::<Self>() + self.path.len() + self.summaries.iter().flatten().map(summary).sum::<usize>()
    }
}

/// Sums up the files of a content. None where a manifest does not count them.
fn summed(manifests: &[Arc<ManifestFile>], has_deletes: bool) -> Option<Total> {
    let own = manifests.iter().filter(|manifest| manifest.has_deletes == has_deletes);
    own.map(|manifest| manifest.live()).try_fold(Total::default(), |sum, live| {
        let live = live?;
        Some(Total { files: sum.files.checked_add(live.files)?, rows: sum.rows.checked_add(live.rows)? })
    })
}

/// Tells what a list lacks by the summary of its snapshot: it may have been cut between two blocks, which nothing in it tells. A writer
/// may count files or rows alone wrongly.
pub(crate) fn lacking(manifests: &[Arc<ManifestFile>], totals: &Totals) -> Option<String> {
    let contents = [(false, "data files", totals.data), (true, "delete files", totals.deletes)];
    contents.into_iter().find_map(|(has_deletes, name, total)| {
        let (total, sum) = (total?, summed(manifests, has_deletes)?);
        (sum.files < total.files && sum.rows < total.rows).then(|| {
            let (found, said) = (sum, total);
            format!(
                "it has {} {name} of {} rows, the summary of its snapshot says {} of {}",
                found.files, found.rows, said.files, said.rows
            )
        })
    })
}

/// Returns true where a summary has the sums of its list.
pub(crate) fn is_summed(manifests: &[Arc<ManifestFile>], totals: &Totals) -> bool {
    [(false, totals.data), (true, totals.deletes)].into_iter().all(|(has_deletes, total)| match total {
        Some(total) => summed(manifests, has_deletes) == Some(total),
        None => true,
    })
}

/// Decodes a manifest list.
pub(crate) fn decode(file: &[u8]) -> Result<Vec<Arc<ManifestFile>>, AvroFault> {
    let container = Container::open(file)?;
    let program = Program::compile(&container.schema()?, &|field| slot(&FIELDS, field))?;
    let mut sink = ListSink {
        manifest: ManifestFile::default(),
        has_path: false,
        manifests: Vec::new(),
        room: Room::new(HELD_BYTES_MAX),
    };
    container.read(&program, &mut sink)?;
    Ok(sink.manifests)
}

struct ListSink {
    manifest: ManifestFile,
    has_path: bool,
    manifests: Vec<Arc<ManifestFile>>,
    room: Room,
}

impl Sink for ListSink {
    fn value(&mut self, slot: Slot, value: Value<'_>) -> Result<(), AvroFault> {
        let manifest = &mut self.manifest;
        let summary = manifest.summaries.as_mut().and_then(|summaries| summaries.last_mut());
        match (slot, value, summary) {
            (500, Value::Bytes(path), _) => {
                let path = std::str::from_utf8(path);
                let path = path.map_err(|_| AvroFault::Invalid("a manifest's path is no text".to_owned()))?;
                self.room.take_alone(path.len())?;
                manifest.path = path.to_owned();
                self.has_path = true;
            }
            (501, value, _) => manifest.bytes = count(value).unwrap_or(0),
            (502, value, _) => manifest.spec_id = whole(value).and_then(|id| i32::try_from(id).ok()),
            (517, value, _) => match whole(value).unwrap_or_default() {
                content @ (0 | 1) => manifest.has_deletes = content == 1,
                other => return Err(AvroFault::Invalid(format!("a manifest with content {other}"))),
            },
            (515, value, _) => manifest.sequence_number = whole(value).unwrap_or_default(),
            (504, value, _) => manifest.added_files = count(value),
            (503, value, _) => manifest.snapshot = whole(value),
            (505, value, _) => manifest.existing_files = count(value),
            (506, value, _) => manifest.deleted_files = count(value),
            (512, value, _) => manifest.added_rows = count(value),
            (513, value, _) => manifest.existing_rows = count(value),
            (519, Value::Bytes(key), _) => manifest.is_encrypted = !key.is_empty(),
            (509, Value::Boolean(found), Some(summary)) => summary.contains_null = Some(found),
            (518, Value::Boolean(found), Some(summary)) => summary.contains_nan = Some(found),
            (510 | 511, Value::Bytes(bound), Some(summary)) => {
                self.room.take_alone(bound.len())?;
                let place = if slot == 510 { &mut summary.lower } else { &mut summary.upper };
                *place = Some(bound.into());
            }
            _ => {}
        }
        Ok(())
    }

    fn item(&mut self, _: Slot) -> Result<(), AvroFault> {
        self.room.take(size_of::<Summary>())?;
        self.manifest.summaries.get_or_insert_default().push(Summary::default());
        Ok(())
    }

    fn finish(&mut self) -> Result<(), AvroFault> {
        if !std::mem::take(&mut self.has_path) {
            return Err(AvroFault::Invalid("a manifest without a path".to_owned()));
        }
        self.room.take_alone(size_of::<ManifestFile>())?;
        self.manifests.push(Arc::new(std::mem::take(&mut self.manifest)));
        Ok(())
    }
}

/// Reads a whole number of either width.
fn whole(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Int(number) => Some(number.into()),
        Value::Long(number) => Some(number),
        _ => None,
    }
}

/// Reads a count. A negative one is none.
fn count(value: Value<'_>) -> Option<u64> {
    whole(value)?.try_into().ok()
}
