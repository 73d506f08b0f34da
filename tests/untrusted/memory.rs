//! Files that claim, or unfold to, far more than they hold. `check` counts what is allocated: twice the file and 64 MiB at most.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, BooleanArray, DictionaryArray, Float64Array, RecordBatch};
use nids_config::{Config, Stage};
use nids_flows::{Ids, ReadOptions, Schema, Tokeniser};
use nids_pipeline::stages;
use nids_store::Run;
use nids_store::artefacts::write_atomic;
use nids_store::progress::Silent;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use serde_json::Value as Json;

use crate::check::{self, Folder};

/// Each is read within the memory and in a time that no one notices; debug builds are slow.
fn all(check: fn(&[u8]), files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        let start = Instant::now();
        let result = std::panic::catch_unwind(|| check(bytes));
        assert!(result.is_ok(), "{name}");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(30), "{name} took {took:?}");
    }
}

fn text(text: impl Into<String>) -> Vec<u8> {
    text.into().into_bytes()
}

#[test]
fn weights() {
    let file = |header: &str| [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let many: Vec<String> =
        (0..300_000).map(|i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    let few: Vec<String> = many[..15_000].to_vec();
    all(
        check::weights,
        &[
            ("a header of gigabytes", (5_u64 << 30).to_le_bytes().to_vec()),
            ("a header without end", u64::MAX.to_le_bytes().to_vec()),
            (
                "a tensor of gigabytes",
                file(r#"{"head.bias":{"dtype":"F32","shape":[4000000000],"data_offsets":[0,16000000000]}}"#),
            ),
            (
                "sizes that overflow",
                file(r#"{"head.bias":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#),
            ),
            ("nested deeply", file(&r#"{"a":"#.repeat(100_000))),
            ("a header of many tensors", file(&format!("{{{}}}", many.join(",")))),
            ("a header of as many as are read", file(&format!("{{{}}}", few.join(",")))),
            (
                "a shape of many sizes",
                file(&format!(r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(500_000))),
            ),
        ],
    );
}

#[test]
fn npy() {
    let file = |header: &str| [b"\x93NUMPY\x01\x00", (header.len() as u16).to_le_bytes().as_slice(), header.as_bytes()].concat();
    let of = |shape: &str| file(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n"));
    all(
        check::npy,
        &[
            ("fourteen bytes", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}".to_vec()),
            ("gigabytes", of("(1000000000, 64)")),
            ("sizes that overflow", of("(9223372036854775807, 9223372036854775807)")),
            ("nothing, many times", of("(9223372036854775807, 0)")),
            ("nothing, too many times", of("(9223372036854775807, 0, 9223372036854775807)")),
            ("nested deeply", file(&"(".repeat(1000))),
            ("lists nested deeply", file(&"[".repeat(1000))),
            ("lists nested deeply, to the end", of(&"[".repeat(1000))),
            ("tuples nested deeply, to the end", of(&"(".repeat(1000))),
            ("an expression", of(&format!("({}1,)", "-".repeat(900)))),
        ],
    );
}

#[test]
fn tokenisers() {
    let whole = |features: &str| {
        format!(
            r#"{{"format":"nids-mixer/tokeniser","version":1,"schema":{{"name":"a","columns":[{{"name":"x","kind":"categorical"}}]}},"config":{{"max_categories":65536}},"features":[{features}]}}"#
        )
    };
    let values = |value: &str, n| {
        text(whole(&format!(r#"{{"categorical":{{"values":[{}"a"],"code":{{"mean":0,"std":1}}}}}}"#, value.repeat(n))))
    };
    all(
        check::tokeniser,
        &[
            ("nested deeply", text("[".repeat(1_000_000))),
            ("features nested deeply", text(whole(&r#"{"parts":"#.repeat(100_000)))),
            ("empty texts", values(r#""","#, 500_000)),
            ("as many as are read", values(r#""","#, 300_000)),
            ("more empty texts", values(r#""","#, 5_000_000)),
            ("zeros", text(whole(&format!(r#"{{"parts":{{"knots":[{}0]}}}}"#, "0,".repeat(7_000_000))))),
            ("a huge file", text(" ".repeat(20 << 20))),
        ],
    );
}

/// Nine lists, each of nine of the one before.
fn laughs(key: &str) -> String {
    let mut lines = vec!["a0: &a0 [x, x, x, x, x, x, x, x, x]".to_owned()];
    for i in 1..9 {
        let before = vec![format!("*a{}", i - 1); 9].join(", ");
        lines.push(format!("a{i}: &a{i} [{before}]"));
    }
    lines.push(format!("{key}: *a8"));
    lines.join("\n")
}

#[test]
fn configs() {
    let keys: Vec<String> = (0..25_000).map(|i| format!("k{i}: 1")).collect();
    let blocks: Vec<String> = (0..700).map(|i| " ".repeat(i) + "a:").collect();
    all(
        check::config,
        &[
            ("a billion laughs", text(laughs("name"))),
            ("nested deeply", text("[".repeat(1 << 18))),
            ("mappings nested deeply", text("{a: ".repeat(1 << 16))),
            ("blocks nested deeply", text(blocks.join("\n"))),
            ("sequences nested deeply", text("- ".repeat(1 << 17))),
            ("many keys", text(keys.join("\n"))),
            ("many empty keys", text("? \n".repeat(80_000))),
            ("many values", text(format!("name: [{}]", "a,".repeat(125_000)))),
            ("a long text", text(format!("name: {}", "a".repeat(260_000)))),
            ("a longer text", text(format!("name: {}", "a".repeat(20 << 20)))),
            ("a long text in quotation marks", text(format!("name: \"{}", "\\x41".repeat(1 << 16)))),
            ("many overrides", text(format!("name: a{}", "\0seed=1".repeat(20_000)))),
            ("a deep override", text(format!("name: a\0{}=1", "a.".repeat(100_000) + "a"))),
        ],
    );
    let error = Config::parse(&"a: 1\n".repeat(10_000), "c.yaml", &[]).unwrap_err();
    assert_eq!(error.to_string(), "c.yaml:5001:1: more than 10000 keys and values, the limit for a config");
}

#[test]
fn schemas() {
    all(
        check::schema,
        &[
            ("a billion laughs", text(laughs("name"))),
            ("nested deeply", text("[".repeat(1 << 18))),
            ("mappings nested deeply", text("{a: ".repeat(1 << 16))),
            ("sequences nested deeply", text("- ".repeat(1 << 17))),
            ("many values", text(format!("name: [{}]", "a,".repeat(120_000)))),
            ("many columns", text(format!("name: a\ncolumns: [{}]", "{},".repeat(80_000)))),
            ("a huge file", text("a".repeat(20 << 20))),
        ],
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.yaml");
    write_atomic(&path, |out| out.write_all(&vec![b'a'; 1 << 20])).unwrap();
    let error = Schema::load(&path).unwrap_err().to_string();
    assert!(error.ends_with("s.yaml: larger than 262144 bytes, hence no schema"), "{error}");
}

#[test]
fn manifests() {
    all(
        check::manifest,
        &[
            ("nested deeply", text("[".repeat(1 << 18))),
            ("a config nested deeply", text(format!(r#"{{"config":{}"#, "[".repeat(1 << 17)))),
            ("a config of many values", text(format!(r#"{{"config":[{}0]}}"#, "0,".repeat(130_000)))),
            ("a huge file", text(" ".repeat(20 << 20))),
        ],
    );
}

#[test]
fn run_folders() {
    // tokens of a row that no weights account for: each of the 42 · 1024 latents of a row is a token of 1024
    let wide_head = "fits\0finetune.from=latents\0encode.latents=tokens\0finetune.patch_size=1\0model.dim=1024\0model.n_registers=0\
                     \0model.token_expansion=1e-9\0model.channel_expansion=1e-9";
    let large = "model.dim=4096\0model.depth=32\0model.token_expansion=64\0model.channel_expansion=64\0model.n_registers=1024\
                 \0finetune.members=64";
    all(
        check::run,
        &[
            ("a wide network", text("model.dim=4096")),
            ("a large network", text(large)),
            ("one over latents", text(format!("{large}\0finetune.from=latents\0encode.latents=tokens\0finetune.patch_size=1"))),
            ("members that share a large network", text(format!("{large}\0finetune.ensemble=batch"))),
            ("threads", text("fits\0engine.threads=1024")),
            ("gradients of many groups", text("fits\0model.dim=128\0engine.gradient_groups=256")),
            ("many rows at once", text("fits\0model.dim=512\0engine.shard=64\0engine.precision=bf16")),
            ("a head over many tokens", text(wide_head)),
            ("categories", text("fits\0classes=20000\0finetune.task=multiclass")),
            ("generated rows", text("fits\0data.synthetic.rows=100000000")),
        ],
    );
}

/// A tokeniser of `n` numeric features, each of which becomes one number.
fn of_features(n: usize) -> Tokeniser {
    let columns: Vec<String> = (0..n).map(|i| format!(r#"{{"name":"f{i}","kind":"numeric"}}"#)).collect();
    let features = vec![r#"{"scaled":{"mean":0,"std":1}}"#; n].join(",");
    let json = format!(
        r#"{{"format":"nids-mixer/tokeniser","version":1,"schema":{{"name":"wide","columns":[{}]}},"config":{{"normalisation":"standard"}},"features":[{features}]}}"#,
        columns.join(",")
    );
    Tokeniser::from_json(&json).unwrap()
}

#[test]
fn run_folders_of_many_features() {
    const COLUMNS: usize = 1500;
    const ROWS: usize = 8192;
    let many = of_features(100_000);
    let members = vec!["finetune.members=64".to_owned()];
    assert!(!Folder { settings: members, tokeniser: Some(&many), ..Folder::default() }.check());

    // a table of thousands of columns, none of which takes more than its place in the footer
    let wide = of_features(COLUMNS);
    let column: ArrayRef = Arc::new(Float64Array::from(vec![1.0; ROWS]));
    let columns = (0..COLUMNS).map(|i| (format!("f{i}"), Arc::clone(&column)));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.parquet");
    write_atomic(&path, |out| out.write_all(&bytes)).unwrap();
    let settings = vec!["tokeniser.normalisation=standard".to_owned(), "model.token_expansion=1e-9".to_owned()];
    assert!(Folder { settings, fits: true, tokeniser: Some(&wide), data: Some(&path), ..Folder::default() }.check());
}

/// Stages that go on from pretraining do so with the settings that its manifest records.
#[test]
fn later_stages_compare_the_network_with_the_weights_first() {
    let text = "name: a\ndata: { synthetic: { rows: 60, unlabelled_rows: 0 } }\nmodel: { dim: 4, depth: 1, n_registers: 0 }\n\
                engine: { gemm: tiles }\npretrain: { steps: 1, batch_size: 8 }\nfinetune: { from: pretrained, batch_size: 8 }\n";
    let large = ["model.dim=1024".to_owned(), "model.depth=16".to_owned()];
    let [config, large] = [&[][..], &large].map(|settings| Config::parse(text, "a.yaml", settings).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let run = Run::create(folder.path()).unwrap();
    stages::pretrain(&config, &run, &mut Silent).unwrap();
    let path = folder.path().join("manifest-pretrain.json");
    let mut manifest: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["config"] = serde_json::to_value(&*large).unwrap();
    manifest["config_hash"] = large.stage_hash(Stage::Pretrain).into();
    write_atomic(&path, |out| out.write_all(manifest.to_string().as_bytes())).unwrap();
    check::within(64 << 20, || {
        for error in [stages::encode(&large, &run, &mut Silent), stages::finetune(&large, &run, &mut Silent).map(drop)] {
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains("the file does not fit this network:\n  `encoder.embed.dur.weight` has shape [4, "),
                "{error}"
            );
        }
        assert!(!folder.path().join("manifest-encode.json").exists());
    });
}

#[test]
fn what_fits_gives_verdicts() {
    for settings in ["model.dim=8", "finetune.task=multiclass", "finetune.members=3", "engine.shard=64"] {
        let settings = vec![settings.to_owned()];
        assert!(Folder { settings, fits: true, classes: 5, ..Folder::default() }.check());
    }
    assert!(!Folder { settings: vec!["model.dim=8".to_owned()], ..Folder::default() }.check());
}

#[test]
fn stopped_runs() {
    all(
        check::stopped,
        &[
            ("a header of gigabytes", [&(1_u64 << 33).to_le_bytes()[..], b"{}"].concat()),
            ("a header of megabytes", [(4_u64 << 20).to_le_bytes().to_vec(), vec![b'['; 4 << 20]].concat()),
            ("nested deeply", text("[".repeat(1 << 18))),
            ("many files", text(format!(r#"{{"checkpoints":[{}0]}}"#, "0,".repeat(130_000)))),
        ],
    );
}

#[test]
fn checkpoints() {
    let header = format!("{:117}\n", "{'descr': '|O', 'fortran_order': False, 'shape': (), }");
    let file = |pickle: &[u8]| [b"\x93NUMPY\x01\x00v\x00", header.as_bytes(), b"\x80\x04", pickle].concat();
    let times = |op: &[u8], n: usize| file(&op.repeat(n));
    all(
        check::import,
        &[
            ("a header of gigabytes", b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec()),
            ("bytes of exabytes", file(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.")),
            ("bytes of gigabytes", file(b"B\xff\xff\xff\xff.")),
            ("a frame of gigabytes", file(b"\x95\xff\xff\xff\xff\xff\xff\xff\xff.")),
            ("a memo of gigabytes", file(b"]r\xff\xff\xff\xff.")),
            ("nested marks", times(b"(", 1_000_000)),
            ("nested tuples", file(&[b"N".to_vec(), b"\x85".repeat(1_000_000)].concat())),
            ("nested lists", times(b"]\x94h\x00a", 200_000)),
            ("a list of many", file(&[b"](".to_vec(), b"NNNNNNNNe(".repeat(100_000)].concat())),
            ("many arrays", times(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87Rq\x00", 10_000)),
        ],
    );
}

#[test]
fn csv() {
    let toy_header = "id,rate,size,proto,kind,label\n";
    let quoted = format!("{toy_header}1,1,1,\"{}", "a".repeat(20 << 20));
    all(
        check::csv,
        &[
            ("a header that does not end", vec![b'a'; 80 << 20]),
            ("a row that does not end", text(format!("{toy_header}{}", "a".repeat(80 << 20)))),
            ("a quotation mark that is not closed", text(quoted.clone())),
            ("a line end after each mark", text(format!("{toy_header}1,1,1,\"{}", "\"\"\n".repeat(1 << 20)))),
            ("marks", text(format!("{toy_header}{}", "\"".repeat(8 << 20)))),
            ("blank lines", text(format!("{toy_header}{}1,1,1,a,,0", "\r\n\n\r".repeat(2 << 20)))),
            ("a million columns", text(format!("{}\n", "a,".repeat(1_000_000)))),
            ("empty columns", text(",".repeat(2_000_000))),
            ("a row of a million cells", text(format!("{toy_header}{}\n", "1,".repeat(1_000_000)))),
            ("long texts", text(format!("{toy_header}{}", format!("1,1,1,{},a,1\n", "p".repeat(500_000)).repeat(40)))),
            ("many rows", text(format!("{toy_header}{}", "1,1,1,p,,1\n".repeat(100_000)))),
        ],
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    let toy = Schema::parse("toy", check::SCHEMA).unwrap();
    let told = |content: &str| {
        write_atomic(&path, |out| out.write_all(content.as_bytes())).unwrap();
        let error =
            nids_flows::read(&path, &toy, &ReadOptions { ids: Ids::Row, ..ReadOptions::default() }).unwrap_err().to_string();
        error.rsplit('/').next().unwrap().to_owned()
    };
    assert_eq!(
        told(&quoted),
        "a.csv:2: column \"proto\": the quotation mark that opens here is not closed within 1048576 bytes: close the field on its \
         line, and write a quotation mark that is text twice (\"\")"
    );
    assert_eq!(told(&format!("{toy_header}1,1,1,{}", "a".repeat(2 << 20))), "a.csv:2: a row of more than 1048576 bytes");
    assert_eq!(told(&",".repeat(200_000)), "a.csv:1: 200001 columns, wanted at most 65536");
    let text = format!("id,rate,size,proto,kind,label\n1,1,1,{},,1\n", "p".repeat(5000));
    assert_eq!(told(&text), "a.csv:2: column \"proto\": a text of 5000 bytes; wanted at most 4096");
}

/// Columns of the toy schema, the rate being `rate` and the protocol `proto`.
fn table(rate: Vec<f64>, proto: &str, change: impl FnOnce(WriterPropertiesBuilder) -> WriterPropertiesBuilder) -> Vec<u8> {
    let n = rate.len();
    let columns: [(&str, ArrayRef); 4] = [
        ("rate", Arc::new(Float64Array::from(rate))),
        ("size", Arc::new(Float64Array::from(vec![0.0; n]))),
        ("proto", Arc::new(std::iter::repeat_n(proto, n).collect::<DictionaryArray<Int32Type>>())),
        ("label", Arc::new(BooleanArray::from(vec![true; n]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = change(WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())));
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_files() {
    const LARGE: usize = 1 << 30;
    let footer = |footer: &[u8]| [b"PAR1", footer, &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat();
    // version 1, a schema of `n` elements, each a group of one or of `children`
    let schema = |n: u32, children: &[u8]| {
        let varint = |n: u32| [n as u8 | 0x80, (n >> 7) as u8 | 0x80, (n >> 14) as u8 & 0x7f];
        let element = [b"\x35\x00\x18\x01a\x15".as_slice(), children, b"\x00"].concat();
        footer(&[b"\x15\x02\x19\xfc".as_slice(), &varint(n), &element.repeat(n as usize), b"\x16\x00\x19\x0c\x00"].concat())
    };
    // a root with one column of numbers, then `n` row groups (4) or keys (5)
    let list = |field: u8, n: u32, element: &[u8]| {
        let varint = |n: u32| [n as u8 | 0x80, (n >> 7) as u8 | 0x80, (n >> 14) as u8 | 0x80, (n >> 21) as u8 & 0x7f];
        let root = b"\x35\x00\x18\x01a\x15\x02\x00";
        let column = b"\x15\x02\x25\x00\x18\x04rate\x00";
        let head =
            [b"\x15\x02\x19\x2c".as_slice(), root, column, b"\x16\x00", &[(field - 3) << 4 | 9, 0xfc], &varint(n)].concat();
        footer(&[head, element.repeat(n as usize), vec![0]].concat())
    };
    let chunk = b"\x26\x00\x1c\x15\x02\x19\x15\x00\x19\x18\x04rate\x15\x00\x16\x00\x16\x00\x16\x00\x26\x00\x00\x00";
    let row_group = [b"\x19\x1c", chunk.as_slice(), b"\x16\x00\x16\x00\x00"].concat();
    let one_page = |bytes: usize| {
        move |properties: WriterPropertiesBuilder| {
            properties
                .set_dictionary_enabled(false)
                .set_data_page_size_limit(bytes)
                .set_data_page_row_count_limit(LARGE)
                .set_write_batch_size(LARGE)
        }
    };
    let bomb = table(vec![0.0; 8 << 20], "tcp", one_page(LARGE));
    assert!(bomb.len() < 100_000);
    let long = "p".repeat(1 << 20);
    let repeated = table(vec![0.0; 4096], &long, |properties| properties.set_dictionary_page_size_limit(2 << 20));
    assert!(repeated.len() < 100_000);
    let delta = table(vec![0.0; 9], "tcp", |properties| {
        properties.set_dictionary_enabled(false).set_writer_version(WriterVersion::PARQUET_2_0)
    });
    let rows = table(vec![0.0; 3 << 20], "tcp", |properties| properties);
    assert!(rows.len() < 100_000);
    all(
        check::parquet,
        &[
            ("a footer of gigabytes", b"PAR1\xff\xff\xff\xffPAR1".to_vec()),
            ("nested groups", schema(200_000, b"\x02")),
            ("a group of billions", schema(2, b"\xfe\xff\xff\xff\x0f")),
            ("row groups by the million", list(4, 4_000_000, b"\0")),
            ("as many row groups as may be", list(4, 1 << 15, &row_group)),
            ("keys by the million", list(5, 4_000_000, b"\0")),
            ("a page that unfolds", bomb.clone()),
            ("one text for many rows", repeated.clone()),
            ("many rows", rows.clone()),
        ],
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let toy = Schema::parse("toy", check::SCHEMA).unwrap();
    let told = |content: &[u8]| {
        write_atomic(&path, |out| out.write_all(content)).unwrap();
        let error =
            nids_flows::read(&path, &toy, &ReadOptions { ids: Ids::Row, ..ReadOptions::default() }).unwrap_err().to_string();
        error.lines().next().unwrap().rsplit('/').next().unwrap().to_owned()
    };
    let footers = [
        schema(1000, b"\x02"),
        schema(2, b"\xfe\xff\xff\xff\x0f"),
        list(4, 4_000_000, b"\0"),
        list(4, 1 << 15, &row_group),
        list(5, 4_000_000, b"\0"),
    ];
    let told: Vec<String> = footers.iter().chain([&bomb, &repeated, &rows, &delta]).map(|file| told(file)).collect();
    insta::with_settings!({filters => vec![(r"out of [0-9]+|more than [0-9]+", "[N]")]}, {
        insta::assert_snapshot!(told.join("\n"), @r#"
        a.parquet: not a readable Parquet file: Parquet error: columns nested deeper than 32 levels
        a.parquet: not a readable Parquet file: Parquet error: a column of 2147483647 columns, of 2 in all
        a.parquet: not a readable Parquet file: Parquet error: 4000000 row groups of 2 columns, expected at most 65536 in all: write larger row groups
        a.parquet: missing columns "size", "proto" of schema `toy`
        a.parquet: not a readable Parquet file: Parquet error: 4000000 keys in its footer, expected at most 65536
        a.parquet: not a readable Parquet file: Parquet argument error: Parquet error: a page of 8388608 bytes [N], expected at most 1310720: write smaller pages
        a.parquet: 4096 cells in 4096 of 4096 rows cannot be read: to leave such rows out, pass `--on-bad-row skip --rejects FILE`
        a.parquet: [N] rows in a file of its size: not a table of flows
        a.parquet: not a readable Parquet file: Parquet argument error: Parquet error: delta-coded texts are not read here: write them plain or with a dictionary
        "#);
    });
}

#[test]
fn a_tokeniser_of_many_features_is_read() {
    let flows = nids_flows::synthetic(3000, 1);
    let rows: Vec<u32> = (0..3000).collect();
    let config = nids_flows::TokeniserConfig { bins: 1024, ..Default::default() };
    let tokeniser = Tokeniser::fit(&flows, &rows, &config).unwrap();
    assert_eq!(Tokeniser::from_json(&tokeniser.to_json()).unwrap(), tokeniser);
}
