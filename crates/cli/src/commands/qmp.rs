//! `maqet qmp run`.

use maqet_protocol::control::Qmp;
use serde_json::{Map, Value};

use super::stop::millis;
use crate::args::Format;
use crate::args::vm::QmpRunArgs;
use crate::error::CliError;
use crate::progress;
use crate::render::yaml;
use crate::session::{QUESTION_DEADLINE, Session};

/// Runs one QMP command and prints what QEMU returned. Not repeated when the supervisor dies: who knows what it does.
///
/// # Errors
/// The refusal; QEMU's own error is one (`qmp-failed`, exit 1).
pub(crate) async fn run(session: &Session<'_>, args: &QmpRunArgs) -> Result<(), CliError> {
    let method = Qmp {
        vm: args.vm.clone(),
        command: args.command.clone(),
        arguments: arguments(&args.arguments)?,
        timeout_ms: args.timeout.map(millis),
    };
    let deadline = args
        .timeout
        .unwrap_or(QUESTION_DEADLINE)
        .saturating_add(QUESTION_DEADLINE);
    let call = session.once(&method, deadline);
    let value = progress::during(session.output, &args.command, call).await?.value;
    let text = match session.output.format() {
        Format::Json => value.to_string(),
        Format::Yaml => yaml::write(&value),
        Format::Table | Format::Name => serde_json::to_string_pretty(&value).map_err(CliError::Encode)?,
    };
    session.output.data(&text)
}

/// One JSON object, or any number of `KEY=VALUE`.
fn arguments(words: &[String]) -> Result<Option<Value>, CliError> {
    match words {
        [] => Ok(None),
        [json] if json.trim_start().starts_with('{') => serde_json::from_str(json)
            .map(Some)
            .map_err(|error| CliError::usage(format!("the arguments are not valid JSON: {error}"), None)),
        [_, ..] => {
            let mut all = Map::new();
            for word in words {
                let Some((path, value)) = word.split_once('=') else {
                    let message = format!("`{word}` is neither KEY=VALUE nor a JSON object");
                    return Err(CliError::usage(message, None));
                };
                let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
                insert(&mut all, path, value).ok_or_else(|| {
                    CliError::usage(format!("`{path}` is given twice or within a value"), None)
                })?;
            }
            Ok(Some(Value::Object(all)))
        }
    }
}

/// Puts a value at a dotted path; `None` when something is there, or above it, already.
fn insert(object: &mut Map<String, Value>, path: &str, value: Value) -> Option<()> {
    match path.split_once('.') {
        None if object.contains_key(path) => None,
        None => {
            object.insert(path.to_owned(), value);
            Some(())
        }
        Some((first, rest)) => {
            let below = object.entry(first).or_insert_with(|| Value::Object(Map::new()));
            insert(below.as_object_mut()?, rest, value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::arguments;

    fn parse(words: &[&str]) -> Result<String, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        match arguments(&words) {
            Ok(value) => Ok(value.unwrap_or_default().to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn words_become_an_object() {
        assert_eq!(parse(&[]).unwrap(), "null");
        assert_eq!(parse(&[r#"{"id": "a"}"#]).unwrap(), r#"{"id":"a"}"#);
        let words = [
            "id=a",
            "n=5",
            "on=true",
            "list=[1,\"x\"]",
            "text=52:54",
            "empty=",
            "file.driver=raw",
            "file.n=1",
        ];
        insta::assert_snapshot!(parse(&words).unwrap(), @r#"{"empty":"","file":{"driver":"raw","n":1},"id":"a","list":[1,"x"],"n":5,"on":true,"text":"52:54"}"#);
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        assert_eq!(
            parse(&["word"]).unwrap_err(),
            "`word` is neither KEY=VALUE nor a JSON object"
        );
        assert_eq!(
            parse(&["a=1", "a=2"]).unwrap_err(),
            "`a` is given twice or within a value"
        );
        assert_eq!(
            parse(&["a=1", "a.b=2"]).unwrap_err(),
            "`a.b` is given twice or within a value"
        );
        assert!(
            parse(&["{nonsense"])
                .unwrap_err()
                .starts_with("the arguments are not valid JSON")
        );
    }
}
