//! Owns the answer to `GET /users/{id}`: a request to the host, its result as JSON, its errors as
//! HTTP statuses. Never knows which steps there are.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use docket_runtime::{ErrorKind, ExecutionError, Host, OutcomeError, Request, RequestError};

use crate::example::{EnrichedUser, UserId};

/// How long one answer may take. 2 s: its steps wait for 100 ms, and a client that has waited
/// longer than this has given up.
const DEADLINE: Duration = Duration::from_secs(2);

/// What the demonstration steps say of a user that they do not know.
const NOT_FOUND: &str = "user_not_found";

pub(crate) fn routes(host: Host) -> Router {
    Router::new().route("/users/{id}", get(user)).with_state(host)
}

/// Where the client leaves, axum drops this future, and with it the execution.
async fn user(State(host): State<Host>, Path(id): Path<String>) -> Result<Json<EnrichedUser>, Problem> {
    let request = Request::for_message::<EnrichedUser>().input(&UserId { id }).timeout(DEADLINE);
    let outcome = host.execute(request).await?;
    Ok(Json(outcome.message()?))
}

/// Why there is no user to show.
enum Problem {
    Refused(RequestError),
    Failed(OutcomeError),
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        Problem::Refused(error)
    }
}

impl From<OutcomeError> for Problem {
    fn from(error: OutcomeError) -> Self {
        Problem::Failed(error)
    }
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Problem::Refused(error) => status(error.kind()),
            Problem::Failed(OutcomeError::Execution(error)) if code(error) == Some(NOT_FOUND) => {
                StatusCode::NOT_FOUND
            }
            Problem::Failed(OutcomeError::Execution(error)) => status(error.kind()),
            // The modules agree on another type than this service was built with.
            Problem::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns what the client is told: the step's own words where it said why, otherwise the sentence
    /// of the error.
    fn message(&self) -> String {
        match self {
            Problem::Failed(OutcomeError::Execution(
                ExecutionError::Failed { source, .. } | ExecutionError::Aborted { source, .. },
            )) => source.to_string(),
            Problem::Refused(error) => error.to_string(),
            Problem::Failed(error) => error.to_string(),
        }
    }
}

/// Returns the word for machines that the failed step gave.
fn code(error: &ExecutionError) -> Option<&str> {
    match error {
        ExecutionError::Failed { source, .. } | ExecutionError::Aborted { source, .. } => source.code(),
        _ => None,
    }
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Guest => StatusCode::BAD_GATEWAY,
        ErrorKind::Cancelled => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        // Kinds that come later are ours to learn about.
        ErrorKind::Internal | _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What a client that gets no user gets instead.
#[derive(serde::Serialize)]
struct Body {
    error: String,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status(), Json(Body { error: self.message() })).into_response()
    }
}
