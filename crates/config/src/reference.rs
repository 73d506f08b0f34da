//! Texts made from the declarations: a JSON schema for editors, and the page `docs/settings.md`.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::Stage;
use super::keys::{self, Key, Rule, Scope, declared, join};

/// The JSON schema (draft 2020-12) of a config, with which editors complete and check one.
pub fn schema() -> Json {
    let mut schema = declared();
    close(&mut schema, "");
    schema["title"] = json!("nids-mixer config");
    schema["required"] = json!(["name"]);
    schema
}

/// Makes a schema as strict as the checker: it allows no other keys, has the defaults of `path`, and takes a bare name as a choice.
fn close(schema: &mut Json, path: &str) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("format"); // widths of Rust's numbers
    object.remove("x-changes");
    object.remove("x-newer");
    match keys::find(path) {
        Some(key) if !matches!(key.rule, Rule::Section) => object.insert("default".to_owned(), key.default.clone()),
        _ => object.remove("default"),
    };
    if let Some(properties) = object.get_mut("properties").and_then(Json::as_object_mut) {
        for (name, property) in properties {
            close(property, &join(path, name));
        }
        object.insert("additionalProperties".to_owned(), json!(false));
    }
    // a number or a mapping: the default stands beside the two
    for either in object.get_mut("anyOf").and_then(Json::as_array_mut).into_iter().flatten() {
        close(either, path);
        either.as_object_mut().expect("a variant is an object").remove("default");
    }
    let Some(variants) = object.get_mut("oneOf").and_then(Json::as_array_mut) else { return };
    let mut bare = Vec::new();
    for variant in variants.iter_mut() {
        if let Some(name) = variant["properties"].as_object().and_then(|properties| properties.keys().next().cloned()) {
            bare.push(json!({ "const": name, "description": variant["description"] }));
        }
        close(variant, path);
        variant.as_object_mut().expect("a variant is an object").remove("default");
    }
    variants.append(&mut bare);
}

/// The page of every setting, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(PREFACE);
    let mut section = "";
    for key in keys::all() {
        let top = key.path.split_once('.').map_or(&*key.path, |(top, _)| top);
        if top != section && key.path != top {
            section = top;
            let _ = write!(page, "\n## {top}\n\n{HEAD}");
        } else if section.is_empty() {
            section = "name";
            page.push_str(HEAD);
        }
        row(&mut page, key);
    }
    page
}

const PREFACE: &str = "# Settings

<!-- Made from the declarations in crates/config by `nids-mixer config reference`; a test keeps it current. -->

A config is a YAML file in which only `name` must be written. `--set dotted.key=value` overrides one
setting. `nids-mixer config --config FILE` prints every setting with the value that would be used.
`nids-mixer config schema` prints a JSON schema, with which editors complete and check a config
(`# yaml-language-server: $schema=FILE` in its first line).

The column \"changes\" says which results become stale when a setting changes:

- the name of a stage: the results of this stage and of the stages after it
- `each`: the results of the stage that is run with the new value; stages may have different values
- `none`: no results

";
const HEAD: &str = "| key | accepts | default | changes | meaning |\n|---|---|---|---|---|\n";

fn row(page: &mut String, key: &Key) {
    let default = match &key.default {
        Json::Object(choice) => choice.keys().next().map_or_else(String::new, |name| format!("`{name}`")),
        Json::String(text) if text.is_empty() => String::new(),
        Json::String(text) => format!("`{text}`"),
        value => format!("`{value}`"),
    };
    let accepts = match &key.rule {
        Rule::OneOf(choices) | Rule::Choice(choices) => {
            let choices = choices.iter().map(|choice| format!("`{}`: {}", choice.name, choice.doc.trim_end_matches('.')));
            let null = if key.nullable { vec!["`null`".to_owned()] } else { Vec::new() };
            choices.chain(null).collect::<Vec<_>>().join("<br>")
        }
        Rule::SomeOf(choices) => {
            let choices = choices.iter().map(|choice| format!("`{}`: {}", choice.name, choice.doc.trim_end_matches('.')));
            let null = if key.nullable { " or `null`" } else { "" };
            format!("a list{null} of<br>{}", choices.collect::<Vec<_>>().join("<br>"))
        }
        Rule::Text | Rule::Texts => key.expected().replace(" (in quotes where it looks like a number)", ""),
        _ => key.expected(),
    };
    let changes = match key.scope {
        Scope::Nothing => "none",
        Scope::Every => Stage::Pretrain.name(),
        Scope::Each => "each",
        Scope::Of(stage) => stage.name(),
    };
    let _ = writeln!(page, "| `{}` | {accepts} | {default} | {changes} | {} |", key.path, key.doc.replace('|', "\\|"));
}
