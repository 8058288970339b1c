//! Functions of single rows. Each is a line in a table.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringViewArray};
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// Kind of an argument. A call's argument is cast to the kind's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    /// A text or an integer.
    Key,
    /// A date, or a time of one's own unit and zone.
    Time,
    /// A text, a number or a boolean.
    Scalar,
}

/// Result of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returns {
    Text,
    Texts,
    Integer,
    Boolean,
    Date,
    Timestamp,
    /// A time in UTC.
    Instant,
    /// The type of the argument at this place.
    Argument(usize),
}

/// Name of UTC in the types of times.
pub(super) const UTC: &str = "+00:00";

impl Returns {
    fn of(self, arguments: &[DataType]) -> DataType {
        match self {
            Self::Text => DataType::Utf8View,
            Self::Texts => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
            Self::Integer => DataType::Int64,
            Self::Boolean => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            Self::Argument(place) => arguments.get(place).cloned().unwrap_or(DataType::Null),
        }
    }
}

/// Function of single rows.
pub(super) struct Row {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    /// Names and kinds of the arguments.
    pub arguments: &'static [(&'static str, Kind)],
    /// How many arguments may be left out, from the end.
    pub optional: usize,
    pub returns: Returns,
    pub body: fn(&Cells) -> Result<ArrayRef>,
}

/// Arguments of a call over a batch of rows.
pub(super) struct Cells {
    name: &'static str,
    columns: Vec<ArrayRef>,
    /// True if a row whose computation fails is NULL.
    is_tried: bool,
    /// True where a column has one row, for all rows.
    constant: Vec<bool>,
    rows: usize,
}

/// Column of one type. A constant has one row.
pub(super) struct Column<A> {
    array: A,
    step: usize,
}

impl Column<StringViewArray> {
    pub(super) fn at(&self, row: usize) -> &str {
        self.array.value(row * self.step)
    }
}

impl Column<Int64Array> {
    pub(super) fn at(&self, row: usize) -> i64 {
        self.array.value(row * self.step)
    }
}

impl Cells {
    /// Returns how many arguments the call has.
    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn data_type(&self, place: usize) -> &DataType {
        self.columns[place].data_type()
    }

    pub(super) fn text(&self, place: usize) -> Column<StringViewArray> {
        Column { array: self.columns[place].as_string_view().clone(), step: self.step(place) }
    }

    pub(super) fn integer(&self, place: usize) -> Column<Int64Array> {
        Column { array: self.columns[place].as_primitive::<Int64Type>().clone(), step: self.step(place) }
    }

    /// Returns the array of an argument, with one row a row of the call.
    pub(super) fn spread(&self, place: usize) -> Result<ArrayRef> {
        if !self.constant[place] {
            return Ok(Arc::clone(&self.columns[place]));
        }
        ScalarValue::try_from_array(&self.columns[place], 0)?.to_array_of_size(self.rows)
    }

    fn step(&self, place: usize) -> usize {
        usize::from(!self.constant[place])
    }

    fn is_null(&self, row: usize) -> bool {
        (0..self.columns.len()).any(|place| self.columns[place].is_null(row * self.step(place)))
    }

    /// Computes each row whose arguments are not NULL.
    pub(super) fn each<T, A: FromIterator<Option<T>>>(
        &self,
        mut of: impl FnMut(usize) -> Result<Option<T>>,
    ) -> Result<A> {
        let mut value = |row| match of(row) {
            Err(_) if self.is_tried => Ok(None),
            value => value,
        };
        (0..self.rows).map(|row| if self.is_null(row) { Ok(None) } else { value(row) }).collect()
    }

    /// Computes a text for each row whose arguments are not NULL.
    pub(super) fn texts<T: AsRef<str>>(&self, of: impl FnMut(usize) -> Result<Option<T>>) -> Result<ArrayRef> {
        let texts: StringViewArray = self.each(of)?;
        Ok(Arc::new(texts))
    }
}

/// Form of the last argument: a pattern is compiled once for rows that share it.
pub(super) struct Last<T> {
    made: Option<(String, T)>,
}

impl<T> Last<T> {
    pub(super) fn new() -> Self {
        Self { made: None }
    }

    pub(super) fn get(&mut self, of: &str, make: impl FnOnce(&str) -> Result<T>) -> Result<&T> {
        if self.made.as_ref().is_none_or(|(last, _)| last != of) {
            self.made = Some((of.to_owned(), make(of)?));
        }
        match &self.made {
            Some((_, made)) => Ok(made),
            None => exec_err!("nothing was made of {of}"),
        }
    }
}

pub(super) struct RowFunction {
    row: &'static Row,
    name: String,
    /// True if a row whose computation fails is NULL.
    is_tried: bool,
    aliases: Vec<String>,
    signature: Signature,
}

impl RowFunction {
    pub(super) fn new(row: &'static Row) -> Self {
        let aliases = row.aliases.iter().map(|&alias| alias.to_owned()).collect();
        let signature = Signature::user_defined(Volatility::Immutable);
        Self { row, name: row.name.to_owned(), is_tried: false, aliases, signature }
    }

    /// Makes the form that is NULL where the function fails.
    pub(super) fn tried(row: &'static Row) -> Self {
        Self { name: format!("gust_try_{}", row.name), is_tried: true, aliases: Vec::new(), ..Self::new(row) }
    }

    fn usage(&self) -> String {
        let names: Vec<&str> = self.row.arguments.iter().map(|(name, _)| *name).collect();
        let (given, optional) = names.split_at(names.len() - self.row.optional);
        let optional: String = optional.iter().map(|name| format!("[, {name}]")).collect();
        format!("{}({}{optional})", self.row.name, given.join(", "))
    }
}

impl std::fmt::Debug for RowFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowFunction").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PartialEq for RowFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for RowFunction {}

impl Hash for RowFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

fn is_text(of: &DataType) -> bool {
    match of {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => true,
        DataType::Dictionary(_, of) => is_text(of),
        _ => false,
    }
}

impl Kind {
    /// Returns the type that an argument is cast to; None if it cannot be of this kind.
    fn coerced(self, of: &DataType) -> Option<DataType> {
        match self {
            Self::Text => is_text(of).then_some(DataType::Utf8View),
            Self::Integer => (of.is_integer() || of.is_null()).then_some(DataType::Int64),
            Self::Key => Self::Text.coerced(of).or_else(|| Self::Integer.coerced(of)),
            Self::Time => match of {
                DataType::Date32 | DataType::Date64 => Some(DataType::Date32),
                DataType::Timestamp(TimeUnit::Second, zone) => {
                    Some(DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
                }
                DataType::Timestamp(..) => Some(of.clone()),
                DataType::Null => Some(DataType::Timestamp(TimeUnit::Microsecond, None)),
                _ => None,
            },
            Self::Scalar => match of {
                DataType::Boolean => Some(DataType::Boolean),
                _ if of.is_integer() && *of != DataType::UInt64 => Some(DataType::Int64),
                _ if of.is_numeric() => Some(DataType::Float64),
                _ => Self::Text.coerced(of),
            },
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Integer => "an integer",
            Self::Key => "a text or an integer",
            Self::Time => "a date or a timestamp",
            Self::Scalar => "a text, a number or a boolean",
        }
    }
}

impl ScalarUDFImpl for RowFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let all = self.row.arguments;
        if !(all.len() - self.row.optional..=all.len()).contains(&arg_types.len()) {
            return plan_err!("{} is called with {} arguments", self.usage(), arg_types.len());
        }
        let coerced = arg_types.iter().zip(all).map(|(of, (name, kind))| match kind.coerced(of) {
            Some(coerced) => Ok(coerced),
            None => plan_err!("{}: {name} is {}, and {of} is given", self.usage(), kind.words()),
        });
        let mut coerced: Vec<DataType> = coerced.collect::<Result<_>>()?;
        // Two times are compared as one type.
        let mut times = (0..all.len()).filter(|place| all[*place].1 == Kind::Time && *place < coerced.len());
        if let (Some(first), Some(second)) = (times.next(), times.next()) {
            let both = of_both(&coerced[first], &coerced[second]);
            coerced[first] = both.clone();
            coerced[second] = both;
        }
        Ok(coerced)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.row.returns.of(arg_types))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { args.number_rows };
        let constant = args.args.iter().map(|arg| matches!(arg, ColumnarValue::Scalar(_))).collect();
        let columns = args.args.into_iter().map(|arg| match arg {
            ColumnarValue::Array(array) => Ok(array),
            ColumnarValue::Scalar(scalar) => scalar.to_array(),
        });
        let columns = columns.collect::<Result<_>>()?;
        let cells = Cells { name: self.row.name, columns, is_tried: self.is_tried, constant, rows };
        let result = (self.row.body)(&cells)?;
        Ok(match is_constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?),
            false => ColumnarValue::Array(result),
        })
    }
}

/// Returns a type that both times are cast to. Nanoseconds do not reach the year 9999, which others may have.
fn of_both(left: &DataType, right: &DataType) -> DataType {
    match (left, right) {
        (DataType::Timestamp(unit, zone), DataType::Timestamp(other, of)) => {
            let unit = if unit == other { *unit } else { TimeUnit::Microsecond };
            DataType::Timestamp(unit, zone.clone().or_else(|| of.clone()))
        }
        (DataType::Timestamp(_, zone), _) | (_, DataType::Timestamp(_, zone)) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
        }
        (of, _) => of.clone(),
    }
}
