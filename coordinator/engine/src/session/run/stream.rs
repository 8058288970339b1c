//! Computes the rows of a physical plan in a task of its own.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use fragment_fn::{naming_files, panic_message};
use futures::{FutureExt, StreamExt};
use tracing::Instrument;

use crate::error::QueryError;

/// Starts a plan in a task of its own. An operator that computes for minutes without a pause then holds up no time-out.
pub(super) fn start(
    plan: Arc<dyn ExecutionPlan>,
    context: TaskContext,
) -> Result<SendableRecordBatchStream, QueryError> {
    let mut rows = RecordBatchReceiverStream::builder(plan.schema(), 2);
    let sender = rows.tx();
    let plan = naming_files(plan).map_err(QueryError::from_engine)?;
    let mut stream = execute_stream(plan, Arc::new(context)).map_err(QueryError::from_engine)?;
    let running = async move {
        while let Some(batch) = AssertUnwindSafe(stream.next())
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Some(Err(panicked(&*panic).into())))
        {
            // A stream is not asked again after an error, for some operators then panic.
            let failed = batch.is_err();
            if sender.send(batch).await.is_err() || failed {
                break;
            }
        }
        Ok(())
    };
    rows.spawn(running.in_current_span());
    Ok(rows.build())
}

/// Makes the error of a panic of the engine, which ends its statement alone.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> QueryError {
    QueryError::data(format!("the engine panicked: {}", panic_message(panic)))
        .with_hint("this is a fault of gust's, not of the statement; a report of it is welcome")
}
