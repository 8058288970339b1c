//! Deployment: equal functions (clones) at the published versions that their names stand for now.
//!
//! A name with an alias is resolved once, and its version is invoked. So an upgrade under way cannot mix two releases
//! in one query.

use std::fmt::{Display, Formatter};

use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationOutput as Described;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::outcome::no_credentials;
use crate::config::FunctionName;
use crate::error::with_causes;
use crate::storage::aws::NoCredentials;

/// Functions that are described at once. Lambda takes about 15 such calls a second of an account.
const DESCRIBE_CALLS_MAX: usize = 4;

/// Memory that comes with one whole vCPU: 1,769 MB. A function has six vCPUs at most (AWS Lambda, configure memory).
const MEMORY_MB_PER_CORE: u32 = 1_769;
const CORES_MAX: u32 = 6;

/// A function at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedFunction {
    pub name: String,
    /// Number of a published version. It is `$LATEST` if none was ever published, and then an upgrade may mix releases.
    pub version: String,
}

impl PinnedFunction {
    /// Returns the name without the rest of an ARN.
    pub fn short_name(&self) -> &str {
        self.name.rsplit(':').next().unwrap_or(&self.name)
    }
}

/// Equal functions, and the resources of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    pub clones: Vec<PinnedFunction>,
    pub memory_mb: u32,
    pub temp_mb: u32,
    pub timeout_seconds: u32,
    pub arch: String,
    /// Concurrent executions that the account allows; None if that could not be asked.
    pub concurrency_quota: Option<u32>,
}

impl Deployment {
    /// Returns the functions that may run at once: the wanted number, within the account's quota.
    pub fn functions_max(&self, wanted: u32) -> usize {
        wanted.min(self.concurrency_quota.unwrap_or(u32::MAX)).max(1) as usize
    }

    /// Returns the cores of one function that [`Self::cores`] lanes can use. It is below one if the function has less
    /// than a whole core.
    pub fn cores_used(&self) -> f64 {
        (f64::from(self.memory_mb) / f64::from(MEMORY_MB_PER_CORE)).min(self.cores() as f64)
    }

    /// Returns the whole cores of one function, at least one.
    pub fn cores(&self) -> usize {
        (self.memory_mb / MEMORY_MB_PER_CORE).clamp(1, CORES_MAX) as usize
    }
}

impl Display for Deployment {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { clones, memory_mb, temp_mb, timeout_seconds, arch, .. } = self;
        write!(f, "{} of {memory_mb} MB, {temp_mb} MB temporary, {timeout_seconds} s, {arch}:", clones.len())?;
        clones.iter().try_for_each(|PinnedFunction { name, version }| write!(f, " {name}:{version}"))?;
        let unpinned = clones.iter().any(|clone| clone.version == "$LATEST");
        f.write_str(if unpinned { " (not published: an upgrade can break a running query)" } else { "" })
    }
}

/// Reason why the deployment is not known.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    #[error("no function is configured for Lambda")]
    NoneConfigured,
    #[error("no AWS region is set for Lambda")]
    NoRegion,
    #[error("function `{function}` is in {theirs}, but Lambda is asked in {ours}")]
    OtherRegion { function: String, theirs: String, ours: String },
    #[error("{0}")]
    NoCredentials(NoCredentials),
    #[error("function `{function}`: {reason}")]
    Refused { function: String, reason: String, hint: &'static str },
    #[error("function `{function}` cannot be invoked: it is {state}{reason}")]
    NotActive { function: String, state: String, reason: String },
    #[error("no function of {memory_mb} MB is configured")]
    NoSuchSize { memory_mb: u32, found: String },
}

impl DescribeError {
    /// Returns the next step.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoneConfigured => {
                "put what `terraform output -raw gust_toml` prints into gust.toml, or set lambda.functions".to_owned()
            }
            Self::NoRegion => {
                "set lambda.region in gust.toml, or AWS_REGION, or a region in the AWS profile".to_owned()
            }
            Self::OtherRegion { theirs, ours, .. } => {
                format!("set lambda.region to {theirs}, or name the function of {ours}")
            }
            Self::NoCredentials(_) => NoCredentials::HINT.to_owned(),
            Self::Refused { hint, .. } => (*hint).to_owned(),
            Self::NotActive { .. } => return None,
            Self::NoSuchSize { found, .. } => format!("lambda.memory_mb must be one of {found}"),
        })
    }
}

/// Asks Lambda for `functions`, and groups them by memory size. Functions of one size need one architecture; those of
/// another than the first are left out. The first size is the default. It is `memory_mb` if that is given, and then the
/// only one.
///
/// # Errors
/// The first function that is not described or cannot be invoked.
pub async fn describe(
    config: &SdkConfig,
    functions: &[FunctionName],
    memory_mb: Option<u32>,
) -> Result<Vec<Deployment>, DescribeError> {
    if functions.is_empty() {
        return Err(DescribeError::NoneConfigured);
    }
    let ours = config.region().map(ToString::to_string).ok_or(DescribeError::NoRegion)?;
    for function in functions {
        if let Some(theirs) = function.region.clone().filter(|theirs| *theirs != ours) {
            return Err(DescribeError::OtherRegion { function: function.to_string(), theirs, ours });
        }
    }
    let client = Client::new(config);
    let asked: Vec<_> = functions.iter().map(|function| describe_one(&client, function).boxed()).collect();
    let described: Vec<Deployment> = stream::iter(asked).buffered(DESCRIBE_CALLS_MAX).try_collect().await?;
    let mut deployments = by_size(&described, memory_mb)?;
    // Without the right to ask for it, throttles will tell the quota.
    let limit = client.get_account_settings().send().await.ok().and_then(|settings| settings.account_limit);
    let quota = limit.and_then(|limit| u32::try_from(limit.concurrent_executions).ok());
    deployments.iter_mut().for_each(|deployment| deployment.concurrency_quota = quota);
    Ok(deployments)
}

async fn describe_one(client: &Client, function: &FunctionName) -> Result<Deployment, DescribeError> {
    let is_version = |qualifier: &String| qualifier == "$LATEST" || qualifier.bytes().all(|b| b.is_ascii_digit());
    let qualifier = match &function.qualifier {
        Some(alias) if !is_version(alias) => {
            let alias = client.get_alias().function_name(&function.name).name(alias).send().await;
            alias.map_err(|error| refused(function, &error))?.function_version
        }
        version => version.clone(),
    };
    let request = client.get_function_configuration().function_name(&function.name).set_qualifier(qualifier);
    let described = request.send().await.map_err(|error| refused(function, &error))?;
    pinned(function, &described)
}

fn refused<E>(function: &FunctionName, error: &SdkError<E, HttpResponse>) -> DescribeError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if let Some(none) = no_credentials(error) {
        return DescribeError::NoCredentials(none);
    }
    let status = error.raw_response().map(|response| response.status().as_u16());
    let reason = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => with_causes(error),
    };
    let hint = match status {
        Some(404) => "deploy it (`terraform -chdir=infra apply`), or correct its name, alias or region",
        Some(429 | 500..) => "Lambda is busy; try again in a moment",
        Some(_) => "check the credentials and that they may lambda:GetAlias and lambda:GetFunctionConfiguration",
        None => "check the credentials, the network, the region and lambda.endpoint",
    };
    DescribeError::Refused { function: function.to_string(), reason, hint }
}

fn pinned(function: &FunctionName, described: &Described) -> Result<Deployment, DescribeError> {
    let state = described.state().map_or("Active", |state| state.as_str());
    // The first invocation wakes an idle function.
    if !["Active", "Inactive"].contains(&state) {
        let reason = described.state_reason().map(|reason| format!(": {reason}")).unwrap_or_default();
        return Err(DescribeError::NotActive { function: function.to_string(), state: state.to_owned(), reason });
    }
    let unsigned = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default();
    let version = described.version().unwrap_or("$LATEST").to_owned();
    Ok(Deployment {
        clones: vec![PinnedFunction { name: function.name.clone(), version }],
        memory_mb: unsigned(described.memory_size()),
        temp_mb: unsigned(described.ephemeral_storage().map(|storage| storage.size())),
        timeout_seconds: unsigned(described.timeout()),
        arch: described.architectures().first().map_or("x86_64", |arch| arch.as_str()).to_owned(),
        concurrency_quota: None,
    })
}

/// Returns every size, the default one first.
fn by_size(described: &[Deployment], memory_mb: Option<u32>) -> Result<Vec<Deployment>, DescribeError> {
    let first = choose(described.to_vec(), memory_mb)?;
    let mut others: Vec<u32> = match memory_mb {
        Some(_) => Vec::new(),
        None => described.iter().map(|one| one.memory_mb).filter(|size| *size != first.memory_mb).collect(),
    };
    others.sort_unstable();
    others.dedup();
    let others = others.into_iter().map(|size| choose(described.to_vec(), Some(size)));
    std::iter::once(Ok(first)).chain(others).collect()
}

/// Returns the functions of one size: the given one, else the smallest with a whole core, else the largest. Clones
/// stand together.
fn choose(described: Vec<Deployment>, memory_mb: Option<u32>) -> Result<Deployment, DescribeError> {
    let mut sizes: Vec<u32> = described.iter().map(|one| one.memory_mb).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let whole_core = sizes.iter().copied().find(|size| *size >= MEMORY_MB_PER_CORE).or(sizes.last().copied());
    let wanted = memory_mb.or(whole_core).unwrap_or_default();
    let mut chosen = described.into_iter().filter(|one| one.memory_mb == wanted);
    let Some(mut first) = chosen.next() else {
        let found = sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(DescribeError::NoSuchSize { memory_mb: wanted, found });
    };
    for other in chosen.filter(|other| other.arch == first.arch) {
        first.clones.extend(other.clones);
        first.temp_mb = first.temp_mb.min(other.temp_mb);
        first.timeout_seconds = first.timeout_seconds.min(other.timeout_seconds);
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(name: &str, memory_mb: u32, arch: &str) -> Deployment {
        let clones = vec![PinnedFunction { name: name.to_owned(), version: "1".to_owned() }];
        Deployment {
            clones,
            memory_mb,
            temp_mb: 512,
            timeout_seconds: 60,
            arch: arch.to_owned(),
            concurrency_quota: None,
        }
    }

    #[test]
    fn functions_of_one_size_and_architecture_are_grouped() {
        let all = || {
            vec![
                deployment("s", 512, "arm64"),
                deployment("m0", 2048, "arm64"),
                deployment("x", 2048, "x86_64"),
                deployment("m1", 2048, "arm64"),
                deployment("l", 8192, "arm64"),
            ]
        };
        let check = |described: Vec<Deployment>, memory_mb, expect: &[&str], cores| {
            let chosen = choose(described, memory_mb).expect("a size");
            let names: Vec<&str> = chosen.clones.iter().map(|clone| clone.name.as_str()).collect();
            assert_eq!((names.as_slice(), chosen.cores()), (expect, cores));
        };
        check(all(), None, &["m0", "m1"], 1);
        check(all(), Some(512), &["s"], 1);
        check(all(), Some(8192), &["l"], 4);
        let used = |memory_mb| deployment("f", memory_mb, "arm64").cores_used();
        assert_eq!((used(1769), used(2048), used(3538)), (1.0, 1.0, 2.0));
        assert!((used(512) - 0.2894).abs() < 1e-4);
        check(vec![deployment("s", 512, "arm64"), deployment("t", 1024, "arm64")], None, &["t"], 1);
        let sizes = |memory_mb| -> Vec<u32> {
            by_size(&all(), memory_mb).expect("sizes").iter().map(|one| one.memory_mb).collect()
        };
        assert_eq!((sizes(None), sizes(Some(512))), (vec![2048, 512, 8192], vec![512]));
        let error = choose(all(), Some(1)).expect_err("no such size");
        assert_eq!(error.to_string(), "no function of 1 MB is configured");
        assert_eq!(error.hint().as_deref(), Some("lambda.memory_mb must be one of 512, 2048, 8192"));
    }
}
