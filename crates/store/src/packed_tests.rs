use std::fs::OpenOptions;

use super::*;
use crate::disk::seam::{self, Fault};

const STRIDE: usize = 3;

fn key() -> String {
    artefacts::sha256(b"rows")
}

fn layout() -> Layout {
    Layout { stride: STRIDE, partition_rows: 4, made_by: "tokeniser".to_owned() }
}

fn cells(rows: std::ops::Range<u32>) -> Vec<f32> {
    rows.flat_map(|row| (0..STRIDE as u32).map(move |place| (row * 10 + place) as f32)).collect()
}

/// Writes ten rows, a few at a time, or as many as `rows`.
fn pack(parent: &Path, rows: u32) -> Result<Packed> {
    let mut packer = Packer::begin(parent, &key(), layout(), "pretrain")?;
    for first in (0..rows).step_by(3) {
        let some = first..rows.min(first + 3);
        if !packer.has(some.len()) {
            packer.push(&cells(some))?;
        }
    }
    packer.write("tokeniser.json", b"{}")?;
    packer.finish(serde_json::json!({"labelled": 7}))
}

fn assert_holds(packed: &Packed, rows: u32) {
    assert_eq!((packed.n_rows(), packed.layout()), (u64::from(rows), &layout()));
    let mut found = vec![0.0; STRIDE];
    for row in (0..rows).rev() {
        packed.read(row.into(), 0, &mut found).unwrap();
        assert_eq!(found, cells(row..row + 1));
    }
    packed.read(u64::from(rows) - 1, 1, &mut found[..2]).unwrap();
    assert_eq!(found[..2], cells(rows - 1..rows)[1..]);
}

fn listing(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = artefacts::files_in(folder).unwrap().into_iter().filter(|name| !name.ends_with(LOCK));
    names.map(|name| (name.clone(), fs::read(folder.join(&name)).unwrap())).collect()
}

#[test]
fn rows_are_read_by_number_in_whatever_partition() {
    let _alone = seam::alone();
    seam::set(None);
    for rows in [1, 4, 8, 10] {
        let folder = tempfile::tempdir().unwrap();
        assert!(Packed::open(folder.path(), &key()).unwrap().is_none());
        assert_holds(&pack(folder.path(), rows).unwrap(), rows);
        let packed = Packed::open(folder.path(), &key()).unwrap().unwrap();
        assert_holds(&packed, rows);
        assert_eq!((packed.file("tokeniser.json").unwrap(), packed.note()["labelled"].as_u64()), (b"{}".to_vec(), Some(7)));
        assert!(packed.file(INDEX).is_err());
    }
}

#[test]
fn a_disk_that_fails_at_any_call_leaves_what_the_next_command_goes_on_with_to_the_same_bytes() {
    let _alone = seam::alone();
    seam::set(None);
    let folder = tempfile::tempdir().unwrap();
    drop(pack(folder.path(), 10).unwrap());
    let wanted = listing(folder.path());
    let mut kept = Vec::new();
    for fault in [Fault::Fails(io::ErrorKind::StorageFull), Fault::FailsOnce(io::ErrorKind::StorageFull)] {
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            seam::set(Some((at, fault)));
            let failed = pack(folder.path(), 10);
            let n_calls = seam::calls();
            seam::set(None);
            match failed {
                Ok(_) => {
                    assert!(n_calls <= at, "call {at} fails and nothing is said");
                    break;
                }
                Err(error) => assert_eq!(error.exit_code(), 6, "{error}"),
            }
            // what is not whole is not opened
            let opened = Packed::open(folder.path(), &key()).unwrap();
            if let Some(packed) = opened {
                assert_holds(&packed, 10);
            }
            let packer = Packer::begin(folder.path(), &key(), layout(), "pretrain").unwrap();
            kept.push(packer.n_kept());
            drop(packer);
            assert_holds(&pack(folder.path(), 10).unwrap(), 10);
            assert_eq!(listing(folder.path()), wanted, "{fault:?} at call {at}");
        }
    }
    assert!(kept.contains(&0) && kept.contains(&4) && kept.contains(&8), "{kept:?}");
}

#[test]
fn partitions_of_another_layout_or_that_were_changed_are_written_again() {
    let _alone = seam::alone();
    seam::set(None);
    let folder = tempfile::tempdir().unwrap();
    drop(pack(folder.path(), 10).unwrap());
    let n_kept = |layout: Layout| {
        let copy = tempfile::tempdir().unwrap();
        let cache = copy.path().join(key());
        disk::make_folder(&cache).unwrap();
        for (name, bytes) in listing(&folder.path().join(key())) {
            artefacts::write(&cache.join(name), |out| out.write_all(&bytes)).unwrap();
        }
        Packer::begin(copy.path(), &key(), layout, "pretrain").unwrap().n_kept()
    };
    assert_eq!(n_kept(layout()), 8);
    assert_eq!(n_kept(Layout { made_by: "another".to_owned(), ..layout() }), 0);
    assert_eq!(n_kept(Layout { partition_rows: 2, ..layout() }), 0);
    let second = folder.path().join(key()).join(partition_name(1));
    OpenOptions::new().write(true).open(second).unwrap().write_all(b"x").unwrap();
    assert_eq!(n_kept(layout()), 4);
}

#[test]
fn what_was_changed_or_cut_or_forged_is_refused_with_what_to_do() {
    let _alone = seam::alone();
    seam::set(None);
    let refused = |damage: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        drop(pack(folder.path(), 10).unwrap());
        damage(&folder.path().join(key()));
        let error = Packed::open(folder.path(), &key()).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        error.to_string().replace(&folder.path().join(key()).display().to_string(), "CACHE")
    };
    let edit = |cache: &Path, from: &str, to: &str| {
        let text = fs::read_to_string(cache.join(INDEX)).unwrap();
        assert!(text.contains(from), "{text}");
        artefacts::write(&cache.join(INDEX), |out| out.write_all(text.replace(from, to).as_bytes())).unwrap();
    };
    let found = [
        refused(&|cache| OpenOptions::new().write(true).open(cache.join("rows-00001.f32")).unwrap().set_len(5).unwrap()),
        refused(&|cache| artefacts::remove(&cache.join("rows-00002.f32")).unwrap()),
        refused(&|cache| drop(artefacts::write(&cache.join("tokeniser.json"), |out| out.write_all(b"[]")).unwrap())),
        refused(&|cache| edit(cache, "\"whole\":[10", "\"whole\":[11")),
        refused(&|cache| edit(cache, "\"partition_rows\":4", "\"partition_rows\":5")),
        refused(&|cache| edit(cache, "\"stride\":3", "\"stride\":0")),
        refused(&|cache| edit(cache, "\"tokeniser.json\"", "\"../tokeniser.json\"")),
        refused(&|cache| edit(cache, "\"version\":1", "\"version\":2")),
    ]
    .map(|text| text.replace(&format!(": {REMEDY}"), "").replace(&key(), "KEY"));
    insta::assert_debug_snapshot!(found, @r#"
    [
        "CACHE/rows-00001.f32: truncated: 5 bytes of 48",
        "CACHE/rows-00002.f32: missing",
        "CACHE/tokeniser.json: changed since it was written",
        "CACHE/cache.json: its partitions do not have the rows that it says",
        "CACHE/cache.json: its partitions do not have the rows that it says",
        "CACHE/cache.json: its partitions do not have the rows that it says",
        "CACHE/cache.json: `../tokeniser.json` lies outside the folder",
        "CACHE/cache.json: foreign index: `nids-mixer packed cache` version 2 of `KEY`",
    ]
    "#);
}

#[test]
fn one_command_writes_a_cache_and_cleaning_waits_for_it_and_leaves_the_files_of_others() {
    let _alone = seam::alone();
    seam::set(None);
    let folder = tempfile::tempdir().unwrap();
    let packer = Packer::begin(folder.path(), &key(), layout(), "pretrain").unwrap();
    let second = Packer::begin(folder.path(), &key(), layout(), "pretrain").unwrap_err().to_string();
    assert!(second.contains("in use by process"), "{second}");
    assert!(clean(folder.path(), "cache --clean").unwrap_err().to_string().contains("in use by process"));
    drop(packer);
    let packed = pack(folder.path(), 10).unwrap();
    let cache = folder.path().join(key());
    for path in [cache.join("notes.txt"), folder.path().join("flows.csv")] {
        artefacts::write(&path, |out| out.write_all(b"mine")).unwrap();
    }
    let (n, bytes) = clean(folder.path(), "cache --clean").unwrap();
    assert!(n == 1 && bytes > packed.bytes(), "{n} caches of {bytes} bytes");
    assert_eq!(artefacts::files_in(folder.path()).unwrap(), [format!("{}/notes.txt", key()), "flows.csv".to_owned()]);
    // who has it open goes on
    assert_holds(&packed, 10);
    assert_eq!(clean(folder.path(), "cache --clean").unwrap(), (0, 0));
}
