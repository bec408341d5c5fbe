//! What the API server says when it refuses a Secret: an admission policy may repeat what stands in it.

use std::collections::HashSet;

use crate::crypto::SecretBytes;

/// So many bytes of a text in a row are not there by chance.
const TELLING: usize = 12;

/// Said instead.
const SILENCE: &str =
    "an admission policy refused it; its message repeats what the Secret holds, so it is not shown";

/// The error without a message that holds a part of one of the texts, plain or in base64.
pub(super) fn silenced(mut error: kube::Error, texts: &[SecretBytes]) -> kube::Error {
    if let kube::Error::Api(status) = &mut error
        && repeats(&status.message, texts)
    {
        SILENCE.clone_into(&mut status.message);
        status.details = None;
    }
    error
}

fn repeats(message: &str, texts: &[SecretBytes]) -> bool {
    let encoded: Vec<SecretBytes> = texts
        .iter()
        .map(|text| SecretBytes::from_string(data_encoding::BASE64.encode(text.expose())))
        .collect();
    texts.iter().chain(&encoded).map(SecretBytes::expose).filter(|text| !text.is_empty()).any(|text| {
        let length = text.len().min(TELLING);
        let said: HashSet<&[u8]> = message.as_bytes().windows(length).collect();
        text.windows(length).any(|part| said.contains(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(message: &str) -> String {
        let status = kube::core::Status::failure(message, "Forbidden").with_code(403);
        let texts = ["sk-proj-abcdefghijklmnop".into(), "gpt".into()];
        match silenced(kube::Error::Api(status.boxed()), &texts) {
            kube::Error::Api(status) => status.message,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_policy_that_prints_the_secret_is_not_repeated() {
        for message in [
            "denied: map[OPENAI_API_KEY:c2stcHJvai1hYmNkZWZnaGlqa2xtbm9w]",
            "denied: it begins with c2stcHJvai1hYmNkZ",
            "denied: sk-proj-abcdefghi is no name",
            "denied: gpt",
        ] {
            assert_eq!(said(message), SILENCE, "{message}");
        }
        let quota = "secrets \"chat\" is forbidden: exceeded quota: secrets=10";
        assert_eq!(said(quota), quota);
    }
}
