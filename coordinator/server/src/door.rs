//! The engine of the server, and the sessions that it opens for its users.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::Utc;
use gust_engine::cap::SharedBudgets;
use gust_engine::config::{CatalogConfig, Config, JournalsWanted, Label, LabelError};
use gust_engine::cost::{PriceError, Tariff};
use gust_engine::error::QueryError;
use gust_engine::exchange::Journals;
use gust_engine::history::StatementEnd;
use gust_engine::money::Money;
use gust_engine::report::Report;
use gust_engine::session::{
    Allowed, Engine, EngineOptions, OWN_CATALOG, OWN_SCHEMA, Session, SessionOptions, SettingsPolicy,
};
use gust_engine::storage::Reach;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::budgets::KeptBudgets;
use crate::journal::Keeping;
use crate::jwt::Provider;
use crate::links::Links;
use crate::metrics::{Metrics, Moment};
use crate::recording::Recording;
use crate::statements::Statements;
use crate::tokens::{Credential, NoUser, PREFIX, Principal, Tokens};

/// Settings of DataFusion that SET may change. Those of the whole process, and sizes without a bound, are not among them.
const SETTINGS: &[Allowed] = &[
    Allowed { name: "datafusion.execution.time_zone", bounds: None },
    Allowed { name: "datafusion.execution.batch_size", bounds: Some((128, 65_536)) },
];

/// SQLSTATE code of PostgreSQL for a catalog that is not there.
const NO_CATALOG: &str = "3D000";

/// Name under which the history has the set-up statements of a server with users.
const SETUP: &str = "--setup";

/// Results that are written for their readers at the same time, and twice the queries if that is more. Each holds a thread, also while
/// its reader stops.
const RESULTS_MAX: usize = 64;

/// Most of them whatever `queries_max` is: half of the threads that the runtime has for such work.
const RESULTS_THREADS_MAX: usize = 256;

/// Divisor of them for a user by name.
const RESULTS_SHARE: usize = 4;

/// Longest time in which a client reads nothing, before its answer is cut.
pub(crate) const STALLED_MAX: Duration = Duration::from_secs(5 * 60);

/// Pause between looks at what may be forgotten.
const TIDY_PAUSE: Duration = Duration::from_secs(10);

/// Longest pause between looks at a token that may have expired: the clock may have been set.
const EXPIRY_PAUSE: Duration = Duration::from_secs(60);

/// Longest wait for queries that were stopped to end.
const STOPPING_MAX: Duration = Duration::from_secs(5);

/// Engine, queue and tasks of a server.
#[derive(Debug)]
pub(crate) struct Door {
    engine: Engine,
    /// Session whose tables every session shows.
    base: Session,
    /// Catalog in which bare names are looked up.
    catalog: Option<String>,
    cap: Option<Money>,
    timeout: Duration,
    /// File of the tokens; None for a server without users.
    tokens_path: Option<PathBuf>,
    tokens: watch::Sender<Option<Arc<Tokens>>>,
    /// Provider of identities; None without one.
    provider: Option<Provider>,
    pub(crate) admission: Admission,
    /// Results that are written.
    pub(crate) results: Admission,
    /// Longest time in which a client reads nothing, before its answer is cut.
    pub(crate) stalled_max: Duration,
    pub(crate) statements: Statements,
    /// Journals of submitted statements; None if they are not wanted, or the exchange ends with the server.
    pub(crate) keeping: Option<Arc<Keeping>>,
    /// Rows that clients read in the exchange.
    pub(crate) links: Arc<Links>,
    /// Budgets of users and groups; None without any.
    budgets: Option<KeptBudgets>,
    metrics: Metrics,
    recording: Recording,
    /// Tasks of queries.
    pub(crate) tasks: TaskTracker,
    /// Token that stops all queries.
    pub(crate) stopping: CancellationToken,
}

/// Wishes of a request for its session. They narrow the server's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionWishes {
    pub(crate) catalog: Option<String>,
    pub(crate) schema: Option<String>,
    pub(crate) cap: Option<Money>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) labels: Vec<Label>,
}

impl SessionWishes {
    /// Reads labels.
    ///
    /// # Errors
    /// [`LabelError`] for the first bad one.
    pub(crate) fn with_labels(self, labels: impl IntoIterator<Item = (String, String)>) -> Result<Self, LabelError> {
        let labels = labels.into_iter().map(|(key, value)| Label::new(&key, &value)).collect::<Result<_, _>>()?;
        Ok(Self { labels, ..self })
    }
}

/// Purpose for which a server is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Serve,
    Check,
}

/// Returns a digest of what makes a statement mean the same on two servers: catalogs and their places, places that may be read, the place
/// of bare names, the set-up, and the provider of users. A server without users is its machine's own, and so are its statements.
fn deployment(config: &Config, catalog: Option<&str>, setup: &[String], has_users: bool) -> String {
    let catalogs: Vec<_> = config.catalogs.iter().map(|(name, it)| (name, it.tables_in(), it.file())).collect();
    let issuer = config.server.jwt.as_ref().map(|jwt| &jwt.issuer);
    let machine = (!has_users).then(|| whoami::fallible::hostname().unwrap_or_default());
    let facts = format!("{:?}", (catalogs, &config.server.reach, catalog, setup, issuer, machine));
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(facts))
}

impl Door {
    /// Opens the engine, and runs the set-up statements. For a check nothing is written, and budgets hold nobody.
    pub(crate) async fn open(
        config: Config,
        tokens: Option<Tokens>,
        provider: Option<Provider>,
        catalog: Option<String>,
        setup: &[String],
        purpose: Purpose,
    ) -> Result<Self, QueryError> {
        let server = &config.server;
        let (queries_max, queued_max) = (server.queries_max as usize, server.queued_max as usize);
        let warehouses = config.catalogs.values().filter_map(CatalogConfig::tables_in);
        let reach = Reach::of(warehouses.chain(server.reach.iter().map(String::as_str)))?;
        let settings = SettingsPolicy::Listed(SETTINGS);
        let options = EngineOptions { queries_max, settings, reach, ..EngineOptions::default() };
        let (cap, timeout) = (config.cost.max, config.timeout);
        let tokens_path = server.tokens.clone();
        let folder = config.temp_folder.clone().unwrap_or_else(std::env::temp_dir);
        let results_max = RESULTS_MAX.max(2 * queries_max).min(RESULTS_THREADS_MAX);
        let statements = Statements::new(server, folder);
        let budgets = match purpose {
            Purpose::Serve => KeptBudgets::open(server, tokens.as_ref(), provider.as_ref())?,
            Purpose::Check => {
                KeptBudgets::look(server, tokens.as_ref(), provider.as_ref())?;
                None
            }
        };
        let journals = config.journals();
        if journals == JournalsWanted::WithoutTexts && purpose == Purpose::Serve {
            tracing::info!(
                "the history keeps no text of a statement, and so there are no journals: submitted statements end with this server"
            );
        }
        let of_users = tokens.is_some() || provider.is_some();
        let (after, deployment) = (server.journal_after, deployment(&config, catalog.as_deref(), setup, of_users));
        let links = server.links;
        let engine = Engine::open(config, options)?;
        let stopping = CancellationToken::new();
        let links = Links::new(engine.kept_results(links)?, stopping.clone());
        let has_journals = journals == JournalsWanted::Yes && purpose == Purpose::Serve;
        let keeping = has_journals.then(|| Keeping::new(Journals::of(engine.exchange()), deployment, after));
        // Users see the views that it makes. So it has no history but its own.
        let options = SessionOptions {
            principal: of_users.then(|| SETUP.to_owned()),
            own_history: of_users,
            ..SessionOptions::default()
        };
        let base = engine.session(options)?;
        let door = Self {
            engine,
            base,
            catalog,
            cap,
            timeout,
            tokens_path,
            tokens: watch::Sender::new(tokens.map(Arc::new)),
            provider,
            admission: Admission::new(queries_max, queued_max),
            results: Admission::new(results_max, results_max).with_user_max(results_max / RESULTS_SHARE),
            stalled_max: STALLED_MAX,
            statements,
            keeping,
            links,
            budgets,
            metrics: Metrics::default(),
            recording: Recording::default(),
            tasks: TaskTracker::new(),
            stopping,
        };
        door.look_up_in(&door.base, None).await?;
        for sql in setup {
            door.base.set_up(sql).await?;
        }
        Ok(door)
    }

    /// Returns the catalog in which bare names are looked up; None for the session's own tables.
    pub(crate) fn catalog(&self) -> Option<&str> {
        self.catalog.as_deref()
    }

    fn tokens(&self) -> Option<Arc<Tokens>> {
        self.tokens.borrow().clone()
    }

    /// Tells if the server has users.
    pub(crate) fn has_users(&self) -> bool {
        self.tokens.borrow().is_some() || self.provider.is_some()
    }

    /// Returns the user of a secret: a token of the file or of the identity provider.
    ///
    /// # Errors
    /// The reason why it is not taken.
    pub(crate) async fn principal(&self, secret: &str) -> Result<Principal, NoUser> {
        match (&self.provider, self.tokens()) {
            (Some(provider), _) if !secret.starts_with(PREFIX) => provider.principal(secret).await,
            (_, Some(tokens)) => tokens.principal(secret, Utc::now()),
            (_, None) => Err(NoUser::Unknown),
        }
    }

    /// Checks that the token by which a user is known still holds.
    ///
    /// # Errors
    /// The reason why it does not.
    pub(crate) fn knows(&self, principal: &Principal) -> Result<(), NoUser> {
        match (&principal.credential, self.tokens()) {
            (Some(Credential::Web(web)), _) if web.ends <= Utc::now() => Err(NoUser::Expired),
            // The journal of a server with another provider may tell of it.
            (Some(Credential::Web(web)), _) => {
                let is_his =
                    |provider: &Provider| principal.user == Some(format!("{}{}", provider.prefix(), web.subject));
                if self.provider.as_ref().is_some_and(is_his) { Ok(()) } else { Err(NoUser::Unknown) }
            }
            (Some(Credential::Token(hash)), Some(tokens)) => match tokens.principal_of(hash, Utc::now())? {
                same if same == *principal => Ok(()),
                _ => Err(NoUser::Unknown),
            },
            (Some(Credential::Token(_)), None) | (None, _) => Ok(()),
        }
    }

    /// Fetches the keys of the identity provider.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if they cannot be had.
    pub(crate) async fn fetch_keys(&self) -> Result<(), QueryError> {
        match &self.provider {
            Some(provider) => provider.fetch().await,
            None => Ok(()),
        }
    }

    /// Fetches the keys of the identity provider anew, until the server stops.
    pub(crate) async fn refresh_keys(self: Arc<Self>) {
        let Some(provider) = &self.provider else { return };
        tokio::select! {
            () = provider.refresh() => {}
            () = self.stopping.cancelled() => {}
        }
    }

    /// Reads the tokens anew. After an error the earlier ones hold.
    ///
    /// # Errors
    /// Those of [`Tokens::read`], and that of a budget whose group is there no more: then no token is new, and those that were taken
    /// out are gone.
    pub(crate) fn reload(&self) -> Result<(), QueryError> {
        let Some(path) = &self.tokens_path else { return Ok(()) };
        let tokens = Tokens::read(path)?;
        let named = self.provider.as_ref().map_or(Ok(()), |provider| provider.check_names(&tokens));
        let budgets = self.budgets.as_ref();
        let checked = named.and_then(|()| budgets.map_or(Ok(()), |it| it.check(&tokens, self.provider.as_ref())));
        let (tokens, refused) = match (checked, self.tokens()) {
            // Tokens that were taken out are gone in any case: they may have leaked.
            (Err(error), Some(before)) => (before.kept_in(&tokens), Err(error)),
            (checked, _) => (tokens, checked),
        };
        self.tokens.send_replace(Some(Arc::new(tokens)));
        refused
    }

    /// Waits until the token by which a principal is known holds no more. On a server without users it waits for ever.
    pub(crate) async fn dismissed(&self, principal: &Principal) {
        let Some(credential) = &principal.credential else { return std::future::pending().await };
        let mut tokens = self.tokens.subscribe();
        loop {
            let left = match (credential, tokens.borrow_and_update().as_ref()) {
                (Credential::Token(token), Some(tokens)) => tokens.holds_for(token, Utc::now()),
                (Credential::Token(_), None) => Some(EXPIRY_PAUSE),
                (Credential::Web(web), _) => (web.ends - Utc::now()).to_std().ok().filter(|left| !left.is_zero()),
            };
            let Some(left) = left else { return };
            // A token expires without a word.
            drop(tokio::time::timeout(left.min(EXPIRY_PAUSE), tokens.changed()).await);
        }
    }

    /// Counts a statement that has ended, and tells where the history does not take records any more.
    pub(crate) fn count(&self, report: &Report, ended: &StatementEnd) {
        self.metrics.count(report, ended);
        self.recording.hear(report.id.as_deref(), report.history_not_recorded.as_deref());
    }

    /// Returns the metrics of the server as text, with the budgets that a user shares.
    pub(crate) fn metrics_text(&self, principal: &Principal) -> String {
        let (running, waiting) = self.admission.counts();
        // Nothing is spent of them here.
        let budgets = self.budgets_of(principal).ok().flatten();
        let budgets = budgets.map_or_else(Vec::new, |budgets| budgets.states());
        self.metrics.text(Moment { running, waiting, kept: self.statements.kept(), budgets })
    }

    /// Returns the prices by which the cost of a running statement is told.
    pub(crate) async fn tariff(&self) -> Result<Tariff, PriceError> {
        self.base.tariff().await
    }

    /// Returns the budgets that a user shares; None without any.
    ///
    /// # Errors
    /// Those of [`KeptBudgets::of`].
    pub(crate) fn budgets_of(&self, principal: &Principal) -> Result<Option<SharedBudgets>, QueryError> {
        let (Some(budgets), Some(user)) = (&self.budgets, principal.user.as_deref()) else { return Ok(None) };
        match &principal.credential {
            Some(Credential::Web(web)) => budgets.of(user, &web.groups),
            Some(Credential::Token(_)) | None => {
                let groups = self.tokens().map(|tokens| tokens.groups_of(user, Utc::now())).unwrap_or_default();
                budgets.of(user, &groups.into_iter().collect::<Vec<_>>())
            }
        }
    }

    /// Keeps what is spent of the budgets in their file, until the server stops.
    pub(crate) async fn keep_budgets(self: Arc<Self>) {
        let Some(budgets) = &self.budgets else { return };
        tokio::select! {
            () = budgets.keep() => {}
            () = self.stopping.cancelled() => {}
        }
    }

    /// Opens a session of a user for one request. Its history has the user's own statements.
    pub(crate) async fn session(&self, principal: &Principal, wishes: SessionWishes) -> Result<Session, QueryError> {
        let SessionWishes { catalog, schema, cap, timeout, labels } = wishes;
        let options = SessionOptions {
            principal: principal.user.clone(),
            own_history: principal.user.is_some(),
            labels,
            cap: [cap, self.cap].into_iter().flatten().min(),
            timeout: timeout.map(|timeout| timeout.min(self.timeout)),
            budgets: self.budgets_of(principal)?,
            ..SessionOptions::default()
        };
        let session = self.engine.session(options)?;
        session.show_tables_of(&self.base).await?;
        if let Some(unknown) = catalog.as_deref().filter(|name| !session.config().catalogs.contains_key(*name)) {
            let refused = QueryError::sql(format!("there is no catalog `{unknown}` in the configuration"))
                .with_sqlstate(NO_CATALOG);
            return Err(refused.with_hint("SHOW CATALOGS lists what there is"));
        }
        self.look_up_in(&session, catalog.as_deref()).await?;
        if let Some(schema) = schema {
            session.use_schema(catalog.as_deref().or(self.catalog.as_deref()).unwrap_or(OWN_CATALOG), &schema);
        }
        Ok(session)
    }

    /// Opens a session of a user in which nothing runs. It needs no catalog, and no money.
    ///
    /// # Errors
    /// Those of [`Engine::session`].
    pub(crate) fn plain_session(&self, principal: &Principal, labels: Vec<Label>) -> Result<Session, QueryError> {
        let (principal, own_history) = (principal.user.clone(), principal.user.is_some());
        self.engine.session(SessionOptions { principal, own_history, labels, ..SessionOptions::default() })
    }

    /// Looks bare names up in `first`, else in the server's own catalog, else among the session's tables. All catalogs are at hand.
    async fn look_up_in(&self, session: &Session, first: Option<&str>) -> Result<(), QueryError> {
        session.use_schema(OWN_CATALOG, OWN_SCHEMA);
        match first.or(self.catalog.as_deref()) {
            Some(first) => session.use_catalog(first).await,
            None => Ok(()),
        }
    }

    /// Tells if the configuration has such a catalog.
    pub(crate) fn has_catalog(&self, name: &str) -> bool {
        self.base.config().catalogs.contains_key(name)
    }

    /// Asks each catalog for its first namespaces.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] for the first that does not answer.
    pub(crate) async fn ask_catalogs(&self) -> Result<(), QueryError> {
        let session = self.engine.session(SessionOptions::default())?;
        for name in session.config().catalogs.keys() {
            session.use_catalog(name).await?;
        }
        Ok(())
    }

    /// Tries if the exchange can have journals, where they are wanted.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if it cannot.
    pub(crate) async fn try_journals(&self) -> Result<(), QueryError> {
        if self.base.config().journals() != JournalsWanted::Yes || self.engine.creates_once().await? {
            return Ok(());
        }
        let what = "the exchange does not create an object once (If-None-Match): submitted statements would end with this server";
        Err(QueryError::setup(what).with_hint("set `journal = false` under [server] if they may"))
    }

    /// Deletes what a query of another server has left in the exchange. Returns the number of objects.
    ///
    /// # Errors
    /// The store's, in words.
    pub(crate) async fn clean_exchange(&self, query: &str) -> Result<usize, String> {
        self.engine.exchange().clean(query).await.map_err(|error| error.to_string())
    }

    /// Waits until no task of a query is left. No connection brings more of them.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Forgets what is kept for longer than its time, until the server stops.
    pub(crate) async fn tidy(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TIDY_PAUSE) => self.statements.tidy().await,
                () = self.stopping.cancelled() => return,
            }
        }
    }

    /// Stops all queries, waits a little for their ends, and closes the engine.
    pub(crate) async fn close(&self) {
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOPPING_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!("some queries did not end in time");
        }
        self.statements.clear();
        self.links.ended(STOPPING_MAX).await;
        if let Some(budgets) = &self.budgets {
            // A failure is logged. There is nothing else to be done with it.
            let _is_saved = budgets.save().await;
        }
        self.engine.close().await;
    }
}
