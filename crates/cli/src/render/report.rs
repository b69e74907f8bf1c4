//! An error on stderr: lines for people, one object for programs.

use std::fmt::Write;

use serde::Serialize;

/// What is told about an error. CLI.md fixes the names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// Kebab-case name that scripts look at.
    pub(crate) code: String,
    /// Exit code of the run.
    pub(crate) exit: u8,
    /// Lower-case fragment.
    pub(crate) message: String,
    /// The VM it is about, as it was named.
    pub(crate) vm: Option<String>,
    /// State of that VM, where it matters.
    pub(crate) state: Option<String>,
    /// Place in a file that is to be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<Place>,
    /// What lies behind it, outermost first.
    pub(crate) causes: Vec<String>,
    /// The next command to type.
    pub(crate) hint: Option<String>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    /// The file, or `command line`.
    pub(crate) file: String,
    /// Line, from 1.
    pub(crate) line: Option<usize>,
    /// Column in characters, from 1.
    pub(crate) column: Option<usize>,
    /// Dotted path of the field.
    pub(crate) field: Option<String>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a Report,
}

impl Report {
    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        // A struct of strings and numbers cannot fail to serialize; were it to, the message must still get out.
        serde_json::to_string(&Envelope { error: self }).unwrap_or_else(|_| self.text())
    }

    /// `error:`, the causes below it, `hint:`.
    pub(crate) fn text(&self) -> String {
        let error = anstyle::Style::new()
            .bold()
            .fg_color(Some(anstyle::AnsiColor::Red.into()));
        let hint = anstyle::Style::new()
            .bold()
            .fg_color(Some(anstyle::AnsiColor::Cyan.into()));
        let mut text = format!("{error}error:{error:#} {}\n", self.named_message());
        for line in self.causes.iter().flat_map(|cause| cause.trim_end().lines()) {
            append(&mut text, format_args!("  {line}\n"));
        }
        if let Some(line) = &self.hint {
            append(&mut text, format_args!("{hint}hint:{hint:#} {line}\n"));
        }
        text
    }

    /// The message; among errors of several VMs each has to say which one it is about.
    fn named_message(&self) -> String {
        let message = self.message.trim_end();
        match &self.vm {
            Some(vm) if !message.contains(&format!("`{vm}`")) => format!("`{vm}`: {message}"),
            Some(_) | None => message.to_owned(),
        }
    }
}

fn append(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail; the trait only has no way to say so.
    if text.write_fmt(more).is_err() {
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::Report;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn report() -> Report {
        Report {
            code: "start-failed".to_owned(),
            exit: 1,
            message: "`web` did not start".to_owned(),
            vm: Some("web".to_owned()),
            state: Some("failed".to_owned()),
            at: None,
            causes: vec![
                "QEMU exited with code 1".to_owned(),
                "qemu: first\nqemu: second\n".to_owned(),
            ],
            hint: Some("maqet logs web --qemu".to_owned()),
        }
    }

    #[test]
    fn text_is_error_causes_hint() {
        insta::assert_snapshot!(plain(&report().text()), @"
        error: `web` did not start
          QEMU exited with code 1
          qemu: first
          qemu: second
        hint: maqet logs web --qemu
        ");
    }

    #[test]
    fn text_without_causes_and_hint_is_one_line() {
        let report = Report {
            causes: Vec::new(),
            hint: None,
            ..report()
        };
        insta::assert_snapshot!(plain(&report.text()), @"error: `web` did not start");
    }

    #[test]
    fn text_names_the_vm() {
        let report = Report {
            message: "host port 80 is in use".to_owned(),
            causes: Vec::new(),
            hint: None,
            ..report()
        };
        insta::assert_snapshot!(plain(&report.text()), @"error: `web`: host port 80 is in use");
    }

    #[test]
    fn json_is_one_object_on_one_line() {
        insta::assert_snapshot!(report().json(), @r#"{"error":{"code":"start-failed","exit":1,"message":"`web` did not start","vm":"web","state":"failed","causes":["QEMU exited with code 1","qemu: first\nqemu: second\n"],"hint":"maqet logs web --qemu"}}"#);
    }
}
