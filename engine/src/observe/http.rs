//! `/metrics`, `/healthz`, `/readyz` and `/status`, on loopback by default.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use super::labels::DelayPage;
use super::latency::Latency;
use super::metrics::{self, LATENCY_BUCKETS_SECONDS, ROWS_BUCKETS, name};
use super::status::StatusBoard;
use crate::error::{Error, Result};

/// How often histograms fold their samples; without it they pile up.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Installs the process's recorder. Only once per process; later calls get the first one's handle.
pub fn install_recorder() -> Result<PrometheusHandle> {
    static HANDLE: std::sync::OnceLock<PrometheusHandle> = std::sync::OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let internal = |error: metrics_exporter_prometheus::BuildError| {
        Error::internal("the metrics recorder cannot start").with_source(error)
    };
    let handle = PrometheusBuilder::new()
        .set_buckets(&LATENCY_BUCKETS_SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(name::EPOCH_ROWS.to_owned()), &ROWS_BUCKETS))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(internal)?;
    metrics::describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Histograms that are kept whole, beside those of the recorder.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    /// From produce to emission.
    pub latency: Latency,
    /// From a row to its label.
    pub delays: DelayPage,
}

/// What the handlers read.
#[derive(Clone)]
struct Shared {
    status: StatusBoard,
    metrics: Arc<PrometheusHandle>,
    pages: Pages,
}

/// Folds the samples of histograms until `stop`, whether anybody asks for them or not.
pub async fn upkeep(metrics: PrometheusHandle, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(UPKEEP_INTERVAL) => metrics.run_upkeep(),
        }
    }
}

/// Serves until `stop`. Returns the address in use (port 0 picks one) and the task's future.
pub async fn serve(
    listen: SocketAddr,
    status: StatusBoard,
    handle: PrometheusHandle,
    pages: Pages,
    stop: CancellationToken,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send)> {
    let unavailable = |error: std::io::Error| {
        Error::invalid(format!("cannot serve metrics and status on {listen}; choose another `http: {{ listen: ... }}` or switch it off with `listen: off`"))
            .with_source(error)
    };
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(unavailable)?;
    let address = listener.local_addr().map_err(unavailable)?;
    let shared = Shared { status, metrics: Arc::new(handle), pages };
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(status_page))
        .with_state(shared);
    let server = async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::warn!(%error, "the HTTP server ended");
        }
    };
    Ok((address, server))
}

async fn metrics_page(State(shared): State<Shared>) -> Response {
    let page = shared.metrics.render() + &shared.pages.latency.exposition() + &shared.pages.delays.text();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

async fn ready(State(shared): State<Shared>) -> Response {
    if shared.status.read().ready {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: partitions are not assigned yet\n").into_response()
    }
}

async fn status_page(State(shared): State<Shared>) -> Response {
    axum::Json(shared.status.read()).into_response()
}
