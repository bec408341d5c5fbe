//! What all test files share.

use std::time::Duration;

/// Waits until the condition holds; fails the test after a minute.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let met = tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok();
    assert!(met, "not within a minute: {what}");
}
