//! `docs/architecture/vm-lifecycle.md` shows the tables of the code, letter by letter.

use std::path::Path;

use crate::grid::blocks;

#[test]
fn the_document_shows_the_tables_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/architecture/vm-lifecycle.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let wrong: Vec<_> = blocks()
        .into_iter()
        .map(|(name, text)| format!("<!-- begin: {name} -->\n\n{text}\n<!-- end: {name} -->\n"))
        .filter(|block| !document.contains(block.as_str()))
        .collect();
    assert!(
        wrong.is_empty(),
        "paste this into {}, over the blocks of the same names:\n\n{}",
        path.display(),
        wrong.join("\n")
    );
}
