//! `/metrics`, `/healthz` and `/readyz` over HTTP/1.
//!
//! `/healthz` says that the process lives and answers; `/readyz` that it does its work, or what is missing.

use std::{convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, http::HeaderValue, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tokio_util::sync::CancellationToken;

use super::{Health, Metrics};
use crate::escape;

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take for its request, and a connection may last.
const HEADERS: Duration = Duration::from_secs(5);
const CONNECTION: Duration = Duration::from_secs(60);

/// Serves until `shutdown`; connections that are open then are cut.
pub async fn serve(listener: TcpListener, health: Health, shutdown: CancellationToken) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, most likely: accepting again at once would only spin.
                    time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (health, shutdown) = (health.clone(), shutdown.clone());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = time::timeout(CONNECTION, connection(stream, health)) => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, health: Health) {
    let service = service_fn(move |request| {
        let response = answer(&request, &health);
        async move { Ok::<_, Infallible>(response) }
    });
    // What a client does wrong is its own affair.
    _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => {
            let mut response = text(StatusCode::OK, Metrics::global().render());
            let version = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, version);
            response
        }
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => {
            let status = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, readiness(health))
        }
        _ => text(StatusCode::NOT_FOUND, "here are /metrics, /healthz and /readyz\n".to_owned()),
    }
}

fn readiness(health: &Health) -> String {
    let mut lines = String::new();
    let remarks = health.remarks();
    for (name, missing) in health.components() {
        _ = match (missing, remarks.get(name)) {
            (None, None) => writeln!(lines, "{name}: ready"),
            (None, Some(remark)) => writeln!(lines, "{name}: ready, but {}", escape::guard(remark)),
            (Some(reason), _) => writeln!(lines, "{name}: not ready: {}", escape::guard(&reason)),
        };
    }
    lines
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use metrics::counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }

    #[tokio::test]
    async fn tells_health_readiness_and_metrics() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Health::new();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, health.clone(), shutdown.clone()));

        assert!(get(address, "/healthz").await.ends_with("\r\n\r\nok\n"));
        let log = health.component("log");
        health.component("ring").ready();
        log.not_ready("disk\x1b full");
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nlog: not ready: disk\\x1b full\nring: ready\n"), "{answer}");
        log.ready_but("nearly \x1bfull");
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nlog: ready, but nearly \\x1bfull\nring: ready\n"), "{answer}");
        log.ready();
        assert!(get(address, "/readyz").await.ends_with("\r\n\r\nlog: ready\nring: ready\n"));

        _ = Metrics::global();
        counter!("podtrail_http_test_total", "kind" => "a").increment(3);
        let answer = get(address, "/metrics").await;
        assert!(answer.contains("\npodtrail_http_test_total{kind=\"a\"} 3\n"), "{answer}");
        assert!(answer.contains("\npodtrail_build_info{version=\"0.1.0\"} 1\n"), "{answer}");
        assert!(answer.contains("\nprocess_resident_memory_bytes "), "{answer}");
        assert!(answer.contains("version=0.0.4"), "{answer}");

        assert!(get(address, "/else").await.starts_with("HTTP/1.1 404 "));
        let posted = ask(address, "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
        assert!(ask(address, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));

        shutdown.cancel();
        time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap();
    }
}
