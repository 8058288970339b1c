//! Settings as a tree that remembers where each of them was written.
//!
//! ```text
//! gust.toml ─► from_toml ─┐
//!                         ├─► one tree ─► serde ─► Config, or the first ConfigFault with key, value and place
//! GUST_*    ─► overlay ───┘
//! ```
//!
//! Serde derives the set of valid keys from `Config` itself. This module adds the place and the value to serde's
//! errors. A list in a variable is separated by commas.
//!
//! Non-goals: dates, because no setting is one, and settings that depend on each other, because `Config` checks those.

use std::collections::{BTreeMap, btree_map};
use std::path::{Path, PathBuf};
use std::slice;

use serde::de::value::{SeqDeserializer, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ConfigFault, Origin};
use super::units;

/// Prefix of the variables that are settings. `VARIABLES_RESERVED` are exceptions.
pub const VARIABLE_PREFIX: &str = "GUST_";
/// Variables with the prefix that are no settings. `GUST_LOG` is the filter of the log on stderr, and `GUST_TOKEN` the token for `--server`.
const VARIABLES_RESERVED: [&str; 2] = ["GUST_LOG", "GUST_TOKEN"];

/// A setting or a table of settings, and the place of its key.
#[derive(Debug)]
pub(super) struct Node {
    pub origin: Origin,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Table(BTreeMap<String, Node>),
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    /// A variable's value. The setting that it is for decides about its type.
    Untyped(String),
    /// A value that no setting takes.
    Unsupported(String),
}

impl Node {
    pub fn empty() -> Self {
        Self { origin: Origin::Default, value: Value::Table(BTreeMap::new()) }
    }

    /// Reads the tree of a TOML file. `path` stands in errors, and relative paths in the file start from its folder.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`].
    pub fn from_toml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            ConfigError::Syntax { path: path.to_owned(), line, reason: error.message().to_owned() }
        })?;
        Ok(Self { origin: Origin::Default, value: Self::table(path, text, table.get_ref()) })
    }

    fn table(path: &Path, text: &str, table: &DeTable<'_>) -> Value {
        let nodes = table.iter().map(|(key, value)| {
            let origin = Origin::File { path: path.to_owned(), line: line_of(text, key.span().start) };
            (key.get_ref().to_string(), Self { origin, value: Self::value(path, text, value.get_ref()) })
        });
        Value::Table(nodes.collect())
    }

    fn value(path: &Path, text: &str, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::Table(table) => Self::table(path, text, table),
            DeValue::String(value) => Value::String(value.to_string()),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Integer(value) => i64::from_str_radix(value.as_str(), value.radix())
                .map_or_else(|_| Value::Unsupported(value.to_string()), Value::Integer),
            DeValue::Float(value) => {
                value.as_str().parse().map_or_else(|_| Value::Unsupported(value.to_string()), Value::Float)
            }
            DeValue::Datetime(value) => Value::Unsupported(value.to_string()),
            DeValue::Array(items) => {
                let items = items.iter().map(|item| {
                    let origin = Origin::File { path: path.to_owned(), line: line_of(text, item.span().start) };
                    Self { origin, value: Self::value(path, text, item.get_ref()) }
                });
                Value::List(items.collect())
            }
        }
    }

    /// Lays the `GUST_*` variables over the tree. Two underscores go one table deeper. Empty variables count as unset.
    ///
    /// The variables come sorted, so that the outcome does not depend on the environment's order.
    pub fn overlay(&mut self, environment: &BTreeMap<String, String>) {
        for (variable, value) in environment {
            let Some(name) = variable.strip_prefix(VARIABLE_PREFIX) else { continue };
            if value.is_empty() || VARIABLES_RESERVED.contains(&variable.as_str()) {
                continue;
            }
            let keys: Vec<String> = name.to_lowercase().split("__").map(str::to_owned).collect();
            let origin = Origin::Environment { variable: variable.clone() };
            self.set(&keys, Self { origin, value: Value::Untyped(value.clone()) });
        }
    }

    fn set(&mut self, keys: &[String], node: Node) {
        // A value in the place of a table stays, so that it is reported instead of lost.
        let (Value::Table(nodes), [first, rest @ ..]) = (&mut self.value, keys) else { return };
        if rest.is_empty() {
            nodes.insert(first.clone(), node);
        } else {
            let table = || Self { origin: node.origin.clone(), value: Value::Table(BTreeMap::new()) };
            nodes.entry(first.clone()).or_insert_with(table).set(rest, node);
        }
    }

    /// Returns the place of the setting at `keys`.
    pub fn origin_of(&self, keys: &[&str]) -> Origin {
        match (&self.value, keys) {
            (Value::Table(nodes), [first, rest @ ..]) => {
                nodes.get(*first).map_or(Origin::Default, |node| node.origin_of(rest))
            }
            _ => self.origin.clone(),
        }
    }

    fn node_at(&self, keys: &[&str]) -> Option<&Self> {
        match (&self.value, keys) {
            (_, []) => Some(self),
            (Value::Table(nodes), [first, rest @ ..]) => nodes.get(*first)?.node_at(rest),
            _ => None,
        }
    }

    /// Lists the keys of the table at `keys`. Empty where there is no table.
    pub fn keys_at(&self, keys: &[&str]) -> impl Iterator<Item = &str> {
        let nodes = self.node_at(keys).and_then(|node| match &node.value {
            Value::Table(nodes) => Some(nodes),
            _ => None,
        });
        nodes.into_iter().flatten().map(|(key, _)| key.as_str())
    }

    /// Returns the text at `keys`.
    pub fn text_at(&self, keys: &[&str]) -> Option<&str> {
        match &self.node_at(keys)?.value {
            Value::String(text) | Value::Untyped(text) => Some(text),
            _ => None,
        }
    }

    /// Adds the place and the value of this node to a fault.
    fn locate<T>(&self, outcome: Result<T, ConfigFault>) -> Result<T, ConfigFault> {
        outcome.map_err(|fault| fault.at(&self.origin, || self.text()))
    }

    /// Formats the value as its writer would recognise it.
    fn text(&self) -> String {
        match &self.value {
            Value::Table(_) => "[table]".to_owned(),
            Value::String(text) | Value::Untyped(text) => format!("{text:?}"),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Boolean(value) => value.to_string(),
            Value::List(_) => "[list]".to_owned(),
            Value::Unsupported(text) => text.clone(),
        }
    }

    /// Returns a path or location of a file as seen from the file's folder; None for any other node.
    fn resolved_path(&self, name: &str) -> Option<PathBuf> {
        let (Value::String(text), Origin::File { path, .. }) = (&self.value, &self.origin) else { return None };
        let is_path = name == units::PATH || (name == units::LOCATION && !text.contains("://"));
        (is_path && !text.is_empty()).then(|| path.parent().unwrap_or(Path::new("")).join(text))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = ConfigFault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigFault> {
        let outcome = match &self.value {
            Value::Table(nodes) => visitor.visit_map(TableAccess { rest: nodes.iter(), next: None }),
            Value::String(value) => visitor.visit_str(value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::List(items) => visitor.visit_seq(ListAccess { rest: items.iter() }),
            Value::Unsupported(text) => Err(ConfigFault::invalid_type(Unexpected::Other(text), &visitor)),
            Value::Untyped(text) => match (text.parse::<i64>(), text.parse::<f64>(), text.parse::<bool>()) {
                (Ok(value), _, _) => visitor.visit_i64(value),
                (_, Ok(value), _) => visitor.visit_f64(value),
                (_, _, Ok(value)) => visitor.visit_bool(value),
                _ => visitor.visit_str(text),
            },
        };
        self.locate(outcome)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigFault> {
        match &self.value {
            Value::Untyped(text) => self.locate(visitor.visit_str(text)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigFault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigFault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConfigFault> {
        match self.resolved_path(name) {
            Some(place) => self.locate(visitor.visit_str(&place.to_string_lossy())),
            None if name == units::SECRET => self.deserialize_str(visitor).map_err(ConfigFault::hide_value),
            None => self.deserialize_str(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigFault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigFault> {
        match &self.value {
            Value::Table(_) => self.deserialize_any(visitor),
            _ => self.locate(Err(ConfigFault::invalid_type(Unexpected::Other("this value"), &"a table"))),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigFault> {
        match &self.value {
            Value::Untyped(text) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                self.locate(visitor.visit_seq(SeqDeserializer::new(items)))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        valid: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigFault> {
        let outcome = match &self.value {
            Value::String(text) | Value::Untyped(text) => {
                let text: StrDeserializer<'_, ConfigFault> = text.as_str().into_deserializer();
                visitor.visit_enum(text)
            }
            _ => Err(ConfigFault::unknown_variant("", valid)),
        };
        self.locate(outcome)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

struct ListAccess<'de> {
    rest: slice::Iter<'de, Node>,
}

impl<'de> SeqAccess<'de> for ListAccess<'de> {
    type Error = ConfigFault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ConfigFault> {
        // The place of the item is more exact than that of the list.
        self.rest.next().map(|item| item.locate(seed.deserialize(item))).transpose()
    }
}

struct TableAccess<'de> {
    rest: btree_map::Iter<'de, String, Node>,
    next: Option<(&'de str, &'de Node)>,
}

impl<'de> MapAccess<'de> for TableAccess<'de> {
    type Error = ConfigFault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ConfigFault> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        self.next = Some((key, node));
        let name: StrDeserializer<'_, ConfigFault> = key.as_str().into_deserializer();
        node.locate(seed.deserialize(name).map(Some))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ConfigFault> {
        let (key, node) = self.next.take().expect("serde asks for a value only after its key");
        seed.deserialize(node).map_err(|fault| fault.under(key))
    }
}
