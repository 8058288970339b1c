//! Values of the versions that a statement asks for.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, cast};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::parser::Statement as EngineStatement;
use gust_catalog::Version;

use super::Session;
use crate::error::QueryError;
use crate::sql::versions::{self, Asked};

impl Session {
    /// Replaces the versions of a statement's tables by their values. A time without a zone is one of the session's zone.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] for a version that is no constant, or neither a number, a text nor a time.
    pub(super) fn pin_versions(&self, statement: &mut EngineStatement) -> Result<(), QueryError> {
        let state = self.context.state();
        versions::pin(statement, &mut |asked, text| value_of(&state, asked, text))
    }
}

fn value_of(state: &SessionState, asked: Asked, text: &str) -> Result<Version, QueryError> {
    let hint = match asked {
        Asked::Version => "give a snapshot's number, or the name of a tag or branch in quotes",
        Asked::Timestamp => "give a time, such as TIMESTAMP '2026-01-01 00:00:00 UTC'",
    };
    let refused = |why: &str| QueryError::sql(format!("version `{text}`: {why}")).with_hint(hint);
    let expr = state.create_logical_expr(text, &DFSchema::empty());
    let expr = expr.map_err(|_| refused("it is not understood, or names a column"))?;
    match asked {
        Asked::Version => match constant(state, expr).map_err(|_| refused("it has no value"))? {
            Some(ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name))) => Ok(Version::Reference(name)),
            Some(number) if number.data_type().is_integer() => match number.cast_to(&DataType::Int64) {
                Ok(ScalarValue::Int64(Some(id))) => Ok(Version::Snapshot(id)),
                _ => Err(refused("it is no snapshot's number")),
            },
            _ => Err(refused("it is neither a number nor a text")),
        },
        Asked::Timestamp => {
            let zone = state.config_options().execution.time_zone.clone().unwrap_or_else(|| "+00:00".to_owned());
            let number = constant(state, expr.clone()).ok().flatten().filter(|value| value.data_type().is_integer());
            // A number counts seconds, as in Spark.
            let unit = if number.is_some() { TimeUnit::Second } else { TimeUnit::Millisecond };
            let time = cast(expr, DataType::Timestamp(unit, Some(zone.into())));
            match constant(state, time).map_err(|_| refused("it is no time"))? {
                Some(ScalarValue::TimestampMillisecond(Some(ms), _)) => Ok(Version::TimestampMs(ms)),
                Some(ScalarValue::TimestampSecond(Some(seconds), _)) => {
                    Ok(Version::TimestampMs(seconds.saturating_mul(1000)))
                }
                _ => Err(refused("it is no time")),
            }
        }
    }
}

/// Returns the value of an expression. None if it is no constant.
fn constant(state: &SessionState, expr: Expr) -> Result<Option<ScalarValue>, datafusion::common::DataFusionError> {
    let context = SimplifyContext::builder()
        .with_config_options(state.config_options().clone())
        // A session has begun no execution yet.
        .with_query_execution_start_time(Some(chrono::Utc::now()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let coerced = simplifier.coerce(expr, &DFSchema::empty())?;
    Ok(match simplifier.simplify(coerced)? {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    })
}
