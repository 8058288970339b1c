//! Partition columns: values that the folders `key=value` above a file give to all its rows.
//!
//! A value is the folder's text, percent-decoded, as the column's type: `month=01` is 1 of an INT and '01' of a
//! VARCHAR. `__HIVE_DEFAULT_PARTITION__` is NULL. An empty value is NULL, too, unless the column is text. Keys are
//! found by name in any order. If no folder has just that key, one that differs in case is taken.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, exec_err};
use percent_encoding::percent_decode_str;

use super::error::FolderError;

/// Value that Hive, Spark, Athena, DuckDB and pyarrow write for NULL.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Key and value of a folder's name, decoded.
pub(super) struct FolderKey<'a> {
    key: Cow<'a, str>,
    value: Cow<'a, str>,
}

pub(super) fn folder_key(name: &str) -> Option<FolderKey<'_>> {
    let (key, value) = name.split_once('=')?;
    (!key.is_empty()).then(|| FolderKey { key: decoded(key), value: decoded(value) })
}

/// Decodes a text. A text that would not be UTF-8 then stands for itself.
fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8().unwrap_or(Cow::Borrowed(text))
}

/// Value that a folder gives to one column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FolderValue {
    Is(ScalarValue),
    /// A text that is not of the column's type. It is an error only if a row needs it.
    Bad(FolderError),
}

/// Finds the values of `columns` in a file's folders, as far as they are there. The deepest folder of a key counts.
pub(super) fn values<'a>(columns: &[FieldRef], folders: impl IntoIterator<Item = &'a str>) -> Vec<Option<FolderValue>> {
    let found: Vec<_> = folders.into_iter().filter_map(|name| Some((name, folder_key(name)?))).collect();
    let value_of = |column: &FieldRef| {
        let exact = found.iter().rev().find(|(_, folder)| folder.key == *column.name());
        let any_case = || found.iter().rev().find(|(_, folder)| folder.key.eq_ignore_ascii_case(column.name()));
        exact.or_else(any_case).map(|(name, FolderKey { value, .. })| {
            cast(value, column.data_type()).map_or_else(
                |_| {
                    FolderValue::Bad(FolderError::BadPartition {
                        folder: (*name).to_owned(),
                        column: column.name().clone(),
                        value: value.clone().into_owned(),
                        data_type: column.data_type().to_string(),
                    })
                },
                FolderValue::Is,
            )
        })
    };
    columns.iter().map(value_of).collect()
}

/// Returns all values of a file, in the columns' order.
///
/// # Errors
/// [`FolderError`] if a value is missing or is not of its column's type.
pub(super) fn complete(columns: &[FieldRef], values: Vec<Option<FolderValue>>, file: &str) -> Result<Vec<ScalarValue>> {
    let complete = columns.iter().zip(values).map(|(column, value)| match value {
        Some(FolderValue::Is(value)) => Ok(value),
        Some(FolderValue::Bad(error)) => Err(error),
        None => Err(FolderError::NoPartition { file: file.to_owned(), column: column.name().clone() }),
    });
    Ok(complete.collect::<std::result::Result<_, _>>()?)
}

fn cast(value: &str, data_type: &DataType) -> Result<ScalarValue> {
    let is_text = data_type.is_string() || matches!(data_type, DataType::Dictionary(_, of) if of.is_string());
    if value == NULL || (value.is_empty() && !is_text) {
        return ScalarValue::try_from(data_type);
    }
    let cast = ScalarValue::Utf8(Some(value.to_owned())).cast_to(data_type)?;
    let grown = match cast {
        ScalarValue::Float32(Some(float)) => float.is_infinite(),
        ScalarValue::Float64(Some(float)) => float.is_infinite(),
        _ => false,
    };
    if grown && !value.to_ascii_lowercase().contains("inf") {
        return exec_err!("{value} is too large");
    }
    // The engine's comparisons tell −0.0 from 0.0, so that both become 0.0.
    Ok(match cast {
        ScalarValue::Float64(Some(0.0)) => ScalarValue::Float64(Some(0.0)),
        ScalarValue::Float32(Some(0.0)) => ScalarValue::Float32(Some(0.0)),
        other => other,
    })
}

/// A key that all files have, and its values.
struct KeyValues {
    key: String,
    values: Vec<String>,
}

/// Infers the partition columns that all of these files have, in the order of the folders. A type fits all values of
/// its column.
///
/// It is BIGINT, DATE or TIMESTAMP if every value is written as such a value is, else VARCHAR, as in DuckDB. So `01`
/// stays text.
pub(super) fn infer<'a>(files: &[Vec<&'a str>]) -> Vec<FieldRef> {
    let Some(first) = files.first() else { return Vec::new() };
    let keys_of =
        |folders: &[&'a str]| -> Vec<FolderKey<'a>> { folders.iter().filter_map(|name| folder_key(name)).collect() };
    let mut columns: Vec<KeyValues> = Vec::new();
    for FolderKey { key, .. } in keys_of(first) {
        if columns.iter().all(|known| !known.key.eq_ignore_ascii_case(&key)) {
            columns.push(KeyValues { key: key.into_owned(), values: Vec::new() });
        }
    }
    let mut previous: Option<&[&str]> = None;
    for folders in files {
        // Files of one folder follow each other.
        if previous == Some(folders.as_slice()) {
            continue;
        }
        previous = Some(folders);
        let keys = keys_of(folders);
        columns.retain_mut(|KeyValues { key, values }| {
            let exact = keys.iter().rev().find(|found| found.key == *key);
            let found = exact.or_else(|| keys.iter().rev().find(|found| found.key.eq_ignore_ascii_case(key)));
            let value = found.map(|found| found.value.clone().into_owned());
            let is_there = value.is_some();
            values.extend(value);
            is_there
        });
    }
    columns
        .into_iter()
        .map(|KeyValues { key, values }| Arc::new(Field::new(key, type_of(values.iter().map(String::as_str)), true)))
        .collect()
}

fn type_of<'a>(values: impl Iterator<Item = &'a str> + Clone) -> DataType {
    let known = values.filter(|value| *value != NULL);
    let all = |is: &dyn Fn(&str) -> bool| known.clone().next().is_some() && known.clone().all(is);
    let castable = |value: &str, to: &DataType| cast(value, to).is_ok();
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    if all(&|value| value.parse::<i64>().is_ok_and(|number| number.to_string() == value)) {
        DataType::Int64
    } else if all(&|value| value.len() == 10 && looks_like_a_date(value) && castable(value, &DataType::Date32)) {
        DataType::Date32
    } else if all(&|value| value.len() >= 19 && looks_like_a_date(value) && castable(value, &timestamp)) {
        timestamp
    } else {
        DataType::Utf8View
    }
}

fn looks_like_a_date(value: &str) -> bool {
    let shape = value.bytes().take(10).map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    shape.eq(*b"0000-00-00")
}

/// Returns the statistics of a partition column in a file of so many rows.
///
/// DataFusion 55.2's own `PartitionedFile::with_statistics` never takes a partition value for NULL. Here it may be
/// NULL.
pub(super) fn statistics(value: &ScalarValue, rows: &Precision<usize>) -> ColumnStatistics {
    if value.is_null() {
        return ColumnStatistics { null_count: *rows, ..ColumnStatistics::new_unknown() };
    }
    let is_nan = match value {
        ScalarValue::Float32(Some(value)) => value.is_nan(),
        ScalarValue::Float64(Some(value)) => value.is_nan(),
        _ => false,
    };
    let bound = || if is_nan { Precision::Absent } else { Precision::Exact(value.clone()) };
    let width = value.data_type().primitive_width();
    ColumnStatistics {
        null_count: Precision::Exact(0),
        max_value: bound(),
        min_value: bound(),
        distinct_count: Precision::Exact(1),
        byte_size: width.map_or(Precision::Absent, |width| rows.multiply(&Precision::Exact(width))),
        ..ColumnStatistics::new_unknown()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, data_type: DataType) -> FieldRef {
        Arc::new(Field::new(name, data_type, true))
    }

    #[track_caller]
    fn check(data_type: DataType, folder: &str, expect: &str) {
        let found = values(&[column("p", data_type.clone())], [folder]).remove(0);
        let found = match found.expect("a value") {
            FolderValue::Is(value) => {
                assert_eq!(value.data_type(), data_type, "{folder}");
                value.to_string()
            }
            FolderValue::Bad(_) => "bad".to_owned(),
        };
        assert_eq!(found, expect, "{folder}");
    }

    #[test]
    fn a_value_is_of_its_columns_type() {
        let (text, timestamp) = (DataType::Utf8View, DataType::Timestamp(TimeUnit::Nanosecond, None));
        check(DataType::Int32, "p=01", "1");
        check(DataType::Int32, "p=-5", "-5");
        check(DataType::Int32, "p=x", "bad");
        check(DataType::Int8, "p=300", "bad");
        check(DataType::Float64, "p=1.50", "1.5");
        check(DataType::Float64, "p=-0.0", "0");
        check(DataType::Decimal128(10, 2), "p=1.5", "1.50");
        check(DataType::Date32, "p=2024-02-29", "2024-02-29");
        check(DataType::Date32, "p=2023-02-29", "bad");
        check(timestamp.clone(), "p=2024-02-29", "1709164800000000000");
        check(timestamp, "p=2024-02-29 01%3A00%3A00", "1709168400000000000");
        check(DataType::Boolean, "p=true", "true");
        for (folder, expect) in [
            ("p=01", "01"),
            ("p=", ""),
            ("p=NULL", "NULL"),
            ("p=a%3Ab%2Fc%3Dd%25", "a:b/c=d%"),
            ("p=a=b", "a=b"),
            ("p=100%", "100%"),
            ("P=~^|\"`{<", "~^|\"`{<"),
            ("p=%FF", "%FF"),
        ] {
            check(text.clone(), folder, expect);
        }
        for data_type in [DataType::Int32, DataType::Utf8View, DataType::Date32, DataType::Float64] {
            check(data_type, "p=__HIVE_DEFAULT_PARTITION__", "NULL");
        }
        check(DataType::Int32, "p=", "NULL");
    }

    #[test]
    fn keys_are_found_by_name() {
        let columns = [column("b", DataType::Int64), column("a", DataType::Utf8View), column("c", DataType::Int64)];
        let found = values(&columns, ["x", "a=1", "B=2", "b=3", "plain"]);
        let expect =
            [Some(FolderValue::Is(3_i64.into())), Some(FolderValue::Is(ScalarValue::Utf8View(Some("1".into())))), None];
        assert_eq!(found, expect);
        let error = complete(&columns, found, "x/f").expect_err("no c").to_string();
        assert!(error.contains("`x/f`") && error.contains("`c=…`"), "{error}");
    }

    #[test]
    fn a_partition_column_has_a_type_that_fits_all_values() {
        #[track_caller]
        fn check(values: &[&str], expect: &[(&str, DataType)]) {
            let files: Vec<Vec<&str>> = values.iter().map(|path| path.split('/').collect()).collect();
            let found: Vec<_> = infer(&files).iter().map(|f| (f.name().clone(), f.data_type().clone())).collect();
            let expect: Vec<_> = expect.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect();
            assert_eq!(found, expect, "{values:?}");
        }
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
        check(&["y=2024/m=1", "y=2023/m=12"], &[("y", DataType::Int64), ("m", DataType::Int64)]);
        check(&["m=01", "m=12"], &[("m", DataType::Utf8View)]);
        check(&["d=2024-02-29", "d=__HIVE_DEFAULT_PARTITION__"], &[("d", DataType::Date32)]);
        check(&["d=2024-02-29", "d=2024-02-30"], &[("d", DataType::Utf8View)]);
        check(&["t=2024-01-01 12%3A30%3A00"], &[("t", timestamp)]);
        check(&["p=__HIVE_DEFAULT_PARTITION__"], &[("p", DataType::Utf8View)]);
        check(&["Y=1", "y=2"], &[("Y", DataType::Int64)]);
        check(&["y=1/m=2", "y=2/x"], &[("y", DataType::Int64)]);
        check(&["x", "y=2"], &[]);
        check(&[], &[]);
    }
}
