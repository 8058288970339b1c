//! Bytes of requests and responses: JSON, for a Lambda payload must be JSON, with binary parts in base64.
//!
//! Decoding looks at version and fingerprint first, so that a mismatch is not reported as a parse error.

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::version::{PROTOCOL_VERSION, fingerprint};
use crate::{FragmentError, FragmentErrorKind, FragmentResponse, InvokeRequest};

/// Largest request and largest response of a synchronous Lambda invocation, in bytes: 6 MB (AWS Lambda quotas).
pub const PAYLOAD_BYTES_MAX: usize = 6_291_556;

/// Room that a response needs around its inline rows, in bytes: ids, usage, JSON punctuation.
const ENVELOPE_BYTES: usize = 4_096;

/// Largest inline result, in bytes. Base64 makes it a third longer.
pub const INLINE_BYTES_MAX: u64 = ((PAYLOAD_BYTES_MAX - ENVELOPE_BYTES) / 4 * 3) as u64;

/// Binary data inside JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Base64(pub Bytes);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}

/// A message that could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
    #[error(
        "version mismatch: the coordinator speaks protocol {theirs_version} with {theirs_fingerprint}, this function {PROTOCOL_VERSION} with {}",
        fingerprint()
    )]
    Version { theirs_version: u32, theirs_fingerprint: String },
    #[error("version mismatch: the function answered in protocol {theirs}, this coordinator speaks {PROTOCOL_VERSION}")]
    ResponseVersion { theirs: u32 },
}

impl WireError {
    /// Returns the next step.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Malformed(_) => None,
            Self::Version { .. } | Self::ResponseVersion { .. } => {
                Some("deploy the function of the coordinator's release")
            }
        }
    }
}

impl From<WireError> for FragmentError {
    fn from(error: WireError) -> Self {
        let kind = match error {
            WireError::Malformed(_) => FragmentErrorKind::MalformedRequest,
            WireError::Version { .. } | WireError::ResponseVersion { .. } => FragmentErrorKind::VersionMismatch,
        };
        Self::new(kind, error.to_string()).with_hint(error.hint())
    }
}

/// Part of a request that every version can read.
#[derive(Deserialize)]
struct Header {
    version: u32,
    fingerprint: String,
}

pub fn encode_request(request: &InvokeRequest) -> Result<Bytes, WireError> {
    Ok(serde_json::to_vec(request)?.into())
}

/// # Errors
/// [`WireError::Version`] before anything but version and fingerprint has been understood.
pub fn decode_request(payload: &[u8]) -> Result<InvokeRequest, WireError> {
    let header: Header = serde_json::from_slice(payload)?;
    if header.version != PROTOCOL_VERSION || header.fingerprint != fingerprint() {
        return Err(WireError::Version { theirs_version: header.version, theirs_fingerprint: header.fingerprint });
    }
    Ok(serde_json::from_slice(payload)?)
}

pub fn encode_response(response: &FragmentResponse) -> Result<Bytes, WireError> {
    Ok(serde_json::to_vec(response)?.into())
}

/// # Errors
/// [`WireError::ResponseVersion`] where the function answered in another protocol version.
pub fn decode_response(payload: &[u8]) -> Result<FragmentResponse, WireError> {
    #[derive(Deserialize)]
    struct ResponseHeader {
        version: u32,
    }
    let header: ResponseHeader = serde_json::from_slice(payload)?;
    if header.version != PROTOCOL_VERSION {
        return Err(WireError::ResponseVersion { theirs: header.version });
    }
    Ok(serde_json::from_slice(payload)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::parts::{LaneSlices, PartsInput, Regions, Slice};
    use crate::{
        AccessTable, AheadBounds, AheadUsage, ColumnMatching, DeleteContent, DeleteFile, DeleteSet, FieldIdRules,
        Fragment, FragmentId, FragmentLimits, FragmentResult, Input, LateUsage, LeafSpec, LostInput, MappedName,
        ObjectRef, Output, PartsPlace, PlanRef, Requests, Scan, ScanUnit, Spans, StagePlan, StoreAccess, StreamSummary,
        UnitDeletes, Usage,
    };

    fn request() -> InvokeRequest {
        let file = |etag: Option<&str>| ObjectRef {
            access: 0,
            path: "lake/t/part-0.parquet".to_owned(),
            size_bytes: 1234,
            etag: etag.map(str::to_owned),
            footer_bytes: etag.map(|_| 321),
        };
        let ranged = ScanUnit {
            file: file(Some("e1")),
            range: Some((0, 617)),
            partition_values: vec![Base64(Bytes::from_static(b"\x01v"))],
            constants: vec![(7, Some(Base64(Bytes::from_static(b"\x02w")))), (8, None)],
            footer: Some(Base64(Bytes::from_static(b"footer"))),
            deletes: Some(UnitDeletes {
                path: "s3://lake/t/part-0.parquet".to_owned(),
                rows: 8,
                vector: Some(1),
                set: Some(1),
                sequence_number: 5,
            }),
        };
        let whole = ScanUnit {
            file: file(None),
            range: None,
            partition_values: Vec::new(),
            constants: Vec::new(),
            footer: None,
            deletes: Some(UnitDeletes { path: String::new(), rows: 9, vector: None, set: Some(0), sequence_number: 0 }),
        };
        let delete_sets = vec![
            DeleteSet { positions: Vec::new(), scopes: vec![0] },
            DeleteSet { positions: vec![0], scopes: vec![0, 2] },
        ];
        let lanes = vec![vec![ranged], vec![whole]];
        let scan = Scan { lanes, deletes: deletes(), delete_sets, table: "t".to_owned() };
        let s3 = BTreeMap::from([("aws_region".to_owned(), "eu-central-1".to_owned())]);
        InvokeRequest {
            version: PROTOCOL_VERSION,
            fingerprint: "datafusion-0.0.0/functions-00000000".to_owned(),
            fragment: Fragment {
                id: FragmentId { query: "q1".to_owned(), stage: 2, index: 3 },
                inputs: vec![(0, Input::Scan(scan))],
                parts: vec![PartsInput {
                    access: 1,
                    prefix: "tmp/exchange".to_owned(),
                    lanes: vec![LaneSlices { slices: slices() }.encoded(), LaneSlices::default().encoded()],
                }],
                limits: FragmentLimits {
                    memory_bytes_max: 1,
                    temp_bytes_max: 2,
                    inline_bytes_max: 3,
                    bridge_bytes: 6,
                    ahead: AheadBounds { requests_max: 4, bytes_max: 5 },
                    late_columns_percent_max: 7,
                },
            },
            attempt: 1,
            deadline_unix_ms: 1_700_000_000_000,
            access: AccessTable(vec![
                StoreAccess { url: "s3://lake/".to_owned(), options: s3 },
                StoreAccess { url: "file:///".to_owned(), options: BTreeMap::new() },
            ]),
            stage: StagePlan {
                plan: PlanRef::Inline(Base64(Bytes::from_static(b"plan"))),
                leaves: vec![
                    LeafSpec { matching: ColumnMatching::Name },
                    LeafSpec { matching: ColumnMatching::FieldId(rules()) },
                    LeafSpec { matching: ColumnMatching::FieldId(FieldIdRules::default()) },
                ],
                scalars: vec![Base64(Bytes::from_static(b"scalar"))],
                shared: rows("x/q1/2/rows-1"),
                output: Output::Gather { access: 1, prefix: "tmp/exchange".to_owned() },
                options: BTreeMap::from([("datafusion.execution.batch_size".to_owned(), "4096".to_owned())]),
            },
        }
    }

    /// Makes a run of regions in the exchange, and one in the request.
    fn slices() -> Vec<Slice> {
        let object =
            Slice { stage: 1, index: 2, attempt: 3, start: 400, bytes: 5, rows: 6, crc32: 0xdead_beef, inline: None };
        let inline = Bytes::from_static(b"rows");
        vec![object.clone(), Slice { bytes: 4, crc32: crc32fast::hash(&inline), inline: Some(inline), ..object }]
    }

    /// Makes rows by partition here, and in the exchange.
    fn parts(path: &str) -> Vec<FragmentResult> {
        let region = |bytes, crc32| StreamSummary { bytes, rows: bytes / 2, crc32 };
        let regions = Regions(vec![region(4, 0xdead_beef), region(0, 0), region(300, 7)]);
        let (part, regions) = (regions.whole(), regions.encode());
        let object = ObjectRef { access: 1, path: path.to_owned(), size_bytes: 304, etag: None, footer_bytes: None };
        let places = [PartsPlace::Inline(Base64(Bytes::from_static(b"rows"))), PartsPlace::Object(object)];
        let result = |place| FragmentResult::Parts { place, part, regions: regions.clone() };
        places.into_iter().map(result).collect()
    }

    /// Makes rows here, and rows in the exchange.
    fn rows(path: &str) -> Vec<FragmentResult> {
        let part = StreamSummary { bytes: 4, rows: 2, crc32: 0xdead_beef };
        let object = ObjectRef { access: 1, path: path.to_owned(), size_bytes: 4, etag: None, footer_bytes: None };
        vec![
            FragmentResult::Inline { part, bytes: Base64(Bytes::from_static(b"rows")) },
            FragmentResult::Object { object, part },
        ]
    }

    /// Makes a delete file of each kind.
    fn deletes() -> Vec<DeleteFile> {
        let contents = [
            DeleteContent::Positions,
            DeleteContent::Vector { offset: 4, bytes: 56, cardinality: 7 },
            DeleteContent::Equality { ids: vec![1, 3], scope: 2, sequence_number: 6 },
            DeleteContent::Keys { ids: vec![1, 3], scope: 0, newest: 8, offset: 60, bytes: 30, crc32: 0xdead_beef },
        ];
        let file = |name: &str| ObjectRef {
            access: 0,
            path: format!("lake/t/{name}"),
            size_bytes: 99,
            etag: None,
            footer_bytes: None,
        };
        let names = ["p.parquet", "v.puffin", "e.parquet", "deletes"];
        names.into_iter().zip(contents).map(|(name, content)| DeleteFile { file: file(name), content }).collect()
    }

    fn rules() -> FieldIdRules {
        let name = |id, name: &str| MappedName { id, names: vec![name.to_owned()], fields: Vec::new() };
        let below = vec![name(Some(3), "element"), name(None, "gone")];
        FieldIdRules {
            names: vec![MappedName { fields: below, ..name(Some(2), "l") }],
            defaults: vec![(7, Base64(Bytes::from_static(b"\x03d")))],
        }
    }

    fn responses() -> Vec<FragmentResponse> {
        let usage = Usage {
            requests: Requests { get: 1, head: 2, list: 3, put: 4, delete: 5, hedged: 1 },
            bytes_read: 6,
            exchange_bytes_read: 5,
            bytes_written: 7,
            rows_out: 8,
            memory_peak_bytes: 9,
            spilled_bytes: 10,
            cpu_us: 11,
            spans: Spans { decode_us: 12, execute_us: 13, write_us: 14, total_us: 15, waited_us: 16 },
            ahead: AheadUsage {
                requests: 17,
                bytes: 18,
                gap_bytes: 19,
                taken_bytes: 20,
                missed_bytes: 21,
                again_bytes: 22,
                aborted_bytes: 23,
                unused_pruned_bytes: 24,
                unused_limit_bytes: 25,
                unused_cancelled_bytes: 26,
                unused_given_back_bytes: 27,
                peak_bytes: 28,
            },
            late: LateUsage { rows: 31, kept_rows: 30, given_up: 29 },
            cold: true,
        };
        let failures = [
            FragmentError::new(FragmentErrorKind::FileChanged, "s3://lake/t: other etag"),
            FragmentError::new(FragmentErrorKind::Execution, "an overflow").with_hint(Some("cast to DECIMAL")),
            FragmentError {
                lost: Some(LostInput { stage: 1, index: 2, attempt: 3, reason: "the object is gone".to_owned() }),
                ..FragmentError::new(FragmentErrorKind::InputLost, "rows are lost")
            },
        ];
        let path = "x/q1/2/00003-1.arrows";
        let outcomes = rows(path).into_iter().chain(parts(path)).map(Ok).chain(failures.map(Err));
        let id = FragmentId { query: "q1".to_owned(), stage: 2, index: 3 };
        let respond =
            |outcome| FragmentResponse { version: PROTOCOL_VERSION, id: id.clone(), attempt: 1, outcome, usage };
        outcomes.map(respond).collect()
    }

    /// A change of these bytes raises [`PROTOCOL_VERSION`] and writes the files anew.
    #[test]
    fn the_wire_equals_the_golden_bytes() {
        let golden = include_str!("../testdata/request.json").trim_end();
        assert_eq!(std::str::from_utf8(&encode_request(&request()).expect("plain data")), Ok(golden));
        assert_eq!(serde_json::from_str::<InvokeRequest>(golden).expect("golden bytes"), request());
        let object =
            ObjectRef { access: 1, path: "x/q1/2/plan".to_owned(), size_bytes: 4, etag: None, footer_bytes: None };
        let plan = PlanRef::Object { object, crc32: 9 };
        let golden = include_str!("../testdata/plan_object.json").trim_end();
        assert_eq!(serde_json::to_string(&plan).expect("plain data"), golden);
        assert_eq!(serde_json::from_str::<PlanRef>(golden).expect("golden bytes"), plan);
        let output = Output::Parts { access: 1, prefix: "tmp/exchange".to_owned(), partitions: 16 };
        let golden = include_str!("../testdata/output_parts.json").trim_end();
        assert_eq!(serde_json::to_string(&output).expect("plain data"), golden);
        assert_eq!(serde_json::from_str::<Output>(golden).expect("golden bytes"), output);
        let golden: Vec<&str> = include_str!("../testdata/responses.ndjson").lines().collect();
        assert_eq!(golden.len(), responses().len());
        for (golden, response) in golden.into_iter().zip(responses()) {
            assert_eq!(std::str::from_utf8(&encode_response(&response).expect("plain data")), Ok(golden));
            assert_eq!(decode_response(golden.as_bytes()).expect("golden bytes"), response);
        }
    }

    #[test]
    fn a_version_is_checked_before_the_rest() {
        let check = |payload: &str, expect: &str| {
            let error = decode_request(payload.as_bytes()).expect_err(payload);
            assert!(error.to_string().contains(expect), "{payload}: {error}");
        };
        check(r#"{"version":99,"fingerprint":"x","unheard":"of"}"#, "the coordinator speaks protocol 99 with x");
        check(r#"{"version":9,"fingerprint":"other engine"}"#, "protocol 9 with other engine");
        check(r#"{"version":9}"#, "missing field `fingerprint`");
        check("rows", "expected value");
        let theirs = decode_response(br#"{"version":99,"outcome":"unheard of"}"#).expect_err("another version");
        assert!(matches!(theirs, WireError::ResponseVersion { theirs: 99 }), "{theirs}");
    }

    #[test]
    fn the_largest_inline_result_fits_a_payload() {
        let bytes = Base64(vec![0; INLINE_BYTES_MAX as usize].into());
        let part = StreamSummary { bytes: u64::MAX, rows: u64::MAX, crc32: u32::MAX };
        let mut response = responses().swap_remove(0);
        response.outcome = Ok(FragmentResult::Inline { part, bytes });
        let encoded = encode_response(&response).expect("plain data");
        assert!(encoded.len() <= PAYLOAD_BYTES_MAX, "{} bytes", encoded.len());
        assert!(encoded.len() > PAYLOAD_BYTES_MAX - 2 * ENVELOPE_BYTES, "{} bytes: room is wasted", encoded.len());
    }
}
