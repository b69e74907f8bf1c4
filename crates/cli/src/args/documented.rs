//! Every command line in README and guide is one that `maqet` understands.

use clap::Parser;

use super::Cli;

const DOCUMENTS: [(&str, &str); 8] = [
    ("README.md", include_str!("../../../../README.md")),
    ("cli.md", include_str!("../../../../docs/guide/cli.md")),
    ("disks.md", include_str!("../../../../docs/guide/disks.md")),
    (
        "exit-codes.md",
        include_str!("../../../../docs/guide/exit-codes.md"),
    ),
    (
        "getting-started.md",
        include_str!("../../../../docs/guide/getting-started.md"),
    ),
    (
        "stopping-and-data.md",
        include_str!("../../../../docs/guide/stopping-and-data.md"),
    ),
    (
        "troubleshooting.md",
        include_str!("../../../../docs/guide/troubleshooting.md"),
    ),
    ("vm-file.md", include_str!("../../../../docs/guide/vm-file.md")),
];

/// Command lines in fenced blocks, and those in running text that name no placeholder.
fn command_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, part) in text.split("```").enumerate() {
        if number % 2 == 1 {
            lines.extend(part.lines().map(|line| line.trim_start_matches("$ ").to_owned()));
        } else {
            // A bare `maqet stop` in a sentence means the verb, not a command line.
            let quoted = part.split('`').skip(1).step_by(2);
            lines.extend(
                quoted
                    .filter(|words| words.split(' ').count() > 2)
                    .map(str::to_owned),
            );
        }
    }
    lines.retain(|line| line.starts_with("maqet ") && !line.contains(['…', '\n', '(']));
    lines.retain(|line| {
        !["VERB", "DUR", "SHELL", "PATH=", "DIR"]
            .iter()
            .any(|word| line.contains(word))
    });
    lines
}

/// Words as a shell makes them, up to a comment, a pipe or a redirection.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for letter in line.chars() {
        match (letter, quote) {
            ('"' | '\'', None) => quote = Some(letter),
            (_, Some(open)) if letter == open => quote = None,
            (' ', None) => words.push(String::new()),
            _ => words.last_mut().unwrap().push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    let end = words
        .iter()
        .position(|word| ["#", "|", ">", "&"].contains(&word.as_str()));
    words.truncate(end.unwrap_or(words.len()));
    words
}

#[test]
fn what_the_documents_show_is_understood() {
    let mut seen = 0;
    for (document, text) in DOCUMENTS {
        for line in command_lines(text) {
            let parsed = Cli::try_parse_from(words(&line));
            let failed = parsed.err().filter(clap::Error::use_stderr);
            assert!(failed.is_none(), "{document}: `{line}`: {}", failed.unwrap());
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} command lines were found");
}
