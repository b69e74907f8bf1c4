//! Reading a text into any type, with the errors of the strict reader.

use serde::de::DeserializeOwned;

use crate::error::SpecError;
use crate::source::Source;
use crate::yaml::read::{read, strip_positions};

/// Reads one document into `T`: at most 1 MiB, no repeated keys at any depth, no merge keys, no tags.
///
/// # Errors
/// What is wrong, with line, column, the offending line, and the name that was probably meant.
pub fn from_str_strict<T: DeserializeOwned>(source: &Source) -> Result<T, SpecError> {
    let node = read(source, 0)?;
    let text = if node.is_null() { "{}" } else { source.text() };
    serde_yaml::from_str(text).map_err(|error| {
        let place = error
            .location()
            .map(|at| source.place(at.line(), at.column(), None));
        let message = strip_positions(&error.to_string());
        let meant = meant(&message);
        let shown = match (&meant, message.split_once(", expected")) {
            (Some(meant), Some((fragment, _))) => format!("{fragment}, did you mean `{meant}`?"),
            _ => message,
        };
        SpecError::new(shown).file(source.label()).place(place)
    })
}

/// From "unknown field `cpuz`, expected one of `memory`, `cpus`": the candidate that is close.
fn meant(message: &str) -> Option<String> {
    let (fragment, expected) = message.split_once(", expected")?;
    let wrong = fragment.split('`').nth(1)?;
    let candidates: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    nearest(wrong, &candidates).map(str::to_owned)
}

/// The candidate that differs from `wrong` by at most a third of its letters (one for short words).
pub(crate) fn nearest<'c>(wrong: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let cutoff = (wrong.chars().count() / 3).max(1);
    candidates
        .iter()
        .map(|candidate| (strsim::osa_distance(&wrong.to_lowercase(), candidate), *candidate))
        .filter(|(distance, _)| *distance <= cutoff)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Settings {
        on_exit: Option<String>,
        journal: Journal,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Journal {
        days: u32,
    }

    fn told(text: &str) -> String {
        from_str_strict::<Settings>(&Source::new("supervisor.yaml", "/etc", text))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn any_type_is_read() {
        let settings = |text| from_str_strict::<Settings>(&Source::new("s", "/", text));
        assert_eq!(settings(""), Ok(Settings::default()));
        assert_eq!(settings("# nothing\n"), Ok(Settings::default()));
        assert_eq!(settings("journal: {days: 3}").unwrap().journal.days, 3);
    }

    #[test]
    fn errors_have_a_place() {
        insta::assert_snapshot!(told("on_exti: stop\n"), @r#"
        unknown field `on_exti`, did you mean `on_exit`?
         --> supervisor.yaml:1:1
          |
        1 | on_exti: stop
          | ^^^^^^^
        "#);
        insta::assert_snapshot!(told("journal:\n  days: many\n"), @r#"
        journal.days: invalid type: string "many", expected u32
         --> supervisor.yaml:2:9
          |
        2 |   days: many
          |         ^^^^
        "#);
        insta::assert_snapshot!(told("journal:\n  days: 1\n  days: 2\n"), @r#"
        duplicate key `days`
         --> supervisor.yaml:3:3
          |
        3 |   days: 2
          |   ^^^^
        hint: it is already given in line 2
        "#);
        insta::assert_snapshot!(told("journal:\n  frobnicate: 1\n"), @r#"
        journal: unknown field `frobnicate`, expected `days`
         --> supervisor.yaml:2:3
          |
        2 |   frobnicate: 1
          |   ^^^^^^^^^^
        "#);
    }
}
