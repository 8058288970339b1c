//! Identities of expressions on the wire. A filter that a join fills and a scan applies is one expression, and arrives as one.
//!
//! DataFusion counts such expressions over the life of a process. On the wire they are counted in each plan, so that a plan has the same bytes wherever
//! and whenever it is encoded: work that another coordinator has done is found by them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::Result;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use datafusion_proto::physical_plan::to_proto::serialize_physical_expr_with_converter;
use datafusion_proto::physical_plan::{
    DeduplicatingProtoConverter, PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt,
    PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::{PhysicalExprNode, PhysicalPlanNode};

/// Converter of one plan that counts identities by their first places in it.
#[derive(Default)]
pub(super) struct CountedIdentities {
    /// Counts by DataFusion's.
    known: RefCell<HashMap<u64, u64>>,
}

impl PhysicalProtoConverterExtension for CountedIdentities {
    fn proto_to_execution_plan(
        &self,
        proto: &PhysicalPlanNode,
        context: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        DeduplicatingProtoConverter {}.proto_to_execution_plan(proto, context)
    }

    fn execution_plan_to_proto(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalPlanNode> {
        PhysicalPlanNode::try_from_physical_plan_with_converter(Arc::clone(plan), codec, self)
    }

    fn proto_to_physical_expr(
        &self,
        proto: &PhysicalExprNode,
        schema: &Schema,
        context: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        DeduplicatingProtoConverter {}.proto_to_physical_expr(proto, schema, context)
    }

    fn physical_expr_to_proto(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        codec: &dyn PhysicalExtensionCodec,
    ) -> Result<PhysicalExprNode> {
        let mut node = serialize_physical_expr_with_converter(expr, codec, self)?;
        node.expr_id = node.expr_id.map(|id| {
            let mut known = self.known.borrow_mut();
            let next = known.len() as u64;
            *known.entry(id).or_insert(next)
        });
        Ok(node)
    }
}
