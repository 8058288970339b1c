//! Matching of a bare Parquet file's columns to a table's by name. Types may differ, but no value becomes another unseen.
//!
//! DataFusion's own adapter casts whatever arrow can cast: 1.9 to 1, a number to a time of that many nanoseconds, and the
//! fields of a map's structs by their place. Here these are errors that name the column and both types. A value that is
//! cast has one of three fates:
//!
//! - it stays the same;
//! - it is rounded as CAST rounds to a precision that the table asks for: a DOUBLE that no FLOAT equals, a BIGINT above
//!   2^53 as DOUBLE;
//! - it is an error where it does not fit: an INT of a large BIGINT, a FLOAT of 1e300, at the top or inside lists, maps and
//!   structs.
//!
//! A column that a file lacks is NULL. Two columns of one name are refused.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{DefaultPhysicalExprAdapter, PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_plan::PhysicalExpr;

use crate::fault::mismatch_err;
use crate::read_as::naming_columns;

/// Makes adapters for tables without field ids.
#[derive(Debug, Clone, Copy, Default)]
pub struct NameMatching;

impl PhysicalExprAdapterFactory for NameMatching {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        if let Some(column) = repeated_name(&physical) {
            return mismatch_err!("the file has two columns named `{column}`");
        }
        let inner = DefaultPhysicalExprAdapter::new(Arc::clone(&logical), Arc::clone(&physical));
        Ok(Arc::new(ByName { inner, logical, physical }))
    }
}

#[derive(Debug)]
struct ByName {
    inner: DefaultPhysicalExprAdapter,
    logical: SchemaRef,
    physical: SchemaRef,
}

impl PhysicalExprAdapter for ByName {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        expr.apply(|expr| {
            if let Some(column) = expr.downcast_ref::<Column>() {
                self.check(column.name())?;
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        naming_columns(self.inner.rewrite(expr)?, &self.physical, &self.logical, str::to_owned)
    }
}

impl ByName {
    fn check(&self, column: &str) -> Result<()> {
        let fields = (self.physical.column_with_name(column), self.logical.column_with_name(column));
        let (Some((_, found)), Some((_, wanted))) = fields else { return Ok(()) };
        if fits(found.data_type(), wanted.data_type()) {
            return Ok(());
        }
        mismatch_err!("column `{column}` is {} in the file and {} in the table", found.data_type(), wanted.data_type())
    }
}

/// Returns the name of a column that stands twice, or of a column whose struct has a field twice.
pub fn repeated_name(schema: &Schema) -> Option<String> {
    repeated(schema.fields()).map(str::to_owned)
}

fn repeated(fields: &Fields) -> Option<&str> {
    let mut seen = HashSet::new();
    let own = fields.iter().find(|field| !seen.insert(field.name())).map(|field| field.name().as_str());
    own.or_else(|| fields.iter().find_map(|field| repeated_below(field)))
}

fn repeated_below(field: &FieldRef) -> Option<&str> {
    match field.data_type() {
        DataType::Struct(fields) => repeated(fields),
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) | DataType::Map(of, _) => {
            repeated_below(of)
        }
        _ => None,
    }
}

/// Returns true where a cast from one type to the other keeps each value or fails.
fn fits(found: &DataType, wanted: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Boolean, Date32, Date64, Dictionary, FixedSizeBinary, FixedSizeList, LargeBinary,
        LargeList, List, Map, Null, Struct, Time32, Time64, Timestamp,
    };
    let is_binary = |t: &DataType| matches!(t, Binary | LargeBinary | BinaryView | FixedSizeBinary(_));
    match (found, wanted) {
        (found, wanted) if found == wanted => true,
        (Null, _) => true,
        (Dictionary(_, found), wanted) => fits(found, wanted),
        (found, Dictionary(_, wanted)) => fits(found, wanted),
        (Struct(found), Struct(wanted)) => by_name(found, wanted),
        (List(found), List(wanted)) | (LargeList(found), LargeList(wanted)) => {
            fits(found.data_type(), wanted.data_type())
        }
        (FixedSizeList(found, size), FixedSizeList(wanted, same)) if size == same => {
            fits(found.data_type(), wanted.data_type())
        }
        // Fields below are matched by place.
        (List(found) | LargeList(found) | FixedSizeList(found, _), List(wanted) | LargeList(wanted))
        | (Map(found, _), Map(wanted, _)) => {
            same_places(found.data_type(), wanted.data_type()) && fits(found.data_type(), wanted.data_type())
        }
        (found, wanted) if found.is_nested() || wanted.is_nested() => false,
        (_, wanted) if wanted.is_string() => true,
        // A text is parsed, or the cast fails.
        (found, _) if found.is_string() => true,
        (found, wanted) if is_binary(found) && is_binary(wanted) => true,
        (found, wanted) if found.is_numeric() && wanted.is_integer() => found.is_integer() || is_whole(found),
        (found, wanted) if found.is_numeric() && wanted.is_numeric() => true,
        (Boolean, wanted) => wanted.is_numeric(),
        (Date32 | Date64, Date32 | Date64 | Timestamp(_, _)) => true,
        (Timestamp(_, _), Timestamp(_, _)) => true,
        (Time32(_) | Time64(_), Time32(_) | Time64(_)) => true,
        _ => false,
    }
}

fn is_whole(decimal: &DataType) -> bool {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    matches!(decimal, Decimal32(_, s) | Decimal64(_, s) | Decimal128(_, s) | Decimal256(_, s) if *s <= 0)
}

fn by_name(found: &Fields, wanted: &Fields) -> bool {
    wanted.iter().all(|field| found.find(field.name()).is_none_or(|(_, own)| fits(own.data_type(), field.data_type())))
}

/// Returns true where structs at the same depth have the same fields in the same order. A map's entries may have any names.
fn same_places(found: &DataType, wanted: &DataType) -> bool {
    use DataType::{FixedSizeList, LargeList, List, Map, Struct};
    match (found, wanted) {
        (Struct(found), Struct(wanted)) => {
            found.len() == wanted.len()
                && found.iter().zip(wanted).all(|(found, wanted)| {
                    let is_entry = |name: &str| matches!(name, "key" | "keys" | "value" | "values");
                    let same_name =
                        found.name() == wanted.name() || (is_entry(found.name()) && is_entry(wanted.name()));
                    same_name && same_places(found.data_type(), wanted.data_type())
                })
        }
        (
            List(found) | LargeList(found) | FixedSizeList(found, _) | Map(found, _),
            List(wanted) | LargeList(wanted) | FixedSizeList(wanted, _) | Map(wanted, _),
        ) => same_places(found.data_type(), wanted.data_type()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, TimeUnit};

    use super::*;
    use DataType::*;

    #[track_caller]
    fn check(found: &DataType, wanted: &DataType, expect: bool) {
        assert_eq!(fits(found, wanted), expect, "{found} as {wanted}");
    }

    fn structure(fields: &[(&str, DataType)]) -> DataType {
        Struct(fields.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect())
    }

    fn map(value: DataType) -> DataType {
        Map(Arc::new(Field::new("entries", structure(&[("key", Utf8), ("value", value)]), false)), false)
    }

    #[test]
    fn no_value_becomes_another_unseen() {
        let micros = Timestamp(TimeUnit::Microsecond, None);
        for (found, wanted) in [
            (Int32, Int64),
            (Int64, Int32),
            (Int64, Float64),
            (Float64, Float32),
            (Decimal128(10, 4), Decimal128(10, 2)),
            (Decimal128(10, 0), Int64),
            (Utf8View, Int32),
            (Int32, Utf8View),
            (Date32, micros.clone()),
            (micros.clone(), Timestamp(TimeUnit::Nanosecond, None)),
            (Boolean, Int32),
            (Dictionary(Box::new(Int8), Box::new(Utf8)), Utf8View),
            (structure(&[("a", Int32)]), structure(&[("b", Utf8), ("a", Int64)])),
            (map(structure(&[("a", Int32)])), map(structure(&[("a", Int64)]))),
        ] {
            check(&found, &wanted, true);
        }
        for (found, wanted) in [
            (Float64, Int32),
            (Decimal128(10, 2), Int32),
            (Int64, micros.clone()),
            (micros.clone(), Int64),
            (micros, Date32),
            (Int32, Date32),
            (Int32, Boolean),
            (structure(&[("a", Float64)]), structure(&[("a", Int64)])),
            (map(structure(&[("b", Int32)])), map(structure(&[("a", Int32)]))),
            (map(structure(&[("a", Int32), ("b", Int32)])), map(structure(&[("b", Int32), ("a", Int32)]))),
            (Int32, structure(&[("a", Int32)])),
        ] {
            check(&found, &wanted, false);
        }
    }

    #[test]
    fn a_repeated_name_is_found_at_any_depth() {
        let schema = |fields: &[(&str, DataType)]| {
            Schema::new(fields.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect::<Vec<_>>())
        };
        assert_eq!(repeated_name(&schema(&[("a", Int32), ("A", Int32)])), None);
        assert_eq!(repeated_name(&schema(&[("a", Int32), ("b", Int32), ("a", Int64)])), Some("a".to_owned()));
        let twice = structure(&[("x", Int32), ("x", Int32)]);
        let list = List(Arc::new(Field::new("item", twice, true)));
        assert_eq!(repeated_name(&schema(&[("a", list)])), Some("x".to_owned()));
    }
}
