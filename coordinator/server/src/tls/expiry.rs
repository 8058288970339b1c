//! The day on which a certificate ends, read from its bytes (RFC 5280, 4.1). Nothing else of it is looked at here: rustls does.

use chrono::{DateTime, NaiveDateTime, Utc};

/// Tags of DER.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Fields between a certificate's version and its dates: number, algorithm, issuer.
const FIELDS_BEFORE: usize = 3;

/// Returns the last moment of a certificate. None where its bytes are not understood.
pub(super) fn not_after(certificate: &[u8]) -> Option<DateTime<Utc>> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&VERSION) {
        (_, _, fields) = element(fields)?;
    }
    for _ in 0..FIELDS_BEFORE {
        (_, _, fields) = element(fields)?;
    }
    let (_, dates, _) = element(fields)?;
    let (_, _, not_after) = element(dates)?;
    let (tag, text, _) = element(not_after)?;
    let text = std::str::from_utf8(text).ok()?;
    let text = match tag {
        GENERALIZED_TIME => text.to_owned(),
        // Its two digits are those of 1950 to 2049.
        UTC_TIME if text.get(..2)?.parse::<u8>().ok()? < 50 => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        _ => return None,
    };
    NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok().map(|time| time.and_utc())
}

/// Takes the first element off: its tag, its content, and what comes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).expect("short");
        let head = match length {
            0..=0x7f => vec![tag, content.len() as u8],
            _ => [&[tag, 0x82][..], &length.to_be_bytes()].concat(),
        };
        [&head[..], content].concat()
    }

    fn certificate(version: &[u8], until: &[u8]) -> Vec<u8> {
        let sequence = |parts: &[&[u8]]| der(0x30, &parts.concat());
        let issuer = sequence(&[&[b'x'; 300]]);
        let dates = sequence(&[&der(UTC_TIME, b"200101000000Z"), until]);
        let signed = sequence(&[version, &der(2, &[7]), &sequence(&[]), &issuer, &dates, &issuer]);
        sequence(&[&signed, &sequence(&[])])
    }

    #[test]
    fn a_certificate_tells_its_last_moment() {
        let version = der(VERSION, &der(2, &[2]));
        for (until, expect) in [
            (der(UTC_TIME, b"281231235959Z"), Some("2028-12-31T23:59:59+00:00")),
            (der(UTC_TIME, b"991231235959Z"), Some("1999-12-31T23:59:59+00:00")),
            (der(GENERALIZED_TIME, b"20500101000000Z"), Some("2050-01-01T00:00:00+00:00")),
            (der(UTC_TIME, b"2812312359Z"), None),
            (der(UTC_TIME, "é8".as_bytes()), None),
            (der(UTC_TIME, b"\xff\xff"), None),
            (der(4, b"281231235959Z"), None),
            (Vec::new(), None),
        ] {
            for version in [&version[..], &[]] {
                let told = not_after(&certificate(version, &until)).map(|time| time.to_rfc3339());
                assert_eq!(told.as_deref(), expect, "{until:?}");
            }
        }
        // Whatever is cut off.
        let whole = certificate(&version, &der(UTC_TIME, b"281231235959Z"));
        for end in 0..whole.len() {
            assert_eq!(not_after(&whole[..end]), None, "{end}");
        }
        assert_eq!(not_after(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 1]), None);
    }
}
