//! The arrows between crates, and between the rooms of `pipeline`, are those of ARCHITECTURE.md and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

/// Every crate with those it may use, lowest first: each uses crates above it in this list, so that there is no circle.
const CRATES: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("flows", &[]),
    ("nn", &["kernels"]),
    ("models", &["kernels", "nn"]),
    ("eval", &["kernels"]),
    ("audit", &["flows", "eval"]),
    ("heads", &["kernels"]),
    ("report", &["eval"]),
    ("config", &["flows", "nn", "models"]),
    ("store", &["kernels", "flows", "nn", "eval", "config"]),
    ("interop", &["flows", "nn", "store"]),
    ("detect", &["kernels", "flows", "nn", "models", "eval", "heads", "config", "store"]),
    ("train", &["kernels", "nn", "config", "store"]),
    (
        "pipeline",
        &[
            "kernels", "flows", "audit", "interop", "nn", "models", "eval", "heads", "report", "config", "store", "train",
            "detect",
        ],
    ),
    ("cli", &["kernels", "flows", "audit", "nn", "eval", "config", "store", "pipeline"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Each crate by the name of its folder, with the crates of the workspace that it is built from; what its tests use does not count.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let mut command = Command::new(env!("CARGO"));
    let output = command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Json = serde_json::from_slice(&output.stdout).unwrap();
    let folder = |path: &Json| Path::new(path.as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_owned();
    let arrows = metadata["packages"].as_array().unwrap().iter().map(|package| {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_str().unwrap();
        let uses = package["dependencies"].as_array().unwrap().iter();
        let uses = uses.filter(|dependency| dependency["kind"].is_null() && dependency["path"].is_string());
        (folder(&Json::from(manifest)), uses.map(|dependency| folder(&dependency["path"])).collect())
    });
    arrows.collect()
}

#[test]
fn crates_use_those_below_them_only() {
    for (place, (name, uses)) in CRATES.iter().enumerate() {
        let below: BTreeSet<&str> = CRATES[..place].iter().map(|(name, _)| *name).collect();
        assert!(uses.iter().all(|used| below.contains(used)), "`{name}` uses a crate that does not lie below it");
    }
    let allowed: BTreeMap<String, BTreeSet<String>> =
        CRATES.iter().map(|(name, uses)| ((*name).to_owned(), uses.iter().map(ToString::to_string).collect())).collect();
    assert_eq!(arrows(), allowed, "an arrow was added or taken away: change the table here, and ARCHITECTURE.md");
}

/// Sources of a folder of `pipeline` but for those of tests, and with `deep` those of its folders, too.
fn sources(folder: &Path, deep: bool, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        if path.is_dir() && deep {
            sources(&path, deep, found);
        } else if is_source && !name.ends_with("_tests.rs") && !["lib.rs", "testing.rs"].contains(&name.as_str()) {
            found.push(path);
        }
    }
}

#[test]
fn stages_use_no_command_and_what_they_share_uses_neither() {
    let pipeline = root().join("crates/pipeline/src");
    for (folder, deep, above) in [("", false, &["stages", "commands"][..]), ("stages", true, &["commands"])] {
        let mut found = Vec::new();
        sources(&pipeline.join(folder), deep, &mut found);
        assert!(found.len() >= 3, "{folder}: {found:?}");
        for path in found {
            let text = std::fs::read_to_string(&path).unwrap();
            for room in above {
                let arrow = text.lines().position(|line| line.contains(&format!("crate::{room}")));
                assert_eq!(
                    arrow.map(|line| line + 1),
                    None,
                    "{}: a line uses `crate::{room}`, which lies above it",
                    path.display()
                );
            }
            assert!(folder.is_empty() || !text.contains("super::super"), "{}: say `crate::` for what lies above", path.display());
        }
    }
}
