//! AWS as the coordinator reaches it: one HTTP client, and credentials by aws-config's chain (environment, profiles, SSO, web
//! identity, containers, instances), for the SDK's clients and for object_store alike.
//!
//! Non-goals: what a service is asked; keys that the configuration names never come through here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, error::CredentialsError};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;

use crate::config::S3Config;
use crate::error::with_causes;

/// Credentials are fetched anew when they have less than this to live: longer than a request, shorter than SSO's minimum.
const LIFE_MIN: Duration = Duration::from_secs(300);

/// Any call but an invocation is given up after this long.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Connections that idle longer are closed by Lambda's side anyway.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The SDK's settings. `region` and `endpoint` win over environment and profile; keys of the configuration win over the chain.
pub async fn sdk_config(s3: &S3Config, region: Option<&str>, endpoint: Option<&str>) -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .pool_idle_timeout(IDLE_MAX)
        .build_https();
    // A function that computes is silent for minutes; the scheduler's deadline is what bounds it.
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_timeout(CALL_MAX).build());
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let (Some(key), Some(secret)) = (&s3.access_key_id, &s3.secret_access_key) {
        loader = loader.credentials_provider(Credentials::new(key, secret.reveal(), None, None, "gust.toml"));
    }
    loader.load().await
}

/// The region of the environment or the profile.
pub async fn default_region() -> Option<String> {
    if let Some(region) = EnvironmentVariableRegionProvider::new().region().await {
        return Some(region.to_string());
    }
    ProfileFileRegionProvider::new().region().await.map(|region| region.to_string())
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[error("no AWS credentials: {0}")]
pub struct NoCredentials(String);

impl NoCredentials {
    /// The next step.
    pub const HINT: &str =
        "set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or sign in again (`aws sso login`)";
}

impl From<&CredentialsError> for NoCredentials {
    fn from(error: &CredentialsError) -> Self {
        Self(with_causes(error))
    }
}

/// aws-config's credentials as object_store asks for them, kept until shortly before they expire.
#[derive(Debug, Default)]
pub struct ChainCredentials {
    kept: Mutex<CachedCredentials>,
}

#[derive(Debug, Default)]
struct CachedCredentials {
    /// Loading reads files and asks nobody; made when first needed.
    config: Option<SdkConfig>,
    current: Option<(Arc<AwsCredential>, Option<SystemTime>)>,
}

impl ChainCredentials {
    /// The credentials of now.
    pub async fn current(&self) -> Result<Arc<AwsCredential>, NoCredentials> {
        let mut kept = self.kept.lock().await;
        if let Some((credential, expires)) = &kept.current
            && expires.is_none_or(|expires| SystemTime::now() + LIFE_MIN < expires)
        {
            return Ok(Arc::clone(credential));
        }
        if kept.config.is_none() {
            // IMDS and STS are asked in the default region if no other is known; the keys are the same everywhere.
            kept.config = Some(Box::pin(sdk_config(&S3Config::default(), None, None)).await);
        }
        let provider = kept.config.as_ref().and_then(SdkConfig::credentials_provider);
        let provider = provider.ok_or_else(|| NoCredentials("no provider is configured".to_owned()))?;
        let found = provider.provide_credentials().await.map_err(|error| NoCredentials::from(&error))?;
        let credential = Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        });
        kept.current = Some((Arc::clone(&credential), found.expiry()));
        Ok(credential)
    }
}

#[async_trait]
impl CredentialProvider for ChainCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.current()
            .await
            .map_err(|error| object_store::Error::Unauthenticated { path: String::new(), source: Box::new(error) })
    }
}
