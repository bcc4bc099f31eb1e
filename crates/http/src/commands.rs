//! The handlers that change something: commands to plugs, and requests to the daemon.

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use serde_json::{Map, Value};

use super::calls::{Caller, Stopping};
use super::document::{self, AcceptedDocument};
use super::overview::Selection;
use super::problem::Problem;
use super::request::{Accepted, ChangeRequest, NamedPlug, Parameters, bad, command_body, no_plug};
use hs100d_core::bridge::event::{CommandResult, Ended};
use hs100d_core::bridge::failures::{LastError, PlugError};
use hs100d_core::model::{PlugCommand, PlugName, RelayState};
use hs100d_core::payload;
use hs100d_core::payload::command::{self, BridgeRequest, CommandPart, Parsed};
use hs100d_core::payload::document::{ResponseDocument, ResultDocument};

/// The parameters of `set`.
pub(super) const SET_QUERY: [&str; 1] = ["wait"];
/// Those of `on`, `off` and `toggle`.
pub(super) const SWITCH_QUERY: [&str; 2] = ["for", "wait"];

/// `POST /api/v1/plugs/{name}/set`: the JSON or the word of `<plug>/set`.
pub(super) async fn set(NamedPlug(plug): NamedPlug, request: ChangeRequest) -> Result<Response, Problem> {
    let ChangeRequest { caller, uri, headers, body } = request;
    let waits = waits(&Parameters::of(&uri, &SET_QUERY)?)?;
    let parsed = command::command(CommandPart::All, &command_body(&headers, &body)?);
    ApiCommand { caller, plug, waits, accepted: Accepted::of(&headers) }.run(parsed).await
}

/// `/api/v1/plugs/{name}/on`
pub(super) async fn on(plug: NamedPlug, request: ChangeRequest) -> Result<Response, Problem> {
    switch("on", plug, request).await
}

/// `/api/v1/plugs/{name}/off`
pub(super) async fn off(plug: NamedPlug, request: ChangeRequest) -> Result<Response, Problem> {
    switch("off", plug, request).await
}

/// `/api/v1/plugs/{name}/toggle`
pub(super) async fn toggle(plug: NamedPlug, request: ChangeRequest) -> Result<Response, Problem> {
    switch("toggle", plug, request).await
}

/// By `POST`, and by `GET` where the guard lets that pass.
async fn switch(word: &str, NamedPlug(plug): NamedPlug, request: ChangeRequest) -> Result<Response, Problem> {
    let ChangeRequest { caller, uri, headers, body } = request;
    let query = Parameters::of(&uri, &SWITCH_QUERY)?;
    let mut fields = fields(word, &headers, &body)?;
    if let Some(lasting) = query.get("for") {
        fields.insert("for".to_owned(), lasting.into());
    }
    let parsed = command::command(CommandPart::All, Value::Object(fields).to_string().as_bytes());
    ApiCommand { caller, plug, waits: waits(&query)?, accepted: Accepted::of(&headers) }.run(parsed).await
}

/// What a form says beside the word in the path.
fn fields(word: &str, headers: &HeaderMap, body: &Bytes) -> Result<Map<String, Value>, Problem> {
    let body = command_body(headers, body)?;
    let mut fields = match body.trim_ascii() {
        [] => Map::new(),
        body => serde_json::from_slice(body)
            .ok()
            .filter(|fields: &Map<_, _>| !fields.contains_key("state"))
            .ok_or_else(|| {
                bad(format!(
                    "{word} takes no body but the fields of a form, such as for=30m: send a command to `set`"
                ))
            })?,
    };
    fields.insert("state".to_owned(), Value::String(word.to_owned()));
    Ok(fields)
}

/// Whether the request waits for the result: `wait` is 0 or 1.
fn waits(query: &Parameters<'_>) -> Result<bool, Problem> {
    match query.get("wait") {
        None | Some("1") => Ok(true),
        Some("0") => Ok(false),
        Some(_) => Err(bad("wait: use 0 to be answered at once, or 1 to wait for the result")),
    }
}

/// One command to one plug.
struct ApiCommand {
    caller: Caller,
    plug: PlugName,
    waits: bool,
    accepted: Accepted,
}

impl ApiCommand {
    async fn run(self, parsed: Parsed<PlugCommand>) -> Result<Response, Problem> {
        let Self { caller, plug, waits, accepted } = self;
        let Parsed { result, transaction } = parsed;
        let transaction = transaction.as_ref();
        let command = match result {
            Ok(command) => command,
            Err(why) => {
                let document = payload::value(&ResultDocument::refusal(&why, transaction));
                return Err(bad(why.clone()).with_result(document));
            }
        };
        let result = caller.command(plug, command).await?;
        if !waits {
            return Ok(accepted_only(accepted, transaction));
        }
        // The bridge ends every command within its time.
        let result = result.await.map_err(|_| Stopping)?;
        if accepted == Accepted::Page {
            return Ok(back_to_page(PAGE));
        }
        match problem_of(&result, &caller).await {
            Some(problem) => {
                Err(problem.with_result(payload::value(&ResultDocument::of(&result, transaction))))
            }
            None if accepted == Accepted::Text => Ok(text(result.state)),
            None => Ok(document::response(&ResultDocument::of(&result, transaction))),
        }
    }
}

/// The command is on its way; what becomes of it is not awaited.
fn accepted_only(accepted: Accepted, transaction: Option<&Value>) -> Response {
    match accepted {
        Accepted::Page => back_to_page(PAGE),
        Accepted::Text => (StatusCode::ACCEPTED, plain_text(), "accepted").into_response(),
        Accepted::Json => {
            (StatusCode::ACCEPTED, document::response(&AcceptedDocument::new(transaction))).into_response()
        }
    }
}

/// The problem of a command that was not done.
async fn problem_of(result: &CommandResult, caller: &Caller) -> Option<Problem> {
    let (status, detail) = match &result.ended {
        Ended::Ok => return None,
        Ended::Superseded => {
            let detail = "a newer command to this plug came first: send it again if you want it all the same";
            (StatusCode::CONFLICT, detail.to_owned())
        }
        Ended::NoPlug(why) => return Some(no_plug(why)),
        Ended::Unfit(why) => (StatusCode::BAD_REQUEST, (*why).to_owned()),
        Ended::Error(why) => {
            let remedy = remedy(result, why, caller).await;
            (StatusCode::SERVICE_UNAVAILABLE, format!("{why}: {remedy}"))
        }
    };
    Some(Problem::new(status, detail))
}

/// What to do about a command that failed: what the plug's last error says, if that is still this command.
async fn remedy(result: &CommandResult, why: &str, caller: &Caller) -> String {
    const CHECK: &str = "`hs100d check --online` tries each route to it";
    let Ok(overview) = caller.overview(Selection::Plug(result.plug.clone())).await else {
        return CHECK.to_owned();
    };
    let error = overview.snapshot.plugs.first().and_then(|plug| plug.last_error.as_ref());
    let is_of_it =
        |error: &&LastError| matches!(&error.what, PlugError::Command { why: other, .. } if **other == *why);
    error.filter(is_of_it).and_then(LastError::remedy).unwrap_or_else(|| CHECK.to_owned())
}

/// The page, from the path of a plug. Relative, because a proxy may serve us below a path of its own.
const PAGE: &str = "../../../../";

fn back_to_page(page: &'static str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, HeaderValue::from_static(page))]).into_response()
}

fn plain_text() -> [(HeaderName, HeaderValue); 1] {
    [(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))]
}

/// The state alone, as it was read back.
fn text(state: Option<RelayState>) -> Response {
    let word = state.map(|state| state.to_string()).unwrap_or_default();
    (plain_text(), word).into_response()
}

/// `POST /api/v1/bridge/discover`
pub(super) async fn discover(request: ChangeRequest) -> Result<Response, Problem> {
    ask("discover", request).await
}

/// `POST /api/v1/bridge/refresh`
pub(super) async fn refresh(request: ChangeRequest) -> Result<Response, Problem> {
    ask("refresh", request).await
}

/// `POST /api/v1/bridge/reload`
pub(super) async fn reload(request: ChangeRequest) -> Result<Response, Problem> {
    ask("reload", request).await
}

/// A request to the daemon, as `bridge/request/…`.
async fn ask(name: &str, request: ChangeRequest) -> Result<Response, Problem> {
    let ChangeRequest { caller, uri, headers, body } = request;
    Parameters::of(&uri, &[])?;
    let Parsed { result, transaction } = command::request(name, &command_body(&headers, &body)?);
    let refused = |status, why: &str| {
        let document = payload::value(&ResponseDocument::of(Err(why), transaction.as_ref()));
        Problem::new(status, why).with_result(document)
    };
    let (done, failed) = match result {
        Ok(BridgeRequest::Ask(ask)) => (caller.request(ask).await?, StatusCode::NOT_FOUND),
        // The config file is wrong, or something in it cannot be started.
        Ok(BridgeRequest::Reload) => (caller.reload().await?, StatusCode::INTERNAL_SERVER_ERROR),
        Err(why) => return Err(refused(StatusCode::BAD_REQUEST, &why)),
    };
    match done {
        _ if Accepted::of(&headers) == Accepted::Page => Ok(back_to_page("../../../")),
        Ok(()) => Ok(document::response(&ResponseDocument::of(Ok(()), transaction.as_ref()))),
        Err(why) => Err(refused(failed, &why)),
    }
}
