//! Columns and rows as PostgreSQL has them.

use std::error::Error;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_pg::datatypes::field_into_pg_type;
use arrow_pg::encoder::encode_value;
use bytes::{BufMut, BytesMut};
use pgwire::api::Type;
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo};
use pgwire::error::PgWireError;
use pgwire::messages::data::{DataRow, FieldDescription, ParameterDescription, RowDescription};
use pgwire::types::ToSqlText;
use pgwire::types::format::FormatOptions as PgFormatOptions;
use postgres_types::{IsNull, ToSql, to_sql_checked};

use super::answers::Told;
use super::numeric::binary_numeric;

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
    /// As the crate writes them.
    AsIs,
    /// Decimal numbers of any size.
    Decimal,
    /// As the command line writes them, because PostgreSQL has no such type.
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
            arrays,
            columns: self.clone(),
            encoder: DataRowEncoder::new(Arc::clone(&self.fields)),
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
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => item.data_type().is_nested() || has_no_type(item.data_type()),
        DataType::Dictionary(_, value) => has_no_type(value),
        DataType::Map(..)
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
    columns: Columns,
    encoder: DataRowEncoder,
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
        self.skip().then(|| self.row(row).map_err(told))
    }

    fn row(&mut self, row: usize) -> Result<DataRow, PgWireError> {
        let columns =
            self.arrays.iter().zip(&self.fields).zip(self.columns.ways.iter()).zip(self.columns.fields.iter());
        for (((array, field), way), told) in columns {
            match way {
                Way::AsIs => encode_value(&mut self.encoder, array, row, field, told)?,
                Way::Decimal | Way::Text if array.is_null(row) => self.encoder.encode_field(&None::<&str>)?,
                Way::Decimal => self.encoder.encode_field(&Decimal(text(array, row)?))?,
                Way::Text => self.encoder.encode_field(&text(array, row)?)?,
            }
        }
        Ok(self.encoder.take_row())
    }
}

fn text(array: &ArrayRef, row: usize) -> Result<String, PgWireError> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array.as_ref(), &options);
    let text = formatter.and_then(|formatter| formatter.value(row).try_to_string());
    text.map_err(|error| PgWireError::ApiError(error.into()))
}

fn told(error: PgWireError) -> Told {
    let info = pgwire::error::ErrorInfo::from(error);
    Told::new(FAULT, format!("a value cannot be sent: {}", info.message))
        .with_hint("cast the column, for example to text")
}

/// Decimal number in digits.
#[derive(Debug)]
struct Decimal(String);

impl ToSql for Decimal {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        binary_numeric(&self.0, out).ok_or("it is no decimal number")?;
        Ok(IsNull::No)
    }

    fn accepts(pg_type: &Type) -> bool {
        *pg_type == Type::NUMERIC
    }

    to_sql_checked!();
}

impl ToSqlText for Decimal {
    fn to_sql_text(
        &self,
        _: &Type,
        out: &mut BytesMut,
        _: &PgFormatOptions,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}
