//! JSON values as YAML that every reader, of YAML 1.1 too, reads back as the same values.
//!
//! Every string is quoted: bare `no`, `52:54` or `2024-01-01` would come back as something else elsewhere.

use serde_json::Value;

/// The document.
pub(crate) fn write(value: &Value) -> String {
    let mut text = String::new();
    node(&mut text, value, 0, "");
    text
}

/// Writes `value` after `lead`, which ends the current line's part before it (nothing, or a space after `key:`).
fn node(text: &mut String, value: &Value, depth: usize, lead: &str) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (place, (key, value)) in fields.iter().enumerate() {
                start_line(text, depth, lead, place);
                text.push_str(&key_text(key));
                text.push(':');
                node(text, value, depth + 1, " ");
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (place, item) in items.iter().enumerate() {
                start_line(text, depth, lead, place);
                text.push('-');
                text.push(' ');
                node(text, item, depth + 1, "");
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            text.push_str(lead);
            text.push_str(&scalar(value));
            text.push('\n');
        }
    }
}

/// The first entry stays on the line of `- `; every other one, and all below `key:`, begin a line of their own.
fn start_line(text: &mut String, depth: usize, lead: &str, place: usize) {
    if place == 0 && !lead.is_empty() {
        text.push('\n');
    }
    if place > 0 || !lead.is_empty() {
        text.push_str(&"  ".repeat(depth));
    }
}

/// JSON's own text: quoted strings, `null`, `[]`, `{}`; DEL is escaped because YAML does not allow it.
fn scalar(value: &Value) -> String {
    value.to_string().replace('\u{7f}', "\\u007f")
}

fn key_text(key: &str) -> String {
    let mut letters = key.chars();
    let plain = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-'));
    // The words that YAML 1.1 reads as something else than a string.
    let retyped = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    if plain && !retyped.contains(&key.to_ascii_lowercase().as_str()) {
        key.to_owned()
    } else {
        scalar(&Value::String(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::write;

    #[test]
    fn strings_are_quoted_and_nesting_is_indented() {
        let value = json!({
            "name": "no", "port": 22, "none": null, "empty": [], "on": true,
            "disks": [{"path": "/a", "tags": ["x", ["y"]]}, {"path": "b\n"}],
            "exit": {"cause": "stop", "more": {"deep": 1.5}},
        });
        insta::assert_snapshot!(write(&value), @r#"
        disks:
          - path: "/a"
            tags:
              - "x"
              - - "y"
          - path: "b\n"
        empty: []
        exit:
          cause: "stop"
          more:
            deep: 1.5
        name: "no"
        none: null
        "on": true
        port: 22
        "#);
        insta::assert_snapshot!(write(&json!([])), @"[]");
        insta::assert_snapshot!(write(&json!(["a", {"b": 1, "c": 2}])), @r#"
        - "a"
        - b: 1
          c: 2
        "#);
    }
}
