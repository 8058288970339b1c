//! Dates and constants get the unit of the points in time that they meet.
//!
//! DataFusion 55.2 makes nanoseconds of a date or of a constant, and of the column beside it. Nanoseconds reach from
//! 1677 to 2262. A column of microseconds with the year 1, or a date of 9999-12-31 that stands for "for ever", fails.
//! Here a date, and a constant that has no more digits, become microseconds, or the columns' unit. This comes before
//! DataFusion looks for a common type. If a column has nanoseconds itself, all get nanoseconds.
//!
//! [`super::doubles`] calls this wherever expressions get one type. Non-goals: subtraction, points in time inside
//! lists, maps and structs.
//!
//! Take this out when the rows of "time units" in `tests/cases/meaning.toml` are right without it.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, cast, lit};

/// Type of a column or an expression, and the expression where it is known.
pub(super) struct TypedExpr<'a> {
    pub(super) data_type: DataType,
    pub(super) expr: Option<&'a Expr>,
}

/// Kind of an expression among those that it meets.
enum MetTime {
    Of(TimeUnit, Option<Arc<str>>),
    Date,
    /// A constant that microseconds have the digits for.
    Constant(Option<Arc<str>>),
    Other,
}

impl MetTime {
    fn of(TypedExpr { data_type, expr }: &TypedExpr<'_>) -> Self {
        match data_type {
            DataType::Date32 => Self::Date,
            DataType::Timestamp(TimeUnit::Nanosecond, zone) if expr.and_then(as_microseconds).is_some() => {
                Self::Constant(zone.clone())
            }
            DataType::Timestamp(unit, zone) => Self::Of(*unit, zone.clone()),
            _ => Self::Other,
        }
    }
}

/// Returns the types that expressions get where they meet, from the types that they have. None stays as it is.
pub(super) fn united(met: &[TypedExpr<'_>]) -> Vec<Option<DataType>> {
    let times: Vec<MetTime> = met.iter().map(MetTime::of).collect();
    let units = || {
        times.iter().filter_map(|time| match time {
            MetTime::Of(unit, _) => Some(*unit),
            MetTime::Constant(_) => Some(TimeUnit::Microsecond),
            _ => None,
        })
    };
    let is_zoned = times.iter().any(|time| matches!(time, MetTime::Of(_, Some(_)) | MetTime::Constant(Some(_))));
    // Constants among themselves stay as they are.
    let has_others = times.iter().any(|time| matches!(time, MetTime::Of(..) | MetTime::Date));
    let unit = units().max().filter(|unit| *unit != TimeUnit::Nanosecond && has_others);
    let target = |time: &MetTime| match time {
        MetTime::Constant(zone) => Some(DataType::Timestamp(unit?, zone.clone())),
        // A date stays beside zones: its midnight is another moment in each.
        MetTime::Date if !is_zoned => Some(DataType::Timestamp(unit?, None)),
        _ => None,
    };
    times.iter().map(target).collect()
}

/// Casts an expression to the type that [`united`] gives it.
pub(super) fn cast_to(expr: Expr, of: DataType) -> Expr {
    match as_microseconds(&expr) {
        Some(micros) => lit(micros),
        None => cast(expr, of),
    }
}

/// Writes a constant of nanoseconds in microseconds, if it has no more digits.
fn as_microseconds(expr: &Expr) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(ScalarValue::TimestampNanosecond(Some(value), zone), _) => {
            (value % 1_000 == 0).then(|| ScalarValue::TimestampMicrosecond(Some(value / 1_000), zone.clone()))
        }
        Expr::Cast(Cast { expr, field }) => {
            let (Expr::Literal(value, _), DataType::Timestamp(TimeUnit::Nanosecond, zone)) =
                (expr.as_ref(), field.data_type())
            else {
                return None;
            };
            let text = value.try_as_str().flatten()?;
            let digits = text.split_once('.').map_or("", |(_, after)| after).chars().take_while(char::is_ascii_digit);
            let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
            if digits.count() > 6 { None } else { value.cast_to(&micros).ok() }
        }
        _ => None,
    }
}
