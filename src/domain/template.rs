//! The target Secret's data: texts with a few variables, and no other template language.

use std::collections::BTreeMap;

use crate::crypto::SecretBytes;

/// What the variables stand for, apart from the key itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Values<'a> {
    /// `$(BASE_URL)`: where the provider answers, if there is one such address.
    pub base_url: Option<&'a str>,
    /// `$(MODEL)`: `spec.model`.
    pub model: Option<&'a str>,
    /// `$(CONFIG)`: `spec.config` as JSON text.
    pub config: Option<&'a str>,
    /// `$(VERSION)`: the version that is published.
    pub version: u32,
}

/// Why an entry cannot be rendered. It names the entry and never shows its text, which might hold a key by mistake.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TemplateError {
    /// No such variable.
    #[error(
        "spec.target.data[{entry}]: $({name}) is not a variable; there are $(KEY), $(BASE_URL), $(MODEL), $(CONFIG) and $(VERSION), and $$ is a dollar sign"
    )]
    Unknown {
        /// The entry.
        entry: String,
        /// What was written.
        name: String,
    },
    /// A variable that this `LLMKey` gives no value.
    #[error("spec.target.data[{entry}]: $({name}) has no value; set {set}")]
    Missing {
        /// The entry.
        entry: String,
        /// The variable.
        name: &'static str,
        /// The field that gives it one.
        set: &'static str,
    },
    /// More than a Secret may hold.
    #[error("spec.target.data: rendered, the entries have more than 512 KiB; repeat $(CONFIG) less often")]
    TooLarge,
    /// A variable that does not end.
    #[error("spec.target.data[{entry}]: \"$(\" without \")\"; write $$( for the characters themselves")]
    Unclosed {
        /// The entry.
        entry: String,
    },
}

/// Longest key that is ever taken, in bytes.
const LONGEST_KEY: usize = 512;

/// A Secret's own bound is 1 MiB; what is rendered stays well below, whatever a text repeats.
const MAX_RENDERED: usize = 512 * 1024;

/// Longest name that an error repeats: a longer one is hardly a mistyped variable.
const SHOWN_NAME: usize = 32;

/// Whether all texts can be rendered, without the key.
pub fn validate(texts: &BTreeMap<String, String>, values: &Values<'_>) -> Result<(), TemplateError> {
    let version = values.version.to_string();
    // The longest key that is ever taken stands in for the one that is not known here.
    let key = [0; LONGEST_KEY];
    let mut total = 0;
    for (entry, text) in texts {
        total += pieces(entry, text, &key, values, &version)?.iter().map(|piece| piece.len()).sum::<usize>();
        if total > MAX_RENDERED {
            return Err(TemplateError::TooLarge);
        }
    }
    Ok(())
}

/// The Secret's data. Values are put in as they are and not looked at again: a key with `$(` in it stays as it is.
pub fn render(
    texts: &BTreeMap<String, String>,
    key: &SecretBytes,
    values: &Values<'_>,
) -> Result<BTreeMap<String, SecretBytes>, TemplateError> {
    let version = values.version.to_string();
    texts
        .iter()
        .map(|(entry, text)| {
            let pieces = pieces(entry, text, key.expose(), values, &version)?;
            // Of the final size from the start: a growing buffer would leave copies of the key behind.
            let mut out = Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum());
            for piece in pieces {
                out.extend_from_slice(piece);
            }
            Ok((entry.clone(), SecretBytes::new(out)))
        })
        .collect()
}

fn pieces<'a>(
    entry: &str,
    text: &'a str,
    key: &'a [u8],
    values: &Values<'a>,
    version: &'a str,
) -> Result<Vec<&'a [u8]>, TemplateError> {
    let missing = |name, set| TemplateError::Missing { entry: entry.to_owned(), name, set };
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, dollar) = rest.split_at(at);
        pieces.push(before.as_bytes());
        if let Some(tail) = dollar.strip_prefix("$$") {
            pieces.push(b"$");
            rest = tail;
        } else if let Some(tail) = dollar.strip_prefix("$(") {
            let (name, tail) =
                tail.split_once(')').ok_or_else(|| TemplateError::Unclosed { entry: entry.to_owned() })?;
            pieces.push(match name {
                "KEY" => key,
                "BASE_URL" => {
                    values.base_url.ok_or_else(|| missing("BASE_URL", "the provider's baseURL"))?.as_bytes()
                }
                "MODEL" => values.model.ok_or_else(|| missing("MODEL", "spec.model"))?.as_bytes(),
                "CONFIG" => values.config.ok_or_else(|| missing("CONFIG", "spec.config"))?.as_bytes(),
                "VERSION" => version.as_bytes(),
                _ => {
                    let name = name.chars().take(SHOWN_NAME).collect();
                    return Err(TemplateError::Unknown { entry: entry.to_owned(), name });
                }
            });
            rest = tail;
        } else {
            pieces.push(b"$");
            rest = &dollar[1..];
        }
    }
    pieces.push(rest.as_bytes());
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Values<'static> = Values {
        base_url: Some("https://api.example/v1"),
        model: Some("m-1"),
        config: Some(r#"{"a":1}"#),
        version: 7,
    };
    const NONE: Values<'static> = Values { base_url: None, model: None, config: None, version: 1 };

    fn texts(text: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("E".to_owned(), text.to_owned())])
    }

    fn rendered(text: &str, key: &str) -> String {
        let data = render(&texts(text), &key.into(), &ALL).unwrap();
        data["E"].expose_str().unwrap().to_owned()
    }

    #[test]
    fn a_text_that_grows_beyond_a_secret_is_refused_before_it_is_rendered() {
        let config = "x".repeat(8 * 1024);
        let values = Values { base_url: None, model: None, config: Some(&config), version: 1 };
        let texts = |times: usize| BTreeMap::from([("a".to_owned(), "$(CONFIG)".repeat(times))]);
        assert_eq!(validate(&texts(60), &values), Ok(()));
        assert_eq!(validate(&texts(400), &values), Err(TemplateError::TooLarge));
    }

    #[test]
    fn variables_and_dollars() {
        for (text, expected) in [
            ("$(KEY)", "sk-1"),
            ("", ""),
            ("plain", "plain"),
            ("$(BASE_URL)|$(MODEL)|$(CONFIG)|$(VERSION)", r#"https://api.example/v1|m-1|{"a":1}|7"#),
            ("$(KEY)$(KEY)", "sk-1sk-1"),
            ("$$(KEY)", "$(KEY)"),
            ("$$$(KEY)", "$sk-1"),
            ("$$", "$"),
            ("a$b$ $", "a$b$ $"),
            ("${KEY}", "${KEY}"),
            ("é$(KEY)é", "ésk-1é"),
        ] {
            assert_eq!(rendered(text, "sk-1"), expected, "{text}");
        }
        assert_eq!(rendered("$(KEY)-$(MODEL)", "$(MODEL)$$"), "$(MODEL)$$-m-1");
    }

    #[test]
    fn refusals_name_the_entry_and_the_fix() {
        for (text, values, words) in [
            ("$(key)", ALL, ["data[E]", "$(key) is not a variable"]),
            ("$()", ALL, ["data[E]", "$() is not a variable"]),
            ("$( KEY)", ALL, ["data[E]", "not a variable"]),
            ("$(KEY", ALL, ["data[E]", "without"]),
            ("$(MODEL)", NONE, ["data[E]", "set spec.model"]),
            ("$(CONFIG)", NONE, ["data[E]", "set spec.config"]),
            ("$(BASE_URL)", NONE, ["data[E]", "baseURL"]),
        ] {
            let error = validate(&texts(text), &values).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
            assert!(render(&texts(text), &"sk-1".into(), &values).is_err());
        }
        let long = validate(&texts(&format!("$({})", "x".repeat(900))), &ALL).unwrap_err().to_string();
        assert!(!long.contains(&"x".repeat(33)));
        assert_eq!(validate(&texts("$(KEY) $(VERSION)"), &NONE), Ok(()));
    }

    proptest! {
        #[test]
        fn never_panics_and_validate_agrees_with_render(text in r"(\$|\(|\)|KEY|MODEL|[a-z]|é){0,12}") {
            let texts = texts(&text);
            prop_assert_eq!(validate(&texts, &NONE).is_ok(), render(&texts, &"k".into(), &NONE).is_ok());
        }

        #[test]
        fn doubled_dollars_stand_for_the_text_itself(text in r"(\$|\(|\)|KEY|[a-z]){0,12}") {
            prop_assert_eq!(rendered(&text.replace('$', "$$"), "k"), text);
        }
    }
}
