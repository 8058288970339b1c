//! Looks after everything that a query needs, one thing at a time, and says what to do where something is amiss.
//!
//! The last check is the real thing: a fragment that reads nothing and leaves its one row in the exchange, on every function. It
//! shows reachability, version, permissions and the way back at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::datatypes::Schema;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use gust_catalog::Catalog;
use gust_protocol::version::{PROTOCOL_VERSION, fingerprint};
use gust_protocol::{
    AccessTable, Base64, Fragment, FragmentId, InvokeRequest, Limits, Output, PlanRef, StagePlan, exchange, plan,
};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use uuid::Uuid;

use super::error::QueryError;
use super::{Session, with_causes};
use crate::config::{CatalogConfig, CatalogKind, Target};
use crate::event::EventLog;
use crate::exec::Exchange;
use crate::planner::stage::EXCHANGE;
use crate::tables::catalog::IcebergCatalog;

/// Functions that are tried by themselves.
const PROBES_MAX: usize = 20;

/// Longest that one function is waited for: far above a cold start.
const PROBE_MAX: Duration = Duration::from_secs(30);

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub what: String,
    /// What was found, or what is wrong and what to do.
    pub outcome: Result<String, String>,
}

impl Check {
    fn new(what: impl Into<String>, outcome: Result<String, impl std::fmt::Display>) -> Self {
        Self { what: what.into(), outcome: outcome.map_err(|error| error.to_string()) }
    }
}

impl Session {
    /// All checks, in the order in which their subjects depend on each other.
    pub async fn examine(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        let exchange = self.functions.exchange();
        let in_s3 = exchange.access.url.starts_with("s3");
        if in_s3 || self.functions.target() == Target::Lambda {
            checks.push(Check::new("credentials", self.credentials().await));
        }
        if in_s3 {
            checks.push(Check::new("bucket", self.bucket(exchange).await));
        }
        let written = writable(exchange).await;
        let can_write = written.is_ok();
        checks.push(Check::new("exchange", written));
        let mut functions = 1;
        if self.functions.target() == Target::Lambda {
            match self.functions.describe().await {
                Ok(deployment) => {
                    functions = deployment.clones.len();
                    checks.push(Check::new("functions", Ok::<_, String>(deployment.to_string())));
                    let quota = quota(deployment.concurrency_quota, self.config.functions_max);
                    checks.push(Check::new("quota", quota));
                }
                Err(error) => {
                    checks.push(Check::new("functions", Err::<String, _>(error)));
                    functions = 0;
                }
            }
        }
        for number in 1..=functions.min(PROBES_MAX) {
            let answer = match can_write {
                true => self.probe().await,
                false => Err("not tried, for there is no exchange to answer through".to_owned()),
            };
            checks.push(Check::new(format!("function {number}"), answer));
        }
        for (name, config) in &self.config.catalogs {
            checks.push(Check::new(format!("catalog {name}"), self.open_catalog(name, config).await));
        }
        checks
    }

    async fn credentials(&self) -> Result<String, String> {
        if let Some(key) = &self.config.s3.access_key_id {
            return Ok(format!("{key}, from the configuration"));
        }
        let credential = self.stores.credentials().current().await.map_err(|error| error.to_string())?;
        Ok(credential.key_id.clone())
    }

    /// Whether the bucket is there, ours to use, and where the functions are.
    async fn bucket(&self, exchange: &Exchange) -> Result<String, String> {
        let url = exchange.access.url.trim_end_matches('/');
        let bucket = url.split_once("://").map_or(url, |(_, bucket)| bucket);
        let s3 = &self.config.s3;
        let config = crate::aws::sdk_config(s3, s3.region.as_deref(), s3.endpoint.as_deref()).await;
        if config.region().is_none() {
            return Err("no AWS region is set for S3\nhint: set s3.region in gust.toml, or AWS_REGION".to_owned());
        }
        let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(s3.endpoint.is_some()).build();
        // Not HeadBucket: it needs the right to list the whole bucket.
        let answer = aws_sdk_s3::Client::from_conf(config).get_bucket_location().bucket(bucket).send().await;
        let (status, theirs) = match &answer {
            // The oldest region has no name here.
            Ok(answer) => (200, answer.location_constraint().map_or("us-east-1", |region| region.as_str()).to_owned()),
            Err(error) => {
                let Some(response) = error.raw_response() else {
                    let why = with_causes(error);
                    return Err(format!("{why}\nhint: check the credentials, the network, s3.endpoint and the region"));
                };
                let region = response.headers().get("x-amz-bucket-region").unwrap_or_default();
                (response.status().as_u16(), region.to_owned())
            }
        };
        let functions_region = match self.functions.target() {
            Target::Lambda => self.functions.sdk().await.region().map(ToString::to_string),
            _ => s3.region.clone(),
        };
        if let Some(ours) = functions_region.filter(|ours| !theirs.is_empty() && *ours != theirs) {
            return Err(format!(
                "bucket `{bucket}` is in {theirs}, the functions are in {ours}: results would cross regions, slowly and for money\nhint: set s3.region to {theirs}, or use an exchange in {ours}"
            ));
        }
        match status {
            200 => Ok(format!("{bucket} in {theirs}")),
            404 => Err(format!(
                "bucket `{bucket}` does not exist\nhint: create it (`terraform -chdir=infra apply`), or correct `exchange`"
            )),
            403 => Err(format!(
                "bucket `{bucket}` is not ours to use (403)\nhint: check the credentials and the bucket's policy"
            )),
            status => Err(format!("bucket `{bucket}` answers with status {status}")),
        }
    }

    /// Runs a fragment that reads nothing and writes its row into the exchange.
    async fn probe(&self) -> Result<String, String> {
        let id = FragmentId { query: Uuid::now_v7().simple().to_string(), stage: 0, index: 0 };
        let outcome = self.try_probe(&id).await;
        self.clean(&id.query).await;
        outcome.map_err(|error| error.to_string())
    }

    async fn try_probe(&self, id: &FragmentId) -> Result<String, QueryError> {
        let events = EventLog::start();
        let deadline = Instant::now() + PROBE_MAX.min(self.config.timeout);
        let query = self.query_context(&id.query, &events, deadline).await?;
        let empty: Arc<dyn ExecutionPlan> = Arc::new(PlaceholderRowExec::new(Arc::new(Schema::empty())));
        let stage = StagePlan {
            plan: PlanRef::Inline(Base64(plan::encode(&empty).map_err(QueryError::from_engine)?)),
            leaves: Vec::new(),
            scalars: Vec::new(),
            output: Output::Gather { access: EXCHANGE, prefix: query.exchange.prefix.clone() },
            options: BTreeMap::new(),
        };
        let fragment =
            Fragment { id: id.clone(), inputs: Vec::new(), limits: Limits { inline_bytes_max: 0, ..query.limits } };
        let access = query.credentials.apply(&query.exchange.access);
        let request = move |attempt, deadline_unix_ms| InvokeRequest {
            version: PROTOCOL_VERSION,
            fingerprint: fingerprint().to_owned(),
            fragment: fragment.clone(),
            attempt,
            deadline_unix_ms,
            access: AccessTable(vec![access.clone(), access.clone()]),
            stage: stage.clone(),
        };
        let started = Instant::now();
        let stage = query.attempts.stage(vec![PROBE_MAX]);
        let answer = stage.fragment(id.clone(), 0, 0, request).result().await;
        let (result, _) = answer.map_err(|failure| QueryError::Functions(failure.to_string()))?;
        let took = started.elapsed();
        let rows = exchange::read(id, result, &empty.schema(), query.exchange.store.as_ref()).await;
        let rows: usize = rows
            .and_then(|rows| rows.map(|batch| Ok(batch?.num_rows())).sum::<Result<_, _>>())
            .map_err(|error| QueryError::Functions(error.to_string()))?;
        if rows != 1 {
            return Err(QueryError::Functions(format!("it sent {rows} rows where one was asked for")));
        }
        Ok(format!("answered in {} ms, protocol {PROTOCOL_VERSION}, {}", took.as_millis(), fingerprint()))
    }

    async fn open_catalog(&self, name: &str, config: &CatalogConfig) -> Result<String, String> {
        let CatalogConfig { kind: CatalogKind::Sqlite, path, warehouse } = config;
        let opened = Catalog::sqlite(path, name, warehouse, self.stores.for_catalog()).await;
        let listed = IcebergCatalog::list(&opened.map_err(|e| with_causes(&e))?).await.map_err(|e| with_causes(&e))?;
        let namespaces = datafusion::catalog::CatalogProvider::schema_names(&listed).len();
        Ok(format!("{namespaces} namespaces in {}", path.display()))
    }
}

/// Writes an object into the exchange and takes it away again.
async fn writable(exchange: &Exchange) -> Result<String, String> {
    let Exchange { access, prefix, store } = exchange;
    let name = format!("doctor-{}", Uuid::now_v7().simple());
    let path: Path = Path::parse(prefix).unwrap_or_default().parts().chain(Path::from(name).parts()).collect();
    let tried = async {
        store.put(&path, "gust doctor".into()).await?;
        store.delete(&path).await
    };
    match tried.await {
        Ok(()) => Ok(format!("{}{prefix} takes and gives up objects", access.url)),
        Err(error) => Err(format!(
            "{}{prefix}: {error}\nhint: check `exchange`, the credentials and the bucket's policy",
            access.url
        )),
    }
}

fn quota(quota: Option<u32>, functions_max: u32) -> Result<String, String> {
    match quota {
        None => {
            Ok("the account's concurrency could not be asked for (lambda:GetAccountSettings); throttles are waited out"
                .to_owned())
        }
        Some(quota) if quota < functions_max => Err(format!(
            "the account may run {quota} functions at once, functions_max is {functions_max}: at most {quota} are used\nhint: ask AWS for more (Service Quotas, Lambda, concurrent executions), or lower functions_max"
        )),
        Some(quota) => Ok(format!("{quota} functions at once, of which a query uses up to {functions_max}")),
    }
}
