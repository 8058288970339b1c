//! `min` and `max` of floats by group: NaN is the greatest value, and −infinity the least.
//!
//! DataFusion 55.2 lets the value after a NaN win (apache/datafusion 24432): the max of 5, NaN, 1 is 1, so that the rows'
//! order decides. It also takes the least finite number for the max of a group that has only −infinity. Without groups it
//! is right. Take this out when the grouped extremes of `tests/tests/meaning.rs` are right without it.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::ArrowNativeTypeOp;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float16Type, Float32Type, Float64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, SetMonotonicity, StatisticsArgs,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

use super::forwarding::aggregate_of_stock;

/// `min` or `max`: DataFusion's, except for groups of floats.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Extreme {
    stock: Arc<AggregateUDF>,
    /// Comparison of a better value with the best so far.
    better: Ordering,
}

impl Extreme {
    pub(super) fn min(stock: Arc<AggregateUDF>) -> Self {
        Self { stock, better: Ordering::Less }
    }

    pub(super) fn max(stock: Arc<AggregateUDF>) -> Self {
        Self { stock, better: Ordering::Greater }
    }

    /// Makes the accumulator of groups. It starts at the worst value in the total order: one NaN or the other.
    fn groups<T>(&self, of: &DataType, greatest: T::Native, least: T::Native) -> Box<dyn GroupsAccumulator>
    where
        T: ArrowPrimitiveType<Native: ArrowNativeTypeOp> + Send,
    {
        let better = self.better;
        let worst = if better == Ordering::Less { greatest } else { least };
        let keep = move |best: &mut T::Native, value: T::Native| {
            if value.compare(*best) == better {
                *best = value;
            }
        };
        Box::new(PrimitiveGroupsAccumulator::<T, _>::new(of, keep).with_starting_value(worst))
    }
}

type F16 = <Float16Type as ArrowPrimitiveType>::Native;

impl AggregateUDFImpl for Extreme {
    aggregate_of_stock!();

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let of = args.return_field.data_type();
        Ok(match of {
            DataType::Float16 => self.groups::<Float16Type>(of, F16::NAN, -F16::NAN),
            DataType::Float32 => self.groups::<Float32Type>(of, f32::NAN, -f32::NAN),
            DataType::Float64 => self.groups::<Float64Type>(of, f64::NAN, -f64::NAN),
            _ => return self.stock.create_groups_accumulator(args),
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.stock.create_sliding_accumulator(args)
    }

    fn is_descending(&self) -> Option<bool> {
        self.stock.is_descending()
    }

    fn value_from_stats(&self, args: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.stock.value_from_stats(args)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.stock.inner().set_monotonicity(data_type)
    }
}
