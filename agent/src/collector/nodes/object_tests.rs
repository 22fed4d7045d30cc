use serde_json::json;

use super::*;

fn node(value: &serde_json::Value, choice: &Choice) -> Result<Node, ObjectError> {
    Node::parse(&value.to_string(), choice)
}

fn kinds(node: &Node) -> Vec<&str> {
    node.conditions.iter().map(|condition| condition.kind.as_str()).collect()
}

/// As a Node has them whose status a real detector patched, beside the kubelet's.
fn whole() -> serde_json::Value {
    let patches = include_str!("../../../../tests/fixtures/npd/node_status_patches.jsonl");
    let last: serde_json::Value = serde_json::from_str(patches.lines().nth(2).unwrap()).unwrap();
    let mut conditions = last["body"]["status"]["conditions"].as_array().unwrap().clone();
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"] {
        conditions
            .push(json!({ "type": kind, "status": "False", "lastHeartbeatTime": "2026-11-22T19:10:01Z",
                                "lastTransitionTime": null, "reason": "x", "message": "y" }));
    }
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": "worker-1", "uid": "u", "resourceVersion": "17", "labels": { "a": "b" },
            "managedFields": [
                { "manager": "kubelet", "operation": "Update", "fieldsType": "FieldsV1", "subresource": "status",
                  "fieldsV1": { "f:status": { "f:conditions": { "k:{\"type\":\"Ready\"}": { "f:status": {} } } } } },
                { "manager": "node-problem-detector", "operation": "Update", "subresource": "status",
                  "fieldsV1": { "f:status": { "f:conditions": {
                      ".": {}, "k:{\"type\":\"FDPressure\"}": { ".": {} }, "k:{\"type\":\"KernelDeadlock\"}": {} } } } },
                { "manager": "else", "fieldsV1": null }, { "manager": "node-problem-detector", "fieldsV1": 7 } ] },
        "spec": { "podCIDR": "10.0.0.0/24" },
        "status": { "conditions": conditions, "images": [{ "names": ["a"], "sizeBytes": 1 }] }
    })
}

#[test]
fn the_kubelets_five_are_left_to_the_kubelet() {
    let node = node(&whole(), &Choice::Others).unwrap();
    assert_eq!((node.name.as_str(), node.version.as_str()), ("worker-1", "17"));
    let own = ["FDPressure", "ReadonlyFilesystem", "KernelDeadlock", "XfsShutdown", "CperHardwareErrorFatal"];
    assert_eq!(kinds(&node), own);
    // 19:10:00Z and 19:10:01Z.
    assert_eq!(
        node.conditions[0],
        Reported {
            kind: "FDPressure".to_owned(),
            status: "True".to_owned(),
            reason: "NodeHasFDPressure".to_owned(),
            message: "current fd usage is 1700000 and max is 2000000".to_owned(),
            transition: Some(1_795_374_600),
            heartbeat: Some(1_795_374_601),
            truncated: false,
        }
    );
}

#[test]
fn chosen_by_type_or_by_who_wrote_them() {
    let types = Choice::Types(vec!["Ready".to_owned(), "XfsShutdown".to_owned()]);
    assert_eq!(kinds(&node(&whole(), &types).unwrap()), ["XfsShutdown", "Ready"]);
    let manager = |name: &str| Choice::Manager(name.to_owned());
    assert_eq!(
        kinds(&node(&whole(), &manager("node-problem-detector")).unwrap()),
        ["FDPressure", "KernelDeadlock"]
    );
    assert_eq!(kinds(&node(&whole(), &manager("kubelet")).unwrap()), ["Ready"]);
    assert_eq!(kinds(&node(&whole(), &manager("nobody")).unwrap()), [""; 0]);
    let mut without = whole();
    without["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(kinds(&node(&without, &manager("kubelet")).unwrap()), [""; 0]);
}

#[test]
fn what_is_not_there_or_null_or_of_another_type_is_not_believed_in() {
    let parse = |value: serde_json::Value| node(&value, &Choice::Others);
    let bare = parse(json!({ "metadata": { "name": "n", "resourceVersion": "1" } })).unwrap();
    assert_eq!(bare.conditions, []);
    let null = json!({ "metadata": { "name": "n", "resourceVersion": "1", "managedFields": null },
                       "status": { "conditions": null } });
    assert_eq!(parse(null).unwrap().conditions, []);
    for (metadata, error) in [
        (json!({ "resourceVersion": "1" }), "it has no name, or one that none can have"),
        (json!({ "name": "a\nb", "resourceVersion": "1" }), "it has no name, or one that none can have"),
        (
            json!({ "name": "x".repeat(254), "resourceVersion": "1" }),
            "it has no name, or one that none can have",
        ),
        (json!({ "name": "n" }), "it has no resource version, or one longer than 128 bytes"),
        (
            json!({ "name": "n", "resourceVersion": "1".repeat(129) }),
            "it has no resource version, or one longer than 128 bytes",
        ),
    ] {
        assert_eq!(parse(json!({ "metadata": metadata })).unwrap_err().to_string(), error);
    }
    assert!(parse(json!({ "metadata": 5 })).is_err() && Node::parse("", &Choice::Others).is_err());
    // Long and many, doubled, and with times that are none.
    let long = json!({ "type": "T", "status": "True", "message": "é".repeat(5000), "lastTransitionTime": "yesterday" });
    let mut many: Vec<_> = (0..200).map(|n| json!({ "type": format!("C{n}"), "status": "False" })).collect();
    many.insert(0, long);
    many.insert(0, json!({ "type": "T", "status": "False" }));
    let node = parse(
        json!({ "metadata": { "name": "n", "resourceVersion": "1" }, "status": { "conditions": many } }),
    );
    let conditions = node.unwrap().conditions;
    assert_eq!(conditions.len(), MAX_CONDITIONS);
    let Reported { status, message, transition, truncated, .. } = &conditions[0];
    assert_eq!((status.as_str(), message.len(), *transition, *truncated), ("True", 4096, None, true));
}

/// The Events that a real detector made, as they stand after each of its requests.
pub(crate) fn detectors() -> Vec<String> {
    let mut objects = BTreeMap::new();
    let mut found = Vec::new();
    let mut version = 100;
    for line in include_str!("../../../../tests/fixtures/npd/apiserver_events.jsonl").lines() {
        let request: serde_json::Value = serde_json::from_str(line).unwrap();
        let object: serde_json::Value = match request["m"].as_str().unwrap() {
            "POST" => request["b"].clone(),
            "PATCH" => {
                let name = request["p"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
                let mut object: serde_json::Value = objects.get(&name).cloned().unwrap();
                let patch: serde_json::Value = serde_json::from_str(request["b"].as_str().unwrap()).unwrap();
                for (key, value) in patch.as_object().unwrap() {
                    object[key] = value.clone();
                }
                object
            }
            _ => continue,
        };
        version += 1;
        let mut object = object;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        object["metadata"]["uid"] = json!(format!("uid-{name}"));
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        objects.insert(name, object.clone());
        found.push(object.to_string());
    }
    found
}

#[test]
fn events_as_a_detector_really_makes_them() {
    let events: Vec<Event> = detectors().iter().map(|json| Event::parse(json).unwrap()).collect();
    assert_eq!(events.len(), 31);
    let first = &events[0].event;
    assert_eq!(
        *first,
        v1::ClusterEvent {
            namespace: "default".to_owned(),
            name: "worker-1.18ea73bfc6afb350".to_owned(),
            uid: "uid-worker-1.18ea73bfc6afb350".to_owned(),
            resource_version: "101".to_owned(),
            r#type: "Warning".to_owned(),
            reason: "FilesystemIsReadOnly".to_owned(),
            message: "Node condition ReadonlyFilesystem is now: True, reason: FilesystemIsReadOnly, message: \"kernel: EXT4-fs (sda1): Remounting filesystem read-only\"".to_owned(),
            involved: Some(v1::Involved {
                kind: "Node".to_owned(),
                name: "worker-1".to_owned(),
                api_version: "v1".to_owned(),
                ..v1::Involved::default()
            }),
            component: "readonly-monitor".to_owned(),
            host: "worker-1".to_owned(),
            action: String::new(),
            count: Some(1),
            first: Some(Moment(1_795_374_668_000_000_000).timestamp()),
            last: Some(Moment(1_795_374_668_000_000_000).timestamp()),
            updated: None,
            merged: false,
            mangled: false,
            truncated: false,
        }
    );
    let mangled: Vec<&str> =
        events.iter().filter(|e| e.event.mangled).map(|e| e.event.reason.as_str()).collect();
    assert_eq!(mangled, ["ConntrackFull"; 3]);
    let merged: Vec<u64> = events.iter().filter(|e| e.event.merged).map(|e| e.event.count()).collect();
    assert_eq!(merged, (1..=9).collect::<Vec<_>>());
    let last = events.last().unwrap();
    assert_eq!(last.time, Some(Moment(1_795_374_684_000_000_000)));
}

#[test]
fn events_of_the_new_kind_have_their_counts_and_times_elsewhere() {
    let event = json!({
        "metadata": { "name": "e", "namespace": "prod", "uid": "u", "resourceVersion": "5",
                      "creationTimestamp": "2026-11-22T19:00:00Z" },
        "involvedObject": { "kind": "Pod", "namespace": "prod", "name": "p", "uid": "pu", "fieldPath": "spec.containers{app}" },
        "reason": "BackOff", "message": "100%!d(string=x)", "source": {}, "firstTimestamp": null, "lastTimestamp": null,
        "eventTime": "2026-11-22T19:00:01.123456Z", "count": null,
        "series": { "count": 7, "lastObservedTime": "2026-11-22T19:00:09.5Z" },
        "reportingComponent": "kubelet", "reportingInstance": "worker-1", "action": "Pulling", "type": "Normal"
    });
    let Event { version, time, event } = Event::parse(&event.to_string()).unwrap();
    assert_eq!((version.as_str(), event.count(), event.mangled), ("5", 7, true));
    assert_eq!((event.component.as_str(), event.host.as_str()), ("kubelet", "worker-1"));
    assert_eq!(event.first, moment("2026-11-22T19:00:01.123456Z").map(Moment::timestamp));
    assert_eq!(time, moment("2026-11-22T19:00:09.5Z"));
    let bare = json!({ "metadata": { "name": "e", "resourceVersion": "5" } });
    let bare = Event::parse(&bare.to_string()).unwrap();
    assert_eq!((bare.time, bare.event.count()), (None, 1));
    let negative = json!({ "metadata": { "name": "e", "resourceVersion": "5" }, "count": -3, "message": "x".repeat(9999) });
    let negative = Event::parse(&negative.to_string()).unwrap().event;
    assert_eq!((negative.count(), negative.message.len(), negative.truncated), (1, 4096, true));
}

#[test]
fn what_go_makes_of_a_percent_sign() {
    for mangled in ["90%!:(MISSING) 1", "%!d(string=hi)", "%!(NOVERB)", "%!(EXTRA int=1)", "é%!s(MISSING)"] {
        assert!(is_mangled(mangled), "{mangled}");
    }
    for plain in ["", "90%", "90% (full)", "100%!", "what%!  (so)", "%!ab(c)"] {
        assert!(!is_mangled(plain), "{plain}");
    }
}

#[test]
fn lines_and_pages() {
    let line: Line<'_> = serde_json::from_slice(
        br#"{"type":"BOOKMARK","object":{"kind":"Node","metadata":{"resourceVersion":"12"}}}"#,
    )
    .unwrap();
    assert_eq!((line.kind.as_str(), bookmark(line.object.get()).unwrap().as_str()), ("BOOKMARK", "12"));
    let page: Page<'_> =
        serde_json::from_str(r#"{"metadata":{"resourceVersion":"9","continue":"t"},"items":[{"a":1},7]}"#)
            .unwrap();
    assert_eq!(
        (page.items.len(), page.metadata.more.as_str(), page.metadata.resource_version.as_str()),
        (2, "t", "9")
    );
    let empty: Page<'_> =
        serde_json::from_str(r#"{"metadata":{"resourceVersion":"9","continue":null},"items":null}"#).unwrap();
    assert_eq!((empty.items.len(), empty.metadata.more.as_str()), (0, ""));
    assert_eq!(
        deleted(r#"{"metadata":{"name":"n","resourceVersion":"3"}}"#).unwrap(),
        ("n".to_owned(), "3".to_owned())
    );
    assert!(bookmark("{}").is_err() && bookmark("[]").is_err() && deleted(r#"{"metadata":{}}"#).is_err());
}
