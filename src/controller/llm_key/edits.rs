//! What people may have edited: while none of it changes, a failure waits for its time, also after a restart.

use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use sha2::{Digest, Sha256};

use crate::api::{ClusterRotationPolicy, LLMKey, PolicyKind, REFRESH, ROTATE, RotationPolicy};
use crate::controller::context::Ctx;

/// Digest of the LLMKey's generation and its tokens, its policy's generation, and the account's stamp.
pub fn edits(ctx: &Ctx, key: &LLMKey, account: &str) -> String {
    let generation = key.metadata.generation.unwrap_or_default();
    let annotation = |name: &str| key.metadata.annotations.as_ref().and_then(|a| a.get(name));
    let token = annotation(ROTATE);
    let refresh = annotation(REFRESH).map(|refresh| format!("\n{refresh}")).unwrap_or_default();
    let policy = policy(ctx, key).unwrap_or_default();
    let text = format!("{generation}\n{token:?}\n{policy:?}\n{account}{refresh}");
    data_encoding::HEXLOWER.encode(&Sha256::digest(text))[..16].to_owned()
}

/// Uid and generation of the policy in force, if there is one.
fn policy(ctx: &Ctx, key: &LLMKey) -> Option<(Option<String>, Option<i64>)> {
    let named = key.spec.rotation_policy_ref.as_ref();
    let meta = match named.map(|named| named.kind) {
        Some(PolicyKind::RotationPolicy) => {
            let reference = ObjectRef::<kube::core::DeserializeGuard<RotationPolicy>>::new(&named?.name);
            let namespace = key.metadata.namespace.as_deref().unwrap_or_default();
            ctx.stores.policies.get(&reference.within(namespace))?.meta().clone()
        }
        Some(PolicyKind::ClusterRotationPolicy) | None => {
            let name = named.map_or("default", |named| named.name.as_str());
            let reference = ObjectRef::<kube::core::DeserializeGuard<ClusterRotationPolicy>>::new(name);
            ctx.stores.cluster_policies.get(&reference)?.meta().clone()
        }
    };
    Some((meta.uid, meta.generation))
}
