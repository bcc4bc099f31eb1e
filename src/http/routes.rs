//! What there is: the table of paths, methods and handlers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, Path, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::calls::Caller;
use super::document::{BridgeWithBroker, PlugDocument};
use super::guard::{Guard, Scope};
use super::metrics;
use super::middleware::{self, Gate};
use super::overview::{DaemonInfo, Selection};
use super::page;
use super::problem::Problem;
use crate::model::PlugName;
use crate::payload;

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
struct Endpoint {
    path: &'static str,
    scope: Scope,
    handler: fn() -> MethodRouter<App>,
}

/// Everything that is served.
const ENDPOINTS: &[Endpoint] = &[
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
];

/// The router of the whole table.
pub(crate) fn router(app: App) -> Router {
    let gate = Arc::new(Gate::new(Arc::clone(&app.guard)));
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
    Ok(json(payload::json(&BridgeWithBroker::of(&overview, &app.daemon_info))))
}

async fn plugs(State(app): State<App>) -> Result<Response, Problem> {
    let overview = app.caller.overview(Selection::Plugs).await?;
    Ok(json(payload::json(&PlugDocument::all(&overview).collect::<Vec<_>>())))
}

async fn plug(State(app): State<App>, Path(name): Path<String>) -> Result<Response, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "there is no plug of this name");
    let name = PlugName::new(&name).map_err(|_| unknown())?;
    let overview = app.caller.overview(Selection::Plug(name)).await?;
    let plug = PlugDocument::all(&overview).next().ok_or_else(unknown)?;
    Ok(json(payload::json(&plug)))
}

fn json(body: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}
