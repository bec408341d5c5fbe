//! Two replicas that both think that they lead: what one has read too early must not undo what the other has done.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use hyper::body::Incoming;
use kube::api::{Patch, PatchParams};
use kube::config::Kubeconfig;
use llmkey_operator::sandbox::serve;
use llmkey_operator::testbed::Installation;
use reqwest::{Certificate, Client};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::stage::{DIVISOR, Operator, Stage, Tenant, empty_stage, state, wait};

/// A way to the API server on which one GET of one object can be held. Ends when dropped.
struct Way {
    kubeconfig: PathBuf,
    step: Arc<watch::Sender<Step>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Open,
    Armed,
    Held,
    LetGo,
}

impl Way {
    async fn to(stage: &Stage, path: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut file = Kubeconfig::read_from(&stage.installation.kubeconfig).unwrap();
        let cluster = file.clusters[0].cluster.as_mut().unwrap();
        cluster.server = Some(format!("http://{}", listener.local_addr().unwrap()));
        cluster.certificate_authority_data = None;
        let kubeconfig = stage.cluster.dir().join("held.kubeconfig");
        fs::write(&kubeconfig, serde_json::to_vec(&file).unwrap()).unwrap();
        let step = Arc::new(watch::Sender::new(Step::Open));
        let authority = Certificate::from_pem(stage.cluster.ca_pem().as_bytes()).unwrap();
        let client =
            Client::builder().tls_certs_only([authority]).http1_only().no_proxy().no_gzip().build().unwrap();
        let base = stage.cluster.url().to_owned();
        let shared = Arc::clone(&step);
        let answer =
            move |request| forward(client.clone(), base.clone(), path.clone(), Arc::clone(&shared), request);
        Self { kubeconfig, step, task: tokio::spawn(serve(listener, None, answer)) }
    }

    async fn is(&self, step: Step) {
        wait(&format!("{step:?}"), async || (*self.step.borrow() >= step).then_some(())).await;
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    client: Client,
    base: String,
    path: String,
    step: Arc<watch::Sender<Step>>,
    request: Request<Incoming>,
) -> Option<Response> {
    let (parts, body) = request.into_parts();
    if parts.method == "GET" && parts.uri.path() == path {
        let armed = step.send_if_modified(|step| {
            let armed = *step == Step::Armed;
            *step = if armed { Step::Held } else { *step };
            armed
        });
        if armed {
            step.subscribe().wait_for(|step| *step == Step::LetGo).await.ok()?;
        }
    }
    let mut headers = parts.headers;
    for own in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(own);
    }
    let body = axum::body::to_bytes(Body::new(body), usize::MAX).await.ok()?;
    let target = parts.uri.path_and_query()?.to_string();
    let call = client.request(parts.method, format!("{base}{target}")).headers(headers).body(body);
    let reply = call.send().await.ok()?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = reply.status();
    *response.headers_mut() = reply.headers().clone();
    for own in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        response.headers_mut().remove(own);
    }
    *response.body_mut() = Body::from_stream(reply.bytes_stream());
    Some(response)
}

/// How often the operator has replaced the target.
fn replaced(t: &Tenant) -> usize {
    let Installation { namespace, service_account, .. } = &t.stage.installation;
    let account = format!("system:serviceaccount:{namespace}:{service_account}");
    let events = t.stage.cluster.audit_events().unwrap();
    let replaces = |event: &&serde_json::Value| {
        let object = &event["objectRef"];
        event["verb"] == "update"
            && event["user"]["username"] == *account
            && object["resource"] == "secrets"
            && object["namespace"] == *t.namespace
            && object["name"] == "chat"
    };
    events.iter().filter(replaces).count()
}

async fn passes(operator: &Operator) -> usize {
    let metrics = operator.get("/metrics").await.1;
    let lines = metrics.lines().filter(|l| l.starts_with("llmkey_reconcile_total{controller=\"llm_key\""));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}

/// The ledger is read before the target: what was delivered between the two is no drift.
#[tokio::test]
async fn a_replica_that_read_the_ledger_too_early_delivers_no_older_key() {
    let (_alone, stage) = empty_stage().await;
    let t = Tenant::on(stage, "late-read").await;
    let way = Way::to(stage, format!("/api/v1/namespaces/{}/secrets/chat", t.namespace)).await;
    let Installation { namespace, name, service_account, .. } = &stage.installation;
    let held = Installation {
        namespace: namespace.clone(),
        name: name.clone(),
        service_account: service_account.clone(),
        kubeconfig: way.kubeconfig.clone(),
        scope: Vec::new(),
    };
    let alone = ["--leader-elect=false"];
    let early = Operator::start_with(stage.cluster, &held, "operator-early", DIVISOR, "debug", &alone);
    early.ready().await;
    t.policy("policy", json!({"overlap": {"minimum": "0s", "evidence": {"quietFor": "0s"}}})).await;
    let seldom = json!({"rotationPolicyRef": {"name": "policy"}, "validation": {"interval": "168h"}});
    t.minted("chat", seldom).await;
    t.ready("chat").await;
    t.settled("chat").await;
    let first = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();

    // Somebody touches the target: the replica reads the ledger, and then hangs on the target.
    way.step.send_replace(Step::Armed);
    let touch = Patch::Merge(json!({"metadata": {"annotations": {"team": "chat"}}}));
    t.secrets().patch("chat", &PatchParams::default(), &touch).await.unwrap();
    way.is(Step::Held).await;
    let before = passes(&early).await;
    let late =
        Operator::start_with(stage.cluster, &stage.installation, "operator-late", DIVISOR, "debug", &alone);
    late.ready().await;
    t.annotate("chat", "llmkeys.dev/rotate", Some("1")).await;
    t.until("chat", "version 1 is revoked", |key| state(key, 1).as_deref() == Some("Revoked")).await;
    assert_eq!(*way.step.borrow(), Step::Held);
    way.step.send_replace(Step::LetGo);
    wait("its pass is over", async || (passes(&early).await > before).then_some(())).await;

    let second = t.delivered("chat", "OPENAI_API_KEY").await.unwrap();
    assert!(second != first && t.sandbox().accepts(&second));
    assert_eq!(replaced(&t), 1, "the rotation alone replaced what is delivered");
}
