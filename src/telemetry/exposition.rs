//! The formats of `/metrics`: `OpenMetrics` for a client that asks for it, as Prometheus does, else Prometheus' text format, which
//! `promtool check metrics` and people's scripts read.

use std::collections::BTreeMap;

/// <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the header `Accept` names `OpenMetrics`.
pub fn wants_open_metrics(accept: Option<&str>) -> bool {
    let mut types = accept.unwrap_or_default().split(',');
    types.any(|accepted| accepted.split(';').next().map(str::trim) == Some("application/openmetrics-text"))
}

/// The same samples in Prometheus' text format. It differs in what stands above the samples: counters are known by the name of
/// their sample, the type `info` is a gauge, and there are no units and no end.
pub fn plain(open_metrics: &str) -> String {
    let told = |line: &'_ str| {
        let mut words = line.strip_prefix("# TYPE ")?.split(' ');
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    let types: BTreeMap<String, String> = open_metrics.lines().filter_map(told).collect();
    let kind = |family: &str| types.get(family).map(String::as_str);
    let name = |family: &str| match kind(family) {
        Some("counter") => format!("{family}_total"),
        Some("info") => format!("{family}_info"),
        _ => family.to_owned(),
    };
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        let line = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(family), Some(help)) => format!("# HELP {} {help}", name(family)),
            (Some("#"), Some("TYPE"), Some(family), Some("info")) => {
                format!("# TYPE {} gauge", name(family))
            }
            (Some("#"), Some("TYPE"), Some(family), Some(kind)) => format!("# TYPE {} {kind}", name(family)),
            (Some("#"), ..) => continue,
            _ => line.to_owned(),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stay_and_what_stands_above_them_is_understood() {
        let open = "# HELP a_build The version.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n\
                    # HELP a_calls Calls.\n# TYPE a_calls counter\na_calls_total{x=\"# TYPE\"} 3\n\
                    # HELP a_age_seconds Age.\n# TYPE a_age_seconds gauge\n# UNIT a_age_seconds seconds\na_age_seconds 2\n# EOF\n";
        let expected = "# HELP a_build_info The version.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n\
                        # HELP a_calls_total Calls.\n# TYPE a_calls_total counter\na_calls_total{x=\"# TYPE\"} 3\n\
                        # HELP a_age_seconds Age.\n# TYPE a_age_seconds gauge\na_age_seconds 2\n";
        assert_eq!(plain(open), expected);
    }

    #[test]
    fn who_names_openmetrics_gets_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert!(wants_open_metrics(Some(prometheus)));
        assert!(!wants_open_metrics(Some("*/*")) && !wants_open_metrics(None));
    }
}
