//! S3's verbs over [`Objects`]. Each request is noted in the log.

use std::io::SeekFrom;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use s3s::crypto::{Checksum, Md5};
use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::BUCKETS;
use super::objects::{Blob, Object, Objects, ReadConditions, Upload, WriteConditions, hex};
use super::requests::{Operation, RequestLog, asked};

/// Size of the pieces in which a body is read from its file and sent.
const CHUNK_BYTES: u64 = 1 << 20;
/// S3's least size of every part but the last.
const PART_BYTES_MIN: u64 = 5 << 20;
const PARTS_MAX: i32 = 10_000;
const LIST_KEYS_MAX: i32 = 1_000;

/// A store's way with the conditions of a write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Conditions {
    #[default]
    Kept,
    /// It writes whatever is there already.
    Ignored,
    /// It answers 501, as S3 did before it had them.
    Refused,
}

/// The way at this moment.
pub(super) type CurrentConditions = Arc<RwLock<Conditions>>;

/// Buckets as `s3s` serves them.
pub(super) struct Service {
    buckets: Vec<(&'static str, Objects)>,
    uploads: AtomicU64,
    log: Arc<RequestLog>,
    conditions: CurrentConditions,
}

/// Answer of a verb, with the range of the object's bytes that travel for it.
type Answer<T> = S3Result<(Range<u64>, T)>;

impl Service {
    pub(super) fn new(folder: &Path, log: Arc<RequestLog>, conditions: CurrentConditions) -> Self {
        let buckets = BUCKETS.iter().map(|bucket| (*bucket, Objects::new(folder, bucket)));
        Self { buckets: buckets.collect(), uploads: AtomicU64::new(0), log, conditions }
    }

    fn objects(&self, bucket: &str) -> S3Result<&Objects> {
        let found = self.buckets.iter().find(|(name, _)| *name == bucket);
        found.map(|(_, objects)| objects).ok_or_else(|| s3_error!(NoSuchBucket))
    }

    async fn get(&self, input: GetObjectInput) -> Answer<GetObjectOutput> {
        let objects = self.objects(&input.bucket)?;
        let conditions = ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let object = objects.get(&input.key, &conditions)?;
        let size = object.blob.size;
        let bytes = match input.range {
            // A suffix may be longer than the object. An empty object has no bytes, so no range of it is valid.
            Some(range) => {
                Some(range.check(size)?).filter(|range| !range.is_empty()).ok_or_else(|| s3_error!(InvalidRange))?
            }
            None => 0..size,
        };
        let mut file = File::open(&object.blob.path).await.map_err(S3Error::internal_error)?;
        file.seek(SeekFrom::Start(bytes.start)).await.map_err(S3Error::internal_error)?;
        let length = bytes.end - bytes.start;
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(signed(length)?),
            content_range: input.range.map(|_| format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1)),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(Timestamp::from(object.modified)),
            content_type: object.content_type,
            metadata: object.metadata,
            body: Some(StreamingBlob::wrap(read(file, object.blob, length))),
            ..Default::default()
        };
        Ok((bytes, output))
    }

    fn head(&self, input: HeadObjectInput) -> Answer<HeadObjectOutput> {
        let objects = self.objects(&input.bucket)?;
        let conditions = ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let object = objects.get(&input.key, &conditions)?;
        let output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(signed(object.blob.size)?),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(Timestamp::from(object.modified)),
            content_type: object.content_type,
            metadata: object.metadata,
            ..Default::default()
        };
        Ok((0..0, output))
    }

    async fn put(&self, input: PutObjectInput) -> Answer<PutObjectOutput> {
        let objects = self.objects(&input.bucket)?;
        let blob = objects.receive(input.body).await?;
        let size = blob.size;
        let etag = hex(&blob.md5);
        let object = Object::new(blob, etag.clone(), input.content_type, input.metadata);
        let asked = WriteConditions { if_match: input.if_match, if_none_match: input.if_none_match };
        let is_conditional = asked.if_match.is_some() || asked.if_none_match.is_some();
        let way = *self.conditions.read().unwrap_or_else(PoisonError::into_inner);
        let conditions = match way {
            Conditions::Kept => asked,
            Conditions::Ignored => WriteConditions::default(),
            Conditions::Refused if is_conditional => {
                return Err(s3_error!(
                    NotImplemented,
                    "A header you provided implies functionality that is not implemented"
                ));
            }
            Conditions::Refused => asked,
        };
        objects.put(&input.key, object, &conditions)?;
        Ok((0..size, PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    fn list(&self, input: ListObjectsV2Input) -> Answer<ListObjectsV2Output> {
        let objects = self.objects(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        // The token is the last entry of the page before. It outranks the key to start after.
        let after = input.continuation_token.as_ref().or(input.start_after.as_ref()).cloned().unwrap_or_default();
        let max_keys = input.max_keys.unwrap_or(LIST_KEYS_MAX).clamp(0, LIST_KEYS_MAX);
        let page = objects.list(&prefix, input.delimiter.as_deref(), &after, max_keys as usize);
        let contents = page.objects.into_iter().map(|(key, object)| {
            Ok(s3s::dto::Object {
                key: Some(key),
                size: Some(signed(object.blob.size)?),
                e_tag: Some(ETag::Strong(object.etag)),
                last_modified: Some(Timestamp::from(object.modified)),
                ..Default::default()
            })
        });
        let contents: Vec<_> = contents.collect::<S3Result<_>>()?;
        let common: Vec<_> = page.prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) }).collect();
        let output = ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(prefix),
            delimiter: input.delimiter,
            max_keys: Some(max_keys),
            key_count: i32::try_from(contents.len() + common.len()).ok(),
            contents: Some(contents),
            common_prefixes: Some(common),
            continuation_token: input.continuation_token,
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next,
            start_after: input.start_after,
            ..Default::default()
        };
        Ok((0..0, output))
    }

    fn copy(&self, input: CopyObjectInput) -> Answer<CopyObjectOutput> {
        let objects = self.objects(&input.bucket)?;
        let CopySource::Bucket { bucket, key, .. } = &input.copy_source else { return Err(s3_error!(NotImplemented)) };
        let source = self.objects(bucket)?;
        let conditions = ReadConditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            ..Default::default()
        };
        let object = source.get(key, &conditions)?;
        let result = CopyObjectResult {
            e_tag: Some(ETag::Strong(object.etag.clone())),
            last_modified: Some(Timestamp::from(object.modified)),
            ..Default::default()
        };
        objects.put(&input.key, object, &WriteConditions::default())?;
        Ok((0..0, CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
    }

    fn delete(&self, input: DeleteObjectInput) -> Answer<DeleteObjectOutput> {
        let objects = self.objects(&input.bucket)?;
        objects.delete(&input.key);
        Ok((0..0, DeleteObjectOutput::default()))
    }

    fn delete_many(&self, input: DeleteObjectsInput) -> Answer<DeleteObjectsOutput> {
        let objects = self.objects(&input.bucket)?;
        let deleted = input.delete.objects.into_iter().map(|object| {
            objects.delete(&object.key);
            DeletedObject { key: Some(object.key), ..Default::default() }
        });
        let output = DeleteObjectsOutput { deleted: Some(deleted.collect()), ..Default::default() };
        Ok((0..0, output))
    }

    fn create_upload(&self, input: CreateMultipartUploadInput) -> Answer<CreateMultipartUploadOutput> {
        let objects = self.objects(&input.bucket)?;
        let upload_id = format!("upload-{}", self.uploads.fetch_add(1, Ordering::Relaxed));
        let CreateMultipartUploadInput { bucket, key, content_type, metadata, .. } = input;
        let upload = Upload { key: key.clone(), content_type, metadata, ..Default::default() };
        objects.uploads().insert(upload_id.clone(), upload);
        let output = CreateMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(upload_id),
            ..Default::default()
        };
        Ok((0..0, output))
    }

    async fn receive_part(&self, input: UploadPartInput) -> Answer<UploadPartOutput> {
        let objects = self.objects(&input.bucket)?;
        if !(1..=PARTS_MAX).contains(&input.part_number) {
            return Err(s3_error!(InvalidArgument, "a part's number is 1 to {PARTS_MAX}"));
        }
        let blob = objects.receive(input.body).await?;
        let (size, etag) = (blob.size, hex(&blob.md5));
        let mut uploads = objects.uploads();
        let upload = uploads.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(input.part_number, Arc::new(blob));
        Ok((0..size, UploadPartOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    async fn complete_upload(&self, input: CompleteMultipartUploadInput) -> Answer<CompleteMultipartUploadOutput> {
        let objects = self.objects(&input.bucket)?;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let (parts, content_type, metadata) = {
            let uploads = objects.uploads();
            let upload = uploads.get(&input.upload_id).filter(|upload| upload.key == input.key);
            let upload = upload.ok_or_else(|| s3_error!(NoSuchUpload))?;
            (chosen_parts(upload, &named)?, upload.content_type.clone(), upload.metadata.clone())
        };
        let mut md5 = Md5::new();
        parts.iter().for_each(|part| md5.update(&part.md5));
        let etag = format!("{}-{}", hex(&md5.finalize()), parts.len());
        let object = Object::new(objects.join(&parts).await?, etag.clone(), content_type, metadata);
        let conditions = WriteConditions { if_match: input.if_match, if_none_match: input.if_none_match };
        objects.put(&input.key, object, &conditions)?;
        objects.uploads().remove(&input.upload_id);
        let output = CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        };
        Ok((0..0, output))
    }

    fn abort_upload(&self, input: AbortMultipartUploadInput) -> Answer<AbortMultipartUploadOutput> {
        let objects = self.objects(&input.bucket)?;
        match objects.uploads().remove(&input.upload_id) {
            Some(_) => Ok((0..0, AbortMultipartUploadOutput::default())),
            None => Err(s3_error!(NoSuchUpload)),
        }
    }
}

fn signed(bytes: u64) -> S3Result<i64> {
    i64::try_from(bytes).map_err(S3Error::internal_error)
}

/// Returns the parts that a completion names. They must ascend, exist and be unchanged, and only the last may be small.
fn chosen_parts(upload: &Upload, named: &[CompletedPart]) -> S3Result<Vec<Arc<Blob>>> {
    let mut chosen = Vec::with_capacity(named.len());
    let mut before = 0;
    for (index, part) in named.iter().enumerate() {
        let number = part.part_number.ok_or_else(|| s3_error!(InvalidPart))?;
        if number <= before {
            return Err(s3_error!(InvalidPartOrder));
        }
        before = number;
        let blob = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
        if part.e_tag.as_ref().is_some_and(|etag| *etag != ETag::Strong(hex(&blob.md5))) {
            return Err(s3_error!(InvalidPart));
        }
        if index + 1 < named.len() && blob.size < PART_BYTES_MIN {
            return Err(s3_error!(EntityTooSmall));
        }
        chosen.push(Arc::clone(blob));
    }
    if chosen.is_empty() { Err(s3_error!(InvalidRequest, "no part is named")) } else { Ok(chosen) }
}

/// Streams the next `length` bytes of the file. The blob keeps the file alive until the last of them is read.
fn read(file: File, blob: Arc<Blob>, length: u64) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Sync {
    futures::stream::try_unfold((file, blob, length), |(mut file, blob, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let mut chunk = BytesMut::zeroed(left.min(CHUNK_BYTES) as usize);
        file.read_exact(&mut chunk).await?;
        let left = left - chunk.len() as u64;
        Ok(Some((chunk.freeze(), (file, blob, left))))
    })
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let asked = asked(&request.input.key, &request);
        self.log.note(Operation::Get, asked, self.get(request.input).await).map(S3Response::new)
    }

    /// The oldest region has no name. The log has requests for objects alone.
    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.objects(&request.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let asked = asked(&request.input.key, &request);
        self.log.note(Operation::Head, asked, self.head(request.input)).map(S3Response::new)
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let asked = asked(&request.input.key, &request);
        self.log.note(Operation::Put, asked, self.put(request.input).await).map(S3Response::new)
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let asked = asked(request.input.prefix.as_deref().unwrap_or_default(), &request);
        self.log.note(Operation::List, asked, self.list(request.input)).map(S3Response::new)
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let asked = asked(&request.input.key, &request);
        self.log.note(Operation::Copy, asked, self.copy(request.input)).map(S3Response::new)
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let asked = asked(&request.input.key, &request);
        self.log.note(Operation::Delete, asked, self.delete(request.input)).map(S3Response::new)
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let asked = asked("", &request);
        self.log.note(Operation::DeleteMany, asked, self.delete_many(request.input)).map(S3Response::new)
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let asked = asked(&request.input.key, &request);
        self.log.note(Operation::CreateMultipart, asked, self.create_upload(request.input)).map(S3Response::new)
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let asked = asked(&request.input.key, &request);
        self.log.note(Operation::UploadPart, asked, self.receive_part(request.input).await).map(S3Response::new)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let asked = asked(&request.input.key, &request);
        let answer = self.complete_upload(request.input).await;
        self.log.note(Operation::CompleteMultipart, asked, answer).map(S3Response::new)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let asked = asked(&request.input.key, &request);
        self.log.note(Operation::AbortMultipart, asked, self.abort_upload(request.input)).map(S3Response::new)
    }
}
