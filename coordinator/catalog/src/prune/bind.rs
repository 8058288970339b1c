//! Binding of a predicate: its columns are resolved, and its negations are pushed down to the
//! conditions. A bound predicate is then projected onto one partition spec.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::predicate::{CompareOp, Predicate};
use crate::prune::{Condition, PruneReason, RangePredicate, RangeTest};
use crate::scalar::Scalar;
use crate::types::{Field, PartitionField, Schema};

/// Bound predicate and the columns that it names.
#[derive(Debug)]
pub(crate) struct BoundPredicate {
    tree: BoundNode,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    id: i32,
    name: String,
}

#[derive(Debug)]
enum BoundNode {
    Keep,
    Drop,
    And(Vec<BoundNode>),
    Or(Vec<BoundNode>),
    Leaf { column: usize, condition: Condition },
}

/// Field of a partition spec, and the id of the column that it is made from.
#[derive(Debug, Clone)]
pub(crate) struct SpecField {
    pub(crate) source_id: i32,
    pub(crate) field: PartitionField,
}

impl Condition {
    pub(crate) fn any_of(mut values: Vec<Scalar>) -> Condition {
        values.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
        values.dedup();
        Condition::In(values)
    }
}

impl BoundPredicate {
    /// Binds a predicate to a schema.
    ///
    /// # Errors
    /// Invalid: a column that the schema does not have.
    pub(crate) fn new(predicate: &Predicate, schema: &Schema) -> Result<BoundPredicate> {
        let mut columns = Vec::new();
        let tree = bind(predicate, false, schema, &mut columns)?;
        Ok(BoundPredicate { tree, columns })
    }

    /// Lists the ids of the named columns, in the order of their ranges after the spec's.
    pub(crate) fn column_ids(&self) -> impl Iterator<Item = i32> {
        self.columns.iter().map(|column| column.id)
    }

    /// Projects the predicate onto the ranges of this spec's fields, followed by those of the named columns.
    pub(crate) fn project(&self, spec: &[SpecField]) -> RangePredicate {
        self.project_tree(&self.tree, spec)
    }

    fn project_tree(&self, tree: &BoundNode, spec: &[SpecField]) -> RangePredicate {
        let project_all = |trees: &[BoundNode]| {
            let nodes = trees.iter().map(|tree| self.project_tree(tree, spec));
            nodes.collect()
        };
        match tree {
            BoundNode::Keep => RangePredicate::Keep,
            BoundNode::Drop => RangePredicate::Drop,
            BoundNode::And(trees) => RangePredicate::And(project_all(trees)),
            BoundNode::Or(trees) => RangePredicate::Or(project_all(trees)),
            BoundNode::Leaf { column, condition } => RangePredicate::Tests(self.tests(*column, condition, spec)),
        }
    }

    fn tests(&self, column: usize, condition: &Condition, spec: &[SpecField]) -> Vec<RangeTest> {
        let Column { id, name } = &self.columns[column];
        let fields = spec.iter().enumerate();
        let partition_tests =
            fields.filter(|(_, field)| field.source_id == *id).filter_map(|(range, SpecField { field, .. })| {
                Some(RangeTest {
                    range,
                    condition: field.transform.project(condition)?,
                    reason: PruneReason::Partition(field.clone()),
                })
            });
        let column_test = RangeTest {
            range: spec.len() + column,
            condition: condition.clone(),
            reason: PruneReason::Column(name.clone()),
        };
        partition_tests.chain([column_test]).collect()
    }
}

fn bind(predicate: &Predicate, negated: bool, schema: &Schema, columns: &mut Vec<Column>) -> Result<BoundNode> {
    let mut all = |predicates: &[Predicate]| -> Result<Vec<BoundNode>> {
        let trees = predicates.iter();
        trees.map(|p| bind(p, negated, schema, columns)).collect()
    };
    match predicate {
        // It may stand for anything, so that its negation may be true as well.
        Predicate::AlwaysTrue => Ok(BoundNode::Keep),
        Predicate::AlwaysFalse if negated => Ok(BoundNode::Keep),
        Predicate::AlwaysFalse => Ok(BoundNode::Drop),
        Predicate::And(children) if negated => Ok(BoundNode::Or(all(children)?)),
        Predicate::And(children) => Ok(BoundNode::And(all(children)?)),
        Predicate::Or(children) if negated => Ok(BoundNode::And(all(children)?)),
        Predicate::Or(children) => Ok(BoundNode::Or(all(children)?)),
        Predicate::Not(child) => bind(child, !negated, schema, columns),
        Predicate::Compare { column, op, value } => {
            let field = resolve(column, schema)?;
            let op = if negated { op.negate() } else { *op };
            Ok(match condition(field, op, value) {
                Some(condition) => leaf(field, condition, columns),
                None => BoundNode::Keep,
            })
        }
        Predicate::In { column, values, negated: not_in } => {
            let field = resolve(column, schema)?;
            Ok(bind_in(field, values, *not_in != negated, columns))
        }
        Predicate::IsNull { column, negated: not_null } => {
            let condition = if *not_null != negated { Condition::NotNull } else { Condition::IsNull };
            Ok(leaf(resolve(column, schema)?, condition, columns))
        }
        Predicate::StartsWith { column, prefix, negated: not_like } => {
            let condition =
                if *not_like != negated { Condition::NotNull } else { Condition::StartsWith(prefix.clone()) };
            Ok(leaf(resolve(column, schema)?, condition, columns))
        }
    }
}

fn bind_in(field: &Field, values: &[Scalar], negated: bool, columns: &mut Vec<Column>) -> BoundNode {
    if negated {
        let conditions = values.iter().filter_map(|value| condition(field, CompareOp::NotEq, value));
        let leaves = conditions.map(|condition| leaf(field, condition, columns));
        return BoundNode::And(leaves.collect());
    }
    if values.is_empty() {
        return BoundNode::Drop;
    }
    if values.iter().all(|value| is_usable(field, value)) {
        leaf(field, Condition::any_of(values.to_vec()), columns)
    } else {
        BoundNode::Keep
    }
}

/// Returns the condition. `None` when bounds and partition values say nothing about it.
fn condition(field: &Field, op: CompareOp, value: &Scalar) -> Option<Condition> {
    if !is_usable(field, value) {
        return None;
    }
    // `x < 10` becomes `x <= 9`: the rows are the same, and a transform of 9 tells more than one of 10.
    let inclusive = match op {
        CompareOp::Lt => value.step(-1).map(|value| (CompareOp::LtEq, value)),
        CompareOp::Gt => value.step(1).map(|value| (CompareOp::GtEq, value)),
        _ => None,
    };
    let (op, value) = inclusive.unwrap_or_else(|| (op, value.clone()));
    Some(Condition::Compare(op, value))
}

fn is_usable(field: &Field, value: &Scalar) -> bool {
    value.fits(&field.ty) && !value.is_nan()
}

fn resolve<'a>(column: &str, schema: &'a Schema) -> Result<&'a Field> {
    schema.field(column).ok_or_else(|| Error::Invalid(format!("the table has no column {column} to filter by")))
}

fn leaf(field: &Field, condition: Condition, columns: &mut Vec<Column>) -> BoundNode {
    let known = columns.iter().position(|column| column.id == field.id);
    let column = known.unwrap_or_else(|| {
        columns.push(Column { id: field.id, name: field.name.clone() });
        columns.len() - 1
    });
    BoundNode::Leaf { column, condition }
}
