//! The operator's log lines as they go into a bundle.

use serde_json::Value;

use super::fields::LOG;
use super::pick::pick;

/// The last `most` lines, of each the known fields. A line that is no JSON object (`log.format=text`, or the last words of a library) may
/// hold anything and is only counted.
pub fn lines(text: &str, most: usize) -> String {
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let mut told = String::new();
    let mut left_out = 0_usize;
    for line in &all[all.len().saturating_sub(most)..] {
        match serde_json::from_str::<Value>(line) {
            Ok(object @ Value::Object(_)) => {
                told.push_str(&pick(&object, LOG).to_string());
                told.push('\n');
            }
            _ => left_out += 1,
        }
    }
    if left_out > 0 {
        let note = serde_json::json!({"message": format!("{left_out} lines that are no JSON were left out")});
        told.push_str(&note.to_string());
        told.push('\n');
    }
    told
}

/// The operator's own metrics, with their help.
pub fn metrics(text: &str) -> String {
    let own = |line: &&str| {
        let name = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
        name.starts_with("llmkey_")
    };
    text.lines().filter(own).map(|line| line.to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_line_only_known_fields_stay_and_of_others_only_their_number() {
        let text = "thread panicked at secret\n\
                    {\"timestamp\":\"t\",\"message\":\"old\"}\n\
                    {\"timestamp\":\"t\",\"level\":\"WARN\",\"message\":\"new\",\"secret\":\"x\",\"span\":{\"name\":\"chat\",\"secret\":\"x\"}}\n\
                    \n\
                    plain\n";
        let told = lines(text, 2);
        let expected = "{\"level\":\"WARN\",\"message\":\"new\",\"span\":{\"name\":\"chat\"},\"timestamp\":\"t\"}\n\
                        {\"message\":\"1 lines that are no JSON were left out\"}\n";
        assert_eq!(told, expected);
    }

    #[test]
    fn only_the_operators_own_metrics_stay() {
        let text =
            "# HELP llmkey_x Of x.\n# TYPE llmkey_x gauge\nllmkey_x{a=\"b\"} 1\nother_secret 2\n# EOF\n";
        assert_eq!(metrics(text), "# HELP llmkey_x Of x.\n# TYPE llmkey_x gauge\nllmkey_x{a=\"b\"} 1\n");
    }
}
