//! The engine of the server, and the sessions that it opens for its users.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use gust_engine::cap::SharedBudgets;
use gust_engine::config::{Config, JournalsWanted, Label, LabelError};
use gust_engine::cost::{PriceError, Tariff};
use gust_engine::error::QueryError;
use gust_engine::exchange::Journals;
use gust_engine::history::{HistoryWriter, LateRecord, StatementEnd};
use gust_engine::money::Money;
use gust_engine::report::Report;
use gust_engine::session::{
    Allowed, Engine, EngineOptions, OWN_CATALOG, Recorder, Session, SessionOptions, SettingsPolicy, TraceParent,
};
use gust_engine::tables::grants::TableGrants;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::budgets::KeptBudgets;
use crate::grants;
use crate::journal::Keeping;
use crate::jwt::Provider;
use crate::links::Links;
use crate::memory::unshared;
use crate::metrics::{Metrics, Moment};
use crate::otlp::{Collector, Traces};
use crate::recording::Recording;
use crate::statements::Statements;
use crate::tokens::{Credential, NoUser, PREFIX, Principal, Tokens};
pub(crate) use base::Base;
use base::{look_up_in, reach_of, set_up};

mod base;

/// Settings of DataFusion that SET may change. Those of the whole process, and sizes without a bound, are not among them.
const SETTINGS: &[Allowed] = &[
    Allowed { name: "datafusion.execution.time_zone", bounds: None },
    Allowed { name: "datafusion.execution.batch_size", bounds: Some((128, 65_536)) },
];

/// SQLSTATE code of PostgreSQL for a catalog that is not there.
const NO_CATALOG: &str = "3D000";

/// Results that are written for their readers at the same time, and twice the queries if that is more. Each holds a thread, also while
/// its reader stops.
const RESULTS_MAX: usize = 64;

/// Most of them whatever `queries_max` is: half of the threads that the runtime has for such work.
const RESULTS_THREADS_MAX: usize = 256;

/// Divisor of them for a user by name.
const RESULTS_SHARE: usize = 4;

/// Statements that are described, and names that are listed, at the same time: as many at least. Most that wait, twice the connections of
/// PostgreSQL.
const PLANNING_MIN: usize = 8;
const PLANNING_QUEUED_MAX: usize = 2_000;

/// Longest time of a statement that is described, and of names that are listed, once its turn has come.
pub(crate) const PLANNING_TIME_MAX: Duration = Duration::from_secs(120);

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
    /// Engine with the catalogs that the configuration had when it was last read, and the tables that every session shows.
    base: watch::Sender<Base>,
    /// Held while catalogs are read anew.
    reloading: tokio::sync::Mutex<()>,
    /// Texts of the set-up statements.
    setup: Vec<String>,
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
    /// Bytes of memory that belong to no query's share.
    pub(crate) memory: Admission,
    /// Statements that are described and not run, and names that are listed. They wait for no query.
    pub(crate) planning: Admission,
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
    /// Traces for a collector; None without one.
    traces: Option<Traces>,
    recording: Recording,
    /// Records for which their statements have not waited; None once somebody listens.
    late: Mutex<Option<mpsc::Receiver<LateRecord>>>,
    /// Tasks of queries.
    pub(crate) tasks: TaskTracker,
    /// Token that stops all queries.
    pub(crate) stopping: CancellationToken,
    /// Token of the end of all writing.
    closed: CancellationToken,
}

/// Wishes of a request for its session. They narrow the server's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionWishes {
    pub(crate) catalog: Option<String>,
    pub(crate) schema: Option<String>,
    pub(crate) cap: Option<Money>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) labels: Vec<Label>,
    /// Span of the client that asks.
    pub(crate) trace_parent: Option<TraceParent>,
    /// Catalogs that there were when the request came. None for those that there are when it has its turn.
    pub(crate) base: Option<Base>,
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
        let reach = reach_of(&config.catalogs, &server.reach)?;
        grants::check(&config, &reach, tokens.as_ref(), provider.as_ref())?;
        let settings = SettingsPolicy::Listed(SETTINGS);
        let (history, late) = HistoryWriter::of_server();
        let options = EngineOptions { queries_max, settings, reach, history, ..EngineOptions::default() };
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
        let (after, links) = (server.journal_after, server.links);
        let (metrics, collector) = (Metrics::default(), server.otlp.as_deref().map(Collector::new).transpose()?);
        let traces = collector.map(|collector| Traces::start(collector, metrics.traces.clone()));
        let engine = Engine::open(config, options)?;
        let stopping = CancellationToken::new();
        let links = Links::new(engine.kept_results(links)?, stopping.clone());
        let has_journals = journals == JournalsWanted::Yes && purpose == Purpose::Serve;
        let keeping = has_journals.then(|| Keeping::new(Journals::of(engine.exchange()), after));
        let base = Box::pin(set_up(&engine, of_users, catalog.as_deref(), setup)).await?;
        let memory = unshared(engine.memory().unshared_bytes());
        let planning = Admission::new(engine.descriptions_max().max(PLANNING_MIN), PLANNING_QUEUED_MAX);
        Ok(Self {
            base: watch::Sender::new(base),
            reloading: tokio::sync::Mutex::default(),
            setup: setup.to_vec(),
            catalog,
            cap,
            timeout,
            tokens_path,
            tokens: watch::Sender::new(tokens.map(Arc::new)),
            provider,
            admission: Admission::new(queries_max, queued_max),
            memory,
            planning,
            results: Admission::new(results_max, results_max).with_user_max(results_max / RESULTS_SHARE),
            stalled_max: STALLED_MAX,
            statements,
            keeping,
            links,
            budgets,
            metrics,
            traces,
            recording: Recording::default(),
            late: Mutex::new(Some(late)),
            tasks: TaskTracker::new(),
            stopping,
            closed: CancellationToken::new(),
        })
    }

    /// Returns the catalog in which a session looks bare names up of itself; None for its own tables, and where its user does not see the
    /// server's catalog.
    pub(crate) fn catalog_of(&self, session: &Session) -> Option<&str> {
        self.catalog.as_deref().filter(|name| session.config().catalogs.contains_key(*name))
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

    /// Counts the statement that a recorder has ended, sends its trace, and tells where the history does not take records any more.
    pub(crate) fn count(&self, recorder: &Recorder, report: &Report, ended: &StatementEnd) {
        self.metrics.count(report, ended);
        // It is let go where nobody wants it.
        if let (Some(statement), Some(traces)) = (recorder.take_ended(), &self.traces) {
            traces.tell(statement, report, ended);
        }
        if !report.is_record_open {
            self.recording.hear(report.id.as_deref(), report.history_not_recorded.as_deref());
        }
    }

    /// Hears of the records for which their statements have not waited, until the engine is closed.
    pub(crate) async fn hear_late(self: Arc<Self>) {
        let Some(mut late) = self.late.lock().expect("no holder panics").take() else { return };
        let heard = async {
            while let Some(LateRecord { id, why }) = late.recv().await {
                if why.is_some() {
                    self.metrics.count_unrecorded();
                }
                self.recording.hear(Some(&id), why.as_deref());
            }
        };
        tokio::select! {
            () = heard => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// Returns the metrics of the server as text, with the budgets that a user shares.
    pub(crate) fn metrics_text(&self, principal: &Principal) -> String {
        let (running, waiting) = self.admission.counts();
        // Nothing is spent of them here.
        let budgets = self.budgets_of(principal).ok().flatten();
        let budgets = budgets.map_or_else(Vec::new, |budgets| budgets.states());
        let for_memory = self.base.borrow().engine.memory_waits();
        self.metrics.text(Moment { running, waiting, for_memory, kept: self.statements.kept(), budgets })
    }

    /// Returns the prices by which the cost of a running statement is told.
    pub(crate) async fn tariff(&self) -> Result<Tariff, PriceError> {
        self.base().engine.tariff()
    }

    /// Returns the budgets that a user shares; None without any.
    ///
    /// # Errors
    /// Those of [`KeptBudgets::of`].
    pub(crate) fn budgets_of(&self, principal: &Principal) -> Result<Option<SharedBudgets>, QueryError> {
        let (Some(budgets), Some(user)) = (&self.budgets, principal.user.as_deref()) else { return Ok(None) };
        budgets.of(user, &self.groups_of(principal))
    }

    /// Returns the groups of a user: those that the web token tells, or those of all tokens of the file.
    fn groups_of(&self, principal: &Principal) -> Vec<String> {
        match (&principal.credential, principal.user.as_deref()) {
            (Some(Credential::Web(web)), _) => web.groups.clone(),
            (Some(Credential::Token(_)) | None, Some(user)) => {
                let groups = self.tokens().map(|tokens| tokens.groups_of(user, Utc::now())).unwrap_or_default();
                groups.into_iter().collect()
            }
            (Some(Credential::Token(_)) | None, None) => Vec::new(),
        }
    }

    /// Returns the tables and paths that exist for a user. None where there are no grants: then everything is there for everybody.
    fn grants_of(&self, principal: &Principal) -> Result<Option<Arc<TableGrants>>, QueryError> {
        let base = self.base();
        let grants = &base.engine.config().server.grants;
        if grants.is_empty() {
            return Ok(None);
        }
        let user = principal.user.as_deref().unwrap_or_default();
        Ok(Some(Arc::new(grants::of(grants, user, &self.groups_of(principal))?)))
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
        let SessionWishes { catalog, schema, cap, timeout, labels, trace_parent, base } = wishes;
        let options = SessionOptions {
            principal: principal.user.clone(),
            own_history: principal.user.is_some(),
            labels,
            cap: [cap, self.cap].into_iter().flatten().min(),
            timeout: timeout.map(|timeout| timeout.min(self.timeout)),
            budgets: self.budgets_of(principal)?,
            grants: self.grants_of(principal)?,
            trace_parent,
            ..SessionOptions::default()
        };
        let base = base.unwrap_or_else(|| self.base());
        let session = base.engine.session(options)?;
        session.show_tables(&base.shown).await?;
        if let Some(unknown) = catalog.as_deref().filter(|name| !session.config().catalogs.contains_key(*name)) {
            let refused = QueryError::sql(format!("there is no catalog `{unknown}` in the configuration"))
                .with_sqlstate(NO_CATALOG);
            return Err(refused.with_hint("SHOW CATALOGS lists what there is"));
        }
        look_up_in(&session, catalog.as_deref().or(self.catalog_of(&session))).await?;
        if let Some(schema) = schema {
            session.use_schema(catalog.as_deref().or(self.catalog_of(&session)).unwrap_or(OWN_CATALOG), &schema);
        }
        Ok(session)
    }

    /// Opens a session of a user in which nothing runs. It needs no catalog, and no money.
    ///
    /// # Errors
    /// Those of [`Engine::session`].
    pub(crate) fn plain_session(&self, principal: &Principal, labels: Vec<Label>) -> Result<Session, QueryError> {
        let grants = self.grants_of(principal)?;
        let (principal, own_history) = (principal.user.clone(), principal.user.is_some());
        let options = SessionOptions { principal, own_history, labels, grants, ..SessionOptions::default() };
        self.base().engine.session(options)
    }

    /// Tells if a user sees such a catalog.
    pub(crate) fn has_catalog(&self, principal: &Principal, name: &str) -> bool {
        let is_seen = self.grants_of(principal).is_ok_and(|grants| grants.is_none_or(|it| it.show_catalog(name)));
        is_seen && self.base.borrow().engine.config().catalogs.contains_key(name)
    }

    /// Asks each catalog for its first namespaces.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] for the first that does not answer.
    pub(crate) async fn ask_catalogs(&self) -> Result<(), QueryError> {
        let session = self.base().engine.session(SessionOptions::default())?;
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
        if self.base().engine.config().journals() != JournalsWanted::Yes || self.base().engine.creates_once().await? {
            return Ok(());
        }
        let what = "the exchange does not create an object once (If-None-Match): submitted statements would end with this server";
        Err(QueryError::setup(what).with_hint("set `journal = false` under [server] if they may"))
    }

    /// Tries if the collector takes traces, where there is one.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if it does not.
    pub(crate) async fn try_traces(&self) -> Result<(), QueryError> {
        match &self.traces {
            Some(traces) => traces.check().await,
            None => Ok(()),
        }
    }

    /// Deletes what a query of another server has left in the exchange. Returns the number of objects.
    ///
    /// # Errors
    /// The store's, in words.
    pub(crate) async fn clean_exchange(&self, query: &str) -> Result<usize, String> {
        self.base().engine.exchange().clean(query).await.map_err(|error| error.to_string())
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
        if let Some(traces) = &self.traces {
            traces.flush().await;
        }
        self.base().engine.close().await;
        self.closed.cancel();
    }
}
