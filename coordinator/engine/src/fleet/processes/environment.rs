//! Environment as one child process: it is started, given one invocation at a time, and stopped.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use fragment_fn::bootstrap::FOLDER_VARIABLE;
use tempfile::TempDir;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ProcessesConfig;
use super::log_tail::LogTail;
use super::runtime_api::{Mailbox, PendingInvocation, RuntimeApi, RuntimeReport};
use crate::attempt::{InvokeError, InvokeErrorKind};
use crate::fleet::framing::{self, FramedRequest};

/// Time for a child to ask for its first invocation. AWS Lambda gives up on an environment then, too.
const INIT_MAX: Duration = Duration::from_secs(10);

/// Time for a child from its answer to its next request for work.
const READY_MAX: Duration = Duration::from_secs(10);

/// Least number of threads in a child's runtime: one computes without a pause, one keeps the deadline.
const WORKERS_MIN: usize = 2;

/// A child process. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct ProcessEnvironment {
    // Fields drop in this order: the process is killed before its folder goes.
    child: Child,
    mailbox: Mailbox,
    log: LogTail,
    folder: TempDir,
    /// Pipe that is held open. Its end tells the child that this process is gone, for any reason.
    _stdin: Option<ChildStdin>,
}

/// Event that ends the wait for a child.
enum ProcessSignal {
    Reported(RuntimeReport),
    Exited(Option<ExitStatus>),
    Late,
    Stopped,
}

/// Condition of a child after an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Alive,
    /// The child has ended, or cannot be trusted with another invocation.
    Unusable,
}

/// Failure of a child to start.
pub(super) struct StartFailure {
    pub error: InvokeError,
    /// End of its stderr.
    pub log_tail: String,
}

/// Outcome of one invocation of a child.
pub(super) struct RunOutcome {
    pub answer: Result<bytes::Bytes, InvokeError>,
    pub condition: Condition,
}

impl ProcessEnvironment {
    /// Starts a child, and returns when it has asked for its first invocation.
    ///
    /// # Errors
    /// [`StartFailure`] if it did not start.
    pub async fn start(
        config: &ProcessesConfig,
        api: &RuntimeApi,
        framed: &FramedRequest,
        stop: &CancellationToken,
    ) -> Result<Self, StartFailure> {
        let mut environment = Self::spawn(config, api).map_err(|error| {
            let message = format!("cannot start the function program `{}`: {error}", config.program.display());
            StartFailure { error: InvokeError::new(InvokeErrorKind::InitFailed, message), log_tail: String::new() }
        })?;
        let init_end = Instant::now() + INIT_MAX;
        let failed = |reason: String| {
            let message = format!("function program `{}` did not start: {reason}", config.program.display());
            InvokeError::new(InvokeErrorKind::InitFailed, message)
        };
        let error = loop {
            match environment.next_signal(init_end.min(framed.deadline), stop).await {
                ProcessSignal::Reported(RuntimeReport::Ready) => return Ok(environment),
                ProcessSignal::Reported(RuntimeReport::InitFailed(report)) => break failed(report),
                ProcessSignal::Reported(
                    RuntimeReport::Answered(_) | RuntimeReport::TooLarge | RuntimeReport::Failed(_),
                ) => {}
                ProcessSignal::Exited(status) => break failed(describe(status)),
                ProcessSignal::Late if init_end <= framed.deadline => {
                    break failed(format!("it asked for no invocation within {} s", INIT_MAX.as_secs()));
                }
                ProcessSignal::Late => break framed.waited(),
                ProcessSignal::Stopped => break framing::stopped(),
            }
        };
        Err(StartFailure { error, log_tail: environment.stop().await })
    }

    fn spawn(config: &ProcessesConfig, api: &RuntimeApi) -> std::io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("gust-function-").tempdir_in(&config.temp_folder)?;
        let (url, mailbox) = api.open();
        let mut command = Command::new(&config.program);
        command
            .args(&config.args)
            .env("AWS_LAMBDA_FUNCTION_NAME", "gust")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", (config.memory_bytes >> 20).to_string())
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/gust")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "local")
            .env("TOKIO_WORKER_THREADS", config.cores.max(WORKERS_MIN).to_string())
            .envs(config.env.iter().map(|(name, value)| (name, value)))
            .env("AWS_LAMBDA_RUNTIME_API", url)
            .env(FOLDER_VARIABLE, folder.path())
            .env("TMPDIR", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal then reaches this process only, which stops its children in order.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().ok_or_else(|| std::io::Error::other("its stderr is not a pipe"))?;
        let log = LogTail::follow(stderr, child.id().unwrap_or_default());
        // The pipe is taken, because waiting for a child closes the stdin that it still has.
        let stdin = child.stdin.take();
        Ok(Self { child, mailbox, log, folder, _stdin: stdin })
    }

    /// Returns true if the process still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Prepares a child that has served before for the next invocation.
    pub fn renew(&mut self) {
        self.mailbox.clear();
        self.log.clear();
    }

    /// Runs one invocation on a ready child, to its end or until the platform stops it.
    pub async fn run(&mut self, framed: &FramedRequest, stop: &CancellationToken) -> RunOutcome {
        self.mailbox.send(PendingInvocation { payload: framed.payload.clone(), deadline: framed.stop_at_wall }).await;
        let alive = |answer| RunOutcome { answer, condition: Condition::Alive };
        let unusable = |error| RunOutcome { answer: Err(error), condition: Condition::Unusable };
        loop {
            return match self.next_signal(framed.stop_at, stop).await {
                ProcessSignal::Reported(RuntimeReport::Ready) => continue,
                ProcessSignal::Reported(RuntimeReport::Answered(answer)) => alive(Ok(answer)),
                ProcessSignal::Reported(RuntimeReport::TooLarge) => alive(Err(framed.response_too_large())),
                ProcessSignal::Reported(RuntimeReport::Failed(report)) => alive(Err(framed.crashed(report))),
                ProcessSignal::Reported(RuntimeReport::InitFailed(report)) => unusable(framed.crashed(report)),
                ProcessSignal::Exited(status) => unusable(framed.crashed(describe(status))),
                ProcessSignal::Late => unusable(framed.timed_out()),
                ProcessSignal::Stopped => unusable(framing::stopped()),
            };
        }
    }

    /// Waits until the child asks for its next invocation. Only then is it free, as on AWS Lambda.
    pub async fn becomes_ready(&mut self, stop: &CancellationToken) -> bool {
        matches!(
            self.next_signal(Instant::now() + READY_MAX, stop).await,
            ProcessSignal::Reported(RuntimeReport::Ready)
        )
    }

    /// Returns the end of the child's stderr since [`Self::renew`].
    pub fn log_tail(&self) -> String {
        self.log.text()
    }

    /// Kills the process if it still runs, waits for its end, and removes its folder. Returns the end of its stderr.
    pub async fn stop(mut self) -> String {
        // The kill fails only for a process that has ended.
        let _ = self.child.kill().await;
        self.log.drain().await;
        let log_tail = self.log.text();
        if let Err(error) = self.folder.close() {
            tracing::debug!(%error, "temporary folder of a function not removed");
        }
        log_tail
    }

    async fn next_signal(&mut self, until: Instant, stop: &CancellationToken) -> ProcessSignal {
        tokio::select! {
            // Reports that a child made before its end come first.
            biased;
            report = self.mailbox.next_report() => ProcessSignal::Reported(report),
            status = self.child.wait() => ProcessSignal::Exited(status.ok()),
            () = stop.cancelled() => ProcessSignal::Stopped,
            () = sleep_until(until) => ProcessSignal::Late,
        }
    }
}

fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "its process ended".to_owned(), |status| format!("its process ended with {status}"))
}
