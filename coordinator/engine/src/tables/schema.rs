//! Iceberg's types and values as Arrow's, and back.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use fragment_fn::with_optional_fields;
use gust_catalog::{InitialDefault, MappedField, Scalar, Table, Type};
use gust_protocol::plan::encode_scalar;
use gust_protocol::{Base64, ColumnMatching, FieldIdRules, MappedName};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use crate::tables::facts::MATCHING_KEY;

/// Makes the Arrow schema of a table. A field's metadata has its field id, the schema's has the way of matching.
///
/// # Errors
/// Initial defaults that are no values of their columns.
pub(super) fn arrow_schema(table: &Table) -> Result<SchemaRef> {
    let fields: Vec<FieldRef> = table.schema().fields.iter().map(column).collect();
    let names = table.name_mapping().unwrap_or_default().iter().map(mapped_name).collect();
    let defaults = table.initial_defaults().into_iter().map(|(field, default)| initial_default(table, field, default));
    let rules = FieldIdRules { names, defaults: defaults.collect::<Result<_>>()? };
    let matching = serde_json::to_string(&ColumnMatching::FieldId(rules));
    let matching = matching.map_err(|error| DataFusionError::External(Box::new(error)))?;
    let metadata = HashMap::from([(MATCHING_KEY.to_owned(), matching)]);
    Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
}

/// Puts columns behind those of a table that only its deletes still know. No statement has their names.
pub(super) fn with_dropped(table: &SchemaRef, dropped: &[gust_catalog::Field]) -> SchemaRef {
    if dropped.is_empty() {
        return Arc::clone(table);
    }
    let hidden = dropped.iter().map(|dropped| {
        let field = arrow_field(dropped, true).as_ref().clone();
        with_optional_fields(&Arc::new(field.with_name(format!("\u{0}key {}", dropped.id)).with_nullable(true)))
    });
    let fields: Vec<FieldRef> = table.fields().iter().cloned().chain(hidden).collect();
    Arc::new(Schema::new_with_metadata(fields, table.metadata().clone()))
}

fn mapped_name(field: &MappedField) -> MappedName {
    MappedName { id: field.id, names: field.names.clone(), fields: field.fields.iter().map(mapped_name).collect() }
}

/// Encodes an initial default, by the field's id.
fn initial_default(table: &Table, field: &gust_catalog::Field, default: &InitialDefault) -> Result<(i32, Base64)> {
    let value = match default {
        // Any value says so.
        InitialDefault::OfItsFields => Some(ScalarValue::from(true)),
        InitialDefault::Text(text) => default_value(text, &field.ty),
    };
    let Some(value) = value else {
        let error = gust_catalog::Error::Unsupported {
            table: table.name().to_owned(),
            feature: format!("column {} with an initial default that is no {}", field.name, field.ty),
            next: "rewrite the data files that were written before the column was added",
        };
        return Err(DataFusionError::External(Box::new(error)));
    };
    Ok((field.id, encode_scalar(&value).map_err(DataFusionError::Plan)?))
}

/// Reads a value as the specification writes it in JSON. None where it is no value of the type.
fn default_value(text: &str, ty: &Type) -> Option<ScalarValue> {
    let data_type = arrow_type(ty, true);
    let value = match ty {
        Type::Uuid | Type::Fixed(_) => {
            let bytes = hex(&text.replace('-', ""))?;
            ScalarValue::FixedSizeBinary(i32::try_from(bytes.len()).ok()?, Some(bytes))
        }
        Type::Binary => ScalarValue::BinaryView(Some(hex(text)?)),
        _ => ScalarValue::from(text).cast_to(&data_type).ok()?,
    };
    (value.data_type() == data_type && !value.is_null()).then_some(value)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// Makes a table's column.
fn column(field: &gust_catalog::Field) -> FieldRef {
    with_optional_fields(&arrow_field(field, true))
}

fn arrow_field(field: &gust_catalog::Field, top: bool) -> FieldRef {
    let data_type = arrow_type(&field.ty, top);
    let metadata = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), field.id.to_string())]);
    Arc::new(Field::new(&field.name, data_type, !field.required).with_metadata(metadata))
}

/// Returns the Arrow type of a type. Strings and binaries at the top are views, as DataFusion reads them from Parquet
/// by default.
pub(super) fn arrow_type(ty: &Type, top: bool) -> DataType {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_defaults_are_read_as_the_specification_writes_them() {
        let check = |text: &str, ty: Type, expect: Option<ScalarValue>| {
            assert_eq!(default_value(text, &ty), expect, "{text} as {ty}");
        };
        let fixed = |bytes: &[u8]| Some(ScalarValue::FixedSizeBinary(bytes.len() as i32, Some(bytes.to_vec())));
        check("true", Type::Boolean, Some(ScalarValue::from(true)));
        check("-7", Type::Int, Some(ScalarValue::from(-7_i32)));
        check("5000000000", Type::Int, None);
        check("x", Type::Long, None);
        check("1.5", Type::Float, Some(ScalarValue::from(1.5_f32)));
        check("14.20", Type::Decimal { precision: 4, scale: 2 }, Some(ScalarValue::Decimal128(Some(1420), 4, 2)));
        check("1969-12-31", Type::Date, Some(ScalarValue::Date32(Some(-1))));
        check("22:31:08.123456", Type::Time, Some(ScalarValue::Time64Microsecond(Some(81_068_123_456))));
        check(
            "1970-01-01T00:00:01.000002",
            Type::Timestamp,
            Some(ScalarValue::TimestampMicrosecond(Some(1_000_002), None)),
        );
        check(
            "1970-01-01T00:00:01.000002+00:00",
            Type::Timestamptz,
            Some(ScalarValue::TimestampMicrosecond(Some(1_000_002), Some("UTC".into()))),
        );
        check(
            "1970-01-01T00:00:01.000000003",
            Type::TimestampNs,
            Some(ScalarValue::TimestampNanosecond(Some(1_000_000_003), None)),
        );
        check("no date", Type::Timestamp, None);
        check("", Type::String, Some(ScalarValue::Utf8View(Some(String::new()))));
        check("0aFF", Type::Binary, Some(ScalarValue::BinaryView(Some(vec![10, 255]))));
        check("0a0", Type::Binary, None);
        check("0aff", Type::Fixed(2), fixed(&[10, 255]));
        check("0aff", Type::Fixed(3), None);
        check("00000000-0000-0000-0000-0000000000ff", Type::Uuid, fixed(&[[0; 15].as_slice(), &[255]].concat()));
        check("ff", Type::Uuid, None);
    }
}
