//! AWS as the coordinator reaches it: one HTTP client, and credentials for the SDK's clients and for object_store
//! alike. The credentials come from aws-config's chain (environment, profiles, SSO, web identity, containers,
//! instances).
//!
//! Non-goals: this module knows no service's calls. Keys that the configuration names never come through here.

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

/// Remaining life at which credentials are fetched anew. It is longer than a request, and shorter than SSO's minimum.
const LIFE_MIN: Duration = Duration::from_secs(300);

/// Time after which any call but an invocation is given up.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Idle time after which a connection is closed. Lambda's side closes it then anyway.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Loads the SDK's settings. `region` and `endpoint` win over environment and profile. Keys of the configuration win
/// over the chain.
pub async fn sdk_config(s3: &S3Config, region: Option<&str>, endpoint: Option<&str>) -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .pool_idle_timeout(IDLE_MAX)
        .build_https();
    // A function that computes is silent for minutes, and the scheduler's deadline bounds it.
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
        let token = s3.session_token.as_ref().map(|token| token.reveal().to_owned());
        loader = loader.credentials_provider(Credentials::new(key, secret.reveal(), token, None, "gust.toml"));
    }
    loader.load().await
}

/// Returns the region of the environment, else that of the profile.
pub async fn default_region() -> Option<String> {
    if let Some(region) = EnvironmentVariableRegionProvider::new().region().await {
        return Some(region.to_string());
    }
    ProfileFileRegionProvider::new().region().await.map(|region| region.to_string())
}

/// Reason why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[error("no AWS credentials: {0}")]
pub struct NoCredentials(String);

impl NoCredentials {
    /// Next step of the user.
    pub const HINT: &str = "set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or sign in again (`aws sso login`); a public bucket is read without them if `s3.anonymous_buckets` in gust.toml names it";
}

impl From<&CredentialsError> for NoCredentials {
    fn from(error: &CredentialsError) -> Self {
        Self(with_causes(error))
    }
}

/// Credentials of aws-config in object_store's form, kept until shortly before they expire.
#[derive(Debug, Default)]
pub struct ChainCredentials {
    kept: Mutex<CachedCredentials>,
}

#[derive(Debug, Default)]
struct CachedCredentials {
    /// Settings, loaded when they are first needed. Loading reads files and sends no request.
    config: Option<SdkConfig>,
    current: Option<CachedCredential>,
}

#[derive(Debug)]
struct CachedCredential {
    credential: Arc<AwsCredential>,
    /// Time of its expiry; None if it is valid forever.
    expires: Option<SystemTime>,
}

impl ChainCredentials {
    /// Returns the credentials that are valid now, fetched anew if they expire soon.
    ///
    /// # Errors
    /// [`NoCredentials`] if the chain has none.
    pub async fn current(&self) -> Result<Arc<AwsCredential>, NoCredentials> {
        let mut kept = self.kept.lock().await;
        if let Some(CachedCredential { credential, expires }) = &kept.current
            && expires.is_none_or(|expires| SystemTime::now() + LIFE_MIN < expires)
        {
            return Ok(Arc::clone(credential));
        }
        if kept.config.is_none() {
            // IMDS and STS are asked in the default region if no other is known. The keys are the same everywhere.
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
        kept.current = Some(CachedCredential { credential: Arc::clone(&credential), expires: found.expiry() });
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
