//! Aggregates of floats over a window frame that slides. A value that leaves the frame leaves no trace.
//!
//! DataFusion 55.2 subtracts the values that leave. A NaN or an infinity then stays in every later frame, and 1e20 takes
//! small values along: 1.0 + 1.0 is 0.0. PostgreSQL and DuckDB do not subtract floats either.
//!
//! Here a frame is two stacks, the textbook's queue with an aggregate: sums of suffixes for the values that will leave, and
//! one running sum for the values that entered. `sum` and `avg` have numbers on their stacks. `stddev`, `var`, `covar`,
//! `corr` and `regr_*` have the states that functions send each other, and merge them. So do `bool_and`, `bool_or`, `bit_and` and
//! `bit_or`, which DataFusion does not compute over a frame that slides.
//!
//! Not reported upstream yet (seen in 55.2). Take this out when the frames of `tests/tests/meaning.rs` are right without it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, FieldRef, Float64Type, Schema};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator};
use datafusion::physical_expr::PhysicalExpr;

use super::forwarding::aggregate_of_stock;

/// Returns true where a frame's sum is computed here.
pub(super) fn is_framed(args: &AccumulatorArgs<'_>) -> bool {
    !args.is_distinct && args.expr_fields.first().is_some_and(|field| *field.data_type() == DataType::Float64)
}

/// Makes the accumulator of a frame's sum.
pub(super) fn sum() -> Box<dyn Accumulator> {
    Box::new(SumFrame { result: |sum, _| sum, ..SumFrame::default() })
}

fn mean() -> Box<dyn Accumulator> {
    Box::new(SumFrame { result: |sum, values| sum / values, ..SumFrame::default() })
}

/// Values of a frame, without NULLs.
#[derive(Debug)]
struct SumFrame {
    /// Sums of suffixes: each entry adds the values from its own to the newest of this stack. The oldest entry is on top.
    leaving: Vec<f64>,
    /// Values that entered since `leaving` was filled.
    entered: Vec<f64>,
    /// Sum of `entered`.
    entered_sum: f64,
    /// Result from the sum and the number of values.
    result: fn(f64, f64) -> f64,
}

impl Default for SumFrame {
    fn default() -> Self {
        Self { leaving: Vec::new(), entered: Vec::new(), entered_sum: 0.0, result: |sum, _| sum }
    }
}

impl SumFrame {
    fn push(&mut self, value: f64) {
        self.entered.push(value);
        self.entered_sum += value;
    }

    fn pop(&mut self) {
        if self.leaving.is_empty() {
            let mut sum = 0.0;
            while let Some(value) = self.entered.pop() {
                sum += value;
                self.leaving.push(sum);
            }
            self.entered_sum = 0.0;
        }
        self.leaving.pop();
    }
}

impl Accumulator for SumFrame {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        values[0].as_primitive::<Float64Type>().iter().flatten().for_each(|value| self.push(value));
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        // Values leave in the order in which they entered.
        (0..values[0].len() - values[0].null_count()).for_each(|_| self.pop());
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let values = self.leaving.len() + self.entered.len();
        let sum = self.leaving.last().copied().unwrap_or(0.0) + self.entered_sum;
        Ok(ScalarValue::Float64((values > 0).then(|| (self.result)(sum, values as f64))))
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("the sum of a frame is not merged")
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("the sum of a frame has no state")
    }

    fn size(&self) -> usize {
        size_of_val(self) + (self.leaving.capacity() + self.entered.capacity()) * size_of::<f64>()
    }
}

/// Frame whose aggregate is merged from states.
#[derive(Debug)]
struct MergedFrame {
    spec: AccumulatorSpec,
    /// States of suffixes: each entry covers the rows from its own to the newest of this stack. The oldest entry is on top.
    leaving: Vec<Vec<ScalarValue>>,
    /// Rows that entered since `leaving` was filled.
    entered: Vec<Vec<ArrayRef>>,
    /// Accumulator that has seen the rows of `entered`.
    entered_state: Box<dyn Accumulator>,
}

impl MergedFrame {
    fn new(stock: Arc<AggregateUDF>, args: &AccumulatorArgs<'_>) -> Result<Self> {
        let spec = AccumulatorSpec {
            stock,
            return_field: Arc::clone(&args.return_field),
            schema: args.schema.clone(),
            ignore_nulls: args.ignore_nulls,
            name: args.name.to_owned(),
            exprs: args.exprs.to_vec(),
            expr_fields: args.expr_fields.to_vec(),
        };
        let entered_state = spec.accumulator()?;
        Ok(Self { spec, leaving: Vec::new(), entered: Vec::new(), entered_state })
    }

    fn pop(&mut self) -> Result<()> {
        if self.leaving.is_empty() {
            while let Some(row) = self.entered.pop() {
                let mut state = self.spec.accumulator()?;
                if let Some(younger) = self.leaving.last() {
                    merge(state.as_mut(), younger)?;
                }
                state.update_batch(&row)?;
                self.leaving.push(state.state()?);
            }
            self.entered_state = self.spec.accumulator()?;
        }
        self.leaving.pop();
        Ok(())
    }
}

fn merge(into: &mut dyn Accumulator, state: &[ScalarValue]) -> Result<()> {
    into.merge_batch(&state.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>>>()?)
}

impl Accumulator for MergedFrame {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.entered_state.update_batch(values)?;
        let rows = values.first().map_or(0, |column| column.len());
        self.entered.extend((0..rows).map(|row| values.iter().map(|column| column.slice(row, 1)).collect()));
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        // Rows leave in the order in which they entered.
        (0..values.first().map_or(0, |column| column.len())).try_for_each(|_| self.pop())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let Some(leaving) = self.leaving.last() else { return self.entered_state.evaluate() };
        let mut all = self.spec.accumulator()?;
        merge(all.as_mut(), leaving)?;
        merge(all.as_mut(), &self.entered_state.state()?)?;
        all.evaluate()
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("the state of a frame is not merged")
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("a frame has no state")
    }

    fn size(&self) -> usize {
        let state = |state: &Vec<ScalarValue>| state.iter().map(ScalarValue::size).sum::<usize>();
        let row = |row: &Vec<ArrayRef>| size_of_val(row.as_slice()) + row.len() * size_of::<f64>();
        size_of_val(self)
            + self.leaving.iter().map(state).sum::<usize>()
            + self.entered.iter().map(row).sum::<usize>()
            + self.entered_state.size()
    }
}

/// Arguments of an accumulator, owned, so that it can be made again and again.
#[derive(Debug)]
struct AccumulatorSpec {
    stock: Arc<AggregateUDF>,
    return_field: FieldRef,
    schema: Schema,
    ignore_nulls: bool,
    name: String,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl AccumulatorSpec {
    fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        self.stock.accumulator(AccumulatorArgs {
            return_field: Arc::clone(&self.return_field),
            schema: &self.schema,
            ignore_nulls: self.ignore_nulls,
            order_bys: &[],
            is_reversed: false,
            name: &self.name,
            is_distinct: false,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        })
    }
}

/// Returns true where frames of an aggregate are computed here.
pub(super) fn is_corrected(name: &str) -> bool {
    const MERGED: [&str; 12] = [
        "avg",
        "var",
        "var_pop",
        "stddev",
        "stddev_pop",
        "covar_samp",
        "covar_pop",
        "corr",
        "bool_and",
        "bool_or",
        "bit_and",
        "bit_or",
    ];
    MERGED.contains(&name) || name.starts_with("regr_")
}

/// Aggregate of DataFusion's, with other accumulators over frames that slide.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Framed {
    pub stock: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for Framed {
    aggregate_of_stock!();

    fn is_nullable(&self) -> bool {
        self.stock.is_nullable()
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.stock.default_value(data_type)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        self.stock.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match (self.name(), is_framed(&args)) {
            ("avg", true) => Ok(mean()),
            (name, _) if name != "avg" && !args.is_distinct => {
                Ok(Box::new(MergedFrame::new(Arc::clone(&self.stock), &args)?))
            }
            _ => self.stock.create_sliding_accumulator(args),
        }
    }
}
