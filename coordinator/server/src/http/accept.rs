//! The choice of a format by `Accept` (RFC 9110, 12.5.1).

use gust_output::OutputFormat;

/// Media types of the formats, the default first.
const MEDIA_TYPES: [(&str, OutputFormat); 8] = [
    ("application/json", OutputFormat::Json),
    ("application/x-ndjson", OutputFormat::Ndjson),
    ("application/ndjson", OutputFormat::Ndjson),
    ("application/jsonl", OutputFormat::Ndjson),
    ("text/csv", OutputFormat::Csv),
    ("application/vnd.apache.arrow.stream", OutputFormat::Arrow),
    ("text/plain", OutputFormat::Table),
    ("application/vnd.apache.parquet", OutputFormat::Parquet),
];

/// Most media ranges that are looked at.
const RANGES_MAX: usize = 32;

/// Media types that a client may ask for, for a message.
pub(crate) fn offered() -> String {
    MEDIA_TYPES.map(|(name, _)| name).join(", ")
}

/// Lists the media types of responses, without parameters.
pub(crate) fn media_types() -> impl Iterator<Item = &'static str> {
    // Others are names of one format.
    MEDIA_TYPES.iter().filter(|(name, format)| media_type(*format).starts_with(name)).map(|(name, _)| *name)
}

/// Returns the media type of a response.
pub(crate) fn media_type(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Csv => "text/csv; charset=utf-8; header=present",
        OutputFormat::Table => "text/plain; charset=utf-8",
        _ => MEDIA_TYPES.iter().find(|(_, of)| *of == format).map_or("application/octet-stream", |(name, _)| name),
    }
}

/// Returns the format that the client likes best; None if it takes none of them. Between equals the first range wins.
pub(crate) fn choose<'a>(accept: impl IntoIterator<Item = &'a str>) -> Option<OutputFormat> {
    let ranges: Vec<(String, f32)> =
        accept.into_iter().flat_map(|value| value.split(',')).take(RANGES_MAX).filter_map(range).collect();
    if ranges.is_empty() {
        return Some(MEDIA_TYPES[0].1);
    }
    let refuses = |name: &str| ranges.iter().any(|(range, weight)| range == name && *weight == 0.0);
    let mut best: Option<(f32, OutputFormat)> = None;
    for (range, weight) in &ranges {
        let first = MEDIA_TYPES.iter().find(|(name, _)| matches(range, name) && !refuses(name));
        if let Some((_, format)) = first
            && *weight > best.map_or(0.0, |(weight, _)| weight)
        {
            best = Some((*weight, *format));
        }
    }
    best.map(|(_, format)| format)
}

/// Reads `type/subtype;q=0.5`. Other parameters do not count.
fn range(text: &str) -> Option<(String, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
    let weight = weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0));
    Some((name, if (0.0..=1.0).contains(&weight) { weight } else { 0.0 }))
}

fn matches(range: &str, name: &str) -> bool {
    range == "*/*"
        || range == name
        || range.strip_suffix('*').is_some_and(|of| of.ends_with('/') && name.starts_with(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_chooses() {
        use OutputFormat::{Arrow, Csv, Json, Ndjson, Parquet, Table};
        for (accept, expect) in [
            (vec![], Some(Json)),
            (vec![""], Some(Json)),
            (vec!["*/*"], Some(Json)),
            (vec!["text/csv"], Some(Csv)),
            (vec!["TEXT/CSV"], Some(Csv)),
            (vec!["text/*"], Some(Csv)),
            (vec!["text/plain"], Some(Table)),
            (vec!["application/vnd.apache.parquet"], Some(Parquet)),
            (vec!["text/html, application/xhtml+xml, */*;q=0.8"], Some(Json)),
            (vec!["application/json;q=0.5, application/vnd.apache.arrow.stream"], Some(Arrow)),
            (vec!["application/json;q=0.5", "application/x-ndjson;q=0.6"], Some(Ndjson)),
            (vec!["application/jsonl; charset=utf-8"], Some(Ndjson)),
            (vec!["text/csv, application/json"], Some(Csv)),
            (vec!["application/json;q=0, */*"], Some(Ndjson)),
            (vec!["text/html"], None),
            (vec!["application/json;q=0"], None),
            (vec!["application/json;q=much"], None),
            (vec!["application/json;q=7"], None),
            (vec!["image/*"], None),
            (vec!["application*"], None),
        ] {
            assert_eq!(choose(accept.iter().copied()), expect, "{accept:?}");
        }
    }

    #[test]
    fn every_format_has_a_media_type() {
        for format in OutputFormat::ALL {
            let name = media_type(format).split(';').next().expect("a name");
            assert_eq!(choose([name]), Some(format), "{name}");
        }
    }
}
