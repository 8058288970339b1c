//! The bucket: keys, the immutable files behind them, and the conditions under which they are read and replaced.
//!
//! An object is never changed, only replaced by another under one lock, so its bytes always have their own ETag. A
//! replaced object's file is removed when the last reader has finished with it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use s3s::crypto::{Checksum, Md5};
use s3s::dto::{ETag, ETagCondition, Metadata, StreamingBlob, Timestamp};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

/// Bytes of an object, in a file that is removed with this value.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) md5: [u8; 16],
}

impl Drop for Blob {
    fn drop(&mut self) {
        // A failure has no remedy here. The folder itself is removed with the server.
        drop(fs::remove_file(&self.path));
    }
}

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) blob: Arc<Blob>,
    /// ETag without its quotes.
    pub(super) etag: String,
    /// Time of the write in whole seconds, as HTTP dates are.
    pub(super) modified: SystemTime,
    pub(super) content_type: Option<String>,
    pub(super) metadata: Option<Metadata>,
}

impl Object {
    pub(super) fn new(blob: Blob, etag: String, content_type: Option<String>, metadata: Option<Metadata>) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
        Self { blob: Arc::new(blob), etag, modified, content_type, metadata }
    }
}

/// Conditions of a read.
#[derive(Debug, Default)]
pub(super) struct ReadConditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    /// Checks the conditions. An ETag condition outranks the date condition of its kind, as on S3.
    fn check(&self, object: &Object) -> S3Result<()> {
        let modified = Timestamp::from(object.modified);
        let stale = match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) => !matches(condition, object),
            (None, Some(date)) => modified > *date,
            (None, None) => false,
        };
        let known = match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) => matches(condition, object),
            (None, Some(date)) => modified <= *date,
            (None, None) => false,
        };
        match (stale, known) {
            (true, _) => Err(s3_error!(PreconditionFailed)),
            (_, true) => Err(s3_error!(NotModified)),
            _ => Ok(()),
        }
    }
}

/// Conditions of a write.
#[derive(Debug, Default)]
pub(super) struct WriteConditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
}

impl WriteConditions {
    fn check(&self, present: Option<&Object>) -> S3Result<()> {
        match (&self.if_match, present) {
            (Some(_), None) => return Err(s3_error!(NoSuchKey)),
            (Some(condition), Some(object)) if !matches(condition, object) => {
                return Err(s3_error!(PreconditionFailed));
            }
            _ => {}
        }
        match (&self.if_none_match, present) {
            (Some(condition), Some(object)) if matches(condition, object) => Err(s3_error!(PreconditionFailed)),
            _ => Ok(()),
        }
    }
}

fn matches(condition: &ETagCondition, object: &Object) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => *etag == ETag::Strong(object.etag.clone()),
    }
}

/// Multipart upload that is neither completed nor aborted.
#[derive(Debug, Default)]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) content_type: Option<String>,
    pub(super) metadata: Option<Metadata>,
    pub(super) parts: BTreeMap<i32, Arc<Blob>>,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) objects: Vec<(String, Object)>,
    pub(super) prefixes: Vec<String>,
    /// Last entry of the page, behind which the next page begins; `None` on the last page.
    pub(super) next: Option<String>,
}

/// Content of the bucket.
#[derive(Debug)]
pub(super) struct Objects {
    folder: PathBuf,
    bucket: &'static str,
    names: AtomicU64,
    objects: Mutex<BTreeMap<String, Object>>,
    uploads: Mutex<HashMap<String, Upload>>,
}

impl Objects {
    /// Makes an empty bucket, whose files are in the folder by this name.
    pub(super) fn new(folder: &Path, bucket: &'static str) -> Self {
        Self {
            folder: folder.to_owned(),
            bucket,
            names: AtomicU64::new(0),
            objects: Mutex::default(),
            uploads: Mutex::default(),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.join(format!("{}-{}", self.bucket, self.names.fetch_add(1, Ordering::Relaxed)))
    }

    /// Writes a body to a file of its own.
    pub(super) async fn receive(&self, body: Option<StreamingBlob>) -> S3Result<Blob> {
        let path = self.file();
        let mut file = File::create(&path).await.map_err(S3Error::internal_error)?;
        let mut blob = Blob { path, size: 0, md5: [0; 16] };
        let mut md5 = Md5::new();
        if let Some(mut body) = body {
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(|error| S3Error::with_source(S3ErrorCode::IncompleteBody, error))?;
                md5.update(&chunk);
                blob.size += chunk.len() as u64;
                file.write_all(&chunk).await.map_err(S3Error::internal_error)?;
            }
        }
        file.flush().await.map_err(S3Error::internal_error)?;
        blob.md5 = md5.finalize();
        Ok(blob)
    }

    /// Joins the parts, end to end, in one file.
    pub(super) async fn join(&self, parts: &[Arc<Blob>]) -> S3Result<Blob> {
        let path = self.file();
        let mut whole = File::create(&path).await.map_err(S3Error::internal_error)?;
        let mut blob = Blob { path, size: 0, md5: [0; 16] };
        for part in parts {
            let mut file = File::open(&part.path).await.map_err(S3Error::internal_error)?;
            blob.size += tokio::io::copy(&mut file, &mut whole).await.map_err(S3Error::internal_error)?;
        }
        whole.flush().await.map_err(S3Error::internal_error)?;
        Ok(blob)
    }

    pub(super) fn get(&self, key: &str, conditions: &ReadConditions) -> S3Result<Object> {
        let object = self.lock().get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))?;
        conditions.check(&object)?;
        Ok(object)
    }

    pub(super) fn put(&self, key: &str, object: Object, conditions: &WriteConditions) -> S3Result<()> {
        let mut objects = self.lock();
        conditions.check(objects.get(key))?;
        objects.insert(key.to_owned(), object);
        Ok(())
    }

    /// Removes an object. A missing object counts as removed.
    pub(super) fn delete(&self, key: &str) {
        self.lock().remove(key);
    }

    /// Lists keys with `prefix` after `after`. Keys that share a piece up to `delimiter` become one entry.
    pub(super) fn list(&self, prefix: &str, delimiter: Option<&str>, after: &str, entries_max: usize) -> Page {
        let objects = self.lock();
        let mut page = Page::default();
        let mut last = after.to_owned();
        for (key, object) in objects.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            let rolled = delimiter
                .filter(|delimiter| !delimiter.is_empty())
                .and_then(|delimiter| rest.find(delimiter).map(|at| &key[..prefix.len() + at + delimiter.len()]));
            let entry = rolled.unwrap_or(key);
            if entry <= last.as_str() {
                continue;
            }
            if page.objects.len() + page.prefixes.len() >= entries_max {
                page.next = Some(last);
                break;
            }
            entry.clone_into(&mut last);
            match rolled {
                Some(rolled) => page.prefixes.push(rolled.to_owned()),
                None => page.objects.push((key.clone(), object.clone())),
            }
        }
        page
    }

    pub(super) fn uploads(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
