//! `unsafe` is in the kernels alone, and SECURITY.md says how much of it is where.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every Rust file below `folder`, by its path from the root of the repository.
fn sources(folder: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            sources(&path, found);
        } else if Path::new(&path).extension().is_some_and(|extension| extension == "rs") {
            found.insert(path, fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// Blocks, functions, implementations, declarations and attributes, comments left out.
fn count(source: &str) -> usize {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    let is_unsafe = |(word, next): (&str, &str)| {
        word == "unsafe" && ["{", "fn", "impl", "extern", "link_section"].iter().any(|start| next.starts_with(start))
    };
    let words = |line: &str| line.replace(['(', '|', '['], " ").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    code.map(|line| words(line).windows(2).filter(|pair| is_unsafe((&pair[0], &pair[1]))).count()).sum()
}

#[test]
fn security_md_lists_all_of_it() {
    let mut files = BTreeMap::new();
    sources("crates", &mut files);
    sources("tests", &mut files);
    let counts: BTreeMap<&str, usize> =
        files.iter().map(|(path, source)| (path.as_str(), count(source))).filter(|(_, n)| *n > 0).collect();
    let outside: Vec<_> = counts.keys().filter(|path| !path.starts_with("crates/kernels/src/")).collect();
    assert!(outside.is_empty(), "`unsafe` outside of the kernels: {outside:?}");

    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells[..] {
            ["", file, n, reason, ""] if !reason.is_empty() => {
                Some((file.strip_prefix("`kernels/src/")?.strip_suffix('`')?, n.parse().ok()?))
            }
            _ => None,
        }
    });
    let listed: BTreeMap<String, usize> = rows.map(|(file, n)| (format!("crates/kernels/src/{file}"), n)).collect();
    let listed: BTreeMap<&str, usize> = listed.iter().map(|(path, n)| (path.as_str(), *n)).collect();
    assert_eq!(counts, listed, "SECURITY.md should have one row for each file: `kernels/src/FILE` | uses | reason");
}

#[test]
fn every_other_crate_forbids_it() {
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        if folder.ends_with("kernels") {
            continue;
        }
        for name in ["src/lib.rs", "src/main.rs"] {
            let Ok(source) = fs::read_to_string(folder.join(name)) else { continue };
            assert!(source.contains("#![forbid(unsafe_code)]"), "{}/{name}", folder.display());
        }
    }
}
