//! How a pod uses Secrets, from its spec.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, VolumeMount};

use crate::api::RELOAD;

/// How a pod has a Secret's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reads {
    /// From a volume that follows the Secret; it says that it reads the file anew.
    Anew,
    /// From the environment, from a `subPath` that never follows, or from a volume at a time that nobody knows.
    Once,
}

/// A Secret that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Use {
    /// Name of the Secret.
    pub secret: String,
    /// How.
    pub reads: Reads,
}

/// What the pod's containers use, each Secret once. Secrets that only the kubelet uses, to pull images or to mount a disk, are
/// not among them.
pub fn uses(pod: &Pod) -> Vec<Use> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let says = pod.metadata.annotations.as_ref().and_then(|a| a.get(RELOAD));
    let from_volume = if says.is_some_and(|value| value == "true") { Reads::Anew } else { Reads::Once };
    let mut found = environment(spec);
    for (volume, secret) in volumes(spec) {
        let reads = if fixed(spec, volume) { Reads::Once } else { from_volume };
        found.push(Use { secret: secret.to_owned(), reads });
    }
    // Of two ways the worse one counts; it is the greater one.
    found.sort_by(|a, b| (&a.secret, b.reads).cmp(&(&b.secret, a.reads)));
    found.dedup_by(|next, first| next.secret == first.secret);
    found
}

/// A container of any sort, as far as it can use Secrets.
struct Container<'a> {
    env: &'a [EnvVar],
    env_from: &'a [EnvFromSource],
    mounts: &'a [VolumeMount],
}

fn containers(spec: &PodSpec) -> Vec<Container<'_>> {
    let ordinary = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| Container {
        env: c.env.as_deref().unwrap_or_default(),
        env_from: c.env_from.as_deref().unwrap_or_default(),
        mounts: c.volume_mounts.as_deref().unwrap_or_default(),
    });
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| Container {
        env: c.env.as_deref().unwrap_or_default(),
        env_from: c.env_from.as_deref().unwrap_or_default(),
        mounts: c.volume_mounts.as_deref().unwrap_or_default(),
    });
    ordinary.chain(ephemeral).collect()
}

fn environment(spec: &PodSpec) -> Vec<Use> {
    let mut found = Vec::new();
    for container in containers(spec) {
        let single = container
            .env
            .iter()
            .filter_map(|e| e.value_from.as_ref()?.secret_key_ref.as_ref().map(|r| r.name.as_str()));
        let whole = container.env_from.iter().filter_map(|e| e.secret_ref.as_ref().map(|r| r.name.as_str()));
        let named = single.chain(whole).filter(|name| !name.is_empty());
        found.extend(named.map(|secret| Use { secret: secret.to_owned(), reads: Reads::Once }));
    }
    found
}

/// Names of volumes, and of the Secrets in them.
fn volumes(spec: &PodSpec) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        let direct = volume.secret.as_ref().and_then(|s| s.secret_name.as_deref());
        let projected = volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten())
            .filter_map(|source| source.secret.as_ref().map(|s| s.name.as_str()));
        let named = direct.into_iter().chain(projected).filter(|name| !name.is_empty());
        found.extend(named.map(|secret| (volume.name.as_str(), secret)));
    }
    found
}

/// A container mounts a part of the volume, which stays as it was when the container started.
fn fixed(spec: &PodSpec, volume: &str) -> bool {
    let set = |path: &Option<String>| path.as_ref().is_some_and(|p| !p.is_empty());
    containers(spec)
        .iter()
        .flat_map(|c| c.mounts)
        .any(|m| m.name == volume && (set(&m.sub_path) || set(&m.sub_path_expr)))
}
