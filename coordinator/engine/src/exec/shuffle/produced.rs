//! Rows of a stage by partition, when all of its fragments have ended: one attempt of each is read, until its rows are lost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use futures::TryStreamExt;
use futures::future::try_join_all;
use gust_protocol::exchange::{ResultKey, result_at};
use gust_protocol::parts::{LaneSlices, Regions, Slice};
use gust_protocol::{Base64, FragmentId, FragmentResult, LostInput, PartsPlace, StreamSummary};
use object_store::path::Path;

use super::{PartsWork, ReceivedParts, SLICE_BYTES};
use crate::events::{EventLog, QueryEvent};
use crate::exec::query::QueryContext;
use crate::exec::result_memory::ResultReservation;
use crate::exec::run::{FragmentAnswer, refused, with_inputs};
use crate::planner::Stage;
use crate::planner::lanes::LaneParts;
use crate::scheduler::{AttemptResult, FragmentAttempts};

/// Rows of one attempt, by partition.
struct PartedRows {
    attempt: u32,
    regions: Regions,
    /// Offset of each region, and the end of the last.
    offsets: Vec<u64>,
    /// The bytes, where they came with the response.
    inline: Option<Bytes>,
}

impl PartedRows {
    /// Takes an answer of a fragment apart, and verifies it. What is not as it says is refused, and the fragment runs again.
    async fn of(
        attempts: &mut FragmentAttempts,
        mut adopted: AttemptResult,
        partitions: usize,
        received: Option<&ReceivedParts>,
        query: &QueryContext,
    ) -> Result<Self> {
        loop {
            let reason = match Self::verified(adopted, partitions) {
                Ok(rows) => return Ok(rows),
                Err(reason) => reason,
            };
            let reason = format!("rows by partition of fragment {}: {reason}: refused", attempts.id());
            adopted = refused(attempts, reason, received, query).await?;
        }
    }

    fn verified(AttemptResult { result, attempt }: AttemptResult, partitions: usize) -> Result<Self, String> {
        let FragmentResult::Parts { place, part, regions } = result else {
            return Err("they are not parted".to_owned());
        };
        let regions = Regions::decode(&regions)?;
        if regions.0.len() != partitions || regions.whole() != part {
            return Err(format!("{} partitions of {partitions}, or other sums than theirs", regions.0.len()));
        }
        let inline = match place {
            PartsPlace::Inline(Base64(bytes)) => Some(bytes),
            PartsPlace::Object(_) => None,
        };
        let holds = |bytes: &Bytes| bytes.len() as u64 == part.bytes && crc32fast::hash(bytes) == part.crc32;
        if !inline.as_ref().is_none_or(holds) {
            return Err("they do not match their checksum".to_owned());
        }
        let ends = regions.0.iter().scan(0, |end, region| {
            *end += region.bytes;
            Some(*end)
        });
        let offsets = std::iter::once(0).chain(ends).collect();
        Ok(Self { attempt, regions, offsets, inline })
    }

    fn bytes(&self) -> u64 {
        self.offsets.last().copied().unwrap_or_default()
    }

    fn bytes_of(&self, partitions: &Range<usize>) -> u64 {
        self.offsets[partitions.end] - self.offsets[partitions.start]
    }

    /// Returns the slice of a run of partitions. None where they have no rows.
    fn slice(&self, id: &FragmentId, partitions: &Range<usize>) -> Option<Slice> {
        let start = self.offsets[partitions.start];
        let StreamSummary { bytes, rows, crc32 } = self.regions.summary(partitions.clone());
        let inline = self.inline.as_ref().map(|inline| inline.slice(start as usize..(start + bytes) as usize));
        let (stage, index, attempt) = (id.stage, id.index, self.attempt);
        (bytes > 0).then_some(Slice { stage, index, attempt, start, bytes, rows, crc32, inline })
    }

    /// Returns the bytes that came with the response.
    fn inline_bytes(&self) -> u64 {
        self.inline.as_ref().map_or(0, |inline| inline.len() as u64)
    }
}

/// Fragment that leaves rows for others.
struct ProducedFragment {
    id: FragmentId,
    /// Rows of the one attempt that is read.
    rows: Mutex<Arc<PartedRows>>,
    /// Attempts of the fragment, for other rows if these are lost.
    attempts: tokio::sync::Mutex<FragmentAttempts>,
    /// Memory of rows that came with the response.
    _held: ResultReservation,
}

impl ProducedFragment {
    fn rows(&self) -> Arc<PartedRows> {
        Arc::clone(&self.rows.lock().expect("no holder panics"))
    }

    /// Runs the fragment again, unless another reader has had that done. Rows of other stages that are lost by then are made anew before.
    async fn restore(&self, lost: &LostInput, of: &Produced, query: &QueryContext) -> Result<()> {
        let mut attempts = self.attempts.lock().await;
        if self.rows().attempt != lost.attempt {
            return Ok(());
        }
        let (received, events) = (of.received.as_deref(), query.attempts.events());
        let again = attempts.restore(lost.to_string()).await;
        let adopted = with_inputs(again, &mut attempts, received, query).await?;
        let rows = PartedRows::of(&mut attempts, adopted, of.partitions, received, query).await?;
        events.push(QueryEvent::RowsRestored {
            id: self.id.clone(),
            lost: lost.attempt,
            attempt: rows.attempt,
            result_bytes: rows.inline_bytes(),
        });
        *self.rows.lock().expect("no holder panics") = Arc::new(rows);
        Ok(())
    }
}

/// Answer to a reader whose rows are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restored {
    /// They are made anew for this reader.
    Now,
    /// Another reader has had them made anew.
    ByAnother,
    /// Another attempt would part its rows in another way: then its rows and those that others have read would be of two answers.
    Refused,
}

/// Objects of a stage's rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Objects {
    pub(super) count: usize,
    pub(super) bytes: u64,
}

/// Rows of a stage, by partition.
pub(super) struct Produced {
    pub(super) stage: u32,
    fragments: Vec<ProducedFragment>,
    partitions: usize,
    /// True if another attempt of a fragment gives the same rows to each partition.
    is_determinate: bool,
    /// Rows that the stage itself reads. None where it reads files.
    received: Option<Arc<ReceivedParts>>,
    /// Bytes of each partition.
    pub(super) weights: Vec<u64>,
    /// Held by the reader that makes rows anew.
    restoring: tokio::sync::Mutex<()>,
    /// Memory of the summaries of all regions.
    _held: MemoryReservation,
}

impl Produced {
    /// Takes one answer of each fragment of a stage.
    ///
    /// # Errors
    /// The failure of a fragment whose rows are not as it says, and the pool's where there is no memory for the summaries.
    pub(super) async fn of(
        stage: &Stage,
        partitions: usize,
        answers: Vec<FragmentAnswer>,
        received: Option<Arc<ReceivedParts>>,
        query: &QueryContext,
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<Self> {
        let held = MemoryConsumer::new(format!("places of the rows of stage {}", stage.index)).register(pool);
        let (mut fragments, mut weights) = (Vec::with_capacity(answers.len()), vec![0; partitions]);
        for FragmentAnswer { adopted, mut attempts, inline, .. } in answers {
            held.try_grow(partitions * (size_of::<StreamSummary>() + size_of::<u64>()))?;
            let id = attempts.id().clone();
            let rows = PartedRows::of(&mut attempts, adopted, partitions, received.as_deref(), query).await?;
            weights.iter_mut().zip(&rows.regions.0).for_each(|(weight, region)| *weight += region.bytes);
            let (rows, attempts) = (Mutex::new(Arc::new(rows)), tokio::sync::Mutex::new(attempts));
            fragments.push(ProducedFragment { id, rows, attempts, _held: inline });
        }
        fragments.sort_by_key(|fragment| fragment.id.index);
        Ok(Self {
            stage: stage.index,
            fragments,
            partitions,
            is_determinate: stage.shuffle.is_determinate,
            received,
            weights,
            restoring: tokio::sync::Mutex::default(),
            _held: held,
        })
    }

    /// Counts the objects that have rows, and their bytes.
    pub(super) fn objects(&self) -> Objects {
        let mut objects = Objects::default();
        for rows in self.fragments.iter().map(ProducedFragment::rows) {
            if rows.inline.is_none() && rows.bytes() > 0 {
                objects.count += 1;
                objects.bytes += rows.bytes();
            }
        }
        objects
    }

    /// Returns the bytes of all rows.
    pub(super) fn bytes(&self) -> u64 {
        self.weights.iter().sum()
    }

    /// Tells that all rows are there.
    pub(super) fn note(&self, events: &EventLog) {
        let (mut objects, mut bytes) = (0, 0);
        for fragment in &self.fragments {
            let rows = fragment.rows();
            objects += u64::from(rows.inline.is_none());
            bytes += rows.bytes();
            // The coordinator reads no object of it. Bytes that came with the response go out again.
            events.push(QueryEvent::FragmentAdopted {
                id: fragment.id.clone(),
                attempt: rows.attempt,
                rows: rows.regions.whole().rows,
                result_bytes: rows.inline_bytes(),
                inline: true,
                read: Duration::ZERO,
            });
        }
        let (stage, partitions) = (self.stage, self.partitions as u64);
        events.push(QueryEvent::RowsParted { stage, partitions, objects, bytes });
    }

    /// Lists the producers that a lane reads, where these rows are those of the leaf of this number.
    fn read_by(&self, lane: &LaneParts, leaf: usize) -> &[ProducedFragment] {
        let some = lane.producers(leaf).and_then(|producers| self.fragments.get(producers.clone()));
        some.unwrap_or(&self.fragments)
    }

    /// Returns the slices of a lane, where these rows are those of the leaf of this number. Producers without rows for it are left out.
    pub(super) fn slices(&self, lane: &LaneParts, leaf: usize) -> LaneSlices {
        let slice = |fragment: &ProducedFragment| fragment.rows().slice(&fragment.id, &lane.partitions);
        LaneSlices { slices: self.read_by(lane, leaf).iter().filter_map(slice).collect() }
    }

    /// Returns the bytes of a lane, where these rows are those of the leaf of this number.
    pub(super) fn bytes_of(&self, lane: &LaneParts, leaf: usize) -> u64 {
        let bytes = |fragment: &ProducedFragment| fragment.rows().bytes_of(&lane.partitions);
        self.read_by(lane, leaf).iter().map(bytes).sum()
    }

    /// Lists the bytes of some neighbouring partitions by the producers of their rows.
    pub(super) fn bytes_by_producer(&self, partitions: &Range<usize>) -> Vec<u64> {
        self.fragments.iter().map(|fragment| fragment.rows().bytes_of(partitions)).collect()
    }

    /// Adds the work of a lane, where these rows are those of the leaf of this number.
    pub(super) fn add_work(&self, lane: &LaneParts, leaf: usize, work: &mut PartsWork) {
        for rows in self.read_by(lane, leaf).iter().map(ProducedFragment::rows) {
            match rows.bytes_of(&lane.partitions) {
                0 => continue,
                bytes if rows.inline.is_some() => work.inline_bytes += bytes,
                bytes => (work.reads, work.bytes) = (work.reads + 1, work.bytes + bytes),
            }
            work.slice_bytes += SLICE_BYTES;
        }
    }

    /// Makes rows anew that a reader has lost, and all others of the stage that are gone, too.
    ///
    /// # Errors
    /// The failure of a fragment.
    pub(super) async fn restore(&self, lost: &LostInput, query: &QueryContext) -> Result<Restored> {
        let named = self.fragments.iter().find(|fragment| fragment.id.index == lost.index);
        let Some(named) = named.filter(|_| self.is_determinate) else { return Ok(Restored::Refused) };
        let _one_at_a_time = self.restoring.lock().await;
        if named.rows().attempt != lost.attempt {
            return Ok(Restored::ByAnother);
        }
        let gone = self.gone(query).await;
        let others = gone.iter().filter(|(fragment, _)| fragment.id != named.id);
        let all = others.map(|(fragment, gone)| (*fragment, gone)).chain([(named, lost)]);
        self.restore_all(all, query).await?;
        Ok(Restored::Now)
    }

    /// Makes rows anew whose objects are gone.
    ///
    /// # Errors
    /// The failure of a fragment.
    pub(super) async fn restore_gone(&self, query: &QueryContext) -> Result<()> {
        if !self.is_determinate {
            return Ok(());
        }
        let _one_at_a_time = self.restoring.lock().await;
        let gone = self.gone(query).await;
        self.restore_all(gone.iter().map(|(fragment, gone)| (*fragment, gone)), query).await
    }

    async fn restore_all<'a>(
        &self,
        lost: impl Iterator<Item = (&'a ProducedFragment, &'a LostInput)>,
        query: &QueryContext,
    ) -> Result<()> {
        try_join_all(lost.map(|(fragment, lost)| fragment.restore(lost, self, query))).await.map(drop)
    }

    /// Lists the fragments whose objects are not there, or have another length. None where the store does not tell.
    async fn gone(&self, query: &QueryContext) -> Vec<(&ProducedFragment, LostInput)> {
        let prefix = &query.exchange.prefix;
        let folder = Path::parse(prefix).unwrap_or_default();
        let folder: Path = folder.parts().chain(Path::from(format!("{}/{}", query.id, self.stage)).parts()).collect();
        let listed = query.exchange.store.list(Some(&folder)).try_collect::<Vec<_>>().await;
        let Ok(listed) = listed else { return Vec::new() };
        let sizes = listed.iter().filter_map(|object| {
            let ResultKey { fragment, attempt } = result_at(prefix, &object.location)?;
            Some(((fragment.index, attempt), object.size))
        });
        let sizes: BTreeMap<(u32, u32), u64> = sizes.collect();
        let gone = self.fragments.iter().filter_map(|fragment| {
            let (id, rows) = (&fragment.id, fragment.rows());
            let (bytes, attempt) = (rows.bytes(), rows.attempt);
            let reason = match sizes.get(&(id.index, attempt)) {
                _ if rows.inline.is_some() => return None,
                Some(size) if *size == bytes => return None,
                Some(size) => format!("the object has {size} of {bytes} bytes"),
                None => "the object is gone".to_owned(),
            };
            Some((fragment, LostInput { stage: id.stage, index: id.index, attempt, reason }))
        });
        gone.collect()
    }
}
