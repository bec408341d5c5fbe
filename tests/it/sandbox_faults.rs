//! The sandbox provider's faults and lags, as an ordinary HTTP client meets them.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking")]

use llmkey_operator::sandbox::{Answer, Effect, Fault, FaultRule, KeyState, Operation, Settings};
use reqwest::{Method, StatusCode, Version};
use serde_json::Value;

use super::sandbox::{DEADLINE, Rig};

/// Whether the connection itself was reset; a reset HTTP/2 stream leaves it alone.
fn is_tcp_reset(error: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionReset;
        }
        source = error.source();
    }
    false
}

#[tokio::test]
async fn a_dropped_reply_leaves_its_effect_on_either_protocol() {
    for http2 in [true, false] {
        let rig = Rig::start_with(http2).await;
        let project = rig.sandbox.create_project("drop");
        let create = Operation::CreateServiceAccount;
        let rule = FaultRule::on(create, Fault::drop_reply()).project(&project).name_prefix("lk1-").times(1);
        let rule = rig.sandbox.add_fault(rule);
        let error = rig.try_create(&project, "lk1-lost").await.unwrap_err();
        assert_eq!(is_tcp_reset(&error), !http2, "{error:?}");
        let keys = rig.sandbox.live_keys(&project);
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].service_account_name.as_deref(), Some("lk1-lost"));
        let entry = rig.last_entry(&project);
        assert_eq!((entry.effect, entry.status), (Effect::Committed, None));
        assert_eq!(
            (entry.fault.as_deref(), entry.key_ids[0].as_str()),
            (Some("dropReply"), keys[0].id.as_str())
        );
        assert_eq!(entry.object_id, keys[0].service_account_id);
        let report = rig.sandbox.faults().into_iter().find(|report| report.id == rule).unwrap();
        assert_eq!(report.fired, 1);
        rig.create(&project, "lk1-next").await;

        rig.sandbox.add_fault(FaultRule::on(create, Fault::drop_before()).project(&project).times(1));
        assert!(rig.try_create(&project, "never").await.is_err());
        let entry = rig.last_entry(&project);
        assert_eq!(
            (entry.effect, entry.status, entry.fault.as_deref()),
            (Effect::Refused, None, Some("dropBefore"))
        );
        let creates = rig.sandbox.log_of(&project).iter().filter(|entry| entry.operation == create).count();
        assert_eq!((creates, rig.sandbox.live_keys(&project).len()), (3, 2), "nothing is sent twice");
    }
}

#[tokio::test]
async fn error_answers_have_openais_bodies() {
    let rig = Rig::start().await;
    let project = rig.sandbox.create_project("errors");
    let (_, value) = rig.create(&project, "errors").await;
    let cases = [
        (Answer::InvalidApiKey, 401, Some("invalid_api_key"), None),
        (Answer::NotInOrganization, 401, None, None),
        (Answer::MissingScopes { status: 403 }, 403, None, None),
        (Answer::UnsupportedCountry, 403, Some("unsupported_country_region_territory"), None),
        (Answer::RateLimited { retry_after_seconds: Some(7) }, 429, Some("rate_limit_exceeded"), Some("7")),
        (Answer::RateLimited { retry_after_seconds: None }, 429, Some("rate_limit_exceeded"), None),
        (Answer::InsufficientQuota, 429, Some("insufficient_quota"), None),
        (Answer::InternalError, 500, None, None),
        (Answer::Unavailable { retry_after_seconds: Some(2) }, 503, None, Some("2")),
    ];
    for (answer, status, code, retry_after) in cases {
        rig.sandbox.add_fault(
            FaultRule::on(Operation::ListModels, Fault::refuse(answer)).project(&project).times(1),
        );
        let url = format!("{}/models", rig.sandbox.base_url());
        let response = rig.client.get(url).bearer_auth(&value).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{answer:?}");
        let header = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header.as_deref(), retry_after, "{answer:?}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"].as_str(), code, "{body}");
        let fields: Vec<&String> = body["error"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["code", "message", "param", "type"]);
        assert_eq!(rig.last_entry(&project).effect, Effect::Refused);
    }
    assert!(rig.sandbox.keys(&project)[0].last_used_at.is_none(), "a refused call is no use");
    rig.sandbox.add_fault(
        FaultRule::on(Operation::CreateServiceAccount, Fault::after_effect(Answer::InternalError))
            .project(&project)
            .times(1),
    );
    let (status, _) = rig.try_create(&project, "made-all-the-same").await.unwrap();
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let entry = rig.last_entry(&project);
    assert_eq!((entry.effect, entry.status), (Effect::Committed, Some(500)));
    assert_eq!(rig.sandbox.live_keys(&project).len(), 2);
}

#[tokio::test]
async fn lags_follow_the_clock_both_ways() {
    let rig = Rig::start().await;
    let project = rig.sandbox.create_project("lags");
    let lags = Settings {
        new_key_lag_millis: 1000,
        deleted_key_lag_millis: 2000,
        list_lag_millis: 3000,
        unlist_lag_millis: 4000,
        ..Settings::default()
    };
    rig.sandbox.set_settings(Some(&project), lags);
    let (made, value) = rig.create(&project, "slow").await;
    let account = format!("/{project}/service_accounts/{}", made["id"].as_str().unwrap());
    let listed = async || {
        let accounts = rig.ok(Method::GET, &format!("/{project}/service_accounts"), None).await;
        let keys = rig.ok(Method::GET, &format!("/{project}/api_keys"), None).await;
        (accounts["data"].as_array().unwrap().len(), keys["data"].as_array().unwrap().len())
    };
    assert_eq!(rig.validate(&value).await.1["error"]["code"], "invalid_api_key");
    assert_eq!(rig.sandbox.live_keys(&project)[0].state, KeyState::Pending);
    rig.ok(Method::GET, &account, None).await;
    rig.advance(999);
    assert!(!rig.sandbox.accepts(&value));
    rig.advance(1);
    assert_eq!(rig.validate(&value).await.0, StatusCode::OK);
    assert_eq!(listed().await, (0, 0));
    rig.advance(2000);
    assert_eq!(listed().await, (1, 1));

    rig.ok(Method::DELETE, &account, None).await;
    assert_eq!(rig.validate(&value).await.0, StatusCode::OK);
    assert_eq!(rig.sandbox.keys(&project)[0].state, KeyState::Lingering);
    assert_eq!(rig.admin(Method::GET, &account, None).await.0, StatusCode::NOT_FOUND);
    rig.advance(2000);
    assert_eq!(rig.validate(&value).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(listed().await, (1, 1));
    rig.advance(2000);
    assert_eq!(listed().await, (0, 0));
}

#[tokio::test]
async fn bodies_can_be_cut_halved_or_not_json() {
    for http2 in [true, false] {
        let rig = Rig::start_with(http2).await;
        let project = rig.sandbox.create_project("bodies");
        let (_, value) = rig.create(&project, "bodies").await;
        let get = async |answer| {
            let rule = FaultRule::on(Operation::ListModels, Fault::refuse(answer))
                .project(&project)
                .name_prefix("bod")
                .times(1);
            rig.sandbox.add_fault(rule);
            let url = format!("{}/models", rig.sandbox.base_url());
            rig.client.get(url).bearer_auth(&value).send().await.unwrap()
        };
        let cut = get(Answer::CutBody).await;
        let version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        assert_eq!((cut.status(), cut.version()), (StatusCode::OK, version));
        assert!(cut.bytes().await.is_err());
        let half = get(Answer::HalfBody).await.bytes().await.unwrap();
        assert!(!half.is_empty() && serde_json::from_slice::<Value>(&half).is_err());
        let page = get(Answer::Html { status: 502 }).await;
        assert_eq!(
            (page.status(), page.headers()["content-type"].as_bytes()),
            (StatusCode::BAD_GATEWAY, &b"text/html"[..])
        );
        assert!(page.text().await.unwrap().contains("502 Bad Gateway"));
        assert_eq!(rig.validate(&value).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_slow_call_commits_after_its_client_has_gone() {
    let rig = Rig::start().await;
    let project = rig.sandbox.create_project("slow");
    rig.sandbox.add_fault(FaultRule::on(Operation::CreateServiceAccount, Fault::slow(300)).project(&project));
    tokio::select! {
        answer = rig.try_create(&project, "late") => panic!("the client must go first: {answer:?}"),
        () = async { while rig.sandbox.faults()[0].fired == 0 { tokio::task::yield_now().await } } => {}
    }
    let made = rig.sandbox.wait_for_entry(|entry| entry.project.as_deref() == Some(&project));
    let entry = tokio::time::timeout(DEADLINE, made).await.unwrap();
    assert_eq!((entry.effect, entry.fault.as_deref()), (Effect::Committed, Some("slow")));
    assert_eq!(rig.sandbox.live_keys(&project).len(), 1);
}

#[tokio::test]
async fn a_hanging_call_is_reset_when_its_rule_goes() {
    let rig = Rig::start().await;
    let project = rig.sandbox.create_project("hang");
    rig.sandbox.add_fault(FaultRule::on_all(Fault::after_effect(Answer::Hang)).project(&project));
    let create = rig.try_create(&project, "hangs");
    let release = async {
        let made = rig.sandbox.wait_for_entry(|entry| entry.project.as_deref() == Some(&project));
        tokio::time::timeout(DEADLINE, made).await.unwrap();
        rig.sandbox.clear_faults(Some(&project));
    };
    let (answer, ()) = tokio::join!(create, release);
    assert!(!answer.unwrap_err().is_timeout());
    assert_eq!(rig.sandbox.live_keys(&project).len(), 1);
}
