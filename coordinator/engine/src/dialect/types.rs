//! Types whose names or meanings DataFusion does not have.
//!
//! Names of other engines: VARBINARY (Trino), INT64 and FLOAT64 (BigQuery), LONG (Spark), DATETIME. Lengths are refused, for
//! they would not be kept.
//!
//! TIME has microseconds, as in PostgreSQL, DuckDB and Iceberg, and in nearly all Parquet files. DataFusion 55.2 gives TIME nanoseconds. Then it does not compare `TIME '01:00:00'` with a column of a file, because
//! it has no common type for times of two units. No report of it is known. Take this out when it has.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::Result;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{DataType as SqlType, TimezoneInfo};

/// Digits of a second in microseconds.
const DIGITS_MAX: u64 = 6;

#[derive(Debug)]
pub(crate) struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let planned = match sql_type {
            SqlType::Time(digits, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone)
                if digits.is_none_or(|digits| digits <= DIGITS_MAX) =>
            {
                DataType::Time64(TimeUnit::Microsecond)
            }
            SqlType::Varbinary(None) => DataType::Binary,
            SqlType::Int64 => DataType::Int64,
            SqlType::Float64 => DataType::Float64,
            SqlType::Datetime(None) => DataType::Timestamp(TimeUnit::Nanosecond, None),
            SqlType::Custom(name, parameters) if parameters.is_empty() => {
                match name.to_string().to_lowercase().as_str() {
                    "long" => DataType::Int64,
                    _ => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", planned, true))))
    }
}
