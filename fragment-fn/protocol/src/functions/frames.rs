//! `sum` and `avg` of floats over a window frame that slides: what leaves a frame leaves no trace.
//!
//! DataFusion 55.2 subtracts what leaves. A NaN or an infinity then stays in every frame after it, and 1e20 takes the small values
//! beside it along: 1.0 + 1.0 is 0.0. PostgreSQL and DuckDB do not subtract floats either. Here a frame is two stacks, the
//! textbook's queue with an aggregate: sums of suffixes for what will leave, one running sum for what came.
//!
//! Take this out when the frames of `tests/tests/meaning.rs` are right without it. Non-goal: `stddev`, `corr` and their like.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::functions_aggregate::average::Avg;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF, Signature,
};

/// Whether a frame's sum is kept here.
pub(super) fn is_framed(args: &AccumulatorArgs<'_>) -> bool {
    !args.is_distinct && args.expr_fields.first().is_some_and(|of| *of.data_type() == DataType::Float64)
}

/// The sum of a frame.
pub(super) fn sum() -> Box<dyn Accumulator> {
    Box::new(Frame { result: |sum, _| sum, ..Frame::default() })
}

fn mean() -> Box<dyn Accumulator> {
    Box::new(Frame { result: |sum, values| sum / values, ..Frame::default() })
}

/// The values of a frame, NULLs left out.
#[derive(Debug)]
struct Frame {
    /// Sums of all values from one to the last of this stack's; the oldest is on top.
    leaving: Vec<f64>,
    /// Values that came since `leaving` was filled, and their sum.
    came: Vec<f64>,
    came_sum: f64,
    /// Of the sum and the number of values.
    result: fn(f64, f64) -> f64,
}

impl Default for Frame {
    fn default() -> Self {
        Self { leaving: Vec::new(), came: Vec::new(), came_sum: 0.0, result: |sum, _| sum }
    }
}

impl Frame {
    fn push(&mut self, value: f64) {
        self.came.push(value);
        self.came_sum += value;
    }

    fn pop(&mut self) {
        if self.leaving.is_empty() {
            let mut sum = 0.0;
            while let Some(value) = self.came.pop() {
                sum += value;
                self.leaving.push(sum);
            }
            self.came_sum = 0.0;
        }
        self.leaving.pop();
    }
}

impl Accumulator for Frame {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        values[0].as_primitive::<Float64Type>().iter().flatten().for_each(|value| self.push(value));
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        // Values leave in the order in which they came.
        (0..values[0].len() - values[0].null_count()).for_each(|_| self.pop());
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let values = self.leaving.len() + self.came.len();
        let sum = self.leaving.last().copied().unwrap_or(0.0) + self.came_sum;
        Ok(ScalarValue::Float64((values > 0).then(|| (self.result)(sum, values as f64))))
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("the sum of a frame is not merged")
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("the sum of a frame has no state")
    }

    fn size(&self) -> usize {
        size_of_val(self) + (self.leaving.capacity() + self.came.capacity()) * size_of::<f64>()
    }
}

/// `avg`: DataFusion's, but for frames of floats.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct FramedAvg {
    stock: Avg,
}

impl AggregateUDFImpl for FramedAvg {
    fn name(&self) -> &str {
        self.stock.name()
    }

    fn aliases(&self) -> &[String] {
        self.stock.aliases()
    }

    fn signature(&self) -> &Signature {
        self.stock.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.stock.return_type(arg_types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.stock.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.stock.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.stock.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        self.stock.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match is_framed(&args) {
            true => Ok(mean()),
            false => self.stock.create_sliding_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.stock.reverse_expr()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.stock.documentation()
    }
}
