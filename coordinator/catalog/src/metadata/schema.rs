//! Schemas and types in JSON.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::metadata::MetadataFault;
use crate::types::{Field, InitialDefault, Schema, Type};

/// Most types inside each other.
const DEPTH_MAX: usize = 64;
/// Most digits of a decimal.
const PRECISION_MAX: u32 = 38;

/// Parses a schema.
///
/// # Errors
/// Unsupported: a type that cannot be read, and an initial default that is no value. Corrupt: anything else.
pub(crate) fn schema(json: &Json) -> Result<Schema, MetadataFault> {
    let mut parser = Parser { ids: BTreeSet::new() };
    Ok(Schema { fields: parser.fields(json, 0)? })
}

struct Parser {
    ids: BTreeSet<i32>,
}

impl Parser {
    fn fields(&mut self, json: &Json, depth: usize) -> Result<Vec<Field>, MetadataFault> {
        let fields = json.get("fields").and_then(Json::as_array);
        let fields = fields.ok_or_else(|| MetadataFault::corrupt("a struct of its schema has no fields"))?;
        let mut names = BTreeSet::new();
        let mut parsed = Vec::with_capacity(fields.len());
        for json in fields {
            let name = json.get("name").and_then(Json::as_str);
            let name = name.ok_or_else(|| MetadataFault::corrupt("a column of its schema has no name"))?;
            if !names.insert(name) {
                return Err(MetadataFault::corrupt(format!("its schema has two columns {name}")));
            }
            let required = json.get("required").and_then(Json::as_bool).unwrap_or(false);
            let mut field = self.field(json.get("id"), name, required, json.get("type"), depth)?;
            if let Some(default) = json.get("initial-default").filter(|value| !value.is_null()) {
                field.initial_default = Some(initial_default(default, &field)?);
            }
            parsed.push(field);
        }
        Ok(parsed)
    }

    fn field(
        &mut self,
        id: Option<&Json>,
        name: &str,
        required: bool,
        ty: Option<&Json>,
        depth: usize,
    ) -> Result<Field, MetadataFault> {
        let id = id.and_then(Json::as_i64).and_then(|id| id.try_into().ok());
        let id = id.ok_or_else(|| MetadataFault::corrupt(format!("column {name} of its schema has no id")))?;
        if !self.ids.insert(id) {
            return Err(MetadataFault::corrupt(format!("its schema has two columns with id {id}")));
        }
        let ty = ty.ok_or_else(|| MetadataFault::corrupt(format!("column {name} of its schema has no type")))?;
        Ok(Field { id, name: name.to_owned(), required, ty: self.ty(ty, name, depth + 1)?, initial_default: None })
    }

    fn ty(&mut self, json: &Json, column: &str, depth: usize) -> Result<Type, MetadataFault> {
        if depth > DEPTH_MAX {
            return Err(MetadataFault::corrupt(format!(
                "its schema has more than {DEPTH_MAX} types inside each other"
            )));
        }
        let kind = json.as_str().or_else(|| json.get("type").and_then(Json::as_str));
        let kind = kind.ok_or_else(|| MetadataFault::corrupt(format!("column {column} of its schema has no type")))?;
        let mut part = |name: &str| {
            let is_required = json.get(format!("{name}-required")).and_then(Json::as_bool).unwrap_or(name == "key");
            let field = self.field(json.get(format!("{name}-id")), name, is_required, json.get(name), depth)?;
            Ok(Box::new(field))
        };
        match kind {
            "struct" => Ok(Type::Struct(self.fields(json, depth)?)),
            "list" => Ok(Type::List(part("element")?)),
            "map" => Ok(Type::Map(part("key")?, part("value")?)),
            kind => primitive(kind).ok_or_else(|| MetadataFault::Unsupported {
                feature: format!("column {column} of type {kind}"),
                next: "query a copy of the table without that column",
            }),
        }
    }
}

/// Reads an initial default. A struct's says that it is made of the defaults of its fields.
fn initial_default(json: &Json, field: &Field) -> Result<InitialDefault, MetadataFault> {
    match (json, &field.ty) {
        (Json::Object(parts), Type::Struct(_)) if parts.is_empty() => Ok(InitialDefault::OfItsFields),
        (_, Type::Struct(_) | Type::List(_) | Type::Map(..) | Type::Unknown)
        | (Json::Array(_) | Json::Object(_), _) => Err(MetadataFault::Unsupported {
            feature: format!("column {} of type {} with an initial default", field.name, field.ty),
            next: "rewrite the data files that were written before the column was added",
        }),
        (Json::String(text), _) => Ok(InitialDefault::Text(text.clone())),
        (value, _) => Ok(InitialDefault::Text(value.to_string())),
    }
}

fn primitive(name: &str) -> Option<Type> {
    Some(match name {
        "boolean" => Type::Boolean,
        "int" => Type::Int,
        "long" => Type::Long,
        "float" => Type::Float,
        "double" => Type::Double,
        "date" => Type::Date,
        "time" => Type::Time,
        "timestamp" => Type::Timestamp,
        "timestamptz" => Type::Timestamptz,
        "timestamp_ns" => Type::TimestampNs,
        "timestamptz_ns" => Type::TimestamptzNs,
        "string" => Type::String,
        "uuid" => Type::Uuid,
        "binary" => Type::Binary,
        "unknown" => Type::Unknown,
        name => return sized(name),
    })
}

/// Parses `decimal(9, 2)` and `fixed[16]`.
fn sized(name: &str) -> Option<Type> {
    if let Some(bytes) = name.strip_prefix("fixed[").and_then(|rest| rest.strip_suffix(']')) {
        let bytes = bytes.trim().parse().ok().filter(|bytes| *bytes <= i32::MAX as u64)?;
        return Some(Type::Fixed(bytes));
    }
    let digits = name.strip_prefix("decimal(")?.strip_suffix(')')?;
    let (precision, scale) = digits.split_once(',')?;
    let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    let is_valid = (1..=PRECISION_MAX).contains(&precision) && scale <= precision;
    is_valid.then_some(Type::Decimal { precision, scale })
}
