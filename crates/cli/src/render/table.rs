//! Columns and `key: value` blocks.

use comfy_table::{ContentArrangement, Table};

/// Columns like kubectl's: no lines, upper-case header, no wrapping.
pub(crate) fn columns(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// `key: value` lines with aligned values; further lines of a value are indented to it.
pub(crate) fn block(lines: &[(&str, String)]) -> String {
    let width = lines
        .iter()
        .map(|(key, _)| key.len() + 1)
        .max()
        .unwrap_or_default();
    let shown = lines.iter().map(|(key, value)| {
        let indent = format!("\n{:width$} ", "");
        format!(
            "{:<width$} {}",
            format!("{key}:"),
            value.trim_end().replace('\n', &indent)
        )
    });
    shown.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::{block, columns};

    #[test]
    fn columns_align_and_carry_no_lines() {
        let rows = [
            vec!["web".to_owned(), "running".to_owned()],
            vec!["database".to_owned(), String::new()],
        ];
        insta::assert_snapshot!(columns(&["NAME", "STATUS"], rows), @"
        NAME      STATUS
        web       running
        database
        ");
    }

    #[test]
    fn block_aligns_values_and_their_further_lines() {
        let lines = [
            ("name", "web".to_owned()),
            ("last exit", "stop\nall well\n".to_owned()),
        ];
        insta::assert_snapshot!(block(&lines), @"
        name:      web
        last exit: stop
                   all well
        ");
    }
}
