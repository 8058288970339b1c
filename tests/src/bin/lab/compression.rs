//! Codecs for results: the bytes of each, and the time to encode, carry and decode them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow_ipc::CompressionType;
use datafusion::prelude::SessionContext;
use gust_protocol::exchange::{ResultTarget, ResultWriter, read};
use gust_protocol::{FragmentId, FragmentResult};
use gust_tests::tpch;
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use serde_json::json;

use super::Outcome;
use super::workload::Compression;
use gust_tests::stats::median;

const CODECS: [(&str, Option<CompressionType>); 3] =
    [("none", None), ("lz4", Some(CompressionType::LZ4_FRAME)), ("zstd", Some(CompressionType::ZSTD))];

pub async fn measure(compression: &Compression, cache: &Path) -> anyhow::Result<Outcome> {
    let tables = tpch::tables_at(cache, compression.scale, 4, 65536)?;
    let context = SessionContext::new();
    for statement in tables.create_statements() {
        context.sql(&statement).await?.collect().await?;
    }
    let mut table = vec!["codec     bytes  encode ms  decode ms  carried ms  query".to_owned()];
    let (mut samples, mut all_equal) = (Vec::new(), true);
    for query in &compression.queries {
        let batches = context.sql(query).await?.collect().await?;
        let Some(schema) = batches.first().map(|batch| batch.schema()) else { continue };
        let store = Arc::new(InMemory::new());
        let id = FragmentId { query: "lab".to_owned(), stage: 0, index: 0 };
        for (name, codec) in CODECS {
            let (mut encode, mut decode, mut bytes) = (Vec::new(), Vec::new(), 0);
            for _ in 0..compression.repeats {
                let started = Instant::now();
                let target =
                    ResultTarget { access: 0, store: Arc::clone(&store) as _, path: StorePath::from("unused") };
                let mut writer = ResultWriter::new(&schema, codec, u64::MAX, target)?;
                for batch in &batches {
                    writer.write(batch).await?;
                }
                let result: FragmentResult = writer.finish().await?;
                encode.push(started.elapsed().as_secs_f64() * 1000.0);
                bytes = result.part().bytes;
                let started = Instant::now();
                let rows = read(&id, result, &schema, store.as_ref()).await?;
                let back: Vec<_> = rows.collect::<Result<_, _>>()?;
                decode.push(started.elapsed().as_secs_f64() * 1000.0);
                all_equal &= back == batches;
            }
            let (encode_ms, decode_ms) = (median(&encode), median(&decode));
            let carried = encode_ms + decode_ms + bytes as f64 / compression.pipe_bytes_per_second * 1000.0;
            table.push(format!("{name:<5} {bytes:>9}  {encode_ms:>9.2}  {decode_ms:>9.2}  {carried:>10.2}  {query}"));
            samples.push(
                json!({ "query": query, "codec": name, "bytes": bytes, "encode_ms": encode, "decode_ms": decode }),
            );
        }
    }
    Ok(Outcome {
        name: "compression",
        table,
        samples: json!(samples),
        bounds: Vec::new(),
        validity: vec![("every codec gave back the same rows".to_owned(), all_equal)],
    })
}
