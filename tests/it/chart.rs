//! The Helm chart: what it renders, what its values refuse, and what it lets the operator do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use k8s_openapi::api::authorization::v1::{
    SelfSubjectAccessReview, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec,
};
use kube::api::{Api, PostParams};
use llmkey_operator::api;
use llmkey_operator::testbed::{self, install_chart, render_chart, tools};
use serde_json::{Value, json};

fn chart() -> PathBuf {
    testbed::source_dir().join("charts/llmkey-operator")
}

fn render(values: &Value) -> Result<Vec<Value>, String> {
    render_chart(&chart(), "llmkey-operator", "llmkey-system", values).map_err(|error| error.to_string())
}

fn only<'a>(manifests: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = manifests.iter().filter(|manifest| manifest["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

fn pod(manifests: &[Value]) -> &Value {
    pod_of(manifests, "Deployment")
}

fn pod_of<'a>(manifests: &'a [Value], kind: &str) -> &'a Value {
    &only(manifests, kind)["spec"]["template"]["spec"]
}

fn args(pod: &Value) -> Vec<String> {
    let args = pod["containers"][0]["args"].as_array().unwrap();
    args.iter().map(|arg| arg.as_str().unwrap().to_owned()).collect()
}

#[test]
fn helm_lint_is_content() {
    let output =
        Command::new(tools::helm().unwrap()).args(["lint", "--strict"]).arg(chart()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn crds_are_the_generated_ones_and_stay_when_the_release_goes() {
    let manifests = render(&json!({})).unwrap();
    let mut rendered: Vec<Value> =
        manifests.into_iter().filter(|manifest| manifest["kind"] == "CustomResourceDefinition").collect();
    for crd in &mut rendered {
        assert_eq!(crd["metadata"]["annotations"], json!({"helm.sh/resource-policy": "keep"}));
        let metadata = crd["metadata"].as_object_mut().unwrap();
        metadata.retain(|field, _| field == "name");
    }
    assert_eq!(rendered, api::crds());

    for crd in api::crds() {
        let file = format!("{}.yaml", crd["spec"]["names"]["plural"].as_str().unwrap());
        let copy = fs::read_to_string(chart().join("files/crds").join(&file)).unwrap();
        assert_eq!(copy, serde_saphyr::to_string(&crd).unwrap(), "{file}: run `cargo run --bin crdgen`");
    }
}

#[test]
fn crds_can_be_left_out_and_can_go_with_the_release() {
    let without = render(&json!({"crds": {"enabled": false}})).unwrap();
    assert!(without.iter().all(|manifest| manifest["kind"] != "CustomResourceDefinition"));
    let going = render(&json!({"crds": {"keep": false}})).unwrap();
    assert!(
        going.iter().all(|manifest| manifest["metadata"]["annotations"]["helm.sh/resource-policy"].is_null())
    );
}

#[test]
fn the_pod_meets_the_restricted_standard() {
    let manifests = render(&json!({})).unwrap();
    for kind in ["Deployment", "Job"] {
        let pod = pod_of(&manifests, kind);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}));
        let context = &pod["containers"][0]["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        for field in ["hostNetwork", "hostPID", "hostIPC", "initContainers", "volumes"] {
            assert!(pod.get(field).is_none(), "{kind}: {field}");
        }
    }
    assert_eq!(only(&manifests, "ServiceAccount")["automountServiceAccountToken"], false);
}

#[test]
fn the_image_is_the_charts_version_unless_said_otherwise() {
    let image = |values: Value| pod(&render(&values).unwrap())["containers"][0]["image"].clone();
    assert_eq!(image(json!({})), concat!("llmkey-operator:", env!("CARGO_PKG_VERSION")));
    assert_eq!(image(json!({"image": {"repository": "r.example/x", "tag": "dev"}})), "r.example/x:dev");
    let digest = format!("sha256:{}", "0".repeat(64));
    assert_eq!(image(json!({"image": {"digest": digest}})), format!("llmkey-operator@{digest}"));
}

/// The later of two objects of one name would take the rights of the earlier away.
#[test]
fn no_object_is_rendered_twice_whichever_namespaces_are_listed() {
    for (home, listed) in [("llmkey-system", "default"), ("default", "team-b")] {
        let values = json!({"rbac": {"scope": "namespaces", "namespaces": [listed, "team-a"]}});
        let manifests = render_chart(&chart(), "llmkey-operator", home, &values).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for manifest in &manifests {
            let meta = &manifest["metadata"];
            let id = format!("{} {} {}", manifest["kind"], meta["namespace"], meta["name"]);
            assert!(seen.insert(id.clone()), "{home}: {id}");
        }
    }
}

#[test]
fn odd_values_are_rendered_whole() {
    let manifests = render(&json!({
        "fullnameOverride": "odd", "replicaCount": 2, "commonLabels": {"team": "a: b"}, "podLabels": {"x": "true"},
        "podAnnotations": {"note": "#1"}, 
        "keyring": {"existingSecret": "kek"}, "extraArgs": ["--identity=a b \"c\""], "runAsUser": null,
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}], "log": {"level": "info,kube=debug", "format": "text"},
        "serviceAccount": {"create": false, "name": "given"}, "imagePullSecrets": [{"name": "pull"}],
        "nodeSelector": {"disk": "1"}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "high",
        "image": {"tag": "1.10"},
    }))
    .unwrap();
    assert!(manifests.iter().all(|manifest| manifest["kind"] != "ServiceAccount"));
    let deployment = only(&manifests, "Deployment");
    assert_eq!(deployment["metadata"]["name"], "odd");
    assert_eq!(deployment["metadata"]["labels"]["team"], "a: b");
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"]["x"], "true");
    let pod = pod(&manifests);
    assert_eq!(pod["serviceAccountName"], "given");
    assert!(pod["securityContext"].get("runAsUser").is_none());
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], "kek");
    assert_eq!(pod["containers"][0]["image"], "llmkey-operator:1.10");
    let args = args(pod);
    for arg in ["--keyring-dir=/etc/llmkey/keyring", "--identity=a b \"c\"", "--lease-name=odd"] {
        assert!(args.iter().any(|found| found == arg), "{arg} in {args:?}");
    }
}

#[test]
fn a_token_for_google_is_mounted_where_the_operator_looks_for_it() {
    let audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/c";
    let manifests = render(&json!({"workloadIdentity": {"google": {"audience": audience}}})).unwrap();
    let pod = pod(&manifests);
    let source = &pod["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(source, &json!({"audience": audience, "expirationSeconds": 3600, "path": "token"}));
    let container = &pod["containers"][0];
    let mount = &container["volumeMounts"][0];
    assert_eq!((&mount["name"], &mount["readOnly"]), (&pod["volumes"][0]["name"], &json!(true)));
    let file = format!("{}/token", mount["mountPath"].as_str().unwrap());
    let env = container["env"].as_array().unwrap();
    assert!(env.contains(&json!({"name": "LLMKEY_GOOGLE_TOKEN_FILE", "value": file})), "{env:?}");
    assert!(pod_of(&manifests, "Job").get("volumes").is_none(), "who only waits needs no token");
}

/// What is not there unless asked for, and is not left out by mistake then.
#[test]
fn what_can_be_switched_on_and_off_is_there_when_it_should_be() {
    let on = json!({"enabled": true});
    let objects = json!([
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}},
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {{ .Release.Name }}-text\n",
    ]);
    let all = render(&json!({
        "serviceMonitor": on, "prometheusRule": on, "grafanaDashboard": on, "networkPolicy": on, "extraObjects": objects,
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": true}],
    }))
    .unwrap();
    let few =
        render(&json!({"podDisruptionBudget": {"enabled": false}, "spreadAcrossNodes": false})).unwrap();
    let count = |manifests: &[Value], kind: &str| manifests.iter().filter(|m| m["kind"] == kind).count();
    let kinds =
        ["PodDisruptionBudget", "ServiceMonitor", "PrometheusRule", "NetworkPolicy", "ConfigMap", "Secret"];
    assert_eq!(kinds.map(|kind| count(&all, kind)), [1, 1, 1, 1, 2, 1]);
    assert_eq!(kinds.map(|kind| count(&few, kind)), [0; 6]);
    let named = |name: &str| all.iter().any(|manifest| manifest["metadata"]["name"] == name);
    assert!(named("llmkey-operator-more") && named("llmkey-operator-text"));
    assert_eq!(pod(&all)["volumes"][0]["name"], "ca");
    assert_eq!(pod(&all)["containers"][0]["volumeMounts"][0]["mountPath"], "/etc/ca");
    assert_eq!(pod(&all)["topologySpreadConstraints"][0]["whenUnsatisfiable"], "ScheduleAnyway");
    assert!(pod(&few).get("topologySpreadConstraints").is_none());

    // What the Service and the ServiceMonitor look for is what the pod has.
    let labels = &only(&all, "Deployment")["spec"]["template"]["metadata"]["labels"];
    for (kind, selector) in [
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
    ] {
        let wanted = only(&all, kind).pointer(selector).and_then(Value::as_object).unwrap();
        assert!(!wanted.is_empty() && wanted.iter().all(|(name, value)| labels[name] == *value), "{kind}");
    }
    let service = &only(&all, "Service")["metadata"]["labels"];
    let wanted = only(&all, "ServiceMonitor")["spec"]["selector"]["matchLabels"].as_object().unwrap();
    assert!(wanted.iter().all(|(name, value)| service[name] == *value));
}

/// Every flag of the chart is one that the operator knows, whatever the values.
#[test]
fn the_operator_understands_the_charts_arguments() {
    for values in [
        json!({}),
        json!({"keyring": {"existingSecret": "k"}}),
        json!({"rbac": {"scope": "cluster-polling"}}),
        json!({"rbac": {"scope": "namespaces", "namespaces": ["team-a", "team-b"]}}),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_llmkey-operator"))
            .args(args(pod(&render(&values).unwrap())))
            // Refused after the rest was read: the answer tells which argument was not understood.
            .arg("--concurrency=0")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("concurrency"), "{text}");
        assert!(!text.contains("unexpected argument"), "{text}");
    }
    for values in [
        json!({}),
        json!({"crds": {"keep": false}, "drain": {"timeout": "1m30s"}}),
        json!({"rbac": {"scope": "namespaces", "namespaces": ["team-a"]}}),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_llmkey-operator"))
            .args(args(pod_of(&render(&values).unwrap(), "Job")))
            .arg("--kubeconfig=/nowhere")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("no connection to a cluster"), "{text}");
    }
}

/// With the CRDs every LLMKey would go, whose keys nobody could revoke any more.
#[test]
fn the_drain_is_asked_before_the_release_goes_and_refuses_where_the_crds_go_too() {
    let job = |values: &Value| {
        let manifests = render(values).unwrap();
        manifests.into_iter().find(|manifest| manifest["kind"] == "Job")
    };
    let refuses = |values: Value| {
        let job = job(&values).unwrap();
        assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-delete");
        args(&job["spec"]["template"]["spec"]).contains(&"--refuse-while-keys-exist".to_owned())
    };
    assert!(!refuses(json!({})) && refuses(json!({"crds": {"keep": false}})));
    assert!(!refuses(json!({"crds": {"enabled": false, "keep": false}})));
    assert_eq!(job(&json!({"drain": {"enabled": false}})), None);
    // The Deployment, its Service and its budget count no such pod.
    let manifests = render(&json!({})).unwrap();
    let labels = &only(&manifests, "Job")["spec"]["template"]["metadata"]["labels"];
    let selector = &only(&manifests, "Deployment")["spec"]["selector"]["matchLabels"];
    assert_ne!(labels["app.kubernetes.io/name"], selector["app.kubernetes.io/name"]);
}

#[test]
fn the_values_schema_refuses_what_it_should() {
    for (values, part) in [
        (json!({"replicas": 2}), "additional properties 'replicas' not allowed"),
        (json!({"image": {"name": "x"}}), "additional properties 'name' not allowed"),
        (json!({"replicaCount": "2"}), "/replicaCount"),
        (json!({"log": {"format": "xml"}}), "/log/format"),
        (json!({"runAsUser": 0}), "/runAsUser"),
        (json!({"image": {"digest": "sha256:abc"}}), "/image/digest"),
        (
            json!({"serviceAccount": {"create": false}}),
            "with serviceAccount.create=false name an existing one",
        ),
        (json!({"rbac": {"scope": "everything"}}), "/rbac/scope"),
        (json!({"rbac": {"scope": "namespaces", "namespaces": ["Team"]}}), "/rbac/namespaces/0"),
        (json!({"rbac": {"scope": "namespaces"}}), "name the namespaces that have LLMKeys"),
        (json!({"rbac": {"namespaces": ["team-a"]}}), "only with rbac.scope=namespaces"),
        (
            json!({"rbac": {"scope": "namespaces", "namespaces": ["llmkey-system"]}}),
            "an LLMKey in the operator's own namespace does not work",
        ),
        (
            json!({"rbac": {"scope": "namespaces", "namespaces": ["team-a"]}, "crds": {"keep": false}}),
            "nobody could tell whether LLMKeys exist elsewhere",
        ),
        // Time may be divided in tests only.
        (json!({"extraArgs": ["--test-time-divisor=100"]}), "/extraArgs/0"),
        (json!({"extraArgs": ["--test-time-divisor", "100"]}), "/extraArgs/0"),
        (json!({"extraArgs": ["--$(FLAG)=100"]}), "/extraArgs/0"),
        (json!({"extraArgs": ["--", "x"]}), "/extraArgs/0"),
        (json!({"extraEnv": [{"name": "LLMKEY_TEST_TIME_DIVISOR", "value": "100"}]}), "/extraEnv/0/name"),
        (json!({"serviceMonitor": {"interval": "often"}}), "/serviceMonitor/interval"),
        (json!({"prometheusRule": {"disabled": ["invalid"]}}), "/prometheusRule/disabled/0"),
        (json!({"networkPolicy": {"egressPorts": []}}), "/networkPolicy/egressPorts"),
    ] {
        let error = render(&values).err().unwrap_or_else(|| panic!("accepted: {values}"));
        assert!(error.contains(part), "{values}: {error}");
    }
}

/// Leaves of a values file, `a.b.c`; lists and empty maps are leaves.
fn leaves(prefix: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map)
            if !map.is_empty() && !["resources", "grafanaDashboard.labels"].contains(&prefix) =>
        {
            for (name, value) in map {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                leaves(&path, value, found);
            }
        }
        _ => drop(found.insert(prefix.to_owned())),
    }
}

#[test]
fn the_readme_describes_exactly_the_values() {
    let values: Value =
        serde_saphyr::from_str(&fs::read_to_string(chart().join("values.yaml")).unwrap()).unwrap();
    let mut expected = BTreeSet::new();
    leaves("", &values, &mut expected);
    let readme = fs::read_to_string(chart().join("README.md")).unwrap();
    let described: BTreeSet<String> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name.to_owned()))
        .collect();
    assert_eq!(described, expected);
}

/// One line for each right, so that a review of a change shows every widening.
fn rights(manifests: &[Value]) -> String {
    let mut lines = BTreeSet::new();
    for manifest in manifests {
        let kind = manifest["kind"].as_str().unwrap();
        if !matches!(kind, "Role" | "ClusterRole") {
            continue;
        }
        let place = manifest["metadata"]["namespace"].as_str().unwrap_or("cluster");
        let name = manifest["metadata"]["name"].as_str().unwrap();
        for rule in manifest["rules"].as_array().unwrap() {
            for resource in rule["resources"].as_array().unwrap() {
                let names = rule.get("resourceNames").map(|names| format!(" {names}")).unwrap_or_default();
                let (group, resource) = (rule["apiGroups"][0].as_str().unwrap(), resource.as_str().unwrap());
                assert_eq!(rule["apiGroups"].as_array().unwrap().len(), 1);
                lines.insert(format!("{place} {name}: {group}/{resource}{names} {}\n", rule["verbs"]));
            }
        }
    }
    lines.into_iter().collect()
}

#[test]
fn rights_are_those_that_were_reviewed() {
    insta::assert_snapshot!(rights(&render(&json!({})).unwrap()));
}

#[test]
fn rights_of_each_scope_are_those_that_were_reviewed() {
    for (scope, values) in [
        ("cluster-polling", json!({"rbac": {"scope": "cluster-polling"}})),
        ("namespaces", json!({"rbac": {"scope": "namespaces", "namespaces": ["team-a", "team-b"]}})),
        (
            "namespaces-rollout",
            json!({"rbac": {"scope": "namespaces", "namespaces": ["team-a"]}, "rollout": {"enabled": true}}),
        ),
    ] {
        let manifests = render(&values).unwrap();
        insta::assert_snapshot!(format!("rights_in_scope_{scope}"), rights(&manifests));
        // Each role is given to the operator, where it stands, and to nobody else.
        let named = |kind: &str, pointer: &str| -> BTreeSet<String> {
            let of_kind = manifests.iter().filter(|manifest| manifest["kind"] == kind);
            of_kind
                .map(|m| format!("{} {}", m["metadata"]["namespace"], m.pointer(pointer).unwrap()))
                .collect()
        };
        assert_eq!(named("Role", "/metadata/name"), named("RoleBinding", "/roleRef/name"));
        let subject =
            json!([{"kind": "ServiceAccount", "name": "llmkey-operator", "namespace": "llmkey-system"}]);
        let bindings =
            manifests.iter().filter(|m| m["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding")));
        assert!(bindings.into_iter().all(|binding| binding["subjects"] == subject));
    }
}

#[test]
fn the_operator_is_told_its_scope() {
    let told = |values: Value, kind: &str| -> Vec<String> {
        let args = args(pod_of(&render(&values).unwrap(), kind));
        args.into_iter().filter(|arg| arg.starts_with("--watch") || arg.starts_with("--secrets")).collect()
    };
    let polling = json!({"rbac": {"scope": "cluster-polling"}});
    let two = json!({"rbac": {"scope": "namespaces", "namespaces": ["team-a", "team-b"]}});
    for kind in ["Deployment", "Job"] {
        assert!(told(json!({}), kind).is_empty());
        assert_eq!(told(two.clone(), kind), ["--watch-namespaces=team-a,team-b"]);
    }
    assert_eq!(told(polling, "Deployment"), ["--secrets=poll"]);
}

/// The rights of everybody who is authenticated, beside which the operator's stand.
const FOR_EVERYBODY: [&str; 3] =
    ["selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"];

#[test]
fn restarting_workloads_is_granted_only_when_asked_for() {
    let restarts = "apps/deployments [\"get\",\"patch\"]";
    let asked = render(&json!({"rollout": {"enabled": true}})).unwrap();
    assert!(rights(&asked).contains(restarts) && args(pod(&asked)).contains(&"--rollout=true".to_owned()));
    let by_default = render(&json!({})).unwrap();
    assert!(
        !rights(&by_default).contains(restarts)
            && args(pod(&by_default)).contains(&"--rollout=false".to_owned())
    );
}

#[tokio::test]
async fn the_server_grants_what_the_chart_says_and_nothing_else() {
    let cluster = testbed::shared().await.unwrap();
    let tenant = cluster.namespace("tenant").await.unwrap();
    let home = cluster.namespace("rights").await.unwrap();
    let installation = install_chart(cluster, &home, &json!({})).await.unwrap();
    let client = installation.client(cluster).await.unwrap();
    let reviews: Api<SelfSubjectRulesReview> = Api::all(client.clone());
    let mut text = String::new();
    for (place, namespace) in [("tenant", &tenant), ("home", &home)] {
        let review = SelfSubjectRulesReview {
            spec: SelfSubjectRulesReviewSpec { namespace: Some(namespace.clone()) },
            ..SelfSubjectRulesReview::default()
        };
        let status = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
        let mut rights: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for rule in status.resource_rules {
            for resource in rule.resources.unwrap_or_default() {
                let groups = rule.api_groups.clone().unwrap_or_default().join(",");
                let names = rule.resource_names.clone().unwrap_or_default().join(",").replace(&home, "HOME");
                if !FOR_EVERYBODY.contains(&resource.as_str()) {
                    let verbs = rights.entry(format!("{groups}/{resource} {names}")).or_default();
                    verbs.extend(rule.verbs.iter().cloned());
                }
            }
        }
        for (resource, verbs) in rights {
            writeln!(text, "{place}: {resource} {verbs:?}").unwrap();
        }
    }
    insta::assert_snapshot!(text);

    let reviews: Api<SelfSubjectAccessReview> = Api::all(client);
    for (group, resource, verb) in [
        ("", "pods", "watch"),
        ("", "pods", "get"),
        ("", "pods/exec", "create"),
        ("", "serviceaccounts/token", "create"),
        ("", "serviceaccounts", "impersonate"),
        ("", "secrets", "deletecollection"),
        ("apps", "deployments", "patch"),
        ("rbac.authorization.k8s.io", "clusterroles", "escalate"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies", "delete"),
        ("llmkeys.dev", "llmkeys", "delete"),
    ] {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = serde_json::from_value(json!({"spec": {"resourceAttributes": {
            "group": group, "resource": resource, "subresource": subresource, "verb": verb, "namespace": tenant,
        }}}))
        .unwrap();
        let status = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
        assert!(!status.allowed, "{verb} {group}/{resource}/{subresource}");
    }
}
