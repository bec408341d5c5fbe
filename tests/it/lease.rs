//! Leader election against the real API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Client, Config};
use llmkey_operator::kube_ext::clock::Clock;
use llmkey_operator::kube_ext::lease::{Elector, LeaderGuard, LeaseView, Timing};
use llmkey_operator::testbed;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::common::wait;

const NAME: &str = "operator";
const TIMING: Timing = Timing {
    duration: Duration::from_secs(3),
    renew_deadline: Duration::from_secs(2),
    retry_period: Duration::from_millis(200),
};

/// One process that takes part.
struct Replica {
    guard: LeaderGuard,
    holder: String,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Replica {
    fn start(client: Client, namespace: &str, identity: &str) -> Self {
        let clock = Clock::start();
        let elector = Elector::new(client, namespace, NAME, identity, TIMING, clock).unwrap();
        let guard = LeaderGuard::new(elector.subscribe(), clock);
        let holder = elector.holder().to_owned();
        let (stop, stopping) = watch::channel(false);
        Self { guard, holder, stop, task: tokio::spawn(elector.run(stopping)) }
    }

    async fn leads(&self) {
        wait("this replica leads", async || self.guard.is_leader().then_some(())).await;
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        assert!(!self.guard.is_leader());
    }
}

struct Scene {
    namespace: String,
    leases: Api<Lease>,
    client: Client,
}

impl Scene {
    async fn new() -> Self {
        let cluster = testbed::shared().await.unwrap();
        let namespace = cluster.namespace("lease").await.unwrap();
        let client = cluster.admin().unwrap();
        Self { leases: Api::namespaced(client.clone(), &namespace), namespace, client }
    }

    fn replica(&self, identity: &str) -> Replica {
        Replica::start(self.client.clone(), &self.namespace, identity)
    }

    async fn view(&self) -> Option<LeaseView> {
        self.leases.get_opt(NAME).await.unwrap().as_ref().map(LeaseView::from)
    }

    async fn holder(&self) -> Option<String> {
        self.view().await.and_then(|view| view.holder)
    }
}

#[tokio::test]
async fn the_first_leads_the_second_waits_and_follows_a_release_at_once() {
    let scene = Scene::new().await;
    let first = scene.replica("first");
    first.leads().await;
    assert_eq!(scene.holder().await.as_ref(), Some(&first.holder));

    let second = scene.replica("second");
    let before = scene.view().await.unwrap();
    wait("the first renews", async || (scene.view().await.unwrap().renewed != before.renewed).then_some(()))
        .await;
    assert!(first.guard.is_leader() && !second.guard.is_leader());

    let clock = Clock::start();
    first.stop().await;
    second.leads().await;
    assert!(clock.monotonic() < TIMING.duration, "a release is not waited for");
    assert_eq!(scene.view().await.unwrap().transitions, 1);
    second.stop().await;
    assert_eq!(scene.holder().await, None);
}

#[tokio::test]
async fn a_silent_death_is_waited_out() {
    let scene = Scene::new().await;
    let first = scene.replica("first");
    first.leads().await;
    let second = scene.replica("second");
    let renewed = scene.view().await.unwrap().renewed;
    wait("the first renews", async || (scene.view().await.unwrap().renewed != renewed).then_some(())).await;

    first.task.abort();
    let clock = Clock::start();
    second.leads().await;
    // The last renewal that the second saw may be one period older than the death, and one look late.
    assert!(clock.monotonic() + 2 * TIMING.retry_period >= TIMING.duration, "{:?}", clock.monotonic());
    assert!(!first.guard.is_leader(), "its guard ended before the other's began");
    second.stop().await;
}

#[tokio::test]
async fn a_deleted_lease_is_written_again_by_its_holder() {
    let scene = Scene::new().await;
    let first = scene.replica("first");
    first.leads().await;
    let second = scene.replica("second");
    let renewed = scene.view().await.unwrap().renewed;
    wait("the first renews", async || (scene.view().await.unwrap().renewed != renewed).then_some(())).await;

    scene.leases.delete(NAME, &DeleteParams::default()).await.unwrap();
    wait("the Lease is back", async || scene.view().await.is_some().then_some(())).await;
    assert_eq!(scene.holder().await.as_ref(), Some(&first.holder));
    assert!(first.guard.is_leader() && !second.guard.is_leader());
    first.stop().await;
    second.leads().await;
    second.stop().await;
}

#[tokio::test]
async fn a_foreign_name_in_the_lease_ends_the_leadership_until_it_is_silent() {
    let scene = Scene::new().await;
    let replica = scene.replica("first");
    replica.leads().await;
    let usurper = json!({"spec": {"holderIdentity": "usurper", "leaseDurationSeconds": 3}});
    scene.leases.patch(NAME, &PatchParams::default(), &Patch::Merge(&usurper)).await.unwrap();
    let clock = Clock::start();
    wait("it stands back", async || (!replica.guard.is_leader()).then_some(())).await;
    assert!(clock.monotonic() < TIMING.renew_deadline, "found by reading, not by the deadline");
    assert_eq!(scene.holder().await.as_deref(), Some("usurper"));
    replica.leads().await;
    assert!(clock.monotonic() >= TIMING.duration);
    replica.stop().await;
}

#[tokio::test]
async fn leadership_ends_while_the_api_server_is_silent_and_comes_back() {
    let scene = Scene::new().await;
    let cluster = testbed::shared().await.unwrap();
    let link = Link::to(cluster.admin_config()).await;
    let replica = Replica::start(link.client(), &scene.namespace, "first");
    replica.leads().await;
    let other = scene.replica("second");

    link.open.send_replace(false);
    let clock = Clock::start();
    let mut guard = replica.guard.clone();
    guard.lost().await;
    assert!(clock.monotonic() <= TIMING.renew_deadline + TIMING.retry_period, "{:?}", clock.monotonic());
    let both = || replica.guard.is_leader() && other.guard.is_leader();
    wait("the other follows", async || {
        assert!(!both());
        other.guard.is_leader().then_some(())
    })
    .await;

    link.open.send_replace(true);
    other.stop().await;
    replica.leads().await;
    replica.stop().await;
}

#[tokio::test]
async fn one_of_many_leads() {
    let scene = Scene::new().await;
    let replicas: Vec<Replica> = (0..5).map(|_| scene.replica("same-name")).collect();
    let leaders = || replicas.iter().filter(|replica| replica.guard.is_leader()).count();
    wait("one leads", async || (leaders() == 1).then_some(())).await;
    let renewed = scene.view().await.unwrap().renewed;
    wait("it renews", async || (scene.view().await.unwrap().renewed != renewed).then_some(())).await;
    assert_eq!(leaders(), 1);
    for replica in replicas {
        replica.stop().await;
    }
}

/// A TCP link to the API server that can fall silent without closing.
struct Link {
    open: Arc<watch::Sender<bool>>,
    config: Config,
}

impl Link {
    async fn to(mut config: Config) -> Self {
        let server: SocketAddr = config.cluster_url.authority().unwrap().as_str().parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        config.cluster_url = format!("https://{address}").parse().unwrap();
        let open = Arc::new(watch::Sender::new(true));
        let switch = Arc::clone(&open);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(server).await.unwrap();
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::spawn(pump(near_read, far_write, switch.subscribe()));
                tokio::spawn(pump(far_read, near_write, switch.subscribe()));
            }
        });
        Self { open, config }
    }

    fn client(&self) -> Client {
        Client::try_from(self.config.clone()).unwrap()
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut open: watch::Receiver<bool>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
