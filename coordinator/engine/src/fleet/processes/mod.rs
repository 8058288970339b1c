//! Functions as child processes that speak the real AWS Lambda Runtime API with this process.
//!
//! ```text
//!  invoke ─► slot (processes_max) ─► warm child, most recently used ─┐
//!                              └──► new child: init ────────────────┴─► next ─► response | error | exit | deadline
//! ```
//!
//! A child is one environment with one invocation at a time. A fault that breaks an environment on Lambda ends a child
//! here, and the next attempt gets a new one. Children end with this process, even if it is killed, because their stdin
//! is a pipe from it. Non-goals: retries, memory limits enforced by the system, and systems other than Unix.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use gust_protocol::{FragmentResponse, InvokeRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::environment::{Condition, ProcessEnvironment, RunOutcome, StartFailure};
use self::runtime_api::RuntimeApi;
use super::Invoker;
use super::framing::{self, Admitted, FramedRequest};
use crate::attempt::{Billing, Invocation, InvokeError, InvokeErrorKind};

mod environment;
mod log_tail;
mod platform;
mod runtime_api;

pub(super) use platform::ProcessPlatform;

/// Program of the function, and the number of its processes.
#[derive(Clone)]
pub struct ProcessesConfig {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Children at once. Each is started when it is first needed.
    pub processes_max: usize,
    /// Memory that each child is told, in bytes, as whole MiB. The child keeps to it by itself.
    pub memory_bytes: u64,
    /// Threads that each child computes with, one per lane.
    pub cores: usize,
    /// Folder in which each child gets a folder of its own to spill to.
    pub temp_folder: PathBuf,
    /// Variables that are added to this process's environment.
    pub env: Vec<(OsString, OsString)>,
}

/// Runs attempts in child processes. Dropping it kills them. [`Self::shutdown`] also waits for their end.
pub struct Processes {
    shared: Arc<Shared>,
}

struct Shared {
    config: ProcessesConfig,
    api: RuntimeApi,
    slots: Arc<Semaphore>,
    /// Warm children, the most recently used last.
    idle: Mutex<Vec<ProcessEnvironment>>,
    attempts: TaskTracker,
    stop: CancellationToken,
}

impl std::fmt::Debug for Processes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ProcessesConfig { program, processes_max, .. } = &self.shared.config;
        f.debug_struct("Processes")
            .field("program", program)
            .field("processes_max", processes_max)
            .finish_non_exhaustive()
    }
}

impl Processes {
    /// Opens the Runtime API on loopback, and starts no child.
    ///
    /// # Errors
    /// The system's, if no port could be opened.
    pub async fn start(config: ProcessesConfig) -> std::io::Result<Self> {
        let slots = Arc::new(Semaphore::new(config.processes_max.max(1)));
        let shared = Shared {
            config,
            api: RuntimeApi::start().await?,
            slots,
            idle: Mutex::default(),
            attempts: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Kills every child and waits until all have ended. Attempts under way end as [`InvokeErrorKind::Stopped`].
    pub async fn shutdown(&self) {
        self.stop();
        self.shared.attempts.wait().await;
        let idle = std::mem::take(&mut *self.shared.idle.lock().expect("no holder panics"));
        join_all(idle.into_iter().map(ProcessEnvironment::stop)).await;
    }

    fn stop(&self) {
        self.shared.slots.close();
        self.shared.stop.cancel();
        self.shared.attempts.close();
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop();
        self.shared.idle.lock().expect("no holder panics").clear();
    }
}

#[async_trait]
impl Invoker for Processes {
    async fn invoke(&self, request: InvokeRequest) -> Invocation {
        let Admitted { framed, slot } = match framing::admit(request, &self.shared.slots).await {
            Ok(admitted) => admitted,
            Err(error) => return framing::not_sent(error),
        };
        // The attempt is a task of its own. It cannot be recalled, so it keeps its slot if the caller goes away.
        let billing_max = framed.billing_max(Instant::now());
        let (reply, invocation) = oneshot::channel();
        self.shared.attempts.spawn(Arc::clone(&self.shared).attempt(framed, slot, reply).in_current_span());
        framing::reply(invocation, billing_max).await
    }
}

impl Shared {
    async fn attempt(
        self: Arc<Self>,
        framed: FramedRequest,
        slot: OwnedSemaphorePermit,
        reply: oneshot::Sender<Invocation>,
    ) {
        if self.stop.is_cancelled() {
            // The shutdown came between slot and start. The send fails if the caller has gone away, here and below.
            let _ = reply.send(framing::not_sent(framing::stopped()));
            return;
        }
        let init_started = Instant::now();
        let warm = self.take_warm();
        let cold = warm.is_none();
        let started = match warm {
            Some(environment) => Ok(environment),
            None => ProcessEnvironment::start(&self.config, &self.api, &framed, &self.stop).await,
        };
        let init = if cold { init_started.elapsed() } else { Duration::ZERO };
        let mut environment = match started {
            Ok(environment) => environment,
            Err(StartFailure { error, log_tail }) => {
                let billing = Billing::Metered { duration: Duration::ZERO, init };
                let _ = reply.send(Invocation { outcome: Err(error), billing, cold: Some(true), log_tail });
                return;
            }
        };
        let run_started = Instant::now();
        let RunOutcome { answer, condition } = environment.run(&framed, &self.stop).await;
        let duration = run_started.elapsed();
        let mut kept = None;
        let log_tail = match condition {
            Condition::Unusable => environment.stop().await,
            Condition::Alive => {
                let log_tail = environment.log_tail();
                kept = Some(environment);
                log_tail
            }
        };
        let invocation = conclude(&framed, answer, cold, Billing::Metered { duration, init }, log_tail);
        let _ = reply.send(invocation);
        if let Some(environment) = kept {
            self.keep_warm(environment).await;
        }
        drop(slot);
    }

    /// Takes a child that waits for work. A child that has ended meanwhile is no attempt's fault and is passed over.
    fn take_warm(&self) -> Option<ProcessEnvironment> {
        let mut idle = self.idle.lock().expect("no holder panics");
        while let Some(mut environment) = idle.pop() {
            if environment.is_alive() {
                environment.renew();
                return Some(environment);
            }
        }
        None
    }

    async fn keep_warm(&self, mut environment: ProcessEnvironment) {
        if environment.becomes_ready(&self.stop).await && !self.stop.is_cancelled() {
            self.idle.lock().expect("no holder panics").push(environment);
        } else {
            environment.stop().await;
        }
    }
}

/// Makes an attempt's outcome from the platform's observations.
fn conclude(
    framed: &FramedRequest,
    answer: Result<Bytes, InvokeError>,
    cold: bool,
    billing: Billing,
    log_tail: String,
) -> Invocation {
    let outcome = answer.and_then(|answer| framed.response(&answer));
    let billing = match (&outcome, billing) {
        (Err(InvokeError { kind: InvokeErrorKind::TimedOut, .. }), Billing::Metered { duration, init }) => {
            Billing::Bounded { at_most: duration + init }
        }
        (_, billing) => billing,
    };
    let succeeded = matches!(&outcome, Ok(FragmentResponse { outcome: Ok(_), .. }));
    let log_tail = if succeeded { String::new() } else { log_tail };
    Invocation { outcome, billing, cold: Some(cold), log_tail }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::fleet::framing::tests::request;

    #[tokio::test]
    async fn an_attempt_whose_task_is_lost_is_booked_at_its_bound() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = ProcessesConfig {
            program: "sleep".into(),
            args: vec!["60".into()],
            processes_max: 1,
            memory_bytes: 1 << 30,
            cores: 1,
            temp_folder: folder.path().to_owned(),
            env: Vec::new(),
        };
        let processes = Processes::start(config).await.expect("a port");
        // The attempt's task runs on a runtime that ends before the attempt.
        let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let other = other.expect("a runtime");
        let mut attempt = processes.invoke(request(Duration::from_secs(30)));
        let entered = other.enter();
        assert!((&mut attempt).now_or_never().is_none());
        drop(entered);
        other.shutdown_background();
        let Invocation { outcome, billing, .. } = attempt.await;
        assert_eq!(outcome.expect_err("it is lost").kind, InvokeErrorKind::Stopped);
        let Billing::Bounded { at_most } = billing else { panic!("{billing:?}") };
        assert!((29.0..=31.0).contains(&at_most.as_secs_f64()), "{at_most:?}");
    }
}
