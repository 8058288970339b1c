//! Keys of a join's build side, held against what is known of the other side's files.
//!
//! Contract: a file that may have a row with one of the keys stays, whatever is known of it. Floats have no keys here, because bounds do not tell
//! NaNs and zeros.

use std::cmp::Ordering;
use std::collections::HashSet;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result, ScalarValue};
use datafusion::functions_aggregate::min_max::{MaxAccumulator, MinAccumulator};
use datafusion::logical_expr::Accumulator;

/// Most keys that are listed. Of more there are the least and the greatest.
const LISTED_MAX: usize = 1_024;

/// Most rows in which keys to list are looked for.
const LISTED_ROWS_MAX: usize = 1 << 16;

/// Keys of a column that has a join's partner.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnKeys {
    pub column: String,
    /// Position of the column in the table's schema, with its partition columns.
    pub position: usize,
    pub keys: Keys,
    /// True if NULL is a key, too.
    pub has_null: bool,
}

/// Keys without NULL.
#[derive(Debug, Clone, PartialEq)]
pub enum Keys {
    /// All, ascending. None is there where the list is empty.
    Listed(Vec<ScalarValue>),
    Between {
        least: ScalarValue,
        greatest: ScalarValue,
    },
}

impl Keys {
    /// Collects the keys of a column. None for a type that has no exact order.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn of(data_type: &DataType, columns: &[ArrayRef]) -> Result<Option<Self>> {
        if !is_ordered(data_type) {
            return Ok(None);
        }
        if let Some(listed) = listed(columns)? {
            return Ok(Some(Self::Listed(listed)));
        }
        let (mut least, mut greatest) = (MinAccumulator::try_new(data_type)?, MaxAccumulator::try_new(data_type)?);
        for column in columns {
            least.update_batch(std::slice::from_ref(column))?;
            greatest.update_batch(std::slice::from_ref(column))?;
        }
        let (least, greatest) = (compared(least.evaluate()?), compared(greatest.evaluate()?));
        Ok(Some(match least.is_null() {
            true => Self::Listed(Vec::new()),
            false => Self::Between { least, greatest },
        }))
    }

    /// Returns true if a key may lie between two values. Values of another type rule nothing out.
    fn may_lie(&self, least: &ScalarValue, greatest: &ScalarValue) -> bool {
        match self {
            Self::Listed(keys) => {
                // The first key that is not below the least value is the only one to look at.
                let first = keys.partition_point(|key| key < least);
                let is_comparable = keys.iter().all(|key| key.partial_cmp(least).is_some());
                !is_comparable || keys.get(first).is_some_and(|key| !is_after(key, greatest))
            }
            Self::Between { least: from, greatest: to } => !is_after(from, greatest) && !is_after(least, to),
        }
    }
}

impl ColumnKeys {
    /// Returns true if a file or a part of it may have a row with one of the keys, by its statistics of the column.
    pub fn may_be_in(&self, known: Option<&ColumnStatistics>) -> bool {
        if self.has_null {
            // Not every writer counts NULLs.
            return true;
        }
        if matches!(&self.keys, Keys::Listed(keys) if keys.is_empty()) {
            return false;
        }
        let bound = |of: &Precision<ScalarValue>| of.get_value().cloned().map(compared);
        match known.and_then(|known| Some((bound(&known.min_value)?, bound(&known.max_value)?))) {
            Some((least, greatest)) => self.keys.may_lie(&least, &greatest),
            None => true,
        }
    }
}

fn is_after(value: &ScalarValue, other: &ScalarValue) -> bool {
    value.partial_cmp(other) == Some(Ordering::Greater)
}

/// Returns true for types whose values have one order, in the engine as in files.
fn is_ordered(data_type: &DataType) -> bool {
    data_type.is_integer()
        || data_type.is_string()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Decimal128(..)
                | DataType::Date32
                | DataType::Timestamp(..)
                | DataType::Time32(_)
                | DataType::Time64(_)
        )
}

/// Lists the keys, ascending. None if they are too many.
fn listed(columns: &[ArrayRef]) -> Result<Option<Vec<ScalarValue>>> {
    if columns.iter().map(|column| column.len()).sum::<usize>() > LISTED_ROWS_MAX {
        return Ok(None);
    }
    let mut seen = HashSet::new();
    for column in columns {
        for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
            seen.insert(compared(ScalarValue::try_from_array(column, row)?));
            if seen.len() > LISTED_MAX {
                return Ok(None);
            }
        }
    }
    let mut keys: Vec<ScalarValue> = seen.into_iter().collect();
    keys.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    Ok(Some(keys))
}

/// Makes one type of the types of texts.
fn compared(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text) => ScalarValue::Utf8(text),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringViewArray};

    use super::*;

    fn known(least: Option<ScalarValue>, greatest: Option<ScalarValue>) -> ColumnStatistics {
        let told = |value: Option<ScalarValue>| value.map_or(Precision::Absent, Precision::Inexact);
        ColumnStatistics { min_value: told(least), max_value: told(greatest), ..ColumnStatistics::new_unknown() }
    }

    fn keys(column: ArrayRef, has_null: bool) -> ColumnKeys {
        let keys = Keys::of(&column.data_type().clone(), &[column]).expect("keys").expect("an ordered type");
        ColumnKeys { column: "k".to_owned(), position: 0, keys, has_null }
    }

    #[test]
    fn a_file_stays_unless_no_key_lies_within_its_bounds() {
        let few = || Arc::new(Int64Array::from(vec![Some(30), None, Some(10), Some(30)])) as ArrayRef;
        let number = |value: i64| Some(ScalarValue::from(value));
        for (least, greatest, expect) in [
            (number(11), number(29), false),
            (number(31), number(40), false),
            (number(-5), number(9), false),
            (number(10), number(10), true),
            (number(30), number(90), true),
            (number(29), number(30), true),
            (number(0), number(100), true),
            (None, number(5), true),
            (number(50), None, true),
            // Bounds of another type rule nothing out.
            (Some(ScalarValue::from(50_i32)), Some(ScalarValue::from(60_i32)), true),
        ] {
            let known = known(least, greatest);
            assert_eq!(keys(few(), false).may_be_in(Some(&known)), expect, "{known:?}");
            assert!(keys(few(), true).may_be_in(Some(&known)), "NULL may be anywhere: {known:?}");
        }
        assert!(keys(few(), false).may_be_in(None), "nothing is known");
    }

    #[test]
    fn of_many_keys_there_are_the_least_and_the_greatest() {
        let many = keys(Arc::new(Int64Array::from_iter_values((0..=LISTED_MAX as i64).map(|key| key * 10))), false);
        assert!(matches!(&many.keys, Keys::Between { .. }), "{many:?}");
        let number = |value: i64| Some(ScalarValue::from(value));
        assert!(many.may_be_in(Some(&known(number(11), number(19)))));
        assert!(!many.may_be_in(Some(&known(number(-9), number(-1)))));
        assert!(!many.may_be_in(Some(&known(number(10_241), number(10_300)))));
        // As many rows, but few keys.
        let few = Int64Array::from_iter_values((0..5_000).map(|row| row % 3));
        assert!(matches!(keys(Arc::new(few), false).keys, Keys::Listed(keys) if keys.len() == 3));
    }

    #[test]
    fn without_keys_nothing_stays() {
        for column in [Int64Array::from(vec![None, None]), Int64Array::from(Vec::<i64>::new())] {
            let none = keys(Arc::new(column), false);
            assert!(!none.may_be_in(None));
        }
    }

    #[test]
    fn texts_are_compared_in_any_type_and_floats_in_none() {
        let texts = keys(Arc::new(StringViewArray::from(vec!["bern", "wien"])), false);
        let text = |text: &str| Some(ScalarValue::Utf8(Some(text.to_owned())));
        assert!(!texts.may_be_in(Some(&known(text("berz"), text("wie")))));
        assert!(texts.may_be_in(Some(&known(text("a"), text("berna")))));
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        assert_eq!(Keys::of(&floats.data_type().clone(), &[floats]).expect("no error"), None);
    }
}
