//! Files and overrides to one checked [`VmSpec`].

use std::path::PathBuf;

use crate::decode::{Context, decode};
use crate::error::SpecError;
use crate::fault::Fault;
use crate::merge::merge;
use crate::normalize::{Surroundings, normalize};
use crate::source::{Override, Source};
use crate::validate::{FieldPath, Finding, validate};
use crate::vm::VmSpec;
use crate::yaml::{self, At, Entry, Mark, Node, Value};

/// What loading needs to know about its surroundings; nothing is read from the environment.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Name that replaces the one of the files (`--name`).
    pub name: Option<String>,
    /// Home directory that `~` stands for.
    pub home: Option<PathBuf>,
    /// Absolute directory that relative paths in overrides refer to; the root directory when empty.
    pub directory: PathBuf,
    /// Host architecture as Rust names it (`std::env::consts::ARCH`); chooses program and machine. Empty: `x86_64`.
    pub default_arch: String,
    /// Where the image of a disk is that stands on an image of the library and has no `path`: in a directory of the VM's name
    /// below this one. Without it such a disk needs a `path`.
    pub disks: Option<PathBuf>,
}

/// A spec with the texts it came from, so that later findings can point at their lines.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The spec.
    pub spec: VmSpec,
    sources: Vec<Source>,
    tree: Node,
}

impl Loaded {
    /// A finding about a field, with file, line and column when the field was written somewhere.
    pub fn explain(&self, problem: &Finding) -> SpecError {
        let mark = find(&self.tree, &problem.field).map(|node| node.mark);
        let place = mark.and_then(|mark| place(&self.sources, mark));
        SpecError::new(&problem.message)
            .field(Some(problem.field.to_string()))
            .place(place)
            .maybe_hint(problem.hint.clone())
    }
}

/// Merges `sources` left to right, then `overrides`, then the name of `options`, and checks the result.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn load(sources: &[Source], overrides: &[Override], options: &LoadOptions) -> Result<VmSpec, SpecError> {
    load_located(sources, overrides, options).map(|loaded| loaded.spec)
}

/// As [`load`], and keeps the positions.
///
/// # Errors
/// As [`load`].
pub fn load_located(
    sources: &[Source],
    overrides: &[Override],
    options: &LoadOptions,
) -> Result<Loaded, SpecError> {
    let mut stack = Stack {
        sources: Vec::new(),
        tree: Node::map(NOWHERE, Vec::new()),
        options,
    };
    for source in sources {
        stack.add_file(source)?;
    }
    for change in overrides {
        stack.add_override(change)?;
    }
    if let Some(name) = &options.name {
        stack.add_name(name)?;
    }
    stack.finish()
}

const NOWHERE: Mark = Mark {
    source: 0,
    at: At::Default,
};

/// What has been merged so far.
struct Stack<'a> {
    sources: Vec<Source>,
    tree: Node,
    options: &'a LoadOptions,
}

impl Stack<'_> {
    fn add_file(&mut self, source: &Source) -> Result<(), SpecError> {
        let document = yaml::read(source, self.sources.len())?;
        self.sources.push(source.clone());
        self.add(document)
    }

    fn add_override(&mut self, change: &Override) -> Result<(), SpecError> {
        let lead = format!("--set {}=", change.path().join("."));
        let source = Source::typed(lead, &self.options.directory, change.value());
        let number = self.sources.len();
        let value = yaml::read(&source, number)?;
        self.sources.push(source);
        self.add(nested(change.path(), value, number))
    }

    fn add_name(&mut self, name: &str) -> Result<(), SpecError> {
        let number = self.sources.len();
        self.sources
            .push(Source::typed("--name ".to_owned(), &self.options.directory, name));
        let width = name.chars().count().max(1);
        let mark = Mark {
            source: number,
            at: At::Lead {
                column: "--name ".len() + 1,
                width,
            },
        };
        let value = Node::text(mark, name);
        self.add(Node::map(
            mark,
            vec![Entry {
                key: "name".to_owned(),
                mark,
                value,
            }],
        ))
    }

    fn add(&mut self, document: Node) -> Result<(), SpecError> {
        let directory = self
            .sources
            .last()
            .map_or(self.options.directory.as_path(), Source::directory);
        let count = |key: &str| {
            self.tree
                .get(key)
                .and_then(Node::entries)
                .map_or(0, <[Entry]>::len)
        };
        let around = Surroundings {
            directory,
            home: self.options.home.as_deref(),
            disks_before: count("disks"),
            networks_before: count("networks"),
        };
        let normal = normalize(document, around).map_err(|fault| self.explain(fault))?;
        merge(&mut self.tree, normal).map_err(|fault| explain(&self.sources, &self.tree, fault))
    }

    fn explain(&self, fault: Fault) -> SpecError {
        explain(&self.sources, &self.tree, fault)
    }

    fn finish(self) -> Result<Loaded, SpecError> {
        let arch = self.options.default_arch.as_str();
        let cx = Context {
            sources: &self.sources,
            home: self.options.home.as_deref(),
            disks: self.options.disks.as_deref(),
            default_arch: if arch.is_empty() { "x86_64" } else { arch },
        };
        let spec = decode(&self.tree, cx).map_err(|fault| self.explain(fault))?;
        if let Some(violation) = validate(&spec).into_iter().next() {
            let mark = find(&self.tree, &violation.field).map_or(NOWHERE, |node| node.mark);
            let fault = Fault {
                mark,
                message: violation.message,
                hint: violation.hint,
            };
            return Err(self.explain(fault).field(Some(violation.field.to_string())));
        }
        Ok(Loaded {
            spec,
            sources: self.sources,
            tree: self.tree,
        })
    }
}

/// `a.b` and a value as the document `{a: {b: value}}`, each key with its place on the command line.
fn nested(path: &[String], value: Node, source: usize) -> Node {
    let mut column = "--set ".len() + 1 + path.iter().map(|key| key.chars().count() + 1).sum::<usize>();
    let mut node = value;
    for key in path.iter().rev() {
        let width = key.chars().count();
        column -= width + 1;
        let mark = Mark {
            source,
            at: At::Lead { column, width },
        };
        node = Node::map(
            mark,
            vec![Entry {
                key: key.clone(),
                mark,
                value: node,
            }],
        );
    }
    node
}

fn explain(sources: &[Source], tree: &Node, fault: Fault) -> SpecError {
    let error = match sources {
        [only] => SpecError::new(fault.message).file(only.label()),
        _ => SpecError::new(fault.message),
    };
    error
        .field(path_of(tree, fault.mark).map(|path| path.to_string()))
        .place(place(sources, fault.mark))
        .maybe_hint(fault.hint)
}

fn place(sources: &[Source], mark: Mark) -> Option<crate::error::Place> {
    sources
        .get(mark.source)
        .and_then(|source| yaml::locate(source, mark.at))
}

/// The node at `field`, or the nearest one above it that was written.
fn find<'n>(tree: &'n Node, field: &FieldPath) -> Option<&'n Node> {
    let mut node = tree;
    for key in field.keys() {
        let inner = match &node.value {
            Value::Map(_) => node
                .get(key)
                .or_else(|| alias(key).and_then(|alias| node.get(alias))),
            Value::List(items) => key.parse().ok().and_then(|index: usize| items.get(index)),
            Value::Scalar(..) => None,
        };
        match inner {
            Some(inner) => node = inner,
            None => break,
        }
    }
    (!std::ptr::eq(node, tree)).then_some(node)
}

/// The Python tool's name for a key of a disk.
fn alias(key: &str) -> Option<&'static str> {
    match key {
        "path" => Some("file"),
        "format" => Some("type"),
        _ => None,
    }
}

/// The path of the node or key with that mark.
fn path_of(node: &Node, mark: Mark) -> Option<FieldPath> {
    if mark == NOWHERE {
        return None;
    }
    if node.mark == mark {
        return Some(FieldPath::root());
    }
    match &node.value {
        Value::Scalar(..) => None,
        Value::List(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| path_of(item, mark).map(|path| path.under(&index.to_string()))),
        Value::Map(entries) => entries.iter().find_map(|entry| {
            let inner = if entry.mark == mark {
                Some(FieldPath::root())
            } else {
                path_of(&entry.value, mark)
            };
            inner.map(|path| path.under(&entry.key))
        }),
    }
}

#[cfg(test)]
mod tests;
