//! Descriptions of VMs that boot in milliseconds, or do not boot at all.

use std::fmt::Write;
use std::path::PathBuf;

use maqet_supervisor::guest;

use crate::program::built;
use crate::sandbox::Sandbox;

/// A VM to be described. Always under TCG: a host's `/dev/kvm` may exist and still not run a guest.
#[derive(Clone, Debug)]
pub struct Guest {
    name: String,
    machine: String,
    binary: Option<PathBuf>,
    options: Vec<String>,
    args: Vec<String>,
    lines: Vec<String>,
}

impl Guest {
    /// The tiny guest of `maqet_supervisor::guest` on the machine `pc`.
    pub fn tiny(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            machine: "pc".to_owned(),
            binary: None,
            options: Vec::new(),
            args: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// No guest: the scripted QEMU of `programs/fake_qemu`; see its `script` for the words.
    pub fn fake(name: &str, script: &str) -> Self {
        let mut fake = Self::tiny(name);
        fake.binary = Some(built("fake_qemu"));
        fake.arg("-global").arg(&format!("fake.script={script}"))
    }

    /// A machine without devices or guest: all a real QEMU needs to be there.
    pub fn none(name: &str) -> Self {
        Self::tiny(name).machine("none")
    }

    /// Words for the tiny guest, for example `ticks`.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options
            .extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// QEMU machine.
    #[must_use]
    pub fn machine(mut self, machine: &str) -> Self {
        machine.clone_into(&mut self.machine);
        self
    }

    /// One more word for QEMU.
    #[must_use]
    pub fn arg(mut self, word: &str) -> Self {
        self.args.push(word.to_owned());
        self
    }

    /// One more line of YAML at the top level, for example `on_reboot: stop`.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// The description.
    pub fn yaml(&self, sandbox: &Sandbox) -> String {
        let mut text = format!(
            "name: {}\nmachine: {}\naccel: tcg\nmemory: 16M\n",
            self.name, self.machine
        );
        match &self.binary {
            Some(binary) => writeln!(text, "binary: {}", quoted(&binary.display().to_string())).unwrap(),
            None if self.machine == "none" => (),
            None => writeln!(
                text,
                "firmware: {}",
                quoted(&sandbox.tiny_image().display().to_string())
            )
            .unwrap(),
        }
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let words: Vec<String> = guest::option_args(&options)
            .iter()
            .chain(&self.args)
            .map(|word| quoted(word))
            .collect();
        if !words.is_empty() {
            writeln!(text, "qemu: {{args: [{}]}}", words.join(", ")).unwrap();
        }
        for line in &self.lines {
            writeln!(text, "{line}").unwrap();
        }
        text
    }

    /// Writes the description into the sandbox; returns its path.
    pub fn write(&self, sandbox: &Sandbox) -> PathBuf {
        sandbox.write_vm(&self.name, &self.yaml(sandbox))
    }

    /// Writes it, adds it, and returns the VM's id.
    #[track_caller]
    pub fn add(&self, sandbox: &Sandbox) -> String {
        let file = self.write(sandbox);
        sandbox
            .maqet(&["add", &file.display().to_string()])
            .expect(0)
            .stdout
            .trim()
            .to_owned()
    }

    /// Adds it and starts it; returns the VM's id.
    #[track_caller]
    pub fn start(&self, sandbox: &Sandbox) -> String {
        let id = self.add(sandbox);
        sandbox.maqet(&["start", &self.name]).expect(0);
        id
    }
}

/// JSON strings are YAML strings.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
