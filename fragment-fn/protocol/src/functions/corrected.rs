//! A scalar function of DataFusion with a correction around it: a bound, one zero and one NaN before the call, a list type
//! after it.
//!
//! Before: functions that compare their arguments compare the bits of floats, as DataFusion does everywhere (see `float_key`).
//! They are given keys. Take that out together with `dialect::float_keys`.
//!
//! Before: a NULL in a list is no element that another list has (`array_has_any`), and a dollar in the replacement of
//! `regexp_replace` is one, as in PostgreSQL and DuckDB. DataFusion has the syntax of the crate `regex` there.
//!
//! Around: array functions promise the list type of their argument, where Parquet calls a list's values `element`. Some
//! return a list that calls them `item`, and later operators refuse the batch (apache/datafusion#16349, 55.2). Others build
//! a list from parts of both names and fail. Here lists go in under DataFusion's name for their values and come out under
//! the promised type. Take that out when `array_concat` over lists that are all NULL keeps its field's name.

use std::sync::Arc;

use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{ExprSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, StructFieldMapping,
};

use super::bounds::{self, ResultGrowth};
use super::float_key::{self, has_floats};
use super::{own, scalar_named};

/// Puts ours in place of DataFusion's where there is something to correct.
pub(super) fn correct(stock: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let (growth, compares) = (bounds::growth_of(stock.name()), compares(stock.name()));
    let aliases: Vec<String> =
        stock.aliases().iter().filter(|alias| !TAKEN.contains(&alias.as_str())).cloned().collect();
    match growth.is_some() || compares || is_of_lists(stock.name()) || aliases.len() < stock.aliases().len() {
        true => Arc::new(ScalarUDF::from(Corrected { stock, aliases, growth, compares })),
        false => stock,
    }
}

/// Aliases of DataFusion's that are functions of ours: `to_char` has the letters of strftime, `map_extract` a list, and
/// `array_has_any` knows no NULL. A session that is built from another one takes names in any order, so that one name must not be two functions.
const TAKEN: [&str; 3] = ["date_format", "element_at", "arrays_overlap"];

/// Returns true for functions that make a list from a list.
fn is_of_lists(name: &str) -> bool {
    let others = ["make_array", "flatten", "string_to_array", "map_keys", "map_values", "map_entries", "map_extract"];
    // `array_element` and its like return one value. They are corrected, too: the value may be a list in a list of lists.
    name.starts_with("array") || others.contains(&name)
}

/// Returns true for functions that compare values with each other.
fn compares(name: &str) -> bool {
    const COMPARING: [&str; 4] = ["nullif", "greatest", "least", "map_extract"];
    let of_arrays =
        ["has", "position", "remove", "replace", "distinct", "union", "intersect", "except", "sort", "max", "min"];
    COMPARING.contains(&name)
        || name.strip_prefix("array_").is_some_and(|name| of_arrays.iter().any(|compared| name.starts_with(compared)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Corrected {
    stock: Arc<ScalarUDF>,
    aliases: Vec<String>,
    growth: Option<ResultGrowth>,
    /// True where the function compares its arguments: floats among them become keys.
    compares: bool,
}

/// Casts `value` to the promised type, where the two differ in the names of nested fields.
fn as_promised(value: ColumnarValue, promised: &DataType) -> Result<ColumnarValue> {
    if value.data_type() == *promised || !promised.is_nested() {
        return Ok(value);
    }
    named(value, promised)
}

fn named(value: ColumnarValue, of: &DataType) -> Result<ColumnarValue> {
    Ok(match value {
        ColumnarValue::Array(array) => ColumnarValue::Array(cast(&array, of)?),
        ColumnarValue::Scalar(scalar) => {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&cast(&scalar.to_array()?, of)?, 0)?)
        }
    })
}

/// Renames the values of a call's lists to DataFusion's `item`. Some functions build lists of that type from parts.
fn with_items(mut args: ScalarFunctionArgs) -> Result<ScalarFunctionArgs> {
    if args.args.iter().all(|arg| items(&arg.data_type()) == arg.data_type()) {
        return Ok(args);
    }
    let renamed = args.args.into_iter().map(|arg| {
        let of = items(&arg.data_type());
        if arg.data_type() == of { Ok(arg) } else { named(arg, &of) }
    });
    args.args = renamed.collect::<Result<_>>()?;
    let field = |field: FieldRef| Arc::new(field.as_ref().clone().with_data_type(items(field.data_type())));
    args.arg_fields = args.arg_fields.into_iter().map(field).collect();
    args.return_field = field(args.return_field);
    Ok(args)
}

/// Returns the type with the values of its lists called `item`.
fn items(of: &DataType) -> DataType {
    let item = |field: &FieldRef| Arc::new(Field::new_list_field(items(field.data_type()), field.is_nullable()));
    match of {
        DataType::List(field) => DataType::List(item(field)),
        DataType::LargeList(field) => DataType::LargeList(item(field)),
        DataType::FixedSizeList(field, length) => DataType::FixedSizeList(item(field), *length),
        other => other.clone(),
    }
}

#[warn(clippy::missing_trait_methods)] // It delegates, so it names every method.
impl ScalarUDFImpl for Corrected {
    fn name(&self) -> &str {
        self.stock.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        #[expect(deprecated)]
        self.stock.inner().display_name(args)
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.stock.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.stock.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.stock.return_type(arg_types)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let stock = Arc::new(self.stock.inner().with_updated_config(config)?);
        Some(ScalarUDF::from(Self {
            stock,
            aliases: self.aliases.clone(),
            growth: self.growth,
            compares: self.compares,
        }))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.stock.return_field_from_args(args)
    }

    fn is_nullable(&self, args: &[Expr], schema: &dyn ExprSchema) -> bool {
        #[expect(deprecated)]
        self.stock.inner().is_nullable(args, schema)
    }

    fn is_strict(&self) -> bool {
        self.stock.is_strict()
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Some(growth) = self.growth {
            bounds::check(self.name(), growth, &args)?;
        }
        if self.name() == "array_has_any" {
            args.args = own::known_elements(args.args)?;
        }
        if self.name() == "regexp_replace" {
            args.args = own::with_plain_dollars(args.args)?;
        }
        if self.compares {
            args.args = args.args.into_iter().map(float_key::key).collect::<Result<_>>()?;
        }
        let promised = Arc::clone(&args.return_field);
        as_promised(self.stock.invoke_with_args(with_items(args)?)?, promised.data_type())
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        // DataFusion would make an IN list, which compares bits.
        if self.compares && args.iter().any(|arg| info.get_data_type(arg).is_ok_and(|of| has_floats(&of))) {
            return Ok(ExprSimplifyResult::Original(args));
        }
        match self.stock.simplify(args, info)? {
            // DataFusion names its own functions here (`concat` of fewer texts).
            ExprSimplifyResult::Simplified(expr) => {
                let ours = expr.transform_up(|expr| {
                    let Expr::ScalarFunction(call) = expr else { return Ok(Transformed::no(expr)) };
                    Ok(match scalar_named(call.func.name()) {
                        Some(ours) => Transformed::yes(Expr::ScalarFunction(ScalarFunction {
                            func: Arc::clone(ours),
                            args: call.args,
                        })),
                        None => Transformed::no(Expr::ScalarFunction(call)),
                    })
                });
                Ok(ExprSimplifyResult::Simplified(ours.data()?))
            }
            original => Ok(original),
        }
    }

    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.stock.preimage(args, literal, info)
    }

    fn short_circuits(&self) -> bool {
        self.stock.short_circuits()
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.stock.conditional_arguments(args)
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        self.stock.evaluate_bounds(inputs)
    }

    fn propagate_constraints(&self, interval: &Interval, inputs: &[&Interval]) -> Result<Option<Vec<Interval>>> {
        self.stock.propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.stock.inner().output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.stock.inner().preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.stock.inner().strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.stock.inner().coerce_types(arg_types)
    }

    fn struct_field_mapping(&self, literal_args: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.stock.struct_field_mapping(literal_args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.stock.documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.stock.inner().placement(args)
    }
}
