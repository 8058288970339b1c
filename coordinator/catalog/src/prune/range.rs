//! Knowledge about a set of values, and the test of a condition on it.

use std::cmp::Ordering;

use crate::predicate::CompareOp;
use crate::prune::Condition;
use crate::scalar::Scalar;
use crate::scan::ColumnFacts;
use crate::types::Transform;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nulls {
    None,
    Maybe,
    All,
}

/// Values of a column in a file, or of a partition field in a file or a manifest. An absent bound is
/// unknown. A present bound may be wider than the values, but never narrower.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ValueRange {
    pub(crate) lower: Option<Scalar>,
    pub(crate) upper: Option<Scalar>,
    pub(crate) nulls: Nulls,
    /// True where NaN may be among the values. Bounds say nothing about NaN.
    pub(crate) nan: bool,
    /// True where bounds of strings and bytes may be cut. Values may then begin with the upper bound and go on, where its
    /// writer did not round it up.
    pub(crate) cut: bool,
}

impl ValueRange {
    pub(crate) fn unknown() -> ValueRange {
        ValueRange { lower: None, upper: None, nulls: Nulls::Maybe, nan: true, cut: true }
    }

    /// Reads the range of a column from its metrics in a data file of so many rows. A column without metrics may hold
    /// anything: the file may have been written without them.
    pub(crate) fn of_column(record_count: u64, facts: Option<&ColumnFacts>) -> ValueRange {
        let Some(facts) = facts else { return ValueRange::unknown() };
        let values = facts.values.unwrap_or(record_count);
        if values != record_count || facts.nulls.is_some_and(|nulls| nulls > values) {
            // One count cannot be right, so that the other metrics may be wrong, too.
            return ValueRange::unknown();
        }
        let (lower, upper) = (facts.lower.clone(), facts.upper.clone());
        let nulls = match facts.nulls {
            Some(0) => Nulls::None,
            Some(nulls) if nulls == values && lower.is_none() && upper.is_none() => Nulls::All,
            _ => Nulls::Maybe,
        };
        ValueRange { lower, upper, nulls, nan: facts.nans != Some(0), cut: true }.trusted()
    }

    /// Drops bounds that contradict each other.
    pub(crate) fn trusted(mut self) -> ValueRange {
        if let (Some(lower), Some(upper)) = (&self.lower, &self.upper)
            && lower.compare(upper) == Some(Ordering::Greater)
        {
            (self.lower, self.upper) = (None, None);
        }
        self
    }

    /// Makes the range of a file's value of one partition field, which all of its rows share.
    pub(crate) fn of_partition(value: Option<&Scalar>, transform: Transform) -> ValueRange {
        let range = ValueRange {
            lower: value.cloned(),
            upper: value.cloned(),
            nulls: if value.is_some() { Nulls::None } else { Nulls::All },
            nan: value.is_some_and(Scalar::is_nan),
            cut: false,
        };
        range.widened(transform)
    }

    /// Widens the range to partition values that writers have computed wrongly.
    pub(crate) fn widened(mut self, transform: Transform) -> ValueRange {
        match transform {
            // Some writers rounded times before 1970 towards 1970 instead of down: 0 may have to be -1.
            Transform::Year | Transform::Month | Transform::Day | Transform::Hour => {
                self.lower = self.lower.map(|lower| match lower {
                    Scalar::Int(value @ ..=0) => Scalar::Int(value.saturating_sub(1)),
                    Scalar::Date(value @ ..=0) => Scalar::Date(value.saturating_sub(1)),
                    value => value,
                });
            }
            // Some writers wrapped around at the smallest numbers: the largest may have to be those.
            Transform::Truncate(width) => {
                let wrapped = match &self.upper {
                    Some(Scalar::Int(upper)) => i64::from(*upper) > i64::from(i32::MAX) - i64::from(width),
                    Some(Scalar::Long(upper)) => *upper > i64::MAX - i64::from(width),
                    _ => false,
                };
                if wrapped {
                    self.lower = None;
                }
            }
            _ => {}
        }
        self
    }

    /// Returns true where the condition can hold for any of the values.
    pub(crate) fn admits(&self, condition: &Condition) -> bool {
        match condition {
            Condition::IsNull => self.nulls != Nulls::None,
            _ if self.nulls == Nulls::All => false,
            Condition::NotNull => true,
            Condition::Compare(op, value) => self.admits_compare(*op, value),
            Condition::In(values) => {
                let below = |value: &Scalar| match &self.lower {
                    Some(lower) => value.compare(lower) == Some(Ordering::Less),
                    None => false,
                };
                let first = values.partition_point(below);
                values.get(first).is_some_and(|value| !self.is_above(value))
            }
            Condition::StartsWith(prefix) => self.admits_prefix(prefix),
        }
    }

    fn admits_compare(&self, op: CompareOp, value: &Scalar) -> bool {
        // Engines disagree on the place of NaN and on the order of zeros, so that none of them is believed.
        let float = value.is_float();
        if float && self.nan && op != CompareOp::Eq {
            return true;
        }
        let lower = self.lower.as_ref().and_then(|lower| lower.compare(value));
        let upper = self.upper.as_ref().and_then(|upper| upper.compare(value));
        let above = lower == Some(Ordering::Greater);
        let below = self.is_above(value);
        // An equal bound is the least or the greatest value in every order in use.
        let ordered = !float && !matches!(value, Scalar::Uuid(_));
        let from = ordered && lower == Some(Ordering::Equal);
        let until = ordered && upper == Some(Ordering::Equal) && !self.may_go_on(value);
        match op {
            CompareOp::Eq => !above && !below,
            CompareOp::NotEq => !(from && until),
            CompareOp::LtEq => !above,
            CompareOp::GtEq => !below,
            CompareOp::Lt => !above && !from,
            CompareOp::Gt => !below && !until,
        }
    }

    /// Returns true where the value lies above all of the values.
    fn is_above(&self, value: &Scalar) -> bool {
        let upper = self.upper.as_ref();
        upper.is_some_and(|upper| value.compare(upper) == Some(Ordering::Greater)) && !self.may_go_on(value)
    }

    /// Returns true where a cut upper bound is a prefix of `value`: the real bound may then be above it.
    fn may_go_on(&self, value: &Scalar) -> bool {
        self.cut
            && match (&self.upper, value) {
                (Some(Scalar::String(upper)), Scalar::String(value)) => value.starts_with(upper.as_str()),
                (Some(Scalar::Binary(upper) | Scalar::Fixed(upper)), Scalar::Binary(value) | Scalar::Fixed(value)) => {
                    value.starts_with(upper)
                }
                _ => false,
            }
    }

    fn admits_prefix(&self, prefix: &str) -> bool {
        let above = match &self.lower {
            Some(Scalar::String(lower)) => lower.as_str() > prefix && !lower.starts_with(prefix),
            _ => false,
        };
        !above && !self.is_above(&Scalar::String(prefix.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(lower: Option<Scalar>, upper: Option<Scalar>) -> ValueRange {
        ValueRange { lower, upper, nulls: Nulls::Maybe, nan: false, cut: false }
    }

    #[test]
    fn a_condition_is_admitted_by_bounds() {
        let ten_to_twenty = range(Some(Scalar::Int(10)), Some(Scalar::Int(20)));
        let check = |op, value: Scalar, expect| {
            let op = Condition::Compare(op, value);
            assert_eq!(ten_to_twenty.admits(&op), expect, "{op:?}");
        };
        for (value, [eq, ne, lt, le, gt, ge]) in [
            (9, [false, true, false, false, true, true]),
            (10, [true, true, false, true, true, true]),
            (15, [true, true, true, true, true, true]),
            (20, [true, true, true, true, false, true]),
            (21, [false, true, true, true, false, false]),
        ] {
            for value in [Scalar::Int(value), Scalar::Long(i64::from(value))] {
                check(CompareOp::Eq, value.clone(), eq);
                check(CompareOp::NotEq, value.clone(), ne);
                check(CompareOp::Lt, value.clone(), lt);
                check(CompareOp::LtEq, value.clone(), le);
                check(CompareOp::Gt, value.clone(), gt);
                check(CompareOp::GtEq, value.clone(), ge);
            }
        }
    }

    #[test]
    fn a_list_is_admitted_by_its_values() {
        let check = |range: ValueRange, values: &[i32], expect| {
            let op = Condition::In(values.iter().copied().map(Scalar::Int).collect());
            assert_eq!(range.admits(&op), expect, "{range:?} {values:?}");
        };
        let ten_to_twenty = || range(Some(Scalar::Int(10)), Some(Scalar::Int(20)));
        check(ten_to_twenty(), &[1, 9, 21, 30], false);
        check(ten_to_twenty(), &[1, 9, 15, 30], true);
        check(ten_to_twenty(), &[20], true);
        check(ten_to_twenty(), &[], false);
        check(range(None, Some(Scalar::Int(20))), &[21], false);
        check(range(None, Some(Scalar::Int(20))), &[1, 21], true);
        check(range(None, None), &[1], true);
    }

    #[test]
    fn a_condition_that_bounds_cannot_tell_is_admitted() {
        let check = |range: ValueRange, op: Condition, expect| {
            assert_eq!(range.admits(&op), expect, "{range:?} {op:?}");
        };
        let double = |value| Some(Scalar::Double(value));
        let one_to_two = || range(double(1.0), double(2.0));
        let maybe_nan = || ValueRange { nan: true, ..one_to_two() };
        let above = |value| Condition::Compare(CompareOp::Gt, Scalar::Double(value));
        let equals = |value| Condition::Compare(CompareOp::Eq, Scalar::Double(value));
        check(one_to_two(), above(5.0), false);
        check(maybe_nan(), above(5.0), true);
        check(maybe_nan(), equals(5.0), false);
        check(range(double(f64::NAN), double(f64::NAN)), equals(5.0), true);
        // -0.0 < 0.0 in a total order, equal in IEEE 754.
        let zero = range(double(-0.0), double(0.0));
        check(zero.clone(), Condition::Compare(CompareOp::Lt, Scalar::Double(0.0)), true);
        check(zero.clone(), Condition::Compare(CompareOp::NotEq, Scalar::Double(0.0)), true);
        check(zero, equals(-0.0), true);
        // A bound of another kind says nothing.
        let date = range(Some(Scalar::Date(5)), Some(Scalar::Date(6)));
        check(date, Condition::Compare(CompareOp::Eq, Scalar::Timestamp(0)), true);
    }

    #[test]
    fn a_condition_is_admitted_by_nulls() {
        let check = |nulls, op: Condition, expect| {
            let range = ValueRange { nulls, ..range(None, None) };
            assert_eq!(range.admits(&op), expect, "{nulls:?} {op:?}");
        };
        let equals = || Condition::Compare(CompareOp::Eq, Scalar::Int(1));
        for (nulls, [is_null, not_null, compare]) in
            [(Nulls::None, [false, true, true]), (Nulls::Maybe, [true, true, true]), (Nulls::All, [true, false, false])]
        {
            check(nulls, Condition::IsNull, is_null);
            check(nulls, Condition::NotNull, not_null);
            check(nulls, equals(), compare);
            check(nulls, Condition::In(vec![Scalar::Int(1)]), compare);
            check(nulls, Condition::StartsWith("a".into()), compare);
        }
    }

    #[test]
    fn a_prefix_is_admitted_within_truncated_bounds() {
        let string = |value: &str| Some(Scalar::String(value.into()));
        let range = range(string("ab"), string("ad"));
        for (prefix, expect) in [
            ("", true),
            ("a", true),
            ("ab", true),
            ("abzz", true),
            ("ac", true),
            ("ad", true),
            ("ada", false),
            ("aa", false),
            ("b", false),
        ] {
            let op = Condition::StartsWith(prefix.into());
            assert_eq!(range.admits(&op), expect, "{prefix}");
        }
    }

    #[test]
    fn of_column_reads_counts() {
        let check = |values: Option<u64>, nulls: Option<u64>, expect| {
            let facts = ColumnFacts { values, nulls, ..ColumnFacts::default() };
            assert_eq!(ValueRange::of_column(10, Some(&facts)).nulls, expect, "{values:?} {nulls:?}");
        };
        check(Some(10), Some(0), Nulls::None);
        check(Some(10), Some(3), Nulls::Maybe);
        check(Some(10), Some(10), Nulls::All);
        check(None, Some(10), Nulls::All);
        check(Some(10), None, Nulls::Maybe);
        check(None, None, Nulls::Maybe);
        // These counts cannot be right.
        check(Some(10), Some(11), Nulls::Maybe);
        check(Some(3), Some(3), Nulls::Maybe);
        check(Some(3), Some(0), Nulls::Maybe);
    }

    #[test]
    fn bounds_that_contradict_each_other_say_nothing() {
        let facts =
            ColumnFacts { lower: Some(Scalar::Int(20)), upper: Some(Scalar::Int(10)), ..ColumnFacts::default() };
        let range = ValueRange::of_column(1, Some(&facts));
        assert_eq!((&range.lower, &range.upper), (&None, &None));
        assert!(range.admits(&Condition::Compare(CompareOp::Eq, Scalar::Int(15))));
    }

    #[test]
    fn values_may_go_on_after_a_cut_bound() {
        let string = |value: &str| Scalar::String(value.into());
        let check = |cut, op, value, expect| {
            let range = ValueRange { cut, ..range(Some(string("ab")), Some(string("ad"))) };
            let op = Condition::Compare(op, string(value));
            assert_eq!(range.admits(&op), expect, "{cut} {op:?}");
        };
        for (value, [eq, gt, ge]) in
            [("ac", [true, true, true]), ("ad", [true, true, true]), ("adz", [true, true, true]), ("ae", [false; 3])]
        {
            check(true, CompareOp::Eq, value, eq);
            check(true, CompareOp::Gt, value, gt);
            check(true, CompareOp::GtEq, value, ge);
        }
        for (value, [eq, gt, ge]) in
            [("ac", [true, true, true]), ("ad", [true, false, true]), ("adz", [false; 3]), ("ae", [false; 3])]
        {
            check(false, CompareOp::Eq, value, eq);
            check(false, CompareOp::Gt, value, gt);
            check(false, CompareOp::GtEq, value, ge);
        }
        let bytes =
            ValueRange { cut: true, ..range(Some(Scalar::Binary(vec![0xff])), Some(Scalar::Binary(vec![0xff, 0xff]))) };
        let op = |value: &[u8]| Condition::In(vec![Scalar::Binary(value.to_vec())]);
        assert!(bytes.admits(&op(&[0xff, 0xff, 0xff])));
        assert!(!bytes.admits(&op(&[0xfe])));
    }

    #[test]
    fn widened_makes_room_for_known_writers() {
        let check = |value: Scalar, transform, expect: Option<Scalar>| {
            let range = ValueRange::of_partition(Some(&value), transform);
            assert_eq!(range.lower, expect, "{value:?} {transform}");
            assert_eq!(range.upper, Some(value));
        };
        check(Scalar::Int(0), Transform::Month, Some(Scalar::Int(-1)));
        check(Scalar::Int(1), Transform::Month, Some(Scalar::Int(1)));
        check(Scalar::Date(-3), Transform::Day, Some(Scalar::Date(-4)));
        check(Scalar::Int(-3), Transform::Identity, Some(Scalar::Int(-3)));
        check(Scalar::Int(i32::MAX - 5), Transform::Truncate(10), None);
        check(Scalar::Int(100), Transform::Truncate(10), Some(Scalar::Int(100)));
    }
}
