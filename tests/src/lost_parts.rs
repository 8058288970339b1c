//! Functions that spoil rows on their way to other functions: once in a query, after these rows were adopted.
//!
//! The reader itself does it, before it runs: the coordinator starts readers when all producers are adopted. The file `fired` in the folder that marks the functions
//! lists each object that was spoiled, by its stage, fragment and attempt.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use fragment_fn::{Environment, connect, handler};
use futures::TryStreamExt;
use gust_protocol::exchange::{ResultKey, result_at, result_path};
use gust_protocol::parts::{LaneSlices, Slice};
use gust_protocol::{Base64, FragmentId, FragmentResult, InvokeRequest, Output, PartsPlace, wire};
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

/// Fault of rows in the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartsFault {
    /// The object is deleted.
    Gone,
    /// All objects of the stage that the reader needs are deleted.
    AllGone,
    /// All objects of the query are deleted.
    EverythingGone,
    /// The object ends within the bytes that the reader needs.
    Torn,
    /// The object is as long as before, and has other bytes.
    Flipped,
    /// The object has the bytes of another producer of the same stage.
    Swapped,
    /// One object of each stage that the reader reads is as long as before, and has other bytes.
    EachFlipped,
    /// The reader runs, and its answer has other bytes. By then all objects of the stage that it needs are deleted.
    Refused,
}

impl PartsFault {
    pub const ALL: [Self; 8] = [
        Self::Gone,
        Self::AllGone,
        Self::EverythingGone,
        Self::Torn,
        Self::Flipped,
        Self::Swapped,
        Self::EachFlipped,
        Self::Refused,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::AllGone => "all-gone",
            Self::EverythingGone => "everything-gone",
            Self::Torn => "torn",
            Self::Flipped => "flipped",
            Self::Swapped => "swapped",
            Self::EachFlipped => "each-flipped",
            Self::Refused => "refused",
        }
    }
}

/// Spoiling of the rows of one stage, or of each stage once.
#[derive(Debug, Clone, Copy)]
pub struct Spoiling {
    pub fault: PartsFault,
    /// Stage whose rows are spoiled. None for each, also when the query runs anew.
    pub stage: Option<u32>,
}

impl Spoiling {
    /// Returns the mode of `faulty_bootstrap` that spoils rows so.
    pub fn mode(self) -> String {
        let stage = self.stage.map_or_else(|| "each".to_owned(), |stage| stage.to_string());
        format!("parts-{stage}-{}", self.fault.name())
    }
}

impl FromStr for Spoiling {
    type Err = String;

    fn from_str(mode: &str) -> Result<Self, String> {
        let parse = || {
            let (stage, name) = mode.strip_prefix("parts-")?.split_once('-')?;
            let fault = PartsFault::ALL.into_iter().find(|fault| fault.name() == name)?;
            let stage = if stage == "each" { None } else { Some(stage.parse().ok()?) };
            Some(Self { fault, stage })
        };
        parse().ok_or_else(|| format!("`{mode}` spoils nothing"))
    }
}

/// Answers a request as the function does. All rows for functions are objects; those of one stage are spoiled before their first reader runs.
pub async fn answer(
    environment: &Arc<Environment>,
    spoiling: Spoiling,
    mark: &Path,
    payload: Bytes,
    deadline: SystemTime,
) -> Bytes {
    let mut request = wire::decode_request(&payload).expect("the coordinator sends valid requests");
    let slices = slices(&request, spoiling.stage);
    let spoils = slices.first().is_some_and(|slice| is_first(mark, slice.stage));
    let is_refused = spoils && spoiling.fault == PartsFault::Refused;
    if matches!(request.stage.output, Output::Parts { .. }) && !is_refused {
        request.fragment.limits.inline_bytes_max = 0;
    }
    if spoils && !is_refused {
        spoil(&request, spoiling.fault, &slices, mark).await;
    }
    let payload = wire::encode_request(&request).expect("it was decoded");
    let answer = handler::handle(environment, payload, deadline).await;
    if !is_refused {
        return answer;
    }
    spoil(&request, PartsFault::AllGone, &slices, mark).await;
    with_other_bytes(&answer)
}

/// Changes the rows of an answer that has them itself.
fn with_other_bytes(answer: &Bytes) -> Bytes {
    let mut response = wire::decode_response(answer).expect("the function's own");
    let bytes = match &mut response.outcome {
        Ok(FragmentResult::Inline { bytes, .. } | FragmentResult::Parts { place: PartsPlace::Inline(bytes), .. }) => {
            bytes
        }
        other => panic!("an answer without rows: {other:?}"),
    };
    *bytes = Base64(bytes.0.iter().map(|byte| byte ^ 1).collect());
    wire::encode_response(&response).expect("it was decoded")
}

/// Lists what a request reads of a stage's objects, or of those of any, one slice an object.
pub(crate) fn slices(request: &InvokeRequest, stage: Option<u32>) -> Vec<Slice> {
    let lanes = request.fragment.parts.iter().flat_map(|input| &input.lanes);
    let slices = lanes.flat_map(|lane| LaneSlices::decoded(lane).expect("the coordinator's own").slices);
    let mut slices: Vec<Slice> =
        slices.filter(|slice| stage.is_none_or(|stage| slice.stage == stage) && slice.inline.is_none()).collect();
    slices.sort_by_key(|slice| (slice.stage, slice.index));
    slices.dedup_by_key(|slice| (slice.stage, slice.index));
    slices
}

/// Returns the key of a slice's object.
pub(crate) fn key_of(request: &InvokeRequest, slice: &Slice) -> Key {
    let (_, prefix) = request.stage.output.place();
    let Slice { stage, index, .. } = *slice;
    result_path(prefix, &FragmentId { query: request.fragment.id.query.clone(), stage, index }, slice.attempt)
}

/// Returns true for one reader of a stage, also among processes.
fn is_first(mark: &Path, stage: u32) -> bool {
    let first = mark.join(format!("first-{stage}"));
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(first).is_ok()
}

async fn spoil(request: &InvokeRequest, fault: PartsFault, slices: &[Slice], mark: &Path) {
    let (access, prefix) = request.stage.output.place();
    let access = request.access.0.get(usize::from(access)).expect("a valid request");
    let store = connect(access, None).expect("a valid store").store;
    let key = |slice: &Slice| key_of(request, slice);
    if fault == PartsFault::EverythingGone {
        let objects: Vec<ObjectMeta> = store.list(None).try_collect().await.expect("a listing");
        for object in objects {
            let Some(ResultKey { fragment, attempt }) = result_at(prefix, &object.location) else { continue };
            if fragment.query == request.fragment.id.query {
                store.delete(&object.location).await.expect("it is there");
                fired(mark, fragment.stage, fragment.index, attempt);
            }
        }
        return;
    }
    let spoiled: Vec<&Slice> = match fault {
        PartsFault::AllGone => slices.iter().collect(),
        PartsFault::EachFlipped => slices.chunk_by(|a, b| a.stage == b.stage).map(|stage| &stage[0]).collect(),
        _ => vec![&slices[0]],
    };
    for slice in &spoiled {
        match fault {
            PartsFault::Gone | PartsFault::AllGone => store.delete(&key(slice)).await.expect("it is there"),
            PartsFault::EverythingGone | PartsFault::Refused => unreachable!("it is done elsewhere"),
            PartsFault::Torn => {
                let bytes = object(&store, &key(slice)).await;
                // Others may have read their parts by now.
                put(&store, &key(slice), bytes.slice(..(slice.start + slice.bytes / 2) as usize)).await;
            }
            PartsFault::Flipped | PartsFault::EachFlipped => {
                let flipped: Vec<u8> = object(&store, &key(slice)).await.iter().map(|byte| byte ^ 1).collect();
                put(&store, &key(slice), flipped.into()).await;
            }
            PartsFault::Swapped => {
                let other = slices.iter().find(|other| other.index != slice.index).expect("two producers");
                let bytes = object(&store, &key(other)).await;
                put(&store, &key(slice), bytes).await;
            }
        }
        fired(mark, slice.stage, slice.index, slice.attempt);
    }
}

/// Notes an object that was spoiled.
fn fired(mark: &Path, stage: u32, index: u32, attempt: u32) {
    let fired = OpenOptions::new().create(true).append(true).mode(0o600).open(mark.join("fired"));
    let line = format!("{stage} {index} {attempt}\n");
    fired.and_then(|mut file| file.write_all(line.as_bytes())).expect("the test's folder is writable");
}

async fn object(store: &Arc<dyn ObjectStore>, key: &Key) -> Bytes {
    store.get(key).await.expect("it is there").bytes().await.expect("readable")
}

async fn put(store: &Arc<dyn ObjectStore>, key: &Key, bytes: Bytes) {
    store.put(key, bytes.into()).await.expect("writable");
}
