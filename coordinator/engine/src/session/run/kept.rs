//! Rows of a statement that stay in the exchange for its client. Where nothing but a gather is left above the functions, nobody reads
//! them here. Else the caller writes the rows that it is handed.

use std::sync::{Arc, Mutex};

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;

use super::RunningStatement;
use crate::error::QueryError;
use crate::exchange::{Kept, KeptPart, KeptParts, PartWriter};
use crate::exec::RemoteFragmentExec;
use crate::session::Statement;

/// Objects that functions leave of a statement in all its runs.
#[derive(Debug, Default)]
pub(super) struct KeptRuns {
    /// Those of the run under way. None where its rows are returned.
    current: Option<KeptParts>,
    /// Those of runs that were given up, of which tasks may note some more. They are there until all objects of the statement are removed.
    given_up: Vec<KeptParts>,
}

impl KeptRuns {
    /// Begins a run whose functions leave its rows, and returns the place where their objects are noted.
    pub(super) fn begin(&mut self) -> KeptParts {
        self.give_up();
        let kept = Arc::new(Mutex::new(Some(Kept::default())));
        self.current = Some(Arc::clone(&kept));
        kept
    }

    /// Gives the run under way up. The rows of one that follows are returned, unless it is begun here.
    pub(super) fn give_up(&mut self) {
        self.given_up.extend(self.current.take());
    }

    fn of_current<T>(&self, of: impl FnOnce(&Kept) -> T) -> Option<T> {
        let kept = self.current.as_ref()?.lock().expect("no holder panics");
        kept.as_ref().map(of)
    }

    fn bytes(&self) -> u64 {
        let bytes = |kept: &KeptParts| kept.lock().expect("no holder panics").as_ref().map_or(0, Kept::bytes);
        self.given_up.iter().chain(&self.current).map(bytes).sum()
    }
}

impl Statement {
    /// Returns the same statement, whose rows are to stay in the exchange, with plain types. Of a query that functions answer alone
    /// [`RunningStatement::next`] then returns a batch without rows for each fragment that has ended, and [`RunningStatement::take_kept`] has
    /// the objects.
    #[must_use]
    pub fn with_kept_rows(self) -> Self {
        Self { keeps_rows: true, ..self }
    }
}

impl RunningStatement {
    /// Returns the objects in which functions have left the rows, after the end of these. None where the rows were returned.
    pub fn take_kept(&mut self) -> Option<Vec<KeptPart>> {
        let kept = self.kept.current.take()?;
        let mut parts = kept.lock().expect("no holder panics");
        parts.take().map(Kept::into_parts)
    }

    /// Returns a writer of rows into the exchange, whose requests are the statement's.
    ///
    /// # Errors
    /// Those of the exchange's store.
    pub fn part_writer(&self, schema: SchemaRef) -> Result<PartWriter, QueryError> {
        let exchange = self.session.exchange().through(&self.session.stores).map_err(QueryError::from_engine)?;
        Ok(PartWriter::new(exchange, &self.id, schema))
    }

    /// Tells if functions leave the rows of the run under way. Else the rows are returned.
    pub fn has_kept_rows(&self) -> bool {
        self.kept.of_current(|_| ()).is_some()
    }

    /// Returns the bytes of the objects that functions have left until now, those of runs that were given up among them.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.bytes()
    }

    /// Returns the number of rows in the objects that functions have left in the run under way until now.
    pub(super) fn kept_rows(&self) -> u64 {
        self.kept.of_current(Kept::rows).unwrap_or_default()
    }
}

/// Returns the leaf that makes all rows of a plan, if nothing but a gather stands above it and its columns have these names. Functions may do
/// joins and groups in it.
pub(super) fn gathered<'a>(plan: &'a Arc<dyn ExecutionPlan>, shown: &Schema) -> Option<&'a RemoteFragmentExec> {
    let mut below = plan;
    while let Some(gather) = below.downcast_ref::<CoalescePartitionsExec>().filter(|gather| gather.fetch().is_none()) {
        below = gather.input();
    }
    let leaf = below.downcast_ref::<RemoteFragmentExec>().filter(|leaf| leaf.is_gathered())?;
    let made = leaf.schema();
    let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    (names(&made) == names(shown)).then_some(leaf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leave(kept: &KeptParts, bytes: u64) {
        let part = KeptPart { path: format!("x/{bytes}"), rows: 1, bytes, crc32: 0 };
        kept.lock().expect("no holder panics").as_mut().expect("a run").push(part);
    }

    #[test]
    fn objects_of_runs_that_were_given_up_take_their_room() {
        let mut runs = KeptRuns::default();
        // Nobody looks at a run before its last object is there. It may have more bytes than the one before, or fewer.
        for (sizes, bytes) in [(vec![5, 4], 9), (vec![12], 21), (vec![], 21), (vec![2], 23)] {
            let kept = runs.begin();
            for size in &sizes {
                leave(&kept, *size);
            }
            assert_eq!((runs.bytes(), runs.of_current(Kept::rows)), (bytes, Some(sizes.len() as u64)), "{sizes:?}");
        }
        // Build sides of the last one are too large for functions: its rows are returned.
        *runs.begin().lock().expect("no holder panics") = None;
        assert_eq!((runs.bytes(), runs.of_current(Kept::rows)), (23, None));
        leave(&runs.begin(), 1);
        // It falls back.
        runs.give_up();
        assert_eq!((runs.bytes(), runs.of_current(Kept::rows)), (24, None));
    }
}
