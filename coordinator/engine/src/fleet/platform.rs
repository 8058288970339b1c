//! Seam between the fleet and the platform of its functions.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Breaker, Invoker};
use crate::config::Config;
use crate::error::QueryError;
use crate::model::{FunctionSize, PlatformTraits, TimeModel};

/// Platform of functions: their facts, and the invokers that run attempts on them.
///
/// An error is of kind [`crate::error::ErrorKind::Functions`] or [`crate::error::ErrorKind::Setup`], and gives the next
/// step.
///
/// Non-goals: a platform does not plan, bound, retry or price. The planner, the scheduler and the tariff do, by its
/// facts.
///
/// ```
/// # use std::sync::Arc;
/// use async_trait::async_trait;
/// use gust_engine::config::Config;
/// use gust_engine::error::QueryError;
/// use gust_engine::fleet::{self, InProcess, Invoker, Platform, ProbeSubject, ProbedSizes, Probes};
/// use gust_engine::model::{FunctionSize, PlatformTraits, TimeModel};
///
/// /// Functions of one size, all of which are one handler.
/// #[derive(Debug)]
/// struct OneHandler {
///     size: FunctionSize,
///     invoker: Arc<InProcess>,
/// }
///
/// #[async_trait]
/// impl Platform for OneHandler {
///     fn traits(&self) -> PlatformTraits {
///         PlatformTraits { name: "one handler", ..fleet::traits(&Config::default()) }
///     }
///     fn model(&self, cores: usize, function_cores: f64) -> TimeModel {
///         TimeModel { function_cores, ..TimeModel::laptop(cores) }
///     }
///     async fn sizes(&self) -> Result<Vec<FunctionSize>, QueryError> {
///         Ok(vec![self.size.clone()])
///     }
///     async fn start(&self, _: &FunctionSize) -> Result<Arc<dyn Invoker>, QueryError> {
///         Ok(Arc::clone(&self.invoker) as _)
///     }
///     async fn region(&self) -> Option<String> {
///         None
///     }
///     async fn probes(&self, _: ProbedSizes) -> Probes {
///         let subject = ProbeSubject { name: "handler".to_owned(), invoker: Arc::clone(&self.invoker) as _ };
///         Probes { findings: Vec::new(), subjects: vec![subject] }
///     }
///     async fn close(&self) {}
/// }
/// ```
#[async_trait]
pub trait Platform: Debug + Send + Sync {
    fn traits(&self) -> PlatformTraits;

    /// Returns the time model for a coordinator of `cores` with functions of `function_cores` each. It counts until a
    /// calibration replaces it.
    fn model(&self, cores: usize, function_cores: f64) -> TimeModel;

    /// Returns the sizes of functions, at least one, the default one first. Starts nothing.
    async fn sizes(&self) -> Result<Vec<FunctionSize>, QueryError>;

    /// Returns the invoker of functions of a size, the same one as long as the functions are the same.
    async fn start(&self, size: &FunctionSize) -> Result<Arc<dyn Invoker>, QueryError>;

    /// Returns the cloud's region that functions run in.
    async fn region(&self) -> Option<String>;

    /// Returns the functions to examine.
    async fn probes(&self, sizes: ProbedSizes) -> Probes;

    /// Ends all functions that were started.
    async fn close(&self);
}

/// Parts that a platform is made from.
#[derive(Debug, Clone)]
pub struct PlatformParts {
    pub config: Arc<Config>,
    /// Folder that functions on this machine spill to.
    pub folder: PathBuf,
    /// URL of the store that large results go to.
    pub exchange_url: String,
    pub breaker: Arc<Breaker>,
}

/// Functions of a platform that can be examined.
#[derive(Debug, Default)]
pub struct Probes {
    /// Facts about the functions, or the reason why they cannot be tried.
    pub findings: Vec<Finding>,
    pub subjects: Vec<ProbeSubject>,
}

/// Function to try.
#[derive(Debug, Clone)]
pub struct ProbeSubject {
    pub name: String,
    pub invoker: Arc<dyn Invoker>,
}

/// Sizes of functions to examine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbedSizes {
    First,
    All,
}

/// Result of one examination.
#[derive(Debug, Clone)]
pub struct Finding {
    pub subject: String,
    /// Finding, or the fault with its next step.
    pub outcome: Result<String, QueryError>,
}

impl Finding {
    pub fn new(subject: impl Into<String>, outcome: Result<String, QueryError>) -> Self {
        Self { subject: subject.into(), outcome }
    }
}

impl Probes {
    /// Makes the probes of a platform whose functions are all alike.
    pub(super) fn of_one_kind(started: Result<Arc<dyn Invoker>, QueryError>) -> Self {
        match started {
            Ok(invoker) => {
                Self { findings: Vec::new(), subjects: vec![ProbeSubject { name: "function".to_owned(), invoker }] }
            }
            Err(error) => Self { findings: vec![Finding::new("function", Err(error))], subjects: Vec::new() },
        }
    }
}
