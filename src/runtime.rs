//! Wiring: the only place that spawns.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::{Controller, controller};
use kube::{Client, Resource};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{ClusterRotationPolicy, LLMKey, LLMProvider, RotationPolicy};
use crate::audit;
use crate::cli::{Config, SecretsMode};
use crate::controller::account::AccountStates;
use crate::controller::consumers::Rosters;
use crate::controller::context::{Accounts, Ctx, Stores};
use crate::controller::index::{Index, Name};
use crate::controller::sight::Sight;
use crate::controller::watches::{self, Poll, Setup, Wake};
use crate::controller::{
    contained, fleet, install, keyring, llm_key, llm_provider, queue, released, retry, rotation_policy,
    sweeper, usage,
};
use crate::domain::timings::Timings;
use crate::kube_ext::clock::Clock;
use crate::kube_ext::connect::{ConnectError, connect};
use crate::kube_ext::events::Events;
use crate::kube_ext::lease::{Elector, LeaderGuard, Leadership, Timing};
use crate::ledger;
use crate::provider::{CallWatch, Providers, ProvidersConfig, Ticks, WallClock};
use crate::telemetry::health::Health;
use crate::telemetry::log::LogHandle;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::server::{self, Endpoints};

/// Events of one object within this time are one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(10);

/// Why the operator could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address for metrics and probes is not free, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The endpoints ended with an error.
    #[error("the metrics endpoint failed: {0}")]
    Serve(std::io::Error),
    /// There is no client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The install cannot be used.
    #[error(transparent)]
    Install(#[from] install::InstallError),
    /// The audit trail has no place.
    #[error("the audit trail cannot be written to {}: {source}", .path.display())]
    AuditLog {
        /// As configured.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The system has no randomness.
    #[error("the system's random source failed")]
    Randomness,
    /// Another replica leads; this process starts anew.
    #[error("leadership was lost: this process ends, so that nothing of it goes on")]
    LeadershipLost,
    /// A part ended that must not.
    #[error("a part of the operator ended: {0}")]
    Ended(&'static str),
}

/// Runs until `shutdown` is true, then ends in order.
pub async fn run(config: Config, log: LogHandle, shutdown: watch::Receiver<bool>) -> Result<(), RunError> {
    let clock = Clock::start();
    let address = config.metrics_listen;
    let listener = TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })?;
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), config.per_key_metrics);
    let health = Health::new(clock);
    let synced = health.gate("caches");
    let endpoints = Endpoints { metrics: metrics.clone(), health: health.clone(), log };
    let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();
    let (end_server, server_ends) = watch::channel(false);
    tasks
        .spawn(async move { server::serve(listener, endpoints, server_ends).await.map_err(RunError::Serve) });
    if config.test_time_divisor > 1 {
        tasks.spawn(warn_of_test_time(config.test_time_divisor));
    }
    let client = connect(config.kubeconfig.as_deref(), clock).await?;
    let (guard, end_election) = elect(&config, &client, clock, &mut tasks)?;
    // A replica that waits is ready: being leader is not readiness.
    synced.open();
    let mut leading = guard.clone();
    let mut asked = shutdown.clone();
    let leads = tokio::select! {
        leads = leading.acquired() => leads,
        _ = asked.wait_for(|stop| *stop) => false,
        Some(ended) = tasks.join_next() => return Err(ended_early(ended)),
    };
    let result = if leads {
        tracing::info!("leading");
        synced.close();
        metrics.set_leader(true);
        lead(&config, client, clock, metrics.clone(), guard, &mut tasks, shutdown, move || synced.open())
            .await
    } else {
        Ok(())
    };
    metrics.set_leader(false);
    end_election.send_replace(true);
    end_server.send_replace(true);
    // Bounded: the Lease is given back, open connections end.
    drop(
        tokio::time::timeout(Duration::from_secs(5), async { while tasks.join_next().await.is_some() {} })
            .await,
    );
    result
}

fn elect(
    config: &Config,
    client: &Client,
    clock: Clock,
    tasks: &mut JoinSet<Result<(), RunError>>,
) -> Result<(LeaderGuard, watch::Sender<bool>), RunError> {
    let (end, ends) = watch::channel(false);
    if !config.leader_elect {
        let (sender, always) = watch::channel(Leadership::ALWAYS);
        tasks.spawn(async move {
            let mut ends = ends;
            drop(ends.wait_for(|stop| *stop).await);
            drop(sender);
            Ok(())
        });
        return Ok((LeaderGuard::new(always, clock), end));
    }
    let elector = Elector::new(
        client.clone(),
        &config.operator_namespace,
        &config.lease_name,
        &config.identity,
        Timing::default(),
        clock,
    )
    .map_err(|_| RunError::Randomness)?;
    let guard = LeaderGuard::new(elector.subscribe(), clock);
    tasks.spawn(async move {
        elector.run(ends).await;
        Ok(())
    });
    Ok((guard, end))
}

fn ended_early(ended: Result<Result<(), RunError>, tokio::task::JoinError>) -> RunError {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) | Err(_) => RunError::Ended("a background task"),
    }
}

async fn warn_of_test_time(divisor: u32) -> Result<(), RunError> {
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    loop {
        minutes.tick().await;
        tracing::warn!(
            divisor,
            "test time: all durations are divided, and only loopback providers are called"
        );
    }
}

#[expect(
    clippy::too_many_arguments,
    clippy::too_many_lines,
    reason = "the one place where everything is wired"
)]
async fn lead(
    config: &Config,
    client: Client,
    clock: Clock,
    metrics: Metrics,
    guard: LeaderGuard,
    tasks: &mut JoinSet<Result<(), RunError>>,
    mut shutdown: watch::Receiver<bool>,
    synced: impl FnOnce(),
) -> Result<(), RunError> {
    let sight = Arc::new(Sight::of(&config.watch_namespaces));
    let (install, keyring) =
        install::load(&client, &config.operator_namespace, &sight, config.keyring_dir.as_deref()).await?;
    let trail = audit::trail(&config.audit_log, clock)
        .map_err(|source| RunError::AuditLog { path: config.audit_log.clone(), source })?;
    let account_states = AccountStates::new(
        install::cluster(&client).await?,
        ledger::AccountStore::new(&client, &config.operator_namespace, keyring.clone()),
    );
    let (keys, keys_writer) = watches::store::<LLMKey>();
    let (policies, policies_writer) = watches::store::<RotationPolicy>();
    let (cluster_policies, cluster_writer) = watches::store::<ClusterRotationPolicy>();
    let (providers, providers_writer) = watches::store::<LLMProvider>();
    let stores = Stores { keys, policies, cluster_policies, providers };
    let index = Arc::new(Index::new(&config.operator_namespace));
    let (wake, woken) = Wake::channel();
    let setup =
        Setup { client: client.clone(), streaming: config.streaming_lists, sight: Arc::clone(&sight) };
    let ctx = Arc::new(Ctx {
        ledgers: ledger::Store::new(&client, &config.operator_namespace, keyring.clone(), trail),
        providers: Providers::new(ProvidersConfig {
            loopback_only: config.test_time_divisor > 1,
            watch: calls(metrics.clone(), clock),
            ticks: Ticks::new(move || clock.monotonic()),
            wall: WallClock::new(move || clock.now()),
            federated_token_file: config.federated_token_file.clone(),
            google_token_file: config.google_token_file.clone(),
            aws_token_file: config.aws_token_file.clone(),
            ..ProvidersConfig::default()
        }),
        index: Arc::clone(&index),
        stores: stores.clone(),
        accounts: Accounts::default(),
        account_states,
        woken_by: wake.clone(),
        events: Events::new(client.clone(), clock, &config.identity),
        metrics: metrics.clone(),
        leader: guard.clone(),
        operator_namespace: config.operator_namespace.clone(),
        sight: Arc::clone(&sight),
        rosters: Rosters::default(),
        may_restart: config.rollout,
        remembered: llm_key::memory::Remembered::default(),
        fleet: fleet::Fleet::default(),
        usage: usage::Readings::default(),
        loaded: std::sync::atomic::AtomicBool::new(false),
        timings: Timings::divided_by(config.test_time_divisor),
        clock,
        client,
        install,
        keyring,
    });
    let forgetful = Arc::clone(&ctx);
    let keys_stream = setup.keys(keys_writer, Arc::clone(&index), wake.clone(), move |namespace, name| {
        forgetful.remembered.forget(namespace, name);
        forgetful.metrics.forget_key(namespace, name);
        fleet::forget(&forgetful, namespace, name);
    });
    let policies_stream = watches::dependencies(
        setup.served(None),
        policies_writer,
        stores.keys.clone(),
        wake.clone(),
        watches::follows,
    );
    let cluster_stream = watches::dependencies(
        setup.everywhere(),
        cluster_writer,
        stores.keys.clone(),
        wake.clone(),
        watches::follows_cluster,
    );
    let providers_wake = wake.clone();
    let providers_stream = watches::dependencies(
        setup.everywhere(),
        providers_writer,
        stores.keys.clone(),
        wake.clone(),
        watches::uses,
    )
    .inspect_ok(move |_| providers_wake.waiting());
    let (secrets_ready, mut secrets_are_ready) = watch::channel(BTreeSet::new());
    let places = secrets_watched(config, &sight);
    let stop = shutdown.clone();
    // All watches load at the same time. Whoever they wake waits until everything is known.
    let mut loading: Vec<(&'static str, BoxFuture<'static, ()>)> = Vec::new();
    for place in places.clone() {
        let (ready, at) = (secrets_ready.clone(), place.clone());
        let watching = setup.clone().secrets(
            place,
            Arc::clone(&index),
            stores.clone(),
            wake.clone(),
            config.operator_namespace.clone(),
            move || {
                ready.send_if_modified(|known| known.insert(at.clone()));
            },
        );
        loading.push(("the watch of Secrets", watching.boxed()));
    }
    let waking = match config.secrets {
        SecretsMode::Watch => watches::wake_each(keys_stream, wake.clone()).boxed(),
        SecretsMode::Poll => Poll {
            client: ctx.client.clone(),
            index: Arc::clone(&index),
            wake: wake.clone(),
            operator_namespace: config.operator_namespace.clone(),
            every: ctx.timings.secrets_poll,
        }
        .run(keys_stream)
        .boxed(),
    };
    loading.push(("the watch of LLMKeys", waking));
    for (what, watching) in loading {
        let mut stopping = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = watching => Err(RunError::Ended(what)),
                _ = stopping.wait_for(|stop| *stop) => Ok(()),
            }
        });
    }
    let settings = || controller::Config::default().concurrency(config.concurrency).debounce(DEBOUNCE);
    spawn(
        tasks,
        "policies",
        Controller::for_stream(policies_stream, stores.policies.clone())
            .with_config(settings())
            .graceful_shutdown_on(stopped(stop.clone()))
            .run(|object, ctx| contained(rotation_policy::reconcile(object, ctx)), retry, Arc::clone(&ctx)),
    );
    spawn(
        tasks,
        "cluster policies",
        Controller::for_stream(cluster_stream, stores.cluster_policies.clone())
            .with_config(settings())
            .graceful_shutdown_on(stopped(stop.clone()))
            .run(
                |object, ctx| contained(rotation_policy::reconcile_cluster(object, ctx)),
                retry,
                Arc::clone(&ctx),
            ),
    );
    spawn(
        tasks,
        "providers",
        Controller::for_stream(providers_stream, stores.providers.clone())
            .with_config(settings())
            .reconcile_on(woken.providers)
            .graceful_shutdown_on(stopped(stop.clone()))
            .run(|object, ctx| contained(llm_provider::reconcile(object, ctx)), retry, Arc::clone(&ctx)),
    );
    // LLMKeys are looked at only when everything that they depend on is known.
    drop(secrets_are_ready.wait_for(|known| known.len() == places.len()).await);
    while !(loaded(&stores.policies).await
        && loaded(&stores.cluster_policies).await
        && loaded(&stores.providers).await)
    {
        if *shutdown.borrow() {
            return Ok(());
        }
    }
    while !loaded(&stores.keys).await {
        if *shutdown.borrow() {
            return Ok(());
        }
    }
    fleet::seed(&ctx);
    let keys = queue::run(
        woken.keys.take_until(stopped(stop.clone())),
        {
            let ctx = Arc::clone(&ctx);
            move |name: &Name| llm_key::lane(&ctx, name)
        },
        config.concurrency.into(),
        DEBOUNCE,
        clock,
        {
            let ctx = Arc::clone(&ctx);
            move |name| llm_key::in_turn(Arc::clone(&ctx), name)
        },
    );
    tasks.spawn(async move {
        keys.await;
        Ok(())
    });
    ctx.loaded.store(true, std::sync::atomic::Ordering::Release);
    synced();
    watches::wake_released(&index, &stores.keys, &config.operator_namespace, &wake);
    let released = released::run(Arc::clone(&ctx), woken.released).boxed();
    let sweeper = sweeper::run(Arc::clone(&ctx)).boxed();
    let rewrapping = keyring::run(Arc::clone(&ctx), config.keyring_dir.clone()).boxed();
    let reader = usage::run(Arc::clone(&ctx)).boxed();
    for part in [released, sweeper, rewrapping, reader] {
        let mut stopping = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = part => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
            Ok(())
        });
    }
    let mut guard = guard;
    tokio::select! {
        // First of all: the parts end as well when they are asked to.
        biased;
        _ = shutdown.wait_for(|stop| *stop) => Ok(()),
        () = guard.lost() => Err(RunError::LeadershipLost),
        Some(ended) = tasks.join_next() => Err(ended_early(ended)),
    }
}

/// Where Secrets are watched: everywhere (none), or in each of these namespaces.
fn secrets_watched(config: &Config, sight: &Sight) -> BTreeSet<Option<Box<str>>> {
    let served = match (config.secrets, sight.namespaces()) {
        (SecretsMode::Watch, None) => return BTreeSet::from([None]),
        (SecretsMode::Watch, Some(served)) => served,
        (SecretsMode::Poll, _) => Vec::new(),
    };
    served.into_iter().chain([config.operator_namespace.as_str().into()]).map(Some).collect()
}

/// Counts and times the requests to providers.
fn calls(metrics: Metrics, clock: Clock) -> CallWatch {
    CallWatch::new(move |provider, operation| {
        let (metrics, begin) = (metrics.clone(), clock.monotonic());
        Box::new(move |class| {
            metrics.requested(provider, operation, class, clock.monotonic().saturating_sub(begin));
        })
    })
}

/// Whether a store has had its first full list. Polled: a store wakes one waiter only, and that may be a controller.
async fn loaded<K>(store: &kube::runtime::reflector::Store<DeserializeGuard<K>>) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    tokio::time::timeout(Duration::from_millis(50), store.wait_until_ready()).await.is_ok_and(|r| r.is_ok())
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

fn spawn<T, E>(
    tasks: &mut JoinSet<Result<(), RunError>>,
    what: &'static str,
    results: impl futures::Stream<Item = Result<T, E>> + Send + 'static,
) where
    T: Send,
    E: std::fmt::Debug + Send,
{
    tasks.spawn(async move {
        let run: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(results.for_each(|_| async {}));
        run.await;
        tracing::debug!(what, "ended");
        Ok(())
    });
}
