//! The engine's filters as Iceberg's, as far as these can prune files. A filter that Iceberg's cannot express is
//! "always true".

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{InList, Like};
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};
use gust_catalog::{CompareOp, Predicate, Schema};
use gust_protocol::functions::FloatKey;

use super::keys::{ColumnKeys, Keys};
use super::schema::scalar;

/// Joins all of `filters` by AND.
pub(super) fn predicate(filters: &[Expr], schema: &Schema) -> Predicate {
    Predicate::And(filters.iter().map(|filter| convert(filter, schema)).collect())
}

/// Makes the predicate of rows that have all of these keys.
pub(super) fn having(keys: &[ColumnKeys], schema: &Schema) -> Predicate {
    Predicate::And(keys.iter().map(|keys| of_column(keys, schema).unwrap_or(Predicate::AlwaysTrue)).collect())
}

fn of_column(ColumnKeys { column, keys, has_null, .. }: &ColumnKeys, schema: &Schema) -> Option<Predicate> {
    let scalar = |value: &ScalarValue| lossless_scalar(value, column, schema);
    let compare = |op, value| Some(Predicate::Compare { column: column.clone(), op, value: scalar(value)? });
    let keys = match keys {
        Keys::Listed(keys) if keys.is_empty() => Predicate::AlwaysFalse,
        Keys::Listed(keys) => {
            let values = keys.iter().map(scalar).collect::<Option<_>>()?;
            Predicate::In { column: column.clone(), values, negated: false }
        }
        Keys::Between { least, greatest } => {
            Predicate::And(vec![compare(CompareOp::GtEq, least)?, compare(CompareOp::LtEq, greatest)?])
        }
    };
    Some(match has_null {
        true => Predicate::Or(vec![keys, Predicate::IsNull { column: column.clone(), negated: false }]),
        false => keys,
    })
}

fn convert(expr: &Expr, schema: &Schema) -> Predicate {
    try_convert(expr, schema).unwrap_or(Predicate::AlwaysTrue)
}

fn try_convert(expr: &Expr, schema: &Schema) -> Option<Predicate> {
    let sub = |expr: &Expr| convert(expr, schema);
    Some(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => Predicate::And(vec![sub(left), sub(right)]),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => Predicate::Or(vec![sub(left), sub(right)]),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (column(left), column(right)) {
            (Some(name), None) => compare(name, compare_op(*op)?, right, schema)?,
            (None, Some(name)) => compare(name, compare_op(op.swap()?)?, left, schema)?,
            _ => return None,
        },
        Expr::Not(inner) => Predicate::Not(Box::new(sub(inner))),
        Expr::IsNull(inner) => Predicate::IsNull { column: column(inner)?.to_owned(), negated: false },
        Expr::IsNotNull(inner) => Predicate::IsNull { column: column(inner)?.to_owned(), negated: true },
        Expr::Between(Between { expr, negated, low, high }) => {
            let name = column(expr)?;
            let within = Predicate::And(vec![
                compare(name, CompareOp::GtEq, low, schema)?,
                compare(name, CompareOp::LtEq, high, schema)?,
            ]);
            if *negated { Predicate::Not(Box::new(within)) } else { within }
        }
        Expr::InList(InList { expr, list, negated }) => in_list(column(expr)?, list, *negated, schema)?,
        Expr::Like(like) => starts_with(like)?,
        Expr::Literal(ScalarValue::Boolean(Some(true)), _) => Predicate::AlwaysTrue,
        Expr::Literal(ScalarValue::Boolean(_), _) => Predicate::AlwaysFalse,
        Expr::Column(column) => Predicate::Compare {
            column: column.name.clone(),
            op: CompareOp::Eq,
            value: scalar(&ScalarValue::Boolean(Some(true)), &schema.field(&column.name)?.ty)?,
        },
        _ => return None,
    })
}

/// Returns the name of a column by itself, or of one in its float key. The catalog takes zeros as equal, and uses a
/// greatest value only of files without NaN. A cast may change the order of values, so that a column in a cast has no
/// name here.
fn column(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(&column.name),
        Expr::ScalarFunction(call) if call.func.name() == FloatKey::NAME => match call.args.as_slice() {
            [Expr::Column(column)] => Some(&column.name),
            _ => None,
        },
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

fn compare_op(op: Operator) -> Option<CompareOp> {
    Some(match op {
        Operator::Eq => CompareOp::Eq,
        Operator::NotEq => CompareOp::NotEq,
        Operator::Lt => CompareOp::Lt,
        Operator::LtEq => CompareOp::LtEq,
        Operator::Gt => CompareOp::Gt,
        Operator::GtEq => CompareOp::GtEq,
        _ => return None,
    })
}

fn compare(name: &str, op: CompareOp, value: &Expr, schema: &Schema) -> Option<Predicate> {
    let Expr::Literal(value, _) = value else { return None };
    if value.is_null() {
        return Some(Predicate::AlwaysFalse);
    }
    let value = lossless_scalar(value, name, schema)?;
    Some(Predicate::Compare { column: name.to_owned(), op, value })
}

/// Returns the literal in the column's kind, if it loses nothing.
fn lossless_scalar(value: &ScalarValue, name: &str, schema: &Schema) -> Option<gust_catalog::Scalar> {
    let ty = &schema.field(name)?.ty;
    let converted = scalar(value, ty)?;
    let back = super::schema::engine_scalar(&converted, &value.data_type());
    // A kind without a way back is compared bytewise and cannot lose anything.
    back.is_none_or(|back| back == *value).then_some(converted)
}

fn in_list(name: &str, list: &[Expr], negated: bool, schema: &Schema) -> Option<Predicate> {
    let mut values = Vec::with_capacity(list.len());
    for item in list {
        let value = literal(item)?;
        if value.is_null() {
            // `x NOT IN (…, NULL)` is never true. In a positive list NULL adds nothing.
            if negated {
                return Some(Predicate::AlwaysFalse);
            }
            continue;
        }
        values.push(lossless_scalar(value, name, schema)?);
    }
    Some(Predicate::In { column: name.to_owned(), values, negated })
}

/// Writes `LIKE 'abc%'`, without further wildcards, as a prefix.
fn starts_with(like: &Like) -> Option<Predicate> {
    let (ScalarValue::Utf8(Some(pattern))
    | ScalarValue::Utf8View(Some(pattern))
    | ScalarValue::LargeUtf8(Some(pattern))) = literal(&like.pattern)?
    else {
        return None;
    };
    let prefix = pattern.strip_suffix('%')?;
    if like.case_insensitive || like.escape_char.is_some() || prefix.contains(['%', '_', '\\']) {
        return None;
    }
    Some(Predicate::StartsWith {
        column: column(&like.expr)?.to_owned(),
        prefix: prefix.to_owned(),
        negated: like.negated,
    })
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{cast, col, lit};
    use gust_catalog::{Field, Scalar, Type};
    use gust_protocol::functions::scalar_named;

    use super::*;

    #[test]
    fn keys_of_joins_are_predicates() {
        let field = |id: i32, name: &str, ty: Type| Field {
            id,
            name: name.to_owned(),
            required: false,
            ty,
            initial_default: None,
        };
        let schema = Schema { fields: vec![field(1, "k", Type::Int), field(2, "s", Type::String)] };
        let keys = |column: &str, keys: Keys, has_null: bool| ColumnKeys {
            column: column.to_owned(),
            position: 0,
            keys,
            has_null,
        };
        let numbers = || Keys::Listed(vec![ScalarValue::from(1_i32), ScalarValue::from(3_i32)]);
        let listed =
            || Predicate::In { column: "k".to_owned(), values: vec![Scalar::Int(1), Scalar::Int(3)], negated: false };
        let text = |text: &str| ScalarValue::Utf8(Some(text.to_owned()));
        let bound =
            |op, text: &str| Predicate::Compare { column: "s".to_owned(), op, value: Scalar::String(text.to_owned()) };
        for (keys, expect) in [
            (keys("k", numbers(), false), listed()),
            (
                keys("k", numbers(), true),
                Predicate::Or(vec![listed(), Predicate::IsNull { column: "k".to_owned(), negated: false }]),
            ),
            (keys("k", Keys::Listed(Vec::new()), false), Predicate::AlwaysFalse),
            (
                keys("s", Keys::Between { least: text("a"), greatest: text("f") }, false),
                Predicate::And(vec![bound(CompareOp::GtEq, "a"), bound(CompareOp::LtEq, "f")]),
            ),
            // A key that the column cannot have, or a column that the table does not have.
            (keys("k", Keys::Listed(vec![ScalarValue::from(i64::MAX)]), false), Predicate::AlwaysTrue),
            (keys("x", numbers(), false), Predicate::AlwaysTrue),
        ] {
            assert_eq!(having(std::slice::from_ref(&keys), &schema), Predicate::And(vec![expect]), "{keys:?}");
        }
    }

    /// The catalog uses a greatest value only of a file whose NaNs were counted as none (`prune/range.rs`).
    #[test]
    fn a_float_is_seen_through_its_key() {
        let x = Field { id: 1, name: "x".to_owned(), required: false, ty: Type::Double, initial_default: None };
        let schema = Schema { fields: vec![x] };
        let key = |of: Expr| scalar_named(FloatKey::NAME).expect("ours").call(vec![of]);
        let greater = Predicate::Compare { column: "x".to_owned(), op: CompareOp::Gt, value: Scalar::Double(5.0) };
        let both = |a: Predicate, b: Predicate| Predicate::And(vec![Predicate::And(vec![a, b])]);
        for (filter, expect) in [
            (key(col("x")).gt(lit(5.0)), Predicate::And(vec![greater.clone()])),
            (lit(5.0).lt(key(col("x"))), Predicate::And(vec![greater.clone()])),
            (
                key(col("x")).gt(lit(5.0)).and(col("x").is_not_null()),
                both(greater, Predicate::IsNull { column: "x".to_owned(), negated: true }),
            ),
            (key(-col("x")).gt(lit(5.0)), Predicate::And(vec![Predicate::AlwaysTrue])),
            (
                key(cast(col("x"), arrow::datatypes::DataType::Float32)).gt(lit(5.0)),
                Predicate::And(vec![Predicate::AlwaysTrue]),
            ),
        ] {
            assert_eq!(predicate(std::slice::from_ref(&filter), &schema), expect, "{filter}");
        }
    }
}
