//! Every object as a type of Kubernetes' published API, or of a well-known extension of it.
//!
//! Those types let fields pass that they do not know, and fill in what is missing. So each object is read and written again:
//! what is not the same was not understood.

use std::collections::BTreeSet;

use k8s_openapi::{
    Resource,
    api::{
        apps::v1::{DaemonSet, StatefulSet},
        core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding},
        scheduling::v1::PriorityClass,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{custom, everything};

/// What is wrong with an object.
pub(crate) fn wrong(object: &Value) -> Vec<String> {
    let is = |version: &str, kind: &str| object["apiVersion"] == version && object["kind"] == kind;
    macro_rules! of {
        ($($kind:ty),+) => {
            $(if is(<$kind>::API_VERSION, <$kind>::KIND) {
                return again::<$kind>(object);
            })+
        };
    }
    of!(
        DaemonSet,
        StatefulSet,
        ConfigMap,
        Namespace,
        Secret,
        Service,
        ServiceAccount,
        NetworkPolicy,
        PodDisruptionBudget,
        ClusterRole,
        ClusterRoleBinding,
        PriorityClass
    );
    custom::wrong(object)
}

fn again<T: Serialize + DeserializeOwned>(object: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    match serde_json::from_value::<T>(object.clone()) {
        Ok(read) => compare("", object, &serde_json::to_value(read).unwrap(), &mut wrong),
        Err(e) => wrong.push(e.to_string()),
    }
    wrong
}

fn compare(at: &str, told: &Value, read: &Value, wrong: &mut Vec<String>) {
    match (told, read) {
        (Value::Object(told), Value::Object(read)) => {
            let keys: BTreeSet<_> = told.keys().chain(read.keys()).collect();
            for key in keys {
                match (told.get(key), read.get(key)) {
                    (Some(told), Some(read)) => compare(&format!("{at}.{key}"), told, read, wrong),
                    (Some(_), None) => wrong.push(format!("{at}.{key}: there is no such field")),
                    (None, _) => wrong.push(format!("{at}.{key}: is missing")),
                }
            }
        }
        (Value::Array(told), Value::Array(read)) if told.len() == read.len() => {
            for (index, (told, read)) in told.iter().zip(read).enumerate() {
                compare(&format!("{at}[{index}]"), told, read, wrong);
            }
        }
        _ if told == read => {}
        _ => wrong.push(format!("{at}: {told} was read as {read}")),
    }
}

#[test]
fn every_object_is_of_a_published_type() {
    let mut wrong_ones = Vec::new();
    for (from, objects) in everything() {
        assert!(objects.len() > 10, "{from} has {} objects", objects.len());
        for object in objects {
            let name = format!("{from}: {} {}", object["kind"], object["metadata"]["name"]);
            wrong_ones.extend(wrong(&object).into_iter().map(|what| format!("{name}{what}")));
        }
    }
    assert!(wrong_ones.is_empty(), "{wrong_ones:#?}");
}

#[test]
fn what_is_misspelt_missing_or_of_another_type_is_seen() {
    let objects = crate::overlay("cert-manager");
    let broken = |kind: &str, name: &str, pointer: &str, value: Value| {
        let mut object = crate::object(&objects, kind, name).clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            parent.remove(key).unwrap();
        } else {
            parent.insert(key.to_owned(), value);
        }
        wrong(&object)
    };
    let agent = |pointer: &str, value| broken("DaemonSet", "podtrail-agent", pointer, value);
    let pod = "/spec/template/spec";
    assert_eq!(
        agent(&format!("{pod}/hostPid"), true.into()),
        [".spec.template.spec.hostPid: there is no such field"]
    );
    assert_eq!(
        agent(&format!("{pod}/containers/0/securityContext/capabilities/adds"), true.into()),
        [".spec.template.spec.containers[0].securityContext.capabilities.adds: there is no such field"]
    );
    assert_eq!(
        agent(&format!("{pod}/containers/0/name"), Value::Null),
        [".spec.template.spec.containers[0].name: is missing"]
    );
    assert_eq!(agent(&format!("{pod}/hostPID"), "yes".into()).len(), 1);
    assert_eq!(agent("/kind", "DemonSet".into()).len(), 1);
    assert_eq!(broken("Certificate", "podtrail-siem", "/spec/url", "x".into()).len(), 1);
    assert_eq!(broken("ServiceMonitor", "podtrail-agent", "/spec/selector", Value::Null).len(), 1);
    assert_eq!(
        broken("PrometheusRule", "podtrail", "/spec/groups/0/rules/0/expression", "x".into()).len(),
        1
    );
}
