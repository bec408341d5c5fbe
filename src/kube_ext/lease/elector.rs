//! The loop that reads and writes the Lease, and publishes who leads.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Action, Leadership, LeaseView, Local, Timing, decide};
use crate::kube_ext::clock::Clock;

/// One process's part in the election.
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    timing: Timing,
    clock: Clock,
    local: Local,
    /// What our last successful write returned: the next renewal is a PUT over exactly that.
    held: Option<Lease>,
    leadership: watch::Sender<Leadership>,
}

impl Elector {
    /// Takes part as `identity`, followed by a random part: a restarted container has the name of the
    /// one before it, and two processes must never take each other's hold for their own.
    /// Fails only if the system has no randomness.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        timing: Timing,
        clock: Clock,
    ) -> Result<Self, getrandom::Error> {
        let holder = format!("{identity}_{:08x}", getrandom::u32()?);
        Ok(Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            timing,
            clock,
            local: Local::new(holder),
            held: None,
            leadership: watch::Sender::new(Leadership::default()),
        })
    }

    /// Where the result is published. Woken when leadership is won or lost; an extension only changes the value.
    pub fn subscribe(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// The name under which this process holds the Lease.
    pub fn holder(&self) -> &str {
        &self.local.holder
    }

    /// Takes part until `stop` is true (or its sender gone), then gives the Lease back. Set `stop` after
    /// the work is done: the next leader begins at once.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let wait = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                wait = self.try_once() => wait,
            };
            let wait = self.leads_for().map_or(wait, |left| left.min(wait));
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = sleep(wait) => {}
            }
            if self.leads_for().is_some_and(|left| left.is_zero()) {
                self.lose("not renewed in time");
            }
        }
        let led = self.leads_for().is_some();
        self.lose("stopping");
        if led && timeout(self.timing.renew_deadline / 2, self.release()).await.is_err() {
            tracing::warn!("the Lease was not released in time; the next leader waits for its end");
        }
    }

    /// One try, bounded in time. Returns the time until the next.
    async fn try_once(&mut self) -> Duration {
        let limit = self.timing.renew_deadline / 2;
        let limit = self.leads_for().map_or(limit, |left| left.min(limit));
        match timeout(limit, self.attempt()).await {
            Ok(Ok(wait)) => wait,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the Lease could not be read or written");
                self.timing.retry_period
            }
            Err(_) => {
                tracing::warn!("the API server did not answer about the Lease in time");
                self.timing.retry_period
            }
        }
    }

    async fn attempt(&mut self) -> Result<Duration, Error> {
        if let Some(lease) = self.held.take()
            && self.put(lease).await?
        {
            return Ok(self.timing.retry_period);
        }
        let lease = self.leases.get_opt(&self.name).await?;
        let view = lease.as_ref().map(LeaseView::from);
        let now = self.clock.monotonic();
        self.local.observe(view.as_ref(), now);
        if self.local.foreign.is_some() {
            self.lose("another process holds the Lease");
        }
        match (decide(view.as_ref(), &self.local, &self.timing, now), lease) {
            (Action::Wait(wait), _) => return Ok(wait),
            (Action::Acquire | Action::Renew, Some(lease)) => self.put(lease).await?,
            (_, _) => self.post().await?,
        };
        Ok(self.timing.retry_period)
    }

    /// Writes our name over the Lease as read. False if it has changed or gone since.
    async fn put(&mut self, mut lease: Lease) -> Result<bool, Error> {
        let before = lease.spec.take().unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(self.local.holder.as_str());
        let now = self.micro_time();
        lease.spec = Some(LeaseSpec {
            acquire_time: if ours { before.acquire_time } else { Some(now.clone()) },
            holder_identity: Some(self.local.holder.clone()),
            lease_duration_seconds: Some(whole_seconds(self.timing.duration)),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            renew_time: Some(now),
            ..before
        });
        let sent = self.clock.monotonic();
        let written = self.leases.replace(&self.name, &PostParams::default(), &lease).await;
        self.written(sent, written, &[404, 409])
    }

    /// Writes the first Lease. False if there is one by now.
    async fn post(&mut self) -> Result<bool, Error> {
        let now = self.micro_time();
        let lease = Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                acquire_time: Some(now.clone()),
                holder_identity: Some(self.local.holder.clone()),
                lease_duration_seconds: Some(whole_seconds(self.timing.duration)),
                lease_transitions: Some(0),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        let sent = self.clock.monotonic();
        let written = self.leases.create(&PostParams::default(), &lease).await;
        self.written(sent, written, &[409])
    }

    /// After a write: leadership counts from before it was sent. `changed` are the codes that say that
    /// somebody else was faster; of the others, such as a namespace that does not exist, people must hear.
    fn written(
        &mut self,
        sent: Duration,
        result: Result<Lease, Error>,
        changed: &[u16],
    ) -> Result<bool, Error> {
        match result {
            Ok(lease) => {
                self.held = Some(lease);
                self.local.foreign = None;
                self.win(sent + self.timing.renew_deadline);
                Ok(true)
            }
            Err(Error::Api(status)) if changed.contains(&status.code) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Clears our name, if it still stands there.
    async fn release(&mut self) {
        let result = match self.leases.get_opt(&self.name).await {
            Ok(Some(mut lease)) if LeaseView::from(&lease).holder.as_ref() == Some(&self.local.holder) => {
                if let Some(spec) = &mut lease.spec {
                    spec.holder_identity = None;
                }
                self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
            }
            other => other.map(drop),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "the Lease was not released; the next leader waits for its end");
        }
    }

    /// Time until our leadership ends unless renewed; zero if it has ended and nobody was told yet.
    fn leads_for(&self) -> Option<Duration> {
        let until = self.leadership.borrow().until;
        until.map(|until| until.saturating_sub(self.clock.monotonic()))
    }

    fn win(&self, until: Duration) {
        let news = self.leadership.send_if_modified(|leadership| {
            let news = leadership.until.is_none();
            leadership.until = Some(until);
            news
        });
        if news {
            tracing::info!(holder = self.local.holder, "this process leads");
        }
    }

    fn lose(&self, why: &'static str) {
        if self.leadership.send_if_modified(|leadership| leadership.until.take().is_some()) {
            tracing::info!(holder = self.local.holder, why, "this process leads no more");
        }
    }

    fn micro_time(&self) -> MicroTime {
        let micros = self.clock.now_precise().timestamp_micros();
        MicroTime(Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH))
    }
}

fn whole_seconds(duration: Duration) -> i32 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(seconds).unwrap_or(i32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_durations_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(1500)), 2);
        assert_eq!(whole_seconds(Duration::from_millis(300)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(15)), 15);
    }
}
