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
use super::overview::{DaemonInfo, Overview, Selection};
use super::page;
use super::problem::Problem;
use super::request::{NamedPlug, Parameters, bad, no_plug};
use super::stream;
use crate::model::PlugName;

/// What every handler may use.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) caller: Caller,
    pub(crate) daemon_info: DaemonInfo,
    pub(crate) guard: Arc<Guard>,
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
    pub(super) path: &'static str,
    pub(super) scope: Scope,
    handler: fn() -> MethodRouter<App>,
}

/// Everything that is served.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint { path: "/", scope: Scope::Look, handler: || get(page::page) },
    Endpoint { path: "/", scope: Scope::Change, handler: || post(page::press) },
    Endpoint { path: "/page.css", scope: Scope::Look, handler: || get(page::style) },
    Endpoint { path: "/page.js", scope: Scope::Look, handler: || get(page::script) },
    Endpoint { path: "/healthz", scope: Scope::Health, handler: || get(healthz) },
    Endpoint { path: "/readyz", scope: Scope::Health, handler: || get(readyz) },
    Endpoint { path: "/api/v1/bridge", scope: Scope::Look, handler: || get(bridge) },
    Endpoint { path: "/api/v1/plugs", scope: Scope::Look, handler: || get(plugs) },
    Endpoint { path: "/api/v1/plugs/{name}", scope: Scope::Look, handler: || get(plug) },
    Endpoint { path: "/metrics", scope: Scope::Look, handler: || get(metrics::serve) },
    Endpoint { path: "/api/v1/plugs/{name}/history", scope: Scope::Look, handler: || get(history) },
    Endpoint { path: "/api/v1/plugs/{name}/set", scope: Scope::Change, handler: || post(commands::set) },
    Endpoint { path: "/api/v1/plugs/{name}/on", scope: Scope::Change, handler: || post(commands::on) },
    Endpoint { path: "/api/v1/plugs/{name}/on", scope: Scope::Change, handler: || get(commands::on) },
    Endpoint { path: "/api/v1/plugs/{name}/off", scope: Scope::Change, handler: || post(commands::off) },
    Endpoint { path: "/api/v1/plugs/{name}/off", scope: Scope::Change, handler: || get(commands::off) },
    Endpoint {
        path: "/api/v1/plugs/{name}/toggle",
        scope: Scope::Change,
        handler: || post(commands::toggle),
    },
    Endpoint { path: "/api/v1/plugs/{name}/toggle", scope: Scope::Change, handler: || get(commands::toggle) },
    Endpoint { path: "/api/v1/events", scope: Scope::Look, handler: || get(stream::events) },
    Endpoint { path: "/api/v1/bridge/discover", scope: Scope::Change, handler: || post(commands::discover) },
    Endpoint { path: "/api/v1/bridge/refresh", scope: Scope::Change, handler: || post(commands::refresh) },
    Endpoint { path: "/api/v1/bridge/reload", scope: Scope::Change, handler: || post(commands::reload) },
];

/// The router of the whole table.
pub(crate) fn router(app: App) -> Router {
    router_behind(Gate::new(Arc::clone(&app.guard)), app)
}

pub(super) fn router_behind(gate: Gate, app: App) -> Router {
    let gate = Arc::new(gate);
    let check = |scope| from_fn_with_state((Arc::clone(&gate), scope), middleware::check);
    let router = ENDPOINTS.iter().fold(Router::new(), |router, endpoint| {
        let Endpoint { path, scope, handler } = endpoint;
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
    let span = span(&Parameters::of(&uri, &["hours"])?)?;
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
