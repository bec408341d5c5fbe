//! What users write: the account, policies, keys, and Deployments that use them in the three ways there are, one of them also by an SDK that is not ours.

use llmkey_operator::sandbox::Sandbox;
use serde_json::{Value, json};

/// Namespace of the operator.
pub const OPERATOR: &str = "llmkey-system";
/// Its release, and so the name of every object of the chart and of the Lease.
pub const RELEASE: &str = "llmkey-operator";
/// Namespace of the keys and of the workloads.
pub const TENANT: &str = "team";
/// The account's `LLMProvider`.
pub const ACCOUNT: &str = "sandbox";
/// The policy of keys that workloads use.
pub const POLICY: &str = "careful";
/// The key of the workloads that must be restarted, and the one of those that read it anew.
pub const CHAT: &str = "chat";
pub const STREAM: &str = "stream";
/// Keys that no pod uses, one for each disruption, which is struck while its key is replaced.
pub const STRUCK: [&str; 4] = ["killed", "led", "served", "hosted"];
/// Image of the workloads.
pub const PROBER: &str = "localhost/prober:e2e";
/// Image of the workload with the SDK.
pub const SDK: &str = "localhost/openai-sdk:e2e";
/// Replicas of each workload.
pub const REPLICAS: usize = 2;
/// In the pods: where the Secret is mounted, and where lines are written.
const KEY_DIR: &str = "/key";
const LOG_DIR: &str = "/log";
const AUTHORITY: &str = "/authority/ca.pem";

/// How a workload takes the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// `envFrom`.
    Env,
    /// A volume that is read once.
    File,
    /// A volume that is read again and again, as the pod's annotation says.
    Reload,
    /// `envFrom`, by `OpenAI`'s own SDK for Python.
    Sdk,
}

impl Way {
    /// All of them; the last one only where its image could be made.
    pub const ALL: [Self; 4] = [Self::Env, Self::File, Self::Reload, Self::Sdk];

    /// The Deployment's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Env => "by-env",
            Self::File => "by-file",
            Self::Reload => "by-reload",
            Self::Sdk => "by-sdk",
        }
    }

    /// The `LLMKey`, and its Secret.
    pub fn key(self) -> &'static str {
        if self == Self::Reload { STREAM } else { CHAT }
    }
}

/// The account, the policies and the keys.
pub fn keys(sandbox: &Sandbox) -> Vec<Value> {
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "admin", "namespace": OPERATOR, "labels": {"llmkeys.dev/admin-credential": "true"}},
            "stringData": {"credential": sandbox.admin_key(), "host": sandbox.addr().to_string()},
        }),
        json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMProvider", "metadata": {"name": ACCOUNT},
            "spec": {
                "type": "OpenAI", "openAI": {"project": sandbox.project_id()},
                "baseURL": sandbox.base_url(), "caBundle": sandbox.ca_pem(), "addresses": "AllowPrivate",
                "adminCredentialRef": {"name": "admin"}, "allowedNamespaces": [TENANT],
            },
        }),
        policy(&json!({})),
        json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "RotationPolicy",
            "metadata": {"name": "quick", "namespace": TENANT},
            "spec": {"overlap": {"minimum": "0s", "evidence": {"consumers": "Ignored", "quietFor": "0s"}}},
        }),
    ];
    objects.extend([CHAT, STREAM].map(|name| key(name, POLICY, "Revoke")));
    objects
        .extend(STRUCK.map(|name| key(name, "quick", if name == STRUCK[0] { "Retain" } else { "Revoke" })));
    objects
}

/// The policy of keys that workloads use: all evidence is asked for, and times are the shortest that are allowed.
pub fn policy(schedule: &Value) -> Value {
    json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "RotationPolicy",
        "metadata": {"name": POLICY, "namespace": TENANT},
        "spec": {
            "schedule": schedule, "jitter": "0s",
            "overlap": {"minimum": "1m", "evidence": {"consumers": "Required", "quietFor": "10s"}},
        },
    })
}

fn key(name: &str, policy: &str, deletion: &str) -> Value {
    json!({
        "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey", "metadata": {"name": name, "namespace": TENANT},
        "spec": {
            "providerRef": {"name": ACCOUNT}, "source": {"mint": {}}, "rotationPolicyRef": {"name": policy},
            "deletionPolicy": deletion, "deletionGracePeriod": "0s",
        },
    })
}

/// The provider's authority, which the probers trust.
pub fn authority(sandbox: &Sandbox) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority", "namespace": TENANT},
        "data": {"ca.pem": sandbox.ca_pem()},
    })
}

/// A Deployment that uses the key in this way. Its lines go to `log_dir` on the node.
pub fn deployment(way: Way, log_dir: &str) -> Value {
    let labels = json!({"app": way.name()});
    let mut arguments = if way == Way::Sdk {
        vec![LOG_DIR.to_owned()]
    } else {
        vec!["use".to_owned(), format!("--ca-file={AUTHORITY}"), format!("--log-dir={LOG_DIR}")]
    };
    let mut mounts = vec![
        json!({"name": "authority", "mountPath": "/authority"}),
        json!({"name": "log", "mountPath": LOG_DIR}),
    ];
    let mut volumes = vec![
        json!({"name": "authority", "configMap": {"name": "authority"}}),
        json!({"name": "log", "hostPath": {"path": log_dir, "type": "Directory"}}),
    ];
    let (mut env, mut annotations) = (json!([]), json!({}));
    if matches!(way, Way::Env | Way::Sdk) {
        env = json!([{"secretRef": {"name": way.key()}}]);
    } else {
        arguments.push(format!("--key-dir={KEY_DIR}"));
        mounts.push(json!({"name": "key", "mountPath": KEY_DIR, "readOnly": true}));
        volumes.push(json!({"name": "key", "secret": {"secretName": way.key()}}));
    }
    if way == Way::Reload {
        arguments.push("--reload".to_owned());
        annotations = json!({"llmkeys.dev/reload": "true"});
    }
    let (image, variables) = if way == Way::Sdk {
        (SDK, json!([{"name": "SSL_CERT_FILE", "value": AUTHORITY}]))
    } else {
        (PROBER, json!([]))
    };
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": way.name(), "namespace": TENANT},
        "spec": {
            "replicas": REPLICAS, "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": {
                    "automountServiceAccountToken": false, "enableServiceLinks": false, "terminationGracePeriodSeconds": 5,
                    "containers": [{
                        "name": "prober", "image": image, "imagePullPolicy": "Never", "args": arguments,
                        "envFrom": env, "env": variables, "volumeMounts": mounts,
                        "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false},
                    }],
                    "volumes": volumes,
                },
            },
        },
    })
}
