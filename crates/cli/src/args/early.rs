//! What must be known before the command line is understood: how to report that it is not.

use std::ffi::OsString;

/// Whether the answer, and so the error too, is asked for as JSON.
///
/// Looks for `-o json`, `-ojson`, `--output json`, `--output=json` anywhere before `--`; the last one wins, as for clap.
pub(crate) fn wants_json(words: &[OsString]) -> bool {
    value(words, "-o", "--output").is_some_and(|form| form == "json")
}

/// What `--color` asks for, so that help and usage errors obey it too.
pub(crate) fn color(words: &[OsString]) -> clap::ColorChoice {
    match value(words, "", "--color") {
        Some("always") => clap::ColorChoice::Always,
        Some("never") => clap::ColorChoice::Never,
        Some(_) | None => clap::ColorChoice::Auto,
    }
}

fn value<'a>(words: &'a [OsString], short: &str, long: &str) -> Option<&'a str> {
    let words: Vec<&str> = words
        .iter()
        .map(|word| word.to_str().unwrap_or_default())
        .take_while(|word| *word != "--")
        .collect();
    let mut found = None;
    for (place, word) in words.iter().enumerate() {
        let attached = word.strip_prefix(long).and_then(|rest| rest.strip_prefix('='));
        let attached = attached.or_else(|| short_value(word, short));
        if *word == long || (*word == short && !short.is_empty()) {
            found = words.get(place + 1).copied();
        } else if attached.is_some() {
            found = attached;
        }
    }
    found
}

fn short_value<'a>(word: &'a str, short: &str) -> Option<&'a str> {
    let rest = word
        .strip_prefix(short)
        .filter(|rest| !short.is_empty() && !rest.is_empty())?;
    Some(rest.strip_prefix('=').unwrap_or(rest))
}
