//! Parses YAML text into a tree in which every key and value has its position.
//!
//! The tree is built from parser events. Aliases, tags, deep nesting and duplicate keys, which an attacker needs and a config
//! does not, are thus refused before anything is expanded.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::problem::Problem;

/// Deepest nesting that is read: deeper than any config, and shallow enough for every recursive walk.
pub(super) const MAX_DEPTH: usize = 16;
/// Most keys and values that are read. Each takes about a hundred bytes of memory, and as few as two in the file.
const MAX_NODES: usize = 10_000;

/// Where a value was written: `configs/a.yaml:3:5` or `--set seed=1`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Position(pub(super) String);

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    /// `plain` is false if the text was quoted; it is then not read as a number or a switch.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Position,
    pub(super) value: Node,
}

impl Node {
    pub(super) fn empty_map(at: Position) -> Self {
        Self { at, value: Value::Map(Vec::new()) }
    }

    /// The node's value as an error message shows it.
    pub(super) fn found(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(entries) if entries.is_empty() => "an empty mapping".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Scalar { text, plain } => {
                let mut shown: String = text.chars().take(40).collect();
                if shown.len() < text.len() {
                    shown.push('…');
                }
                if *plain { format!("`{shown}`") } else { format!("`\"{shown}\"`") }
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }
}

/// Reads one document. `position` turns a line and a column (both from 1) into what an error shows.
pub(super) fn parse(text: &str, position: impl Fn(usize, usize) -> Position) -> Result<Node, Vec<Problem>> {
    let place = |span: Span| position(span.start.line().max(1), span.start.col() + 1);
    let refuse = |span: Span, message: String| vec![Problem::new(place(span).0, message)];
    let mut problems = Vec::new();
    let mut stack: Vec<Open> = Vec::new();
    let mut root = None;
    let mut n_nodes = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let marker = error.marker();
            vec![Problem::new(position(marker.line().max(1), marker.col() + 1).0, format!("not YAML: {}", error.info()))]
        })?;
        let node = match event {
            Event::Alias(_) => return Err(refuse(span, "aliases (`*name`) are not read here: write the value out".to_owned())),
            Event::Scalar(_, _, _, Some(tag)) | Event::SequenceStart(_, Some(tag)) | Event::MappingStart(_, Some(tag)) => {
                return Err(refuse(span, format!("tags (`{tag}`) are not read here: write the plain value")));
            }
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                let value = match text.as_ref() {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    _ => Value::Scalar { text: text.into_owned(), plain },
                };
                Node { at: place(span), value }
            }
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                if stack.len() == MAX_DEPTH {
                    return Err(refuse(span, format!("nested deeper than {MAX_DEPTH} levels")));
                }
                let is_map = matches!(event, Event::MappingStart(..));
                let value = if is_map { Value::Map(Vec::new()) } else { Value::List(Vec::new()) };
                stack.push(Open { node: Node { at: place(span), value }, key: None });
                continue;
            }
            Event::MappingEnd | Event::SequenceEnd => match stack.pop() {
                Some(open) => open.node,
                None => continue,
            },
            Event::DocumentStart(_) if root.is_some() => {
                return Err(refuse(span, "a second document: only one is read".to_owned()));
            }
            _ => continue,
        };
        n_nodes += 1;
        if n_nodes > MAX_NODES {
            return Err(refuse(span, format!("more than {MAX_NODES} keys and values, the limit for a config")));
        }
        match stack.last_mut() {
            None => root = Some(node),
            Some(open) => open.take(node, &mut problems),
        }
    }
    if problems.is_empty() { Ok(root.unwrap_or_else(|| Node::empty_map(position(1, 1)))) } else { Err(problems) }
}

/// A mapping or list whose end has not been read yet.
struct Open {
    node: Node,
    /// The key whose value comes next.
    key: Option<(String, Position)>,
}

impl Open {
    fn take(&mut self, node: Node, problems: &mut Vec<Problem>) {
        let entries = match &mut self.node.value {
            Value::Map(entries) => entries,
            Value::List(items) => return items.push(node),
            _ => return,
        };
        let Some((key, key_at)) = self.key.take() else {
            let key = if let Value::Scalar { text, .. } = &node.value {
                text.clone()
            } else {
                problems.push(Problem::new(node.at.0.clone(), format!("expected a key, found {}", node.found())));
                String::new()
            };
            self.key = Some((key, node.at));
            return;
        };
        if let Some(first) = entries.iter().find(|entry| entry.key == key) {
            problems.push(Problem::new(key_at.0, format!("`{key}` is written twice (first at {})", first.key_at.0)));
        } else {
            entries.push(Entry { key, key_at, value: node });
        }
    }
}
