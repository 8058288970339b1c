//! An invoker for a coordinator without adoption and checksums: it answers each attempt with the object of its fragment that
//! was written last, by whichever attempt, and promises exactly the rows in it.

use std::sync::Arc;
use std::time::Duration;

use arrow_ipc::reader::StreamReader;
use async_trait::async_trait;
use futures::TryStreamExt;
use gust_engine::attempt::Invocation;
use gust_engine::fleet::Invoker;
use gust_protocol::exchange::{COMPRESSION, ResultTarget, ResultWriter, result_at};
use gust_protocol::version::PROTOCOL_VERSION;
use gust_protocol::{FragmentResponse, FragmentResult, InvokeRequest, Usage};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::SimInvoker;
use super::fragment_rows::schema;

#[derive(Debug)]
pub(super) struct UncheckedInvoker {
    pub(super) inner: SimInvoker,
    pub(super) store: Arc<dyn ObjectStore>,
}

#[async_trait]
impl Invoker for UncheckedInvoker {
    async fn invoke(&self, request: InvokeRequest) -> Invocation {
        let (id, attempt, output) = (request.fragment.id.clone(), request.attempt, request.stage.output.clone());
        let invocation = self.inner.invoke(request).await;
        // The pause is long enough for other attempts to write, too.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (_, prefix) = output.place();
        let all: Vec<ObjectMeta> = self.store.list(None).try_collect().await.expect("in memory");
        let of_fragment =
            |object: &&ObjectMeta| result_at(prefix, &object.location).is_some_and(|key| key.fragment == id);
        // The in-memory store counts its writes in the etag.
        let written = |object: &&ObjectMeta| object.e_tag.as_deref().and_then(|etag| etag.parse::<u64>().ok());
        let Some(last) = all.iter().filter(of_fragment).max_by_key(written) else { return invocation };
        let outcome = Ok(self.unchecked_result(last).await);
        let response = FragmentResponse { version: PROTOCOL_VERSION, id, attempt, outcome, usage: Usage::default() };
        Invocation { outcome: Ok(response), ..invocation }
    }
}

impl UncheckedInvoker {
    async fn unchecked_result(&self, object: &ObjectMeta) -> FragmentResult {
        let bytes = self.store.get(&object.location).await.expect("in memory").bytes().await.expect("in memory");
        let batches = StreamReader::try_new(bytes.as_ref(), None).into_iter().flatten().map_while(Result::ok);
        let target = ResultTarget { access: 0, store: Arc::clone(&self.store), path: Path::from("unused") };
        let mut writer = ResultWriter::new(&schema(), COMPRESSION, u64::MAX, target).expect("a plain schema");
        for batch in batches {
            writer.write(&batch).await.expect("in memory");
        }
        writer.finish().await.expect("in memory")
    }
}
