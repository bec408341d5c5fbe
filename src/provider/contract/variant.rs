//! Answers made of a documented one: with fields of tomorrow, without fields that may be missing or may not, and cut short.

use serde_json::{Value, json};

use super::case::AnswerCase;

/// What an answer must mean.
pub(super) enum Wanted {
    /// What the documented one means.
    TheSame,
    /// That it was not understood.
    Unclear,
    /// The case file names a field that is not there.
    Mistake,
}

/// Answers that are made of it, each with a name, its body and what it must mean.
pub(super) fn variants(answer: &AnswerCase) -> Vec<(String, Vec<u8>, Wanted)> {
    let body = match (&answer.body, &answer.xml) {
        (Some(body), _) => Body::Json(body),
        (None, Some(xml)) => Body::Xml(xml),
        (None, None) => return Vec::new(),
    };
    let mut made = Vec::new();
    if !answer.exact {
        made.push(("with unknown fields".to_owned(), body.extended(), Wanted::TheSame));
    }
    let mut leave_out = |what: String, names: &[&String], wanted| {
        made.push(match body.without(names) {
            Some(body) => (what, body, wanted),
            None => (what, Vec::new(), Wanted::Mistake),
        });
    };
    for pointer in &answer.optional {
        leave_out(format!("without {pointer}"), &[pointer], Wanted::TheSame);
    }
    if answer.optional.len() > 1 {
        let all: Vec<&String> = answer.optional.iter().collect();
        leave_out("without all that may be missing".to_owned(), &all, Wanted::TheSame);
    }
    for pointer in &answer.required {
        leave_out(format!("without {pointer}"), &[pointer], Wanted::Unclear);
    }
    if (200..300).contains(&answer.status) {
        let whole = answer.bytes();
        for cut in [1, whole.len() / 3, whole.len() / 2, whole.len().saturating_sub(1)] {
            made.push((format!("cut after {cut} bytes"), whole[..cut].to_vec(), Wanted::Unclear));
        }
    }
    made
}

/// A documented body.
enum Body<'a> {
    Json(&'a Value),
    Xml(&'a str),
}

impl Body<'_> {
    fn extended(&self) -> Vec<u8> {
        match self {
            Self::Json(body) => bytes(&extended(body)),
            Self::Xml(text) => extended_xml(text).into_bytes(),
        }
    }

    /// The body without what is named; none: a name is of nothing.
    fn without(&self, names: &[&String]) -> Option<Vec<u8>> {
        match self {
            Self::Json(body) => without(body, names),
            Self::Xml(text) => without_elements(text, names).map(String::into_bytes),
        }
    }
}

fn bytes(body: &Value) -> Vec<u8> {
    body.to_string().into_bytes()
}

/// Each element that has others, and is no list, with one more that nobody knows.
fn extended_xml(text: &str) -> String {
    let mut pieces = text.split("></").peekable();
    let mut extended = String::new();
    while let Some(piece) = pieces.next() {
        extended += piece;
        if pieces.peek().is_some() {
            let tag = piece.rsplit('<').next().unwrap_or_default();
            let of_list = tag == "/member";
            let has_others = tag.starts_with('/') || tag.ends_with('/');
            extended += if has_others && !of_list { "><OfTomorrow><A>1</A></OfTomorrow></" } else { "></" };
        }
    }
    extended
}

/// The text without the first element of each name.
fn without_elements(text: &str, names: &[&String]) -> Option<String> {
    names.iter().try_fold(text.to_owned(), |text, name| {
        let (before, rest) = text.split_once(&format!("<{name}>"))?;
        let (_, after) = rest.split_once(&format!("</{name}>"))?;
        Some(format!("{before}{after}"))
    })
}

/// Each object with a field that nobody knows.
fn extended(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: serde_json::Map<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), extended(value))).collect();
            fields.insert("of_tomorrow".to_owned(), json!({"a": [1, null, "b"]}));
            Value::Object(fields)
        }
        Value::Array(items) => Value::Array(items.iter().map(extended).collect()),
        other => other.clone(),
    }
}

/// The body without what the pointers name; none: a pointer names nothing.
fn without(body: &Value, pointers: &[&String]) -> Option<Vec<u8>> {
    let mut body = body.clone();
    for pointer in pointers {
        let (parent, field) = pointer.rsplit_once('/')?;
        body.pointer_mut(parent)?.as_object_mut()?.remove(field)?;
    }
    Some(bytes(&body))
}
