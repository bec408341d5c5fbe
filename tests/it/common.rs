//! What all test files share.

use std::time::Duration;

/// Longest wait of a test for one thing, beside some hundred others on two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until there is an answer; none if it does not come in time.
pub(crate) async fn poll<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let answer = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.ok()
}

/// Waits until there is an answer; fails the test if it does not come in time.
pub(crate) async fn wait<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    poll(condition).await.unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}"))
}
