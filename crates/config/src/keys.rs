//! A table of every key of a config, derived from the declarations of [`Settings`]: what the key accepts, its default, its meaning
//! and which stage's output depends on it. The checker, the suggestions, the stage hashes and the reference page use this table.

use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use serde_yaml::Value as Yaml;

use super::{Settings, Stage};

/// One setting.
pub(super) struct Key {
    pub(super) path: String,
    pub(super) rule: Rule,
    pub(super) nullable: bool,
    pub(super) scope: Scope,
    /// Whether there were runs before it was: with its default it is left out of stage hashes, so that they stay valid.
    pub(super) is_newer: bool,
    /// Its meaning, in Markdown.
    pub(super) doc: String,
    /// Its value when nothing is written. The default of a section or a choice consists of the defaults below it.
    pub(super) default: Json,
}

/// What a setting accepts.
pub(super) enum Rule {
    Whole(u64, u64),
    /// This word, or a whole number.
    WordOrWhole(Choice, u64, u64),
    Number(Bound<f64>, Bound<f64>),
    /// A number, or a mapping of the settings below it.
    NumberOrSection(Bound<f64>, Bound<f64>),
    Switch,
    Text,
    /// A text, or a list of them.
    Texts,
    OneOf(Vec<Choice>),
    /// A list of some of these, each at most once.
    SomeOf(Vec<Choice>),
    /// Exactly one of these: a mapping of its own settings, or the bare name if it has none.
    Choice(Vec<Choice>),
    /// A mapping of the settings below it, or `null`.
    Section,
}

/// One of several values.
pub(super) struct Choice {
    pub(super) name: String,
    pub(super) doc: String,
}

/// The stages whose output a setting changes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scope {
    /// No stage, as with a name, a number of threads or how often to print.
    Nothing,
    /// Every stage.
    Every,
    /// Each stage separately. A later stage may use another value, since the meaning of its inputs does not depend on it.
    Each,
    /// This stage.
    Of(Stage),
}

/// The schema of a config, derived from the declarations, with every reference inlined.
pub(super) fn declared() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Settings>().to_value()
}

static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let defaults = Settings::default();
    let mut walk = Walk { order: defaults.yaml(), defaults: defaults.json(), keys: Vec::new() };
    walk.section("", &declared(), Scope::Nothing);
    walk.keys
});

/// Collects keys in the order in which they are declared.
struct Walk {
    /// The default settings, in that order.
    order: Yaml,
    defaults: Json,
    keys: Vec<Key>,
}

impl Walk {
    fn section(&mut self, path: &str, schema: &Json, scope: Scope) {
        let Some(properties) = schema["properties"].as_object() else { return };
        let order = at(&self.order, path).and_then(Yaml::as_mapping);
        let place = |name: &str| order.and_then(|order| order.keys().position(|key| key.as_str() == Some(name)));
        let mut names: Vec<&String> = properties.keys().collect();
        names.sort_by_key(|name| place(name).unwrap_or(usize::MAX));
        for name in names {
            self.setting(&join(path, name), &properties[name], scope);
        }
    }

    fn setting(&mut self, path: &str, schema: &Json, scope: Scope) {
        let scope = schema["x-changes"].as_str().map_or(scope, scope_named);
        let types =
            schema["type"].as_str().into_iter().chain(schema["type"].as_array().into_iter().flatten().filter_map(Json::as_str));
        let types: Vec<&str> = types.collect();
        let is_newer = schema["x-newer"] == true;
        let nullable = types.contains(&"null");
        let variants = schema["oneOf"].as_array().map_or(&[][..], Vec::as_slice);
        let mut below = None;
        let rule = match types.iter().find(|name| **name != "null") {
            Some(&"integer") => Rule::Whole(whole(&schema["minimum"], 0), whole(&schema["maximum"], u64::MAX)),
            Some(&"number") => {
                Rule::Number(bound(schema, "minimum", "exclusiveMinimum"), bound(schema, "maximum", "exclusiveMaximum"))
            }
            Some(&"boolean") => Rule::Switch,
            Some(&"array") => {
                let items = schema["items"]["oneOf"].as_array().unwrap_or_else(|| panic!("`{path}`: no rule fits {schema}"));
                Rule::SomeOf(items.iter().map(choice).collect())
            }
            Some(&"string") if types.contains(&"array") => Rule::Texts,
            Some(&"string") => Rule::Text,
            Some(&"object") if !nullable => return self.section(path, schema, scope),
            Some(&"object") => {
                below = Some(schema);
                Rule::Section
            }
            _ if schema["anyOf"].is_array() => {
                let one = |is: &dyn Fn(&Json) -> bool| schema["anyOf"].as_array()?.iter().find(|one| is(one));
                let typed = |name: &'static str| one(&move |one| one["type"] == name);
                match (one(&|one| one["const"].is_string()), typed("integer"), typed("number"), typed("object")) {
                    (Some(word), Some(number), ..) => {
                        Rule::WordOrWhole(choice(word), whole(&number["minimum"], 0), whole(&number["maximum"], u64::MAX))
                    }
                    (.., Some(number), Some(section)) => {
                        below = Some(section);
                        Rule::NumberOrSection(
                            bound(number, "minimum", "exclusiveMinimum"),
                            bound(number, "maximum", "exclusiveMaximum"),
                        )
                    }
                    _ => panic!("`{path}`: no rule fits {schema}"),
                }
            }
            _ => {
                let choices: Vec<Choice> = variants.iter().map(choice).collect();
                assert!(!choices.is_empty(), "`{path}`: no rule fits this kind of declaration: {schema}");
                if variants.iter().any(|variant| variant["properties"].is_object()) {
                    Rule::Choice(choices)
                } else {
                    Rule::OneOf(choices)
                }
            }
        };
        let pointer = format!("/{}", path.replace('.', "/"));
        let default = self.defaults.pointer(&pointer).unwrap_or(&schema["default"]).clone();
        let doc = schema["description"].as_str().unwrap_or_default().replace('\n', " ");
        self.keys.push(Key { path: path.to_owned(), rule, nullable, scope, is_newer, doc, default });
        if let Some(section) = below {
            self.section(path, section, scope);
        }
        for (name, inner) in variants.iter().filter_map(|variant| variant["properties"].as_object()).flatten() {
            self.section(&join(path, name), inner, scope);
        }
    }
}

/// The dotted path of `name` below `path` (the empty path is the whole config).
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn at<'y>(yaml: &'y Yaml, path: &str) -> Option<&'y Yaml> {
    path.split('.').filter(|segment| !segment.is_empty()).try_fold(yaml, |yaml, segment| yaml.get(segment))
}

fn scope_named(name: &str) -> Scope {
    match name {
        "nothing" => Scope::Nothing,
        "every" => Scope::Every,
        "each" => Scope::Each,
        _ => Scope::Of(Stage::ALL.into_iter().find(|stage| stage.name() == name).expect("`x-changes` names a stage")),
    }
}

fn whole(bound: &Json, otherwise: u64) -> u64 {
    bound.as_u64().unwrap_or(otherwise)
}

fn bound(schema: &Json, inclusive: &str, exclusive: &str) -> Bound<f64> {
    match (schema[inclusive].as_f64(), schema[exclusive].as_f64()) {
        (_, Some(bound)) => Excluded(bound),
        (Some(bound), None) => Included(bound),
        (None, None) => Unbounded,
    }
}

fn choice(variant: &Json) -> Choice {
    let named = variant["properties"].as_object().and_then(|properties| properties.keys().next()).map(String::as_str);
    let name = variant["const"].as_str().or(named).expect("a variant has a name").to_owned();
    Choice { name, doc: variant["description"].as_str().unwrap_or_default().replace('\n', " ") }
}

/// Every setting.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    KEYS.iter()
}

/// The setting of that name.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    all().find(|key| key.path == path)
}

/// Whether settings lie below `path` (the empty path is the whole config).
pub(super) fn is_section(path: &str) -> bool {
    !children(path).is_empty()
}

/// The names directly below `path`, in the order in which they are declared.
pub(super) fn children(path: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in all() {
        let below = if path.is_empty() {
            Some(key.path.as_str())
        } else {
            key.path.strip_prefix(path).and_then(|rest| rest.strip_prefix('.'))
        };
        if let Some(name) = below.and_then(|rest| rest.split('.').next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

impl Key {
    pub(super) fn is_choice(&self) -> bool {
        matches!(self.rule, Rule::Choice(_))
    }

    /// The names that the setting accepts; empty if it accepts other values.
    pub(super) fn names(&self) -> Vec<&str> {
        match &self.rule {
            Rule::OneOf(choices) | Rule::SomeOf(choices) | Rule::Choice(choices) => {
                choices.iter().map(|choice| choice.name.as_str()).collect()
            }
            Rule::WordOrWhole(word, ..) => vec![&word.name],
            _ => Vec::new(),
        }
    }

    /// "a number between 0 and 1", for "expected …".
    pub(super) fn expected(&self) -> String {
        let mut text = match &self.rule {
            Rule::Whole(low, u64::MAX) => format!("a whole number from {low} up"),
            Rule::Whole(low, high) => format!("a whole number between {low} and {high}"),
            Rule::WordOrWhole(word, low, high) => format!("`{}` or a whole number between {low} and {high}", word.name),
            Rule::Number(low, high) => a_number(*low, *high),
            Rule::NumberOrSection(low, high) => {
                format!("{}, or a mapping of {}", a_number(*low, *high), quoted(&children(&self.path)))
            }
            Rule::Switch => "`true` or `false`".to_owned(),
            Rule::Text => "text (in quotes where it looks like a number)".to_owned(),
            Rule::Texts => "text (in quotes where it looks like a number) or a list of texts".to_owned(),
            Rule::OneOf(_) | Rule::Choice(_) => match self.names().as_slice() {
                [only] => format!("`{only}`"),
                names => format!("one of {}", quoted(names)),
            },
            Rule::SomeOf(_) => format!("a list of some of {}, each at most once", quoted(&self.names())),
            Rule::Section => format!("a mapping of {}", quoted(&children(&self.path))),
        };
        if self.nullable {
            text.push_str(" or `null`");
        }
        text
    }
}

/// "a number between 0 and 1"
fn a_number(low: Bound<f64>, high: Bound<f64>) -> String {
    match (low, high) {
        (Included(low), Included(high)) => format!("a number between {low} and {high}"),
        (Included(low), Excluded(high)) => format!("a number from {low} to below {high}"),
        (Excluded(low), Included(high)) => format!("a number above {low}, at most {high}"),
        (Excluded(low), Excluded(high)) => format!("a number between {low} and {high}, both excluded"),
        (Included(low), Unbounded) => format!("a number from {low} up"),
        (Excluded(low), Unbounded) => format!("a number above {low}"),
        (Unbounded, _) => "a number".to_owned(),
    }
}

/// "`a`, `b`"
pub(super) fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
