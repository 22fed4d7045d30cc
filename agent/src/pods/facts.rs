//! What a runtime's answers say of containers, in the agent's own types: pure, and bounded whatever the answer holds.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use podtrail_proto::runtime::cri;
use serde::Deserialize;

use super::{ContainerFacts, PodFacts};

/// Bytes kept of a name, an image or a label.
const TEXT_MAX: usize = 1024;
/// Labels kept of a pod.
const LABELS_MAX: usize = 64;
/// Arguments kept of a hook, and bytes of each.
const ARGS_MAX: usize = 256;

/// By the kubelet, on each of its containers.
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";

/// Names, of which one that ends with `*` stands for all that begin so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(pub Vec<String>);

impl Patterns {
    #[must_use]
    pub fn of(patterns: &[&str]) -> Self {
        Self(patterns.iter().map(|&pattern| pattern.to_owned()).collect())
    }

    #[must_use]
    pub fn fit(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        })
    }
}

/// What to make of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// of pods, to keep
    pub labels: Patterns,
    /// runtime handlers into whose containers the host's kernel cannot see
    pub opaque: Patterns,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            labels: Patterns::of(&["app", "app.kubernetes.io/*"]),
            opaque: Patterns::of(&["gvisor*", "runsc*", "kata*"]),
        }
    }
}

/// A pod's sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sandbox {
    pub(super) pod: Arc<PodFacts>,
    pub(super) handler: Option<String>,
}

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ImageFacts {
    pub(super) name: Option<String>,
    pub(super) digest: Option<String>,
}

impl Rules {
    /// `None`: it says of no pod whose it is.
    pub(super) fn sandbox(&self, sandbox: cri::PodSandbox) -> Option<Sandbox> {
        let cri::PodSandbox { id: _, metadata, labels, runtime_handler } = sandbox;
        let cri::PodSandboxMetadata { name, uid, namespace } = metadata?;
        let pod = self.pod(namespace, name, uid, labels);
        Some(Sandbox { pod: Arc::new(pod), handler: some(runtime_handler) })
    }

    fn pod(&self, namespace: String, name: String, uid: String, labels: HashMap<String, String>) -> PodFacts {
        let mut labels: BTreeMap<String, String> = labels
            .into_iter()
            .filter(|(name, _)| self.labels.fit(name))
            .map(|(name, value)| (cut(name), cut(value)))
            .collect();
        while labels.len() > LABELS_MAX {
            labels.pop_last();
        }
        PodFacts { namespace: cut(namespace), name: cut(name), uid: cut(uid), labels }
    }

    /// Of the sandbox itself.
    pub(super) fn of_sandbox(&self, sandbox: &Sandbox) -> ContainerFacts {
        let Sandbox { pod, handler } = sandbox;
        ContainerFacts {
            name: None,
            sandbox: true,
            image: None,
            image_digest: None,
            observable: self.observable(handler.as_deref()),
            runtime_handler: handler.clone(),
            pod: Arc::clone(pod),
            pre_stop: None,
        }
    }

    /// `None`: nothing says which pod it is of.
    pub(super) fn container(
        &self,
        container: cri::Container,
        sandbox: Option<&Sandbox>,
        image: ImageFacts,
    ) -> Option<ContainerFacts> {
        let cri::Container {
            id: _,
            pod_sandbox_id: _,
            metadata,
            image: _,
            image_ref: _,
            mut labels,
            mut annotations,
        } = container;
        let (pod, handler) = match sandbox {
            Some(Sandbox { pod, handler }) => (Arc::clone(pod), handler.clone()),
            // Its sandbox is gone already.
            None => {
                let [namespace, name, uid] =
                    [POD_NAMESPACE, POD_NAME, POD_UID].map(|label| labels.remove(label));
                (Arc::new(self.pod(namespace?, name?, uid?, HashMap::new())), None)
            }
        };
        let ImageFacts { name: image, digest: image_digest } = image;
        Some(ContainerFacts {
            name: metadata.and_then(|metadata| some(metadata.name)),
            sandbox: false,
            image,
            image_digest,
            observable: self.observable(handler.as_deref()),
            runtime_handler: handler,
            pod,
            pre_stop: annotations.remove(PRE_STOP).and_then(|hook| pre_stop(&hook)),
        })
    }

    fn observable(&self, handler: Option<&str>) -> bool {
        !handler.is_some_and(|handler| self.opaque.fit(handler))
    }
}

/// What is to be asked for of a container's image; `None`: the container says it all itself.
pub(super) fn image_to_ask(container: &cri::Container) -> Option<String> {
    let told = told_image(container);
    let reference = [&container.image_ref, &container.image.as_ref()?.image];
    let reference = reference.into_iter().find(|reference| !reference.is_empty())?;
    (told.name.is_none() || told.digest.is_none()).then(|| cut(reference.clone()))
}

/// A container's image, by its own word first.
pub(super) fn image(container: &cri::Container, asked: Option<&ImageFacts>) -> ImageFacts {
    let told = told_image(container);
    let asked = asked.cloned().unwrap_or_default();
    ImageFacts {
        name: told.name.or(asked.name),
        // Of an image that came from no registry there is only its configuration's, as the kubelet shows it too.
        digest: told.digest.or(asked.digest).or_else(|| bare_digest(&container.image_ref)),
    }
}

fn told_image(container: &cri::Container) -> ImageFacts {
    let spec = container.image.clone().unwrap_or_default();
    let name = [spec.user_specified_image, spec.image.clone()]
        .into_iter()
        .find(|name| !name.is_empty() && bare_digest(name).is_none() && !is_hex(name));
    let digest = [&container.image_ref, &spec.image].into_iter().find_map(|reference| digest_of(reference));
    ImageFacts { name: name.map(cut), digest }
}

/// An image, as the runtime knows it.
pub(super) fn of_image(image: cri::Image) -> ImageFacts {
    let cri::Image { id, repo_tags, repo_digests } = image;
    let digest = repo_digests.iter().find_map(|digest| digest_of(digest)).or_else(|| bare_digest(&id));
    let untagged = || repo_digests.iter().find_map(|digest| digest.split_once('@')).map(|(name, _)| name);
    let name = repo_tags.first().map(String::as_str).or_else(untagged);
    ImageFacts { name: name.and_then(|name| some(name.to_owned())), digest }
}

/// "name@sha256:…" → "sha256:…"
fn digest_of(reference: &str) -> Option<String> {
    bare_digest(reference.split_once('@')?.1)
}

/// "sha256:…", and nothing else.
fn bare_digest(text: &str) -> Option<String> {
    let digest = text.strip_prefix("sha256:")?;
    is_hex(digest).then(|| text.to_owned())
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The argv of a preStop hook, which the kubelet hands over as JSON.
fn pre_stop(hook: &str) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Hook {
        exec: Option<Exec>,
    }
    #[derive(Deserialize)]
    struct Exec {
        command: Vec<String>,
    }
    let hook: Hook = serde_json::from_str(hook).ok()?;
    // A part of an argv is another argv.
    hook.exec
        .map(|exec| exec.command)
        .filter(|command| command.len() <= ARGS_MAX && command.iter().all(|arg| arg.len() <= TEXT_MAX))
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then(|| cut(text))
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_MAX));
    text
}

#[cfg(test)]
mod tests;
