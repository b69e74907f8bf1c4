//! The only home of YAML: strict reading with positions, and writing that every reader understands.
//!
//! The library alone accepts repeated keys in maps, knows no position for semantic errors, and writes `no` without
//! quotes. So a text is first read into a tree of nodes that remember their order of appearance; when an
//! error is to be shown, the same text is read again up to that node, and the library's own error tells the position.

mod emit;
mod node;
mod read;
mod typed;
mod walk;

pub use emit::{to_string, word};
pub use typed::from_str_strict;

pub(crate) use node::{At, Entry, Kind, Mark, Node, Value};
pub(crate) use read::{locate, read};
pub(crate) use typed::nearest;
