//! Way of an attempt's rows: to the coordinator, or to functions of another stage.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::exchange::{COMPRESSION, ResultTarget, ResultWriter};
use gust_protocol::{FragmentError, FragmentErrorKind, FragmentResult, Output};

use crate::classify::classify_write;
use crate::parts::{PartedPlan, PartsWriter};

/// Writer of an attempt's rows.
pub(crate) enum RowsWriter {
    Gathered(Box<ResultWriter>),
    Parts(Box<PartsWriter>),
}

impl RowsWriter {
    /// Opens the writer of a plan's rows. Returns with it the plan to run.
    pub(crate) fn open(
        output: &Output,
        plan: Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
        inline_bytes_max: u64,
        target: ResultTarget,
    ) -> Result<(Arc<dyn ExecutionPlan>, Self), FragmentError> {
        match output {
            Output::Gather { .. } => {
                let writer = ResultWriter::new(&plan.schema(), COMPRESSION, inline_bytes_max, target);
                Ok((plan, Self::Gathered(Box::new(writer.map_err(|e| classify_write(&e))?))))
            }
            Output::Parts { partitions, .. } => {
                let parted = PartedPlan::of(&plan, *partitions)
                    .map_err(|e| FragmentError::new(FragmentErrorKind::PlanDecode, e.strip_backtrace()))?;
                let plan = Arc::clone(&parted.input);
                Ok((plan, Self::Parts(Box::new(PartsWriter::new(parted, context, inline_bytes_max, target)))))
            }
        }
    }

    pub(crate) async fn write(&mut self, batch: RecordBatch) -> Result<(), FragmentError> {
        match self {
            Self::Gathered(writer) => writer.write(&batch).await.map_err(|e| classify_write(&e)),
            Self::Parts(writer) => writer.write(batch),
        }
    }

    pub(crate) async fn finish(self) -> Result<FragmentResult, FragmentError> {
        match self {
            Self::Gathered(writer) => writer.finish().await.map_err(|e| classify_write(&e)),
            Self::Parts(mut writer) => writer.finish().await,
        }
    }

    /// Aborts a begun upload. Rows by partition begin theirs at their end.
    pub(crate) async fn abort(self) {
        match self {
            Self::Gathered(writer) => writer.abort().await,
            Self::Parts(_) => {}
        }
    }

    /// Returns the bytes of rows that wait in a temporary file.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        match self {
            Self::Gathered(_) => 0,
            Self::Parts(writer) => writer.spilled_bytes(),
        }
    }
}
