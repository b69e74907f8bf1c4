//! A reader for varlink's interface language, as far as the tests need it.

use std::collections::BTreeMap;

/// A type as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int,
    Text,
    Object,
    Named(String),
    Array(Box<Type>),
    Optional(Box<Type>),
}

/// Fields in order.
pub(super) type Fields = Vec<(String, Type)>;

/// One interface.
#[derive(Debug, Default)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) types: BTreeMap<String, Fields>,
    pub(super) methods: BTreeMap<String, (Fields, Fields)>,
    pub(super) errors: BTreeMap<String, Fields>,
}

struct Words {
    words: Vec<String>,
    at: usize,
}

impl Words {
    fn new(text: &str) -> Self {
        let code = text
            .lines()
            .map(|line| line.split('#').next().unwrap())
            .collect::<Vec<_>>()
            .join("\n");
        let mut spaced = code.replace("->", " > ");
        for mark in ["(", ")", ",", ":", "?", "[]"] {
            spaced = spaced.replace(mark, &format!(" {mark} "));
        }
        Self {
            words: spaced.split_whitespace().map(str::to_owned).collect(),
            at: 0,
        }
    }

    fn next(&mut self) -> String {
        self.at += 1;
        self.words[self.at - 1].clone()
    }

    fn peek(&self) -> Option<&str> {
        self.words.get(self.at).map(String::as_str)
    }

    fn expect(&mut self, word: &str) {
        let found = self.next();
        assert_eq!(
            found,
            word,
            "after {:?}",
            &self.words[self.at.saturating_sub(6)..self.at]
        );
    }
}

/// Reads a whole description; panics on anything it does not understand.
pub(super) fn read(text: &str) -> Interface {
    let mut words = Words::new(text);
    let mut interface = Interface::default();
    words.expect("interface");
    interface.name = words.next();
    while words.peek().is_some() {
        let kind = words.next();
        let name = words.next();
        assert!(
            name.starts_with(|first: char| first.is_ascii_uppercase()),
            "{name}"
        );
        let fields = read_fields(&mut words);
        let earlier = match kind.as_str() {
            "type" => interface.types.insert(name.clone(), fields).is_some(),
            "error" => interface.errors.insert(name.clone(), fields).is_some(),
            "method" => {
                words.expect(">");
                let reply = read_fields(&mut words);
                interface.methods.insert(name.clone(), (fields, reply)).is_some()
            }
            other => panic!("`{other}` is neither type, method nor error"),
        };
        assert!(!earlier, "`{name}` is there twice");
    }
    interface
}

fn read_fields(words: &mut Words) -> Fields {
    let mut fields = Fields::new();
    words.expect("(");
    while words.peek() != Some(")") {
        let name = words.next();
        words.expect(":");
        fields.push((name, read_type(words)));
        if words.peek() != Some(")") {
            words.expect(",");
        }
    }
    words.expect(")");
    fields
}

fn read_type(words: &mut Words) -> Type {
    match words.next().as_str() {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "string" => Type::Text,
        "object" => Type::Object,
        "?" => Type::Optional(Box::new(read_type(words))),
        "[]" => Type::Array(Box::new(read_type(words))),
        name => Type::Named(name.to_owned()),
    }
}
