//! The status page: what the provider holds and what happened last, for people who watch the demo.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
    routing::get,
};
use chrono::{DateTime, Utc};

use super::{
    backend::with_type,
    log::{Effect, LogEntry},
    view::{Handle, KeyRecord, ProjectRecord},
};

/// Entries of the log on the page.
const LOG_LINES: usize = 25;

/// Keys per project on the page, the newest.
const KEY_LINES: usize = 50;

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta http-equiv=\"refresh\" content=\"2\"><meta name=\"viewport\" content=\"width=device-width\">\
<title>Sandbox provider</title><style>\
:root{color-scheme:light dark;--line:#8884;--dim:light-dark(#676d77,#9aa1ac);\
--good:light-dark(#1a7f4b,#5ccf95);--bad:light-dark(#b3372f,#ff8a80);--wait:light-dark(#955f00,#ffc15e)}\
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .4rem}p{color:var(--dim);margin:.2rem 0 1rem}\
.wrap{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th{text-align:left;font-weight:600;color:var(--dim);font-size:.8rem}\
th,td{padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line);white-space:nowrap}\
td.name{white-space:normal;overflow-wrap:anywhere;min-width:14rem}\
code{font:13px ui-monospace,monospace}.dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--bad)}\
.wait{color:var(--wait)}.gone td{opacity:.55}</style></head><body>";

/// `GET /`: the page.
pub(super) fn status(handle: Arc<Handle>) -> Router {
    Router::new().route("/", get(page)).with_state(handle)
}

async fn page(State(handle): State<Arc<Handle>>) -> Response {
    let html = render(&handle.projects(), &handle.newest(LOG_LINES), handle.backend.now());
    let mut response = with_type(StatusCode::OK, "text/html; charset=utf-8", Bytes::from(html));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
    );
    response
}

fn render(projects: &[ProjectRecord], log: &[LogEntry], now: DateTime<Utc>) -> String {
    let mut html = String::from(HEAD);
    let live = projects.iter().flat_map(|project| &project.keys).filter(|key| key.state.exists()).count();
    // Writing to a String cannot fail.
    let _ = write!(
        html,
        "<h1>Sandbox provider</h1><p>A stand-in for the key APIs of OpenAI, OpenRouter and LiteLLM, for demo and tests. {live} key{} in use. \
         {} UTC</p>",
        if live == 1 { "" } else { "s" },
        now.format("%H:%M:%S"),
    );
    for project in projects {
        project_table(&mut html, project, now);
    }
    log_table(&mut html, log);
    html.push_str("</body></html>");
    html
}

fn project_table(html: &mut String, project: &ProjectRecord, now: DateTime<Utc>) {
    let accounts = project.service_accounts.iter().filter(|account| account.deleted_at.is_none()).count();
    let _ = write!(
        html,
        "<h2>{} <code class=dim>{}</code></h2><p>{accounts} service account{}, {} key{} ever made{}</p>",
        escape(&project.name),
        escape(&project.id),
        if accounts == 1 { "" } else { "s" },
        project.keys.len(),
        if project.keys.len() == 1 { "" } else { "s" },
        if project.archived { ", archived" } else { "" },
    );
    if project.keys.is_empty() {
        return;
    }
    html.push_str(
        "<div class=wrap><table><tr><th>State<th>Service account<th>Key<th>Ends in<th>Created<th>Last used\
         <th>Deleted</tr>",
    );
    for key in project.keys.iter().rev().take(KEY_LINES) {
        key_row(html, key, now);
    }
    html.push_str("</table></div>");
}

fn key_row(html: &mut String, key: &KeyRecord, now: DateTime<Utc>) {
    let class = match key.state.word() {
        "live" => "good",
        "deleted" | "expired" => "bad",
        _ => "wait",
    };
    let _ = write!(
        html,
        "<tr{}><td class={class}>{}<td class=name>{}<td><code class=dim>{}</code><td><code>…{}</code>\
         <td>{}<td>{}<td>{}</tr>",
        if key.state.exists() { "" } else { " class=gone" },
        key.state.word(),
        escape(key.service_account_name.as_deref().unwrap_or(&key.name)),
        escape(&key.id),
        escape(&key.last_four),
        ago(key.created_at, now),
        key.last_used_at.map_or_else(|| "<span class=dim>never</span>".to_owned(), |used| ago(used, now)),
        key.deleted_at.map_or_else(String::new, |deleted| ago(deleted, now)),
    );
}

fn log_table(html: &mut String, log: &[LogEntry]) {
    html.push_str("<h2>Last calls</h2>");
    if log.is_empty() {
        html.push_str("<p>None yet.</p>");
        return;
    }
    html.push_str(
        "<div class=wrap><table><tr><th>Time<th>Call<th>Effect<th>Status<th>About<th>Caller<th>Fault</tr>",
    );
    for entry in log {
        let (class, effect) = match (entry.effect, entry.operation) {
            (Effect::Committed, operation) if operation.is_data_call() => ("good", "accepted"),
            (Effect::Committed, _) => ("good", "committed"),
            (Effect::Refused, _) => ("bad", "refused"),
            (Effect::None, _) => ("dim", "read"),
        };
        let about = entry.name.as_deref().or(entry.object_id.as_deref()).unwrap_or_default();
        let _ = write!(
            html,
            "<tr><td class=dim>{}<td>{}<td class={class}>{effect}<td>{}<td class=name>{}\
             <td><code class=dim>{}</code><td class=wait>{}</tr>",
            entry.time.format("%H:%M:%S%.3f"),
            entry.operation.path(),
            entry.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string()),
            escape(about),
            entry
                .caller
                .as_ref()
                .map_or_else(String::new, |caller| format!("…{}", escape(&caller.last_four))),
            entry.fault.as_deref().map_or_else(String::new, escape),
        );
    }
    html.push_str("</table></div>");
}

fn ago(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    match (now - time).num_seconds().max(0) {
        seconds @ 0..=119 => format!("{seconds} s ago"),
        seconds @ 120..=7199 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3600),
    }
}

/// Text safe in HTML elements and quoted attributes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{operation::Operation, view::KeyState};

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let evil = "<script>alert('x')</script>\"&";
        let key = KeyRecord {
            id: "key_1".to_owned(),
            name: evil.to_owned(),
            project: "proj_1".to_owned(),
            service_account_id: None,
            service_account_name: None,
            fingerprint: String::new(),
            last_four: "<b>x".to_owned(),
            state: KeyState::Live,
            created_at: DateTime::UNIX_EPOCH,
            last_used_at: None,
            expires_at: None,
            deleted_at: None,
        };
        let project = ProjectRecord {
            id: "proj_1".to_owned(),
            name: evil.to_owned(),
            archived: false,
            service_accounts: Vec::new(),
            keys: vec![key],
        };
        let entry = LogEntry {
            sequence: 1,
            time: DateTime::UNIX_EPOCH,
            operation: Operation::GetKey,
            project: None,
            name: Some(evil.to_owned()),
            object_id: None,
            key_ids: Vec::new(),
            effect: Effect::None,
            status: None,
            fault: None,
            caller: None,
        };
        let html = render(&[project], &[entry], DateTime::UNIX_EPOCH);
        assert!(!html.contains("<script>") && !html.contains("<b>x"));
        assert_eq!(html.matches("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;").count(), 3);
    }
}
