//! Examines everything that a query needs, one thing at a time. A finding of a fault has the next step.
//!
//! Functions are tried with a real fragment, which reads nothing and leaves its one row in the exchange, and with one for each bucket where that
//! has several. It shows reachability, version, permissions and the way back at once. All sizes are tried if estimates pick the size, else
//! the first one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::datatypes::Schema;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use gust_protocol::exchange::ExchangeError;
use gust_protocol::version::{PROTOCOL_VERSION, fingerprint};
use gust_protocol::{
    AccessTable, Base64, Fragment, FragmentId, FragmentLimits, InvokeRequest, Output, PlanRef, StagePlan, StoreAccess,
    exchange, plan,
};
use humansize::{BINARY, format_size};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use url::Url;
use uuid::Uuid;

use super::catalogs::in_catalog;
use super::{Finding, Session};
use crate::attempt::Invocation;
use crate::config::{CatalogConfig, Config};
use crate::error::{QueryError, with_causes};
use crate::exchange::{EXCHANGE_ACCESS, Exchange, places};
use crate::fleet::{Asking, Health, Invoker, ProbeSubject, ProbedSizes, Probes};
use crate::memory::machine;
use crate::storage::aws::NoCredentials;

mod journals;
mod places;

/// Greatest difference of clocks: AWS refuses signatures that are older than 5 minutes.
const SKEW_SECONDS_MAX: i64 = 240;
/// Namespaces of a catalog that are searched for a table.
const NAMESPACES_TRIED_MAX: usize = 10;
/// Tables of a catalog that are tried, until one can be read. Glue has tables of other formats, too.
const TABLES_TRIED_MAX: usize = 10;

/// Longest wait for one function, far above a cold start.
const PROBE_MAX: Duration = Duration::from_secs(30);

impl Session {
    /// Returns all findings, in the order in which their subjects depend on each other.
    pub async fn examine(&self) -> Vec<Finding> {
        let shares_machine = self.engine.fleet.platform().traits().shares_machine;
        let mut findings = vec![Finding::new("memory", memory(&self.config, shares_machine, machine::memory_bytes()))];
        let exchange = self.engine.fleet.exchange();
        let in_s3 = exchange.access.url.starts_with("s3");
        if in_s3 || !shares_machine {
            findings.push(Finding::new("credentials", self.credentials().await));
        }
        if in_s3 {
            for root in places(&exchange.access.url) {
                let bucket = root.trim_start_matches("s3://").trim_end_matches('/');
                findings.push(Finding::new("bucket", self.bucket(bucket).await));
            }
        }
        let mut can_write = true;
        for root in places(&exchange.access.url) {
            let written = self.writable(&root, &exchange.prefix).await;
            can_write &= written.is_ok();
            findings.push(Finding::new("exchange", written));
        }
        if can_write {
            findings.extend(self.engine.examine_journals().await.map(|told| Finding::new("journals", told)));
        }
        // Sizes other than the first are used only if estimates pick them.
        let sizes = if self.config.picks_by_estimate() { ProbedSizes::All } else { ProbedSizes::First };
        let Probes { findings: of_functions, subjects } = self.engine.fleet.probes(sizes).await;
        findings.extend(of_functions);
        for ProbeSubject { name, invoker } in subjects {
            let answer = match can_write {
                true => self.probe(invoker.as_ref()).await,
                false => Err(QueryError::setup("not tried, for there is no exchange to answer through")),
            };
            findings.push(Finding::new(name, answer));
        }
        // The breaker knows the probes and all earlier queries of the engine.
        findings.push(Finding::new("breaker", breaker(&self.engine.fleet.breaker().health())));
        for (name, config) in &self.config.catalogs {
            findings.push(Finding::new(format!("catalog {name}"), Box::pin(self.open_catalog(name, config)).await));
        }
        findings.extend(Box::pin(self.examine_places()).await);
        findings
    }

    async fn credentials(&self) -> Result<String, QueryError> {
        if let Some(key) = &self.config.s3.access_key_id {
            return Ok(format!("{key}, from the configuration"));
        }
        let credential =
            self.stores.credentials().current().await.map_err(|error| {
                QueryError::setup(error.to_string()).with_hint(NoCredentials::HINT).with_source(error)
            })?;
        Ok(credential.key_id.clone())
    }

    /// Checks that the bucket exists, is ours to use, and is in the region of the functions.
    async fn bucket(&self, bucket: &str) -> Result<String, QueryError> {
        let s3 = &self.config.s3;
        let config = crate::storage::aws::sdk_config(s3, s3.region.as_deref(), s3.endpoint.as_deref()).await;
        if config.region().is_none() {
            return Err(ailing("no AWS region is set for S3", "set s3.region in gust.toml, or AWS_REGION"));
        }
        let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(s3.endpoint.is_some()).build();
        // HeadBucket would need the right to list the whole bucket.
        let answer = aws_sdk_s3::Client::from_conf(config).get_bucket_location().bucket(bucket).send().await;
        let (status, theirs) = match &answer {
            Ok(answer) => {
                (200, region_of(answer.location_constraint().map_or("", |region| region.as_str())).to_owned())
            }
            Err(error) => {
                let Some(response) = error.raw_response() else {
                    let why = with_causes(error);
                    return Err(ailing(why, "check the credentials, the network, s3.endpoint and the region"));
                };
                let region = response.headers().get("x-amz-bucket-region").unwrap_or_default();
                (response.status().as_u16(), region.to_owned())
            }
        };
        if let Some(ours) =
            self.engine.fleet.platform().region().await.filter(|ours| !theirs.is_empty() && *ours != theirs)
        {
            let what = format!(
                "bucket `{bucket}` is in {theirs}, the functions are in {ours}: results would cross regions, slowly and for money"
            );
            return Err(ailing(what, format!("set s3.region to {theirs}, or use an exchange in {ours}")));
        }
        match status {
            200 => Ok(format!("{bucket} in {theirs}")),
            404 => Err(ailing(
                format!("bucket `{bucket}` does not exist"),
                "create it (`terraform -chdir=infra apply`), or correct `exchange`",
            )),
            403 => Err(ailing(
                format!("bucket `{bucket}` is not ours to use (403)"),
                "check the credentials and the bucket's policy",
            )),
            status if !theirs.is_empty() => Err(ailing(
                format!("bucket `{bucket}` answers with status {status}: it is in {theirs}"),
                format!("set s3.region to {theirs}"),
            )),
            status => Err(ailing(format!("bucket `{bucket}` answers with status {status}"), "check s3.region")),
        }
    }

    /// Writes an object into one root of the exchange, and deletes it again.
    async fn writable(&self, root: &str, prefix: &str) -> Result<String, QueryError> {
        let url = Url::parse(root).map_err(|error| QueryError::setup(format!("`{root}`: {error}")))?;
        let store = self.stores.open_own(&url)?;
        let name = format!("doctor-{}", Uuid::now_v7().simple());
        let path: Path = Path::parse(prefix).unwrap_or_default().parts().chain(Path::from(name).parts()).collect();
        let tried = async {
            store.put(&path, "gust doctor".into()).await?;
            store.delete(&path).await
        };
        match tried.await {
            Ok(()) => Ok(format!("{root}{prefix} takes and gives up objects")),
            Err(error) => {
                let what = format!("{root}{prefix}: {error}");
                Err(ailing(what, "check `exchange`, the credentials and the bucket's policy").with_source(error))
            }
        }
    }

    /// Tries a function on each bucket of the exchange, up to the first that fails. A bucket by itself is an exchange, too.
    async fn probe(&self, invoker: &dyn Invoker) -> Result<String, QueryError> {
        let whole = self.exchange();
        let roots = places(&whole.access.url);
        let mut told = Vec::new();
        for root in &roots {
            let url = Url::parse(root).map_err(|error| QueryError::setup(format!("`{root}`: {error}")))?;
            let access = StoreAccess { url: root.clone(), ..whole.access.clone() };
            let exchange = Exchange { access, store: self.stores.open_own(&url)?, ..whole.clone() };
            told.push(self.probe_in(&exchange, invoker).await.map_err(|error| {
                match roots.len() {
                    1 => error,
                    _ => QueryError::new(error.kind(), format!("{root}: {}", error.message()))
                        .with_default_hint(error.hint())
                        .with_source_of(&error),
                }
            })?);
        }
        let in_each = if roots.len() > 1 { format!(", in each of {} buckets", roots.len()) } else { String::new() };
        // The first answer has the cold start.
        Ok(told.into_iter().next().unwrap_or_default() + &in_each)
    }

    /// Runs a fragment that reads nothing and writes its row into the exchange. It has one attempt, so that no retry
    /// hides a failure.
    async fn probe_in(&self, exchange: &Exchange, invoker: &dyn Invoker) -> Result<String, QueryError> {
        let id = FragmentId { query: Uuid::now_v7().simple().to_string(), stage: 0, index: 0 };
        let outcome = self.try_probe(&id, exchange, invoker).await;
        self.engine.clean(&id.query, exchange).await;
        outcome
    }

    async fn try_probe(
        &self,
        id: &FragmentId,
        exchange: &Exchange,
        invoker: &dyn Invoker,
    ) -> Result<String, QueryError> {
        let empty: Arc<dyn ExecutionPlan> = Arc::new(PlaceholderRowExec::new(Arc::new(Schema::empty())));
        let Exchange { access, prefix, store } = exchange;
        let access = self.engine.fleet.credentials(&self.stores).await.apply(access);
        let facts = self.engine.fleet.facts(Asking::Always).await?;
        let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + PROBE_MAX;
        let request = InvokeRequest {
            version: PROTOCOL_VERSION,
            fingerprint: fingerprint().to_owned(),
            fragment: Fragment {
                id: id.clone(),
                inputs: Vec::new(),
                parts: Vec::new(),
                limits: FragmentLimits { inline_bytes_max: 0, ..facts.sizes[0].limits },
            },
            attempt: 0,
            deadline_unix_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            access: AccessTable(vec![access.clone(), access]),
            stage: StagePlan {
                plan: PlanRef::Inline(Base64(plan::encode(&empty).map_err(QueryError::from_engine)?)),
                leaves: Vec::new(),
                scalars: Vec::new(),
                shared: Vec::new(),
                output: Output::Gather { access: EXCHANGE_ACCESS, prefix: prefix.clone() },
                options: BTreeMap::new(),
            },
        };
        let started = Instant::now();
        let invocation = invoker.invoke(request).await;
        self.engine.fleet.breaker().note(&invocation);
        let Invocation { outcome, log_tail, .. } = invocation;
        let response = outcome.map_err(|error| {
            let what = format!("{error}\n{}", log_tail.trim_end());
            QueryError::functions(what.trim_end()).with_default_hint(error.hint.as_deref()).with_source(error)
        })?;
        let took = started.elapsed();
        let result = response.outcome.map_err(|error| {
            QueryError::functions(error.to_string()).with_default_hint(error.hint.as_deref()).with_source(error)
        })?;
        let torn = |error: ExchangeError| QueryError::functions(error.to_string()).with_source(error);
        let rows = exchange::read(id, result, &empty.schema(), store.as_ref()).await.map_err(torn)?;
        let rows: usize = rows.map(|batch| Ok(batch?.num_rows())).sum::<Result<_, ExchangeError>>().map_err(torn)?;
        if rows != 1 {
            return Err(QueryError::functions(format!("it sent {rows} rows where one was asked for")));
        }
        Ok(format!("answered in {} ms, protocol {PROTOCOL_VERSION}, {}", took.as_millis(), fingerprint()))
    }

    /// Checks that a catalog answers, that its clock is right, and that a table of it can be read.
    async fn open_catalog(&self, name: &str, config: &CatalogConfig) -> Result<String, QueryError> {
        let failed = |error| in_catalog(name, error);
        let catalog = self.engine.catalogs.open(name).await.map_err(failed)?;
        let namespaces = catalog.first_namespaces().await.map_err(failed);
        // A clock that is wrong is a reason for a refusal, so that both are told.
        let skew = catalog.clock_skew_seconds().unwrap_or_default();
        if skew.abs() > SKEW_SECONDS_MAX {
            let refused = namespaces.err().map(|error| format!("; {}", error.message())).unwrap_or_default();
            let why = format!("catalog `{name}`: its clock and this machine's differ by {} s{refused}", skew.abs());
            return Err(ailing(why, "set the clock: signatures and lent credentials depend on it"));
        }
        let namespaces = namespaces?;
        let place = match config.file() {
            Some(path) => format!("{} namespaces in {}", namespaces.len(), path.display()),
            None => format!("{} namespaces at the top", namespaces.len()),
        };
        let mut others = Vec::new();
        for namespace in namespaces.iter().take(NAMESPACES_TRIED_MAX) {
            for table in catalog.tables(namespace).await.map_err(failed)? {
                if others.len() >= TABLES_TRIED_MAX {
                    break;
                }
                let loaded = catalog.load(namespace, &table).await;
                match loaded {
                    Err(other @ gust_catalog::Error::Unsupported { .. }) => others.push(other),
                    loaded => {
                        let told = read(&loaded.map_err(failed)?, config).await.map_err(failed)?;
                        return Ok(format!("{place}, {namespace}.{table} can be read{told}"));
                    }
                }
            }
        }
        match others.into_iter().next() {
            Some(first) => Err(failed(first)),
            None => {
                Ok(format!("{place}, no table was read: the first {NAMESPACES_TRIED_MAX} namespaces at most have none"))
            }
        }
    }
}

/// Reads a table's metadata. Returns the credentials that the catalog lends for it, in words.
async fn read(table: &gust_catalog::Table, config: &CatalogConfig) -> gust_catalog::Result<String> {
    table.manifest_facts().await?;
    let lent = table.lent_prefixes().collect::<Vec<_>>().join(", ");
    Ok(match config.file() {
        Some(_) => String::new(),
        None if lent.is_empty() => ", lends no credentials".to_owned(),
        None => format!(", lends credentials for {lent}"),
    })
}

/// Makes the error of a finding: the fault, with the next step as its hint.
fn ailing(what: impl Into<String>, hint: impl Into<String>) -> QueryError {
    QueryError::setup(what).with_hint(hint)
}

/// Returns the breaker's advice.
fn breaker(health: &Health) -> Result<String, QueryError> {
    let what = match health {
        Health::Good => return Ok("closed: `auto` may use functions".to_owned()),
        Health::HalfOpen { last_failure } => {
            format!("half open: the next query of `auto` may try functions; they failed last: {last_failure}")
        }
        Health::Open { .. } => format!("open: `auto` runs locally; functions are {health}"),
    };
    Err(ailing(what, "see the functions above"))
}

/// Returns the region for a location that S3 gives for a bucket. The oldest region has no name there, and the second
/// oldest an old one.
fn region_of(location: &str) -> &str {
    match location {
        "" => "us-east-1",
        "EU" => "eu-west-1",
        region => region,
    }
}

/// Compares the coordinator's pool with the machine's memory, `has` bytes. Fails if the pool is larger. Functions that
/// share the machine are counted beside it, and their excess is told without failing.
fn memory(config: &Config, shares_machine: bool, has: Option<u64>) -> Result<String, QueryError> {
    let size = |bytes: u64| format_size(bytes, BINARY);
    let pool = config.memory_bytes_max;
    let Some(has) = has else {
        return Ok(format!("{} for the coordinator; this system does not tell how much it has", size(pool)));
    };
    if pool > has {
        let what = format!("memory_bytes_max is {}, this machine or container has {}", size(pool), size(has));
        return Err(ailing(what, "lower memory_bytes_max"));
    }
    let own = format!("{} of {} for the coordinator", size(pool), size(has));
    if !shares_machine {
        return Ok(own);
    }
    let functions = config.function_memory_bytes.saturating_mul(u64::from(config.functions_max));
    let beside = format!("function processes may take {} beside it", size(functions));
    match pool.saturating_add(functions) <= has {
        true => Ok(format!("{own}; {beside}")),
        false => Ok(format!(
            "{own}; {beside}, together more than there is: lower functions_max, function_memory_bytes or memory_bytes_max"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_compared_with_the_machine() {
        let config = Config { memory_bytes_max: 6 << 30, ..Config::default() };
        assert_eq!(
            memory(&config, true, None).ok(),
            Some("6 GiB for the coordinator; this system does not tell how much it has".to_owned())
        );
        let found = |has: u64| memory(&config, true, Some(has << 30));
        assert_eq!(
            found(16).ok(),
            Some("6 GiB of 16 GiB for the coordinator; function processes may take 8 GiB beside it".to_owned())
        );
        assert!(found(8).is_ok_and(|text| text.contains("together more than there is")));
        assert!(found(4).is_err_and(|error| {
            error.message().contains("memory_bytes_max is 6 GiB, this machine or container has 4 GiB")
        }));
        assert_eq!(memory(&config, false, Some(8 << 30)).ok(), Some("6 GiB of 8 GiB for the coordinator".to_owned()));
    }

    #[test]
    fn the_breakers_advice_is_what_auto_does() {
        let check = |health: Health, expect: Result<&str, &str>| {
            let advice = breaker(&health);
            assert_eq!(advice.as_ref().map(String::as_str).map_err(QueryError::message), expect, "{health:?}");
        };
        let last_failure = || "no such function".to_owned();
        check(Health::Good, Ok("closed: `auto` may use functions"));
        let half_open = "half open: the next query of `auto` may try functions; they failed last: no such function";
        check(Health::HalfOpen { last_failure: last_failure() }, Err(half_open));
        let open = Health::Open { probe_in: Duration::from_secs(9), last_failure: last_failure() };
        let expect = "open: `auto` runs locally; functions are failing, next probe in 9 s: no such function";
        check(open, Err(expect));
    }

    #[test]
    fn buckets_are_located_by_old_names_too() {
        assert_eq!(["", "EU", "eu-central-1"].map(region_of), ["us-east-1", "eu-west-1", "eu-central-1"]);
    }
}
