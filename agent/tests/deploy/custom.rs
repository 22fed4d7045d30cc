//! Extensions of the API, as far as they are used here: cert-manager's `Issuer` and `Certificate` (v1) and the Prometheus
//! operator's `ServiceMonitor` and `PrometheusRule` (v1). A field that is not here is refused: look it up, and add it.
#![expect(dead_code, reason = "only read to see whether it can be")]

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

pub(crate) fn wrong(object: &Value) -> Vec<String> {
    let kind =
        (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
    let read = match kind {
        ("cert-manager.io/v1", "Issuer") => read::<Issuer>(object),
        ("cert-manager.io/v1", "Certificate") => read::<Certificate>(object),
        ("monitoring.coreos.com/v1", "ServiceMonitor") => read::<ServiceMonitor>(object),
        ("monitoring.coreos.com/v1", "PrometheusRule") => read::<PrometheusRule>(object),
        (version, kind) => Err(format!(": nothing is known of {version} {kind}")),
    };
    read.err().into_iter().collect()
}

fn read<T: DeserializeOwned>(object: &Value) -> Result<(), String> {
    serde_json::from_value::<Object<T>>(object.clone()).map(|_| ()).map_err(|e| format!(": {e}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Object<T> {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metadata {
    name: String,
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Issuer {
    SelfSigned {},
    Ca(Ca),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ca {
    secret_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Certificate {
    #[serde(rename = "isCA", default)]
    is_ca: bool,
    common_name: Option<String>,
    secret_name: String,
    duration: String,
    renew_before: Option<String>,
    private_key: PrivateKey,
    #[serde(default)]
    dns_names: Vec<String>,
    #[serde(default)]
    uris: Vec<String>,
    #[serde(default)]
    usages: Vec<Usage>,
    issuer_ref: IssuerRef,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PrivateKey {
    algorithm: Algorithm,
    size: u32,
    rotation_policy: Option<RotationPolicy>,
}

#[derive(Deserialize)]
enum Algorithm {
    #[serde(rename = "ECDSA")]
    Ecdsa,
}

#[derive(Deserialize)]
enum RotationPolicy {
    Always,
}

#[derive(Deserialize)]
enum Usage {
    #[serde(rename = "client auth")]
    ClientAuth,
    #[serde(rename = "server auth")]
    ServerAuth,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IssuerRef {
    name: String,
    kind: IssuerKind,
}

#[derive(Deserialize)]
enum IssuerKind {
    Issuer,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceMonitor {
    selector: Selector,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Endpoint {
    port: String,
    interval: String,
    #[serde(default)]
    relabelings: Vec<Relabeling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Relabeling {
    source_labels: Vec<String>,
    target_label: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PrometheusRule {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    r#for: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}
