//! Our types as iceberg's, for what is written.

use std::sync::Arc;

use iceberg::spec as ice;

use crate::scalar::Scalar;
use crate::types::{Field, Schema, Transform, Type};

fn primitive_type(primitive: &ice::PrimitiveType) -> Type {
    match *primitive {
        ice::PrimitiveType::Boolean => Type::Boolean,
        ice::PrimitiveType::Int => Type::Int,
        ice::PrimitiveType::Long => Type::Long,
        ice::PrimitiveType::Float => Type::Float,
        ice::PrimitiveType::Double => Type::Double,
        ice::PrimitiveType::Decimal { precision, scale } => Type::Decimal { precision, scale },
        ice::PrimitiveType::Date => Type::Date,
        ice::PrimitiveType::Time => Type::Time,
        ice::PrimitiveType::Timestamp => Type::Timestamp,
        ice::PrimitiveType::Timestamptz => Type::Timestamptz,
        ice::PrimitiveType::TimestampNs => Type::TimestampNs,
        ice::PrimitiveType::TimestamptzNs => Type::TimestamptzNs,
        ice::PrimitiveType::String => Type::String,
        ice::PrimitiveType::Uuid => Type::Uuid,
        ice::PrimitiveType::Fixed(bytes) => Type::Fixed(bytes),
        ice::PrimitiveType::Binary => Type::Binary,
    }
}

/// Converts a schema.
///
/// # Errors
/// Duplicate names or ids, a type that iceberg does not know, and any other fault that it finds in a schema.
pub(crate) fn to_schema(schema: &Schema) -> iceberg::Result<ice::Schema> {
    ice::Schema::builder().with_fields(to_fields(&schema.fields)?).build()
}

fn to_fields(fields: &[Field]) -> iceberg::Result<Vec<ice::NestedFieldRef>> {
    fields.iter().map(to_field).collect()
}

fn to_field(field: &Field) -> iceberg::Result<ice::NestedFieldRef> {
    let ty = to_type(&field.ty)?;
    Ok(Arc::new(ice::NestedField::new(field.id, &field.name, ty, field.required)))
}

fn to_type(ty: &Type) -> iceberg::Result<ice::Type> {
    Ok(ice::Type::Primitive(match ty {
        Type::Boolean => ice::PrimitiveType::Boolean,
        Type::Int => ice::PrimitiveType::Int,
        Type::Long => ice::PrimitiveType::Long,
        Type::Float => ice::PrimitiveType::Float,
        Type::Double => ice::PrimitiveType::Double,
        Type::Decimal { precision, scale } => ice::PrimitiveType::Decimal { precision: *precision, scale: *scale },
        Type::Date => ice::PrimitiveType::Date,
        Type::Time => ice::PrimitiveType::Time,
        Type::Timestamp => ice::PrimitiveType::Timestamp,
        Type::Timestamptz => ice::PrimitiveType::Timestamptz,
        Type::TimestampNs => ice::PrimitiveType::TimestampNs,
        Type::TimestamptzNs => ice::PrimitiveType::TimestamptzNs,
        Type::String => ice::PrimitiveType::String,
        Type::Uuid => ice::PrimitiveType::Uuid,
        Type::Fixed(bytes) => ice::PrimitiveType::Fixed(*bytes),
        Type::Binary => ice::PrimitiveType::Binary,
        Type::Unknown => {
            let why = "a column of type unknown cannot be written";
            return Err(iceberg::Error::new(iceberg::ErrorKind::FeatureUnsupported, why));
        }
        Type::Struct(fields) => return Ok(ice::Type::Struct(ice::StructType::new(to_fields(fields)?))),
        Type::List(element) => return Ok(ice::Type::List(ice::ListType::new(to_field(element)?))),
        Type::Map(key, value) => return Ok(ice::Type::Map(ice::MapType::new(to_field(key)?, to_field(value)?))),
    }))
}

pub(crate) fn to_transform(transform: Transform) -> ice::Transform {
    match transform {
        Transform::Identity => ice::Transform::Identity,
        Transform::Bucket(buckets) => ice::Transform::Bucket(buckets),
        Transform::Truncate(width) => ice::Transform::Truncate(width),
        Transform::Year => ice::Transform::Year,
        Transform::Month => ice::Transform::Month,
        Transform::Day => ice::Transform::Day,
        Transform::Hour => ice::Transform::Hour,
        Transform::Void => ice::Transform::Void,
        Transform::Unknown => ice::Transform::Unknown,
    }
}

/// Converts a scalar. `None` where a value of the type cannot hold it.
pub(crate) fn to_datum(scalar: &Scalar, ty: &ice::PrimitiveType) -> Option<ice::Datum> {
    if !scalar.fits(&primitive_type(ty)) {
        return None;
    }
    // The specification's bytes lead to the one constructor that takes every type.
    let bytes = match (scalar, ty) {
        (Scalar::Boolean(v), _) => vec![u8::from(*v)],
        (Scalar::Int(v), ice::PrimitiveType::Long) => i64::from(*v).to_le_bytes().to_vec(),
        (Scalar::Long(v), ice::PrimitiveType::Int) => i32::try_from(*v).ok()?.to_le_bytes().to_vec(),
        (Scalar::Float(v), ice::PrimitiveType::Double) => f64::from(*v).to_le_bytes().to_vec(),
        (Scalar::Double(_), ice::PrimitiveType::Float) => return None,
        (Scalar::Int(v) | Scalar::Date(v), _) => v.to_le_bytes().to_vec(),
        (
            Scalar::Long(v)
            | Scalar::Time(v)
            | Scalar::Timestamp(v)
            | Scalar::Timestamptz(v)
            | Scalar::TimestampNs(v)
            | Scalar::TimestamptzNs(v),
            _,
        ) => v.to_le_bytes().to_vec(),
        (Scalar::Float(v), _) => v.to_le_bytes().to_vec(),
        (Scalar::Double(v), _) => v.to_le_bytes().to_vec(),
        (Scalar::Decimal { unscaled, .. }, _) => unscaled.to_be_bytes().to_vec(),
        (Scalar::String(v), _) => v.as_bytes().to_vec(),
        (Scalar::Uuid(v), _) => v.to_be_bytes().to_vec(),
        (Scalar::Fixed(v) | Scalar::Binary(v), _) => v.clone(),
    };
    ice::Datum::try_from_bytes(&bytes, ty.clone()).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::metadata;

    pub(crate) fn primitive(ty: &Type) -> ice::PrimitiveType {
        to_type(ty).unwrap().as_primitive_type().unwrap().clone()
    }

    /// Converts a literal. `None` where the literal is not one of the type.
    pub(crate) fn scalar(ty: &ice::PrimitiveType, literal: &ice::PrimitiveLiteral) -> Option<Scalar> {
        use ice::PrimitiveLiteral as L;
        use ice::PrimitiveType as T;
        Some(match (ty, literal) {
            (T::Boolean, L::Boolean(v)) => Scalar::Boolean(*v),
            (T::Int, L::Int(v)) => Scalar::Int(*v),
            (T::Long, L::Long(v)) => Scalar::Long(*v),
            (T::Float, L::Float(v)) => Scalar::Float(v.0),
            (T::Double, L::Double(v)) => Scalar::Double(v.0),
            (T::Decimal { precision, scale }, L::Int128(v)) => {
                Scalar::Decimal { unscaled: *v, precision: *precision, scale: *scale }
            }
            (T::Date, L::Int(v)) => Scalar::Date(*v),
            (T::Time, L::Long(v)) => Scalar::Time(*v),
            (T::Timestamp, L::Long(v)) => Scalar::Timestamp(*v),
            (T::Timestamptz, L::Long(v)) => Scalar::Timestamptz(*v),
            (T::TimestampNs, L::Long(v)) => Scalar::TimestampNs(*v),
            (T::TimestamptzNs, L::Long(v)) => Scalar::TimestamptzNs(*v),
            (T::String, L::String(v)) => Scalar::String(v.clone()),
            (T::Uuid, L::UInt128(v)) => Scalar::Uuid(*v),
            (T::Fixed(_), L::Binary(v)) => Scalar::Fixed(v.clone()),
            (T::Binary, L::Binary(v)) => Scalar::Binary(v.clone()),
            _ => return None,
        })
    }

    #[test]
    fn schemas_survive_the_round_trip() {
        let field =
            |id, name: &str, required, ty| Field { id, name: name.to_string(), required, ty, initial_default: None };
        let leaf = |id, name: &str, ty| Box::new(field(id, name, true, ty));
        let ours = Schema {
            fields: vec![
                field(1, "d", true, Type::Decimal { precision: 38, scale: 10 }),
                field(2, "f", false, Type::Fixed(16)),
                field(3, "l", false, Type::List(leaf(4, "element", Type::TimestamptzNs))),
                field(5, "m", false, Type::Map(leaf(6, "key", Type::Uuid), leaf(7, "value", Type::Binary))),
                field(8, "s", false, Type::Struct(vec![field(9, "t", false, Type::Time)])),
            ],
        };
        let json = serde_json::to_value(to_schema(&ours).unwrap()).unwrap();
        assert_eq!(metadata::schema::schema(&json).unwrap(), ours);
        let unknown = Schema { fields: vec![field(1, "u", false, Type::Unknown)] };
        assert!(to_schema(&unknown).is_err());
    }

    #[test]
    fn scalars_survive_the_round_trip_in_the_column_type() {
        let check = |value: Scalar, ty: Type, expect: Option<Scalar>| {
            let datum = to_datum(&value, &primitive(&ty));
            let back = datum.and_then(|datum| scalar(datum.data_type(), datum.literal()));
            assert_eq!(back, expect, "{value:?} as {ty}");
        };
        let same = |value: Scalar, ty| check(value.clone(), ty, Some(value));
        let decimal = |unscaled, precision, scale| Scalar::Decimal { unscaled, precision, scale };
        let decimal_type = Type::Decimal { precision: 38, scale: 2 };
        same(Scalar::Boolean(true), Type::Boolean);
        same(Scalar::Int(-5), Type::Int);
        same(Scalar::Long(i64::MIN), Type::Long);
        same(Scalar::Float(0.5), Type::Float);
        same(Scalar::Double(-0.5), Type::Double);
        same(decimal(-1, 38, 2), decimal_type.clone());
        same(decimal(i128::from(i64::MAX) * 100, 38, 2), decimal_type.clone());
        same(Scalar::Date(-1), Type::Date);
        same(Scalar::Time(1), Type::Time);
        same(Scalar::Timestamp(-1), Type::Timestamp);
        same(Scalar::TimestamptzNs(1), Type::TimestamptzNs);
        same(Scalar::String("é".into()), Type::String);
        same(Scalar::Uuid(u128::MAX - 1), Type::Uuid);
        same(Scalar::Fixed(vec![1, 2]), Type::Fixed(2));
        same(Scalar::Binary(vec![]), Type::Binary);
        check(Scalar::Int(5), Type::Long, Some(Scalar::Long(5)));
        check(Scalar::Long(5), Type::Int, Some(Scalar::Int(5)));
        check(Scalar::Long(1 << 40), Type::Int, None);
        check(Scalar::Float(0.5), Type::Double, Some(Scalar::Double(0.5)));
        check(Scalar::Double(0.1), Type::Float, None);
        check(decimal(1, 9, 3), decimal_type.clone(), None);
        check(Scalar::Date(1), Type::Timestamp, None);
    }
}
