//! Aggregates of keys: `histogram`, `map_agg`, `multimap_agg` and `mode`.
//!
//! A key is held as bytes that sort as the key does. So maps have their keys in order, and local and remote results are
//! alike. Rows whose key is NULL do not count; a group without others is NULL. A partial state is the list of keys and the
//! list of what each has: it is as large as the group's map.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, MapArray, StructArray, new_empty_array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, ScalarValue, not_impl_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, ColumnarValue, Signature, Volatility};

use super::super::float_key;

/// Value of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Of {
    /// Number of its rows, in a map.
    Histogram,
    /// Its first value.
    Map,
    /// All its values.
    Multimap,
    /// Number of its rows; the result is the key that has most, and the least of several.
    Mode,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Keyed {
    of: Of,
    /// Number of arguments.
    arguments: usize,
    signature: Signature,
}

pub(super) fn all() -> impl Iterator<Item = Keyed> {
    [Of::Histogram, Of::Map, Of::Multimap, Of::Mode].into_iter().map(|of| {
        let arguments = if matches!(of, Of::Map | Of::Multimap) { 2 } else { 1 };
        Keyed { of, arguments, signature: Signature::user_defined(Volatility::Immutable) }
    })
}

/// Returns a type without dictionaries. Bytes of a key are turned back into its values, and not into a dictionary.
fn without_dictionaries(of: &DataType) -> DataType {
    let plain =
        |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(without_dictionaries(field.data_type())));
    match of {
        DataType::Dictionary(_, values) => without_dictionaries(values),
        DataType::List(item) => DataType::List(plain(item)),
        DataType::LargeList(item) => DataType::LargeList(plain(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(plain(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain).collect()),
        other => other.clone(),
    }
}

fn list_of(of: &DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(of.clone(), true)))
}

impl Of {
    /// Returns the type of what a key has, where `value` is that of the second argument.
    fn entry(self, value: Option<&DataType>) -> DataType {
        match (self, value) {
            (Self::Map, Some(value)) => value.clone(),
            (Self::Multimap, Some(value)) => list_of(value),
            _ => DataType::Int64,
        }
    }
}

fn entries_of(key: &DataType, value: DataType) -> Fields {
    vec![Field::new("key", key.clone(), false), Field::new("value", value, true)].into()
}

impl AggregateUDFImpl for Keyed {
    fn name(&self) -> &str {
        match self.of {
            Of::Histogram => "histogram",
            Of::Map => "map_agg",
            Of::Multimap => "multimap_agg",
            Of::Mode => "mode",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        if arg_types.len() != self.arguments {
            let noun = if self.arguments == 1 { "argument" } else { "arguments" };
            return plan_err!("{} takes {} {noun}, and {} are given", self.name(), self.arguments, arg_types.len());
        }
        // The second argument's values are kept as they are.
        let values = arg_types[1..].iter().cloned();
        let key = match without_dictionaries(&arg_types[0]) {
            // The engine finds an entry of a map by a key that is written out, which is a text of this type.
            DataType::Utf8View if self.of != Of::Mode => DataType::Utf8,
            key => key,
        };
        Ok(std::iter::once(key).chain(values).collect())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        if self.of == Of::Mode {
            return Ok(arg_types[0].clone());
        }
        let entries = entries_of(&arg_types[0], self.of.entry(arg_types.get(1)));
        Ok(DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let value = args.input_fields.get(1).map(|field| field.data_type());
        let lists = [("keys", list_of(args.input_fields[0].data_type())), ("values", list_of(&self.of.entry(value)))];
        Ok(lists.map(|(name, of)| Arc::new(Field::new(format_state_name(args.name, name), of, true))).to_vec())
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return not_impl_err!("{} with DISTINCT is not supported", self.name());
        }
        if !args.order_bys.is_empty() {
            return not_impl_err!("{} with ORDER BY is not supported: the keys are in their order", self.name());
        }
        let key = args.expr_fields[0].data_type().clone();
        let value = self.of.entry(args.expr_fields.get(1).map(|field| field.data_type()));
        let converter = RowConverter::new(vec![SortField::new(key.clone())])?;
        let result = args.return_type().clone();
        Ok(Box::new(Keys { of: self.of, key, value, result, converter, entries: BTreeMap::new(), bytes: 0 }))
    }

    fn supports_null_handling_clause(&self) -> bool {
        false
    }
}

#[derive(Debug, Default)]
struct Entry {
    rows: i64,
    values: Vec<ScalarValue>,
}

#[derive(Debug)]
struct Keys {
    of: Of,
    key: DataType,
    /// Type of what a key has.
    value: DataType,
    result: DataType,
    converter: RowConverter,
    entries: BTreeMap<Box<[u8]>, Entry>,
    /// Bytes of the keys and values.
    bytes: usize,
}

/// Bytes of an entry beside its key and its values.
const ENTRY_BYTES: usize = size_of::<Box<[u8]>>() + size_of::<Entry>();

impl Keys {
    /// Adds to the entries of keys, with the index of each key.
    fn add(&mut self, keys: &ArrayRef, mut add: impl FnMut(Of, &mut Entry, usize) -> Result<()>) -> Result<()> {
        let keys = float_key::key(ColumnarValue::Array(Arc::clone(keys)))?.into_array(keys.len())?;
        let rows = self.converter.convert_columns(std::slice::from_ref(&keys))?;
        let nulls = keys.logical_nulls();
        for row in (0..keys.len()).filter(|row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*row))) {
            let bytes = rows.row(row);
            if !self.entries.contains_key(bytes.data()) {
                self.bytes += ENTRY_BYTES + bytes.data().len();
                self.entries.insert(bytes.data().into(), Entry::default());
            }
            if let Some(entry) = self.entries.get_mut(bytes.data()) {
                let before = entry.values.len();
                add(self.of, entry, row)?;
                self.bytes += entry.values[before..].iter().map(ScalarValue::size).sum::<usize>();
            }
        }
        Ok(())
    }

    /// Returns the keys, and what each has.
    fn columns(&self) -> Result<(ArrayRef, ArrayRef)> {
        let parser = self.converter.parser();
        let rows = self.entries.keys().map(|bytes| parser.parse(bytes));
        let keys = match self.entries.is_empty() {
            true => new_empty_array(&self.key),
            false => Arc::clone(&self.converter.convert_rows(rows)?[0]),
        };
        let values: ArrayRef = match self.of {
            Of::Histogram | Of::Mode => Arc::new(Int64Array::from_iter_values(self.entries.values().map(|e| e.rows))),
            _ if self.entries.is_empty() => new_empty_array(&self.value),
            Of::Map => {
                ScalarValue::iter_to_array(self.entries.values().flat_map(|entry| entry.values.first().cloned()))?
            }
            Of::Multimap => {
                let DataType::List(field) = &self.value else { return not_impl_err!("lists of {}", self.value) };
                let lengths = self.entries.values().map(|entry| entry.values.len());
                let all =
                    ScalarValue::iter_to_array(self.entries.values().flat_map(|entry| entry.values.iter().cloned()))?;
                Arc::new(ListArray::try_new(Arc::clone(field), OffsetBuffer::from_lengths(lengths), all, None)?)
            }
        };
        Ok((keys, values))
    }
}

fn one_list(of: ArrayRef) -> ScalarValue {
    let field = Arc::new(Field::new_list_field(of.data_type().clone(), true));
    ScalarValue::List(Arc::new(ListArray::new(field, OffsetBuffer::from_lengths([of.len()]), of, None)))
}

impl Accumulator for Keys {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[0], |of, entry, row| {
            entry.rows += 1;
            if of == Of::Multimap || of == Of::Map && entry.values.is_empty() {
                entry.values.push(ScalarValue::try_from_array(&values[1], row)?.compacted());
            }
            Ok(())
        })
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (keys, values) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        for state in (0..keys.len()).filter(|state| keys.is_valid(*state)) {
            let (keys, values) = (keys.value(state), values.value(state));
            self.add(&keys, |of, entry, row| {
                match of {
                    Of::Histogram | Of::Mode => entry.rows += values.as_primitive::<Int64Type>().value(row),
                    Of::Map if entry.values.is_empty() => {
                        entry.values.push(ScalarValue::try_from_array(&values, row)?.compacted());
                    }
                    Of::Map => {}
                    Of::Multimap => {
                        let all = values.as_list::<i32>().value(row);
                        for place in 0..all.len() {
                            entry.values.push(ScalarValue::try_from_array(&all, place)?.compacted());
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let (keys, values) = self.columns()?;
        Ok(vec![one_list(keys), one_list(values)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.entries.is_empty() {
            return ScalarValue::try_from(&self.result);
        }
        let (keys, values) = self.columns()?;
        if self.of == Of::Mode {
            // The first of several is the least.
            let best = self.entries.values().enumerate().rev().max_by_key(|(_, entry)| entry.rows);
            return ScalarValue::try_from_array(&keys, best.map_or(0, |(place, _)| place));
        }
        let DataType::Map(field, _) = &self.result else { return not_impl_err!("a map of {}", self.result) };
        let length = keys.len();
        let entries = StructArray::try_new(entries_of(&self.key, self.value.clone()), vec![keys, values], None)?;
        let map = MapArray::try_new(Arc::clone(field), OffsetBuffer::from_lengths([length]), entries, None, false)?;
        Ok(ScalarValue::Map(Arc::new(map)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes
    }
}
