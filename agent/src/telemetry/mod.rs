//! Logs to stderr, metrics for Prometheus, `/healthz` and `/readyz`.
