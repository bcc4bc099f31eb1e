//! What there is: the table of paths, methods and handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, any, get, post};
use http::{StatusCode, Uri};

use super::calls::Caller;
use super::commands;
use super::document::{self, BridgeWithBroker, HistoryDocument, PlugDocument};
use super::guard::{Guard, Scope};
use super::history::DAY;
use super::metrics;
use super::middleware::{self, Gate};
use super::openapi;
use super::overview::{DaemonInfo, Overview, Selection};
use super::page;
use super::problem::Problem;
use super::request::{NamedPlug, Parameters, bad, no_plug};
use super::stream;
use hs100d_core::model::PlugName;

const HISTORY_QUERY: [&str; 1] = ["hours"];

/// What every handler may use.
#[derive(Debug, Clone)]
pub struct App {
    /// Asks the daemon's loop.
    pub caller: Caller,
    /// What can be shown without the loop.
    pub daemon_info: DaemonInfo,
    /// Who may do what at this listener.
    pub guard: Arc<Guard>,
}

/// For handlers in other files: they do not import this one.
impl FromRef<App> for Caller {
    fn from_ref(app: &App) -> Self {
        app.caller.clone()
    }
}

impl FromRef<App> for DaemonInfo {
    fn from_ref(app: &App) -> Self {
        app.daemon_info.clone()
    }
}

/// One row of the table.
pub(super) struct Endpoint {
    #[cfg_attr(not(test), expect(dead_code, reason = "tests compare it with the description"))]
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) scope: Scope,
    /// The parameters of its query, without the token.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests compare it with the description"))]
    pub(super) query: &'static [&'static str],
    handler: fn() -> MethodRouter<App>,
}

impl Endpoint {
    const fn new(
        method: &'static str,
        path: &'static str,
        scope: Scope,
        handler: fn() -> MethodRouter<App>,
    ) -> Self {
        Self { method, path, scope, query: &[], handler }
    }

    const fn with_query(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }
}

/// Everything that is served. `openapi.json` describes it.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint::new("GET", "/", Scope::Look, || get(page::page)),
    Endpoint::new("POST", "/", Scope::Change, || post(page::press)),
    Endpoint::new("GET", "/page.css", Scope::Look, || get(page::style)),
    Endpoint::new("GET", "/page.js", Scope::Look, || get(page::script)),
    Endpoint::new("GET", "/healthz", Scope::Health, || get(healthz)),
    Endpoint::new("GET", "/readyz", Scope::Health, || get(readyz)),
    Endpoint::new("GET", "/openapi.json", Scope::Look, || get(openapi::openapi)),
    Endpoint::new("GET", "/api/v1/bridge", Scope::Look, || get(bridge)),
    Endpoint::new("GET", "/api/v1/plugs", Scope::Look, || get(plugs)),
    Endpoint::new("GET", "/api/v1/plugs/{name}", Scope::Look, || get(plug)),
    Endpoint::new("GET", "/metrics", Scope::Look, || get(metrics::serve)),
    Endpoint::new("GET", "/api/v1/plugs/{name}/history", Scope::Look, || get(history))
        .with_query(&HISTORY_QUERY),
    Endpoint::new("POST", "/api/v1/plugs/{name}/set", Scope::Change, || post(commands::set))
        .with_query(&commands::SET_QUERY),
    Endpoint::new("POST", "/api/v1/plugs/{name}/on", Scope::Change, || post(commands::on))
        .with_query(&commands::SWITCH_QUERY),
    Endpoint::new("GET", "/api/v1/plugs/{name}/on", Scope::Change, || get(commands::on))
        .with_query(&commands::SWITCH_QUERY),
    Endpoint::new("POST", "/api/v1/plugs/{name}/off", Scope::Change, || post(commands::off))
        .with_query(&commands::SWITCH_QUERY),
    Endpoint::new("GET", "/api/v1/plugs/{name}/off", Scope::Change, || get(commands::off))
        .with_query(&commands::SWITCH_QUERY),
    Endpoint::new("POST", "/api/v1/plugs/{name}/toggle", Scope::Change, || post(commands::toggle))
        .with_query(&commands::SWITCH_QUERY),
    Endpoint::new("GET", "/api/v1/plugs/{name}/toggle", Scope::Change, || get(commands::toggle))
        .with_query(&commands::SWITCH_QUERY),
    Endpoint::new("GET", "/api/v1/events", Scope::Look, || get(stream::events)),
    Endpoint::new("POST", "/api/v1/bridge/discover", Scope::Change, || post(commands::discover)),
    Endpoint::new("POST", "/api/v1/bridge/refresh", Scope::Change, || post(commands::refresh)),
    Endpoint::new("POST", "/api/v1/bridge/reload", Scope::Change, || post(commands::reload)),
];

/// The router of the whole table.
pub fn router(app: App) -> Router {
    router_behind(Gate::new(Arc::clone(&app.guard)), app)
}

pub(super) fn router_behind(gate: Gate, app: App) -> Router {
    let gate = Arc::new(gate);
    let check = |scope| from_fn_with_state((Arc::clone(&gate), scope), middleware::check);
    let router = ENDPOINTS.iter().fold(Router::new(), |router, endpoint| {
        let Endpoint { path, scope, handler, .. } = endpoint;
        router.route(path, handler().layer(check(*scope)))
    });
    let unknown = any(|| async { StatusCode::NOT_FOUND }).layer(check(Scope::Look));
    router.fallback_service(unknown.with_state::<()>(())).layer(from_fn(middleware::finish)).with_state(app)
}

async fn healthz(State(app): State<App>) -> Result<StatusCode, Problem> {
    app.caller.overview(Selection::Bridge).await?;
    Ok(StatusCode::OK)
}

async fn readyz(State(app): State<App>) -> Result<StatusCode, Problem> {
    let overview = app.caller.overview(Selection::Bridge).await?;
    let is_ready = overview.snapshot.is_ready && overview.broker.link.is_ok();
    Ok(if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE })
}

async fn bridge(State(app): State<App>) -> Result<Response, Problem> {
    let overview = app.caller.overview(Selection::Bridge).await?;
    Ok(document::response(&BridgeWithBroker::of(&overview, &app.daemon_info)))
}

async fn plugs(State(app): State<App>) -> Result<Response, Problem> {
    let overview = app.caller.overview(Selection::Plugs).await?;
    Ok(document::response(&PlugDocument::all(&overview).collect::<Vec<_>>()))
}

async fn plug(State(app): State<App>, NamedPlug(name): NamedPlug) -> Result<Response, Problem> {
    let overview = app.caller.overview(Selection::Plug(name.clone())).await?;
    let plug = PlugDocument::all(&overview).next();
    plug.map(|plug| document::response(&plug)).ok_or_else(|| unknown(&name))
}

async fn history(State(app): State<App>, NamedPlug(name): NamedPlug, uri: Uri) -> Result<Response, Problem> {
    let span = span(&Parameters::of(&uri, &HISTORY_QUERY)?)?;
    let Overview { snapshot, histories, clock, .. } =
        app.caller.overview(Selection::Plug(name.clone())).await?;
    let plug = snapshot.plugs.first().zip(histories.first()).ok_or_else(|| unknown(&name))?;
    Ok(document::response(&HistoryDocument::of(plug.0, plug.1, span, clock)))
}

/// The time span of `hours`: the last day if it is not given.
fn span(query: &Parameters<'_>) -> Result<Duration, Problem> {
    let Some(hours) = query.get("hours") else { return Ok(DAY) };
    let span = hours.parse().ok().map(|hours: u8| Duration::from_secs(u64::from(hours) * 3600));
    let span = span.filter(|span| !span.is_zero() && *span <= DAY);
    span.ok_or_else(|| bad("hours: use a whole number, 1 to 24"))
}

fn unknown(name: &PlugName) -> Problem {
    no_plug(&format!("there is no plug called {name}"))
}
