//! The decision between local and functions, as data, with its reason. [`crate::planner::choose`] decides.
//!
//! The fastest distributed query is the one that runs on a single node. Functions have to earn their overhead in pipes.

use serde::{Deserialize, Serialize, Serializer};

use crate::config::Prefer;
use crate::model::{Forecast, Workload};

/// The place of a query, and the numbers behind it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    pub place: Place,
    #[serde(flatten, serialize_with = "with_hint")]
    pub reason: Reason,
    pub workload: Workload,
    /// Seconds of both places. None where nothing had to be estimated, or one place was open.
    pub estimate: Option<WallTimes>,
    /// Candidates that came first and second. None where none were compared, or they have no prices.
    pub choice: Option<Box<Choice>>,
    /// Reasons of scans to stay on the coordinator while functions run the others: their plans do not arrive as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Local,
    Functions,
}

/// Predicted wall times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct WallTimes {
    pub local_seconds: f64,
    pub functions_seconds: f64,
    /// Number of functions.
    pub functions: usize,
}

/// The candidate that is taken, and the one that would be if it were not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    pub picked: Forecast,
    pub runner_up: Option<Forecast>,
    /// The best candidate of each way that there is.
    #[serde(skip)]
    pub ways: Vec<Forecast>,
    #[serde(skip)]
    pub reason: Reason,
}

/// Reason of a decision. [`std::fmt::Display`] puts it in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    #[error("an earlier server had it there")]
    TakenOver,
    #[error("asked for by --on")]
    Requested,
    #[error("no function is healthy")]
    NoneHealthy,
    #[error("functions cannot be used: {message}")]
    #[serde(serialize_with = "message_alone")]
    Unavailable { message: String, hint: Option<String> },
    #[error("the plan has no Parquet scan")]
    NoScan,
    /// Formats of the files, which no function reads.
    #[error("functions read Parquet alone, and the files are {0}")]
    NoParquet(String),
    #[error("the work is too small for the overhead of functions")]
    TooSmall,
    #[error("there are fewer scan units than it takes to use two functions")]
    FewerUnits,
    #[error("local is estimated to be faster")]
    LocalFaster,
    #[error("functions are estimated to be faster")]
    FunctionsFaster,
    #[error("{} by estimate", .0.superlative())]
    Preferred(Prefer),
    #[error("{} of what keeps the deadline by estimate", .0.superlative())]
    KeepsDeadline(Prefer),
    #[error("nothing is sure to keep the deadline; this is the fastest by estimate")]
    MissesDeadline,
    #[error("{0}")]
    PlanNotSupported(String),
    /// The plan of every stage arrives otherwise than it was sent, so all is run where it was made.
    #[error("no stage can travel to functions: {0}")]
    NothingTravels(String),
}

/// Functions that a query was packed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedAs {
    pub memory_mb: u32,
    /// Number of fragments of a stage. None for fragments of a size that pays.
    pub functions: Option<usize>,
    /// True if functions only scan, where the settings leave that open.
    #[serde(default)]
    pub only_scans: bool,
}

impl Reason {
    /// Returns the next step, where there is one.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Unavailable { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }
}

/// Serializes a reason, and its hint as a field beside it.
fn with_hint<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct ReasonFields<'a> {
        reason: &'a Reason,
        hint: Option<&'a str>,
    }
    ReasonFields { reason, hint: reason.hint() }.serialize(serializer)
}

fn message_alone<S: Serializer>(message: &str, _: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(message)
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match self.place {
            Place::Local => "local",
            Place::Functions => "functions",
        };
        write!(f, "{place}: {}", self.reason)?;
        for obstacle in &self.kept {
            write!(f, "; a scan stays on the coordinator, for its plan cannot travel: {obstacle}")?;
        }
        if let Some(choice) = &self.choice {
            write!(f, " ({}", choice.picked)?;
            return match &choice.runner_up {
                Some(runner_up) => write!(f, "; runner-up {runner_up})"),
                None => write!(f, ")"),
            };
        }
        if let Some(WallTimes { local_seconds, functions_seconds, functions }) = self.estimate {
            write!(f, " (estimated {local_seconds:.3} s local, {functions_seconds:.3} s on {functions} functions)")?;
        }
        Ok(())
    }
}

impl Decision {
    /// Makes the decision for a place by wall times.
    pub fn timed(place: Place, reason: Reason, workload: Workload, times: WallTimes) -> Self {
        Self { place, reason, workload, estimate: Some(times), choice: None, kept: Vec::new() }
    }

    /// Makes the decision for a local run, for a reason that needs no estimate.
    pub fn local(reason: Reason, workload: Workload) -> Self {
        Self { place: Place::Local, reason, workload, estimate: None, choice: None, kept: Vec::new() }
    }

    /// Makes the decision for the candidate that was chosen.
    pub fn chosen(choice: Choice, workload: Workload, estimate: Option<WallTimes>) -> Self {
        let (place, reason) = (choice.picked.place, choice.reason.clone());
        Self { place, reason, workload, estimate, choice: Some(Box::new(choice)), kept: Vec::new() }
    }

    /// Adds the reasons of scans to stay on the coordinator.
    pub fn keeping(self, kept: &[String]) -> Self {
        Self { kept: kept.to_vec(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_hint_stands_beside_the_reason() {
        #[track_caller]
        fn check(reason: Reason, expect: Value) {
            let mut decision = serde_json::to_value(Decision::local(reason, Workload::default())).expect("JSON");
            decision.as_object_mut().expect("an object").remove("workload");
            assert_eq!(decision, expect);
        }
        let unavailable = |hint: Option<&str>| Reason::Unavailable {
            message: "nobody answers".to_owned(),
            hint: hint.map(str::to_owned),
        };
        let reason = json!({"unavailable": "nobody answers"});
        check(
            unavailable(None),
            json!({"place": "local", "reason": reason, "hint": null, "estimate": null, "choice": null}),
        );
        check(
            unavailable(Some("ask again")),
            json!({"place": "local", "reason": reason, "hint": "ask again", "estimate": null, "choice": null}),
        );
        check(
            Reason::NoScan,
            json!({"place": "local", "reason": "no_scan", "hint": null, "estimate": null, "choice": null}),
        );
    }
}
