//! Rows of a statement that stay in the exchange for its client. Where nothing but a gather is left above the functions, nobody reads
//! them here. Else the caller writes the rows that it is handed.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;

use super::RunningStatement;
use crate::error::QueryError;
use crate::exchange::{Kept, KeptPart, PartWriter};
use crate::exec::RemoteFragmentExec;
use crate::session::Statement;

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
        let kept = self.kept.take()?;
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

    /// Returns the bytes of the objects that functions have left until now. None where the rows are returned.
    pub fn kept_bytes(&self) -> Option<u64> {
        let kept = self.kept.as_ref()?.lock().expect("no holder panics");
        Some(kept.as_ref()?.bytes())
    }

    /// Returns the number of rows in the objects that functions have left until now.
    pub(super) fn kept_rows(&self) -> u64 {
        let rows = |kept: &Option<Kept>| kept.as_ref().map_or(0, Kept::rows);
        self.kept.as_ref().map_or(0, |kept| rows(&kept.lock().expect("no holder panics")))
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
