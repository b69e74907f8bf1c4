//! Text to tree, and node to position.

use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny};

use crate::error::{Place, SpecError};
use crate::source::{SOURCE_BYTES_MAX, Source, too_large};
use crate::yaml::node::{At, Entry, Kind, Mark, Node, Value};
use crate::yaml::walk::{Pass, Refill, Seed};

/// Brackets that may be open at once anywhere in the text. The parser's time grows with their square.
const BRACKETS_MAX: usize = 1_000;

/// Reads one document. An empty text is an empty map. `number` is the index of the source that marks will carry.
pub(crate) fn read(source: &Source, number: usize) -> Result<Node, SpecError> {
    refuse_costly(source)?;
    let mut pass = Pass::new(number);
    let node = run(source.text(), &mut pass).map_err(|error| explain(source, &pass, &error))?;
    let node = match node {
        Some(mut node) => {
            let refill = Refill { node: &mut node };
            refill
                .deserialize(serde_yaml::Deserializer::from_str(source.text()))
                .map_err(|error| explain(source, &pass, &error))?;
            node
        }
        None => Node {
            mark: Mark {
                source: number,
                at: At::Default,
            },
            value: Value::Scalar(Kind::Null, String::new()),
        },
    };
    check_keys(source, &node)?;
    Ok(node)
}

/// Where a mark is in its source.
pub(crate) fn locate(source: &Source, at: At) -> Option<Place> {
    match at {
        At::Default => None,
        At::Lead { column, width } => Some(source.place_in_lead(column, width)),
        At::Node(id) => {
            let mut pass = Pass::new(0);
            pass.stop = Some(id);
            let error = run(source.text(), &mut pass).err()?;
            let location = error.location()?;
            Some(source.place(location.line(), location.column(), None))
        }
    }
}

/// Refuses what would take the parser long before it is handed over.
fn refuse_costly(source: &Source) -> Result<(), SpecError> {
    if source.text().len() > SOURCE_BYTES_MAX {
        return Err(too_large(source.label()));
    }
    let mut open = 0_usize;
    for byte in source.text().bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > BRACKETS_MAX {
            return Err(
                SpecError::new(format!("more than {BRACKETS_MAX} open brackets")).file(source.label())
            );
        }
    }
    Ok(())
}

fn run(text: &str, pass: &mut Pass) -> Result<Option<Node>, serde_yaml::Error> {
    let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(blank) {
        return Ok(None);
    }
    Seed { pass, depth: 0 }
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .map(Some)
}

/// The library's error in our words; what the walk itself objected to goes first.
fn explain(source: &Source, pass: &Pass, error: &serde_yaml::Error) -> SpecError {
    let place = error
        .location()
        .map(|at| source.place_or_before(at.line(), at.column()));
    let told = error.to_string();
    if let Some(problem) = pass.problem {
        let fault = SpecError::new(problem.message())
            .place(place)
            .file(source.label());
        return fault.maybe_hint(problem.hint());
    }
    if told.contains("more than one document") {
        return second_document(source);
    }
    // "… at line 3 column 5, while …": the position is shown by the snippet.
    let message = strip_positions(&told);
    SpecError::new(format!("not YAML: {message}"))
        .file(source.label())
        .place(place)
}

/// The library speaks of a second document also when what follows the first is no YAML at all.
fn second_document(source: &Source) -> SpecError {
    let second = serde_yaml::Deserializer::from_str(source.text())
        .nth(1)
        .map(IgnoredAny::deserialize);
    if let Some(Err(error)) = second
        && let Some(at) = error.location()
    {
        let told = strip_positions(&error.to_string());
        let told = told.replace(
            "did not find expected <document start>",
            "text after the end of the document",
        );
        return SpecError::new(format!("not YAML: {told}"))
            .file(source.label())
            .place(Some(source.place_or_before(at.line(), at.column())));
    }
    SpecError::new("more than one YAML document")
        .file(source.label())
        .place(second_start(source))
        .hint("one file is one VM; give several files to merge them")
}

fn second_start(source: &Source) -> Option<Place> {
    let mut begun = false;
    for (index, line) in source.text().lines().enumerate() {
        if begun && line.starts_with("---") {
            return Some(source.place(index + 1, 1, Some(3)));
        }
        begun |= !line.trim().is_empty() && !line.starts_with('#') && !line.starts_with('%');
    }
    None
}

/// Takes ` at line L column C` out of a message.
pub(crate) fn strip_positions(told: &str) -> String {
    let mut parts = told.split(" at line ");
    let mut message = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let tail = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let tail = tail.strip_prefix(" column ").unwrap_or(tail);
        message.push_str(tail.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    message
}

/// Repeated keys and merge keys, at any depth.
fn check_keys(source: &Source, node: &Node) -> Result<(), SpecError> {
    match &node.value {
        Value::Scalar(..) => Ok(()),
        Value::List(items) => items.iter().try_for_each(|item| check_keys(source, item)),
        Value::Map(entries) => {
            for (index, entry) in entries.iter().enumerate() {
                check_key(source, entries.get(..index).unwrap_or_default(), entry)?;
                check_keys(source, &entry.value)?;
            }
            Ok(())
        }
    }
}

fn check_key(source: &Source, before: &[Entry], entry: &Entry) -> Result<(), SpecError> {
    let fail = |message: String| {
        SpecError::new(message)
            .file(source.label())
            .place(locate(source, entry.mark.at))
    };
    if entry.key == "<<" {
        return Err(fail("merge keys (`<<`) are not supported".to_owned())
            .hint("give several files: `maqet add base.yaml web.yaml` merges them left to right"));
    }
    let Some(first) = before.iter().find(|other| other.key == entry.key) else {
        return Ok(());
    };
    let line = locate(source, first.mark.at).map_or(0, |place| place.line);
    Err(fail(format!("duplicate key `{}`", entry.key)).hint(format!("it is already given in line {line}")))
}
