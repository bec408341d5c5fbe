//! `docs/reference.md`: every field of every kind, as the CRDs have it. Pure.

use serde_json::{Map, Value};

use super::{ClusterRotationPolicy, LLMKey, LLMProvider, RotationPolicy, crd};

const HEAD: &str = "\
# Reference of the four kinds

Every field of `llmkeys.dev/v1alpha1`, written by `make crds` out of the types that the CRDs come from; a test compares it. `kubectl explain llmkey.spec` and its like
say the same for the version that a cluster has. What fields mean together is in [concepts.md](concepts.md); [examples](../examples) has them in use.

`[]` stands for each item of a list, `{}` for each value of a map. A *duration* is a number with a unit, or several: `90s`, `1h30m`; units are
`ms`, `s`, `m` and `h`. A *time* is RFC 3339. What is not given counts as its default.
";

/// The page: the kinds in the order in which a reader meets them.
pub fn reference() -> String {
    page(&[crd::<LLMKey>(), crd::<RotationPolicy>(), crd::<ClusterRotationPolicy>(), crd::<LLMProvider>()])
}

/// A chapter for each CRD. One whose fields are those of a kind before it refers to that one.
fn page(crds: &[Value]) -> String {
    let mut page = vec![HEAD.to_owned()];
    for (place, crd) in crds.iter().enumerate() {
        let fields = |crd: &Value| schema(crd)["properties"].clone();
        let kind = |crd: &Value| crd["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
        let names = &crd["spec"]["names"];
        let scope = if crd["spec"]["scope"] == "Cluster" { "of the cluster" } else { "of a namespace" };
        let short: Vec<&str> = texts(&names["shortNames"]).collect();
        let root = schema(crd);
        page.push(format!(
            "\n## {}\n\n{}\n\nA resource {scope}; `kubectl get {}`, short `{}`.\n",
            kind(crd),
            sentence(root),
            names["plural"].as_str().unwrap_or_default(),
            short.join("`, `"),
        ));
        if let Some(same) = crds.iter().take(place).find(|before| fields(before) == fields(crd)) {
            let same = kind(same);
            page.push(format!("\nIts fields are those of [{same}](#{}).\n", same.to_lowercase()));
            continue;
        }
        page.push(rules(root));
        for part in ["spec", "status"] {
            let schema = &root["properties"][part];
            if schema.is_object() {
                page.push(format!("\n### {} {part}\n\n{}\n", kind(crd), sentence(schema)));
                page.push(rules(schema));
                page.push(
                    "\n| Field | Type | Default | Bounds | Description |\n|---|---|---|---|---|\n".to_owned(),
                );
                rows(part, schema, &mut page);
            }
        }
    }
    page.concat()
}

fn schema(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The description on one line.
fn sentence(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn messages(schema: &Value) -> impl Iterator<Item = &str> {
    schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|rule| rule["message"].as_str())
}

/// What admission asks of the whole, as a list.
fn rules(schema: &Value) -> String {
    let list: Vec<String> = messages(schema).map(|message| format!("- {message}")).collect();
    if list.is_empty() {
        return String::new();
    }
    format!("\nWhat admission asks for:\n\n{}\n", list.join("\n"))
}

/// A row for each field below `schema`.
fn rows(path: &str, schema: &Value, page: &mut Vec<String>) {
    let none = Map::new();
    let required: Vec<&str> = texts(&schema["required"]).collect();
    for (name, field) in schema["properties"].as_object().unwrap_or(&none) {
        let path = format!("{path}.{name}");
        page.push(row(&path, field, required.contains(&name.as_str())));
        below(&path, field, page);
    }
}

/// The fields of an object, of a list's items, or of a map's values.
fn below(path: &str, field: &Value, page: &mut Vec<String>) {
    rows(path, field, page);
    for (inner, sign) in [("items", "[]"), ("additionalProperties", "{}")] {
        if field[inner].is_object() {
            below(&format!("{path}{sign}"), &field[inner], page);
        }
    }
}

fn row(path: &str, field: &Value, required: bool) -> String {
    let default = field.get("default").map(|value| match value {
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    });
    let bounds: Vec<String> =
        required.then(|| "**required**".to_owned()).into_iter().chain(bounds(field)).collect();
    let cells =
        [format!("`{path}`"), kind(field), default.unwrap_or_default(), bounds.join("; "), sentence(field)];
    // A bar would end the cell, in code too.
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', r"\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn is_duration(field: &Value) -> bool {
    field["pattern"].as_str().is_some_and(|pattern| pattern.contains("(ms|s|m|h)"))
}

fn kind(field: &Value) -> String {
    if field["enum"].is_array() {
        let values: Vec<String> = texts(&field["enum"]).map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    match field["type"].as_str().unwrap_or_default() {
        "string" if is_duration(field) => "duration".to_owned(),
        "string" if field["format"] == "date-time" => "time".to_owned(),
        "array" => format!("list of: {}", kind(&field["items"])),
        "object" if field["additionalProperties"].is_object() => {
            format!("map to: {}", kind(&field["additionalProperties"]))
        }
        "object" if field["x-kubernetes-preserve-unknown-fields"] == true => "any object".to_owned(),
        other => other.to_owned(),
    }
}

/// What admission accepts of one field, and of a list's items or a map's values.
fn bounds(field: &Value) -> Vec<String> {
    let range = |least: &str, most: &str, what: &str| match (field[least].as_i64(), field[most].as_i64()) {
        (Some(least), Some(most)) => Some(format!("{least} to {most}{what}")),
        (None, Some(most)) => Some(format!("at most {most}{what}")),
        (Some(least), None) => Some(format!("at least {least}{what}")),
        (None, None) => None,
    };
    let mut bounds = Vec::new();
    bounds.extend(range("minimum", "maximum", ""));
    bounds.extend(range("minItems", "maxItems", " items"));
    bounds.extend(range("minProperties", "maxProperties", " entries"));
    if !is_duration(field) {
        bounds.extend(range("minLength", "maxLength", " characters"));
        bounds.extend(field["pattern"].as_str().map(|pattern| format!("`{pattern}`")));
    }
    let keys: Vec<&str> = texts(&field["x-kubernetes-list-map-keys"]).collect();
    if !keys.is_empty() {
        bounds.push(format!("each `{}` once", keys.join("`, `")));
    }
    bounds.extend(messages(field).map(str::to_owned));
    for (inner, what) in [("items", "each"), ("additionalProperties", "each value")] {
        if field[inner].is_object() {
            bounds.extend(self::bounds(&field[inner]).into_iter().map(|bound| format!("{what}: {bound}")));
        }
    }
    bounds
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn crd(kind: &str, schema: &Value) -> Value {
        json!({"spec": {
            "names": {"kind": kind, "plural": format!("{}s", kind.to_lowercase()), "shortNames": ["x"]},
            "scope": "Namespaced", "versions": [{"schema": {"openAPIV3Schema": schema}}],
        }})
    }

    #[test]
    fn a_field_is_a_row_and_a_kind_with_the_same_fields_refers() {
        let schema = json!({"description": "A\nthing.", "properties": {"spec": {
            "description": "What.", "required": ["mode"],
            "x-kubernetes-validations": [{"rule": "r", "message": "one of both"}],
            "properties": {
                "items": {"type": "array", "maxItems": 3, "description": "Some.", "x-kubernetes-list-map-keys": ["name"], "items": {
                    "type": "object", "properties": {"name": {"type": "string", "maxLength": 63, "pattern": "^(a|b)$", "description": "Its name."}}}},
                "mode": {"type": "string", "enum": ["A", "B"], "default": "A", "description": "How."},
                "wait": {"type": "string", "maxLength": 32, "pattern": "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$", "description": "How long.",
                         "x-kubernetes-validations": [{"rule": "r", "message": "at most 1h"}]},
            },
        }}});
        let page = page(&[crd("Thing", &schema), crd("Other", &schema)]);
        let chapters = page.strip_prefix(HEAD).unwrap();
        assert_eq!(
            chapters,
            r"
## Thing

A thing.

A resource of a namespace; `kubectl get things`, short `x`.

### Thing spec

What.

What admission asks for:

- one of both

| Field | Type | Default | Bounds | Description |
|---|---|---|---|---|
| `spec.items` | list of: object |  | at most 3 items; each `name` once | Some. |
| `spec.items[].name` | string |  | at most 63 characters; `^(a\|b)$` | Its name. |
| `spec.mode` | `A`, `B` | `A` | **required** | How. |
| `spec.wait` | duration |  | at most 1h | How long. |

## Other

A thing.

A resource of a namespace; `kubectl get others`, short `x`.

Its fields are those of [Thing](#thing).
"
        );
    }
}
