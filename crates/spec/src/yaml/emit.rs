//! Writing YAML that YAML 1.1 and 1.2 readers read back as the same values.
//!
//! The library writes the text `no` without quotes, which YAML 1.1 readers take for a boolean. Here a text is
//! written plain only when no reader takes it for anything else.

use std::path::Path;

use serde::Serialize;
use serde_yaml::Value;

/// Writes a value, two spaces per level, keys in the order of the type, a newline at the end.
///
/// # Errors
/// When the value cannot be expressed in YAML, for example a path that is not UTF-8.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, serde_yaml::Error> {
    let mut out = String::new();
    match serde_yaml::to_value(value)? {
        Value::Mapping(map) if !map.is_empty() => emit_map(&mut out, &map, 0),
        Value::Sequence(items) if !items.is_empty() => emit_list(&mut out, &items, 0),
        leaf @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Sequence(_)
        | Value::Mapping(_)
        | Value::Tagged(_)) => {
            out.push_str(&self::leaf(&leaf));
            out.push('\n');
        }
    }
    Ok(out)
}

fn emit_map(out: &mut String, map: &serde_yaml::Mapping, indent: usize) {
    for (key, value) in map {
        pad(out, indent);
        out.push_str(&leaf(key));
        out.push(':');
        emit_value(out, value, indent);
    }
}

fn emit_list(out: &mut String, items: &[Value], indent: usize) {
    for item in items {
        pad(out, indent);
        out.push('-');
        emit_value(out, item, indent);
    }
}

/// What follows a `key:` or a `-`.
fn emit_value(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Mapping(map) if !map.is_empty() => {
            out.push('\n');
            emit_map(out, map, indent + 1);
        }
        Value::Sequence(items) if !items.is_empty() => {
            out.push('\n');
            emit_list(out, items, indent + 1);
        }
        leaf @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Sequence(_)
        | Value::Mapping(_)
        | Value::Tagged(_)) => {
            out.push(' ');
            out.push_str(&self::leaf(leaf));
            out.push('\n');
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.push_str(&"  ".repeat(indent));
}

fn leaf(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => scalar(text),
        Value::Sequence(_) => "[]".to_owned(),
        Value::Mapping(_) => "{}".to_owned(),
        Value::Tagged(tagged) => leaf(&tagged.value),
    }
}

/// A text as a YAML scalar, in quotes when some reader would else take it for something other than that text.
pub(crate) fn scalar(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// A path as one word of YAML that people copy from a hint into a file, also between brackets.
pub fn word(path: &Path) -> String {
    let text = path.display().to_string();
    if is_plain(&text) && !text.contains(',') {
        text
    } else {
        quoted(&text)
    }
}

/// Double quotes with the escapes that JSON and YAML have in common.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            // Beyond the controls: what YAML counts as line ends or does not print.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                out.extend([format!("\\u{:04x}", u32::from(c))]);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Words that YAML 1.1 takes for booleans or nothing.
const RETYPED: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// `512M`, `30s`: digits and one unit that no reader takes for part of a number.
fn is_measure(text: &str) -> bool {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T', 'B', 's']);
    text.len() == digits.len() + 1 && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_plain(text: &str) -> bool {
    let inner = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '+' | '=' | ' ' | ':' | ',')
    };
    // A letter or slash first, also after a dash: no number, date, sexagesimal or indicator begins so.
    let head = text.strip_prefix('-').unwrap_or(text);
    let begins = head.starts_with(|c: char| c.is_ascii_alphabetic()) || text.starts_with('/');
    is_measure(text)
        || begins
            && text.chars().all(inner)
            && !text.contains(": ")
            && !text.contains(", ")
            && !text.ends_with([':', ' '])
            && !RETYPED.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_back_from_a_list_as_it_is() {
        for path in [
            "/srv/vm", "/a b", "/a, b", "/a,b", "/[x]", "/{x}: y", "/a #b", "/it's", "/\"q\\", "/ä\n\tb",
            "/x:",
        ] {
            let text = format!("{{roots: [{}]}}", word(Path::new(path)));
            let read: Value = serde_yaml::from_str(&text).unwrap();
            assert_eq!(read["roots"][0], Value::from(path), "{text}");
        }
        assert_eq!(word(Path::new("/srv/vm-1.d")), "/srv/vm-1.d");
    }
}
