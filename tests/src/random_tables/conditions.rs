//! Random conditions in SQL, judged row by row. Each has a form whose columns no statistics can be compared with.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::table::{Random, Row, Shown, Version};
use super::values::{Kind, Value};

/// Leaf that a condition names.
#[derive(Debug, Clone)]
pub(super) struct Place {
    id: i32,
    kind: Kind,
    name: String,
}

#[derive(Debug, Clone)]
pub(super) enum Condition {
    Compare(Place, &'static str, Value),
    In(Place, Vec<Value>, bool),
    Between(Place, [Value; 2], bool),
    Null(Place, bool),
    Prefix(Place, String, bool),
    And(Box<[Condition; 2]>),
    Or(Box<[Condition; 2]>),
    Not(Box<Condition>),
}

/// Form of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    /// Columns stand in an expression, so that nothing can be left out unread.
    Unprunable,
}

impl Condition {
    pub(super) fn random(table: &Random, depth: u32, random: &mut StdRng) -> Self {
        if depth > 0 && random.random_ratio(2, 5) {
            let mut below = || Self::random(table, depth - 1, random);
            let two = Box::new([below(), below()]);
            return match random.random_range(0..5) {
                0 => Self::Not(Box::new(Self::random(table, depth - 1, random))),
                1 | 2 => Self::Or(two),
                _ => Self::And(two),
            };
        }
        let Shown { id, kind, name, .. } = table.shown(Version::Now).choose(random).cloned().expect("a column");
        let place = Place { id, kind, name };
        let negated = random.random_ratio(1, 3);
        if matches!(kind, Kind::List | Kind::Map) {
            return Self::Null(place, negated);
        }
        let value = |random: &mut StdRng| match id {
            1 => Value::Whole(random.random_range(0..200)),
            _ => kind.value(None, random),
        };
        match random.random_range(0..10) {
            0 => Self::Null(place, negated),
            1 | 2 => {
                let values = (0..random.random_range(1..4)).map(|_| value(random)).collect();
                Self::In(place, values, negated)
            }
            3 => Self::Between(place, [value(random), value(random)], negated),
            4 | 5 if kind == Kind::Text => {
                let prefix = *["", "t", "t1", "té", "long", "long te"].choose(random).expect("one");
                Self::Prefix(place, prefix.to_owned(), negated)
            }
            _ => {
                let operator = *["=", "<>", "<", "<=", ">", ">="].choose(random).expect("one");
                Self::Compare(place, operator, value(random))
            }
        }
    }

    /// Returns TRUE, FALSE or NULL.
    pub(super) fn of(&self, row: &Row) -> Option<bool> {
        let value = |place: &Place| row[&place.id].clone();
        match self {
            Self::Compare(place, operator, literal) => {
                let order = place.kind.order(&value(place)?, literal);
                Some(match *operator {
                    "=" => order.is_eq(),
                    "<>" => order.is_ne(),
                    "<" => order.is_lt(),
                    "<=" => order.is_le(),
                    ">" => order.is_gt(),
                    _ => order.is_ge(),
                })
            }
            Self::In(place, values, negated) => {
                let value = value(place)?;
                Some(values.iter().any(|other| place.kind.order(&value, other).is_eq()) != *negated)
            }
            Self::Between(place, [low, high], negated) => {
                let value = value(place)?;
                let is_within = place.kind.order(&value, low).is_ge() && place.kind.order(&value, high).is_le();
                Some(is_within != *negated)
            }
            Self::Null(place, negated) => Some(value(place).is_none() != *negated),
            Self::Prefix(place, prefix, negated) => match value(place)? {
                Value::Text(text) => Some(text.starts_with(prefix.as_str()) != *negated),
                other => panic!("{other:?} has no prefix"),
            },
            Self::And(two) => {
                let two = two.each_ref().map(|one| one.of(row));
                if two.contains(&Some(false)) { Some(false) } else { two[0].and(two[1]) }
            }
            Self::Or(two) => {
                let two = two.each_ref().map(|one| one.of(row));
                if two.contains(&Some(true)) { Some(true) } else { two[0].and(two[1]) }
            }
            Self::Not(one) => one.of(row).map(|truth| !truth),
        }
    }

    pub(super) fn sql(&self, form: Form) -> String {
        let not = |negated: bool| if negated { "NOT " } else { "" };
        let name = |place: &Place| match form {
            Form::Plain => place.name.clone(),
            // Each row has a number.
            Form::Unprunable => format!("CASE WHEN c1 >= 0 THEN {} END", place.name),
        };
        match self {
            Self::Compare(place, operator, value) => format!("{} {operator} {}", name(place), place.kind.sql(value)),
            Self::In(place, values, negated) => {
                let values: Vec<String> = values.iter().map(|value| place.kind.sql(value)).collect();
                format!("{} {}IN ({})", name(place), not(*negated), values.join(", "))
            }
            Self::Between(place, [low, high], negated) => {
                let (low, high) = (place.kind.sql(low), place.kind.sql(high));
                format!("{} {}BETWEEN {low} AND {high}", name(place), not(*negated))
            }
            Self::Null(place, negated) => format!("{} IS {}NULL", name(place), not(*negated)),
            Self::Prefix(place, prefix, negated) => format!("{} {}LIKE '{prefix}%'", name(place), not(*negated)),
            Self::And(two) => format!("({}) AND ({})", two[0].sql(form), two[1].sql(form)),
            Self::Or(two) => format!("({}) OR ({})", two[0].sql(form), two[1].sql(form)),
            Self::Not(one) => format!("NOT ({})", one.sql(form)),
        }
    }
}
