//! Codec of the operators that are Gust's own: the leaves of fragments that are no scans.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result, Statistics, plan_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf;
use prost::Message;

use super::{ExchangeExec, PartsExec};
use crate::parts::PARTITIONS_MAX;

#[derive(Debug)]
pub(super) struct GustCodec;

/// Name of [`ExchangeExec`] on the wire.
const BROADCAST: &str = "gust.broadcast";

/// Name of [`PartsExec`] on the wire.
const PARTS: &str = "gust.parts";

/// Bytes of an operator of Gust's own.
#[derive(Clone, PartialEq, Message)]
struct OwnNode {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    input: u32,
    #[prost(message, optional, tag = "3")]
    schema: Option<protobuf::Schema>,
    /// Partitions of [`PartsExec`] in the plan. A fragment brings its own.
    #[prost(uint32, tag = "4")]
    partitions: u32,
}

impl PhysicalExtensionCodec for GustCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let node = OwnNode::decode(bytes).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let partitions = node.partitions as usize;
        match (node.name.as_str(), &node.schema) {
            (BROADCAST, Some(schema)) if inputs.is_empty() => {
                let schema: SchemaRef = Arc::new(Schema::try_from(schema)?);
                let unknown = Arc::new(Statistics::new_unknown(&schema));
                Ok(Arc::new(ExchangeExec::new(node.input, schema, unknown)))
            }
            (PARTS, Some(schema)) if inputs.is_empty() && (1..=PARTITIONS_MAX).contains(&partitions) => {
                let schema: SchemaRef = Arc::new(Schema::try_from(schema)?);
                let unknown = Arc::new(Statistics::new_unknown(&schema));
                Ok(Arc::new(PartsExec::new(node.input, schema, partitions, unknown)))
            }
            (name, _) => plan_err!("this function knows no operator `{name}` of {} inputs", inputs.len()),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let (name, input, partitions) = if let Some(leaf) = node.downcast_ref::<ExchangeExec>() {
            (BROADCAST, leaf.input(), 0)
        } else if let Some(leaf) = node.downcast_ref::<PartsExec>() {
            (PARTS, leaf.input(), leaf.properties().output_partitioning().partition_count() as u32)
        } else {
            return plan_err!("no function knows {}", node.name());
        };
        let schema = Some(protobuf::Schema::try_from(node.schema().as_ref())?);
        OwnNode { name: name.to_owned(), input, schema, partitions }
            .encode(bytes)
            .map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use datafusion::prelude::SessionContext;

    use super::*;

    #[test]
    fn operators_of_another_release_are_refused() {
        let schema = Schema::new(vec![Field::new("k", DataType::Int64, true)]);
        let schema = protobuf::Schema::try_from(&schema).expect("a schema");
        let converter = datafusion_proto::physical_plan::DeduplicatingProtoConverter {};
        let context = SessionContext::new().task_ctx();
        let check = |name: &str, schema: Option<protobuf::Schema>, partitions: u32, known: bool| {
            let bytes = OwnNode { name: name.to_owned(), input: 0, schema, partitions }.encode_to_vec();
            let decoded = GustCodec.try_decode(&bytes, &[], &context, &converter);
            assert_eq!(decoded.is_ok(), known, "{name} {partitions}: {decoded:?}");
        };
        check(BROADCAST, Some(schema.clone()), 0, true);
        check(BROADCAST, None, 0, false);
        check(PARTS, Some(schema.clone()), 2, true);
        check(PARTS, Some(schema.clone()), 0, false);
        check(PARTS, Some(schema.clone()), u32::MAX, false);
        check("gust.shuffle", Some(schema), 2, false);
    }
}
