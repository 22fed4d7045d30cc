//! `deploy/audit/policy.yaml`, asked as an API server asks it (Kubernetes 1.36, apiserver/pkg/audit/policy/checker.go).

use serde::Deserialize;
use serde_json::Value;

const POLICY: &str = include_str!("../../../../deploy/audit/policy.yaml");
const RUN: &str = include_str!("../../../../tests/fixtures/audit/exec-eventlist.json");
const POSTS: [&str; 3] = [
    include_str!("../../../../tests/fixtures/audit/raw-post-003.json"),
    include_str!("../../../../tests/fixtures/audit/raw-post-005.json"),
    include_str!("../../../../tests/fixtures/audit/raw-post-008.json"),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Policy {
    api_version: String,
    kind: String,
    omit_stages: Vec<String>,
    rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Rule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Group>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Group {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// A request, as the rules see it.
#[derive(Clone, Copy, Default)]
struct Request<'a> {
    user: &'a str,
    groups: &'a [&'a str],
    verb: &'a str,
    group: &'a str,
    /// empty: it is of no resource
    resource: &'a str,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
    path: &'a str,
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|one| one == text)
}

impl Rule {
    fn matches(&self, request: &Request<'_>) -> bool {
        let Self { level: _, users, user_groups, verbs, resources, namespaces, non_resource_urls } = self;
        let user = users.is_empty() || has(users, request.user);
        let group = user_groups.is_empty() || request.groups.iter().any(|group| has(user_groups, group));
        if !(user && group && (verbs.is_empty() || has(verbs, request.verb))) {
            return false;
        }
        if !namespaces.is_empty() || !resources.is_empty() {
            return !request.resource.is_empty()
                && (namespaces.is_empty() || has(namespaces, request.namespace))
                && (resources.is_empty() || resources.iter().any(|group| group.matches(request)));
        }
        let fits = |spec: &String| {
            let begins = spec.strip_suffix('*').is_some_and(|head| request.path.starts_with(head));
            spec == "*" || spec == request.path || begins
        };
        non_resource_urls.is_empty() || (request.resource.is_empty() && non_resource_urls.iter().any(fits))
    }
}

impl Group {
    fn matches(&self, request: &Request<'_>) -> bool {
        let Self { group, resources, resource_names } = self;
        let Request { resource, subresource, name, .. } = *request;
        let whole =
            if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
        let fits = |one: &String| {
            let of_any = one.strip_prefix("*/").is_some_and(|s| !subresource.is_empty() && s == subresource);
            one == "*" || *one == whole || of_any || one.strip_suffix("/*").is_some_and(|r| r == resource)
        };
        let named = resource_names.is_empty() || has(resource_names, name);
        group == request.group && (resources.is_empty() || (named && resources.iter().any(fits)))
    }
}

impl Policy {
    fn read() -> Self {
        let policy: Self = serde_saphyr::from_str(POLICY).unwrap();
        assert_eq!((policy.api_version.as_str(), policy.kind.as_str()), ("audit.k8s.io/v1", "Policy"));
        policy
    }

    fn level(&self, request: &Request<'_>) -> &str {
        self.rules.iter().find(|rule| rule.matches(request)).map_or("None", |rule| &rule.level)
    }

    /// Of an event that there was.
    fn level_of(&self, event: &Value) -> &str {
        let text = |value: &'_ Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        let (user, verb) = (text(&event["user"], "username"), text(event, "verb"));
        let groups = event["user"]["groups"].as_array();
        let groups: Vec<&str> = groups.into_iter().flatten().filter_map(Value::as_str).collect();
        let [resource, subresource, namespace, name, group] =
            ["resource", "subresource", "namespace", "name", "apiGroup"].map(|key| text(object, key));
        let uri = text(event, "requestURI");
        self.level(&Request {
            user: &user,
            groups: &groups,
            verb: &verb,
            group: &group,
            resource: &resource,
            subresource: &subresource,
            namespace: &namespace,
            name: &name,
            path: uri.split('?').next().unwrap(),
        })
    }
}

fn items(list: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(list).unwrap();
    list["items"].as_array().unwrap().clone()
}

#[test]
fn it_says_nothing_that_an_api_server_does_not_know() {
    let policy = Policy::read();
    assert_eq!(policy.omit_stages, ["RequestReceived"]);
    for rule in &policy.rules {
        assert!(
            ["None", "Metadata", "Request", "RequestResponse"].contains(&rule.level.as_str()),
            "{rule:?}"
        );
        // An API server refuses both in one rule.
        assert!(rule.resources.is_empty() || rule.non_resource_urls.is_empty(), "{rule:?}");
    }
    // All that no other rule takes is still there.
    let last = policy.rules.last().unwrap();
    assert!(last.level == "Metadata" && last.matches(&Request::default()), "{last:?}");
}

#[test]
fn real_events_get_the_level_that_podtrail_needs() {
    let policy = Policy::read();
    let mut kept = 0;
    for event in POSTS.iter().chain([&RUN]).flat_map(|list| items(list)) {
        let subresource = event["objectRef"]["subresource"].as_str();
        let expected = match subresource {
            Some("exec" | "attach" | "portforward" | "ephemeralcontainers") => "RequestResponse",
            None => "Request",
            other => panic!("{other:?}"),
        };
        kept += usize::from(subresource.is_some());
        assert_eq!(policy.level_of(&event), expected, "{event}");
        assert!(!policy.omit_stages.iter().any(|stage| event["stage"] == *stage));
    }
    assert_eq!(kept, 27 + 5);
}

#[test]
fn every_way_into_a_container_is_there_whoever_takes_it() {
    let policy = Policy::read();
    let users: [(&str, &[&str]); 6] = [
        ("alice", &[]),
        ("system:node:n1", &["system:nodes"]),
        ("system:kube-controller-manager", &[]),
        ("system:apiserver", &["system:masters"]),
        ("system:serviceaccount:kube-system:namespace-controller", &["system:serviceaccounts"]),
        ("system:kube-proxy", &[]),
    ];
    for (user, groups) in users {
        for verb in ["get", "create", "patch", "update", "watch", "list", "delete"] {
            let level = |resource, subresource| {
                let namespace = "kube-system";
                policy.level(&Request {
                    user,
                    groups,
                    verb,
                    resource,
                    subresource,
                    namespace,
                    ..Request::default()
                })
            };
            for subresource in ["exec", "attach", "portforward", "ephemeralcontainers"] {
                assert_eq!(level("pods", subresource), "RequestResponse", "{user} {verb} {subresource}");
            }
            for resource in ["nodes", "pods", "services"] {
                assert_eq!(level(resource, "proxy"), "Metadata", "{user} {verb} {resource}");
            }
        }
    }
}

#[test]
fn all_else_is_as_clusters_usually_have_it() {
    let policy = Policy::read();
    let none = Request::default();
    let alice = Request { user: "alice", ..none };
    let kubelet = Request { user: "system:node:n1", groups: &["system:nodes"], ..none };
    for (request, expected) in [
        // Never the content of a secret, nor a token.
        (Request { verb: "get", resource: "secrets", ..alice }, "Metadata"),
        (Request { verb: "create", resource: "secrets", ..alice }, "Metadata"),
        (Request { verb: "patch", resource: "configmaps", ..kubelet }, "Metadata"),
        (
            Request { verb: "create", resource: "serviceaccounts", subresource: "token", ..kubelet },
            "Metadata",
        ),
        (
            Request { verb: "create", group: "authentication.k8s.io", resource: "tokenreviews", ..alice },
            "Metadata",
        ),
        // Reads, and writes.
        (Request { verb: "list", resource: "pods", ..alice }, "Request"),
        (Request { verb: "delete", resource: "pods", ..alice }, "RequestResponse"),
        (Request { verb: "create", group: "apps", resource: "deployments", ..alice }, "RequestResponse"),
        (
            Request { verb: "create", group: "rbac.authorization.k8s.io", resource: "rolebindings", ..alice },
            "RequestResponse",
        ),
        // Very many, and of low risk; the same by somebody else is not.
        (Request { verb: "get", resource: "nodes", ..kubelet }, "None"),
        (Request { verb: "get", resource: "nodes", ..alice }, "Request"),
        (Request { verb: "watch", resource: "services", user: "system:kube-proxy", ..none }, "None"),
        (Request { verb: "create", resource: "events", ..kubelet }, "None"),
        (Request { verb: "get", path: "/readyz/ping", user: "system:anonymous", ..none }, "None"),
        (Request { verb: "get", path: "/metrics", ..alice }, "Metadata"),
        (Request { verb: "patch", resource: "nodes", subresource: "status", ..kubelet }, "Request"),
        // What is always there, so that silence is noticed.
        (
            Request {
                verb: "update",
                group: "coordination.k8s.io",
                resource: "leases",
                namespace: "kube-system",
                user: "system:apiserver",
                ..none
            },
            "Metadata",
        ),
        (Request { verb: "create", group: "example.com", resource: "widgets", ..alice }, "Metadata"),
    ] {
        let Request { user, verb, resource, subresource, path, .. } = request;
        assert_eq!(policy.level(&request), expected, "{user} {verb} {resource}/{subresource} {path}");
    }
}

#[test]
fn the_page_tells_an_api_server_where_to_send_it() {
    let page = include_str!("../../../../docs/audit.md");
    let config = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let config: Value = serde_saphyr::from_str(config).unwrap();
    assert_eq!((&config["kind"], &config["apiVersion"]), (&"Config".into(), &"v1".into()));
    let context =
        config["contexts"].as_array().unwrap().iter().find(|c| c["name"] == config["current-context"]);
    let context = &context.unwrap()["context"];
    let named = |list: &str, name: &Value| {
        config[list].as_array().unwrap().iter().find(|one| one["name"] == *name).unwrap().clone()
    };
    let cluster = &named("clusters", &context["cluster"])["cluster"];
    assert!(cluster["server"].as_str().unwrap().starts_with("https://"), "{cluster}");
    assert!(cluster["certificate-authority"].is_string(), "{cluster}");
    let user = &named("users", &context["user"])["user"];
    assert!(user["client-certificate"].is_string() && user["client-key"].is_string(), "{user}");
    // And the collector with what stands there.
    for block in page.split("```toml\n").skip(1) {
        let toml = block.split("```").next().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        let flags = crate::config::collector::Flags {
            config: Some(file.path().to_owned()),
            ..crate::config::collector::Flags::default()
        };
        crate::config::collector::CollectorConfig::load(flags).unwrap();
    }
}
