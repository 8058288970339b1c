//! Columns and rows as PostgreSQL has them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_pg::datatypes::field_into_pg_type;
use bytes::{BufMut, BytesMut};
use pgwire::api::Type;
use pgwire::api::results::{FieldFormat, FieldInfo};
use pgwire::messages::data::{DataRow, FieldDescription, ParameterDescription, RowDescription};

use super::answers::Told;
use super::numeric::binary_numeric;
use super::values::{fault, sized, with_size};

/// SQLSTATE codes of PostgreSQL.
const PROTOCOL: &str = "08P01";
const FAULT: &str = "XX000";

/// Columns of rows as a client reads them.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    fields: Arc<Vec<FieldInfo>>,
    /// Ways from Arrow's values.
    ways: Arc<[Way]>,
}

/// Way of a column's values to the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// Values of a type that PostgreSQL has.
    AsIs,
    /// Decimal numbers of any size.
    Decimal,
    /// Text in the command line's form, because PostgreSQL has no such type.
    Text,
}

impl Columns {
    /// Returns the columns of a schema. There is no format, one for all, or one for each.
    pub(super) fn new(schema: &Schema, formats: &[i16]) -> Result<Self, Told> {
        let count = schema.fields().len();
        if formats.len() > 1 && formats.len() != count {
            let given = formats.len();
            return Err(Told::new(PROTOCOL, format!("{given} formats are given, and the rows have {count} columns")));
        }
        let mut fields = Vec::with_capacity(count);
        let mut ways = Vec::with_capacity(count);
        for (index, field) in schema.fields().iter().enumerate() {
            let (pg_type, way) = type_of(field);
            let code = formats.get(index).or(formats.first()).copied().unwrap_or_default();
            let size = size_of(&pg_type);
            let info = FieldInfo::new(field.name().clone(), None, None, pg_type, FieldFormat::from(code));
            fields.push(info.with_type_size(size));
            ways.push(way);
        }
        Ok(Self { fields: Arc::new(fields), ways: ways.into() })
    }

    pub(super) fn description(&self) -> RowDescription {
        RowDescription::new(self.fields.iter().map(FieldDescription::from).collect())
    }

    /// Tells if a client that was told these columns can read those.
    pub(super) fn are_like(&self, others: &Self) -> bool {
        let types = |columns: &Self| columns.fields.iter().map(|field| field.datatype().oid()).collect::<Vec<_>>();
        types(self) == types(others)
    }

    /// Begins to write a batch.
    pub(super) fn rows(&self, batch: &RecordBatch) -> Result<Rows, Told> {
        let arrays = batch.columns().iter().zip(self.ways.iter()).map(|(array, way)| way.prepared(array));
        let arrays = arrays.collect::<Result<Vec<_>, _>>().map_err(|error| Told::new(FAULT, error.to_string()))?;
        let schema = batch.schema_ref();
        let fields = arrays.iter().zip(schema.fields());
        let fields = fields.map(|(array, field)| field.as_ref().clone().with_data_type(array.data_type().clone()));
        Ok(Rows {
            fields: fields.collect(),
            // Arrays without a place for NULL of their own have it as well.
            nulls: arrays.iter().map(|array| array.logical_nulls()).collect(),
            arrays,
            columns: self.clone(),
            next: 0,
            count: batch.num_rows(),
        })
    }
}

/// Describes the types of parameters.
pub(super) fn parameter_description(types: &[Type]) -> ParameterDescription {
    ParameterDescription::new(types.iter().map(Type::oid).collect())
}

/// Returns the type of a column for a client.
pub(super) fn pg_type(data_type: &DataType) -> Type {
    type_of(&Arc::new(Field::new("", data_type.clone(), true))).0
}

fn type_of(field: &Arc<Field>) -> (Type, Way) {
    match field.data_type() {
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..)
        | DataType::UInt64 => (Type::NUMERIC, Way::Decimal),
        DataType::Null => (Type::TEXT, Way::Text),
        data_type if has_no_type(data_type) => (Type::TEXT, Way::Text),
        _ => field_into_pg_type(field).map_or((Type::TEXT, Way::Text), |found| (found, Way::AsIs)),
    }
}

/// Tells if PostgreSQL has no type for values of this one, or the crate no way to it.
fn has_no_type(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => fields.iter().any(|field| has_no_type(field.data_type())),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            item.data_type().is_nested() || has_no_type(item.data_type())
        }
        DataType::Dictionary(_, value) => has_no_type(value),
        DataType::Map(..)
        | DataType::ListView(..)
        | DataType::LargeListView(..)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..)
        | DataType::Float16
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => true,
        _ => false,
    }
}

fn size_of(pg_type: &Type) -> i16 {
    match *pg_type {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => 8,
        Type::INTERVAL => 16,
        _ => -1,
    }
}

impl Way {
    /// Returns an array that can be written.
    fn prepared(&self, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        match (self, array.data_type()) {
            (Self::AsIs, DataType::Dictionary(_, value)) => cast(array, value),
            _ => Ok(Arc::clone(array)),
        }
    }
}

/// Rows of a batch.
pub(super) struct Rows {
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
    nulls: Vec<Option<NullBuffer>>,
    columns: Columns,
    next: usize,
    count: usize,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("next", &self.next).field("count", &self.count).finish_non_exhaustive()
    }
}

impl Rows {
    /// Passes the next row; false at the end.
    pub(super) fn skip(&mut self) -> bool {
        let has_one = self.next < self.count;
        self.next += usize::from(has_one);
        has_one
    }

    /// Writes the next row; None at the end.
    pub(super) fn next(&mut self) -> Option<Result<DataRow, Told>> {
        let row = self.next;
        self.skip().then(|| self.row(row))
    }

    fn row(&self, row: usize) -> Result<DataRow, Told> {
        let mut data = BytesMut::new();
        for (index, (array, told)) in self.arrays.iter().zip(self.columns.fields.iter()).enumerate() {
            if self.nulls[index].as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                data.put_i32(-1);
                continue;
            }
            match self.columns.ways[index] {
                Way::AsIs => sized(array, row, &self.fields[index], told, &mut data)?,
                Way::Decimal if told.format() == FieldFormat::Binary => {
                    let digits = text(array, row)?;
                    let written = |out: &mut BytesMut| {
                        let written = binary_numeric(&digits, out);
                        written
                            .map(|()| true)
                            .ok_or_else(|| Told::new(FAULT, format!("`{digits}` is no decimal number")))
                    };
                    with_size(&mut data, written)?;
                }
                Way::Decimal | Way::Text => {
                    let text = text(array, row)?;
                    data.put_i32(i32::try_from(text.len()).map_err(|error| fault(&error))?);
                    data.put_slice(text.as_bytes());
                }
            }
        }
        Ok(DataRow::new(data, self.arrays.len() as i16))
    }
}

fn text(array: &ArrayRef, row: usize) -> Result<String, Told> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array.as_ref(), &options);
    let text = formatter.and_then(|formatter| formatter.value(row).try_to_string());
    text.map_err(|error| fault(&error))
}
