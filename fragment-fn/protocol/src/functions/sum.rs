//! `sum` that never wraps: DataFusion's, with other accumulators.
//!
//! Integers and durations are added up in 128 bits, which no number of rows overflows. Only the end result can be too large,
//! so that an overflow does not depend on the order of rows or on the number of functions. Decimals are added up in their
//! own width, or in 128 bits where that is more, and every step is checked. Floats and intervals are DataFusion's, except
//! for frames of floats that slide (`frames`).
//!
//! DataFusion 55.2 wraps around (apache/datafusion#17539). Take this out when its `sum` fails instead.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, AsArray, BooleanArray, Decimal128Array, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal32Type, Decimal64Type, Decimal128Type,
    Decimal256Type, DecimalType, Field, FieldRef, Int64Type, UInt64Type,
};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

use super::frames;
use crate::Advised;

/// Digits that the sum of a short decimal has above its argument: DataFusion's rule, which is Spark's.
const SUM_DIGITS: u8 = 10;

/// `sum` with the accumulators of this module.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CheckedSum {
    stock: Sum,
}

/// Calls `$make::<T>($args)` for the decimal type in which sums of `$from` are kept.
macro_rules! in_width {
    ($from:expr, $make:ident($($args:expr),*)) => {
        match $from {
            DataType::Decimal256(..) => $make::<Decimal256Type>($($args),*),
            _ => $make::<Decimal128Type>($($args),*),
        }
    };
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.stock.name()
    }

    fn signature(&self) -> &Signature {
        self.stock.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale)] => {
                Ok(DataType::Decimal128(precision + SUM_DIGITS, *scale))
            }
            other => self.stock.return_type(other),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let from = args.expr_fields[0].data_type().clone();
        if !is_kept_wide(&from) {
            return self.stock.accumulator(args);
        }
        let types = SumTypes::new(&args);
        if args.is_distinct {
            // DataFusion's list of distinct values is right, but its sum of them wraps.
            let values = self.stock.accumulator(of_type(args, &from))?;
            return Ok(in_width!(from, distinct(values, types)));
        }
        Ok(in_width!(from, running(types)))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let from = args.expr_fields[0].data_type().clone();
        if frames::is_framed(&args) {
            return Ok(frames::sum());
        }
        if !is_kept_wide(&from) {
            return self.stock.create_sliding_accumulator(args);
        }
        let types = SumTypes::new(&args);
        Ok(match args.is_distinct {
            true => in_width!(from, sliding_distinct(types)),
            false => in_width!(from, running(types)),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let from = args.input_fields[0].data_type().clone();
        if args.is_distinct {
            let return_field = Arc::new(Field::new(args.name, from, true));
            return self.stock.state_fields(StateFieldsArgs { return_field, ..args });
        }
        match is_kept_wide(&from) {
            true => Ok(vec![Arc::new(Field::new(format_state_name(args.name, "sum"), kept_as(&from), true))]),
            false => self.stock.state_fields(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.stock.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let from = args.expr_fields[0].data_type().clone();
        match is_kept_wide(&from) {
            true => Ok(in_width!(from, groups(SumTypes::new(&args)))),
            false => self.stock.create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.stock.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.stock.set_monotonicity(data_type)
    }
}

/// Returns true where sums of a type are kept here, and not as DataFusion keeps them.
fn is_kept_wide(from: &DataType) -> bool {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256, Duration, Int64, UInt64};
    matches!(from, Int64 | UInt64 | Duration(_) | Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..))
}

/// Returns the type of an unfinished sum.
fn kept_as(from: &DataType) -> DataType {
    match from {
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
            DataType::Decimal128(DECIMAL128_MAX_PRECISION, *scale)
        }
        DataType::Decimal256(_, scale) => DataType::Decimal256(DECIMAL256_MAX_PRECISION, *scale),
        _ => DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0),
    }
}

/// Makes the same arguments for an aggregate that returns the type of its argument.
fn of_type<'a>(args: AccumulatorArgs<'a>, from: &DataType) -> AccumulatorArgs<'a> {
    let return_field = Arc::new(args.return_field.as_ref().clone().with_data_type(from.clone()));
    AccumulatorArgs { return_field, ..args }
}

/// Decimal type in which sums are kept.
trait SumDecimal: DecimalType + Debug + Sized {
    /// Widens the values of a column, or of a state, to this type.
    fn widen(values: &ArrayRef) -> Result<PrimitiveArray<Self>>;

    /// Returns the value in 128 bits. None where it does not fit.
    fn to_i128(value: Self::Native) -> Option<i128>;
}

impl SumDecimal for Decimal128Type {
    fn widen(values: &ArrayRef) -> Result<Decimal128Array> {
        Ok(match values.data_type() {
            DataType::Int64 => values.as_primitive::<Int64Type>().unary(i128::from),
            DataType::UInt64 => values.as_primitive::<UInt64Type>().unary(i128::from),
            DataType::Duration(_) => cast(values, &DataType::Int64)?.as_primitive::<Int64Type>().unary(i128::from),
            DataType::Decimal32(..) => values.as_primitive::<Decimal32Type>().unary(i128::from),
            DataType::Decimal64(..) => values.as_primitive::<Decimal64Type>().unary(i128::from),
            DataType::Decimal128(..) => values.as_primitive::<Self>().clone(),
            other => return exec_err!("sum: {other} is not kept in 128 bits"),
        })
    }

    fn to_i128(value: i128) -> Option<i128> {
        Some(value)
    }
}

impl SumDecimal for Decimal256Type {
    fn widen(values: &ArrayRef) -> Result<PrimitiveArray<Self>> {
        match values.data_type() {
            DataType::Decimal256(..) => Ok(values.as_primitive::<Self>().clone()),
            other => exec_err!("sum: {other} is not kept in 256 bits"),
        }
    }

    fn to_i128(value: Self::Native) -> Option<i128> {
        value.to_i128()
    }
}

/// Name and types of a sum. It turns an unfinished sum into its result.
#[derive(Debug, Clone)]
struct SumTypes {
    name: String,
    /// Type of an unfinished sum.
    kept: DataType,
    result: DataType,
}

impl SumTypes {
    fn new(args: &AccumulatorArgs<'_>) -> Self {
        Self {
            name: args.name.to_owned(),
            kept: kept_as(args.expr_fields[0].data_type()),
            result: args.return_field.data_type().clone(),
        }
    }

    fn overflow(&self) -> DataFusionError {
        let (fits, wider) = match &self.result {
            DataType::Int64 => ("BIGINT", "DECIMAL(38, 0)".to_owned()),
            DataType::UInt64 => ("BIGINT UNSIGNED", "DECIMAL(38, 0)".to_owned()),
            DataType::Decimal128(_, scale) => ("38 digits", format!("DECIMAL(76, {scale})")),
            DataType::Decimal256(..) => ("76 digits", "DOUBLE".to_owned()),
            _ => ("its type", "BIGINT) AS DECIMAL(38, 0)".to_owned()),
        };
        let what = format!("`{}` overflows: the sum does not fit in {fits}", self.name);
        Advised::new(what, format!("sum(CAST(... AS {wider})) has room for it")).into()
    }

    fn of_one<T: SumDecimal>(&self, value: Option<T::Native>) -> Result<ScalarValue> {
        let Some(value) = value else { return ScalarValue::try_from(&self.result) };
        if let DataType::Int64 = self.result {
            let fits = T::to_i128(value).and_then(|value| i64::try_from(value).ok());
            return fits.map(|value| ScalarValue::Int64(Some(value))).ok_or_else(|| self.overflow());
        }
        let one = PrimitiveArray::<T>::from_iter_values([value]).with_data_type(self.kept.clone());
        ScalarValue::try_from_array(&self.of_many(one)?, 0)
    }

    fn of_many<T: SumDecimal>(&self, sums: PrimitiveArray<T>) -> Result<ArrayRef> {
        let narrow = |value: T::Native| T::to_i128(value).ok_or_else(|| self.overflow());
        Ok(match &self.result {
            DataType::UInt64 => {
                Arc::new(sums.try_unary::<_, UInt64Type, _>(|value| {
                    u64::try_from(narrow(value)?).map_err(|_| self.overflow())
                })?)
            }
            DataType::Decimal128(precision, _) | DataType::Decimal256(precision, _) => {
                sums.validate_decimal_precision(*precision).map_err(|_| self.overflow())?;
                Arc::new(sums.with_data_type(self.result.clone()))
            }
            result => {
                let sums = sums
                    .try_unary::<_, Int64Type, _>(|value| i64::try_from(narrow(value)?).map_err(|_| self.overflow()))?;
                cast(&sums, result)?
            }
        })
    }

    fn state<T: SumDecimal>(&self, value: Option<T::Native>) -> Result<ScalarValue> {
        ScalarValue::new_primitive::<T>(value, &self.kept)
    }
}

fn running<T: SumDecimal>(types: SumTypes) -> Box<dyn Accumulator> {
    Box::new(RunningSum::<T> { types, sum: T::Native::default(), values: 0 })
}

/// Sum of the values so far, also of a frame that slides.
#[derive(Debug)]
struct RunningSum<T: SumDecimal> {
    types: SumTypes,
    sum: T::Native,
    /// Number of values in the sum. The sum of no values is NULL.
    values: u64,
}

impl<T: SumDecimal> RunningSum<T> {
    fn fold(&mut self, values: &ArrayRef, step: impl Fn(T::Native, T::Native) -> Option<T::Native>) -> Result<u64> {
        let values = T::widen(values)?;
        let present = (values.len() - values.null_count()) as u64;
        let sum = match values.null_count() {
            0 => values.values().iter().try_fold(self.sum, |sum, value| step(sum, *value)),
            _ => values.iter().flatten().try_fold(self.sum, step),
        };
        self.sum = sum.ok_or_else(|| self.types.overflow())?;
        Ok(present)
    }
}

fn add<N: ArrowNativeTypeOp>(a: N, b: N) -> Option<N> {
    a.add_checked(b).ok()
}

fn subtract<N: ArrowNativeTypeOp>(a: N, b: N) -> Option<N> {
    a.sub_checked(b).ok()
}

impl<T: SumDecimal> Accumulator for RunningSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values += self.fold(&values[0], add)?;
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values -= self.fold(&values[0], subtract)?;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.types.of_one::<T>((self.values > 0).then_some(self.sum))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.types.state::<T>((self.values > 0).then_some(self.sum))?])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.types.name.capacity()
    }
}

fn distinct<T: SumDecimal>(values: Box<dyn Accumulator>, types: SumTypes) -> Box<dyn Accumulator> {
    Box::new(DistinctSum::<T> { values, types, width: std::marker::PhantomData })
}

/// Sum of distinct values: DataFusion's set of them, added up here.
#[derive(Debug)]
struct DistinctSum<T: SumDecimal> {
    values: Box<dyn Accumulator>,
    types: SumTypes,
    width: std::marker::PhantomData<fn() -> T>,
}

impl<T: SumDecimal> Accumulator for DistinctSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.merge_batch(states)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let state = self.values.state()?;
        let [ScalarValue::List(values)] = state.as_slice() else {
            return exec_err!("`{}`: its state is not a list of values", self.types.name);
        };
        let mut sum = RunningSum::<T> { types: self.types.clone(), sum: T::Native::default(), values: 0 };
        sum.update_batch(&[values.value(0)])?;
        sum.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.values.state()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.size()
    }
}

fn sliding_distinct<T: SumDecimal<Native: Hash + Eq>>(types: SumTypes) -> Box<dyn Accumulator> {
    Box::new(SlidingDistinctSum::<T> { types, counts: HashMap::new(), sum: T::Native::default() })
}

/// Sum of the distinct values of a frame that slides.
#[derive(Debug)]
struct SlidingDistinctSum<T: SumDecimal> {
    types: SumTypes,
    counts: HashMap<T::Native, u64>,
    sum: T::Native,
}

impl<T: SumDecimal<Native: Hash + Eq>> Accumulator for SlidingDistinctSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in T::widen(&values[0])?.iter().flatten() {
            let count = self.counts.entry(value).or_default();
            *count += 1;
            if *count == 1 {
                self.sum = add(self.sum, value).ok_or_else(|| self.types.overflow())?;
            }
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in T::widen(&values[0])?.iter().flatten() {
            let Some(count) = self.counts.get_mut(&value) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&value);
                self.sum = subtract(self.sum, value).ok_or_else(|| self.types.overflow())?;
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.types.of_one::<T>((!self.counts.is_empty()).then_some(self.sum))
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("`{}`: a frame's sum is not merged", self.types.name)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("`{}`: a frame's sum has no state", self.types.name)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * size_of::<(T::Native, u64)>()
    }
}

fn groups<T: SumDecimal + Send>(types: SumTypes) -> Box<dyn GroupsAccumulator> {
    let overflowed = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&overflowed);
    let sums = PrimitiveGroupsAccumulator::<T, _>::new(&types.kept, move |sum: &mut T::Native, value| {
        match add(*sum, value) {
            Some(more) => *sum = more,
            None => noted.store(true, Ordering::Relaxed),
        }
    });
    Box::new(GroupedSums::<T, _> { sums, types, overflowed, width: std::marker::PhantomData })
}

/// Sum of each group: DataFusion's accumulator of a primitive type, in a wider one.
struct GroupedSums<T, G> {
    sums: G,
    types: SumTypes,
    /// Overflow, noted by the closure that adds and that cannot return an error.
    overflowed: Arc<AtomicBool>,
    width: std::marker::PhantomData<fn() -> T>,
}

impl<T: SumDecimal, G> GroupedSums<T, G> {
    fn check(&self) -> Result<()> {
        match self.overflowed.load(Ordering::Relaxed) {
            true => Err(self.types.overflow()),
            false => Ok(()),
        }
    }

    fn widen(values: &[ArrayRef]) -> Result<[ArrayRef; 1]> {
        Ok([Arc::new(T::widen(&values[0])?)])
    }
}

impl<T: SumDecimal + Send, G: GroupsAccumulator> GroupsAccumulator for GroupedSums<T, G> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.sums.update_batch(&Self::widen(values)?, group_indices, opt_filter, total_num_groups)?;
        self.check()
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.sums.merge_batch(&Self::widen(values)?, group_indices, total_num_groups)?;
        self.check()
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.sums.evaluate(emit_to)?;
        self.types.of_many(sums.as_primitive::<T>().clone())
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.sums.state(emit_to)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.sums.convert_to_state(&Self::widen(values)?, opt_filter)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.sums.size()
    }
}
