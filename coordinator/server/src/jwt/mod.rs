//! Users of an identity provider: JSON web tokens (RFC 7519), checked with the provider's keys.
//!
//! ```text
//!  token ─► length ─► algorithm (of the configuration) ─► iss ─► key (by id; fetched) ─► signature ─► iss, aud, exp, nbf ─► user, groups
//! ```
//!
//! The user is the issuer and the subject together, so that no other issuer's user and no token of the file is the same. The algorithm
//! is never the token's choice: one that is not listed is refused before a key is looked for, and keys of shared secrets are not taken.
//!
//! Non-goals: sessions of browsers, opaque tokens, encrypted tokens, and revocation before `exp`.

use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use gust_engine::config::{BudgetConfig, BudgetHolder, JwtConfig};
use gust_engine::error::QueryError;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, AlgorithmFamily, TokenData, Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::tokens::{Credential, NoUser, Principal, Tokens};
use keys::{Found, Keys};

mod keys;
mod ring;

/// Longest token that is looked at. It fits into the password of a client of PostgreSQL.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Difference of two clocks that is let pass.
const SKEW_SECONDS: u64 = 60;

/// Most bytes of a subject, and of a group.
const NAME_BYTES_MAX: usize = 256;

/// Most groups of a token. One with more is refused: a group that is left out could be one with a budget.
const GROUPS_MAX: usize = 200;

/// Sign between issuer and subject in a user's name.
const SEPARATOR: char = '#';

/// Provider of identities.
#[derive(Debug)]
pub(crate) struct Provider {
    config: JwtConfig,
    algorithms: Vec<Algorithm>,
    keys: Arc<Keys>,
    /// True if a group has a budget: a token that does not tell its groups would get out of it.
    needs_groups: bool,
}

/// Token that was taken.
#[derive(Debug, Clone)]
pub(crate) struct WebToken {
    /// Time from which on it holds no more.
    pub(crate) ends: DateTime<Utc>,
    pub(crate) subject: String,
    pub(crate) groups: Vec<String>,
}

impl Provider {
    /// Reads the settings. Nothing is fetched yet.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if one of them cannot be used.
    pub(crate) fn new(config: &JwtConfig) -> Result<Self, QueryError> {
        let refused = |key: &str, why: String| QueryError::setup(format!("server.jwt.{key}: {why}"));
        let is_text = |text: &str| !text.trim().is_empty() && !text.contains(char::is_control);
        if !is_text(&config.issuer) || config.issuer.contains(SEPARATOR) || config.issuer.starts_with("--") {
            return Err(refused("issuer", format!("expected the claim `iss` of tokens, without `{SEPARATOR}`")));
        }
        if !is_text(&config.audience) {
            return Err(refused("audience", "expected the claim `aud` of tokens for this server".to_owned()));
        }
        let algorithm = |name: &String| {
            let algorithm = Algorithm::from_str(name).ok().filter(|known| known.family() != AlgorithmFamily::Hmac);
            algorithm.ok_or_else(|| {
                refused("algorithms", format!("`{name}` is not taken"))
                    .with_hint("RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA are")
            })
        };
        let algorithms: Vec<_> = config.algorithms.iter().map(algorithm).collect::<Result<_, _>>()?;
        if algorithms.is_empty() {
            return Err(refused("algorithms", "none is listed".to_owned()));
        }
        ring::install();
        let keys = Arc::new(Keys::new(&config.jwks).map_err(|why| refused("jwks", why))?);
        Ok(Self { config: config.clone(), algorithms, keys, needs_groups: false })
    }

    /// Refuses tokens that do not tell their groups, if they are to tell some.
    pub(crate) fn with_budgets(self, budgets: &[BudgetConfig]) -> Self {
        let has_group = budgets.iter().any(|it| matches!(it.holder, BudgetHolder::Group(_)));
        Self { needs_groups: has_group && self.tells_groups(), ..self }
    }

    /// Tells if its tokens have groups.
    pub(crate) fn tells_groups(&self) -> bool {
        self.config.groups_claim.is_some()
    }

    /// Refuses tokens of a file whose users have names of the provider's.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] for the first of them.
    pub(crate) fn check_names(&self, tokens: &Tokens) -> Result<(), QueryError> {
        let prefix = self.prefix();
        let Some(user) = tokens.users().find(|user| user.starts_with(&prefix)) else { return Ok(()) };
        Err(QueryError::setup(format!("server.tokens: `{user}` is the name of a user of server.jwt"))
            .with_hint("give the token another name"))
    }

    /// Returns the beginning of all names of its users.
    pub(crate) fn prefix(&self) -> String {
        format!("{}{SEPARATOR}", self.config.issuer)
    }

    /// Fetches the keys.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if they cannot be had.
    pub(crate) async fn fetch(&self) -> Result<(), QueryError> {
        self.keys
            .fetch()
            .await
            .map_err(|why| QueryError::setup(format!("server.jwt.jwks: {}: {why}", self.keys.shown())))
    }

    /// Fetches the keys anew from time to time. It never ends.
    pub(crate) async fn refresh(&self) {
        self.keys.refresh().await;
    }

    /// Returns the user of a token.
    ///
    /// # Errors
    /// The reason why it is not taken.
    pub(crate) async fn principal(&self, token: &str) -> Result<Principal, NoUser> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(NoUser::Refused("it has more than 8 KiB"));
        }
        let header = decode_header(token).map_err(|_| NoUser::Unknown)?;
        if !self.algorithms.contains(&header.alg) {
            return Err(NoUser::Refused("its algorithm is not one of the server's"));
        }
        if header.crit.is_some() {
            return Err(NoUser::Refused("it has critical headers that are not known"));
        }
        // A token of anybody must not make the provider be asked for its key.
        let claimed = claims_unchecked(token).ok_or(NoUser::Unknown)?;
        if claimed.get("iss").and_then(Value::as_str) != Some(&self.config.issuer) {
            return Err(NoUser::Refused("it is of another issuer"));
        }
        let key = match self.keys.find(header.kid.as_deref(), header.alg).await {
            Found::Key(key) => key,
            Found::Unknown => return Err(NoUser::Refused("it was signed with a key that the provider does not have")),
            Found::NoKeys => return Err(NoUser::NoKeys),
        };
        let mut validation = Validation::new(header.alg);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        (validation.validate_nbf, validation.leeway) = (true, SKEW_SECONDS);
        let TokenData { claims, .. } = decode(token, &key, &validation).map_err(|error| no_user(error.kind()))?;
        self.user(&claims)
    }

    fn user(&self, claims: &Map<String, Value>) -> Result<Principal, NoUser> {
        let is_name =
            |name: &str| !name.trim().is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control);
        let subject = claims.get("sub").and_then(Value::as_str).filter(|subject| is_name(subject));
        let subject = subject.ok_or(NoUser::Refused("its subject is no name"))?.to_owned();
        // A list of issuers would pass the library's look.
        if claims.get("iss").and_then(Value::as_str) != Some(&self.config.issuer) {
            return Err(NoUser::Refused("it is of another issuer"));
        }
        let seconds = claims.get("exp").and_then(Value::as_f64).ok_or(NoUser::Refused("it has no end"))?;
        let ends = DateTime::from_timestamp(seconds as i64, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let ends = ends.checked_add_signed(TimeDelta::seconds(SKEW_SECONDS as i64)).unwrap_or(ends);
        // Some providers leave groups out where there are many, and say where they are to be asked for.
        let are_elsewhere = claims.contains_key("_claim_names") || claims.get("hasgroups") == Some(&Value::Bool(true));
        if self.tells_groups() && are_elsewhere {
            return Err(NoUser::Refused("its groups are too many to be in it"));
        }
        let groups = match self.config.groups_claim.as_ref().and_then(|claim| claims.get(claim)) {
            None | Some(Value::Null) if self.needs_groups => {
                return Err(NoUser::Refused("it does not tell its groups"));
            }
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(group)) => vec![group.clone()],
            Some(Value::Array(groups)) if groups.len() <= GROUPS_MAX => {
                let groups = groups.iter().map(|group| group.as_str().map(str::to_owned));
                groups.collect::<Option<Vec<_>>>().ok_or(NoUser::Refused("its groups are no texts"))?
            }
            Some(_) => return Err(NoUser::Refused("its groups are no list, or too many")),
        };
        if !groups.iter().all(|group| is_name(group)) {
            return Err(NoUser::Refused("one of its groups is no name"));
        }
        let user = Some(format!("{}{subject}", self.prefix()));
        Ok(Principal { user, credential: Some(Credential::Web(Arc::new(WebToken { ends, subject, groups }))) })
    }
}

/// Reads the claims of a token whose signature has not been looked at.
fn claims_unchecked(token: &str) -> Option<Map<String, Value>> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok()
}

fn no_user(why: &ErrorKind) -> NoUser {
    match why {
        ErrorKind::ExpiredSignature => NoUser::Expired,
        ErrorKind::ImmatureSignature => NoUser::Refused("it does not hold yet"),
        ErrorKind::InvalidIssuer => NoUser::Refused("it is of another issuer"),
        ErrorKind::InvalidAudience => NoUser::Refused("it is for another audience"),
        ErrorKind::InvalidSignature => NoUser::Refused("its signature is wrong"),
        ErrorKind::MissingRequiredClaim(_) => NoUser::Refused("one of exp, iss, aud and sub is missing"),
        _ => NoUser::Unknown,
    }
}

#[cfg(test)]
mod tests;
