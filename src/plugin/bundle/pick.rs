//! What of an object goes into a bundle: only what is named, never the object without something. A field that nobody has thought
//! of is left out.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Fewest characters of a word that may be a key.
const KEY_LENGTH: usize = 20;
/// How keys of providers begin, as their documentation and their consoles show them.
const KEY_PREFIXES: [&str; 11] =
    ["sk-", "sk_", "gsk_", "xai-", "hf_", "AIza", "tgp_", "sess-", "pk-", "eyJ", "ya29."];
/// What stands in place of such a word.
const LEFT_OUT: &str = "[left out]";

/// A tree of names.
#[derive(Default)]
struct Named<'a> {
    /// The field's own value, if it is no object.
    whole: bool,
    /// The names of its entries, and nothing of their values.
    names: bool,
    inner: BTreeMap<&'a str, Named<'a>>,
}

/// Copies what the paths name. A path is the names of fields, with blanks between them; lists are passed through. At its end a text, a
/// number, a truth value or a list of such is copied, an object never. `{}` at the end copies the names of an object's entries.
pub fn pick(value: &Value, paths: &[&str]) -> Value {
    let mut named = Named::default();
    for path in paths {
        let mut at = &mut named;
        for word in path.split_whitespace() {
            if word == "{}" {
                at.names = true;
            } else {
                at = at.inner.entry(word).or_default();
            }
        }
        at.whole |= !at.names;
    }
    copy(value, &named).unwrap_or(Value::Null)
}

fn copy(value: &Value, named: &Named<'_>) -> Option<Value> {
    match value {
        Value::Array(items) => {
            let items: Vec<Value> = items.iter().filter_map(|item| copy(item, named)).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::Object(fields) if named.names => {
            Some(Value::Array(fields.keys().map(|name| Value::String(masked(name))).collect()))
        }
        Value::Object(fields) => {
            let picked = named
                .inner
                .iter()
                .filter_map(|(name, inner)| Some(((*name).to_owned(), copy(fields.get(*name)?, inner)?)));
            let picked: Map<String, Value> = picked.collect();
            (!picked.is_empty()).then_some(Value::Object(picked))
        }
        Value::Null => None,
        _ if !named.whole => None,
        Value::String(text) => Some(Value::String(masked(text))),
        Value::Bool(_) | Value::Number(_) => Some(value.clone()),
    }
}

/// The text without what looks like a key: what should not be there in the first place. What begins like one goes up to the next
/// blank, quote, bracket or comma, since nobody knows which characters belong to it.
pub fn masked(text: &str) -> String {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = |c: char| c.is_whitespace() || "\"'`,;()[]{}<>".contains(c);
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let run = &rest[..rest.find(ends).unwrap_or(rest.len())];
        let taken = if run.len() >= KEY_LENGTH && KEY_PREFIXES.iter().any(|prefix| run.starts_with(prefix)) {
            safe.push_str(LEFT_OUT);
            run.len()
        } else {
            let word = rest.find(|c: char| !inner(c)).unwrap_or(rest.len());
            let next = rest[word..].find(inner).map_or(rest.len(), |between| word + between);
            safe.push_str(&rest[..next]);
            next
        };
        rest = &rest[taken..];
    }
    safe
}

/// Scheme, host and port of a URL: the rest may hold what is nobody's business.
pub fn place(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_named_is_copied_and_objects_never_whole() {
        let object = json!({
            "metadata": {"name": "chat", "annotations": {"b": "secret", "a": "secret"}},
            "spec": {"list": [{"name": "x", "value": "secret"}, {"value": "secret"}], "texts": ["p", "q"]},
            "data": {"key": "secret"}, "count": 3, "none": null,
        });
        let picked = pick(
            &object,
            &[
                "metadata name",
                "metadata annotations {}",
                "spec list name",
                "spec texts",
                "data",
                "count",
                "none",
            ],
        );
        assert_eq!(
            picked,
            json!({
                "metadata": {"name": "chat", "annotations": ["a", "b"]},
                "spec": {"list": [{"name": "x"}], "texts": ["p", "q"]}, "count": 3,
            })
        );
        assert_eq!(pick(&object, &["spec", "metadata"]), Value::Null);
        assert_eq!(
            pick(&object, &["count {}", "spec list {}"]),
            json!({"spec": {"list": [["name", "value"], ["value"]]}})
        );
    }

    #[test]
    fn what_looks_like_a_key_is_left_out_wherever_it_stands() {
        let key = "sk-proj-0123456789abcdefghij";
        assert_eq!(masked(&format!("({key}, and {key}!)")), "([left out], and [left out])");
        assert_eq!(masked("said Bearer=sk-proj-a+b/c%d&e=0123456789 \"x\""), "said Bearer=[left out] \"x\"");
        assert_eq!(masked("sk-short, llmkey-abcdefghijklmnopqrst"), "sk-short, llmkey-abcdefghijklmnopqrst");
        assert_eq!(pick(&json!({"message": key}), &["message"]), json!({"message": LEFT_OUT}));
    }

    #[test]
    fn of_a_url_only_the_place_is_told() {
        assert_eq!(
            place("https://me:secret@api.example.com:8443/v1?token=secret#x"),
            "https://api.example.com:8443"
        );
        assert_eq!(place("https://api.example.com"), "https://api.example.com");
    }
}
