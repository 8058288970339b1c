//! Decoding of a manifest.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::entry::{ABSENT, ColumnBytes, Content, DecodedManifest, DeleteParts, Entry, Format, Metrics, Span, summed};
use super::value::PartitionValue;
use super::{Known, known, slot};
use crate::avro::{AvroFault, Container, FieldAt, Program, Room, Sink, Slot, Value};
use crate::metadata;

const FILE: Slot = 2;
const PARTITION: Slot = 102;
/// Most bytes of a decoded manifest: some 800,000 files.
const HELD_BYTES_MAX: usize = 256 << 20;
/// Largest count or size that an entry may claim, so that no sum of them overflows. JSON's numbers end there, too.
const COUNT_MAX: u64 = 1 << 53;
/// Slot of the first partition field; the others follow by their positions.
const PARTITION_FIRST: Slot = 1 << 16;
const FIELDS: [Known; 35] = [
    known(0, &["status"], None),
    known(3, &["sequence_number"], None),
    known(FILE, &["data_file"], None),
    known(134, &["content"], Some(FILE)),
    known(100, &["file_path"], Some(FILE)),
    known(101, &["file_format"], Some(FILE)),
    known(PARTITION, &["partition"], Some(FILE)),
    known(103, &["record_count"], Some(FILE)),
    known(104, &["file_size_in_bytes"], Some(FILE)),
    known(131, &["key_metadata"], Some(FILE)),
    known(132, &["split_offsets"], Some(FILE)),
    known(133, &[""], Some(132)),
    known(108, &["column_sizes"], Some(FILE)),
    known(117, &["key"], Some(108)),
    known(118, &["value"], Some(108)),
    known(109, &["value_counts"], Some(FILE)),
    known(119, &["key"], Some(109)),
    known(120, &["value"], Some(109)),
    known(110, &["null_value_counts"], Some(FILE)),
    known(121, &["key"], Some(110)),
    known(122, &["value"], Some(110)),
    known(137, &["nan_value_counts"], Some(FILE)),
    known(138, &["key"], Some(137)),
    known(139, &["value"], Some(137)),
    known(125, &["lower_bounds"], Some(FILE)),
    known(126, &["key"], Some(125)),
    known(127, &["value"], Some(125)),
    known(128, &["upper_bounds"], Some(FILE)),
    known(129, &["key"], Some(128)),
    known(130, &["value"], Some(128)),
    known(135, &["equality_ids"], Some(FILE)),
    known(136, &[""], Some(135)),
    known(143, &["referenced_data_file"], Some(FILE)),
    known(144, &["content_offset"], Some(FILE)),
    known(145, &["content_size_in_bytes"], Some(FILE)),
];

/// Decodes the live entries of a manifest, with the metrics of the columns `keep`, ascending.
pub(crate) fn decode(file: &[u8], keep: Arc<[i32]>) -> Result<DecodedManifest, AvroFault> {
    let container = Container::open(file)?;
    let schema = container.schema()?;
    let partition_ids = RefCell::new(Vec::new());
    let program = Program::compile(&schema, &|field| match field.parent {
        Some(PARTITION) => partition_slot(field, &mut partition_ids.borrow_mut()),
        _ => slot(&FIELDS, field),
    })?;
    let mut sink = EntrySink::new(keep, partition_ids.into_inner());
    let spec = container.text("partition-spec")?.and_then(|text| serde_json::from_str::<Json>(text).ok());
    sink.out.spec = spec.and_then(|spec| metadata::parts(spec.get("fields").unwrap_or(&spec)).ok());
    sink.out.spec_id = container.text("partition-spec-id")?.and_then(|id| id.trim().parse().ok());
    container.read(&program, &mut sink)?;
    let mut decoded = sink.out;
    decoded.shrink();
    Ok(decoded)
}

/// Gives a field of the partition values its slot, and notes its id.
fn partition_slot(field: FieldAt<'_>, ids: &mut Vec<Option<i64>>) -> Option<Slot> {
    let slot = Slot::try_from(field.position).ok()?.checked_add(PARTITION_FIRST)?;
    if ids.len() <= field.position {
        ids.resize(field.position + 1, None);
    }
    *ids.get_mut(field.position)? = field.id;
    Some(slot)
}

struct EntrySink {
    out: DecodedManifest,
    /// Number of entries that were seen, removed ones included.
    seen: u64,
    /// The key of the map entry that is read.
    key: Option<i32>,
    draft: Draft,
    /// Places of the kept columns' metrics in the draft.
    places: Vec<DraftPlace>,
    folders: HashMap<Box<str>, u32>,
    tuples: HashMap<Box<[u8]>, u32>,
    tuple_key: Vec<u8>,
    room: Room,
}

/// Place of a column's metrics in the draft of an entry, which may be over.
#[derive(Clone)]
struct DraftPlace {
    entry: u64,
    place: usize,
}

/// Entry that is read.
#[derive(Default)]
struct Draft {
    status: Option<i32>,
    sequence_number: Option<i64>,
    content: i32,
    format: Option<Format>,
    is_encrypted: bool,
    record_count: Option<i64>,
    size_bytes: Option<i64>,
    path: Vec<u8>,
    tuple: Vec<Option<PartitionValue>>,
    metrics: Vec<Metrics>,
    column_bytes: Vec<ColumnBytes>,
    split_offsets: Vec<i64>,
    equality_ids: Vec<i32>,
    delete: DeleteParts,
    /// Length of the heap before the entry.
    heap_start: usize,
    /// Room before the entry.
    room: Option<Room>,
}

impl EntrySink {
    fn new(keep: Arc<[i32]>, partition_ids: Vec<Option<i64>>) -> Self {
        let mut sink = EntrySink {
            places: vec![DraftPlace { entry: u64::MAX, place: 0 }; keep.len()],
            out: DecodedManifest { keep, partition_ids, ..DecodedManifest::default() },
            seen: 0,
            key: None,
            draft: Draft::default(),
            folders: HashMap::new(),
            tuples: HashMap::new(),
            tuple_key: Vec::new(),
            room: Room::new(HELD_BYTES_MAX),
        };
        sink.reset();
        sink
    }

    fn reset(&mut self) {
        let draft = &mut self.draft;
        (draft.status, draft.sequence_number, draft.format) = (None, None, None);
        (draft.record_count, draft.size_bytes) = (None, None);
        (draft.content, draft.is_encrypted) = (0, false);
        draft.path.clear();
        draft.tuple.clear();
        draft.tuple.resize(self.out.partition_ids.len(), None);
        draft.column_bytes.clear();
        draft.split_offsets.clear();
        draft.equality_ids.clear();
        draft.delete = DeleteParts::default();
        draft.metrics.clear();
        draft.heap_start = self.out.heap.len();
        draft.room = Some(self.room);
    }

    /// Returns the metrics of the map entry's column, if they are kept.
    fn metrics(&mut self) -> Result<Option<&mut Metrics>, AvroFault> {
        let Some(key) = self.key else { return Ok(None) };
        let Ok(position) = self.out.keep.binary_search(&key) else { return Ok(None) };
        let Some(place) = self.places.get_mut(position) else { return Ok(None) };
        if place.entry != self.seen {
            self.room.take(size_of::<Metrics>())?;
            *place = DraftPlace { entry: self.seen, place: self.draft.metrics.len() };
            self.draft.metrics.push(Metrics::none(key));
        }
        Ok(self.draft.metrics.get_mut(place.place))
    }

    fn put_bound(&mut self, bound: &[u8], which: fn(&mut Metrics) -> &mut Span) -> Result<(), AvroFault> {
        if self.metrics()?.is_none() {
            return Ok(());
        }
        self.room.take(bound.len())?;
        let span = append(&mut self.out.heap, bound)?;
        if let Some(metrics) = self.metrics()? {
            *which(metrics) = span;
        }
        Ok(())
    }

    fn corrupt(&self, why: &str) -> AvroFault {
        AvroFault::Invalid(format!("entry {} {why}", self.seen))
    }

    /// Finds the place of the draft's partition values, which files share.
    fn place_tuple(&mut self) -> Result<u32, AvroFault> {
        self.tuple_key.clear();
        for value in &self.draft.tuple {
            match value {
                Some(value) => value.add_key(&mut self.tuple_key),
                None => self.tuple_key.push(0),
            }
        }
        if let Some(place) = self.tuples.get(self.tuple_key.as_slice()) {
            return Ok(*place);
        }
        let values = self.draft.tuple.len() * size_of::<Option<PartitionValue>>();
        self.room.take_alone(values + 3 * self.tuple_key.len())?;
        let place = small(self.out.tuples.len())?;
        self.out.tuples.push(self.draft.tuple.as_slice().into());
        self.tuples.insert(self.tuple_key.as_slice().into(), place);
        Ok(place)
    }

    /// Finds the place of a folder, which files share.
    fn place_folder(&mut self, folder: &str) -> Result<u32, AvroFault> {
        if let Some(place) = self.folders.get(folder) {
            return Ok(*place);
        }
        self.room.take_alone(3 * folder.len())?;
        let place = small(self.out.folders.len())?;
        self.out.folders.push(folder.into());
        self.folders.insert(folder.into(), place);
        Ok(place)
    }

    fn entry(&mut self) -> Result<Entry, AvroFault> {
        let number = |value: Option<i64>, what: &str| {
            let value = value.ok_or_else(|| self.corrupt(&format!("has no {what}")))?;
            let count = u64::try_from(value).ok().filter(|count| *count < COUNT_MAX);
            count.ok_or_else(|| self.corrupt(&format!("has {what} {value}")))
        };
        let record_count = number(self.draft.record_count, "record count")?;
        let size_bytes = number(self.draft.size_bytes, "file size")?;
        let content = match self.draft.content {
            0 => Content::Data,
            1 => Content::PositionDeletes,
            2 => Content::EqualityDeletes,
            other => return Err(self.corrupt(&format!("has content {other}"))),
        };
        let path = std::mem::take(&mut self.draft.path);
        let text = std::str::from_utf8(&path).ok().filter(|path| !path.is_empty());
        let text = text.ok_or_else(|| self.corrupt("has no path"))?;
        let (folder, name) = text.split_at(text.rfind('/').map_or(0, |slash| slash + 1));
        let folder = self.place_folder(folder)?;
        self.room.take(size_of::<Entry>() + name.len())?;
        let name = append(&mut self.out.heap, name.as_bytes())?;
        self.draft.path = path;
        let tuple = self.place_tuple()?;
        self.draft.metrics.sort_unstable_by_key(|metrics| metrics.id);
        let metrics = self.draft.metrics.iter().filter(|metrics| !metrics.is_none()).copied();
        let metrics = extend(&mut self.out.metrics, metrics)?;
        self.draft.column_bytes.sort_unstable_by_key(|column| column.id);
        let keep = &self.out.keep;
        let columns = summed(&self.draft.column_bytes, |id| keep.binary_search(&id).is_ok());
        let column_bytes = extend(&mut self.out.column_bytes, columns)?;
        let dropped = self.draft.column_bytes.len().saturating_sub(column_bytes.range().len());
        self.room.give(dropped * size_of::<ColumnBytes>());
        let offsets = plausible_offsets(&self.draft.split_offsets, size_bytes);
        let split_offsets = extend(&mut self.out.split_offsets, offsets)?;
        let delete = (content != Content::Data).then(|| {
            let equality_ids = self.draft.equality_ids.as_slice().into();
            Box::new(DeleteParts { equality_ids, ..std::mem::take(&mut self.draft.delete) })
        });
        Ok(Entry {
            delete,
            number: self.seen,
            is_added: self.draft.status == Some(1),
            sequence_number: self.draft.sequence_number.filter(|number| *number >= 0),
            content,
            format: self.draft.format.unwrap_or(Format::Other),
            is_encrypted: self.draft.is_encrypted,
            record_count,
            size_bytes,
            tuple,
            folder,
            name,
            metrics,
            column_bytes,
            split_offsets,
        })
    }
}

impl EntrySink {
    /// Takes a value that is no integer.
    fn other_value(&mut self, slot: Slot, value: Value<'_>) -> Result<(), AvroFault> {
        match (slot, value) {
            (100, Value::Bytes(path)) => self.draft.path.extend_from_slice(path),
            (101, Value::Bytes(format)) => self.draft.format = Some(format_of(format)),
            // Some writers leave an empty key where there is none.
            (131, Value::Bytes(key)) => self.draft.is_encrypted = !key.is_empty(),
            (143, Value::Bytes(path)) => {
                let path = std::str::from_utf8(path).map_err(|_| self.corrupt("names a data file by no text"))?;
                self.room.take_alone(path.len() + size_of::<DeleteParts>())?;
                self.draft.delete.data_file = Some(path.into());
            }
            (127, Value::Bytes(bound)) => self.put_bound(bound, |metrics| &mut metrics.lower)?,
            (130, Value::Bytes(bound)) => self.put_bound(bound, |metrics| &mut metrics.upper)?,
            (slot, value) => self.partition_value(slot, value),
        }
        Ok(())
    }

    fn partition_value(&mut self, slot: Slot, value: Value<'_>) {
        let place = slot.checked_sub(PARTITION_FIRST).and_then(|place| self.draft.tuple.get_mut(place as usize));
        if let Some(place) = place {
            *place = Some(PartitionValue::new(value));
        }
    }
}

impl Sink for EntrySink {
    fn value(&mut self, slot: Slot, value: Value<'_>) -> Result<(), AvroFault> {
        let number = match value {
            Value::Int(number) => i64::from(number),
            Value::Long(number) => number,
            _ => return self.other_value(slot, value),
        };
        let narrow = || i32::try_from(number).ok();
        match slot {
            0 => self.draft.status = narrow(),
            3 => self.draft.sequence_number = Some(number),
            134 => self.draft.content = narrow().unwrap_or(-1),
            103 => self.draft.record_count = Some(number),
            104 => self.draft.size_bytes = Some(number),
            133 => {
                self.room.take(size_of::<i64>())?;
                self.draft.split_offsets.push(number);
            }
            136 => {
                self.room.take(size_of::<i64>())?;
                self.draft.equality_ids.extend(narrow());
            }
            144 => self.draft.delete.offset = number.try_into().ok(),
            145 => self.draft.delete.bytes = number.try_into().ok(),
            117 | 119 | 121 | 138 | 126 | 129 => self.key = narrow(),
            118 => {
                if let (Some(id), Ok(bytes)) = (self.key, number.try_into()) {
                    self.room.take(size_of::<ColumnBytes>())?;
                    self.draft.column_bytes.push(ColumnBytes { id, bytes });
                }
            }
            120 | 122 | 139 => {
                let count = u64::try_from(number).unwrap_or(ABSENT);
                if let Some(metrics) = self.metrics()? {
                    match slot {
                        120 => metrics.values = count,
                        122 => metrics.nulls = count,
                        _ => metrics.nans = count,
                    }
                }
            }
            _ => self.partition_value(slot, value),
        }
        Ok(())
    }

    fn item(&mut self, _: Slot) -> Result<(), AvroFault> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), AvroFault> {
        match self.draft.status {
            Some(0 | 1) => {
                let entry = self.entry()?;
                self.out.entries.push(entry);
            }
            Some(2) => {
                self.out.heap.truncate(self.draft.heap_start);
                self.room = self.draft.room.unwrap_or(self.room);
            }
            Some(other) => return Err(self.corrupt(&format!("has status {other}"))),
            None => return Err(self.corrupt("has no status")),
        }
        self.seen += 1;
        self.reset();
        Ok(())
    }
}

fn format_of(name: &[u8]) -> Format {
    match name.to_ascii_lowercase().as_slice() {
        b"parquet" => Format::Parquet,
        b"puffin" => Format::Puffin,
        b"avro" => Format::Avro,
        b"orc" => Format::Orc,
        _ => Format::Other,
    }
}

/// Returns the offsets if they ascend within the file, and none otherwise: some writers have left wrong ones.
fn plausible_offsets(offsets: &[i64], size_bytes: u64) -> impl Iterator<Item = u64> {
    let valid = offsets.is_sorted_by(|a, b| a < b)
        && offsets.first().is_none_or(|first| *first >= 0)
        && offsets.last().is_none_or(|last| (*last as u64) < size_bytes);
    let offsets = if valid { offsets } else { &[] };
    offsets.iter().map(|offset| *offset as u64)
}

fn small(place: usize) -> Result<u32, AvroFault> {
    // The largest number stands for "nowhere".
    let place = u32::try_from(place).ok().filter(|place| *place < u32::MAX);
    place.ok_or_else(|| AvroFault::Invalid("it holds more than 4 GiB".to_owned()))
}

fn append(heap: &mut Vec<u8>, bytes: &[u8]) -> Result<Span, AvroFault> {
    let start = small(heap.len())?;
    let end = small(heap.len() + bytes.len())?;
    heap.extend_from_slice(bytes);
    Ok(Span { start, end })
}

fn extend<T>(list: &mut Vec<T>, items: impl Iterator<Item = T>) -> Result<Span, AvroFault> {
    let start = small(list.len())?;
    list.extend(items);
    Ok(Span { start, end: small(list.len())? })
}
