//! Conditions of a query on a table's rows, as far as files can be chosen by them.

use serde::{Deserialize, Serialize};

use crate::scalar::Scalar;

/// A condition with SQL's three-valued logic: a row matches when it is TRUE, not when it is NULL.
/// Columns are named as in the table's current schema, top level only.
///
/// `AlwaysTrue` also stands for any part that cannot be expressed here. So it keeps every file under a
/// `Not` as well: `Not(AlwaysTrue)` removes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Predicate {
    AlwaysTrue,
    AlwaysFalse,
    And(Vec<Predicate>),
    Or(Vec<Predicate>),
    Not(Box<Predicate>),
    /// A value whose kind does not fit the column removes nothing.
    Compare {
        column: String,
        op: CompareOp,
        value: Scalar,
    },
    /// The list holds no NULL. `NOT IN` with a NULL is never true, and the caller has to know that.
    In {
        column: String,
        values: Vec<Scalar>,
        negated: bool,
    },
    IsNull {
        column: String,
        negated: bool,
    },
    StartsWith {
        column: String,
        prefix: String,
        negated: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareOp {
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
}

impl CompareOp {
    pub(crate) fn negate(self) -> Self {
        match self {
            CompareOp::Eq => CompareOp::NotEq,
            CompareOp::NotEq => CompareOp::Eq,
            CompareOp::Lt => CompareOp::GtEq,
            CompareOp::GtEq => CompareOp::Lt,
            CompareOp::Gt => CompareOp::LtEq,
            CompareOp::LtEq => CompareOp::Gt,
        }
    }
}
