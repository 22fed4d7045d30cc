//! The parts of the manifests fit one another, and the daemons.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use podtrail::{
    config::{
        agent::{AgentConfig, Flags as AgentFlags},
        collector::{CollectorConfig, Flags as CollectorFlags},
    },
    probe::capabilities,
};
use serde_json::Value;

use crate::{everything, list, object, overlay, text, with};

/// The pod template of a workload.
fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

fn workloads(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects.iter().filter(|object| ["DaemonSet", "StatefulSet"].iter().any(|kind| object["kind"] == *kind))
}

fn labels(value: &Value) -> BTreeMap<&str, &str> {
    value.as_object().unwrap().iter().map(|(key, value)| (key.as_str(), text(value))).collect()
}

/// Whether a selector's labels are all among a pod's.
fn selects(selector: &Value, workload: &Value) -> bool {
    let of = labels(&workload["spec"]["template"]["metadata"]["labels"]);
    labels(selector).into_iter().all(|(key, value)| of.get(key) == Some(&value))
}

fn ports(workload: &Value) -> BTreeMap<&str, u64> {
    let ports = list(&pod(workload)["containers"][0]["ports"]);
    ports.map(|port| (text(&port["name"]), port["containerPort"].as_u64().unwrap())).collect()
}

#[test]
fn the_agent_has_what_doctor_asks_for_on_each_kernel_and_nothing_else() {
    for (components, kernel) in
        [(&[][..], (5, 11)), (&[], (6, 1)), (&[], (7, 0)), (&["kernel-5.10"], (5, 10))]
    {
        let objects = with(components);
        let context =
            &pod(object(&objects, "DaemonSet", "podtrail-agent"))["containers"][0]["securityContext"];
        let mut added: Vec<_> = list(&context["capabilities"]["add"]).map(text).collect();
        added.sort_unstable();
        assert_eq!(added, capabilities(kernel), "on {kernel:?}");
    }
}

#[test]
fn nobody_is_privileged() {
    for (from, objects) in everything() {
        for workload in workloads(&objects) {
            let at = format!("{from}: {}", workload["metadata"]["name"]);
            let collector = workload["kind"] == "StatefulSet";
            for container in list(&pod(workload)["containers"]) {
                let context = &container["securityContext"];
                for (field, value) in [
                    ("privileged", false),
                    ("allowPrivilegeEscalation", false),
                    ("readOnlyRootFilesystem", true),
                ] {
                    assert_eq!(context[field], value, "{at}: {field}");
                }
                assert_eq!(context["capabilities"]["drop"][0], "ALL", "{at}");
                assert_eq!(collector, context["capabilities"]["add"].is_null(), "{at}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{at}: no limit of memory");
            }
            let seccomp =
                [&pod(workload)["securityContext"], &pod(workload)["containers"][0]["securityContext"]]
                    .map(|context| context["seccompProfile"]["type"] == "RuntimeDefault");
            assert!(seccomp.contains(&true), "{at}: no seccomp");
            assert_eq!(pod(workload)["securityContext"]["runAsNonRoot"] == true, collector, "{at}");
        }
        let mounts = list(&pod(object(&objects, "StatefulSet", "podtrail-collector"))["volumes"]);
        assert!(
            mounts.into_iter().all(|volume| volume["hostPath"].is_null()),
            "{from}: the collector sees its node"
        );
    }
}

#[test]
fn what_names_something_names_what_is_there() {
    for (from, objects) in everything() {
        let there = |kind: &str, name: &Value| {
            objects.iter().any(|object| object["kind"] == kind && object["metadata"]["name"] == *name)
        };
        for workload in workloads(&objects) {
            let at = format!("{from}: {}", workload["metadata"]["name"]);
            let spec = pod(workload);
            assert!(
                selects(&workload["spec"]["selector"]["matchLabels"], workload),
                "{at}: its own selector"
            );
            assert!(there("ServiceAccount", &spec["serviceAccountName"]), "{at}: account");
            assert!(
                spec["priorityClassName"].is_null() || there("PriorityClass", &spec["priorityClassName"]),
                "{at}: priority"
            );
            let claims =
                list(&workload["spec"]["volumeClaimTemplates"]).map(|claim| text(&claim["metadata"]["name"]));
            let volumes: BTreeSet<_> =
                list(&spec["volumes"]).map(|volume| text(&volume["name"])).chain(claims).collect();
            let container = &spec["containers"][0];
            let mounted: BTreeSet<_> =
                list(&container["volumeMounts"]).map(|mount| text(&mount["name"])).collect();
            assert_eq!(volumes, mounted, "{at}: volumes and mounts");
            for volume in list(&spec["volumes"]) {
                let map = &volume["configMap"]["name"];
                // That one every namespace has.
                assert!(map.is_null() || map == "kube-root-ca.crt" || there("ConfigMap", map), "{at}: {map}");
            }
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                let port = text(&container[probe]["httpGet"]["port"]);
                assert!(ports(workload).contains_key(port), "{at}: {probe} asks {port}");
            }
            let image = text(&container["image"]);
            assert!(image.contains('/') && image.ends_with(env!("CARGO_PKG_VERSION")), "{at}: {image}");
        }
        for service in objects.iter().filter(|object| object["kind"] == "Service") {
            let at = format!("{from}: service {}", service["metadata"]["name"]);
            let behind: Vec<_> = workloads(&objects)
                .filter(|workload| selects(&service["spec"]["selector"], workload))
                .collect();
            let [workload] = behind.as_slice() else { panic!("{at}: {} workloads", behind.len()) };
            for port in list(&service["spec"]["ports"]) {
                let (name, number) = (text(&port["targetPort"]), port["port"].as_u64().unwrap());
                assert_eq!(ports(workload).get(name), Some(&number), "{at}: {name}");
            }
        }
        for policy in objects.iter().filter(|object| object["kind"] == "NetworkPolicy") {
            let at = format!("{from}: network policy {}", policy["metadata"]["name"]);
            let selector = &policy["spec"]["podSelector"]["matchLabels"];
            if selector.is_null() {
                continue;
            }
            let of: Vec<_> = workloads(&objects).filter(|workload| selects(selector, workload)).collect();
            let [workload] = of.as_slice() else { panic!("{at}: {} workloads", of.len()) };
            // Every port that it has is opened to somebody, and no other.
            let open: BTreeSet<_> = list(&policy["spec"]["ingress"])
                .flat_map(|rule| list(&rule["ports"]))
                .map(|port| text(&port["port"]))
                .collect();
            assert_eq!(open, ports(workload).into_keys().collect(), "{at}");
        }
        let budget = object(&objects, "PodDisruptionBudget", "podtrail-collector");
        let collector = object(&objects, "StatefulSet", "podtrail-collector");
        assert!(selects(&budget["spec"]["selector"]["matchLabels"], collector), "{from}: budget");
        assert!(there("Service", &collector["spec"]["serviceName"]), "{from}: serviceName");
        for monitor in objects.iter().filter(|object| object["kind"] == "ServiceMonitor") {
            let at = format!("{from}: monitor {}", monitor["metadata"]["name"]);
            let wanted = labels(&monitor["spec"]["selector"]["matchLabels"]);
            let services = objects.iter().filter(|object| object["kind"] == "Service");
            let of: Vec<_> = services
                .filter(|service| {
                    let has = labels(&service["metadata"]["labels"]);
                    wanted.iter().all(|(key, value)| has.get(key) == Some(value))
                })
                .collect();
            let [service] = of.as_slice() else { panic!("{at}: {} services", of.len()) };
            for endpoint in list(&monitor["spec"]["endpoints"]) {
                assert!(list(&service["spec"]["ports"]).any(|port| port["name"] == endpoint["port"]), "{at}");
            }
        }
    }
}

/// The arguments of a container, with its pod's fields put in.
fn arguments(container: &Value) -> Vec<String> {
    let put = |arg: &str| arg.replace("$(NODE_NAME)", "worker-1").replace("$(HOST_IP)", "192.0.2.1");
    list(&container["args"]).map(|arg| put(text(arg))).collect()
}

/// The configuration that a workload mounts, as a file, and what its arguments say beside it.
fn configuration(objects: &[Value], workload: &Value, file: &str) -> (tempfile::NamedTempFile, Vec<String>) {
    let container = &pod(workload)["containers"][0];
    let volume = list(&pod(workload)["volumes"]).find(|volume| volume["name"] == "config").unwrap();
    let map = object(objects, "ConfigMap", text(&volume["configMap"]["name"]));
    let mount = list(&container["volumeMounts"]).find(|mount| mount["name"] == "config").unwrap();
    let path = format!("{}/{file}", text(&mount["mountPath"]));
    let mut arguments = arguments(container);
    let at = arguments.iter().position(|arg| *arg == format!("--config={path}")).expect("it is not read");
    arguments.remove(at);
    let written = tempfile::NamedTempFile::new().unwrap();
    fs::write(written.path(), text(&map["data"][file])).unwrap();
    arguments.push(format!("--config={}", written.path().display()));
    (written, arguments)
}

#[derive(clap::Parser)]
enum Agent {
    Run(Box<AgentFlags>),
}

#[derive(clap::Parser)]
enum Collector {
    Run(Box<CollectorFlags>),
}

fn parse<T: clap::Parser>(arguments: &[String]) -> T {
    T::try_parse_from(std::iter::once("podtrail").chain(arguments.iter().map(String::as_str))).unwrap()
}

#[test]
fn the_daemons_take_their_configuration_and_find_what_it_names() {
    for (from, objects) in everything() {
        let agent = object(&objects, "DaemonSet", "podtrail-agent");
        let (_file, arguments) = configuration(&objects, agent, "agent.toml");
        // The service account's, which is the default where there is one.
        let own = "--kubelet-ca=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt".to_owned();
        let given = arguments.iter().any(|arg| arg.starts_with("--kubelet-ca="));
        let arguments = if given { arguments } else { [arguments, vec![own]].concat() };
        let Agent::Run(flags) = parse(&arguments);
        let agent_config = AgentConfig::load(*flags).unwrap_or_else(|e| panic!("{from}: {e}"));
        let workload = object(&objects, "StatefulSet", "podtrail-collector");
        let (_file, arguments) = configuration(&objects, workload, "collector.toml");
        let Collector::Run(flags) = parse(&arguments);
        let config = CollectorConfig::load(*flags).unwrap_or_else(|e| panic!("{from}: {e}"));

        // Where the agent calls, the collector listens, by the service between them.
        let service = object(&objects, "Service", "collector");
        let port = list(&service["spec"]["ports"]).find(|port| port["name"] == "grpc").unwrap();
        assert_eq!(agent_config.collector, Some(format!("https://collector.podtrail.svc:{}", port["port"])));
        assert_eq!(u64::from(config.listen.port()), ports(workload)["grpc"]);
        assert_eq!(config.metrics_listen.map(|at| u64::from(at.port())), Some(ports(workload)["metrics"]));
        assert_eq!(config.audit.listen.map(|at| u64::from(at.port())), Some(ports(workload)["audit"]));
        assert_eq!(agent_config.metrics_listen.map(|at| u64::from(at.port())), Some(ports(agent)["metrics"]));
        let addresses =
            [Some(config.listen), config.metrics_listen, config.audit.listen, agent_config.metrics_listen];
        assert!(addresses.iter().all(|at| at.unwrap().ip().is_unspecified()), "{from}: {addresses:?}");
        // The agents' cluster, and that of their certificates, and of the API servers'.
        let kubelets = config.tls.as_ref().unwrap().kubelets.as_ref().unwrap();
        assert_eq!(
            (&agent_config.cluster, &agent_config.cluster),
            (&kubelets.cluster, &config.audit.cluster)
        );
        assert_eq!(agent_config.node_name, "worker-1");
        assert!(agent_config.realtime && !config.principals.is_empty());

        // All that is named is mounted, and can be written where it is written.
        let mounts = |workload: &Value| -> Vec<(String, bool)> {
            list(&pod(workload)["containers"][0]["volumeMounts"])
                .map(|mount| (text(&mount["mountPath"]).to_owned(), mount["readOnly"] != true))
                .collect()
        };
        let mounted = |workload: &Value, path: &std::path::Path, written: bool| {
            let at = mounts(workload).into_iter().find(|(at, _)| path.starts_with(at));
            assert!(at.is_some_and(|(_, writable)| writable || !written), "{from}: {}", path.display());
        };
        let tls = agent_config.tls.as_ref().unwrap();
        for file in [&tls.ca, &tls.cert, &tls.key] {
            mounted(agent, file, false);
        }
        for written in
            [&agent_config.spool, &agent_config.socket, &agent_config.pin, &Some(agent_config.lock.clone())]
        {
            mounted(agent, written.as_ref().unwrap(), true);
        }
        let tls = &config.tls.as_ref().unwrap().files;
        for file in [&tls.ca, &tls.cert, &tls.key, &kubelets.ca] {
            mounted(workload, file, false);
        }
        mounted(workload, &config.data, true);
        // Room for the log, and for half as much beside it.
        let claim =
            text(&workload["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]);
        let room = claim.strip_suffix("Gi").unwrap().parse::<u64>().unwrap() << 30;
        assert!(room >= config.retention.max_bytes * 3 / 2, "{from}: {claim}");
    }
}

#[test]
fn certificates_name_what_they_are_for() {
    let objects = overlay("cert-manager");
    let workload = object(&objects, "StatefulSet", "podtrail-collector");
    let (_file, arguments) = configuration(&objects, workload, "collector.toml");
    let Collector::Run(flags) = parse(&arguments);
    let config = CollectorConfig::load(*flags).unwrap();
    let certificates: Vec<_> = objects.iter().filter(|object| object["kind"] == "Certificate").collect();
    let uris: BTreeSet<_> =
        certificates.iter().flat_map(|certificate| list(&certificate["spec"]["uris"])).map(text).collect();
    let readers = config.principals.iter().map(|principal| format!("podtrail://reader/{}", principal.name));
    let expected: BTreeSet<_> =
        readers.chain([format!("podtrail://audit/{}", config.audit.cluster)]).collect();
    assert_eq!(uris, expected.iter().map(String::as_str).collect());
    for certificate in certificates {
        let (uris, names) =
            (list(&certificate["spec"]["uris"]).count(), list(&certificate["spec"]["dnsNames"]).count());
        assert!(uris <= 1 && (uris == 0 || names == 0), "{certificate}");
        let issuer = &certificate["spec"]["issuerRef"]["name"];
        assert!(
            objects.iter().any(|object| object["kind"] == "Issuer" && object["metadata"]["name"] == *issuer)
        );
    }
    let collector = object(&objects, "Certificate", "podtrail-collector");
    assert!(list(&collector["spec"]["dnsNames"]).any(|name| name == "collector.podtrail.svc"));
    let secret = &collector["spec"]["secretName"];
    for (kind, name) in [("DaemonSet", "podtrail-agent"), ("StatefulSet", "podtrail-collector")] {
        let volumes = list(&pod(object(&objects, kind, name))["volumes"]);
        let secrets: Vec<_> =
            volumes.map(|volume| &volume["secret"]["secretName"]).filter(|name| !name.is_null()).collect();
        assert_eq!(secrets, [secret], "{name}");
    }
    // The agent must not have the collector's key.
    let volumes = list(&pod(object(&objects, "DaemonSet", "podtrail-agent"))["volumes"]);
    let items: Vec<_> =
        volumes.flat_map(|volume| list(&volume["secret"]["items"])).map(|item| text(&item["key"])).collect();
    assert_eq!(items, ["ca.crt"]);
}
