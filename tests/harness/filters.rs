//! What differs between two runs of the same test, and what stands for it in snapshots.

use std::path::Path;

use insta::Settings;
use regex::Regex;

/// Expressions and what replaces them, in order.
const FILTERS: [(&str, &str); 8] = [
    (r"\b[0-9a-f]{32}\b", "[ID]"),
    (
        r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?",
        "[TIME]",
    ),
    (r#""((?:runner_)?pid)": ?\d+"#, r#""$1": "[PID]""#),
    (r"\bpid:? \d+\b", "pid [PID]"),
    (r#""(\w+_ms)": ?\d+"#, r#""$1": "[MS]""#),
    (r#""uptime_s": ?[\d.]+"#, r#""uptime_s": "[TIME]""#),
    (r"\b\d+(\.\d+)? ?(ms|µs|us)\b", "[MS]"),
    (r"qemu-system-\w+:\d+", "qemu-system-[ARCH]:[PID]"),
];

/// Insta settings that know the filters; `dir` is shown as `[DIR]`.
pub fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::clone_current();
    settings.add_filter(&regex::escape(&dir.display().to_string()), "[DIR]");
    for (pattern, replacement) in FILTERS {
        settings.add_filter(pattern, replacement);
    }
    settings
}

/// The same for text that is compared by other means than insta.
pub fn redact(text: &str, dir: &Path) -> String {
    let text = text.replace(&dir.display().to_string(), "[DIR]");
    FILTERS.iter().fold(text, |text, (pattern, replacement)| {
        Regex::new(pattern)
            .unwrap()
            .replace_all(&text, *replacement)
            .into_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::redact;

    #[test]
    fn what_differs_is_replaced_and_the_rest_stays() {
        let text = concat!(
            r#"{"id":"0123456789abcdef0123456789abcdef","pid":4711,"runner_pid": 12,"took_ms":33,"uptime_s":1.5,"#,
            r#""at":"2026-11-23T07:00:00.123Z"} took 12 ms, 1.5ms, see /tmp/x1/data (pid 77), memory 512M"#
        );
        let want = concat!(
            r#"{"id":"[ID]","pid": "[PID]","runner_pid": "[PID]","took_ms": "[MS]","uptime_s": "[TIME]","#,
            r#""at":"[TIME]"} took [MS], [MS], see [DIR]/data (pid [PID]), memory 512M"#
        );
        assert_eq!(redact(text, Path::new("/tmp/x1")), want);
    }
}
