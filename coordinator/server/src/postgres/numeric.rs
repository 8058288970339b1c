//! PostgreSQL's numbers of any precision, in their binary form: groups of four decimal digits.

use bytes::{Buf, BufMut, BytesMut};

/// Digits of a group.
const GROUP: usize = 4;

const NEGATIVE: u16 = 0x4000;

/// Writes a decimal number, such as `-12.50`. None if the text is none.
pub(super) fn binary_numeric(text: &str, out: &mut BytesMut) -> Option<()> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (NEGATIVE, digits),
        None => (0, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Groups begin at the point.
    let padding = whole.len().next_multiple_of(GROUP) - whole.len();
    let width = fraction.len().next_multiple_of(GROUP);
    let all = format!("{}{whole}{fraction:0<width$}", "0".repeat(padding));
    let groups: Vec<i16> =
        (0..all.len()).step_by(GROUP).map(|at| all[at..at + GROUP].parse()).collect::<Result<_, _>>().ok()?;
    let whole_groups = (whole.len() + padding) / GROUP;
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let trailing = groups.iter().rev().take_while(|group| **group == 0).count().min(groups.len() - leading);
    let kept = &groups[leading..groups.len() - trailing];
    let weight = if kept.is_empty() { 0 } else { whole_groups as i64 - 1 - leading as i64 };
    out.put_i16(i16::try_from(kept.len()).ok()?);
    out.put_i16(i16::try_from(weight).ok()?);
    out.put_u16(if kept.is_empty() { 0 } else { sign });
    out.put_i16(i16::try_from(fraction.len()).ok()?);
    kept.iter().for_each(|group| out.put_i16(*group));
    Some(())
}

/// Most digits on each side of the point of a number that is read.
const DIGITS_MAX: i32 = 1_000;

/// Reads a number. None if the bytes are none, or it is NaN or infinite.
pub(super) fn text_numeric(mut bytes: &[u8]) -> Option<String> {
    if bytes.len() < 8 {
        return None;
    }
    let (count, weight) = (usize::from(bytes.get_u16()), i32::from(bytes.get_i16()));
    let (sign, scale) = (bytes.get_u16(), i32::from(bytes.get_i16()));
    if bytes.len() != count * 2
        || ![0, NEGATIVE].contains(&sign)
        || !(0..=DIGITS_MAX).contains(&scale)
        || weight > DIGITS_MAX / 4
    {
        return None;
    }
    let groups: Vec<i16> = (0..count).map(|_| bytes.get_i16()).collect();
    if groups.iter().any(|group| !(0..10_000).contains(group)) {
        return None;
    }
    let group = |at: i32| usize::try_from(weight - at).ok().and_then(|index| groups.get(index)).copied().unwrap_or(0);
    let mut text = (0..=weight.max(0)).rev().map(|at| format!("{:04}", group(at))).collect::<String>();
    text = text.trim_start_matches('0').to_owned();
    if text.is_empty() {
        text.push('0');
    }
    if scale > 0 {
        let fraction: String = (1..=(scale + 3) / 4).map(|at| format!("{:04}", group(-at))).collect();
        text.push('.');
        text.push_str(&fraction[..scale as usize]);
    }
    Some(if sign == NEGATIVE { format!("-{text}") } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_and_read() {
        // As PostgreSQL's `numeric_send` writes them.
        for (text, bytes) in [
            ("0", vec![0, 0, 0, 0]),
            ("1", vec![1, 0, 0, 0, 1]),
            ("-12.50", vec![2, 0, 0x4000, 2, 12, 5000]),
            ("10000", vec![1, 1, 0, 0, 1]),
            ("12345.678", vec![3, 1, 0, 3, 1, 2345, 6780]),
            ("0.00001234", vec![1, -2, 0, 8, 1234]),
            ("0.00", vec![0, 0, 0, 2]),
            (
                "99999999999999999999999999999999999999",
                vec![10, 9, 0, 0, 99, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999],
            ),
        ] {
            let mut written = BytesMut::new();
            binary_numeric(text, &mut written).expect(text);
            let expect: Vec<u8> = bytes.iter().flat_map(|number: &i16| number.to_be_bytes()).collect();
            assert_eq!(written.to_vec(), expect, "{text}");
            assert_eq!(text_numeric(&written).as_deref(), Some(text));
        }
        for none in ["", "-", "1e3", "NaN", ".5", "1.2.3"] {
            assert_eq!(binary_numeric(none, &mut BytesMut::new()), None, "{none}");
        }
        for numbers in [
            &[0_i16][..],
            &[1, 0, 0, 0],
            &[1, 0, -0x4000, 0, 1],
            &[1, 0, 0, 0, 10_000],
            &[1, 30_000, 0, 0, 1],
            &[0, 0, 0, -1],
        ] {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
            assert_eq!(text_numeric(&bytes), None, "{numbers:?}");
        }
    }
}
