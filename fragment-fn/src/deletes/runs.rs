//! Vectors of a digest that lie side by side: a reader of all of them sends one request.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use gust_protocol::{AccessId, DeleteContent, DeleteFile};

use super::shared::Shared;

/// Longest run, in bytes. It is held until the last of its vectors was decoded.
const RUN_BYTES_MAX: u64 = 4 << 20;

/// Vectors of an object in the exchange, by the numbers of their delete files.
#[derive(Debug, Default)]
pub(super) struct VectorRuns {
    runs: Vec<VectorRun>,
    of: HashMap<u32, usize>,
}

/// Neighbouring vectors.
#[derive(Debug)]
pub(super) struct VectorRun {
    range: Range<u64>,
    read: Shared<HeldBytes>,
}

/// Bytes, and the memory that they take.
#[derive(Debug)]
pub(super) struct HeldBytes {
    pub(super) bytes: Bytes,
    _memory: MemoryReservation,
}

impl HeldBytes {
    pub(super) fn new(bytes: Bytes, memory: MemoryReservation) -> Self {
        Self { bytes, _memory: memory }
    }

    /// Returns the bytes. Their memory is held until the last part of them is dropped.
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl VectorRuns {
    /// Finds the runs of vectors in the store `exchange`, over gaps of at most `bridge_bytes`. Parts that their object does not have are left out.
    pub(super) fn of(files: &[DeleteFile], exchange: AccessId, bridge_bytes: u64) -> Self {
        let vector = |(number, file): (u32, &'_ DeleteFile)| match file.content {
            DeleteContent::Vector { offset, bytes, .. } if file.file.access == exchange => {
                let end = offset.checked_add(bytes).filter(|end| *end <= file.file.size_bytes)?;
                Some((number, offset..end))
            }
            _ => None,
        };
        let mut vectors: Vec<(&str, u32, Range<u64>)> = (0..)
            .zip(files)
            .filter_map(|(number, file)| {
                vector((number, file)).map(|(number, range)| (&*file.file.path, number, range))
            })
            .collect();
        vectors.sort_by(|a, b| (a.0, a.2.start).cmp(&(b.0, b.2.start)));
        let (mut found, mut last) = (Self::default(), None);
        for (path, number, range) in vectors {
            let joined = found.runs.last_mut().filter(|run| last == Some(path) && run.takes(&range, bridge_bytes));
            match joined {
                Some(run) => run.range.end = run.range.end.max(range.end),
                None => found.runs.push(VectorRun { range, read: Shared::default() }),
            }
            last = Some(path);
            if let Some(run) = found.runs.last() {
                run.read.announce();
                found.of.insert(number, found.runs.len() - 1);
            }
        }
        found
    }

    /// Returns the run of a vector. None for one outside of the exchange.
    pub(super) fn run(&self, number: u32) -> Option<&VectorRun> {
        self.runs.get(*self.of.get(&number)?)
    }
}

impl VectorRun {
    fn takes(&self, next: &Range<u64>, bridge_bytes: u64) -> bool {
        let (gap, length) = (next.start.saturating_sub(self.range.end), next.end - self.range.start);
        gap <= bridge_bytes && length <= RUN_BYTES_MAX
    }

    /// Returns the bytes of one of its vectors. `read` reads the whole run, for the first of them.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) async fn part<F>(&self, part: Range<u64>, read: impl FnOnce(Range<u64>) -> F) -> Result<Bytes>
    where
        F: Future<Output = Result<HeldBytes>>,
    {
        let held = self.read.get(read(self.range.clone())).await?;
        let at = |offset: u64| (offset - self.range.start) as usize;
        Ok(held.bytes.slice(at(part.start)..at(part.end)))
    }
}

#[cfg(test)]
mod tests {
    use gust_protocol::ObjectRef;

    use super::*;

    #[test]
    fn neighbours_of_one_object_are_read_together() {
        const MIB: u64 = 1 << 20;
        let vector = |path: &str, access, offset, bytes| DeleteFile {
            file: ObjectRef { access, path: path.to_owned(), size_bytes: 9 * MIB, etag: None, footer_bytes: None },
            content: DeleteContent::Vector { offset, bytes, cardinality: 1 },
        };
        let files = [
            vector("d", 0, 20, 10),
            vector("d", 1, 0, 20),
            vector("d", 0, 0, 20),
            vector("d", 0, 30 + MIB, 5),
            // Too far away, another object, and no part of it.
            vector("d", 0, 36 + 2 * MIB, 5),
            vector("e", 0, 35, 5),
            vector("e", 0, 9 * MIB, 1),
            // Too long for the run before.
            vector("e", 0, 41, 4 * MIB),
        ];
        let runs = VectorRuns::of(&files, 0, MIB);
        let range = |number| runs.run(number).map(|run| run.range.clone());
        let first = Some(0..35 + MIB);
        assert_eq!([range(0), range(2), range(3)], [first.clone(), first.clone(), first]);
        assert_eq!(range(4), Some(36 + 2 * MIB..41 + 2 * MIB));
        assert_eq!([range(1), range(6)], [None, None]);
        assert_eq!([range(5), range(7)], [Some(35..40), Some(41..41 + 4 * MIB)]);
    }
}
