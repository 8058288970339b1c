//! Casts to texts of a length. `CAST(a AS VARCHAR(3))` is the first three characters, as in the standard, PostgreSQL
//! and Trino.
//!
//! DataFusion 55.2 ignores the length, as DuckDB does. Take this out when its CAST cuts (no report of it is known).
//! CHAR(n) is VARCHAR(n), and CHAR is CHAR(1). No blanks are added: PostgreSQL takes them off again wherever it looks
//! at a value. Non-goals: lengths of declared columns and inside nested types.

use datafusion::sql::sqlparser::ast::{CharacterLength, DataType, Expr, Value};

/// Returns the most characters that a text of a type has.
fn length(of: &DataType) -> Option<u64> {
    use DataType::{Char, CharVarying, Character, CharacterVarying, Nvarchar, Varchar};
    match of {
        Char(None) | Character(None) => Some(1),
        Char(Some(length))
        | Character(Some(length))
        | CharVarying(Some(length))
        | CharacterVarying(Some(length))
        | Nvarchar(Some(length))
        | Varchar(Some(length)) => match length {
            CharacterLength::IntegerLength { length, .. } => Some(*length),
            CharacterLength::Max => None,
        },
        _ => None,
    }
}

pub(super) fn has_length(expr: &Expr) -> bool {
    matches!(expr, Expr::Cast { data_type, .. } if length(data_type).is_some())
}

/// Writes a cast to a text of a length as the beginning of a text. Any other expression stays as it is.
pub(super) fn without_length(expr: Expr) -> Expr {
    match expr {
        Expr::Cast { kind, expr, data_type, array, format } => match length(&data_type) {
            Some(length) => {
                let text = Expr::Cast { kind, expr, data_type: DataType::Varchar(None), array, format };
                let number = |number: u64| Some(Box::new(Expr::Value(Value::Number(number.to_string(), false).into())));
                Expr::Substring {
                    expr: Box::new(text),
                    substring_from: number(1),
                    substring_for: number(length),
                    special: false,
                    shorthand: false,
                }
            }
            None => Expr::Cast { kind, expr, data_type, array, format },
        },
        other => other,
    }
}
