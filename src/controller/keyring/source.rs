//! Where the keyring comes from, looked at again and again: a key that is added or taken out counts without a restart.

use std::path::PathBuf;

use crate::controller::context::Ctx;
use crate::controller::install::{InstallError, KEYRING_SECRET, stored_keyring};
use crate::crypto::{Keyring, KeyringChange};

/// The keyring's place.
pub struct Source {
    /// A directory; without it, the Secret.
    dir: Option<PathBuf>,
    /// Version of the Secret that was last read.
    seen: Option<String>,
    /// What was last told to be wrong with it.
    problem: Option<String>,
}

/// Keys that the keyring has or lacks since the last look.
pub type Changed = Vec<String>;

impl Source {
    /// Where the keyring was read at the start.
    pub const fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, seen: None, problem: None }
    }

    /// Takes over what stands there now, if it can be used; else the keyring stays as it is.
    pub async fn look(&mut self, ctx: &Ctx) -> Option<Changed> {
        let found = match self.read(ctx).await {
            Ok(None) => return None,
            Ok(Some(found)) => Ok(found),
            Err(InstallError::Kube { source, .. }) => {
                tracing::debug!(error = %source, "the keyring could not be read");
                return None;
            }
            Err(error) => Err(error.to_string()),
        };
        let changed = found.and_then(|found| match found.change_from(&ctx.keyring.now()) {
            KeyringChange::Same => Ok(None),
            KeyringChange::Swapped { kek } => Err(format!(
                "key-encryption key {kek} has other bytes than before: put the earlier ones back, and give the new ones an \
                 id of their own"
            )),
            KeyringChange::Replaces { added, removed } => Ok(Some((found, added, removed))),
        });
        let (problem, changed) = match changed {
            Ok(changed) => (None, changed),
            Err(problem) => (Some(problem), None),
        };
        self.tell(ctx, problem);
        let (found, added, removed) = changed?;
        tracing::info!(newest = found.primary(), ?added, ?removed, "the keyring has changed");
        ctx.keyring.replace(found);
        Some(added.into_iter().chain(removed).collect())
    }

    /// None: nothing has changed since the last look.
    async fn read(&mut self, ctx: &Ctx) -> Result<Option<Keyring>, InstallError> {
        if let Some(dir) = &self.dir {
            return Ok(Some(Keyring::from_dir(dir)?));
        }
        let shown = ctx.index.secret(&ctx.operator_namespace, KEYRING_SECRET).filter(|shown| !shown.gone);
        let shown = shown.map(|shown| String::from(shown.resource_version));
        if shown.is_some() && shown == self.seen {
            return Ok(None);
        }
        let (keyring, resource_version) = stored_keyring(&ctx.client, &ctx.operator_namespace).await?;
        self.seen = Some(resource_version);
        Ok(Some(keyring?))
    }

    /// Tells it once, and when it is over.
    fn tell(&mut self, ctx: &Ctx, problem: Option<String>) {
        ctx.metrics.set_keyring_unusable(problem.is_some());
        if problem == self.problem {
            return;
        }
        if let Some(problem) = &problem {
            tracing::error!(
                problem,
                "the keyring cannot be used as it is now: the keys that were read before are used on, and a restart would lack \
                 them"
            );
        } else {
            tracing::info!("the keyring can be used again");
        }
        self.problem = problem;
    }
}
