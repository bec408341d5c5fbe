//! A search for secrets in whatever form they may have leaked: as they are, in base64 (at every alignment, both
//! alphabets), in hexadecimal, URL-encoded; whole or a piece of twelve bytes.

use std::collections::HashMap;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

/// Bytes of a secret that must turn up together to count. Status may show the last four.
const PIECE: usize = 12;
/// Bytes of a form by which it is looked up.
const HEAD: usize = 8;

/// What is searched for.
#[derive(Default)]
pub struct Needles {
    /// First bytes of a form → forms that begin so, each with the secret's name and the kind of form.
    forms: HashMap<[u8; HEAD], Vec<(Vec<u8>, String)>>,
}

impl Needles {
    /// Adds a secret; the name is what a failure shows. False: it is too short to be told from chance, and not searched for.
    #[must_use]
    pub fn add(&mut self, name: &str, secret: &str) -> bool {
        // What all keys begin with is no secret.
        let value = ["sk-proj-", "sk-svcacct-", "sk-admin-"]
            .iter()
            .find_map(|prefix| secret.strip_prefix(prefix))
            .unwrap_or(secret);
        if value.len() < 2 * PIECE {
            return false;
        }
        let bytes = value.as_bytes();
        for start in 0..=bytes.len() - PIECE {
            let piece = &bytes[start..start + PIECE];
            self.form(piece.to_vec(), format!("{name}, as it is"));
            self.form(HEXLOWER.encode(piece).into_bytes(), format!("{name}, hexadecimal"));
            self.form(HEXUPPER.encode(piece).into_bytes(), format!("{name}, hexadecimal"));
            self.form(url_encoded(piece), format!("{name}, URL-encoded"));
            // Bytes at a multiple of three begin a group of their own: all three alignments come of all starts.
            for alphabet in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
                self.form(alphabet.encode(piece).into_bytes(), format!("{name}, base64"));
            }
        }
        true
    }

    fn form(&mut self, form: Vec<u8>, name: String) {
        let Some(head) = form.first_chunk::<HEAD>().copied() else { return };
        let known = self.forms.entry(head).or_default();
        if known.iter().all(|(other, _)| *other != form) {
            known.push((form, name));
        }
    }

    /// What is in the bytes: names and forms, each once.
    #[must_use]
    pub fn found_in(&self, bytes: &[u8]) -> Vec<String> {
        let mut found: Vec<String> = bytes
            .windows(HEAD)
            .enumerate()
            .filter_map(|(at, head)| Some((at, self.forms.get(head)?)))
            .flat_map(|(at, forms)| forms.iter().filter(move |(form, _)| bytes[at..].starts_with(form)))
            .map(|(_, name)| name.clone())
            .collect();
        found.sort();
        found.dedup();
        found
    }
}

fn url_encoded(piece: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    piece
        .iter()
        .flat_map(|byte| if plain(byte) { vec![*byte] } else { format!("%{byte:02X}").into_bytes() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_found_wherever_it_stands() {
        let secret = "sk-proj-Ab3/xY+9=kQ~7_z-0123456789wxyz";
        let mut needles = Needles::default();
        assert!(needles.add("secret", secret));
        for lead in 0..7 {
            let text = format!("{}{secret} and more", "#".repeat(lead));
            let bytes = text.as_bytes();
            let url: Vec<u8> = url_encoded(bytes);
            for form in [
                bytes.to_vec(),
                BASE64_NOPAD.encode(bytes).into_bytes(),
                BASE64URL_NOPAD.encode(bytes).into_bytes(),
                data_encoding::BASE64.encode(bytes).into_bytes(),
                HEXLOWER.encode(bytes).into_bytes(),
                HEXUPPER.encode(bytes).into_bytes(),
                url,
            ] {
                assert!(!needles.found_in(&form).is_empty(), "{lead}: {}", String::from_utf8_lossy(&form));
            }
        }
        assert_eq!(needles.found_in(b"sk-proj-Ab3 ends in wxyz"), Vec::<String>::new());
    }
}
