//! The tree that a YAML text is read into.

/// Where a node or key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Index of the source in the list of sources.
    pub(crate) source: usize,
    /// Position within it.
    pub(crate) at: At,
}

/// Position within a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// The n-th node or key in the order of reading.
    Node(u32),
    /// Characters of the words before the text (an override's path).
    Lead {
        /// First, from 1.
        column: usize,
        /// How many.
        width: usize,
    },
    /// Nowhere: a value that maqet supplied.
    Default,
}

/// One value with its position.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) mark: Mark,
    pub(crate) value: Value,
}

/// Shape of a value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A scalar: its text as written (without quotes) and what YAML takes it for.
    Scalar(Kind, String),
    List(Vec<Node>),
    /// In the order of the text.
    Map(Vec<Entry>),
}

/// What YAML takes a scalar for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Boolean(bool),
    /// `None`: negative or above 2^64.
    Integer(Option<u64>),
    Fraction,
    Text,
}

/// One key of a map.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Position of the key.
    pub(crate) mark: Mark,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn text(mark: Mark, text: impl Into<String>) -> Self {
        Self {
            mark,
            value: Value::Scalar(Kind::Text, text.into()),
        }
    }

    pub(crate) fn map(mark: Mark, entries: Vec<Entry>) -> Self {
        Self {
            mark,
            value: Value::Map(entries),
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar(Kind::Null, _))
    }

    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            Value::Scalar(..) | Value::List(_) => None,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    /// What this is, for messages: `a list`, `the number 5`.
    pub(crate) fn described(&self) -> String {
        match &self.value {
            Value::Scalar(Kind::Null, _) => "nothing".to_owned(),
            Value::Scalar(Kind::Boolean(_), text) => format!("the boolean `{text}`"),
            Value::Scalar(Kind::Integer(_) | Kind::Fraction, text) => format!("the number `{text}`"),
            Value::Scalar(Kind::Text, text) => format!("`{text}`"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}
