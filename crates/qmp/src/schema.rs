//! What a QEMU can do, by its own account (`query-qmp-schema`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::read;
use crate::error::QmpError;

/// Commands and events of one QEMU. A feature is there when its command is; version numbers decide nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    commands: BTreeMap<String, Vec<Argument>>,
    events: BTreeSet<String>,
}

/// One argument of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Name on the wire.
    pub name: String,
    /// QEMU refuses the command without it.
    pub required: bool,
}

/// One entry of the reply; arguments of a command are an object entry it names.
#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(rename = "meta-type")]
    kind: String,
    #[serde(default, rename = "arg-type")]
    arguments: Option<String>,
    #[serde(default)]
    members: Vec<serde_json::Value>,
}

impl Schema {
    pub(crate) const COMMAND: &str = "query-qmp-schema";

    pub(crate) fn read(text: &RawValue) -> Result<Self, QmpError> {
        let entries: Vec<Entry> = read(text)?;
        let objects: HashMap<&str, &Entry> = entries
            .iter()
            .filter(|entry| entry.kind == "object")
            .map(|entry| (entry.name.as_str(), entry))
            .collect();
        let mut schema = Self::default();
        for entry in &entries {
            match entry.kind.as_str() {
                "command" => {
                    let object = entry.arguments.as_deref().and_then(|name| objects.get(name));
                    let arguments = object.map(|object| object.arguments()).unwrap_or_default();
                    schema.commands.insert(entry.name.clone(), arguments);
                }
                "event" => drop(schema.events.insert(entry.name.clone())),
                _ => (),
            }
        }
        Ok(schema)
    }

    /// Names of all commands, sorted.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        self.commands.keys().map(String::as_str)
    }

    /// Names of all events, sorted.
    pub fn events(&self) -> impl Iterator<Item = &str> {
        self.events.iter().map(String::as_str)
    }

    /// QEMU knows this command.
    pub fn has_command(&self, name: &str) -> bool {
        self.commands.contains_key(name)
    }

    /// QEMU knows this event.
    pub fn has_event(&self, name: &str) -> bool {
        self.events.contains(name)
    }

    /// Arguments of a command, in QEMU's order; `None` when QEMU does not know the command.
    pub fn arguments(&self, command: &str) -> Option<&[Argument]> {
        self.commands.get(command).map(Vec::as_slice)
    }
}

impl Entry {
    fn arguments(&self) -> Vec<Argument> {
        self.members.iter().filter_map(argument).collect()
    }
}

/// A member is optional when it has a default, `null` being the default of most.
fn argument(member: &serde_json::Value) -> Option<Argument> {
    let name = member.get("name")?.as_str()?.to_owned();
    Some(Argument {
        name,
        required: member.get("default").is_none(),
    })
}
