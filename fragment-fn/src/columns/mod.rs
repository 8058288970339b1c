//! Matching of a data file's columns to an Iceberg table's by field id, never by name: a rename makes the name wrong.
//!
//! ```text
//!  table's expression ─► [`ColumnSource`]: nested columns, absent ones ─► DataFusion's adapter, under the table's names ─► the file's names
//! ```
//!
//! Ids count at every depth ([`nested`]). A column that cannot be matched is refused where a query reads it, and only there.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, Result};
use datafusion::functions::core::getfield::GetFieldFunc;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_expr_adapter::{DefaultPhysicalExprAdapter, PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_plan::PhysicalExpr;
use gust_protocol::FieldIdRules;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

mod constants;
mod ids;
mod nested;

pub use constants::FileConstants;
pub(crate) use constants::{noted, with_constants};

use constants::Constants;
use ids::{is_mapped, with_ids};
use nested::{ColumnShape, FieldShape, ReshapedColumn};

use crate::classify::find;
use crate::fault::{SchemaMismatch, mismatch_err};
use crate::read_as::naming_columns;

/// Factory of adapters for a table whose fields carry `PARQUET:field_id` metadata.
///
/// A field of the table takes the first that there is of: the file's own field with its id; the value that the file's partition
/// has ([`FileConstants`], which come with its footer); the file's field that the name mapping gives this id, where the file has
/// no ids; the table's initial default; NULL.
#[derive(Debug, Default)]
pub struct FieldIdMatching {
    rules: FieldIdRules,
}

impl FieldIdMatching {
    pub fn new(rules: FieldIdRules) -> Self {
        Self { rules }
    }
}

impl PhysicalExprAdapterFactory for FieldIdMatching {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let by_id: HashMap<i32, &FieldRef> =
            logical.fields().iter().filter_map(|field| Some((field_id(field)?, field))).collect();
        let constants = Constants::of(&physical, &self.rules.defaults)?;
        let with_ids = with_ids(&physical, &self.rules.names)?;
        let mut fields = Vec::with_capacity(physical.fields().len());
        let mut replacements = HashMap::new();
        let mut found = Vec::with_capacity(fields.capacity());
        for (index, (own, field)) in physical.fields().iter().zip(with_ids.fields()).enumerate() {
            // A column that the table does not have, or no longer has: no name of the table reaches it.
            let mut unknown = |what: String| fields.push(renamed(own, &format!("\u{0}{what}"), own));
            let Some(id) = field_id(field) else {
                unknown(format!("without id {index}"));
                continue;
            };
            if is_mapped(field) && constants.has(id) {
                // The partition's value comes before the name mapping.
                unknown(format!("of partition {index}"));
                continue;
            }
            if is_mapped(field) && found.contains(&id) {
                return mismatch_err!(
                    "two columns of a data file have the names of field id {id}: one is `{}`",
                    own.name()
                );
            }
            found.push(id);
            let Some(wanted) = by_id.get(&id) else {
                unknown(format!("dropped {id}"));
                continue;
            };
            let same = wanted.data_type() == field.data_type() && wanted.is_nullable() == field.is_nullable();
            if same {
                // The table's own field where only the name differs, so that no cast is planned.
                fields.push((*wanted).clone());
            } else if wanted.data_type().is_nested() || field.data_type().is_nested() {
                let name = format!("\u{0}nested {id}");
                let column = Arc::new(Column::new(&name, index));
                replacements.insert(wanted.name().clone(), ColumnSource::nested(wanted, field, column, &constants));
                fields.push(renamed(own, &name, own));
            } else {
                fields.push(renamed(own, wanted.name(), wanted));
            }
        }
        for (id, wanted) in by_id.iter().filter(|(id, _)| !found.contains(id)) {
            if let Some(absent) = ColumnSource::absent(*id, wanted, &constants) {
                replacements.insert(wanted.name().clone(), absent);
            }
        }
        let file_under_table_names = Arc::new(Schema::new_with_metadata(fields, physical.metadata().clone()));
        let inner = DefaultPhysicalExprAdapter::new(Arc::clone(&logical), Arc::clone(&file_under_table_names));
        Ok(Arc::new(ByFieldId { inner, table: logical, replacements, file_under_table_names, physical }))
    }
}

/// Replacement of the table's column in an expression.
#[derive(Debug)]
enum ColumnSource {
    Reshaped(ReshapedColumn),
    /// All rows of the file have this value.
    Constant(Literal),
    /// Reason why the file cannot be read as the table.
    Refused(SchemaMismatch),
}

impl ColumnSource {
    fn nested(wanted: &FieldRef, found: &Field, column: Arc<dyn PhysicalExpr>, constants: &Constants) -> Self {
        match ColumnShape::of(wanted, found, constants, wanted.name()) {
            Ok(shape) => Self::Reshaped(ReshapedColumn { found: column, field: Arc::clone(wanted), shape }),
            Err(error) => Self::refused(error),
        }
    }

    /// Replaces a column that the file lacks. None where DataFusion's own adapter is right: NULL, or an error where NULL is not
    /// allowed. A struct is NULL also where the partition has the value of a field in it.
    fn absent(id: i32, wanted: &FieldRef, constants: &Constants) -> Option<Self> {
        match constants.value(id, wanted) {
            Ok(value) if value.is_null() => None,
            Ok(value) => {
                Some(Self::Constant(Literal::new_with_metadata(value, Some(FieldMetadata::from(wanted.as_ref())))))
            }
            Err(error) => Some(Self::refused(error)),
        }
    }

    fn refused(error: DataFusionError) -> Self {
        let told = find::<SchemaMismatch>(&error).cloned();
        Self::Refused(told.unwrap_or_else(|| SchemaMismatch(error.strip_backtrace())))
    }

    fn expr(&self) -> Result<Arc<dyn PhysicalExpr>> {
        match self {
            Self::Reshaped(reshaped) => Ok(Arc::new(reshaped.clone())),
            Self::Constant(literal) => Ok(Arc::new(literal.clone())),
            Self::Refused(mismatch) => Err(mismatch.clone().into()),
        }
    }
}

/// Adapter that resolves columns under the table's names and then gives them the file's.
#[derive(Debug)]
struct ByFieldId {
    inner: DefaultPhysicalExprAdapter,
    table: SchemaRef,
    /// Replacements, by the table's column name.
    replacements: HashMap<String, ColumnSource>,
    /// Columns of the file under the names that `inner` knows.
    file_under_table_names: SchemaRef,
    physical: SchemaRef,
}

impl PhysicalExprAdapter for ByFieldId {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let replaced = expr.transform_down(|expr| self.replace(expr)).data()?;
        let own = self.inner.rewrite(replaced)?.transform_up(|expr| Ok(self.named_as_in_the_file(expr))).data()?;
        naming_columns(own, &self.physical, &self.table, |name| self.shown(name))
    }
}

impl ByFieldId {
    fn replace(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Transformed<Arc<dyn PhysicalExpr>>> {
        if let Some(part) = self.part_of_struct(expr.as_ref())? {
            return Ok(Transformed::yes(part));
        }
        let replacement = expr.downcast_ref::<Column>().and_then(|column| self.replacements.get(column.name()));
        match replacement {
            Some(replacement) => Ok(Transformed::yes(replacement.expr()?)),
            None => Ok(Transformed::no(expr)),
        }
    }

    /// Reads only `a.b` of the file for `s['a']['b']` of a struct that has to be reshaped, as DataFusion does for other structs.
    fn part_of_struct(&self, expr: &dyn PhysicalExpr) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let Some(access) = ScalarFunctionExpr::try_downcast_func::<GetFieldFunc>(expr) else { return Ok(None) };
        let Some((source, keys)) = access.args().split_first() else { return Ok(None) };
        let replacement = source.downcast_ref::<Column>().and_then(|column| self.replacements.get(column.name()));
        let Some(ColumnSource::Reshaped(reshaped)) = replacement else { return Ok(None) };
        let (mut field, mut shape, mut path) = (&reshaped.field, &reshaped.shape, Vec::new());
        let mut rest = keys;
        while let [key, further @ ..] = rest
            && let ColumnShape::Struct(parts) = shape
            && let DataType::Struct(fields) = field.data_type()
        {
            let key = key.downcast_ref::<Literal>().and_then(|key| key.value().try_as_str().flatten());
            let Some(position) = key.and_then(|key| fields.iter().position(|field| field.name() == key)) else {
                return Ok(None);
            };
            field = &fields[position];
            rest = further;
            match &parts[position] {
                FieldShape::Found { name, shape: inner } => {
                    path.push(Arc::new(Literal::new(name.as_str().into())) as Arc<dyn PhysicalExpr>);
                    shape = inner;
                }
                // It is NULL where its struct is, which the struct knows.
                FieldShape::Absent(value) if !value.is_null() => return Ok(None),
                FieldShape::Absent(value) => {
                    let literal = Literal::new_with_metadata(value.clone(), Some(FieldMetadata::from(field.as_ref())));
                    return self.get_field(access, Arc::new(literal), rest).map(Some);
                }
            }
        }
        if path.is_empty() {
            return Ok(None);
        }
        let found = self.get_field(access, Arc::clone(&reshaped.found), &path)?;
        // The fields of a NULL struct are NULL.
        let nullable = || Arc::new(field.as_ref().clone().with_nullable(true));
        let part: Arc<dyn PhysicalExpr> = match shape {
            ColumnShape::Same => found,
            ColumnShape::Cast => Arc::new(CastExpr::new_with_target_field(found, nullable(), None)),
            shape => Arc::new(ReshapedColumn { found, field: nullable(), shape: shape.clone() }),
        };
        self.get_field(access, part, rest).map(Some)
    }

    /// Makes `source` with the further keys of `access`. Without keys it is `source` itself.
    fn get_field(
        &self,
        access: &ScalarFunctionExpr,
        source: Arc<dyn PhysicalExpr>,
        keys: &[Arc<dyn PhysicalExpr>],
    ) -> Result<Arc<dyn PhysicalExpr>> {
        if keys.is_empty() {
            return Ok(source);
        }
        let arguments = std::iter::once(source).chain(keys.iter().cloned()).collect();
        let options = Arc::new(access.config_options().clone());
        let function = Arc::new(access.fun().clone());
        Ok(Arc::new(ScalarFunctionExpr::try_new(function, arguments, &self.file_under_table_names, options)?))
    }

    /// Returns the table's name of a file's column.
    fn shown(&self, name: &str) -> String {
        let index = self.physical.index_of(name);
        let named = index
            .map(|index| self.file_under_table_names.field(index).name())
            .ok()
            .filter(|name| !name.starts_with('\0'));
        named.map_or_else(|| name.to_owned(), String::clone)
    }

    fn named_as_in_the_file(&self, expr: Arc<dyn PhysicalExpr>) -> Transformed<Arc<dyn PhysicalExpr>> {
        let Some(column) = expr.downcast_ref::<Column>() else { return Transformed::no(expr) };
        let name = self.physical.field(column.index()).name();
        if name == column.name() {
            return Transformed::no(expr);
        }
        Transformed::yes(Arc::new(Column::new(name, column.index())))
    }
}

/// Returns the Iceberg id of a field.
pub(crate) fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
}

fn renamed(field: &FieldRef, name: &str, metadata_of: &Field) -> FieldRef {
    Arc::new(field.as_ref().clone().with_name(name).with_metadata(metadata_of.metadata().clone()))
}

#[cfg(test)]
mod tests;
