//! A look at ledgers from outside: without the keyring, so nothing that is read here is proven.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams};

use super::record::Record;
use super::unverified;
use crate::api::LEDGER_TYPE;

/// Ledgers in one page of a list.
const PAGE: u32 = 500;

/// The records of all ledgers of LLMKeys in the Secrets' namespace, as they stand there.
pub async fn all_unverified(secrets: &Api<Secret>) -> Result<Vec<Record>, kube::Error> {
    let mut params = ListParams::default().fields(&format!("type={LEDGER_TYPE}")).limit(PAGE);
    let mut records = Vec::new();
    loop {
        let page = secrets.list(&params).await?;
        records.extend(page.items.iter().filter_map(unverified));
        let Some(next) = page.metadata.continue_.filter(|next| !next.is_empty()) else { return Ok(records) };
        params = params.continue_token(&next);
    }
}
