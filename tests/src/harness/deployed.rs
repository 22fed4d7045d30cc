//! What a kubelet makes of a pod template: of the manifests in `deploy/`, as they are. A field that is not known here is a
//! mistake, so that nothing of a manifest is passed over.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::containerd::{
    cri::{
        Capability, ContainerConfig, ContainerMetadata, ImageSpec, Int64Value, KeyValue,
        LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
        LinuxSandboxSecurityContext, Mount, MountPropagation, NamespaceMode, NamespaceOption, ProfileType,
        SeLinuxOption, SecurityProfile,
    },
    namespaces,
};

/// A pod template with one container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Template {
    #[serde(rename = "serviceAccountName")]
    _account: String,
    #[serde(rename = "priorityClassName", default)]
    _priority: String,
    #[serde(rename = "tolerations", default)]
    _tolerations: Vec<Value>,
    #[serde(rename = "nodeSelector", default)]
    _nodes: Value,
    #[serde(rename = "hostPID", default)]
    host_pid: bool,
    /// seconds
    #[serde(rename = "terminationGracePeriodSeconds")]
    pub(crate) grace: i64,
    #[serde(default)]
    security_context: PodSecurity,
    containers: Vec<Container>,
    pub(crate) volumes: Vec<Volume>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodSecurity {
    #[serde(rename = "runAsNonRoot", default)]
    _non_root: bool,
    run_as_user: Option<i64>,
    run_as_group: Option<i64>,
    fs_group: Option<i64>,
    #[serde(rename = "fsGroupChangePolicy", default)]
    _change: String,
    seccomp_profile: Option<Profile>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Container {
    name: String,
    image: String,
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(rename = "ports")]
    _ports: Vec<Value>,
    #[serde(rename = "startupProbe")]
    _startup: Value,
    #[serde(rename = "livenessProbe")]
    _liveness: Value,
    #[serde(rename = "readinessProbe")]
    _readiness: Value,
    resources: Resources,
    security_context: Security,
    volume_mounts: Vec<VolumeMount>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Variable {
    name: String,
    value_from: ValueFrom,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ValueFrom {
    field_ref: FieldRef,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FieldRef {
    field_path: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    requests: Amounts,
    limits: Amounts,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Amounts {
    cpu: Option<String>,
    memory: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Security {
    privileged: bool,
    allow_privilege_escalation: bool,
    read_only_root_filesystem: bool,
    run_as_user: Option<i64>,
    capabilities: Capabilities,
    seccomp_profile: Option<Profile>,
    app_armor_profile: Option<Profile>,
    se_linux_options: Option<SeLinux>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Capabilities {
    #[serde(default)]
    add: Vec<String>,
    drop: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    r#type: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SeLinux {
    r#type: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VolumeMount {
    name: String,
    mount_path: String,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    mount_propagation: Option<String>,
}

/// A volume, of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) host_path: Option<HostPath>,
    #[serde(rename = "configMap")]
    _config_map: Option<Value>,
    #[serde(rename = "secret")]
    _secret: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HostPath {
    pub(crate) path: PathBuf,
    #[serde(default)]
    pub(crate) r#type: String,
}

impl Template {
    /// Of the only object of this kind in a file of manifests.
    pub(crate) fn of(manifest: &str, kind: &str) -> Result<Self> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(manifest)?;
        let object = objects.into_iter().find(|object| object["kind"] == kind);
        let object = object.with_context(|| format!("no {kind} there"))?;
        let mut template: Self = typed(&object["spec"]["template"]["spec"])?;
        for claim in object["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
            let name = claim["metadata"]["name"].as_str().context("a claim without a name")?.to_owned();
            template.volumes.push(Volume { name, host_path: None, _config_map: None, _secret: None });
        }
        Ok(template)
    }

    /// Of the pod's sandbox.
    pub(crate) fn sandbox(&self) -> LinuxSandboxSecurityContext {
        LinuxSandboxSecurityContext { namespace_options: Some(self.namespaces()) }
    }

    fn namespaces(&self) -> NamespaceOption {
        let mut namespaces = namespaces();
        if self.host_pid {
            namespaces.pid = NamespaceMode::Node.into();
        }
        namespaces
    }

    fn container(&self) -> Result<&Container> {
        match self.containers.as_slice() {
            [container] => Ok(container),
            several => bail!("{} containers", several.len()),
        }
    }

    /// Capabilities that it adds, sorted.
    pub(crate) fn capabilities(&self) -> Result<Vec<String>> {
        let mut names = self.container()?.security_context.capabilities.add.clone();
        names.sort();
        Ok(names)
    }

    /// What the runtime is asked for. `volumes`: where each is on this machine; `fields`: what the API server says of the
    /// pod; `more`: arguments that come after those of the manifest.
    pub(crate) fn config(
        &self,
        image: &str,
        volumes: impl Fn(&Volume) -> Result<PathBuf>,
        fields: &[(&str, &str)],
        more: &[String],
    ) -> Result<ContainerConfig> {
        let container = self.container()?;
        ensure!(image.contains(&container.image), "the manifest is for {}, not {image}", container.image);
        let mut envs = Vec::new();
        for Variable { name, value_from: ValueFrom { field_ref: FieldRef { field_path } } } in &container.env
        {
            let value = fields.iter().find(|(path, _)| path == field_path);
            let (_, value) = value.with_context(|| format!("{field_path} is not known"))?;
            envs.push(KeyValue { key: name.clone(), value: (*value).to_owned() });
        }
        let expand = |arg: &String| {
            envs.iter()
                .fold(arg.clone(), |arg, KeyValue { key, value }| arg.replace(&format!("$({key})"), value))
        };
        let mut mounts = Vec::new();
        for VolumeMount { name, mount_path, read_only, mount_propagation } in &container.volume_mounts {
            let volume = self.volumes.iter().find(|volume| volume.name == *name);
            let volume = volume.with_context(|| format!("no volume {name}"))?;
            let propagation = match mount_propagation.as_deref() {
                None => MountPropagation::PropagationPrivate,
                Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
                Some(other) => bail!("propagation {other}"),
            };
            mounts.push(Mount {
                container_path: mount_path.clone(),
                host_path: text(&volumes(volume)?)?,
                readonly: *read_only,
                propagation: propagation.into(),
            });
        }
        Ok(ContainerConfig {
            metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: 0 }),
            image: Some(ImageSpec { image: image.to_owned() }),
            args: container.args.iter().map(expand).chain(more.iter().cloned()).collect(),
            envs,
            mounts,
            log_path: format!("{}.log", container.name),
            labels: [("io.kubernetes.container.name".to_owned(), container.name.clone())].into(),
            linux: Some(LinuxContainerConfig {
                resources: Some(container.resources.for_runtime()?),
                security_context: Some(self.security(&container.security_context)?),
            }),
            ..ContainerConfig::default()
        })
    }

    fn security(&self, security: &Security) -> Result<LinuxContainerSecurityContext> {
        let Security {
            privileged,
            allow_privilege_escalation,
            read_only_root_filesystem,
            run_as_user,
            capabilities: Capabilities { add, drop },
            seccomp_profile,
            app_armor_profile,
            se_linux_options,
        } = security;
        let pod = &self.security_context;
        let id = |value: Option<i64>| value.map(|value| Int64Value { value });
        Ok(LinuxContainerSecurityContext {
            capabilities: Some(Capability { add_capabilities: add.clone(), drop_capabilities: drop.clone() }),
            privileged: *privileged,
            namespace_options: Some(self.namespaces()),
            selinux_options: se_linux_options
                .as_ref()
                .map(|SeLinux { r#type }| SeLinuxOption { r#type: r#type.clone() }),
            run_as_user: id(run_as_user.or(pod.run_as_user)),
            run_as_group: id(pod.run_as_group),
            readonly_rootfs: *read_only_root_filesystem,
            supplemental_groups: pod.fs_group.into_iter().collect(),
            no_new_privs: !allow_privilege_escalation,
            seccomp: profile(seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()))?,
            apparmor: profile(app_armor_profile.as_ref())?,
        })
    }
}

impl Resources {
    fn for_runtime(&self) -> Result<LinuxContainerResources> {
        let Self { requests, limits } = self;
        ensure!(limits.cpu.is_none(), "a limit of the processor is not expected here");
        let millis: i64 = match requests.cpu.as_deref().and_then(|cpu| cpu.strip_suffix('m')) {
            Some(millis) => millis.parse()?,
            None => bail!("no request of the processor"),
        };
        let (number, unit) = limits.memory.split_at(limits.memory.len().saturating_sub(2));
        let shift = match unit {
            "Mi" => 20,
            "Gi" => 30,
            _ => bail!("memory {}", limits.memory),
        };
        Ok(LinuxContainerResources {
            cpu_shares: millis * 1024 / 1000,
            memory_limit_in_bytes: number.parse::<i64>()? << shift,
        })
    }
}

fn profile(profile: Option<&Profile>) -> Result<Option<SecurityProfile>> {
    let Some(Profile { r#type }) = profile else { return Ok(None) };
    let kind = match r#type.as_str() {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Unconfined" => ProfileType::Unconfined,
        other => bail!("profile {other}"),
    };
    Ok(Some(SecurityProfile { profile_type: kind.into() }))
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path that is no text")?.to_owned())
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T> {
    serde_json::from_value(value.clone()).context("the manifest has what the tests do not know")
}
