//! Iceberg's types and values as Arrow's, and back.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use gust_catalog::{Scalar, Type};
use gust_protocol::{ColumnMatching, FieldIdRules};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use crate::tables::facts::MATCHING_KEY;

/// Makes the Arrow schema of a table. A field's metadata has its field id, the schema's has the way of matching.
pub(super) fn arrow_schema(schema: &gust_catalog::Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields.iter().map(|field| arrow_field(field, true)).collect();
    let matching = serde_json::to_string(&ColumnMatching::FieldId(FieldIdRules::default())).unwrap_or_default();
    let metadata = HashMap::from([(MATCHING_KEY.to_owned(), matching)]);
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

fn arrow_field(field: &gust_catalog::Field, top: bool) -> FieldRef {
    let data_type = arrow_type(&field.ty, top);
    let metadata = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), field.id.to_string())]);
    Arc::new(Field::new(&field.name, data_type, !field.required).with_metadata(metadata))
}

/// Returns the Arrow type of a type. Strings and binaries at the top are views, as DataFusion reads them from Parquet
/// by default.
fn arrow_type(ty: &Type, top: bool) -> DataType {
    let nested = |field| arrow_field(field, false);
    match ty {
        Type::Boolean => DataType::Boolean,
        Type::Int => DataType::Int32,
        Type::Long => DataType::Int64,
        Type::Float => DataType::Float32,
        Type::Double => DataType::Float64,
        Type::Decimal { precision, scale } => DataType::Decimal128(*precision as u8, *scale as i8),
        Type::Date => DataType::Date32,
        Type::Time => DataType::Time64(TimeUnit::Microsecond),
        Type::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Type::TimestampNs => DataType::Timestamp(TimeUnit::Nanosecond, None),
        Type::TimestamptzNs => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        Type::String if top => DataType::Utf8View,
        Type::String => DataType::Utf8,
        Type::Binary if top => DataType::BinaryView,
        Type::Binary => DataType::Binary,
        Type::Unknown => DataType::Null,
        Type::Uuid => DataType::FixedSizeBinary(16),
        Type::Fixed(bytes) => DataType::FixedSizeBinary(i32::try_from(*bytes).unwrap_or(i32::MAX)),
        Type::Struct(fields) => DataType::Struct(fields.iter().map(nested).collect::<Fields>()),
        Type::List(element) => DataType::List(nested(element)),
        Type::Map(key, value) => {
            let entries = DataType::Struct(Fields::from(vec![nested(key), nested(value)]));
            DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
        }
    }
}

/// Returns a literal in the kind of a column's type, or None if the type cannot hold it.
pub(super) fn scalar(value: &ScalarValue, ty: &Type) -> Option<Scalar> {
    let value = value.cast_to(&arrow_type(ty, true)).ok()?;
    Some(match (value, ty) {
        (ScalarValue::Boolean(Some(v)), _) => Scalar::Boolean(v),
        (ScalarValue::Int32(Some(v)), _) => Scalar::Int(v),
        (ScalarValue::Int64(Some(v)), _) => Scalar::Long(v),
        (ScalarValue::Float32(Some(v)), _) => Scalar::Float(v),
        (ScalarValue::Float64(Some(v)), _) => Scalar::Double(v),
        (ScalarValue::Decimal128(Some(unscaled), _, _), Type::Decimal { precision, scale }) => {
            Scalar::Decimal { unscaled, precision: *precision, scale: *scale }
        }
        (ScalarValue::Date32(Some(v)), _) => Scalar::Date(v),
        (ScalarValue::Time64Microsecond(Some(v)), _) => Scalar::Time(v),
        (ScalarValue::TimestampMicrosecond(Some(v), None), _) => Scalar::Timestamp(v),
        (ScalarValue::TimestampMicrosecond(Some(v), Some(_)), _) => Scalar::Timestamptz(v),
        (ScalarValue::TimestampNanosecond(Some(v), None), _) => Scalar::TimestampNs(v),
        (ScalarValue::TimestampNanosecond(Some(v), Some(_)), _) => Scalar::TimestamptzNs(v),
        (ScalarValue::Utf8View(Some(v)), _) => Scalar::String(v),
        (ScalarValue::BinaryView(Some(v)), _) => Scalar::Binary(v),
        (ScalarValue::FixedSizeBinary(16, Some(v)), Type::Uuid) => {
            Scalar::Uuid(u128::from_be_bytes(v.try_into().ok()?))
        }
        (ScalarValue::FixedSizeBinary(_, Some(v)), _) => Scalar::Fixed(v),
        _ => return None,
    })
}

/// Returns a bound as the engine's value, in the column's type. A kind whose order does not help the engine has None.
pub(super) fn engine_scalar(value: &Scalar, column: &DataType) -> Option<ScalarValue> {
    match value {
        Scalar::Uuid(_) | Scalar::Fixed(_) | Scalar::Binary(_) => None,
        value => engine_value(value).cast_to(column).ok(),
    }
}

/// Returns any value as the engine's, in the type that its kind has at the top of a table.
pub(super) fn engine_value(value: &Scalar) -> ScalarValue {
    match value {
        Scalar::Boolean(v) => ScalarValue::from(*v),
        Scalar::Int(v) => ScalarValue::from(*v),
        Scalar::Long(v) => ScalarValue::from(*v),
        Scalar::Float(v) => ScalarValue::from(*v),
        Scalar::Double(v) => ScalarValue::from(*v),
        Scalar::Decimal { unscaled, precision, scale } => {
            ScalarValue::Decimal128(Some(*unscaled), *precision as u8, *scale as i8)
        }
        Scalar::Date(v) => ScalarValue::Date32(Some(*v)),
        Scalar::Time(v) => ScalarValue::Time64Microsecond(Some(*v)),
        Scalar::Timestamp(v) => ScalarValue::TimestampMicrosecond(Some(*v), None),
        Scalar::Timestamptz(v) => ScalarValue::TimestampMicrosecond(Some(*v), Some("UTC".into())),
        Scalar::TimestampNs(v) => ScalarValue::TimestampNanosecond(Some(*v), None),
        Scalar::TimestamptzNs(v) => ScalarValue::TimestampNanosecond(Some(*v), Some("UTC".into())),
        Scalar::String(v) => ScalarValue::Utf8View(Some(v.clone())),
        Scalar::Uuid(v) => ScalarValue::FixedSizeBinary(16, Some(v.to_be_bytes().to_vec())),
        Scalar::Fixed(v) => ScalarValue::FixedSizeBinary(i32::try_from(v.len()).unwrap_or(i32::MAX), Some(v.clone())),
        Scalar::Binary(v) => ScalarValue::BinaryView(Some(v.clone())),
    }
}
