//! The span in which a client asks, by the headers of W3C's Trace Context.

use axum::http::HeaderMap;
use gust_engine::session::TraceParent;

/// Names of the headers.
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Longest state that is handed on, as the specification has it.
const STATE_BYTES_MAX: usize = 512;

/// Length of the version that is known, which later ones begin with.
const PARENT_BYTES: usize = 55;

/// Reads the client's span. One that is malformed is none: the trace begins anew, and the request goes on.
pub(crate) fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(PARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let parent = read(value.to_str().ok()?)?;
    let states: Vec<&str> = headers.get_all(STATE).iter().filter_map(|value| value.to_str().ok()).collect();
    let state = Some(states.join(",")).filter(|state| state.len() <= STATE_BYTES_MAX).unwrap_or_default();
    Some(TraceParent { state, ..parent })
}

fn read(text: &str) -> Option<TraceParent> {
    let (known, rest) = text.split_at_checked(PARENT_BYTES)?;
    let mut parts = known.split('-');
    let [version, trace, span, flags] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let version = hex::<1>(version)?[0];
    let is_known = match version {
        0 => rest.is_empty(),
        u8::MAX => false,
        _ => rest.is_empty() || rest.starts_with('-'),
    };
    let (trace, span, [flags]) = (hex::<16>(trace)?, hex::<8>(span)?, hex::<1>(flags)?);
    let is_id = trace != [0; 16] && span != [0; 8];
    (is_known && is_id).then(|| TraceParent { trace, span, is_sampled: flags & 1 == 1, state: String::new() })
}

/// Reads bytes from digits in small letters.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !digits || text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_parent_is_read_as_the_specification_says() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let ids = format!("{trace}-{span}");
        for (values, expect) in [
            (vec![format!("00-{ids}-01")], Some(true)),
            (vec![format!("00-{ids}-00")], Some(false)),
            (vec![format!("00-{ids}-03")], Some(true)),
            (vec![format!("cc-{ids}-01")], Some(true)),
            (vec![format!("cc-{ids}-01-what-comes")], Some(true)),
            (vec![format!("cc-{ids}-01x")], None),
            (vec![format!("ff-{ids}-01")], None),
            (vec![format!("00-{ids}-01-more")], None),
            (vec![format!("00-{}-01", ids.to_uppercase())], None),
            (vec![format!("00-{}-{span}-01", "0".repeat(32))], None),
            (vec![format!("00-{trace}-{}-01", "0".repeat(16))], None),
            (vec![format!("00-{ids}-0")], None),
            (vec![format!("00-{ids}-0g")], None),
            (vec![format!("00-{span}-{trace}-01")], None),
            (vec!["ü".repeat(40)], None),
            (vec![String::new()], None),
            (vec![format!("00-{ids}-01"), format!("00-{ids}-01")], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(PARENT, HeaderValue::from_bytes(value.as_bytes()).expect("a header"));
            }
            headers.append(STATE, HeaderValue::from_static("a=1"));
            headers.append(STATE, HeaderValue::from_static("b=2"));
            let found = trace_parent(&headers);
            assert_eq!(found.as_ref().map(|parent| parent.is_sampled), expect, "{values:?}");
            if let Some(parent) = found {
                assert_eq!((parent.trace[0], parent.span[7], parent.state.as_str()), (0x0a, 0x31, "a=1,b=2"));
            }
            headers.append(STATE, HeaderValue::from_str(&"x".repeat(600)).expect("a header"));
            assert!(trace_parent(&headers).is_none_or(|parent| parent.state.is_empty()), "{values:?}");
        }
    }
}
