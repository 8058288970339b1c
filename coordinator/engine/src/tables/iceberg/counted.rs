//! Number of rows that vectors leave, for a statement whose answer it may be.
//!
//! Manifests say how many positions a vector has. Nothing else looks at the vector where the number of rows is the answer, so that it is
//! read here and compared. No data file is read. Where the vectors are many, the number is an estimate, and the scan counts.

use datafusion::common::stats::Precision;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use fragment_fn::{DIGEST_READS_MAX, FileDeletes};
use futures::{StreamExt, TryStreamExt, stream};
use gust_catalog::DeleteContent;
use tokio::sync::Semaphore;

use super::plans::KeptPlan;

/// Most vectors that are read to plan.
const VECTORS_MAX: usize = 1024;
/// Most bytes of these vectors.
const VECTORS_BYTES_MAX: u64 = 32 << 20;

impl KeptPlan {
    /// Returns the statistics of a scan whose rows are counted, and nothing else. `files` are those of the plan. The vectors are read once a
    /// statement.
    ///
    /// # Errors
    /// Those of reading the vectors, and vectors that are not as their manifests say.
    pub(super) async fn counted(&self, files: &[PartitionedFile]) -> Result<Statistics> {
        if !are_few_vectors(self.files.deletes.iter().map(|file| &file.content)) {
            return Ok(self.statistics.clone());
        }
        let check = || async {
            let turns = &Semaphore::new(DIGEST_READS_MAX);
            let deletes = files.iter().filter_map(|file| file.extensions.get::<FileDeletes>());
            let checks = deletes.map(|deletes| deletes.check(turns)).collect::<Vec<_>>();
            stream::iter(checks).buffer_unordered(DIGEST_READS_MAX).try_collect::<()>().await
        };
        self.are_vectors_right.get_or_try_init(check).await?;
        let rows = self.statistics.num_rows.get_value().copied();
        Ok(Statistics { num_rows: rows.map_or(Precision::Absent, Precision::Exact), ..self.statistics.clone() })
    }
}

/// Returns true where a few vectors are the only deletes.
fn are_few_vectors<'a>(deletes: impl Iterator<Item = &'a DeleteContent>) -> bool {
    let (mut vectors, mut sum_bytes) = (0, 0_u64);
    for content in deletes {
        let DeleteContent::Vector { bytes, .. } = content else { return false };
        vectors += 1;
        sum_bytes = sum_bytes.saturating_add(*bytes);
    }
    (1..=VECTORS_MAX).contains(&vectors) && sum_bytes <= VECTORS_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_vectors_are_read_to_count() {
        let vector = DeleteContent::Vector { offset: 4, bytes: VECTORS_BYTES_MAX / 2 };
        let small = DeleteContent::Vector { offset: 4, bytes: 40 };
        let with = |contents: &[&DeleteContent]| are_few_vectors(contents.iter().copied());
        assert!(!with(&[]), "nothing is deleted");
        assert!(with(&[&vector, &vector]));
        assert!(!with(&[&vector, &vector, &small]));
        assert!(!with(&[&small, &DeleteContent::Positions]));
        assert!(with(&vec![&small; VECTORS_MAX]) && !with(&vec![&small; VECTORS_MAX + 1]));
    }
}
