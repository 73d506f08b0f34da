use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use nids_flows::Schema;
use nids_store::artefacts::write_atomic;
use tempfile::TempDir;

use super::follow::Follower;
use super::tail::{Batch, MAX_LINE, Position};

const HEADER: &str = "#separator \\x09\n#fields\tts\tuid\tproto\n";

/// A folder with a log that somebody writes.
struct Logs(TempDir);

impl Logs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = File::options().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Copies a file and cuts it, as logrotate's `copytruncate` does.
    fn copy_and_cut(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
        File::options().write(true).open(self.path(from)).unwrap().set_len(0).unwrap();
    }

    /// Packs a file, which keeps its time.
    fn gzip(&self, name: &str) {
        let (path, packed) = (self.path(name), self.path(&format!("{name}.gz")));
        let (bytes, modified) = (fs::read(&path).unwrap(), path.metadata().unwrap().modified().unwrap());
        write_atomic(&packed, |out| {
            let mut packer = GzEncoder::new(out, Compression::fast());
            packer.write_all(&bytes)?;
            packer.finish().map(drop)
        })
        .unwrap();
        File::options().write(true).open(&packed).unwrap().set_modified(modified).unwrap();
        fs::remove_file(path).unwrap();
    }

    fn follow(&self, data: &str, state: &[Position], once: bool) -> Followed {
        let mut told = Vec::new();
        let data = self.path(data).display().to_string();
        let follower = Follower::open(&data, state, once, &mut told).unwrap();
        Followed { follower, told, schema: Schema::builtin("zeek-conn").unwrap() }
    }
}

struct Followed {
    follower: Follower,
    told: Vec<String>,
    schema: Schema,
}

impl Followed {
    fn batch(&mut self, max_lines: usize) -> Option<Batch> {
        self.follower.next(&self.schema, max_lines, &mut self.told).unwrap()
    }

    /// The lines that are there now.
    fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(batch) = self.batch(7) {
            lines.extend(texts(&batch));
        }
        lines
    }

    /// As many lines as are wanted, waited for.
    fn lines_until(&mut self, n: usize) -> Vec<String> {
        let (mut lines, since) = (Vec::new(), Instant::now());
        while lines.len() < n && since.elapsed() < Duration::from_secs(10) {
            lines.extend(self.lines());
            thread::sleep(Duration::from_millis(20));
        }
        lines
    }

    fn has_told(&self, what: &str) -> bool {
        self.told.iter().any(|text| text.contains(what))
    }
}

fn texts(batch: &Batch) -> Vec<String> {
    batch.lines.iter().map(|line| String::from_utf8(batch.line(line).to_vec()).unwrap()).collect()
}

fn row(n: usize) -> String {
    format!("{n}\tC{n}\ttcp\n")
}

fn rows(range: std::ops::Range<usize>) -> String {
    range.map(row).collect()
}

fn wanted(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| row(n).trim_end().to_owned()).collect()
}

/// A moment in which the clock of files goes on.
fn tick() {
    thread::sleep(Duration::from_millis(12));
}

#[test]
fn a_half_line_waits_for_its_end_and_every_line_knows_its_place() {
    let logs = Logs::new();
    logs.append("conn.log", &(HEADER.to_owned() + "1\tC1\tt"));
    let mut followed = logs.follow("conn.log", &[], false);
    assert_eq!(followed.lines(), [""; 0]);
    assert!(followed.follower.has_partial());
    logs.append("conn.log", "cp\n\n2\tC2\tudp\r\n3");
    let batch = followed.batch(9).unwrap();
    assert_eq!(texts(&batch), ["1\tC1\ttcp", "2\tC2\tudp"]);
    let text = fs::read_to_string(logs.path("conn.log")).unwrap();
    for line in &batch.lines {
        assert!(text.as_bytes()[line.offset as usize..].starts_with(batch.line(line)));
    }
    assert_eq!(batch.header, HEADER.as_bytes());
}

#[test]
fn a_file_that_does_not_exist_yet_is_waited_for_unless_once() {
    let logs = Logs::new();
    let mut followed = logs.follow("conn.log", &[], false);
    assert_eq!(followed.lines(), [""; 0]);
    assert!(followed.has_told("waiting for it"));
    logs.append("conn.log", &(HEADER.to_owned() + &rows(0..3)));
    assert_eq!(followed.lines(), wanted(0..3));
    let mut once = logs.follow("other.log", &[], true);
    assert!(once.follower.next(&once.schema, 7, &mut once.told).unwrap_err().to_string().contains("other.log"));
}

#[test]
fn a_renamed_file_is_read_to_its_end_before_the_new_one_from_its_start() {
    let logs = Logs::new();
    logs.append("conn.log", &(HEADER.to_owned() + &rows(0..5)));
    let mut followed = logs.follow("conn.log", &[], false);
    assert_eq!(followed.lines(), wanted(0..5));
    logs.append("conn.log", &rows(5..8));
    logs.rename("conn.log", "conn.log.1");
    logs.append("conn.log", &(HEADER.to_owned() + &rows(11..14)));
    let mut found = followed.lines();
    // its writer knows of nothing yet
    logs.append("conn.log.1", &rows(8..11));
    found.extend(followed.lines_until(6));
    assert_eq!(found, wanted(5..14));
    assert!(followed.has_told("rotated"));
}

#[test]
fn a_file_that_was_copied_and_cut_loses_no_line_whether_it_is_shorter_or_longer_then() {
    for more in [2, 40] {
        let logs = Logs::new();
        logs.append("conn.log", &(HEADER.to_owned() + &rows(0..5)));
        let mut followed = logs.follow("conn.log", &[], false);
        assert_eq!(followed.lines(), wanted(0..5));
        logs.append("conn.log", &rows(5..8));
        logs.copy_and_cut("conn.log", "conn.log.1");
        logs.append("conn.log", &(HEADER.to_owned() + &rows(8..8 + more)));
        assert_eq!(followed.lines_until(3 + more), wanted(5..8 + more), "{more}");
        assert!(followed.has_told("was cut or written anew") && followed.has_told("goes on at byte"), "{:?}", followed.told);
        // without a copy what was not read is lost, and said to be
        logs.append("conn.log", &rows(90..95));
        File::options().write(true).open(logs.path("conn.log")).unwrap().set_len(0).unwrap();
        logs.append("conn.log", &(HEADER.to_owned() + &rows(95..97)));
        assert_eq!(followed.lines_until(2), wanted(95..97));
        assert!(followed.has_told("warning: ") && followed.has_told("is lost"), "{:?}", followed.told);
    }
}

#[test]
fn what_rotation_did_while_nobody_watched_is_found_again() {
    for (packed, rotations) in [(false, 1), (true, 1), (false, 3), (true, 3)] {
        let logs = Logs::new();
        logs.append("conn.log.7", &(HEADER.to_owned() + &rows(700..800)));
        tick();
        logs.append("conn.log", &(HEADER.to_owned() + &rows(0..5)));
        let mut before = logs.follow("conn.log", &[], false);
        assert_eq!(before.lines(), wanted(0..5));
        let state = before.follower.positions();
        drop(before);
        logs.append("conn.log", &rows(5..10));
        let mut n = 10;
        for rotation in 1..=rotations {
            tick();
            logs.rename("conn.log", &format!("conn.log-{rotation}"));
            if packed {
                logs.gzip(&format!("conn.log-{rotation}"));
            }
            logs.append("conn.log", &(HEADER.to_owned() + &rows(n..n + 5)));
            n += 5;
        }
        let mut after = logs.follow("conn.log", &state, true);
        assert_eq!(after.lines(), wanted(5..n), "packed: {packed}, {rotations} rotations: {:?}", after.told);
        let mut again = logs.follow("conn.log", &after.follower.positions(), true);
        assert_eq!(again.lines(), [""; 0]);
        assert!(again.told.is_empty(), "{:?}", again.told);
    }
}

#[test]
fn a_rest_that_is_nowhere_is_said_to_be_lost() {
    let logs = Logs::new();
    logs.append("conn.log", &(HEADER.to_owned() + &rows(0..5)));
    let mut before = logs.follow("conn.log", &[], false);
    before.lines();
    let state = before.follower.positions();
    drop(before);
    fs::remove_file(logs.path("conn.log")).unwrap();
    logs.append("conn-summary.log", &(HEADER.to_owned() + &rows(0..9)));
    logs.append("conn.log", &(HEADER.to_owned() + &rows(20..22)));
    let mut after = logs.follow("conn.log", &state, true);
    assert_eq!(after.lines(), wanted(20..22));
    assert!(after.has_told("warning: ") && after.has_told("is lost"), "{:?}", after.told);
}

#[test]
fn whatever_is_done_to_a_log_every_line_is_read_once_and_in_order() {
    for seed in 0..40_u64 {
        let logs = Logs::new();
        let mut state = seed * 7919 + 1;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        logs.append("conn.log", HEADER);
        let mut followed = logs.follow("conn.log", &[], true);
        assert_eq!(followed.lines(), [""; 0]);
        let (mut written, mut found, mut half, mut rotations) = (0, Vec::new(), String::new(), 0);
        let mut done = Vec::new();
        for _ in 0..30 {
            let what = below(7);
            done.push(what);
            match what {
                0 | 1 => {
                    let n = below(20) as usize;
                    logs.append("conn.log", &(std::mem::take(&mut half) + &rows(written..written + n)));
                    written += n;
                }
                2 if half.is_empty() => {
                    let line = row(written);
                    let (first, rest) = line.split_at(1 + below(line.len() as u64 - 1) as usize);
                    logs.append("conn.log", first);
                    rest.clone_into(&mut half);
                    written += 1;
                }
                3 | 4 => {
                    logs.append("conn.log", &std::mem::take(&mut half));
                    tick();
                    rotations += 1;
                    let name = format!("conn.log-{rotations:03}");
                    if what == 3 {
                        logs.rename("conn.log", &name);
                    } else {
                        // seen before it is cut again: two cuts without a look lose what was between them
                        found.extend(followed.lines());
                        logs.copy_and_cut("conn.log", &name);
                    }
                    if below(2) == 0 && what == 3 {
                        logs.gzip(&name);
                    }
                    logs.append("conn.log", HEADER);
                    tick();
                }
                5 => found.extend(followed.lines()),
                6 => {
                    let positions = followed.follower.positions();
                    // as it is written and read
                    let positions: Vec<Position> = serde_json::from_str(&serde_json::to_string(&positions).unwrap()).unwrap();
                    followed = logs.follow("conn.log", &positions, true);
                }
                _ => {}
            }
        }
        logs.append("conn.log", &half);
        found.extend(followed.lines());
        assert_eq!(found, wanted(0..written), "seed {seed}: {done:?}: {:?}", followed.told);
    }
}

#[test]
fn files_of_a_folder_are_read_in_the_order_of_their_times_and_go_on_after_a_restart() {
    let logs = Logs::new();
    let folder = |name: &str| format!("logs/{name}");
    fs::create_dir(logs.path("logs")).unwrap();
    for (place, name) in ["b.log", "a.log"].iter().enumerate() {
        logs.append(&folder(name), &(HEADER.to_owned() + &rows(5 * place..5 * place + 5)));
        tick();
    }
    logs.append(&folder("old.log"), &(HEADER.to_owned() + &rows(0..5)));
    logs.gzip(&folder("old.log"));
    let mut followed = logs.follow("logs", &[], true);
    assert_eq!(followed.lines(), wanted(0..10));
    assert!(followed.has_told("1 packed files are archives"), "{:?}", followed.told);
    let state = followed.follower.positions();
    assert_eq!(state.len(), 2);
    drop(followed);
    logs.append(&folder("a.log"), &rows(10..12));
    logs.append(&folder("c.log"), &(HEADER.to_owned() + &rows(12..15)));
    logs.rename(&folder("b.log"), &folder("b.log.1"));
    let mut after = logs.follow("logs", &state, true);
    assert_eq!(after.lines(), wanted(10..15));
    // while it is followed: another file, one that was cut, and one that holds no flows
    File::options().write(true).open(logs.path(&folder("a.log"))).unwrap().set_len(0).unwrap();
    logs.append(&folder("a.log"), &(HEADER.to_owned() + &rows(15..16)));
    logs.append(&folder("d.log"), &(HEADER.to_owned() + &rows(16..18)));
    logs.append(&folder("page.html"), "<!doctype html>\n");
    let mut found = after.lines_until(3);
    found.sort();
    assert_eq!(found, wanted(15..18));
    after.lines();
    assert!(after.has_told("a web page") && after.has_told("was cut"), "{:?}", after.told);
    let pattern = logs.follow("logs/[cd].log", &[], true).lines();
    assert_eq!(pattern.len(), 5);
}

#[test]
fn a_header_in_the_middle_replaces_the_one_before_and_no_batch_has_lines_of_two() {
    let logs = Logs::new();
    let other = "#separator \\x09\n#fields\tuid\tts\tproto\n";
    logs.append("conn.log", &format!("{HEADER}{}#close\t1\n{other}{}#close\t2\n", rows(0..2), rows(2..4)));
    let mut followed = logs.follow("conn.log", &[], false);
    let [first, second] = [0, 1].map(|_| followed.batch(100).unwrap());
    assert_eq!((first.header, second.header), (HEADER.as_bytes().to_vec(), other.as_bytes().to_vec()));
    assert_eq!([first.lines.len(), second.lines.len()], [2, 2]);
    // the header is known after a restart
    let state = followed.follower.positions();
    logs.append("conn.log", &rows(4..5));
    assert_eq!(logs.follow("conn.log", &state, false).batch(9).unwrap().header, other.as_bytes());
    // of CSV the first line is the header, and one that repeats it is no row
    logs.append("flows.csv", "# made by hand\n\nts,uid,proto\n1,C1,tcp\n");
    let mut csv = logs.follow("flows.csv", &[], false);
    let batch = csv.batch(9).unwrap();
    assert_eq!((texts(&batch), batch.header), (vec!["1,C1,tcp".to_owned()], b"# made by hand\nts,uid,proto\n".to_vec()));
    logs.append("flows.csv", "ts,uid,proto\n2,C2,tcp\n");
    assert_eq!(csv.lines(), ["2,C2,tcp"]);
}

#[test]
fn a_line_that_is_too_long_is_passed_over_and_the_next_one_read() {
    let logs = Logs::new();
    logs.append("conn.log", &(HEADER.to_owned() + &row(0)));
    let mut followed = logs.follow("conn.log", &[], false);
    assert_eq!(followed.lines(), wanted(0..1));
    let start = fs::metadata(logs.path("conn.log")).unwrap().len();
    for _ in 0..3 {
        logs.append("conn.log", &"x".repeat(MAX_LINE));
        let batch = followed.batch(9);
        assert!(batch.is_none_or(|batch| batch.lines.is_empty() && batch.too_long == [start]));
    }
    let state = followed.follower.positions();
    for mut followed in [followed, logs.follow("conn.log", &state, false)] {
        if !fs::read_to_string(logs.path("conn.log")).unwrap().ends_with("udp\n") {
            logs.append("conn.log", "x\n\0\0\0C7\t7\tudp\n");
        }
        assert_eq!(followed.lines(), ["C7\t7\tudp"]);
    }
}

#[test]
fn what_is_no_text_is_named() {
    let logs = Logs::new();
    logs.append("flows.parquet", "PAR1 and so on\n");
    let mut followed = logs.follow("flows.parquet", &[], false);
    let error = followed.follower.next(&followed.schema, 7, &mut followed.told).unwrap_err().to_string();
    assert!(error.contains("Parquet") && error.contains("only text can be followed"), "{error}");
}
