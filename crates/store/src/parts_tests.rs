use tempfile::TempDir;

use super::*;

fn manifest_of(part: u32, of: u32) -> PartManifest {
    let made_by = [("model", "m"), ("threshold", "0.5")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let files = [("a.csv", 10), ("b.csv", 20)];
    let input = Input::of(files.iter().map(|(name, size)| (Path::new(*name), *size)));
    let content = Digest { sha256: artefacts::sha256(b"b"), bytes: 20 };
    let read = vec![InputFile { path: "b.csv".to_owned(), begin_in: Some((3, 7)), content }];
    PartManifest::new(part, of, made_by.into(), input, read)
}

/// Writes a part as `predict` does.
fn make(folder: &TempDir, mut part: PartManifest) {
    let name = part.stem() + ".csv";
    let digest = artefacts::write(&folder.path().join(&name), |out| writeln!(out, "id\n{}", part.part)).unwrap();
    (part.rows, part.files) = (1, [(name, digest)].into());
    part.write(folder.path()).unwrap();
}

fn error<T: std::fmt::Debug>(folder: &TempDir, result: Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 4);
    error.to_string().replace(&folder.path().display().to_string(), "DIR")
}

#[test]
fn a_part_is_there_once_its_manifest_is_and_as_long_as_its_file_is_the_one_it_lists() {
    let folder = tempfile::tempdir().unwrap();
    let part = manifest_of(1, 2);
    assert_eq!(look(folder.path(), &part).unwrap(), Found::Missing);
    assert_eq!(look(&folder.path().join("none"), &part).unwrap(), Found::Missing);
    make(&folder, part.clone());
    assert!(matches!(look(folder.path(), &part).unwrap(), Found::Whole(there) if there.rows == 1));
    assert_eq!(look(folder.path(), &manifest_of(0, 2)).unwrap(), Found::Missing);
    artefacts::write(&folder.path().join("part-00001-of-00002.csv"), |out| out.write_all(b"id\n2\n")).unwrap();
    assert!(matches!(look(folder.path(), &part).unwrap(), Found::Damaged(_)));
    artefacts::remove(&folder.path().join("part-00001-of-00002.csv")).unwrap();
    assert!(matches!(look(folder.path(), &part).unwrap(), Found::Damaged(_)));
    artefacts::write(&folder.path().join("part-00001-of-00002.json"), |out| out.write_all(b"{")).unwrap();
    assert!(matches!(look(folder.path(), &part).unwrap(), Found::Damaged(_)));
}

#[test]
fn parts_of_anything_else_in_the_folder_are_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    make(&folder, manifest_of(0, 2));
    let mut told = Vec::new();
    let change = |change: fn(&mut PartManifest)| {
        let mut part = manifest_of(1, 2);
        change(&mut part);
        error(&folder, look(folder.path(), &part))
    };
    told.push(change(|part| part.of = 3));
    told.push(change(|part| drop(part.made_by.insert("model".to_owned(), "n".to_owned()))));
    told.push(change(|part| drop(part.made_by.insert("reasons".to_owned(), "all".to_owned()))));
    told.push(change(|part| part.input = Input::of([(Path::new("a.csv"), 30)].into_iter())));
    told.push(change(|part| part.input = Input::of([(Path::new("a.csv"), 20), (Path::new("b.csv"), 10)].into_iter())));
    told.push(change(|part| part.read[0].content.sha256 = artefacts::sha256(b"c")));
    told.push(change(|part| part.tool = "nids-mixer 99".to_owned()));
    insta::assert_snapshot!(told.join("\n").replace(TOOL, "[TOOL]"), @r#"
    DIR/part-00000-of-00002.json: does not belong to this part: one of 2 parts, and this is one of 3: write to another folder, or remove the parts that are in this one
    DIR/part-00000-of-00002.json: does not belong to this part: `model` was "m" and is "n": write to another folder, or remove the parts that are in this one
    DIR/part-00000-of-00002.json: does not belong to this part: `reasons` was "unset" and is "all": write to another folder, or remove the parts that are in this one
    DIR/part-00000-of-00002.json: does not belong to this part: `data` was "2 files of 30 bytes" and is "1 files of 30 bytes": write to another folder, or remove the parts that are in this one
    DIR/part-00000-of-00002.json: does not belong to this part: the files of `data` have other names or sizes: write to another folder, or remove the parts that are in this one
    DIR/part-00000-of-00002.json: does not belong to this part: `b.csv` has another content now: write to another folder, or remove the parts that are in this one
    DIR/part-00000-of-00002.json: does not belong to this part: `program` was "[TOOL]" and is "nids-mixer 99": write to another folder, or remove the parts that are in this one
    "#);
}

#[test]
fn all_parts_are_whole_or_each_that_is_not_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut told = vec![error(&folder, all(folder.path()))];
    for part in [0, 2, 3] {
        make(&folder, manifest_of(part, 4));
    }
    artefacts::write(&folder.path().join("part-00003-of-00004.csv"), |out| out.write_all(b"id\n")).unwrap();
    told.push(error(&folder, all(folder.path())));
    make(&folder, manifest_of(1, 4));
    make(&folder, manifest_of(3, 4));
    let whole = all(folder.path()).unwrap();
    assert_eq!(whole.iter().map(|part| part.part).collect::<Vec<_>>(), [0, 1, 2, 3]);
    // not what a process would write, but what two inputs would leave
    let mut other = manifest_of(2, 4);
    other.read[0].content.sha256 = artefacts::sha256(b"c");
    make(&folder, other);
    told.push(error(&folder, all(folder.path())));
    make(&folder, manifest_of(0, 8));
    told.push(error(&folder, all(folder.path())));
    insta::assert_snapshot!(told.join("\n"), @r#"
    DIR: no parts: make them with `nids-mixer predict --part I/K --output FOLDER`
    DIR: 2 of 4 parts are whole: part 1 is missing, part 3 is damaged (DIR/part-00003-of-00004.csv: its content is not that of the manifest): give the commands of these parts again; those that are whole stay
    DIR/part-00002-of-00004.json: does not belong to part 0: `b.csv` has another content now: write to another folder, or remove the parts that are in this one
    DIR/part-00000-of-00008.json: one of 8 parts, beside one of 4: write to another folder, or remove the parts that are in this one
    "#);
}

#[cfg(unix)]
#[test]
fn a_manifest_names_files_of_its_part_alone() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["../part-00000-of-00001.csv", "/etc/passwd", "part-00001-of-00002.csv", "part-00000-of-00001.csv/x", ""] {
        let mut part = manifest_of(0, 1);
        part.files = [(name.to_owned(), Digest { sha256: String::new(), bytes: 0 })].into();
        part.write(folder.path()).unwrap();
        assert!(error(&folder, read(folder.path(), 0, 1)).contains("which is no file of this part"), "{name}");
    }
    make(&folder, manifest_of(0, 1));
    let place = folder.path().join("part-00000-of-00001.csv");
    let outside = tempfile::NamedTempFile::new().unwrap();
    artefacts::write(outside.path(), |out| out.write_all(b"id\n0\n")).unwrap();
    artefacts::remove(&place).unwrap();
    std::os::unix::fs::symlink(outside.path(), &place).unwrap();
    assert!(matches!(look(folder.path(), &manifest_of(0, 1)).unwrap(), Found::Damaged(what) if what.contains("leads out")));
    // a name that claims more parts than anybody makes is no part
    artefacts::write(&folder.path().join("part-00000-of-4294967295.json"), |out| out.write_all(b"{}")).unwrap();
    assert_eq!(list(folder.path()).unwrap(), [(0, 1)]);
}
