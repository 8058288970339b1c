//! Outcome of an attempt, from Lambda's answer. Pure: it sends nothing.

use std::error::Error;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_lambda::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_lambda::operation::invoke::InvokeError as ServiceError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;

use super::report_line::{ReportLine, init_failed};
use crate::attempt::{Billing, InvokeError, InvokeErrorKind as Kind};
use crate::error::with_causes;
use crate::fleet::framing::FramedRequest;
use crate::storage::aws::NoCredentials;

/// Payload of a function error.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FunctionError {
    error_type: String,
    error_message: String,
}

/// Decodes the end of an invocation's log.
pub(super) fn log_tail(encoded: Option<&str>) -> String {
    let bytes: Vec<u8> = encoded.and_then(|encoded| BASE64_STANDARD.decode(encoded).ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Finds the kind of a function's failure from Lambda's error type, message and log.
pub(super) fn function_failure(framed: &FramedRequest, payload: &[u8], log: &str) -> InvokeError {
    let FunctionError { error_type, error_message } = serde_json::from_slice(payload).unwrap_or_default();
    let report = ReportLine::find(log);
    if error_type == "Function.ResponseSizeTooLarge" {
        return framed.response_too_large();
    }
    if error_type == "Sandbox.Timedout" || error_message.contains("Task timed out after") {
        let hint = "raise timeout_seconds in Terraform, or use smaller fragments (fragment_bytes_target)";
        let message = format!("{}: {error_message}", framed.timed_out());
        return InvokeError::new(Kind::TimedOut, message).with_hint(Some(hint));
    }
    let told = if error_message.is_empty() { error_type } else { error_message };
    if init_failed(log) {
        return InvokeError::new(Kind::InitFailed, format!("the function's environment did not start: {told}"));
    }
    let is_killed = told.contains("signal: killed");
    if let Some(report) = report.filter(|report| is_killed && report.is_memory_exhausted()) {
        let message = format!("the function was killed for its memory: it used all of its {} MB", report.memory_mb);
        let hint = "use smaller fragments (fragment_bytes_target) or a function with more memory";
        return InvokeError::new(Kind::OutOfMemory, message).with_hint(Some(hint));
    }
    framed.crashed(told)
}

/// Returns the charge for an invocation that came back. `took` is its time from outside.
pub(super) fn billing(log: &str, took: Duration) -> Billing {
    match ReportLine::find(log) {
        Some(ReportLine { billed, init, memory_mb, .. }) => {
            Billing::Reported { duration: billed, init: init.unwrap_or_default(), memory_mb }
        }
        None => Billing::Metered { duration: took, init: Duration::ZERO },
    }
}

/// Call that Lambda refused or did not answer.
pub(super) struct Refusal {
    pub error: InvokeError,
    /// True if the function may have run.
    pub may_have_run: bool,
}

/// Describes a call that Lambda refused or did not answer.
pub(super) fn refusal(function: &str, error: &SdkError<ServiceError, HttpResponse>) -> Refusal {
    if let Some(none) = no_credentials(error) {
        let error = InvokeError::new(Kind::AccessDenied, none.to_string()).with_hint(Some(NoCredentials::HINT));
        return Refusal { error, may_have_run: false };
    }
    let failed = |kind, what: &str| InvokeError::new(kind, format!("function `{function}`: {what}"));
    let Some(response) = error.raw_response() else {
        let refused = cause::<io::Error>(error).is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        // Only connecting has a time-out of its own.
        let unconnected = matches!(error, SdkError::DispatchFailure(failure) if failure.is_timeout());
        let what = format!("Lambda could not be reached: {}", with_causes(error));
        let hint = Some("check the network, the region and lambda.endpoint");
        let error = failed(Kind::Unavailable, &what).with_hint(hint);
        return Refusal { error, may_have_run: !refused && !unconnected };
    };
    let (status, code) = (response.status().as_u16(), error.code().unwrap_or("no code"));
    let told = format!("{code} ({status}): {}", error.message().unwrap_or("no message"));
    let kind = match (status, code) {
        (_, "ExpiredTokenException" | "UnrecognizedClientException" | "InvalidSignatureException") | (401 | 403, _) => {
            Kind::AccessDenied
        }
        (404, _) => Kind::NotDeployed,
        (413, _) => Kind::RequestTooLarge,
        (429, _) => Kind::Throttled,
        // The function is being created or updated, or Lambda itself failed.
        (409 | 500.., _) => Kind::Unavailable,
        _ => Kind::Protocol,
    };
    let hint = match kind {
        Kind::AccessDenied => Some("check the credentials (`gust doctor`) and that they may lambda:InvokeFunction"),
        Kind::NotDeployed => {
            Some("deploy it (`terraform -chdir=infra apply`) and name it under [lambda], in its own region")
        }
        _ => None,
    };
    // A server error can hide an invocation that ran. A refusal cannot.
    Refusal { error: failed(kind, &told).with_hint(hint), may_have_run: status >= 500 }
}

/// Returns the fault of the credentials, if a call failed for them.
pub(super) fn no_credentials(error: &(dyn Error + 'static)) -> Option<NoCredentials> {
    cause::<CredentialsError>(error).map(NoCredentials::from)
}

/// Returns the first cause of a type.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut cause = Some(error);
    for _ in 0..32 {
        let current = cause?;
        if let Some(found) = current.downcast_ref::<E>() {
            return Some(found);
        }
        cause = current.source();
    }
    None
}
