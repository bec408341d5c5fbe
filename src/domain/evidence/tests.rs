use super::*;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

const NONE: BTreeSet<String> = BTreeSet::new();

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn pod(spec: &Value, reload: bool) -> Pod {
    let annotations = if reload { json!({"llmkeys.dev/reload": "true"}) } else { json!({}) };
    serde_json::from_value(json!({"metadata": {"name": "app", "annotations": annotations}, "spec": spec}))
        .unwrap()
}

fn container(more: &Value) -> Value {
    let mut container = json!({"name": "main"});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

fn env(secret: &str) -> Value {
    json!([{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}])
}

#[test]
fn every_way_to_use_a_secret_is_found() {
    let by_env = container(&json!({"env": env("chat")}));
    let plain = container(&json!({}));
    let mounted = |more: Value| {
        let mut mount = json!({"name": "keys", "mountPath": "/keys"});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container(&json!({"volumeMounts": [mount]}))
    };
    let volume = json!([{"name": "keys", "secret": {"secretName": "chat"}}]);
    let projected = json!([{"name": "keys", "projected": {"sources": [
        {"configMap": {"name": "other"}}, {"secret": {"name": "chat"}},
    ]}}]);
    let cases = [
        ("env", json!({"containers": [by_env]}), Some(Reads::Once)),
        (
            "envFrom",
            json!({"containers": [container(&json!({"envFrom": [{"secretRef": {"name": "chat"}}]}))]}),
            Some(Reads::Once),
        ),
        ("init", json!({"containers": [plain], "initContainers": [by_env]}), Some(Reads::Once)),
        ("ephemeral", json!({"containers": [plain], "ephemeralContainers": [by_env]}), Some(Reads::Once)),
        ("volume", json!({"containers": [mounted(json!({}))], "volumes": volume}), Some(Reads::Anew)),
        ("unmounted", json!({"containers": [plain], "volumes": volume}), Some(Reads::Anew)),
        ("projected", json!({"containers": [mounted(json!({}))], "volumes": projected}), Some(Reads::Anew)),
        (
            "subPath",
            json!({"containers": [mounted(json!({"subPath": "k"}))], "volumes": volume}),
            Some(Reads::Once),
        ),
        (
            "subPathExpr",
            json!({"containers": [plain], "initContainers": [mounted(json!({"subPathExpr": "$(X)"}))], "volumes": projected}),
            Some(Reads::Once),
        ),
        (
            "both ways",
            json!({"containers": [mounted(json!({})), by_env], "volumes": volume}),
            Some(Reads::Once),
        ),
        ("another Secret", json!({"containers": [container(&json!({"env": env("other")}))]}), None),
        (
            "a ConfigMap",
            json!({"containers": [container(&json!({"envFrom": [{"configMapRef": {"name": "chat"}}]}))]}),
            None,
        ),
        ("pulling images", json!({"containers": [plain], "imagePullSecrets": [{"name": "chat"}]}), None),
    ];
    for (what, spec, wanted) in cases {
        let found = uses(&pod(&spec, true));
        let reads = found.iter().find(|u| u.secret == "chat").map(|u| u.reads);
        assert_eq!(reads, wanted, "{what}");
        assert!(found.iter().filter(|u| u.secret == "chat").count() <= 1, "{what}: {found:?}");
        // Without the annotation nobody knows when a file is read.
        let silent = uses(&pod(&spec, false)).into_iter().find(|u| u.secret == "chat").map(|u| u.reads);
        assert_eq!(silent, wanted.map(|_| Reads::Once), "{what}");
    }
}

#[test]
fn owners_are_told_by_group_and_kind() {
    let owned = |api: &str, kind: &str, controller: bool| -> ObjectMeta {
        let owner =
            json!({"apiVersion": api, "kind": kind, "name": "web", "uid": "u", "controller": controller});
        serde_json::from_value(json!({"ownerReferences": [owner]})).unwrap()
    };
    let workload = |kind| Owner::Workload(Workload { kind, name: "web".into() });
    for (api, kind, wanted) in [
        ("apps/v1", "ReplicaSet", Owner::ReplicaSet("web".into())),
        ("apps/v1", "StatefulSet", workload(WorkloadKind::StatefulSet)),
        ("apps/v1", "DaemonSet", workload(WorkloadKind::DaemonSet)),
        ("apps/v1", "Deployment", workload(WorkloadKind::Deployment)),
        ("batch/v1", "Job", Owner::Job("web".into())),
        ("batch/v1", "CronJob", workload(WorkloadKind::CronJob)),
        (
            "apps.kruise.io/v1",
            "StatefulSet",
            workload(WorkloadKind::Other("StatefulSet.apps.kruise.io".into())),
        ),
        ("v1", "ReplicationController", workload(WorkloadKind::Other("ReplicationController".into()))),
        ("v1", "Node", Owner::Nobody),
    ] {
        assert_eq!(controller_of(&owned(api, kind, true)), wanted, "{api} {kind}");
        assert_eq!(controller_of(&owned(api, kind, false)), Owner::Nobody, "{api} {kind}");
    }
}

#[test]
fn a_rollout_is_read_from_spec_and_status() {
    let template = json!({"metadata": {"annotations": {"llmkeys.dev/restarted-for": "chat/2"}}});
    let deployment = |spec: Value, status: Value| {
        let mut object = json!({
            "metadata": {"uid": "u", "generation": 3}, "status": status,
            "spec": {"replicas": 2, "selector": {}, "template": template},
        });
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        super::deployment(&serde_json::from_value(object).unwrap())
    };
    let done = json!({"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
    let rollout = deployment(json!({}), done.clone());
    assert!(rollout.settled && !rollout.paused && !rollout.failed && !rollout.opted_out);
    assert_eq!(rollout.restarted_for.as_deref(), Some("chat/2"));
    for (field, value) in
        [("observedGeneration", 2), ("replicas", 3), ("updatedReplicas", 1), ("availableReplicas", 1)]
    {
        let mut status = done.clone();
        status[field] = json!(value);
        assert!(!deployment(json!({}), status).settled, "{field}");
    }
    assert!(deployment(json!({"paused": true}), done.clone()).paused);
    let late = json!({"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]});
    assert!(deployment(json!({}), late).failed);
    let says_no = json!({"template": {"metadata": {"annotations": {"llmkeys.dev/restart": "false"}}}});
    assert!(deployment(says_no, done).opted_out);

    let stateful = |strategy: Value| {
        super::stateful_set(&serde_json::from_value(json!({
            "metadata": {"generation": 1},
            "spec": {"replicas": 1, "selector": {}, "serviceName": "", "template": {}, "updateStrategy": strategy},
            "status": {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "currentRevision": "a", "updateRevision": "a"},
        })).unwrap())
    };
    assert!(stateful(json!({"type": "RollingUpdate"})).settled && !stateful(json!({})).on_delete);
    assert!(stateful(json!({"type": "OnDelete"})).on_delete);
    assert!(stateful(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}})).on_delete);
    let daemons = json!({
        "metadata": {"generation": 1, "annotations": {"llmkeys.dev/restart": "false"}},
        "spec": {"selector": {}, "template": {}, "updateStrategy": {"type": "OnDelete"}},
        "status": {"observedGeneration": 1, "currentNumberScheduled": 1, "desiredNumberScheduled": 1,
                   "numberMisscheduled": 0, "numberReady": 1, "updatedNumberScheduled": 1, "numberAvailable": 1},
    });
    let daemons = daemon_set(&serde_json::from_value(daemons).unwrap());
    assert!(daemons.on_delete && daemons.opted_out && daemons.settled);
}

fn consumer(kind: WorkloadKind, created: i64, rollout: Option<Rollout>) -> Consumer {
    Consumer {
        workload: Workload { kind, name: "web".into() },
        pods: vec![PodUse { created: at(created), ending: false, reads: Reads::Once }],
        rollout,
    }
}

fn settled() -> Rollout {
    Rollout { settled: true, ..Rollout::default() }
}

/// The Secret was written at 0; asked an hour later unless said otherwise.
fn standing(consumer: Consumer, restarts: &[Restart], now: i64) -> Standing {
    let census = Census { consumers: vec![consumer], restarting: 0, may_restart: true };
    let question = Question {
        key: "chat",
        version: 2,
        since: at(0),
        restarts,
        refused: &NONE,
        automatic: true,
        now: at(now),
    };
    judge(&census, &question, &Timings::default())[0].standing
}

#[test]
fn a_pod_is_current_from_the_margin_on() {
    for (created, wanted) in [
        (-5, Standing::Straggler(Obstacle::BarePod)),
        (0, Standing::Straggler(Obstacle::BarePod)),
        (59, Standing::Straggler(Obstacle::BarePod)),
        (60, Standing::Current),
    ] {
        assert_eq!(standing(consumer(WorkloadKind::Pod, created, None), &[], 3600), wanted, "{created}");
    }
    let mut rereads = consumer(WorkloadKind::Pod, -5, None);
    rereads.pods[0].reads = Reads::Anew;
    assert_eq!(standing(rereads.clone(), &[], 299), Standing::Stale(Waits::Reloading));
    assert_eq!(standing(rereads.clone(), &[], 300), Standing::Presumed);
    rereads.pods[0].created = at(60);
    assert_eq!(standing(rereads, &[], 300), Standing::Current);
}

#[test]
fn each_obstacle_has_its_reason() {
    use Obstacle::*;
    let rollout = |change: fn(&mut Rollout)| {
        let mut rollout = settled();
        change(&mut rollout);
        Some(rollout)
    };
    let kind = WorkloadKind::Deployment;
    for (consumer, wanted) in [
        (consumer(kind.clone(), 0, rollout(|r| r.opted_out = true)), OptedOut),
        (consumer(kind.clone(), 0, rollout(|r| r.on_delete = true)), OnDelete),
        (consumer(kind.clone(), 0, rollout(|r| r.paused = true)), Paused),
        (
            consumer(
                kind.clone(),
                0,
                rollout(|r| {
                    r.settled = false;
                    r.failed = true;
                }),
            ),
            RolloutFailed,
        ),
        (consumer(kind.clone(), 0, rollout(|r| r.settled = false)), RolloutFailed),
        (consumer(kind.clone(), 0, None), BarePod),
        (consumer(WorkloadKind::Job, 0, None), RunningJob),
        (consumer(WorkloadKind::CronJob, 0, None), RunningJob),
        (consumer(WorkloadKind::Other("Rollout.argoproj.io".into()), 0, None), OwnedByController),
    ] {
        assert_eq!(standing(consumer.clone(), &[], 3600), Standing::Straggler(wanted), "{consumer:?}");
    }
    let waits = Standing::Stale(Waits::RestartPending);
    assert_eq!(standing(consumer(kind.clone(), 0, Some(settled())), &[], 3600), waits);
    let unsettled = consumer(kind, 0, rollout(|r| r.settled = false));
    assert_eq!(standing(unsettled, &[], 800), Standing::Stale(Waits::Restarting));
}

#[test]
fn tries_are_counted_and_their_end_has_a_reason() {
    let tried = |tries| vec![Restart { workload: "Deployment/web".into(), tries, at: at(1000) }];
    let with = |marked: Option<&str>| {
        let rollout = Rollout { restarted_for: marked.map(str::to_owned), ..settled() };
        consumer(WorkloadKind::Deployment, 0, Some(rollout))
    };
    let (pending, under_way) = (Standing::Stale(Waits::RestartPending), Standing::Stale(Waits::Restarting));
    assert_eq!(standing(with(Some("chat/2")), &tried(1), 1100), under_way);
    assert_eq!(standing(with(Some("chat/2")), &tried(1), 1300), pending);
    assert_eq!(standing(with(None), &tried(1), 1300), pending);
    assert_eq!(standing(with(None), &tried(2), 1300), Standing::Straggler(Obstacle::OwnedByController));
    let failed = Standing::Straggler(Obstacle::RolloutFailed);
    assert_eq!(standing(with(Some("chat/2/2")), &tried(2), 1300), failed);
    let census = Census { consumers: vec![with(None)], restarting: 0, may_restart: true };
    let refused = BTreeSet::from(["Deployment/web".to_owned()]);
    let restarts = tried(2);
    let question = Question {
        key: "chat",
        version: 2,
        since: at(0),
        restarts: &restarts,
        refused: &refused,
        automatic: true,
        now: at(1300),
    };
    let judged = judge(&census, &question, &Timings::default());
    assert_eq!(judged[0].standing, Standing::Straggler(Obstacle::RefusedByAdmission));
    let again = tried_again(&tried(1), [&judged[0].workload], at(2000));
    assert_eq!(again, [Restart { workload: "Deployment/web".into(), tries: 2, at: at(2000) }]);
}

#[test]
fn restarts_keep_to_the_budget_and_stop_after_a_failure() {
    let named = |name: &str, settled: bool| {
        let rollout = Rollout { settled, ..Rollout::default() };
        let mut consumer = consumer(WorkloadKind::Deployment, 0, Some(rollout));
        consumer.workload.name = name.into();
        consumer
    };
    let mut census = Census {
        consumers: ["a", "b", "c", "d", "e"].into_iter().map(|name| named(name, true)).collect(),
        restarting: 0,
        may_restart: true,
    };
    let next = |census: &Census, restarts: &[Restart]| -> Vec<String> {
        let question = Question {
            key: "chat",
            version: 2,
            since: at(0),
            restarts,
            refused: &NONE,
            automatic: true,
            now: at(3600),
        };
        let judged = judge(census, &question, &Timings::default());
        next_restarts(census, &judged, restarts).into_iter().map(|(w, _)| w.name.clone()).collect()
    };
    assert_eq!(next(&census, &[]), ["a", "b", "c"]);
    census.restarting = 2;
    assert_eq!(next(&census, &[]), ["a"]);
    census.restarting = 7;
    assert!(next(&census, &[]).is_empty());
    census.restarting = 0;
    census.consumers[1] = named("b", false);
    let restarted = [Restart { workload: "Deployment/b".into(), tries: 1, at: at(100) }];
    assert!(next(&census, &restarted).is_empty(), "b was restarted and does not come back");
    assert_eq!(next(&census, &[]), ["a", "c", "d"], "it was ill before");
    census.may_restart = false;
    assert!(next(&census, &[]).is_empty());
}
