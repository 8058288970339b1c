//! Kinds of columns and their values: in Parquet, in SQL, in metadata, and as bounds.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    ListArray, MapArray, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use chrono::DateTime;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value as Json, json};

use crate::iceberg::{Datum, field};

pub(super) const HOUR_MICROS: i64 = 3_600_000_000;
pub(super) const DAY_MICROS: i64 = 24 * HOUR_MICROS;
const DECIMAL_SCALE: i8 = 2;

/// Kind of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int,
    Long,
    Float,
    Double,
    /// Decimal of five digits.
    Narrow,
    /// Decimal of nine digits.
    Decimal,
    Date,
    Timestamp,
    Timestamptz,
    Text,
    /// Struct of a long and a text, whose ids are the column's and 1, the column's and 2.
    Pair,
    /// List of longs. Its element's id is the column's and 1.
    List,
    /// Map of texts to longs. The ids are the column's and 1, the column's and 2.
    Map,
}

/// Value of a leaf.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    /// Whole number, unscaled decimal, days, or microseconds.
    Whole(i64),
    Float(f64),
    Text(String),
    List(Vec<Option<i64>>),
    Map(Vec<(String, Option<i64>)>),
}

/// Value in a row. None is NULL.
pub type Leaf = Option<Value>;

impl Kind {
    pub(super) const ALL: [Kind; 13] = [
        Kind::Bool,
        Kind::Int,
        Kind::Long,
        Kind::Float,
        Kind::Double,
        Kind::Decimal,
        Kind::Date,
        Kind::Timestamp,
        Kind::Timestamptz,
        Kind::Text,
        Kind::Pair,
        Kind::List,
        Kind::Map,
    ];

    /// Returns the kind that a column of this kind may have had before.
    pub(super) fn before(self) -> Option<Kind> {
        match self {
            Kind::Long => Some(Kind::Int),
            Kind::Double => Some(Kind::Float),
            Kind::Decimal => Some(Kind::Narrow),
            Kind::Timestamp => Some(Kind::Date),
            _ => None,
        }
    }

    pub(super) fn is_nested(self) -> bool {
        matches!(self, Kind::Pair | Kind::List | Kind::Map)
    }

    /// Returns true for kinds by whose values rows can be deleted.
    pub(super) fn is_key(self) -> bool {
        !matches!(self, Kind::Float | Kind::Double | Kind::List | Kind::Map)
    }

    /// Returns the type of a column as metadata writes it.
    pub(super) fn json(self, id: i32) -> Json {
        let optional = |id: i32, name: &str, ty: &str| json!({"id": id, "name": name, "required": false, "type": ty});
        match self {
            Kind::Bool => json!("boolean"),
            Kind::Int => json!("int"),
            Kind::Long => json!("long"),
            Kind::Float => json!("float"),
            Kind::Double => json!("double"),
            Kind::Narrow => json!("decimal(5, 2)"),
            Kind::Decimal => json!("decimal(9, 2)"),
            Kind::Date => json!("date"),
            Kind::Timestamp => json!("timestamp"),
            Kind::Timestamptz => json!("timestamptz"),
            Kind::Text => json!("string"),
            Kind::Pair => {
                json!({"type": "struct", "fields": [optional(id + 1, "a", "long"), optional(id + 2, "b", "string")]})
            }
            Kind::List => {
                json!({"type": "list", "element-id": id + 1, "element-required": false, "element": "long"})
            }
            Kind::Map => {
                json!({"type": "map", "key-id": id + 1, "key": "string", "value-id": id + 2, "value-required": false,
                "value": "long"})
            }
        }
    }

    /// Lists the leaves of a column with their kinds.
    pub(super) fn leaves(self, id: i32) -> Vec<(i32, Kind)> {
        match self {
            Kind::Pair => vec![(id + 1, Kind::Long), (id + 2, Kind::Text)],
            kind => vec![(id, kind)],
        }
    }

    /// Makes a value of few, so that conditions and keys meet rows. One of the kind `before` can be written as that, too.
    pub(super) fn value(self, before: Option<Kind>, random: &mut StdRng) -> Value {
        let small = random.random_range(-2..6_i64);
        let is_odd = random.random_ratio(1, 25);
        match self {
            Kind::Bool => Value::Bool(random.random()),
            Kind::Int if is_odd => Value::Whole(*[i32::MIN, i32::MAX].choose(random).expect("one") as i64),
            Kind::Long if is_odd && before.is_none() => {
                Value::Whole(*[i64::MIN, i64::MAX].choose(random).expect("one"))
            }
            Kind::Int | Kind::Long => Value::Whole(small),
            Kind::Float | Kind::Double => Value::Float(match random.random_range(0..14) {
                0 => f64::NAN,
                1 => -0.0,
                2 => f64::INFINITY,
                _ => small as f64 / 2.0,
            }),
            Kind::Narrow | Kind::Decimal => Value::Whole(small * 75),
            Kind::Date => Value::Whole(small * *[1, 20, 200].choose(random).expect("one")),
            Kind::Timestamp if before.is_some() => Value::Whole(small * 20 * DAY_MICROS),
            Kind::Timestamp | Kind::Timestamptz => {
                let unit = *[HOUR_MICROS, DAY_MICROS, 31 * DAY_MICROS].choose(random).expect("one");
                Value::Whole(small * unit + random.random_range(-1..2))
            }
            Kind::Text => {
                let text = *["", "t", "té", "t\u{10348}x", "long text", "long tale"].choose(random).expect("one");
                Value::Text(if random.random() { format!("t{small}") } else { text.to_owned() })
            }
            Kind::List => Value::List((0..random.random_range(0..3)).map(|_| some_long(random)).collect()),
            Kind::Map => {
                let keys = ["a", "b", "c"].into_iter().filter(|_| random.random());
                let keys: Vec<String> = keys.map(str::to_owned).collect();
                Value::Map(keys.into_iter().map(|key| (key, some_long(random))).collect())
            }
            Kind::Pair => panic!("a struct has leaves"),
        }
    }

    /// Makes a column of a file. Its name is of the file alone.
    pub(super) fn column(self, id: i32, name: &str, leaves: &dyn Fn(i32) -> Vec<Leaf>) -> (Field, ArrayRef) {
        if self == Kind::Pair {
            let (a, of_a) = Kind::Long.column(id + 1, "a", leaves);
            let (b, of_b) = Kind::Text.column(id + 2, "b", leaves);
            let pair = StructArray::from(vec![(Arc::new(a), of_a), (Arc::new(b), of_b)]);
            return (field(id, name, DataType::Struct(pair.fields().clone())), Arc::new(pair));
        }
        let array = self.array(id, &leaves(id));
        (field(id, name, array.data_type().clone()), array)
    }

    /// Makes the array of a leaf.
    pub(super) fn array(self, id: i32, values: &[Leaf]) -> ArrayRef {
        let whole = || values.iter().map(|value| value.as_ref().map(Value::whole));
        let float = || values.iter().map(|value| value.as_ref().map(Value::float));
        let narrow = || whole().map(|value| value.map(|value| i32::try_from(value).expect("32 bits")));
        let nulls = || NullBuffer::from_iter(values.iter().map(Option::is_some));
        let decimals = |digits: u8| {
            let unscaled = Decimal128Array::from_iter(whole().map(|value| value.map(i128::from)));
            Arc::new(unscaled.with_precision_and_scale(digits, DECIMAL_SCALE).expect("few digits"))
        };
        match self {
            Kind::Bool => Arc::new(BooleanArray::from_iter(values.iter().map(|value| match value {
                Some(Value::Bool(value)) => Some(*value),
                _ => None,
            }))),
            Kind::Int => Arc::new(Int32Array::from_iter(narrow())),
            Kind::Long => Arc::new(Int64Array::from_iter(whole())),
            Kind::Float => Arc::new(Float32Array::from_iter(float().map(|value| value.map(|value| value as f32)))),
            Kind::Double => Arc::new(Float64Array::from_iter(float())),
            Kind::Narrow => decimals(5),
            Kind::Decimal => decimals(9),
            Kind::Date => Arc::new(Date32Array::from_iter(narrow())),
            Kind::Timestamp => Arc::new(TimestampMicrosecondArray::from_iter(whole())),
            Kind::Timestamptz => Arc::new(TimestampMicrosecondArray::from_iter(whole()).with_timezone("UTC")),
            Kind::Text => Arc::new(StringArray::from_iter(values.iter().map(|value| match value {
                Some(Value::Text(text)) => Some(text.as_str()),
                _ => None,
            }))),
            Kind::List => {
                let items = |value: &Leaf| match value {
                    Some(Value::List(items)) => items.clone(),
                    _ => Vec::new(),
                };
                let lists: Vec<Vec<Option<i64>>> = values.iter().map(items).collect();
                let offsets = OffsetBuffer::from_lengths(lists.iter().map(Vec::len));
                let items = Arc::new(Int64Array::from_iter(lists.into_iter().flatten()));
                let element = Arc::new(field(id + 1, "element", DataType::Int64));
                Arc::new(ListArray::new(element, offsets, items, Some(nulls())))
            }
            Kind::Map => {
                let pairs = |value: &Leaf| match value {
                    Some(Value::Map(pairs)) => pairs.clone(),
                    _ => Vec::new(),
                };
                let maps: Vec<Vec<(String, Option<i64>)>> = values.iter().map(pairs).collect();
                let offsets = OffsetBuffer::from_lengths(maps.iter().map(Vec::len));
                let (keys, longs): (Vec<String>, Vec<Option<i64>>) = maps.into_iter().flatten().unzip();
                let key = field(id + 1, "key", DataType::Utf8).with_nullable(false);
                let entries = StructArray::from(vec![
                    (Arc::new(key), Arc::new(StringArray::from(keys)) as ArrayRef),
                    (Arc::new(field(id + 2, "value", DataType::Int64)), Arc::new(Int64Array::from(longs)) as ArrayRef),
                ]);
                let entry = Arc::new(Field::new("key_value", entries.data_type().clone(), false));
                Arc::new(MapArray::new(entry, offsets, entries, Some(nulls()), false))
            }
            Kind::Pair => panic!("a struct has leaves"),
        }
    }

    /// Returns a value of this kind as the other kind has it, which the column has or had before.
    pub(super) fn written(self, before: Kind, leaf: &Leaf) -> Leaf {
        match (self, before, leaf) {
            (Kind::Timestamp, Kind::Date, Some(Value::Whole(micros))) => Some(Value::Whole(micros / DAY_MICROS)),
            _ => leaf.clone(),
        }
    }

    /// Writes a value as SQL does.
    pub(super) fn sql(self, value: &Value) -> String {
        match (self, value) {
            (Kind::Float, value) => format!("CAST('{}' AS REAL)", value.float()),
            (Kind::Double, value) => format!("CAST('{}' AS DOUBLE)", value.float()),
            (Kind::Narrow | Kind::Decimal, value) => format!("CAST('{}' AS DECIMAL(9, 2))", value.told(self)),
            (Kind::Date, value) => format!("DATE '{}'", value.told(self)),
            (Kind::Timestamp, value) => format!("TIMESTAMP '{}'", value.told(self).replace('T', " ")),
            (Kind::Timestamptz, value) => {
                format!("arrow_cast('{}', 'Timestamp(Microsecond, Some(\"UTC\"))')", value.told(self))
            }
            (_, Value::Bool(value)) => value.to_string(),
            // The least long is no literal.
            (_, Value::Whole(i64::MIN)) => format!("({} - 1)", i64::MIN + 1),
            (_, Value::Whole(value)) => value.to_string(),
            (_, Value::Text(text)) => format!("'{text}'"),
            other => panic!("no literal for {other:?}"),
        }
    }

    /// Returns an initial default as metadata writes it. None where there is none of this value.
    pub(super) fn default(self, value: &Value) -> Option<Json> {
        match (self, value) {
            (Kind::Bool, Value::Bool(value)) => Some(json!(value)),
            (Kind::Int | Kind::Long, Value::Whole(value)) => Some(json!(value)),
            (Kind::Float | Kind::Double, Value::Float(value)) if value.is_finite() => Some(json!(value)),
            (Kind::Text, Value::Text(text)) => Some(json!(text)),
            (Kind::Narrow | Kind::Decimal | Kind::Date | Kind::Timestamp | Kind::Timestamptz, value) => {
                Some(json!(value.told(self)))
            }
            _ => None,
        }
    }

    /// Orders two values of the kind: NaN is one value and the largest, and zeros are equal.
    pub(super) fn order(self, a: &Value, b: &Value) -> Ordering {
        match (a, b) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Whole(a), Value::Whole(b)) => a.cmp(b),
            (Value::Float(a), Value::Float(b)) => a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
            (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            other => panic!("no order of {other:?}"),
        }
    }

    /// Returns a value as a partition or a bound has it.
    pub(super) fn datum(self, leaf: &Leaf) -> Datum {
        let narrow = |value: i64| i32::try_from(value).expect("32 bits");
        match (self, leaf) {
            (_, None) => Datum::Null,
            (_, Some(Value::Bool(value))) => Datum::Bool(*value),
            (Kind::Int | Kind::Date, Some(Value::Whole(value))) => Datum::Int(narrow(*value)),
            (Kind::Narrow | Kind::Decimal, Some(Value::Whole(value))) => Datum::Decimal(narrow(*value)),
            (_, Some(Value::Whole(value))) => Datum::Long(*value),
            (Kind::Float, Some(Value::Float(value))) => Datum::Float(*value as f32),
            (_, Some(Value::Float(value))) => Datum::Double(*value),
            (_, Some(Value::Text(text))) => Datum::Text(text.clone()),
            (_, other) => panic!("no datum of {other:?}"),
        }
    }
}

fn some_long(random: &mut StdRng) -> Option<i64> {
    random.random_bool(0.8).then(|| random.random_range(0..4))
}

impl Value {
    pub(super) fn whole(&self) -> i64 {
        match self {
            Value::Whole(value) => *value,
            other => panic!("{other:?} is not whole"),
        }
    }

    fn float(&self) -> f64 {
        match self {
            Value::Float(value) => *value,
            other => panic!("{other:?} is no float"),
        }
    }

    /// Writes a decimal, a date or a time.
    fn told(&self, kind: Kind) -> String {
        let whole = self.whole();
        let time = |micros: i64| DateTime::from_timestamp_micros(micros).expect("in range");
        match kind {
            Kind::Narrow | Kind::Decimal => {
                let (sign, digits) = (if whole < 0 { "-" } else { "" }, whole.abs());
                format!("{sign}{}.{:02}", digits / 100, digits % 100)
            }
            Kind::Date => time(whole * DAY_MICROS).format("%Y-%m-%d").to_string(),
            Kind::Timestamp => time(whole).format("%Y-%m-%dT%H:%M:%S%.6f").to_string(),
            Kind::Timestamptz => time(whole).format("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string(),
            other => panic!("{other:?} has no such text"),
        }
    }
}
