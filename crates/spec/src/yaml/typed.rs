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
