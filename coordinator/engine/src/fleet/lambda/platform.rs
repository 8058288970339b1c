//! AWS Lambda as a platform: functions of one or several memory sizes, described again from time to time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_config::SdkConfig;
use fragment_fn::BRIDGE_BYTES_MAX;
use gust_protocol::FragmentLimits;
use gust_protocol::wire::INLINE_BYTES_MAX;
use tokio::sync::{Mutex, OnceCell};

use super::{Deployment, DescribeError, Lambda, PinnedFunction, describe};
use crate::config::{Config, LambdaConfig};
use crate::cost::{Architecture, Billed};
use crate::error::QueryError;
use crate::fleet::Invoker;
use crate::fleet::platform::{Finding, Platform, PlatformParts, ProbeSubject, ProbedSizes, Probes};
use crate::model::{EnvironmentRamp, FunctionSize, PlatformTraits, TimeModel, ahead_bounds};
use crate::storage::aws;

/// Age at which the next query describes a deployment again, so that an upgrade is seen.
const DESCRIPTION_AGE_MAX: Duration = Duration::from_secs(60);

/// Time for which Lambda keeps idle environments. AWS does not publish it; it is some minutes.
const ENVIRONMENT_KEPT: Duration = Duration::from_secs(300);

/// Share of a function's memory that its pool may hold. The rest is for the program, decoders and other memory that no
/// pool counts.
const POOL_PERCENT: u64 = 60;

/// Upper bound of the functions that are tried one by one.
const PROBES_MAX: usize = 20;

#[derive(Debug)]
pub(in crate::fleet) struct LambdaPlatform {
    parts: PlatformParts,
    sdk: OnceCell<SdkConfig>,
    /// Deployments, one per memory size, the default one first. Queries under way keep those that they began with.
    deployed: Mutex<Vec<CachedDeployment>>,
}

#[derive(Debug, Clone)]
struct CachedDeployment {
    deployment: Arc<Deployment>,
    invoker: Arc<Lambda>,
    described: Instant,
}

impl LambdaPlatform {
    pub(in crate::fleet) fn new(parts: PlatformParts) -> Self {
        Self { parts, sdk: OnceCell::new(), deployed: Mutex::default() }
    }

    async fn sdk(&self) -> &SdkConfig {
        let Config { s3, lambda, .. } = &*self.parts.config;
        // The future is on the heap, as below, because the SDK's futures are large, and few.
        self.sdk.get_or_init(|| Box::pin(aws::sdk_config(s3, region(lambda), lambda.endpoint.as_deref()))).await
    }

    /// Describes the deployments anew, one per memory size.
    async fn describe(&self) -> Result<Vec<Deployment>, QueryError> {
        if self.parts.exchange_url.starts_with("file:") {
            return Err(QueryError::setup("functions on Lambda need an exchange in S3")
                .with_hint("set exchange = \"s3://BUCKET/PREFIX\" in gust.toml"));
        }
        let lambda = &self.parts.config.lambda;
        let described = Box::pin(describe(self.sdk().await, &lambda.functions, lambda.memory_mb)).await;
        described.map_err(|error| {
            QueryError::functions(error.to_string()).with_default_hint(error.hint()).with_source(error)
        })
    }

    /// Returns the deployments, one per memory size, at least one. They are described again if they are old.
    ///
    /// # Errors
    /// The description's, if no deployment is known from before.
    async fn deployed(&self) -> Result<Vec<CachedDeployment>, QueryError> {
        let mut known = self.deployed.lock().await;
        let is_fresh = |deployed: &CachedDeployment| deployed.described.elapsed() < DESCRIPTION_AGE_MAX;
        if known.first().is_some_and(is_fresh) {
            return Ok(known.clone());
        }
        let described = Instant::now();
        let deployments = match self.describe().await {
            Ok(deployments) => deployments,
            Err(error) => {
                self.parts.breaker.failed(error.message().to_owned());
                if known.is_empty() {
                    return Err(error);
                }
                // Known versions still run, because a published version stays.
                tracing::warn!(%error, "the functions could not be looked at again");
                known.iter_mut().for_each(|known| known.described = described);
                return Ok(known.clone());
            }
        };
        let mut deployed = Vec::with_capacity(deployments.len());
        for deployment in deployments {
            let same = known.iter().find(|known| *known.deployment == deployment).cloned();
            // New queries go to another version. Those under way end with theirs.
            deployed.push(match same {
                Some(same) => CachedDeployment { described, ..same },
                None => {
                    let functions_max = deployment.functions_max(self.parts.config.functions_max);
                    let invoker = Arc::new(Lambda::new(self.sdk().await, deployment.clones.clone(), functions_max));
                    CachedDeployment { deployment: Arc::new(deployment), invoker, described }
                }
            });
        }
        known.clone_from(&deployed);
        Ok(deployed)
    }

    fn size(&self, deployment: &Deployment) -> FunctionSize {
        let architecture = Architecture::of(&deployment.arch);
        let cores = deployment.cores_used();
        let set = self.parts.config.read_ahead();
        let memory_bytes_max = u64::from(deployment.memory_mb) * (1 << 20) * POOL_PERCENT / 100;
        FunctionSize {
            kind: format!("lambda {} MB {}", deployment.memory_mb, architecture.name()),
            memory_mb: deployment.memory_mb,
            architecture: Some(architecture),
            lanes: deployment.cores(),
            cores,
            limits: FragmentLimits {
                memory_bytes_max,
                temp_bytes_max: u64::from(deployment.temp_mb) << 20,
                inline_bytes_max: INLINE_BYTES_MAX,
                bridge_bytes: BRIDGE_BYTES_MAX,
                ahead: ahead_bounds(set, deployment.memory_mb, deployment.cores(), memory_bytes_max),
                late_columns_percent_max: self.parts.config.late_columns_percent_max,
            },
            functions_max: deployment.functions_max(self.parts.config.functions_max),
            is_one_environment: false,
            ramp: Some(EnvironmentRamp::lambda(deployment.clones.len() as u32)),
            model: TimeModel::lambda(std::thread::available_parallelism().map_or(1, usize::from), cores),
        }
    }
}

#[async_trait]
impl Platform for LambdaPlatform {
    fn traits(&self) -> PlatformTraits {
        PlatformTraits {
            name: "Lambda",
            shares_machine: false,
            kept_for: Some(ENVIRONMENT_KEPT),
            lends_credentials: false,
            billed: Billed::In(region(&self.parts.config.lambda).map(ToOwned::to_owned)),
        }
    }

    fn model(&self, cores: usize, function_cores: f64) -> TimeModel {
        TimeModel::lambda(cores, function_cores)
    }

    async fn sizes(&self) -> Result<Vec<FunctionSize>, QueryError> {
        Ok(self.deployed().await?.iter().map(|deployed| self.size(&deployed.deployment)).collect())
    }

    async fn start(&self, size: &FunctionSize) -> Result<Arc<dyn Invoker>, QueryError> {
        let deployed = self.deployed().await?;
        let is_it = |one: &&CachedDeployment| one.deployment.memory_mb == size.memory_mb;
        // A size may go away with an upgrade in between. The default one takes its place.
        let chosen =
            deployed.iter().find(is_it).or(deployed.first()).map(|deployed| Arc::clone(&deployed.invoker) as _);
        chosen.ok_or_else(none_deployed)
    }

    async fn region(&self) -> Option<String> {
        self.sdk().await.region().map(ToString::to_string)
    }

    /// Tries each function by itself, so that no fault hides behind another clone.
    async fn probes(&self, sizes: ProbedSizes) -> Probes {
        let mut deployments = match self.describe().await {
            Ok(deployments) => deployments,
            Err(error) => {
                return Probes { findings: vec![Finding::new("functions", Err(error))], subjects: Vec::new() };
            }
        };
        deployments.truncate(match sizes {
            ProbedSizes::First => 1,
            ProbedSizes::All => usize::MAX,
        });
        let found = |deployment: &Deployment| Finding::new("functions", Ok(deployment.to_string()));
        let mut findings: Vec<Finding> = deployments.iter().map(found).collect();
        let limit = deployments.first().and_then(|deployment| deployment.concurrency_quota);
        findings.push(Finding::new("quota", quota(limit, self.parts.config.functions_max)));
        let clones: Vec<PinnedFunction> = deployments.into_iter().flat_map(|deployment| deployment.clones).collect();
        if clones.len() > PROBES_MAX {
            let untried = format!("the first {PROBES_MAX} of {} are tried", clones.len());
            findings.push(Finding::new("clones", Ok(untried)));
        }
        let sdk = self.sdk().await;
        let alone = |clone: PinnedFunction| {
            let name = format!("{}:{}", clone.short_name(), clone.version);
            ProbeSubject { name, invoker: Arc::new(Lambda::new(sdk, vec![clone], 1)) }
        };
        Probes { findings, subjects: clones.into_iter().take(PROBES_MAX).map(alone).collect() }
    }

    async fn close(&self) {
        for deployed in std::mem::take(&mut *self.deployed.lock().await) {
            deployed.invoker.shutdown().await;
        }
    }
}

/// Describes a platform without functions.
pub(in crate::fleet) fn none_deployed() -> QueryError {
    QueryError::functions("no function is deployed").with_default_hint(DescribeError::NoneConfigured.hint())
}

/// Returns the region that the configuration names, by itself or in a function's ARN.
fn region(lambda: &LambdaConfig) -> Option<&str> {
    lambda.region.as_deref().or_else(|| lambda.functions.iter().find_map(|function| function.region.as_deref()))
}

fn quota(quota: Option<u32>, functions_max: u32) -> Result<String, QueryError> {
    match quota {
        None => {
            Ok("the account's concurrency could not be asked for (lambda:GetAccountSettings); throttles are waited out"
                .to_owned())
        }
        Some(quota) if quota < functions_max => Err(QueryError::setup(format!(
            "the account may run {quota} functions at once, functions_max is {functions_max}: at most {quota} are used"
        ))
        .with_hint("ask AWS for more (Service Quotas, Lambda, concurrent executions), or lower functions_max")),
        Some(quota) => Ok(format!("{quota} functions at once, of which a query uses up to {functions_max}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigFile, Overrides, Target};
    use crate::fleet::{Asking, Fleet};
    use crate::storage::Stores;

    #[tokio::test]
    async fn functions_that_failed_are_left_alone_with_a_hint() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Arc::new(Config { on: Target::Lambda, ..Config::default() });
        let fleet = Fleet::new(&config, &Stores::new(config.s3.clone()), folder.path(), Vec::new()).expect("a fleet");
        (0..3).for_each(|_| fleet.breaker().failed("gone".to_owned()));
        let error = fleet.facts(Asking::WhileHealthy).await.expect_err("the breaker is open");
        assert_eq!(error.message(), "functions were not reachable in the last attempts");
        assert_eq!(error.hint(), Some("`gust doctor` tells more"));
        assert_eq!(none_deployed().hint(), DescribeError::NoneConfigured.hint().as_deref());
    }

    #[test]
    fn functions_are_billed_where_the_configuration_has_them() {
        #[track_caller]
        fn check(lambda: &str, expect: Option<&str>) {
            let text = format!("on = 'lambda'\n[lambda]\n{lambda}");
            let file = ConfigFile { path: "gust.toml".into(), text };
            let config = Config::load(Some(&file), [], &Overrides::default()).expect("a valid file");
            assert_eq!(crate::fleet::traits(&config).billed, Billed::In(expect.map(ToOwned::to_owned)), "{lambda}");
        }
        check("", None);
        check("region = 'eu-central-1'", Some("eu-central-1"));
        check("functions = ['arn:aws:lambda:us-east-2:1:function:f']", Some("us-east-2"));
    }
}
