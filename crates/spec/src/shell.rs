//! Words of commands that people copy from a hint into their shell.

use std::path::Path;

/// A path as one word of a shell's command line, whatever is in its name; one of ordinary letters stays as it is. A path that
/// could be taken for an option must be absolute, as those of disks are.
pub fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+@%:,".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_plain_path_is_written_as_it_is() {
        for path in ["/home/me/web-1.qcow2", "a_b.raw", "/x/c,d"] {
            assert_eq!(word(Path::new(path)), path);
        }
    }

    #[test]
    fn a_shell_reads_the_very_path() {
        for path in [
            "/a b",
            "/$(id) `id` $HOME",
            "/it's",
            "'",
            "",
            "/a;b&c|d>e<f",
            "/~*?[x]{a,b}!\\",
            "/ä\n\tb\"#",
        ] {
            let script = format!("printf %s {}", word(Path::new(path)));
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), path, "{script}");
        }
    }
}
