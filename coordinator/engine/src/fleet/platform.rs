//! The seam between the fleet and where its functions run.

use std::fmt::{Debug, Display};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Breaker, Invoker};
use crate::config::Config;
use crate::error::QueryError;
use crate::model::{FunctionSize, PlatformTraits, TimeModel};

/// Where functions run: what they are like, and what runs attempts on them.
///
/// An error is of kind [`crate::error::ErrorKind::Functions`] or [`crate::error::ErrorKind::Setup`], and says what to do. It does not plan,
/// bound, retry or price: the planner, the scheduler and the tariff do, by what it says of itself.
#[async_trait]
pub trait Platform: Debug + Send + Sync {
    fn traits(&self) -> PlatformTraits;

    /// How long things take on a coordinator of `cores` with functions of `function_cores` each, as long as nobody has calibrated it.
    fn model(&self, cores: usize, function_cores: f64) -> TimeModel;

    /// The sizes of functions that there are, at least one; the one to use where nothing is picked comes first. Starts nothing.
    async fn sizes(&self) -> Result<Vec<FunctionSize>, QueryError>;

    /// What runs attempts on functions of a size: the same as long as they are the same.
    async fn start(&self, size: &FunctionSize) -> Result<Arc<dyn Invoker>, QueryError>;

    /// The cloud's region that functions run in.
    async fn region(&self) -> Option<String>;

    /// What there is to examine, for functions of the first size, or of all.
    async fn probes(&self, all_sizes: bool) -> Probes;

    /// Ends what was started.
    async fn close(&self);
}

/// What a platform is made from.
#[derive(Debug, Clone)]
pub struct Site {
    pub config: Arc<Config>,
    /// Where functions on this machine spill.
    pub folder: PathBuf,
    /// URL of the store that large results go to.
    pub exchange_url: String,
    pub breaker: Arc<Breaker>,
}

/// What can be examined of a platform's functions.
#[derive(Debug, Default)]
pub struct Probes {
    /// What is known of them already, or why they cannot be tried.
    pub notes: Vec<Note>,
    /// Each function to try, by its name.
    pub subjects: Vec<(String, Arc<dyn Invoker>)>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub what: String,
    /// What was found, or what is wrong and what to do.
    pub outcome: Result<String, String>,
}

impl Note {
    pub fn new(what: impl Into<String>, outcome: Result<String, impl Display>) -> Self {
        Self { what: what.into(), outcome: outcome.map_err(|error| error.to_string()) }
    }
}

impl Probes {
    /// One kind of function, of which any one is as good as another.
    pub(super) fn of_one_kind(started: Result<Arc<dyn Invoker>, QueryError>) -> Self {
        match started {
            Ok(invoker) => Self { notes: Vec::new(), subjects: vec![("function".to_owned(), invoker)] },
            Err(error) => Self { notes: vec![Note::new("function", Err::<String, _>(error))], subjects: Vec::new() },
        }
    }
}
