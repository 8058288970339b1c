//! Schemas and partition specs as plain data, in Iceberg's words and without a library's types.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A column type of the Iceberg specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Type {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Decimal {
        precision: u32,
        scale: u32,
    },
    Date,
    /// Microseconds since midnight.
    Time,
    /// Microseconds, no zone.
    Timestamp,
    /// Microseconds, UTC.
    Timestamptz,
    TimestampNs,
    TimestamptzNs,
    String,
    Uuid,
    /// Bytes of this count.
    Fixed(u64),
    Binary,
    /// Type of a column that holds only NULL, and that no file has.
    Unknown,
    Struct(Vec<Field>),
    /// List with its element.
    List(Box<Field>),
    /// Map with its key and its value.
    Map(Box<Field>, Box<Field>),
}

impl Type {
    /// Lists the fields that a nested type is made of.
    pub(crate) fn children(&self) -> impl Iterator<Item = &Field> {
        let (fields, key, value): (&[Field], Option<&Field>, Option<&Field>) = match self {
            Type::Struct(fields) => (fields, None, None),
            Type::List(element) => (&[], Some(element), None),
            Type::Map(key, value) => (&[], Some(key), Some(value)),
            _ => (&[], None, None),
        };
        fields.iter().chain(key).chain(value)
    }

    /// Returns true where bounds are values of the column: no writer may cut them, or leave values out of them.
    pub fn has_exact_bounds(&self) -> bool {
        matches!(
            self,
            Type::Int
                | Type::Long
                | Type::Date
                | Type::Time
                | Type::Timestamp
                | Type::Timestamptz
                | Type::TimestampNs
                | Type::TimestamptzNs
                | Type::Decimal { .. }
        )
    }
}

/// A column, or a part of a nested one. `id` stays for ever; `name` may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    pub id: i32,
    pub name: String,
    pub required: bool,
    pub ty: Type,
    /// Value in rows that are older than the column. None stands for NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_default: Option<InitialDefault>,
}

/// Value of a column in rows that are older than it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum InitialDefault {
    /// A value as the specification writes it in JSON, without quotes.
    Text(String),
    /// A struct of the values that its fields have in such rows.
    OfItsFields,
}

impl Field {
    /// Adds the field and all fields below it to a list.
    pub(crate) fn collect<'a>(&'a self, all: &mut Vec<&'a Field>) {
        all.push(self);
        self.ty.children().for_each(|child| child.collect(all));
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Schema {
    pub fields: Vec<Field>,
}

impl Schema {
    /// Returns the top-level column of exactly this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// Computation of a partition value from a column's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transform {
    Identity,
    /// Hash into this number of buckets.
    Bucket(u32),
    /// Cut to a width: a multiple for numbers, characters for strings, bytes for binary.
    Truncate(u32),
    Year,
    Month,
    Day,
    Hour,
    Void,
    /// Transform that this version does not know: its values say nothing.
    Unknown,
}

/// A field of a partition spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionField {
    /// Name of the partition field, such as `l_shipmonth`.
    pub name: String,
    /// Column that the field is made from.
    pub column: String,
    pub transform: Transform,
}

/// A column of a sort order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SortField {
    pub column: String,
    pub descending: bool,
    pub nulls_first: bool,
}

/// Names under which files without field ids hold a field: `schema.name-mapping.default`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedField {
    #[serde(rename = "field-id")]
    pub id: Option<i32>,
    pub names: Vec<String>,
    #[serde(default)]
    pub fields: Vec<MappedField>,
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Transform::Identity => write!(f, "identity"),
            Transform::Bucket(buckets) => write!(f, "bucket[{buckets}]"),
            Transform::Truncate(width) => write!(f, "truncate[{width}]"),
            Transform::Year => write!(f, "year"),
            Transform::Month => write!(f, "month"),
            Transform::Day => write!(f, "day"),
            Transform::Hour => write!(f, "hour"),
            Transform::Void => write!(f, "void"),
            Transform::Unknown => write!(f, "unknown"),
        }
    }
}

impl fmt::Display for PartitionField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}({})", self.name, self.transform, self.column)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Boolean => write!(f, "boolean"),
            Type::Int => write!(f, "int"),
            Type::Long => write!(f, "long"),
            Type::Float => write!(f, "float"),
            Type::Double => write!(f, "double"),
            Type::Decimal { precision, scale } => write!(f, "decimal({precision}, {scale})"),
            Type::Date => write!(f, "date"),
            Type::Time => write!(f, "time"),
            Type::Timestamp => write!(f, "timestamp"),
            Type::Timestamptz => write!(f, "timestamptz"),
            Type::TimestampNs => write!(f, "timestamp_ns"),
            Type::TimestamptzNs => write!(f, "timestamptz_ns"),
            Type::String => write!(f, "string"),
            Type::Uuid => write!(f, "uuid"),
            Type::Fixed(bytes) => write!(f, "fixed[{bytes}]"),
            Type::Binary => write!(f, "binary"),
            Type::Unknown => write!(f, "unknown"),
            Type::Struct(fields) => {
                write!(f, "struct<")?;
                for (i, field) in fields.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{}: {}", field.name, field.ty)?;
                }
                write!(f, ">")
            }
            Type::List(element) => write!(f, "list<{}>", element.ty),
            Type::Map(key, value) => write!(f, "map<{}, {}>", key.ty, value.ty),
        }
    }
}
