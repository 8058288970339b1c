//! Scratch, by hand only.
use std::io::BufRead;
use std::sync::Arc;

use gust_catalog::{Catalog, Predicate, Stores, Table};
use object_store::ObjectStore;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let local: Arc<dyn ObjectStore> = Arc::new(object_store::local::LocalFileSystem::new());
    let stores = Stores::new(move |_| Ok(Arc::clone(&local)));
    let catalog = Catalog::sqlite(args[1].as_ref(), &args[2], "/tmp/x", stores.clone()).await.unwrap();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let request: (String, String, Predicate) = serde_json::from_str(&line).unwrap();
        let (namespace, name, predicate) = request;
        let result = async {
            let table = match namespace.as_str() {
                "" => Table::open(&name, &stores).await?,
                _ => catalog.load(&namespace, &name).await?,
            };
            table.plan(&predicate).await
        };
        match result.await {
            Ok(plan) => {
                let reasons: Vec<_> = plan
                    .pruning
                    .by_reason
                    .iter()
                    .map(|p| format!("{}: {} manifests {} files {:?}", p.reason, p.manifests, p.files, p.bytes))
                    .collect();
                println!(
                    "{}",
                    serde_json::json!({"files": plan.files, "reasons": reasons,
                    "total": plan.pruning.files_total, "bytes": plan.pruning.bytes_total})
                );
            }
            Err(error) => {
                let mut chain = error.to_string();
                let mut source = std::error::Error::source(&error);
                while let Some(s) = source {
                    chain += &format!(" <- {s}");
                    source = s.source();
                }
                println!("{}", serde_json::json!({"error": chain}));
            }
        }
    }
}
