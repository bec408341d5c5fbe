//! Reading a pool's members.

use super::{Actor, NotDone};
use crate::controller::llm_key::fold::Learned;
use crate::controller::llm_key::model::Observed;
use crate::controller::llm_key::observe::read_value;
use crate::crypto::SecretBytes;

impl Actor<'_> {
    pub(super) async fn read_members(
        &mut self,
        o: &Observed,
        members: &[String],
    ) -> Result<Learned, NotDone> {
        let mut found = Vec::with_capacity(members.len());
        for member in o.key.pool.iter().filter(|m| members.contains(&m.name)) {
            let endpoint = self.held.endpoint.as_ref();
            let read = read_value(self.ctx, &o.key.namespace, &member.secret_ref, endpoint, "").await;
            let value = read.map_err(|error| NotDone::Kube(Box::new(error)))?;
            match value.key {
                Some(key) => self.held.members.insert(member.name.clone(), key),
                None => self.held.members.remove(&member.name),
            };
            found.push((member.name.clone(), value.view));
        }
        Ok(Learned::Members(found))
    }

    /// The key of the pool's member in this place, as it was read.
    pub(super) fn member_key(&self, o: &Observed, place: usize) -> Result<SecretBytes, NotDone> {
        let key = o.key.pool.get(place).and_then(|member| self.held.members.get(&member.name));
        key.cloned().ok_or(NotDone::Changed)
    }
}
