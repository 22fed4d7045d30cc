use cri::{ContainerMetadata, ImageSpec, PodSandboxMetadata};
use proptest::prelude::*;

use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn container(image: &str, user: &str, image_ref: &str) -> cri::Container {
    cri::Container {
        metadata: Some(ContainerMetadata { name: "web".to_owned() }),
        image: Some(ImageSpec { image: image.to_owned(), user_specified_image: user.to_owned() }),
        image_ref: image_ref.to_owned(),
        ..cri::Container::default()
    }
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn patterns_are_names_or_beginnings() {
    let patterns = Patterns::of(&["app", "app.kubernetes.io/*"]);
    for (name, fits) in [
        ("app", true),
        ("apps", false),
        ("app.kubernetes.io/name", true),
        ("app.kubernetes.io", false),
        ("", false),
    ] {
        assert_eq!(patterns.fit(name), fits, "{name}");
    }
    assert!(Patterns::of(&["*"]).fit("anything") && !Patterns::default().fit("anything"));
}

#[test]
fn an_image_is_named_as_people_do_and_its_digest_is_the_manifests() {
    let id = format!("sha256:{HEX}");
    let digest = format!("sha256:{}", HEX.replace('0', "f"));
    // containerd's word: the image's id, twice.
    let bare = container(&id, "", &id);
    assert_eq!(image_to_ask(&bare), Some(id.clone()));
    let asked = of_image(cri::Image {
        id: id.clone(),
        repo_tags: vec!["registry.example/web:1".to_owned()],
        repo_digests: vec![format!("registry.example/web@{digest}")],
    });
    let found = image(&bare, Some(&asked));
    assert_eq!(
        found,
        ImageFacts { name: Some("registry.example/web:1".to_owned()), digest: Some(digest.clone()) }
    );
    // A kubelet's that says what the specification says, with CRI-O, which says the digest.
    let told = container(&id, "registry.example/web:1", &format!("registry.example/web@{digest}"));
    assert_eq!(image_to_ask(&told), None);
    assert_eq!(image(&told, None), found);
    // By digest alone.
    let pinned = container(&format!("registry.example/web@{digest}"), "", &id);
    assert_eq!(image(&pinned, None).digest, Some(digest.clone()));
    // Of no registry: its configuration's, as the kubelet shows it.
    let asked =
        of_image(cri::Image { id: id.clone(), repo_tags: vec!["local:1".to_owned()], repo_digests: vec![] });
    assert_eq!(
        image(&bare, Some(&asked)),
        ImageFacts { name: Some("local:1".to_owned()), digest: Some(id.clone()) }
    );
    // Untagged since.
    let asked = of_image(cri::Image {
        id: id.clone(),
        repo_tags: vec![],
        repo_digests: vec![format!("r/web@{digest}")],
    });
    assert_eq!(asked.name.as_deref(), Some("r/web"));
    // Gone.
    assert_eq!(image(&bare, Some(&ImageFacts::default())), ImageFacts { name: None, digest: Some(id) });
    assert_eq!(image_to_ask(&cri::Container::default()), None);
}

#[test]
fn a_pre_stop_hook_is_its_argv_or_nothing() {
    let argv = |hook: &str| pre_stop(hook);
    assert_eq!(
        argv(r#"{"exec":{"command":["/bin/sh","-c","sleep 5"]}}"#),
        Some(["/bin/sh", "-c", "sleep 5"].map(str::to_owned).to_vec())
    );
    for none in [r#"{"httpGet":{"path":"/","port":80}}"#, "", "{", "[]", r#"{"exec":null}"#] {
        assert_eq!(argv(none), None, "{none}");
    }
    let long = format!(r#"{{"exec":{{"command":["{}"]}}}}"#, "x".repeat(5000));
    assert_eq!(argv(&long), None, "a part of an argv is another argv");
}

#[test]
fn a_container_whose_sandbox_is_gone_has_the_kubelets_labels() {
    let rules = Rules::default();
    let mut of = container("web:1", "", "");
    assert_eq!(rules.container(of.clone(), None, ImageFacts::default()), None);
    of.labels = map(&[(POD_NAME, "web-0"), (POD_NAMESPACE, "prod"), (POD_UID, "u"), ("app", "web")]);
    let facts = rules.container(of, None, ImageFacts::default()).unwrap();
    assert_eq!(
        (facts.pod.namespace.as_str(), facts.pod.name.as_str(), facts.pod.uid.as_str()),
        ("prod", "web-0", "u")
    );
    assert!(facts.observable && facts.runtime_handler.is_none());
}

#[test]
fn handlers_say_what_the_kernel_can_see() {
    let rules = Rules::default();
    for (handler, observable) in [
        ("", true),
        ("runc", true),
        ("runsc", false),
        ("gvisor", false),
        ("kata-qemu", false),
        ("crun", true),
    ] {
        let sandbox = rules
            .sandbox(cri::PodSandbox {
                metadata: Some(PodSandboxMetadata::default()),
                runtime_handler: handler.to_owned(),
                ..cri::PodSandbox::default()
            })
            .unwrap();
        assert_eq!(rules.of_sandbox(&sandbox).observable, observable, "{handler}");
    }
    assert_eq!(rules.sandbox(cri::PodSandbox::default()), None, "a sandbox of no pod");
}

proptest! {
    #[test]
    fn whatever_it_says_is_bounded(
        name in "\\PC{0,3000}",
        labels in proptest::collection::hash_map("app\\.kubernetes\\.io/[a-z]{1,6}", "\\PC{0,2000}", 0..100),
        image in "\\PC{0,3000}",
        hook in "\\PC{0,200}",
    ) {
        let rules = Rules::default();
        let metadata = PodSandboxMetadata { name: name.clone(), uid: name.clone(), namespace: name.clone() };
        let sandbox = cri::PodSandbox { metadata: Some(metadata), labels, runtime_handler: name, ..cri::PodSandbox::default() };
        let sandbox = rules.sandbox(sandbox).unwrap();
        prop_assert!(sandbox.pod.name.len() <= TEXT_MAX && sandbox.pod.labels.len() <= LABELS_MAX);
        prop_assert!(sandbox.pod.labels.values().all(|value| value.len() <= TEXT_MAX));
        let mut of = container(&image, &image, &image);
        of.annotations = map(&[(PRE_STOP, &hook)]);
        let image = super::image(&of, None);
        let facts = rules.container(of, Some(&sandbox), image).unwrap();
        prop_assert!(facts.image.is_none_or(|image| image.len() <= TEXT_MAX));
    }
}
