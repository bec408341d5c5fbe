//! The sandbox provider, driven over TLS by an ordinary HTTP client: keys, lists, credentials, its control API. Its
//! faults are in `sandbox_faults.rs`.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use llmkey_operator::sandbox::{
    Effect, KeyDelete, LogEntry, Operation, OwnerAccess, Sandbox, SandboxOptions, Settings,
};
use reqwest::{Certificate, Client, Method, StatusCode};
use serde_json::{Value, json};

/// Every wait of these tests ends here.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A sandbox with a clock that stands still, and a client of it.
pub(crate) struct Rig {
    pub(crate) sandbox: Sandbox,
    pub(crate) client: Client,
    time: Arc<Mutex<DateTime<Utc>>>,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(true).await
    }

    pub(crate) async fn start_with(http2: bool) -> Self {
        let time = Arc::new(Mutex::new(DateTime::from_timestamp(1_800_000_000, 0).unwrap()));
        let clock = Arc::clone(&time);
        let mut options = SandboxOptions::new(Arc::new(move || *clock.lock().unwrap()));
        options.http2 = http2;
        let sandbox = Sandbox::start(options).await.unwrap();
        let client = client(&sandbox);
        Self { sandbox, client, time }
    }

    pub(crate) fn advance(&self, millis: i64) {
        *self.time.lock().unwrap() += TimeDelta::milliseconds(millis);
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        key: &str,
        body: Option<Value>,
    ) -> reqwest::Result<(StatusCode, Value)> {
        let url = format!("{}{path}", self.sandbox.base_url());
        let mut request = self.client.request(method, url).bearer_auth(key).timeout(DEADLINE);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        Ok((status, response.json().await?))
    }

    pub(crate) async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let path = format!("/organization/projects{path}");
        self.send(method, &path, self.sandbox.admin_key(), body).await.unwrap()
    }

    pub(crate) async fn ok(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, body) = self.admin(method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    /// Makes a service account: its answer and its key's value.
    pub(crate) async fn create(&self, project: &str, name: &str) -> (Value, String) {
        let body =
            self.ok(Method::POST, &format!("/{project}/service_accounts"), Some(json!({"name": name}))).await;
        let value = body["api_key"]["value"].as_str().unwrap().to_owned();
        (body, value)
    }

    pub(crate) async fn validate(&self, key: &str) -> (StatusCode, Value) {
        self.send(Method::GET, "/models", key, None).await.unwrap()
    }

    pub(crate) async fn try_create(&self, project: &str, name: &str) -> reqwest::Result<(StatusCode, Value)> {
        let path = format!("/organization/projects/{project}/service_accounts");
        self.send(Method::POST, &path, self.sandbox.admin_key(), Some(json!({"name": name}))).await
    }

    pub(crate) fn last_entry(&self, project: &str) -> LogEntry {
        self.sandbox.log_of(project).pop().unwrap()
    }
}

fn client(sandbox: &Sandbox) -> Client {
    let authority = Certificate::from_pem(sandbox.ca_pem().as_bytes()).unwrap();
    Client::builder().tls_certs_only([authority]).no_proxy().build().unwrap()
}

#[tokio::test]
async fn a_key_is_made_shown_once_used_and_deleted_with_its_account() {
    let rig = Rig::start().await;
    let project = rig.sandbox.create_project("life");
    let (made, value) = rig.create(&project, "lk1-a").await;
    assert_eq!(made["object"], "organization.project.service_account");
    assert_eq!((&made["name"], &made["role"]), (&json!("lk1-a"), &json!("member")));
    assert_eq!(made["api_key"]["object"], "organization.project.service_account.api_key");
    assert!(value.starts_with("sk-svcacct-") && value.contains("T3BlbkFJ"));
    let account = made["id"].as_str().unwrap();
    let key = made["api_key"]["id"].as_str().unwrap();

    let got = rig.ok(Method::GET, &format!("/{project}/api_keys/{key}"), None).await;
    assert_eq!(got["owner"]["service_account"]["id"], account);
    assert_eq!(got["owner"]["type"], "service_account");
    assert_eq!(got["last_used_at"], Value::Null);
    assert_eq!(got["owner_project_access"], "active");
    assert!(!got.to_string().contains(&value));
    assert!(got["redacted_value"].as_str().unwrap().ends_with(&value[value.len() - 4..]));

    let (status, models) = rig.validate(&value).await;
    assert_eq!((status, &models["object"]), (StatusCode::OK, &json!("list")));
    let first = rig.ok(Method::GET, &format!("/{project}/api_keys/{key}"), None).await;
    rig.advance(5000);
    rig.validate(&value).await;
    let second = rig.ok(Method::GET, &format!("/{project}/api_keys/{key}"), None).await;
    assert_eq!(second["last_used_at"].as_i64().unwrap() - first["last_used_at"].as_i64().unwrap(), 5);

    let path = format!("/{project}/service_accounts/{account}");
    let gone = rig.ok(Method::DELETE, &path, None).await;
    let kind = "organization.project.service_account.deleted";
    assert_eq!(gone, json!({"object": kind, "id": account, "deleted": true}));
    let (status, body) = rig.validate(&value).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("invalid_api_key")));
    assert_eq!(rig.admin(Method::GET, &path, None).await.0, StatusCode::NOT_FOUND);
    assert_eq!(rig.admin(Method::DELETE, &path, None).await.0, StatusCode::NOT_FOUND);
    assert!(rig.sandbox.live_keys(&project).is_empty());

    let log = rig.sandbox.log_of(&project);
    let deletion = log.iter().find(|entry| entry.operation == Operation::DeleteServiceAccount).unwrap();
    assert_eq!(
        (deletion.effect, deletion.key_ids.as_slice()),
        (Effect::Committed, [key.to_owned()].as_slice())
    );
    let written = serde_json::to_string(&rig.sandbox.log()).unwrap();
    assert!(!written.contains(&value) && !written.contains(rig.sandbox.admin_key()));
}

#[tokio::test]
async fn lists_are_paged_in_the_documented_envelope() {
    let rig = Rig::start().await;
    let project = rig.sandbox.create_project("pages");
    for name in ["same", "same", "c", "d", "e"] {
        rig.create(&project, name).await;
    }
    rig.sandbox.set_settings(Some(&project), Settings { max_page_size: 2, ..Settings::default() });
    for list in ["service_accounts", "api_keys"] {
        let (mut ids, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = rig.ok(Method::GET, &format!("/{project}/{list}?limit=100{after}"), None).await;
            let data = page["data"].as_array().unwrap();
            assert_eq!(page["first_id"], data.first().unwrap()["id"]);
            assert_eq!(page["last_id"], data.last().unwrap()["id"]);
            ids.extend(data.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            pages += 1;
            after = format!("&after={}", page["last_id"].as_str().unwrap());
            if page["has_more"] == false {
                break;
            }
        }
        assert_eq!((ids.len(), pages), (5, 3), "{list}");
        ids.dedup();
        assert_eq!(ids.len(), 5);
    }
    let (status, body) = rig.admin(Method::GET, &format!("/{project}/api_keys?limit=101"), None).await;
    assert_eq!((status, &body["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("limit")));
    let projects = rig.ok(Method::GET, "", None).await;
    assert_eq!(projects["data"].as_array().unwrap().len(), 2);
    let one = rig.ok(Method::GET, &format!("/{project}"), None).await;
    assert_eq!((&one["object"], &one["status"]), (&json!("organization.project"), &json!("active")));
}

#[tokio::test]
async fn deleting_an_accounts_key_has_both_documented_behaviours() {
    let rig = Rig::start().await;
    let project = rig.sandbox.create_project("delete");
    let (made, first) = rig.create(&project, "two-keys").await;
    let account = made["id"].as_str().unwrap();
    let path = format!("/{project}/service_accounts/{account}/api_keys");
    let second = rig.ok(Method::POST, &path, Some(json!({"name": "v2", "expires_in_seconds": 60}))).await;
    assert_eq!(second["expires_at"].as_i64(), second["created_at"].as_i64().map(|made| made + 60));
    let second_value = second["value"].as_str().unwrap();
    let key = format!("/{project}/api_keys/{}", made["api_key"]["id"].as_str().unwrap());

    let refusing = Settings { service_account_key_delete: KeyDelete::Refused, ..Settings::default() };
    rig.sandbox.set_settings(Some(&project), refusing);
    assert_eq!(rig.admin(Method::DELETE, &key, None).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(rig.last_entry(&project).effect, Effect::Refused);
    assert_eq!(rig.validate(&first).await.0, StatusCode::OK);

    rig.sandbox.set_settings(Some(&project), Settings::default());
    assert_eq!(rig.ok(Method::DELETE, &key, None).await["object"], "organization.project.api_key.deleted");
    assert_eq!(rig.validate(&first).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(rig.validate(second_value).await.0, StatusCode::OK);
    rig.ok(Method::GET, &format!("/{project}/service_accounts/{account}"), None).await;
    rig.advance(60_000);
    assert_eq!(rig.validate(second_value).await.0, StatusCode::UNAUTHORIZED, "expired");
}

#[tokio::test]
async fn credentials_are_told_apart() {
    let rig = Rig::start().await;
    let (_, value) = rig.create(rig.sandbox.project_id(), "who").await;
    let url = format!("{}/models", rig.sandbox.base_url());
    let response = rig.client.get(&url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let body: Value = response.json().await.unwrap();
    assert!(body["error"]["message"].as_str().unwrap().starts_with("You didn't provide an API key."));
    assert_eq!(body["error"]["code"], Value::Null);

    let (status, body) = rig.validate("sk-svcacct-wrongT3BlbkFJwrong-wxyz").await;
    let message = body["error"]["message"].as_str().unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(message.starts_with("Incorrect API key provided: sk-svcac*") && message.contains("*wxyz."));

    let (status, body) = rig.validate(rig.sandbox.admin_key()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body["error"]["message"].as_str().unwrap().contains("Missing scopes: api.model.read"));
    let (status, _) = rig.send(Method::GET, "/organization/projects", &value, None).await.unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, _) = rig.send(Method::GET, "/organization/projects", "sk-admin-wrong", None).await.unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, body) = rig.send(Method::GET, "/nothing", &value, None).await.unwrap();
    assert_eq!(
        (status, &body["error"]["message"]),
        (StatusCode::NOT_FOUND, &json!("Invalid URL (GET /v1/nothing)"))
    );
    let (status, _) = rig.send(Method::PUT, "/models", &value, None).await.unwrap();
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn supplied_keys_and_patterns_are_accepted_until_withdrawn() {
    let rig = Rig::start().await;
    let project = rig.sandbox.create_project("supplied");
    let value = "sk-proj-byhandT3BlbkFJbyhand-0001";
    rig.sandbox.register_key(value, &project, "by hand", OwnerAccess::Inactive).unwrap();
    assert_eq!(rig.validate(value).await.0, StatusCode::OK);
    let keys = async |filter: &str| {
        let list = rig.ok(Method::GET, &format!("/{project}/api_keys{filter}"), None).await;
        list["data"].as_array().unwrap().clone()
    };
    assert!(keys("").await.is_empty(), "an unfiltered list may hide enabled keys");
    let listed = keys("?owner_project_access=any").await;
    assert_eq!((&listed[0]["owner"]["type"], &listed[0]["name"]), (&json!("user"), &json!("by hand")));
    let path = format!("/{project}/api_keys/{}", listed[0]["id"].as_str().unwrap());
    rig.ok(Method::DELETE, &path, None).await;
    assert_eq!(rig.validate(value).await.0, StatusCode::UNAUTHORIZED);

    assert!(rig.sandbox.accept_pattern("sk-proj-bench", &project));
    assert_eq!(rig.validate("sk-proj-bench-0001").await.0, StatusCode::OK);
    rig.sandbox.withdraw_key("sk-proj-bench-0001");
    assert_eq!(rig.validate("sk-proj-bench-0001").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(rig.validate("sk-proj-bench-0002").await.0, StatusCode::OK);
    assert_eq!(rig.last_entry(&project).operation, Operation::ListModels);
}

#[tokio::test]
async fn wrong_input_is_refused_and_changes_nothing() {
    let rig = Rig::start().await;
    let project = rig.sandbox.create_project("input");
    let path = format!("/{project}/service_accounts");
    for body in [
        json!({}),
        json!({"name": " "}),
        json!({"name": "x", "unknown": 1}),
        json!({"name": "x", "expires_in_seconds": 0}),
        json!({"name": "x", "create_service_account_only": true, "expires_in_seconds": 5}),
    ] {
        assert_eq!(
            rig.admin(Method::POST, &path, Some(body.clone())).await.0,
            StatusCode::BAD_REQUEST,
            "{body}"
        );
    }
    let (status, _) = rig.admin(Method::POST, &path, Some(json!({"name": "x".repeat(70_000)}))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let bare = json!({"name": "bare", "create_service_account_only": true});
    let bare = rig.ok(Method::POST, &path, Some(bare)).await;
    assert_eq!((&bare["api_key"], &bare["role"]), (&Value::Null, &json!("none")));
    assert_eq!(rig.admin(Method::GET, "/proj_unknown/api_keys", None).await.0, StatusCode::NOT_FOUND);
    rig.sandbox.archive_project(&project);
    assert_eq!(rig.admin(Method::POST, &path, Some(json!({"name": "x"}))).await.0, StatusCode::BAD_REQUEST);
    assert!(rig.sandbox.keys(&project).is_empty());
}

#[tokio::test]
async fn the_control_api_wants_its_own_token() {
    let rig = Rig::start().await;
    let control = async |method: Method, path: &str, token: &str, body: Value| {
        let url = format!("{}{path}", rig.sandbox.control_url());
        rig.client.request(method, url).bearer_auth(token).json(&body).send().await.unwrap()
    };
    for token in [rig.sandbox.admin_key(), "guess"] {
        let response = control(Method::GET, "/log", token, Value::Null).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    let token = rig.sandbox.control_token();
    let made: Value =
        control(Method::POST, "/projects", token, json!({"name": "remote"})).await.json().await.unwrap();
    let project = made["id"].as_str().unwrap();
    let value = "sk-proj-remoteT3BlbkFJremote-0001";
    let body = json!({"value": value, "project": project, "name": "remote"});
    assert_eq!(control(Method::POST, "/keys", token, body).await.status(), StatusCode::OK);
    let rule = json!({"operation": "listModels", "project": project, "times": 1,
        "fault": {"answer": {"kind": "unavailable"}}});
    assert_eq!(control(Method::POST, "/faults", token, rule).await.status(), StatusCode::OK);
    assert_eq!(rig.validate(value).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let faults: Value = control(Method::GET, "/faults", token, Value::Null).await.json().await.unwrap();
    assert_eq!(faults[0]["fired"], 1);
    assert_eq!(rig.validate(value).await.0, StatusCode::OK);
    let settings = json!({"newKeyLagMillis": 5});
    let path = format!("/projects/{project}/settings");
    assert_eq!(control(Method::PUT, &path, token, settings).await.status(), StatusCode::NO_CONTENT);
    let accepted: Value =
        control(Method::POST, "/accepts", token, json!({"value": value})).await.json().await.unwrap();
    assert_eq!(accepted["accepted"], true);
    let keys: Value = control(Method::GET, &format!("/projects/{project}/keys"), token, Value::Null)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!((&keys[0]["state"], &keys[0]["lastFour"]), (&json!("live"), &json!("0001")));
    let log: Value = control(Method::GET, &format!("/log?project={project}"), token, Value::Null)
        .await
        .json()
        .await
        .unwrap();
    let entries = log["entries"].as_array().unwrap();
    assert_eq!(
        (entries.len(), &entries[0]["fault"], &entries[1]["effect"]),
        (2, &json!("unavailable"), &json!("committed"))
    );
    let path = format!("/log?after={}", log["last"]);
    let log: Value = control(Method::GET, &path, token, Value::Null).await.json().await.unwrap();
    assert!(log["entries"].as_array().unwrap().is_empty());
    assert_eq!(
        control(Method::DELETE, "/keys", token, json!({"value": value})).await.status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(rig.validate(value).await.0, StatusCode::UNAUTHORIZED);

    let page = rig.client.get(format!("https://{}/", rig.sandbox.addr())).send().await.unwrap();
    assert_eq!(page.headers()["content-security-policy"], "default-src 'none'; style-src 'unsafe-inline'");
    let page = page.text().await.unwrap();
    assert!(page.contains("remote") && page.contains("…0001") && !page.contains(value));
}

#[tokio::test]
async fn the_status_page_and_the_log_file_are_there_for_people_and_scripts() {
    let file = std::env::temp_dir().join(format!("sandbox-log-{}.jsonl", std::process::id()));
    let mut options = SandboxOptions::new(Arc::new(|| DateTime::UNIX_EPOCH));
    options.status_listen = Some("127.0.0.1:0".parse().unwrap());
    options.log_file = Some(file.clone());
    let sandbox = Sandbox::start(options).await.unwrap();
    let client = client(&sandbox);
    client.get(format!("{}/models", sandbox.base_url())).bearer_auth("sk-nobody").send().await.unwrap();
    let lines = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let entry: LogEntry = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!(vec![entry], sandbox.log());

    let url = sandbox.status_url().unwrap();
    assert!(client.get(&url).send().await.unwrap().text().await.unwrap().contains("GET models"));
    let elsewhere = client.get(format!("{url}v1/models")).send().await.unwrap();
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND, "the plain address has nothing but the page");
    sandbox.stop().await;
    assert!(client.get(&url).timeout(DEADLINE).send().await.is_err());
}

#[tokio::test]
async fn only_loopback_addresses_are_served() {
    let mut options = SandboxOptions::new(Arc::new(|| DateTime::UNIX_EPOCH));
    options.listen = "0.0.0.0:0".parse().unwrap();
    let Err(error) = Sandbox::start(options).await else { panic!("it listens on every address") };
    assert_eq!(error.to_string(), "0.0.0.0:0 is not a loopback address");
}
