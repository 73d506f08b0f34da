//! Turns the tree of a YAML file into checked values and collects every problem.

use std::ops::RangeBounds;

use serde_json::{Map, Value as Json};

use super::keys::{self, Key, Rule, join, quoted};
use super::retired;
use super::yaml::{self, Entry, Node, Position, Value};
use crate::problem::Problem;
use nids_flows::nearest;

/// Puts `--set path=value` into the tree, as if it were written in the file.
pub(super) fn apply_override(root: &mut Node, text: &str) -> Result<(), Vec<Problem>> {
    let at = Position(format!("--set {text}"));
    let refuse = |message: &str| Err(vec![Problem::new(at.0.clone(), message)]);
    let Some((path, raw)) = text.split_once('=') else {
        return refuse("expected `dotted.key=value`, found no `=`");
    };
    let path = path.trim();
    if path.is_empty() || path.split('.').any(str::is_empty) {
        return refuse("expected `dotted.key=value`, found an empty key");
    }
    if path.split('.').count() > yaml::MAX_DEPTH {
        return refuse("expected `dotted.key=value`, found a key with more parts than any setting has");
    }
    // Text is taken literally, so that a path or name need not be quoted twice.
    let is_list = raw.trim().starts_with('[');
    let is_text =
        keys::find(path).is_some_and(|key| matches!(key.rule, Rule::Text) || matches!(key.rule, Rule::Texts) && !is_list);
    let value = match raw.trim() {
        "" | "null" | "~" => Node { at: at.clone(), value: Value::Null },
        raw if is_text => Node { at: at.clone(), value: Value::Scalar { text: raw.to_owned(), plain: false } },
        raw => yaml::parse(raw, |_, _| at.clone())?,
    };

    let mut node = root;
    let mut so_far = String::new();
    for segment in path.split('.') {
        if !matches!(node.value, Value::Map(_)) {
            *node = Node::empty_map(at.clone());
        }
        let Value::Map(entries) = &mut node.value else { unreachable!("made a mapping just above") };
        if keys::find(&so_far).is_some_and(Key::is_choice) {
            entries.retain(|entry| entry.key == segment); // the new choice replaces the old one
        }
        let index = entries.iter().position(|entry| entry.key == segment).unwrap_or_else(|| {
            let value = Node { at: at.clone(), value: Value::Null };
            entries.push(Entry { key: segment.to_owned(), key_at: at.clone(), value });
            entries.len() - 1
        });
        node = &mut entries[index].value;
        if !so_far.is_empty() {
            so_far.push('.');
        }
        so_far.push_str(segment);
    }
    *node = value;
    Ok(())
}

/// Reads the section at `path`. Entries with a problem are reported and left out.
pub(super) fn section(node: &Node, path: &str, problems: &mut Vec<Problem>) -> Map<String, Json> {
    let mut out = Map::new();
    let entries = match &node.value {
        Value::Map(entries) => entries.as_slice(),
        Value::Null => &[],
        _ => {
            let whole = if path.is_empty() { "the config".to_owned() } else { format!("`{path}`") };
            problems.push(Problem::new(node.at.0.clone(), format!("{whole}: expected a mapping, found {}", node.found())));
            &[]
        }
    };
    for entry in entries {
        let full = join(path, &entry.key);
        let value = if let Some(key) = keys::find(&full) {
            setting(key, &entry.value, problems)
        } else if keys::is_section(&full) {
            Some(Json::Object(section(&entry.value, &full, problems)))
        } else {
            problems.push(unknown(entry, path, &full));
            None
        };
        if let Some(value) = value {
            out.insert(entry.key.clone(), value);
        }
    }
    out
}

fn setting(key: &Key, node: &Node, problems: &mut Vec<Problem>) -> Option<Json> {
    if let (Rule::OneOf(_), Value::Map(entries)) = (&key.rule, &node.value)
        && let [entry] = entries.as_slice()
        && key.names().contains(&entry.key.as_str())
    {
        problems.push(bare(key, entry));
        return None;
    }
    let value = match (&key.rule, &node.value) {
        (_, Value::Null) if key.nullable => Some(Json::Null),
        (Rule::Choice(_), _) => return choice(key, &key.names(), node, problems),
        (Rule::Section | Rule::NumberOrSection(..), Value::Map(_)) => {
            return Some(Json::Object(section(node, &key.path, problems)));
        }
        (Rule::Texts, Value::List(items)) => {
            let text = |item: &Node| match &item.value {
                Value::Scalar { text, plain } => scalar(key, text, *plain),
                _ => None,
            };
            items.iter().map(text).collect::<Option<Vec<_>>>().filter(|items| !items.is_empty()).map(Json::Array)
        }
        (Rule::SomeOf(_), Value::List(items)) => return some_of(key, node, items, problems),
        (_, Value::Scalar { text, plain }) => scalar(key, text, *plain),
        _ => None,
    };
    if value.is_none() {
        problems.push(wrong(key, node));
    }
    value
}

fn scalar(key: &Key, text: &str, plain: bool) -> Option<Json> {
    match &key.rule {
        Rule::Text | Rule::Texts => {
            let is_text = !plain || (!matches!(text, "true" | "false") && number(text).is_none());
            (is_text && !text.is_empty()).then(|| text.into())
        }
        Rule::OneOf(_) => key.names().contains(&text).then(|| text.into()),
        Rule::WordOrWhole(word, ..) if text == word.name => Some(text.into()),
        _ if !plain => None,
        Rule::Switch => text.parse::<bool>().ok().map(Json::from),
        Rule::Whole(low, high) => text.parse::<u64>().ok().filter(|value| (low..=high).contains(&value)).map(Json::from),
        Rule::WordOrWhole(_, low, high) => text.parse::<u64>().ok().filter(|value| (low..=high).contains(&value)).map(Json::from),
        Rule::Number(low, high) | Rule::NumberOrSection(low, high) => {
            number(text).filter(|value| (*low, *high).contains(value)).map(Json::from)
        }
        Rule::SomeOf(_) | Rule::Choice(_) | Rule::Section => None,
    }
}

/// Reads `[logistic, boosting]`. Each name that is none, or occurs twice, is a problem of its own.
fn some_of(key: &Key, node: &Node, items: &[Node], problems: &mut Vec<Problem>) -> Option<Json> {
    if items.is_empty() {
        problems.push(wrong(key, node));
        return None;
    }
    let mut names: Vec<Json> = Vec::new();
    for item in items {
        match &item.value {
            Value::Scalar { text, .. } if key.names().contains(&text.as_str()) => {
                if names.contains(&Json::from(text.as_str())) {
                    let message = format!("`{}`: `{text}` is in the list twice: name it once", key.path);
                    problems.push(Problem::new(item.at.0.clone(), message));
                }
                names.push(text.as_str().into());
            }
            _ => problems.push(wrong(key, item)),
        }
    }
    (names.len() == items.len()).then_some(Json::Array(names))
}

/// A finite decimal number; Rust's parser would also take `inf` and `nan`.
fn number(text: &str) -> Option<f64> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse().ok().filter(|value: &f64| is_decimal && value.is_finite())
}

/// Reads `mae: { … }`, or the bare name, which stands for its defaults.
fn choice(key: &Key, names: &[&str], node: &Node, problems: &mut Vec<Problem>) -> Option<Json> {
    let mut out = Map::new();
    match &node.value {
        Value::Scalar { text, .. } if names.contains(&text.as_str()) => {
            if !keys::is_section(&join(&key.path, text)) {
                return Some(text.as_str().into());
            }
            out.insert(text.clone(), Json::Object(Map::new()));
        }
        Value::Map(entries) => match entries.as_slice() {
            [entry] if names.contains(&entry.key.as_str()) => {
                let full = join(&key.path, &entry.key);
                if !keys::is_section(&full) {
                    problems.push(bare(key, entry));
                    return None;
                }
                out.insert(entry.key.clone(), Json::Object(section(&entry.value, &full, problems)));
            }
            [entry] => {
                let full = join(&key.path, &entry.key);
                problems.push(unknown(entry, &key.path, &full));
                return None;
            }
            [] => {
                problems.push(wrong(key, node));
                return None;
            }
            [_, second, ..] => {
                let chosen: Vec<String> = entries.iter().map(|entry| format!("`{}`", entry.key)).collect();
                let message = format!("`{}`: expected exactly {}, found {}", key.path, key.expected(), chosen.join(" and "));
                problems.push(Problem::new(second.key_at.0.clone(), message));
                return None;
            }
        },
        _ => {
            problems.push(wrong(key, node));
            return None;
        }
    }
    Some(Json::Object(out))
}

/// The problem of a choice that has no settings and is given some.
fn bare(key: &Key, entry: &Entry) -> Problem {
    let full = join(&key.path, &entry.key);
    let plain = || format!("`{full}` has no settings of its own: write `{}: {}`", key.path, entry.key);
    Problem::new(entry.key_at.0.clone(), retired::key(&full).unwrap_or_else(plain))
}

fn wrong(key: &Key, node: &Node) -> Problem {
    let mut message = format!("`{}`: expected {}, found {}", key.path, key.expected(), node.found());
    if let Some(advice) = retired::value(&key.path, &node.found()) {
        message = format!("{message}: {advice}");
    } else if let (Rule::SomeOf(_), Value::Scalar { text, .. }) = (&key.rule, &node.value)
        && key.names().contains(&text.as_str())
    {
        message = format!("{message}: write `[{text}]`");
    } else if let Value::Scalar { text, .. } = &node.value
        && let Some(name) = nearest(text, key.names())
    {
        message = format!("{message}: did you mean `{name}`?");
    }
    Problem::new(node.at.0.clone(), message)
}

fn unknown(entry: &Entry, path: &str, full: &str) -> Problem {
    if let Some(message) = retired::key(full) {
        return Problem::new(entry.key_at.0.clone(), message);
    }
    let siblings = keys::children(path);
    let elsewhere: Vec<String> = keys::all()
        .filter(|key| key.path.strip_suffix(&entry.key).is_some_and(|rest| rest.ends_with('.')))
        .map(|key| format!("`{}`", key.path))
        .take(3)
        .collect();
    let hint = if let Some(name) = nearest(&entry.key, siblings.iter().copied()) {
        format!("did you mean `{}`?", join(path, name))
    } else if elsewhere.is_empty() {
        format!("expected one of {}", quoted(&siblings))
    } else {
        format!("did you mean {}?", elsewhere.join(" or "))
    };
    Problem::new(entry.key_at.0.clone(), format!("unknown key `{full}`: {hint}"))
}
