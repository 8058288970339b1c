//! Methods that the planner's operators over one input have alike.

/// Writes the methods of `ExecutionPlan` that operators over the plan in a field share: they have no expressions, and the statistics of their input.
/// The second argument makes the operator over another plan.
macro_rules! over_one_input {
    ($input:ident, $over:expr) => {
        fn name(&self) -> &'static str {
            <Self as datafusion::physical_plan::ExecutionPlan>::static_name()
        }

        fn children(&self) -> Vec<&std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>> {
            vec![&self.$input]
        }

        fn apply_expressions(
            &self,
            _: &mut dyn FnMut(
                &std::sync::Arc<dyn datafusion::physical_plan::PhysicalExpr>,
            ) -> datafusion::common::Result<datafusion::common::tree_node::TreeNodeRecursion>,
        ) -> datafusion::common::Result<datafusion::common::tree_node::TreeNodeRecursion> {
            Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
        }

        fn with_new_children(
            self: std::sync::Arc<Self>,
            mut children: Vec<std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>>,
        ) -> datafusion::common::Result<std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>> {
            let over: fn(&Self, std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>) -> Self = $over;
            let input = children.pop().ok_or_else(crate::planner::forwarding::without_input)?;
            Ok(std::sync::Arc::new(over(&self, input)))
        }

        fn statistics_from_inputs(
            &self,
            inputs: &[std::sync::Arc<datafusion::common::Statistics>],
            _: &datafusion::physical_plan::statistics::StatisticsArgs,
        ) -> datafusion::common::Result<std::sync::Arc<datafusion::common::Statistics>> {
            inputs.first().cloned().ok_or_else(crate::planner::forwarding::without_input)
        }
    };
}
pub(crate) use over_one_input;

/// Writes the methods of `ExecutionPlan` that marks over the plan in a field share beside these: a mark gives its rows as they are.
macro_rules! rows_of_input {
    ($input:ident) => {
        fn properties(&self) -> &std::sync::Arc<datafusion::physical_plan::PlanProperties> {
            self.$input.properties()
        }

        fn execute(
            &self,
            partition: usize,
            context: std::sync::Arc<datafusion::execution::TaskContext>,
        ) -> datafusion::common::Result<datafusion::execution::SendableRecordBatchStream> {
            self.$input.execute(partition, context)
        }
    };
}
pub(crate) use rows_of_input;

/// Makes the error of an operator that was to be made without an input.
pub(crate) fn without_input() -> datafusion::common::DataFusionError {
    datafusion::common::DataFusionError::Internal("an operator over one input has none".to_owned())
}
