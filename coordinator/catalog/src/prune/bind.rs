//! Binding of a predicate: its columns are resolved, and its negations are pushed down to the
//! conditions. A bound predicate is then projected onto one partition spec.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::predicate::{CompareOp, Predicate};
use crate::prune::{Node, Op, PruneReason, Test};
use crate::scalar::Scalar;
use crate::types::{Field, PartitionField, Schema};

/// Bound predicate and the columns that it names.
#[derive(Debug)]
pub(crate) struct Bound {
    tree: Tree,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    id: i32,
    name: String,
}

#[derive(Debug)]
enum Tree {
    Keep,
    Drop,
    And(Vec<Tree>),
    Or(Vec<Tree>),
    Leaf { column: usize, op: Op },
}

/// Field of a partition spec, and the id of the column that it is made from.
#[derive(Debug, Clone)]
pub(crate) struct SpecField {
    pub(crate) source_id: i32,
    pub(crate) field: PartitionField,
}

impl Op {
    pub(crate) fn any_of(mut values: Vec<Scalar>) -> Op {
        values.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
        values.dedup();
        Op::In(values)
    }
}

impl Bound {
    /// Binds a predicate to a schema.
    ///
    /// # Errors
    /// Invalid: a column that the schema does not have.
    pub(crate) fn new(predicate: &Predicate, schema: &Schema) -> Result<Bound> {
        let mut columns = Vec::new();
        let tree = bind(predicate, false, schema, &mut columns)?;
        Ok(Bound { tree, columns })
    }

    /// Lists the ids of the named columns, in the order of their ranges after the spec's.
    pub(crate) fn column_ids(&self) -> impl Iterator<Item = i32> {
        self.columns.iter().map(|column| column.id)
    }

    /// Projects the predicate onto the ranges of this spec's fields, followed by those of the named columns.
    pub(crate) fn project(&self, spec: &[SpecField]) -> Node {
        self.project_tree(&self.tree, spec)
    }

    fn project_tree(&self, tree: &Tree, spec: &[SpecField]) -> Node {
        let project_all = |trees: &[Tree]| {
            let nodes = trees.iter().map(|tree| self.project_tree(tree, spec));
            nodes.collect()
        };
        match tree {
            Tree::Keep => Node::Keep,
            Tree::Drop => Node::Drop,
            Tree::And(trees) => Node::And(project_all(trees)),
            Tree::Or(trees) => Node::Or(project_all(trees)),
            Tree::Leaf { column, op } => Node::Tests(self.tests(*column, op, spec)),
        }
    }

    fn tests(&self, column: usize, op: &Op, spec: &[SpecField]) -> Vec<Test> {
        let Column { id, name } = &self.columns[column];
        let fields = spec.iter().enumerate();
        let partition_tests =
            fields.filter(|(_, field)| field.source_id == *id).filter_map(|(range, SpecField { field, .. })| {
                Some(Test { range, op: field.transform.project(op)?, reason: PruneReason::Partition(field.clone()) })
            });
        let column_test =
            Test { range: spec.len() + column, op: op.clone(), reason: PruneReason::Column(name.clone()) };
        partition_tests.chain([column_test]).collect()
    }
}

fn bind(predicate: &Predicate, negated: bool, schema: &Schema, columns: &mut Vec<Column>) -> Result<Tree> {
    let mut all = |predicates: &[Predicate]| -> Result<Vec<Tree>> {
        let trees = predicates.iter();
        trees.map(|p| bind(p, negated, schema, columns)).collect()
    };
    match predicate {
        // It may stand for anything, so that its negation may be true as well.
        Predicate::AlwaysTrue => Ok(Tree::Keep),
        Predicate::AlwaysFalse if negated => Ok(Tree::Keep),
        Predicate::AlwaysFalse => Ok(Tree::Drop),
        Predicate::And(children) if negated => Ok(Tree::Or(all(children)?)),
        Predicate::And(children) => Ok(Tree::And(all(children)?)),
        Predicate::Or(children) if negated => Ok(Tree::And(all(children)?)),
        Predicate::Or(children) => Ok(Tree::Or(all(children)?)),
        Predicate::Not(child) => bind(child, !negated, schema, columns),
        Predicate::Compare { column, op, value } => {
            let field = resolve(column, schema)?;
            let op = if negated { op.negate() } else { *op };
            Ok(match condition(field, op, value) {
                Some(op) => leaf(field, op, columns),
                None => Tree::Keep,
            })
        }
        Predicate::In { column, values, negated: not_in } => {
            let field = resolve(column, schema)?;
            Ok(bind_in(field, values, *not_in != negated, columns))
        }
        Predicate::IsNull { column, negated: not_null } => {
            let op = if *not_null != negated { Op::NotNull } else { Op::IsNull };
            Ok(leaf(resolve(column, schema)?, op, columns))
        }
        Predicate::StartsWith { column, prefix, negated: not_like } => {
            let op = if *not_like != negated { Op::NotNull } else { Op::StartsWith(prefix.clone()) };
            Ok(leaf(resolve(column, schema)?, op, columns))
        }
    }
}

fn bind_in(field: &Field, values: &[Scalar], negated: bool, columns: &mut Vec<Column>) -> Tree {
    if negated {
        let conditions = values.iter().filter_map(|value| condition(field, CompareOp::NotEq, value));
        let leaves = conditions.map(|op| leaf(field, op, columns));
        return Tree::And(leaves.collect());
    }
    if values.is_empty() {
        return Tree::Drop;
    }
    if values.iter().all(|value| is_usable(field, value)) {
        leaf(field, Op::any_of(values.to_vec()), columns)
    } else {
        Tree::Keep
    }
}

/// Returns the condition. `None` when bounds and partition values say nothing about it.
fn condition(field: &Field, op: CompareOp, value: &Scalar) -> Option<Op> {
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
    Some(Op::Compare(op, value))
}

fn is_usable(field: &Field, value: &Scalar) -> bool {
    value.fits(&field.ty) && !value.is_nan()
}

fn resolve<'a>(column: &str, schema: &'a Schema) -> Result<&'a Field> {
    schema.field(column).ok_or_else(|| Error::Invalid(format!("the table has no column {column} to filter by")))
}

fn leaf(field: &Field, op: Op, columns: &mut Vec<Column>) -> Tree {
    let known = columns.iter().position(|column| column.id == field.id);
    let column = known.unwrap_or_else(|| {
        columns.push(Column { id: field.id, name: field.name.clone() });
        columns.len() - 1
    });
    Tree::Leaf { column, op }
}
