//! The written contract against the types, message by message and field by field.

use std::collections::BTreeSet;

use serde_json::Value;

use super::idl::{self, Fields, Interface, Type};
use super::samples::{self, Reread, Sample};
use super::*;
use crate::refusal::RefusalCode;

/// One message of the contract and its sample.
struct Check<'a> {
    interface: &'a Interface,
    whole: &'a Value,
    reread: Reread,
    what: String,
}

impl Check<'_> {
    /// Fields are the same on both sides, of the same kind, and may be left out on the one exactly when on the other.
    fn fields(&self, fields: &Fields, at: &str) {
        let value = self.whole.pointer(at).unwrap();
        let written: BTreeSet<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let real: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(written, real, "{} {at}: contract and type", self.what);
        for (name, written) in fields {
            let here = format!("{at}/{name}");
            let optional = matches!(written, Type::Optional(_));
            assert_eq!(
                self.may_be_left_out(at, name),
                optional,
                "{} {here}: optional",
                self.what
            );
            self.kind(written, &here);
        }
    }

    fn may_be_left_out(&self, at: &str, name: &str) -> bool {
        let mut without = self.whole.clone();
        without
            .pointer_mut(at)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .remove(name);
        (self.reread)(without).is_some()
    }

    fn kind(&self, written: &Type, at: &str) {
        let value = self.whole.pointer(at).unwrap();
        let fits = match written {
            Type::Bool => value.is_boolean(),
            Type::Int => value.is_i64(),
            Type::Text => value.is_string(),
            Type::Object => value.is_object(),
            Type::Optional(inner) => return self.kind(inner, at),
            Type::Array(inner) => return self.kind(inner, &format!("{at}/0")),
            Type::Named(name) => {
                let fields = self.interface.types.get(name);
                return self.fields(fields.unwrap_or_else(|| panic!("no type `{name}`")), at);
            }
        };
        assert!(fits, "{} {at}: {written:?} is not {value}", self.what);
    }
}

fn check(description: InterfaceDescription, samples: Vec<Sample>) {
    let interface = idl::read(description.idl);
    assert_eq!(interface.name, description.name);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for sample in samples.into_iter().chain(samples::handshakes(description.name)) {
        let name = sample.method.strip_prefix(description.name).unwrap();
        let name = name.trim_start_matches('.').to_owned();
        check_method(&interface, &name, &sample);
        seen.insert(name);
    }
    let written: BTreeSet<String> = interface.methods.keys().cloned().collect();
    assert_eq!(written, seen, "methods of the contract and of the types");
    let listed = description
        .methods
        .iter()
        .map(|name| name.rsplit('.').next().unwrap().to_owned());
    let handshake = ["Hello", "Prove"].map(str::to_owned);
    assert_eq!(
        written,
        listed.chain(handshake).collect(),
        "methods of the contract and of the server"
    );
    assert!(
        description
            .streams
            .iter()
            .all(|name| description.has_method(name))
    );
}

fn check_method(interface: &Interface, name: &str, sample: &Sample) {
    let (parameters, reply) = interface
        .methods
        .get(name)
        .unwrap_or_else(|| panic!("no method `{name}`"));
    let call = Check {
        interface,
        whole: &sample.parameters,
        reread: sample.reread_parameters,
        what: format!("parameters of {name}"),
    };
    call.fields(parameters, "");
    let answer = Check {
        interface,
        whole: &sample.reply,
        reread: sample.reread_reply,
        what: format!("reply of {name}"),
    };
    answer.fields(reply, "");
}

#[test]
fn the_control_contract_is_what_the_types_say() {
    check(CONTROL, samples::control());
}

#[test]
fn the_runner_contract_is_what_the_types_say() {
    check(RUNNER, samples::runner());
}

#[test]
fn both_contracts_name_every_refusal_with_every_field() {
    for description in [CONTROL, RUNNER] {
        let interface = idl::read(description.idl);
        let written: BTreeSet<&str> = interface.errors.keys().map(String::as_str).collect();
        assert_eq!(
            written,
            RefusalCode::ALL.iter().map(|code| code.error_name()).collect()
        );
        for fields in interface.errors.values() {
            let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["message", "vm", "state", "causes", "hint"]);
        }
    }
}

#[test]
fn shapes_that_cross_the_wire_as_objects_are_described() {
    let control = idl::read(CONTROL.idl);
    let runner = idl::read(RUNNER.idl);
    let described = [
        (&control, "Event", samples::event()),
        (&runner, "Fact", samples::fact()),
    ];
    for (interface, name, sample) in described {
        for (field, _) in &interface.types[name] {
            assert!(sample.get(field).is_some(), "{name}.{field}");
        }
    }
}

#[test]
fn every_type_of_a_contract_is_used_and_every_used_one_is_there() {
    for description in [CONTROL, RUNNER] {
        let interface = idl::read(description.idl);
        let messages = interface
            .methods
            .values()
            .flat_map(|(parameters, reply)| [parameters, reply]);
        let all = messages.chain(interface.types.values()).flatten();
        let mut used: BTreeSet<&str> = all.filter_map(|(_, written)| named(written)).collect();
        used.insert(if description.name == CONTROL.name {
            "Event"
        } else {
            "Fact"
        });
        let there: BTreeSet<&str> = interface.types.keys().map(String::as_str).collect();
        assert_eq!(used, there, "{}", description.name);
    }
}

fn named(written: &Type) -> Option<&str> {
    match written {
        Type::Named(name) => Some(name),
        Type::Array(inner) | Type::Optional(inner) => named(inner),
        Type::Bool | Type::Int | Type::Text | Type::Object => None,
    }
}

#[test]
fn the_contract_of_varlink_itself_can_be_read() {
    let service = idl::read(SERVICE_IDL);
    assert_eq!(service.name, SERVICE);
    assert_eq!(
        service.methods.keys().collect::<Vec<_>>(),
        ["GetInfo", "GetInterfaceDescription"]
    );
}

#[test]
fn every_message_survives_a_round_trip_and_has_these_bytes() {
    let mut lines = Vec::new();
    let handshakes = samples::handshakes("org.maqet.Control");
    for sample in handshakes
        .into_iter()
        .chain(samples::control())
        .chain(samples::runner())
    {
        let parameters = (sample.reread_parameters)(sample.parameters.clone());
        assert_eq!(parameters.as_ref(), Some(&sample.parameters), "{}", sample.method);
        let reply = (sample.reread_reply)(sample.reply.clone());
        assert_eq!(reply.as_ref(), Some(&sample.reply), "{}", sample.method);
        lines.extend([
            sample.method,
            format!("-> {}", sample.parameters),
            format!("<- {}", sample.reply),
        ]);
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_later_peer_may_add_fields_to_its_replies_but_not_to_its_calls() {
    for sample in samples::control().into_iter().chain(samples::runner()) {
        let with = |value: &Value| {
            let mut more = value.clone();
            more.as_object_mut()
                .unwrap()
                .insert("from_the_future".to_owned(), Value::from(1));
            more
        };
        assert!(
            (sample.reread_reply)(with(&sample.reply)).is_some(),
            "{}",
            sample.method
        );
        assert!(
            (sample.reread_parameters)(with(&sample.parameters)).is_none(),
            "{}",
            sample.method
        );
    }
}
