//! The ephemeral containers that a request asks for: a patch of either kind, or a whole pod.

use podtrail_proto::v1;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A pod, a merge patch of one, or what the API server took before Kubernetes 1.22.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    spec: Option<Spec>,
    ephemeral_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    ephemeral_containers: Option<Vec<Container>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: Option<String>,
    target_container_name: Option<String>,
    command: Option<Vec<String>>,
    args: Option<Vec<String>>,
    stdin: Option<bool>,
    tty: Option<bool>,
}

/// One step of a JSON patch.
#[derive(Deserialize)]
struct Step<'a> {
    op: Option<String>,
    path: Option<String>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// Puts what is asked for into `request`. Where the object is not there (the policy's level), or is none of these,
/// nothing is known.
pub(super) fn read(object: Option<&RawValue>, request: &mut v1::ApiRequest) {
    let Some(object) = object else { return };
    let mut containers = containers(object.get());
    request.ephemeral_containers = containers.iter_mut().filter_map(|c| c.name.take()).collect();
    // Those that were there already are named again, and a new one comes last.
    let Some(Container { name: _, target_container_name, command, args, stdin, tty }) = containers.pop()
    else {
        return;
    };
    request.target_container = target_container_name.unwrap_or_default();
    request.command = command.into_iter().chain(args).flatten().collect();
    (request.stdin, request.tty) = (Some(stdin.unwrap_or(false)), Some(tty.unwrap_or(false)));
}

fn containers(json: &str) -> Vec<Container> {
    if let Ok(Object { spec, ephemeral_containers }) = serde_json::from_str(json) {
        let of_spec = spec.and_then(|spec| spec.ephemeral_containers);
        return of_spec.or(ephemeral_containers).unwrap_or_default();
    }
    let steps: Vec<Step<'_>> = serde_json::from_str(json).unwrap_or_default();
    steps
        .iter()
        .filter(|step| matches!(step.op.as_deref(), Some("add" | "replace")))
        .flat_map(|step| added(step.path.as_deref().unwrap_or_default(), step.value))
        .collect()
}

/// By one step: one container, all of them, or all of the specification.
fn added(path: &str, value: Option<&RawValue>) -> Vec<Container> {
    let Some(value) = value.map(RawValue::get) else { return Vec::new() };
    let all = |list| serde_json::from_str(list).unwrap_or_default();
    match path.trim_end_matches('/').split('/').collect::<Vec<_>>()[..] {
        ["", "spec"] => {
            let spec = serde_json::from_str(value).ok();
            spec.and_then(|Spec { ephemeral_containers }| ephemeral_containers).unwrap_or_default()
        }
        ["", "spec", "ephemeralContainers"] | ["", "ephemeralContainers"] => all(value),
        ["", "spec", "ephemeralContainers", _] | ["", "ephemeralContainers", _] => {
            serde_json::from_str(value).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: &str) -> v1::ApiRequest {
        let object: Box<RawValue> = serde_json::from_str(json).unwrap();
        let mut request = v1::ApiRequest::default();
        read(Some(&object), &mut request);
        request
    }

    #[test]
    fn every_form_of_the_request_is_read() {
        let container = r#"{"name":"dbg","targetContainerName":"app","command":["sh","-c"],"args":["id"],"stdin":true,"image":"x"}"#;
        let expected = v1::ApiRequest {
            ephemeral_containers: vec!["dbg".to_owned()],
            target_container: "app".to_owned(),
            command: ["sh", "-c", "id"].map(str::to_owned).to_vec(),
            stdin: Some(true),
            tty: Some(false),
            ..v1::ApiRequest::default()
        };
        for form in [
            r#"{"spec":{"ephemeralContainers":[%]}}"#,
            r#"{"kind":"EphemeralContainers","apiVersion":"v1","ephemeralContainers":[%]}"#,
            r#"[{"op":"add","path":"/spec/ephemeralContainers/-","value":%}]"#,
            r#"[{"op":"test","path":"/spec","value":null},{"op":"add","path":"/spec/ephemeralContainers","value":[%]}]"#,
            r#"[{"op":"replace","path":"/spec","value":{"ephemeralContainers":[%]}}]"#,
        ] {
            assert_eq!(asked(&form.replace('%', container)), expected, "{form}");
        }
    }

    #[test]
    fn of_a_whole_pod_the_last_is_the_new_one() {
        let request = asked(
            r#"{"spec":{"ephemeralContainers":[{"name":"a","targetContainerName":"x","tty":true},{"name":"b"}]}}"#,
        );
        assert_eq!(request.ephemeral_containers, ["a", "b"]);
        assert_eq!((request.target_container.as_str(), request.tty), ("", Some(false)));
    }

    #[test]
    fn what_is_none_of_these_says_nothing() {
        for form in [
            "null",
            "1",
            "\"x\"",
            "{}",
            "[]",
            "[1]",
            r#"{"spec":null}"#,
            r#"{"spec":{"ephemeralContainers":[1]}}"#,
            r#"[{"op":"remove","path":"/spec/ephemeralContainers/0"}]"#,
        ] {
            assert_eq!(asked(form), v1::ApiRequest::default(), "{form}");
        }
    }
}
