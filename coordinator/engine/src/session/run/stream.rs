//! Computes the rows of a physical plan in a task of its own, and reads ahead for it.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use fragment_fn::ahead::{AheadAccount, ReadAhead, attach};
use fragment_fn::panic_message;
use futures::{FutureExt, StreamExt};
use tracing::Instrument;

use super::computing::{Computing, counted};
use super::interrupt::Dropped;
use crate::error::QueryError;
use crate::memory::QueryPool;
use crate::model::ahead_bounds_here;
use crate::planner::passes::tails::{PART_BYTES_MIN, with_short_tails};
use crate::session::Engine;
use crate::tables::reading::Readers;

/// Plan that has begun.
pub(super) struct Started {
    pub(super) rows: SendableRecordBatchStream,
    /// Plan as it runs, whose operators count.
    pub(super) plan: Arc<dyn ExecutionPlan>,
}

/// Starts a plan in a task of its own. An operator that computes for minutes without a pause then holds up no time-out.
/// `account` is told for how long readers wait, and what becomes of the bytes that are read ahead. `computing` has the tasks that compute.
pub(super) fn start(
    engine: &Engine,
    plan: Arc<dyn ExecutionPlan>,
    context: TaskContext,
    account: &Arc<AheadAccount>,
    computing: &Computing,
) -> Result<Started, QueryError> {
    let mut rows = RecordBatchReceiverStream::builder(plan.schema(), 2);
    let sender = rows.tx();
    let ahead = read_ahead(engine, &context, account);
    let mut readers = Readers::new(&context, &engine.stores);
    let options = context.session_config().options();
    let late = engine.config.late_columns();
    let footers = context.runtime_env().cache_manager.get_file_metadata_cache();
    let plan = with_short_tails(plan, footers.as_ref(), options, PART_BYTES_MIN).map_err(QueryError::from_engine)?;
    let plan = attach(plan, options, account, ahead.as_ref(), late, &mut |_, scan| readers.reader(scan));
    let dropped = Dropped::default();
    let plan = plan.and_then(|plan| dropped.watch(plan)).map_err(QueryError::from_engine)?;
    if let Some(ahead) = &ahead {
        ahead.start();
    }
    let mut stream =
        counted(computing, || execute_stream(Arc::clone(&plan), Arc::new(context))).map_err(QueryError::from_engine)?;
    let running = async move {
        // It ends with the rows, also where they are not read to their end, and is dropped before the stream.
        let reading = ahead;
        while let Some(batch) = AssertUnwindSafe(stream.next())
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Some(Err(panicked(&*panic).into())))
        {
            // A stream is not asked again after an error, for some operators then panic.
            let failed = batch.is_err();
            if sender.send(batch).await.is_err() || failed {
                return Ok(());
            }
        }
        if let Some(reading) = reading {
            reading.finish();
        }
        Ok(())
    };
    counted(computing, || rows.spawn(running.in_current_span()));
    Ok(Started { rows: dropped.set_with(rows.build()), plan })
}

/// Opens the reading ahead of a plan; None if it is turned off.
fn read_ahead(engine: &Engine, context: &TaskContext, account: &Arc<AheadAccount>) -> Option<ReadAhead> {
    let runtime = context.runtime_env();
    let pool = &runtime.memory_pool;
    let mut bounds = engine.reading().bounds();
    if let MemoryLimit::Finite(bytes) = pool.memory_limit() {
        bounds = ahead_bounds_here(bounds, bytes as u64);
    }
    if bounds.is_off() {
        return None;
    }
    let ahead = engine.reading().query(bounds, pool, Arc::clone(account));
    if let Some(pool) = pool.downcast_ref::<QueryPool>() {
        pool.yields(ahead.giver());
    }
    Some(ahead)
}

/// Makes the error of a panic of the engine, which ends its statement alone.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> QueryError {
    QueryError::data(format!("the engine panicked: {}", panic_message(panic)))
        .with_hint("this is a fault of gust's, not of the statement; a report of it is welcome")
}
