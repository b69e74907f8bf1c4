//! The walk over a text that builds the tree, numbering every node and key.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, Visitor};

use crate::yaml::node::{At, Entry, Kind, Mark, Node, Value};

/// Most values one text may expand to; anchors of a few hundred bytes can otherwise fill the memory.
const NODES_MAX: u32 = 100_000;
/// Deepest nesting; a spec needs five.
const DEPTH_MAX: usize = 64;

/// One walk over a text.
pub(crate) struct Pass {
    source: usize,
    next: u32,
    /// The walk ends with an error at this node.
    pub(crate) stop: Option<u32>,
    pub(crate) problem: Option<Objection>,
}

/// What the walk itself objects to.
#[derive(Clone, Copy)]
pub(crate) enum Objection {
    TooMany,
    TooDeep,
    Tag,
    Key,
}

impl Objection {
    pub(crate) fn message(self) -> String {
        match self {
            Self::TooMany => format!("the text expands to more than {NODES_MAX} values"),
            Self::TooDeep => format!("nested deeper than {DEPTH_MAX} levels"),
            Self::Tag => "YAML tags (`!…`) are not supported".to_owned(),
            Self::Key => "a key must be a plain text".to_owned(),
        }
    }

    pub(crate) fn hint(self) -> Option<String> {
        match self {
            Self::Tag => Some("quote the text if it begins with `!`".to_owned()),
            Self::TooMany | Self::TooDeep | Self::Key => None,
        }
    }
}

impl Pass {
    pub(crate) fn new(source: usize) -> Self {
        Self {
            source,
            next: 0,
            stop: None,
            problem: None,
        }
    }

    fn number(&mut self) -> (u32, Mark) {
        let id = self.next;
        self.next += 1;
        (
            id,
            Mark {
                source: self.source,
                at: At::Node(id),
            },
        )
    }

    fn object<E: serde::de::Error>(&mut self, problem: Objection) -> E {
        self.problem = Some(problem);
        E::custom(problem.message())
    }
}

/// Reads one node; a visitor too, since an error raised in a visitor gets the node's position.
pub(crate) struct Seed<'p> {
    pub(crate) pass: &'p mut Pass,
    pub(crate) depth: usize,
}

struct NodeVisitor<'p> {
    pass: &'p mut Pass,
    depth: usize,
    id: u32,
    mark: Mark,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let (id, mark) = self.pass.number();
        deserializer.deserialize_any(NodeVisitor {
            pass: self.pass,
            depth: self.depth,
            id,
            mark,
        })
    }
}

impl NodeVisitor<'_> {
    fn enter<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.pass.stop == Some(self.id) {
            return Err(E::custom("here"));
        }
        if self.id >= NODES_MAX {
            return Err(self.pass.object(Objection::TooMany));
        }
        if self.depth >= DEPTH_MAX {
            return Err(self.pass.object(Objection::TooDeep));
        }
        Ok(())
    }

    fn leaf<E: serde::de::Error>(mut self, kind: Kind, text: &str) -> Result<Node, E> {
        self.enter()?;
        Ok(Node {
            mark: self.mark,
            value: Value::Scalar(kind, text.to_owned()),
        })
    }
}

impl<'de> Visitor<'de> for NodeVisitor<'_> {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.leaf(Kind::Null, "")
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Node, E> {
        self.leaf(Kind::Null, "")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Node, E> {
        self.leaf(Kind::Boolean(value), "")
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        self.leaf(Kind::Integer(Some(value)), "")
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Node, E> {
        self.leaf(Kind::Integer(None), "")
    }

    fn visit_i128<E: serde::de::Error>(self, _: i128) -> Result<Node, E> {
        self.leaf(Kind::Integer(None), "")
    }

    fn visit_u128<E: serde::de::Error>(self, _: u128) -> Result<Node, E> {
        self.leaf(Kind::Integer(None), "")
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Node, E> {
        self.leaf(Kind::Fraction, "")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Node, E> {
        self.leaf(Kind::Text, text)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        if self.pass.stop == Some(self.id) {
            return Err(A::Error::custom("here"));
        }
        Err(self.pass.object(Objection::Tag))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Node, A::Error> {
        self.enter()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Seed {
            pass: &mut *self.pass,
            depth: self.depth + 1,
        })? {
            items.push(item);
        }
        Ok(Node {
            mark: self.mark,
            value: Value::List(items),
        })
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Node, A::Error> {
        self.enter()?;
        let mut entries = Vec::new();
        while let Some((key, mark)) = access.next_key_seed(KeySeed {
            pass: &mut *self.pass,
        })? {
            let value = access.next_value_seed(Seed {
                pass: &mut *self.pass,
                depth: self.depth + 1,
            })?;
            entries.push(Entry { key, mark, value });
        }
        Ok(Node {
            mark: self.mark,
            value: Value::Map(entries),
        })
    }
}

/// Reads a key as the text that was written.
struct KeySeed<'p> {
    pass: &'p mut Pass,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = (String, Mark);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(String, Mark), D::Error> {
        let (id, mark) = self.pass.number();
        let stop = self.pass.stop == Some(id);
        match deserializer.deserialize_str(TextVisitor { stop }) {
            Ok(key) => Ok((key, mark)),
            Err(error) if stop => Err(error),
            Err(error) => {
                self.pass.problem = Some(Objection::Key);
                Err(error)
            }
        }
    }
}

struct TextVisitor {
    stop: bool,
}

impl Visitor<'_> for TextVisitor {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
        if self.stop {
            Err(E::custom("here"))
        } else {
            Ok(text.to_owned())
        }
    }
}

/// A second walk that fills in the scalars as they were written: `0x10`, `1.10` and `~` would else be lost.
pub(crate) struct Refill<'n> {
    pub(crate) node: &'n mut Node,
}

impl<'de> DeserializeSeed<'de> for Refill<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match &self.node.value {
            Value::Scalar(Kind::Text, _) => deserializer
                .deserialize_ignored_any(serde::de::IgnoredAny)
                .map(drop),
            Value::Scalar(..) => {
                let raw = deserializer.deserialize_str(TextVisitor { stop: false })?;
                if let Value::Scalar(_, text) = &mut self.node.value {
                    *text = raw;
                }
                Ok(())
            }
            Value::List(_) => deserializer.deserialize_seq(self),
            Value::Map(_) => deserializer.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for Refill<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the same as before")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        if let Value::List(items) = &mut self.node.value {
            for node in items {
                access.next_element_seed(Refill { node })?;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        if let Value::Map(entries) = &mut self.node.value {
            for entry in entries {
                access.next_key::<serde::de::IgnoredAny>()?;
                access.next_value_seed(Refill {
                    node: &mut entry.value,
                })?;
            }
        }
        Ok(())
    }
}
