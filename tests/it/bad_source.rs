//! Bad input: source Secrets. Nothing is asked of the provider before the value can be a key, and status says nothing
//! about what other Secrets hold.

use kube::api::{DeleteParams, PostParams};
use llmkey_operator::sandbox::Operation;
use serde_json::{Value, json};

use super::bad_input::{calls, looked_again, others_go_on, patch_secret, secret, stalled, stalled_yet_ready};
use super::stage::{Tenant, find, is, state, wait};

#[tokio::test]
async fn a_missing_source_and_a_missing_entry_wait_for_their_author() {
    let t = Tenant::new("no-source").await;
    t.supplied("chat", json!({})).await;
    let place = format!("Secret {}/chat-source", t.namespace);
    stalled(&t, "chat", "SourceNotFound", &["spec.source.secretRef", &place, "create it"]).await;
    create(&t, "chat-source", "Opaque", &json!({"token": "x"})).await;
    stalled(&t, "chat", "SourceKeyMissing", &[&place, "has no key key", "add it"]).await;
    assert_eq!(calls(&t), []);
    others_go_on(&t).await;
    let value = t.person_key("one");
    patch_secret(&t, "chat-source", json!({"stringData": {"key": value}})).await;
    t.ready("chat").await;

    let good = secret(&t, "chat").await;
    patch_secret(&t, "chat-source", json!({"data": {"key": null}})).await;
    stalled_yet_ready(&t, "chat", "SourceKeyMissing", &[&place]).await;
    t.secrets().delete("chat-source", &DeleteParams::default()).await.unwrap();
    stalled_yet_ready(&t, "chat", "SourceNotFound", &[&place]).await;
    looked_again(&t, "chat").await;
    assert_eq!(secret(&t, "chat").await, good);
    t.source("chat", &value).await;
    let key = t.ready("chat").await;
    assert_eq!(key.status.unwrap().current_version, Some(1));
    assert_eq!(secret(&t, "chat").await, good);
}

#[tokio::test]
async fn secrets_of_other_types_are_refused_and_tell_nothing() {
    let t = Tenant::new("types").await;
    let value = t.person_key("one");
    let types = [
        ("kubernetes.io/tls", "tls.key"),
        ("kubernetes.io/basic-auth", "password"),
        ("kubernetes.io/ssh-auth", "ssh-privatekey"),
        ("bootstrap.kubernetes.io/token", "token-secret"),
        ("example.com/own", "key"),
    ];
    for (at, (type_, entry)) in types.iter().enumerate() {
        // One holds a key that works, one holds none, one lacks the entry: all three look the same from outside.
        let mut messages = Vec::new();
        for (kind, held) in [("key", Some(value.as_str())), ("text", Some("hunter2")), ("none", None)] {
            let name = format!("{kind}-{at}");
            let source = format!("{name}-source");
            let mut data = json!({"tls.crt": "", "tls.key": ""});
            data[entry] = json!(held.unwrap_or("another"));
            create(&t, &source, type_, &data).await;
            let asked = if held.is_some() { entry } else { "absent" };
            t.supplied(&name, json!({"source": {"secretRef": {"name": source, "key": asked}}})).await;
            let key = stalled(&t, &name, "SourceTypeRefused", &[&source, type_, "Opaque"]).await;
            let conditions = key.status.unwrap().conditions;
            let text: Vec<String> =
                conditions.iter().map(|c| format!("{} {} {}", c.type_, c.reason, c.message)).collect();
            messages.push(text.join("\n").replace(&source, "source"));
        }
        assert!(messages.iter().all(|message| *message == messages[0]), "{messages:#?}");
    }
    assert_eq!(calls(&t), []);
    others_go_on(&t).await;
    // A type does not change: its author makes another Secret.
    t.secrets().delete("key-0-source", &DeleteParams::default()).await.unwrap();
    create(&t, "key-0-source", "Opaque", &json!({"tls.key": value})).await;
    t.ready("key-0").await;
}

#[tokio::test]
async fn a_service_account_token_is_never_taken() {
    let t = Tenant::new("token").await;
    let token = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "token", "annotations": {"kubernetes.io/service-account.name": "default"}},
    });
    let token = serde_json::from_value(token).unwrap();
    t.secrets().create(&PostParams::default(), &token).await.unwrap();
    wait("the token is made", async || {
        secret(&t, "token").await.data.filter(|data| data.contains_key("token")).map(drop)
    })
    .await;
    t.supplied("chat", json!({"source": {"secretRef": {"name": "token", "key": "token"}}})).await;
    stalled(&t, "chat", "SourceTypeRefused", &["kubernetes.io/service-account-token"]).await;
    assert!(t.secrets().get_opt("chat").await.unwrap().is_none());
    assert_eq!(calls(&t), []);
}

#[tokio::test]
async fn what_cannot_be_a_key_is_never_sent() {
    let t = Tenant::new("shapes").await;
    let place = format!("key in Secret {}/chat-source", t.namespace);
    t.source("chat", "").await;
    t.supplied("chat", json!({})).await;
    for (value, word) in [
        ("", "empty"),
        ("sk-tiny-1", "shorter than 20"),
        ("sk-proj-0123 456789-abcdef", "printable ASCII"),
        ("sk-admin-0123456789abcdef", "admin key"),
        ("gsk_0123456789abcdef01234", "begin with sk-"),
        (&format!("sk-{}", "a".repeat(600)), "longer than 512"),
    ] {
        t.source("chat", value).await;
        let told = |key: &llmkey_operator::api::LLMKey| {
            find(key, "Stalled").is_some_and(|(_, r, m)| r == "SourceShapeRefused" && m.contains(word))
        };
        let key = t.until("chat", word, told).await;
        let message = find(&key, "Stalled").unwrap().2;
        assert!(message.contains(&place), "{message}");
        assert!(value.is_empty() || !message.contains(value), "{message}");
    }
    assert_eq!(calls(&t), []);
    assert!(t.secrets().get_opt("chat").await.unwrap().is_none());
    others_go_on(&t).await;
    let value = t.person_key("one");
    t.source("chat", &format!("{value}\n")).await;
    t.ready("chat").await;
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(value));
}

#[tokio::test]
async fn a_target_is_no_source() {
    let t = Tenant::new("circle").await;
    t.minted("first", json!({})).await;
    t.ready("first").await;
    let good = secret(&t, "first").await;
    let source = json!({"source": {"secretRef": {"name": "first", "key": "OPENAI_API_KEY"}}});
    t.supplied("second", source).await;
    let place = format!("Secret {}/first", t.namespace);
    stalled(&t, "second", "SourceIsTarget", &[&place, "target of an LLMKey"]).await;
    looked_again(&t, "second").await;
    assert_eq!(secret(&t, "first").await, good);
    assert!(t.secrets().get_opt("second").await.unwrap().is_none());
    // The first goes, and a person writes the Secret from now on.
    t.delete("first").await;
    stalled(&t, "second", "SourceNotFound", &[&place]).await;
    let value = t.person_key("one");
    create(&t, "first", "Opaque", &json!({"OPENAI_API_KEY": value})).await;
    t.ready("second").await;
}

#[tokio::test]
async fn a_rejected_key_is_not_published() {
    let t = Tenant::new("rejected").await;
    t.source("chat", "sk-proj-nobody-made-this-0123456789").await;
    t.supplied("chat", json!({})).await;
    let words = ["Secret chat", "put a working key into the source Secret"];
    stalled(&t, "chat", "RejectedNotPublished", &words).await;
    assert!(t.secrets().get_opt("chat").await.unwrap().is_none());
    others_go_on(&t).await;
    let value = t.person_key("one");
    t.source("chat", &value).await;
    t.ready("chat").await;
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(value));
}

#[tokio::test]
async fn a_rejected_replacement_leaves_the_good_key() {
    let t = Tenant::new("replaced").await;
    let (first, second) = (t.person_key("one"), t.person_key("two"));
    t.source("chat", &first).await;
    t.supplied("chat", json!({})).await;
    t.ready("chat").await;
    let good = secret(&t, "chat").await;
    let bad = "sk-proj-nobody-made-this-0123456789-BAD!";
    t.source("chat", bad).await;
    stalled_yet_ready(&t, "chat", "RejectedNotPublished", &["Secret chat"]).await;
    // It is asked again now and then, in case the provider was wrong; meanwhile nothing is forgotten.
    let asked = || {
        let log = t.sandbox().log();
        let same = |entry: &&llmkey_operator::sandbox::LogEntry| {
            entry.operation == Operation::ListModels
                && entry.caller.as_ref().is_some_and(|caller| caller.last_four == "BAD!")
        };
        log.iter().filter(same).count()
    };
    let before = asked();
    wait("asked again, twice", async || (asked() >= before + 2).then_some(())).await;
    let key = stalled_yet_ready(&t, "chat", "RejectedNotPublished", &["Secret chat"]).await;
    assert_eq!(state(&key, 1).as_deref(), Some("Publishing"), "the only version, never superseded");
    assert!(is(&key, "Healthy", "True"));
    assert_eq!(secret(&t, "chat").await, good);
    others_go_on(&t).await;
    t.source("chat", &second).await;
    t.until("chat", "version 2", |key| state(key, 2).as_deref() == Some("Current")).await;
    t.ready("chat").await;
    assert_eq!(t.delivered("chat", "OPENAI_API_KEY").await, Some(second));
}

/// Creates a Secret of a type.
async fn create(t: &Tenant, name: &str, type_: &str, data: &Value) {
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": type_, "metadata": {"name": name}, "stringData": data,
    });
    let object = serde_json::from_value(object).unwrap();
    t.secrets().create(&PostParams::default(), &object).await.unwrap();
}
