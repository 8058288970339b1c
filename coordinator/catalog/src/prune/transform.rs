//! Iceberg's partition transforms, of a value and of a condition.
//!
//! They are not taken from iceberg: its day and hour round some times before 1970 the wrong way, its
//! truncate takes no binary, and its year and month panic on far dates.

use crate::predicate::CompareOp;
use crate::prune::Condition;
use crate::scalar::Scalar;
use crate::types::Transform;

const SECONDS_PER_DAY: i64 = 86_400;
const SECONDS_PER_HOUR: i64 = 3_600;

impl Transform {
    /// Computes the partition value of a column's value. `None` for `Void`, for a kind that the
    /// transform does not take, and where the result has no representation.
    pub fn apply(&self, value: &Scalar) -> Option<Scalar> {
        match *self {
            Transform::Identity => Some(value.clone()),
            Transform::Bucket(buckets) => {
                let hash = hash(value)? & i32::MAX as u32;
                Some(Scalar::Int(hash.checked_rem(buckets)? as i32))
            }
            Transform::Truncate(width) => truncate(value, width),
            Transform::Year => {
                let (years, _) = years_and_month(days(value)?);
                Some(Scalar::Int(years.try_into().ok()?))
            }
            Transform::Month => {
                let (years, month) = years_and_month(days(value)?);
                Some(Scalar::Int((years * 12 + month).try_into().ok()?))
            }
            Transform::Day => Some(Scalar::Date(days(value)?.try_into().ok()?)),
            Transform::Hour => {
                let hours = seconds(value)?.div_euclid(SECONDS_PER_HOUR);
                Some(Scalar::Int(hours.try_into().ok()?))
            }
            Transform::Void | Transform::Unknown => None,
        }
    }

    /// Projects a condition: the result holds for the partition value wherever `condition` holds for the
    /// column's value. `None` when no condition does.
    pub(crate) fn project(&self, condition: &Condition) -> Option<Condition> {
        match self {
            Transform::Void | Transform::Unknown => return None,
            Transform::Identity => return Some(condition.clone()),
            _ => {}
        }
        let projected = match condition {
            Condition::IsNull => return Some(Condition::IsNull),
            Condition::Compare(CompareOp::Eq, value) => {
                self.apply_alike(value).map(|value| Condition::Compare(CompareOp::Eq, value))
            }
            Condition::Compare(CompareOp::Lt | CompareOp::LtEq, value) if self.keeps_order() => {
                let value = self.apply(value);
                value.map(|value| Condition::Compare(CompareOp::LtEq, value))
            }
            Condition::Compare(CompareOp::Gt | CompareOp::GtEq, value) if self.keeps_order() => {
                let value = self.apply(value);
                value.map(|value| Condition::Compare(CompareOp::GtEq, value))
            }
            Condition::In(values) => {
                let values: Option<Vec<_>> = values.iter().map(|v| self.apply_alike(v)).collect();
                values.map(Condition::any_of)
            }
            Condition::StartsWith(prefix) => self.project_prefix(prefix),
            Condition::Compare(..) | Condition::NotNull => None,
        };
        // Each of these conditions is false for NULL, and the partition value is NULL for NULL alone.
        Some(projected.unwrap_or(Condition::NotNull))
    }

    /// Writes a partition value for people: `2024-03` for a month, `2024-03-31` for a day.
    pub(crate) fn text(&self, value: Option<&Scalar>) -> String {
        let month = |months: i64| format!("{:04}-{:02}", 1970 + months.div_euclid(12), 1 + months.rem_euclid(12));
        match (self, value) {
            (_, None) => "null".to_owned(),
            (Transform::Year, Some(Scalar::Int(years))) => format!("{:04}", 1970 + i64::from(*years)),
            (Transform::Month, Some(Scalar::Int(months))) => month(i64::from(*months)),
            (Transform::Hour, Some(Scalar::Int(hours))) => {
                let hours = i64::from(*hours);
                format!("{}-{:02}", date_text(hours.div_euclid(24)), hours.rem_euclid(24))
            }
            (_, Some(value)) => plain_text(value),
        }
    }

    fn keeps_order(&self) -> bool {
        !matches!(self, Transform::Bucket(_))
    }

    /// Computes the partition value where all writers agree on it.
    fn apply_alike(&self, value: &Scalar) -> Option<Scalar> {
        match (self, value) {
            // Some writers hash nanoseconds before 1970 as microseconds rounded up, others rounded down.
            (Transform::Bucket(_), Scalar::TimestampNs(_) | Scalar::TimestamptzNs(_)) => None,
            _ => self.apply(value),
        }
    }

    fn project_prefix(&self, prefix: &str) -> Option<Condition> {
        let Transform::Truncate(width) = self else {
            return None;
        };
        let cut = cut_chars(prefix, *width);
        Some(if cut.len() == prefix.len() {
            Condition::StartsWith(prefix.to_string())
        } else {
            Condition::Compare(CompareOp::Eq, Scalar::String(cut.to_string()))
        })
    }
}

fn date_text(days: i64) -> String {
    let (years, month, day) = civil(days);
    format!("{:04}-{:02}-{day:02}", 1970 + years, month + 1)
}

fn plain_text(value: &Scalar) -> String {
    let instant = |value: i64, per_second: i64, digits: usize| {
        let (seconds, fraction) = (value.div_euclid(per_second), value.rem_euclid(per_second));
        let (days, of_day) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:0digits$}") };
        format!("{}T{hour:02}:{minute:02}:{second:02}{fraction}", date_text(days))
    };
    match value {
        Scalar::Boolean(v) => v.to_string(),
        Scalar::Int(v) => v.to_string(),
        Scalar::Long(v) => v.to_string(),
        Scalar::Float(v) => v.to_string(),
        Scalar::Double(v) => v.to_string(),
        Scalar::Decimal { unscaled, scale, .. } => decimal_text(*unscaled, *scale),
        Scalar::Date(v) => date_text(i64::from(*v)),
        Scalar::Time(v) => {
            instant(*v, 1_000_000, 6).split_once('T').map(|(_, time)| time.to_owned()).unwrap_or_default()
        }
        Scalar::Timestamp(v) => instant(*v, 1_000_000, 6),
        Scalar::Timestamptz(v) => instant(*v, 1_000_000, 6) + "Z",
        Scalar::TimestampNs(v) => instant(*v, 1_000_000_000, 9),
        Scalar::TimestamptzNs(v) => instant(*v, 1_000_000_000, 9) + "Z",
        Scalar::String(v) => v.clone(),
        Scalar::Uuid(v) => uuid::Uuid::from_u128(*v).to_string(),
        Scalar::Fixed(v) | Scalar::Binary(v) => v.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn decimal_text(unscaled: i128, scale: u32) -> String {
    let digits = unscaled.unsigned_abs().to_string();
    let sign = if unscaled < 0 { "-" } else { "" };
    match scale as usize {
        0 => format!("{sign}{digits}"),
        scale => {
            let digits = format!("{digits:0>width$}", width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            format!("{sign}{whole}.{fraction}")
        }
    }
}

fn truncate(value: &Scalar, width: u32) -> Option<Scalar> {
    if width == 0 {
        return None;
    }
    let wide = i64::from(width);
    Some(match value {
        Scalar::Int(v) => {
            let value = i64::from(*v) - i64::from(*v).rem_euclid(wide);
            Scalar::Int(value.try_into().ok()?)
        }
        Scalar::Long(v) => Scalar::Long(v.checked_sub(v.rem_euclid(wide))?),
        Scalar::Decimal { unscaled, precision, scale } => Scalar::Decimal {
            unscaled: unscaled.checked_sub(unscaled.rem_euclid(i128::from(width)))?,
            precision: *precision,
            scale: *scale,
        },
        Scalar::String(v) => Scalar::String(cut_chars(v, width).to_string()),
        Scalar::Binary(v) => Scalar::Binary(v[..v.len().min(width as usize)].to_vec()),
        _ => return None,
    })
}

fn cut_chars(value: &str, width: u32) -> &str {
    match value.char_indices().nth(width as usize) {
        Some((end, _)) => &value[..end],
        None => value,
    }
}

/// Returns the seconds since 1970, rounded down.
fn seconds(value: &Scalar) -> Option<i64> {
    match value {
        Scalar::Timestamp(micros) | Scalar::Timestamptz(micros) => Some(micros.div_euclid(1_000_000)),
        Scalar::TimestampNs(nanos) | Scalar::TimestamptzNs(nanos) => Some(nanos.div_euclid(1_000_000_000)),
        _ => None,
    }
}

/// Returns the days since 1970-01-01, rounded down.
fn days(value: &Scalar) -> Option<i64> {
    match value {
        Scalar::Date(days) => Some(i64::from(*days)),
        _ => Some(seconds(value)?.div_euclid(SECONDS_PER_DAY)),
    }
}

/// Returns the years since 1970 and the month, 0 to 11, of a day of the Gregorian calendar. Years
/// are counted from March, so that the leap day comes last, in eras of 400 years, which are alike.
fn years_and_month(days: i64) -> (i64, i64) {
    let (years, month, _) = civil(days);
    (years, month)
}

/// Returns the years since 1970, the month, 0 to 11, and the day, 1 to 31.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    let since_march_0000 = days + 719_468;
    let era = since_march_0000.div_euclid(DAYS_PER_ERA);
    let day = since_march_0000.rem_euclid(DAYS_PER_ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let month = (from_march + 2) % 12;
    let day = day - (153 * from_march + 2) / 5 + 1;
    let year = era * 400 + year + i64::from(month < 2);
    (year - 1970, month, day)
}

/// Computes the specification's 32-bit hash. `None` for kinds that cannot be bucketed.
fn hash(value: &Scalar) -> Option<u32> {
    let long = |value: i64| murmur3(&value.to_le_bytes());
    Some(match value {
        Scalar::Int(v) | Scalar::Date(v) => long(i64::from(*v)),
        Scalar::Long(v) | Scalar::Time(v) | Scalar::Timestamp(v) | Scalar::Timestamptz(v) => long(*v),
        Scalar::TimestampNs(v) | Scalar::TimestamptzNs(v) => long(v.div_euclid(1_000)),
        Scalar::Decimal { unscaled, .. } => murmur3(minimal_be_bytes(&unscaled.to_be_bytes())),
        Scalar::String(v) => murmur3(v.as_bytes()),
        Scalar::Uuid(v) => murmur3(&v.to_be_bytes()),
        Scalar::Fixed(v) | Scalar::Binary(v) => murmur3(v),
        Scalar::Boolean(_) | Scalar::Float(_) | Scalar::Double(_) => return None,
    })
}

/// Returns the shortest two's complement form of a big-endian number.
pub(crate) fn minimal_be_bytes(bytes: &[u8; 16]) -> &[u8] {
    let redundant = bytes
        .windows(2)
        .take_while(|pair| match pair[0] {
            0x00 => pair[1] & 0x80 == 0,
            0xff => pair[1] & 0x80 != 0,
            _ => false,
        })
        .count();
    &bytes[redundant..]
}

/// Computes Murmur3, the 32-bit x86 variant with seed 0.
fn murmur3(bytes: &[u8]) -> u32 {
    let mix = |block: u32| {
        let block = block.wrapping_mul(0xcc9e_2d51).rotate_left(15);
        block.wrapping_mul(0x1b87_3593)
    };
    let (blocks, tail) = bytes.as_chunks::<4>();
    let mut hash = 0u32;
    for block in blocks {
        hash ^= mix(u32::from_le_bytes(*block));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    hash ^= mix(u32::from_le_bytes(last));
    hash ^= bytes.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_values_are_written_for_people() {
        let check = |transform: Transform, value: Scalar, expect: &str| {
            assert_eq!(transform.text(Some(&value)), expect, "{transform} {value:?}");
        };
        check(Transform::Year, Scalar::Int(54), "2024");
        check(Transform::Month, Scalar::Int(-1), "1969-12");
        check(Transform::Day, Scalar::Date(59), "1970-03-01");
        check(Transform::Day, Scalar::Date(-1), "1969-12-31");
        check(Transform::Day, Scalar::Date(19_782), "2024-02-29");
        check(Transform::Hour, Scalar::Int(-1), "1969-12-31-23");
        check(Transform::Bucket(4), Scalar::Int(3), "3");
        check(Transform::Identity, Scalar::String("eu".into()), "eu");
        check(Transform::Identity, Scalar::Decimal { unscaled: -5, precision: 9, scale: 2 }, "-0.05");
        check(Transform::Identity, Scalar::Timestamp(-1), "1969-12-31T23:59:59.999999");
        check(Transform::Identity, Scalar::Timestamptz(86_400_000_000), "1970-01-02T00:00:00Z");
        check(Transform::Identity, Scalar::Time(3_600_000_000), "01:00:00");
        check(Transform::Truncate(2), Scalar::Binary(vec![1, 0xab]), "01ab");
        assert_eq!(Transform::Identity.text(None), "null");
    }

    fn decimal(unscaled: i128) -> Scalar {
        Scalar::Decimal { unscaled, precision: 9, scale: 2 }
    }

    const HOUR: i64 = 3_600_000_000;

    /// The vectors are the specification's own (appendix B).
    #[test]
    fn the_hash_equals_the_specifications_vectors() {
        let check = |value: Scalar, expect: i32| {
            assert_eq!(hash(&value).map(|hash| hash as i32), Some(expect), "{value:?}");
        };
        check(Scalar::Int(34), 2017239379);
        check(Scalar::Long(34), 2017239379);
        check(decimal(1420), -500754589);
        check(Scalar::Date(17486), -653330422);
        check(Scalar::Time(22 * HOUR + 31 * 60_000_000 + 8_000_000), -662762989);
        let instant = 1_510_871_468_000_000;
        check(Scalar::Timestamp(instant), -2047944441);
        check(Scalar::Timestamp(instant + 1), -1207196810);
        check(Scalar::TimestampNs(instant * 1_000), -2047944441);
        check(Scalar::TimestampNs((instant + 1) * 1_000 + 1), -1207196810);
        check(Scalar::String("iceberg".into()), 1210000089);
        check(Scalar::Uuid(0xf79c_3e09_677c_4bbd_a479_3f34_9cb7_85e7), 1488055340);
        check(Scalar::Fixed(vec![0, 1, 2, 3]), -188683207);
        check(Scalar::Binary(vec![0, 1, 2, 3]), -188683207);
    }

    #[test]
    fn partition_values_are_the_specifications() {
        let check = |transform: Transform, value: Scalar, expect: Option<Scalar>| {
            assert_eq!(transform.apply(&value), expect, "{transform} {value:?}");
        };
        let int = |value| Some(Scalar::Int(value));
        check(Transform::Bucket(16), Scalar::Int(34), int(3));
        check(Transform::Bucket(0), Scalar::Int(34), None);
        check(Transform::Bucket(16), Scalar::Double(1.0), None);
        check(Transform::Truncate(10), Scalar::Int(1), int(0));
        check(Transform::Truncate(10), Scalar::Int(-1), int(-10));
        check(Transform::Truncate(10), Scalar::Int(i32::MIN), None);
        check(Transform::Truncate(10), Scalar::Long(i64::MIN), None);
        check(Transform::Truncate(50), decimal(1065), Some(decimal(1050)));
        check(Transform::Truncate(3), Scalar::String("iceberg".into()), Some(Scalar::String("ice".into())));
        check(Transform::Truncate(2), Scalar::String("é漢字".into()), Some(Scalar::String("é漢".into())));
        check(Transform::Truncate(2), Scalar::Binary(vec![1, 2, 3]), Some(Scalar::Binary(vec![1, 2])));
        check(Transform::Year, Scalar::Date(0), int(0));
        check(Transform::Year, Scalar::Date(-1), int(-1));
        check(Transform::Month, Scalar::Date(17486), int(574));
        check(Transform::Month, Scalar::Date(-1), int(-1));
        check(Transform::Month, Scalar::Date(59), int(2));
        check(Transform::Month, Scalar::Date(i32::MIN), int(-70555327));
        check(Transform::Day, Scalar::Timestamp(-1), Some(Scalar::Date(-1)));
        check(Transform::Day, Scalar::Timestamp(-24 * HOUR - 500_000), Some(Scalar::Date(-2)));
        check(Transform::Hour, Scalar::Timestamptz(-1), int(-1));
        check(Transform::Hour, Scalar::TimestampNs(2 * HOUR * 1_000), int(2));
        check(Transform::Hour, Scalar::Date(1), None);
        check(Transform::Void, Scalar::Int(1), None);
    }

    #[test]
    fn project_implies_the_condition() {
        let check = |transform: Transform, op: Condition, expect: Option<Condition>| {
            assert_eq!(transform.project(&op), expect, "{transform} {op:?}");
        };
        let int = |op, value| Condition::Compare(op, Scalar::Int(value));
        let text = |value: &str| Scalar::String(value.into());
        let ten = Transform::Truncate(10);
        use CompareOp::*;
        check(ten, int(Eq, 25), Some(int(Eq, 20)));
        check(ten, int(Lt, 25), Some(int(LtEq, 20)));
        check(ten, int(GtEq, 25), Some(int(GtEq, 20)));
        check(ten, int(NotEq, 25), Some(Condition::NotNull));
        check(ten, int(LtEq, i32::MIN), Some(Condition::NotNull));
        check(ten, Condition::IsNull, Some(Condition::IsNull));
        check(Transform::Bucket(16), int(Lt, 25), Some(Condition::NotNull));
        check(Transform::Bucket(16), int(Eq, 34), Some(int(Eq, 3)));
        let same_bucket = Condition::In(vec![Scalar::Int(34), Scalar::Int(34)]);
        check(Transform::Bucket(16), same_bucket, Some(Condition::In(vec![Scalar::Int(3)])));
        let nanos = Condition::Compare(Eq, Scalar::TimestampNs(-1));
        check(Transform::Bucket(16), nanos, Some(Condition::NotNull));
        check(Transform::Void, int(Eq, 1), None);
        check(Transform::Unknown, Condition::IsNull, None);
        check(Transform::Identity, int(Lt, 25), Some(int(Lt, 25)));
        let three = Transform::Truncate(3);
        check(three, Condition::StartsWith("ice".into()), Some(Condition::StartsWith("ice".into())));
        check(three, Condition::StartsWith("iceb".into()), Some(Condition::Compare(Eq, text("ice"))));
        check(Transform::Bucket(4), Condition::StartsWith("i".into()), Some(Condition::NotNull));
    }
}
