//! The function as a process. It asks the Lambda Runtime API for an invocation, answers it, and asks again.
//!
//! Payloads pass through as bytes: the handler decodes them once. The process ends when its Runtime API is gone. Where
//! [`FOLDER_VARIABLE`] is set, it also ends when its parent is gone. Non-goal: the meaning of a payload.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use lambda_runtime::tower::layer::layer_fn;
use lambda_runtime::{Error, LambdaEvent, LambdaInvocation, Runtime, service_fn};
use lambda_runtime_api_client::body::Body;
use lambda_runtime_api_client::{PooledClient, build_request};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::environment::{Environment, EnvironmentSettings};
use crate::logs::{log_lines, without_payloads};
use crate::panics::quiet_caught_panics;
use crate::{handler, stack};

/// Variable that names a folder of this process's own. Lambda does not set it.
///
/// With it, stdin is a pipe from the parent. At the pipe's end the process removes the folder and exits.
pub const FOLDER_VARIABLE: &str = "GUST_FUNCTION_FOLDER";

/// Variables that every Lambda environment defines and that the runtime needs.
const LAMBDA_VARIABLES: [&str; 4] = [
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
];

/// Reason for the process's end.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// There is no Runtime API: the program was started by hand.
    #[error(
        "this is gust's function: it runs fragments of queries on AWS Lambda or as a child of `gust`, and {variable} is not set"
    )]
    NotInLambda { variable: &'static str },
    /// The Runtime API is gone, or refuses a request.
    #[error("lambda runtime api: {0}")]
    RuntimeApi(Error),
    /// The process's threads cannot be started.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
}

impl BootstrapError {
    /// Returns the next step.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotInLambda { .. } => Some("run `gust query`, which starts it"),
            Self::RuntimeApi(_) | Self::Start(_) => None,
        }
    }

    /// Returns 2 where the user started the wrong program, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotInLambda { .. } => 2,
            Self::RuntimeApi(_) | Self::Start(_) => 1,
        }
    }
}

/// Runs a function's program to its end, on stacks that hold deep plans.
pub fn block_on<F>(program: impl FnOnce() -> F + Send) -> Result<(), BootstrapError>
where
    F: Future<Output = Result<(), BootstrapError>>,
{
    stack::on_big_stack(|| stack::runtime().map_err(BootstrapError::Start)?.block_on(program()))
}

/// Serves fragments until the Runtime API is gone.
pub async fn run() -> Result<(), BootstrapError> {
    quiet_caught_panics();
    let environment = Arc::new(Environment::new(EnvironmentSettings::default()));
    let handler = move |payload, deadline| {
        let environment = Arc::clone(&environment);
        async move { handler::handle(&environment, payload, deadline).await }
    };
    serve(handler).await
}

/// Serves fragments by any handler: request bytes and the platform's deadline in, response bytes out.
///
/// A panic of the handler ends the process, because the handler's state may be broken.
pub async fn serve<H, F>(handler: H) -> Result<(), BootstrapError>
where
    H: Fn(Bytes, SystemTime) -> F,
    F: Future<Output = Bytes>,
{
    let absent = LAMBDA_VARIABLES.into_iter().find(|name| std::env::var_os(name).is_none());
    if let Some(variable) = absent {
        return Err(BootstrapError::NotInLambda { variable });
    }
    log_to_stderr();
    let folder = std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from);
    if let Some(folder) = folder.clone() {
        exit_with_parent(folder);
    }
    let client = PooledClient::builder().build();
    let (handler, client) = (&handler, &client);
    let answer = move |invocation: LambdaInvocation| async move {
        let LambdaInvocation { body, context, .. } = invocation;
        let answer = handler(body, context.deadline()).await;
        post(client, &context.request_id, answer).await
    };
    // The runtime's own service would parse the payload and serialize the answer. The layer takes its place.
    let replaced = service_fn(|_: LambdaEvent<()>| async { Ok::<_, Error>(()) });
    let runtime = Runtime::new(replaced).layer(layer_fn(|_| service_fn(answer)));
    let ended = runtime.run().await.map_err(BootstrapError::RuntimeApi);
    // An idle process may notice the end of the Runtime API before the end of its stdin.
    if let Some(folder) = folder {
        let _ = std::fs::remove_dir_all(folder);
    }
    ended
}

async fn post(client: &PooledClient, request_id: &str, answer: Bytes) -> Result<(), Error> {
    let bytes = answer.len();
    let uri = format!("/2018-06-01/runtime/invocation/{request_id}/response");
    let request = build_request().method("POST").uri(uri).header("content-type", "application/json");
    let response = client.call(request.body(Body::from(answer))?).await?;
    if !response.status().is_success() {
        tracing::error!(request_id, bytes, status = %response.status(), "response refused");
    }
    Ok(())
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,fragment_fn=info"));
    let layer = tracing_subscriber::fmt::layer().with_writer(log_lines).with_ansi(false);
    let layer = layer.without_time().with_target(false).with_filter(without_payloads(filter));
    // It fails where the program already has a subscriber, which then stays.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

/// Exits when stdin ends. A killed parent cannot stop its children, and a busy child does not look at the Runtime API.
fn exit_with_parent(folder: PathBuf) {
    #[expect(clippy::disallowed_methods, reason = "nobody is left to answer, and a busy runtime would not end")]
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = std::fs::remove_dir_all(folder);
        std::process::exit(1);
    });
}
