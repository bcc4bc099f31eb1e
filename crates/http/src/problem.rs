//! Errors of the interface: `application/problem+json` (RFC 9457).

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::calls::Stopping;
use super::guard::Refusal;
use hs100d_core::payload;

/// The type of a problem document.
pub(super) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An error, as its client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    result: Option<Value>,
}

#[derive(Serialize)]
struct ProblemDocument<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

impl Problem {
    /// `detail` is one sentence: what is wrong, and what to do.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), result: None }
    }

    /// With the document that MQTT would have published.
    pub(crate) fn with_result(self, result: Value) -> Self {
        Self { result: Some(result), ..self }
    }
}

impl From<Stopping> for Problem {
    fn from(stopping: Stopping) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, stopping.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status(), refusal.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail, result } = self;
        let title = status.canonical_reason().unwrap_or("Error");
        let body =
            payload::json(&ProblemDocument { title, status: status.as_u16(), detail: &detail, result });
        (status, [(CONTENT_TYPE, PROBLEM_JSON)], body).into_response()
    }
}
