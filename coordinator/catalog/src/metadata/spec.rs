//! Partition specs in JSON, of metadata files and of the headers of manifests.

use serde_json::Value as Json;

use crate::metadata::MetadataFault;
use crate::types::Transform;

/// Id of the first field of a spec that does not say its ids.
const FIRST_FIELD_ID: i32 = 1000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) id: i32,
    pub(crate) parts: Vec<SpecPart>,
}

/// Field of a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpecPart {
    /// Ids of the columns that it is made from. One, except for transforms that are unknown.
    pub(crate) sources: Vec<i32>,
    pub(crate) field_id: i32,
    pub(crate) name: String,
    pub(crate) transform: Transform,
}

impl SpecPart {
    /// Returns the column that the field is made from. `None` where it is made from several.
    pub(crate) fn source(&self) -> Option<i32> {
        match self.sources[..] {
            [source] => Some(source),
            _ => None,
        }
    }
}

/// Parses the list of a spec's fields.
pub(crate) fn parts(json: &Json) -> Result<Vec<SpecPart>, MetadataFault> {
    let fields = json.as_array().ok_or_else(|| MetadataFault::corrupt("a partition spec is no list"))?;
    fields.iter().zip(FIRST_FIELD_ID..).map(|(field, unnamed)| part(field, unnamed)).collect()
}

fn part(json: &Json, unnamed: i32) -> Result<SpecPart, MetadataFault> {
    let id = |json: &Json| json.as_i64().and_then(|id| i32::try_from(id).ok());
    let sources: Option<Vec<i32>> = match (json.get("source-id"), json.get("source-ids").and_then(Json::as_array)) {
        (_, Some(sources)) => sources.iter().map(id).collect(),
        (Some(source), None) => id(source).map(|source| vec![source]),
        (None, None) => None,
    };
    let name = json.get("name").and_then(Json::as_str).unwrap_or_default().to_owned();
    let sources = sources.filter(|sources| !sources.is_empty());
    let sources = sources.ok_or_else(|| MetadataFault::corrupt(format!("partition field {name} has no source")))?;
    let transform = json.get("transform").and_then(Json::as_str);
    let transform =
        transform.ok_or_else(|| MetadataFault::corrupt(format!("partition field {name} has no transform")))?;
    Ok(SpecPart {
        transform: if sources.len() == 1 { self::transform(transform) } else { Transform::Unknown },
        sources,
        field_id: json.get("field-id").and_then(id).unwrap_or(unnamed),
        name,
    })
}

/// Parses a transform. One that this version does not know is not an error: its values say nothing.
fn transform(text: &str) -> Transform {
    let text = text.to_ascii_lowercase();
    let number = |prefix: &str| -> Option<u32> {
        let number = text.strip_prefix(prefix)?.strip_prefix('[')?.strip_suffix(']')?;
        number.trim().parse().ok().filter(|number| *number > 0)
    };
    match text.as_str() {
        "identity" => Transform::Identity,
        "year" => Transform::Year,
        "month" => Transform::Month,
        "day" => Transform::Day,
        "hour" => Transform::Hour,
        "void" => Transform::Void,
        _ => match (number("bucket"), number("truncate")) {
            (Some(buckets), _) => Transform::Bucket(buckets),
            (_, Some(width)) => Transform::Truncate(width),
            _ => Transform::Unknown,
        },
    }
}
