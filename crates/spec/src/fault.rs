//! An error before its position is looked up.

use crate::yaml::{At, Mark, Node};

/// What is wrong with a node. The position is only looked up when the error is shown.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) mark: Mark,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Fault {
    pub(crate) fn at(mark: Mark, message: impl Into<String>) -> Self {
        Self {
            mark,
            message: message.into(),
            hint: None,
        }
    }

    /// About no place of a text.
    pub(crate) fn nowhere(message: impl Into<String>) -> Self {
        Self::at(
            Mark {
                source: 0,
                at: At::Default,
            },
            message,
        )
    }

    /// `expected a number, found a list`.
    pub(crate) fn expected(node: &Node, what: &str) -> Self {
        Self::at(node.mark, format!("expected {what}, found {}", node.described()))
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
