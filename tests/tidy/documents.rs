//! What the documents say about the sources.

use std::collections::BTreeSet;
use std::path::Path;

use maqet_process::point::Point;
use regex::Regex;

use crate::tree::{TextFile, files, none, root};

fn overview() -> String {
    let found = files("docs/architecture", "overview.md");
    found.into_iter().map(|file| file.text).collect()
}

/// The part of the overview about one crate.
fn section<'t>(overview: &'t str, name: &str) -> Option<&'t str> {
    let after = overview.split_once(&format!("### `crates/{name}`\n"))?.1;
    after.split("\n### ").next()
}

/// Modules that a section lists: the words before the colon of each sentence in its bullets.
fn listed(section: &str) -> BTreeSet<String> {
    let list = Regex::new(r"(?:^|\. )((?:`[a-z_]+`,? ?)+):").unwrap();
    let name = Regex::new(r"`([a-z_]+)`").unwrap();
    let bullets = section.split("\n- ").skip(1);
    let sentences = bullets.map(|bullet| bullet.split("\n\n").next().unwrap().replace("\n  ", " "));
    sentences
        .flat_map(|bullet| {
            let lists = list.captures_iter(&bullet).map(|found| found[1].to_owned());
            lists.collect::<Vec<_>>()
        })
        .flat_map(|names| {
            let names = name.captures_iter(&names).map(|found| found[1].to_owned());
            names.collect::<Vec<_>>()
        })
        .collect()
}

/// Modules that a crate has: its files beside `lib.rs`.
fn present(name: &str) -> BTreeSet<String> {
    let below = format!("crates/{name}/src/");
    let sources = files(&below, ".rs").into_iter();
    let stems = sources.filter_map(|source| {
        source
            .path
            .strip_prefix(&below)?
            .strip_suffix(".rs")
            .map(str::to_owned)
    });
    stems
        .filter(|stem| !stem.contains('/') && !["lib", "main", "tests"].contains(&stem.as_str()))
        .collect()
}

#[test]
fn the_overview_lists_every_module() {
    let overview = overview();
    let crates = [
        "spec",
        "process",
        "state",
        "storage",
        "qmp",
        "protocol",
        "runner",
        "supervisor",
        "cli",
    ];
    let mut wrong = Vec::new();
    for name in crates {
        let listed = section(&overview, name).map(listed).unwrap_or_default();
        let present = present(name);
        wrong.extend(
            present
                .difference(&listed)
                .map(|module| format!("{name}::{module} is not listed")),
        );
        wrong.extend(
            listed
                .difference(&present)
                .map(|module| format!("{name}::{module} is no module")),
        );
    }
    none("docs/architecture/overview.md", &wrong);
}

/// The table of fail points, as the page about testing has it.
fn points() -> String {
    let row = |point: &Point| format!("| `{}` | {} | {} |", point.name(), point.process(), point.what());
    let rows: Vec<String> = Point::ALL.iter().map(row).collect();
    format!(
        "| point | held | what has happened |\n| --- | --- | --- |\n{}\n",
        rows.join("\n")
    )
}

#[test]
fn the_page_about_testing_lists_every_fail_point() {
    let page: String = files("docs/architecture", "testing.md")
        .into_iter()
        .map(|file| file.text)
        .collect();
    assert!(
        page.contains(&points()),
        "docs/architecture/testing.md wants:\n{}",
        points()
    );
}

#[test]
fn every_fail_point_is_passed_somewhere() {
    let sources: String = files("crates", ".rs").into_iter().map(|file| file.text).collect();
    let passed = |point: &Point| sources.contains(&format!("pass(Point::{point:?})"));
    let nowhere: Vec<&str> = Point::ALL
        .iter()
        .filter(|point| !passed(point))
        .map(|point| point.name())
        .collect();
    none(
        "fail points nobody passes",
        &nowhere.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
    );
}

/// Whether `a::b::c` leads to a file, or to something in the file of `a::b`.
fn leads_somewhere(path: &str) -> bool {
    let words: Vec<&str> = path.split("::").collect();
    let [name, inner @ ..] = words.as_slice() else {
        return false;
    };
    let sources = root()
        .join("crates")
        .join(name.trim_start_matches("maqet_"))
        .join("src");
    let file = |words: &[&str]| sources.join(format!("{}.rs", words.join("/"))).is_file();
    file(inner)
        || inner
            .split_last()
            .is_some_and(|(_, outer)| !outer.is_empty() && file(outer))
}

#[test]
fn paths_of_modules_lead_somewhere() {
    let path = Regex::new(r"`((?:[a-z_]+::)+[A-Za-z_]+)`").unwrap();
    let crates = |path: &str| {
        let first = path.split("::").next().unwrap().trim_start_matches("maqet_");
        root().join("crates").join(first).is_dir()
    };
    let check = |file: &TextFile| {
        let paths = path.captures_iter(&file.text).map(|found| found[1].to_owned());
        let dead = paths.filter(|path| crates(path) && !leads_somewhere(path));
        dead.map(|path| format!("{}: {path}", file.path))
            .collect::<Vec<_>>()
    };
    let documents = files("docs", ".md");
    none(
        "names of things that are not there",
        &documents.iter().flat_map(check).collect::<Vec<_>>(),
    );
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)#:]+)(?:#[^)]*)?\)").unwrap();
    let check = |file: &TextFile| {
        let place = root().join(&file.path);
        let place = place.parent().unwrap_or(Path::new("/")).to_path_buf();
        let targets = link.captures_iter(&file.text).map(|found| found[1].to_owned());
        let dead = targets.filter(|target| !place.join(target).exists());
        dead.map(|target| format!("{}: {target}", file.path))
            .collect::<Vec<_>>()
    };
    let documents: Vec<TextFile> = files("", ".md");
    none(
        "links to nothing",
        &documents.iter().flat_map(check).collect::<Vec<_>>(),
    );
}
