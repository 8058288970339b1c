//! Plan codec: a physical plan whose scans have been emptied, as datafusion-proto bytes.
//!
//! The plan travels once a stage, the files travel with each fragment. The encoding loses facts about a scan, such as
//! etags and the matching of columns: these travel in [`crate::LeafSpec`] and [`crate::ScanUnit`]. [`decode`] hands each
//! placeholder to the caller, who rebuilds the scan.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result, ScalarValue, Statistics};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::physical_planning_context::{ScalarSubqueryResults, SubqueryIndex};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::bytes::physical_plan_to_bytes_with_proto_converter;
use datafusion_proto::physical_plan::{
    DeduplicatingProtoConverter, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::PhysicalPlanNode;
use prost::Message;

use crate::{Base64, LeafId};

mod check;
mod codec;
mod exchange_leaf;
mod identities;
mod parts_leaf;

pub use check::{Obstacle, encode_checked, loses_values};
pub use exchange_leaf::ExchangeExec;
pub use parts_leaf::{PartsExec, PartsLanes};

use codec::GustCodec;
use identities::CountedIdentities;

/// Encodes a fragment's plan without its files and statistics.
///
/// Does not prove that the plan arrives as it is: [`encode_checked`] does.
///
/// # Errors
/// Errors of datafusion-proto, where it cannot encode the plan.
pub fn encode(plan: &Arc<dyn ExecutionPlan>) -> Result<Bytes> {
    encode_emptied(emptied(plan)?)
}

fn emptied(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    for_each_scan(plan, &mut |_, scan| Ok(with_files(scan, vec![FileGroup::default()])))
}

fn encode_emptied(plan: Arc<dyn ExecutionPlan>) -> Result<Bytes> {
    physical_plan_to_bytes_with_proto_converter(plan, &GustCodec, &CountedIdentities::default())
}

/// Values and rows that come beside a fragment's plan.
#[derive(Clone, Copy, Default)]
pub struct Rows<'a> {
    /// Values of the scalar subqueries that the plan refers to by position. The coordinator has run them.
    pub scalars: &'a [Base64],
    /// Arrow IPC streams of the plan's [`ExchangeExec`]s, by their numbers.
    pub shared: &'a [Bytes],
    /// Rows of the plan's [`PartsExec`]s, by their numbers.
    pub parts: &'a [Arc<PartsLanes>],
}

/// Decodes a fragment's plan. `bind` turns each placeholder, by its position in a pre-order walk, into a real scan.
///
/// Every store that the scans name must be registered in `context` before.
///
/// # Errors
/// Those of datafusion-proto and of `bind`. [`DataFusionError::Plan`] where a leaf has no stream, or one of other columns.
pub fn decode(
    bytes: &[u8],
    context: &TaskContext,
    Rows { scalars, shared, parts }: Rows<'_>,
    bind: &mut dyn FnMut(LeafId, &FileScanConfig) -> Result<FileScanConfig>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let results = ScalarSubqueryResults::new(scalars.len());
    for (index, value) in scalars.iter().enumerate() {
        results.set(SubqueryIndex::new(index), decode_scalar(value)?)?;
    }
    let plan = decode_with(bytes, context, results)?;
    let with_rows = plan.transform_down(|node| {
        if let Some(leaf) = node.downcast_ref::<ExchangeExec>() {
            return Ok(Transformed::yes(Arc::new(leaf.with_stream(shared)?) as Arc<dyn ExecutionPlan>));
        }
        match node.downcast_ref::<PartsExec>() {
            Some(leaf) => Ok(Transformed::yes(Arc::new(leaf.with_lanes(parts)?) as Arc<dyn ExecutionPlan>)),
            None => Ok(Transformed::no(node)),
        }
    })?;
    for_each_scan(&with_rows.data, bind)
}

fn decode_with(bytes: &[u8], context: &TaskContext, scalars: ScalarSubqueryResults) -> Result<Arc<dyn ExecutionPlan>> {
    let node = PhysicalPlanNode::decode(bytes).map_err(|e| DataFusionError::External(Box::new(e)))?;
    let decoding = PhysicalPlanDecodeContext::new(context, &GustCodec).with_scalar_subquery_results(scalars);
    DeduplicatingProtoConverter {}.proto_to_execution_plan(&node, &decoding)
}

/// Encodes one value.
///
/// # Errors
/// A phrase that names the type, where the value cannot be decoded again or comes back as another.
pub fn encode_scalar(value: &ScalarValue) -> Result<Base64, Obstacle> {
    let obstacle = || format!("a value of type {} cannot travel to functions", value.data_type());
    let message = datafusion_proto::protobuf::ScalarValue::try_from(value).map_err(|_| obstacle())?;
    let encoded = Base64(message.encode_to_vec().into());
    match decode_scalar(&encoded) {
        Ok(decoded) if decoded == *value && decoded.data_type() == value.data_type() => Ok(encoded),
        _ => Err(obstacle()),
    }
}

pub fn decode_scalar(bytes: &Base64) -> Result<ScalarValue> {
    let message = datafusion_proto::protobuf::ScalarValue::decode(&*bytes.0)
        .map_err(|e| DataFusionError::External(Box::new(e)))?;
    Ok(ScalarValue::try_from(&message)?)
}

/// Lists the scans of a plan, in the order that numbers its leaves.
pub fn scans(plan: &Arc<dyn ExecutionPlan>) -> Vec<FileScanConfig> {
    let mut found = Vec::new();
    let visited = for_each_scan(plan, &mut |_, scan| {
        found.push(scan.clone());
        Ok(scan.clone())
    });
    debug_assert!(visited.is_ok(), "a visit that changes nothing cannot fail");
    found
}

/// Makes `scan` over other files, without the statistics of the old ones.
pub fn with_files(scan: &FileScanConfig, files: Vec<FileGroup>) -> FileScanConfig {
    let unknown = Statistics::new_unknown(scan.file_source().table_schema().table_schema());
    FileScanConfigBuilder::from(scan.clone()).with_file_groups(files).with_statistics(unknown).build()
}

fn for_each_scan(
    plan: &Arc<dyn ExecutionPlan>,
    rewrite: &mut dyn FnMut(LeafId, &FileScanConfig) -> Result<FileScanConfig>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut leaf: LeafId = 0;
    let rewritten = Arc::clone(plan).transform_down(|node| {
        let Some(scan) = file_scan(&node) else { return Ok(Transformed::no(node)) };
        let scan = rewrite(leaf, scan)?;
        leaf += 1;
        Ok(Transformed::yes(DataSourceExec::from_data_source(scan) as Arc<dyn ExecutionPlan>))
    })?;
    Ok(rewritten.data)
}

/// Returns the file scan of `node`. None where `node` is no file scan.
pub fn file_scan(node: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    let source = node.downcast_ref::<DataSourceExec>()?.data_source();
    source.downcast_ref::<FileScanConfig>()
}
