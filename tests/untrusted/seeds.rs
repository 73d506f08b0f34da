//! Small files of every kind, made by the code that writes them in a run: what fuzzing starts from.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use flate2::Compression;
use flate2::write::GzEncoder;
use ndarray::{Array1, Array2};
use nids_config::{Config, Stage};
use nids_detect::background::Background;
use nids_detect::operation::{Adaptation, Calibration, Carried, HeldOutRows, OperatingPoint};
use nids_detect::profile::{FeatureProfile, Profile, ScoreProfile};
use nids_eval::adaptation::{Condition, Correction, PriorShift, Segment, Test};
use nids_eval::calibration::Scaling;
use nids_eval::operating::BenignScores;
use nids_flows::{KnownRows, Normalisation, ReadOptions, Schema, Tokeniser, TokeniserConfig};
use nids_nn::{Linear, ParamTable, weights};
use nids_pipeline::stages;
use nids_store::artefacts::{Digest, digest, sha256, write_atomic};
use nids_store::parts::{Input, InputFile, PartManifest};
use nids_store::progress::{Event, Progress, Silent};
use nids_store::{Run, npy};

use crate::check::{FLOWS, SCHEMA};
use crate::columnar::{Format, columnar};

/// One file, and the target that reads it.
pub(crate) struct Seed {
    pub(crate) target: &'static str,
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// Tables that no schema is known of, with a column of each kind that a proposal tells apart.
fn unknown_files(write: &mut dyn FnMut(&'static str, &str, &[u8])) {
    let labels = ["Normal", "Attack"];
    let rows = (0..24).map(|row| {
        let (second, port, label) = (row % 60, 1024 + 7 * row, labels[usize::from(row % 3 == 0)]);
        format!("2024-01-02 03:04:{second:02},10.0.0.{row},{port},{}.5,-,{},0,{label}\n", 3 * row, ["tcp", "udp"][row % 2])
    });
    let table = format!("Time,Src IP,Src Port,Rate,Gap,Proto,Constant,Label\n{}", rows.collect::<String>());
    write("proposal", "table.csv", table.as_bytes());
    write("proposal", "semicolons.csv", table.replace(',', ";").as_bytes());
    let objects = (0..8).map(|row| format!("{{\"a\": {{\"b\": {row}}}, \"c\": \"x\", \"label\": {}}}\n", row % 2));
    write("proposal", "objects.json", objects.collect::<String>().as_bytes());
    write("proposal", "flows.csv", FLOWS.as_bytes());
}

/// The manifest that `predict --part` leaves.
fn part(folder: &Path, csv: &Path, write: &mut dyn FnMut(&'static str, &str, &[u8])) {
    let content = digest(csv).unwrap();
    let input = Input::of([(Path::new("flows.csv"), content.bytes)].into_iter());
    let read = InputFile { path: "flows.csv".to_owned(), begin_in: Some((0, 40)), content };
    let made_by =
        [("model", sha256(b"m")), ("threshold", "threshold 0.5".to_owned())].map(|(key, value)| (key.to_owned(), value));
    let mut part = PartManifest::new(0, 2, made_by.into(), input, vec![read]);
    (part.rows, part.rejected) = (3, 1);
    let files =
        ["csv", "rejects.csv"].map(|ending| (format!("{}.{ending}", part.stem()), Digest { sha256: sha256(b""), bytes: 0 }));
    part.files = files.into();
    part.write(folder).unwrap();
    write("part", "part.json", &fs::read(folder.join("part-00000-of-00002.json")).unwrap());
}

/// All of them, always the same.
pub(crate) fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut write = |target: &'static str, name: &str, bytes: &[u8]| {
        seeds.push(Seed { target, name: name.to_owned(), bytes: bytes.to_vec() });
    };
    let mut table = ParamTable::default();
    Linear::new(&mut table.root().at("encoder").at("proj"), 3, 5);
    Linear::new(&mut table.root().at("head"), 5, 2);
    write("weights", "all.safetensors", &weights::to_bytes(&table, &table.init::<f32>(1), "{\"kind\":\"seed\"}"));

    write("npy", "latents.npy", &array(|out| npy::write(&Array2::<f32>::ones((3, 5)), out)));
    write("npy", "columns.npy", &array(|out| npy::write(&Array2::<f32>::ones((3, 5)).reversed_axes(), out)));
    write("npy", "labels.npy", &array(|out| npy::write(&Array1::<u8>::ones(7), out)));
    write("npy", "rows.npy", &array(|out| npy::write(&Array1::<u32>::ones(7), out)));

    let scratch = tempfile::tempdir().unwrap();
    let csv = scratch.path().join("flows.csv");
    let toy = Schema::parse("toy", SCHEMA).unwrap();
    write_atomic(&csv, |out| out.write_all(FLOWS.as_bytes())).unwrap();
    let flows = nids_flows::read(&csv, &toy, &ReadOptions::labelled()).unwrap();
    for normalisation in [Normalisation::Features, Normalisation::Standard, Normalisation::GlobalMax] {
        let config = TokeniserConfig { normalisation, bins: 3, min_count: 1, ..TokeniserConfig::default() };
        let tokeniser = Tokeniser::fit(&flows, &[0, 1, 2, 3], &config).unwrap();
        write("tokeniser", &format!("{normalisation:?}.json").to_lowercase(), tokeniser.to_json().as_bytes());
    }

    part(scratch.path(), &csv, &mut write);
    operating_points(&mut write);
    write("rows", "three.bin", &KnownRows::new(vec![1, 1 << 40, u64::MAX]).to_bytes());
    let scores = ScoreProfile::of(&[0.1, 0.9, 0.2, 0.8, 0.8, 0.3], &[0, 1, 0, 1, 1, 0]);
    let profile = Profile { features: FeatureProfile::of(&flows, &[0, 1, 2, 3], &[0, 1]), scores };
    write("profile", "toy.json", &profile.to_bytes());

    write("background", "toy.json", &Background::of(&flows, &[0, 1, 2, 3], &[0, 1, 2]).to_bytes());

    let configs = [
        "name: seed",
        "name: seed\nseed: 7\nmodel: { dim: 32, depth: 2 }\npretrain: { objective: { mae: { mask_ratio: 0.4 } } }\n",
        "name: seed\npretrain:\n  objective: vae\n  schedule: { cosine_restarts: { t_0: 5 } }\nencode: { noise: { sigma: 0.5 } }\n",
        "name: seed\nfinetune: { task: { multiclass: { class_balance: 0.9 } }, optimiser: { adam: { beta1: 0.9 } } }\n\0seed=3\0model.dim=16",
    ];
    for (i, text) in configs.into_iter().enumerate() {
        write("config", &format!("{i}.yaml"), text.as_bytes());
    }
    let config = Config::parse(configs[0], "seed.yaml", &[]).unwrap();
    write("config", "resolved.yaml", config.to_yaml().as_bytes());

    write("schema", "toy.yaml", SCHEMA.as_bytes());
    write("schema", "flow.yaml", b"{ name: a, columns: [{ name: x, kind: numeric }, { name: \"y\", kind: 'label' }] }");

    write("csv", "flows.csv", FLOWS.as_bytes());
    write(
        "csv",
        "other.csv",
        b"\xef\xbb\xbfLabel, PROTO ,extra,rate,SIZE\r\n1, tcp ,9,-0.0,1\r\n\r\n0,-,9, 1e3 ,\"2\"\r\n0.0,,9,.5,3",
    );
    write(
        "csv",
        "quoted.csv",
        b"rate,size,proto,note\n1,2,\"a\nb\",\"x\"\"y\r\n\nz\"\n3,4,c\"d,\"\"\n\n5,6,\"e, f\",\"g, h\ni\"\n",
    );

    for (i, layout) in [0b00_1000, 0b01_0000, 0b10_1000, 0b11_0001].into_iter().enumerate() {
        let columns: [(&str, ArrayRef); 5] = [
            ("label", Arc::new(BooleanArray::from(vec![true, false, false]))),
            ("id", Arc::new(Int64Array::from(vec![7, 8, 9]))),
            ("proto", Arc::new(["tcp", "udp", "tcp"].into_iter().collect::<DictionaryArray<Int32Type>>())),
            ("size", Arc::new(StringArray::from(vec!["1", "2.5", "1e3"]))),
            ("rate", Arc::new(Float64Array::from(vec![0.5, -0.0, 3.0]))),
        ];
        write("parquet", &format!("{i}.parquet"), &columnar(columns, &Format::numbered(layout, 0x14)));
    }

    other_formats(&mut write);
    unknown_files(&mut write);

    write("import", "checkpoint.npy", &checkpoint());

    let run = Run::create(&scratch.path().join("run")).unwrap();
    let mut stage = run.begin(Stage::Pretrain, &config, &mut Silent).unwrap();
    stage.write("weights", b"w").unwrap();
    stage.finish("scalar").unwrap();
    write("manifest", "pretrain.json", &fs::read(run.folder().join("manifest-pretrain.json")).unwrap());
    let networks = [
        "fits\0model.dim=8\0model.depth=2\0finetune.task=multiclass\0classes=4",
        "fits\0finetune.members=3\0finetune.ensemble.batch.shared_blocks=1\0engine.precision=bf16",
        "fits\0finetune.from=latents\0encode.latents=tokens\0finetune.patch_size=4\0finetune.members=2",
        "model.dim=4096\0finetune.members=64\0engine.shard=64\0engine.gradient_groups=256\0engine.threads=1024",
    ];
    for (i, settings) in networks.into_iter().enumerate() {
        write("run", &format!("{i}.txt"), settings.as_bytes());
    }
    let run = Run::create(&scratch.path().join("stopped")).unwrap();
    stages::pretrain(&small(), &run, &mut StopsAtOnce).unwrap_err();
    for name in ["pretrain.json", "pretrain-step-1.safetensors"] {
        write("stopped", name, &fs::read(run.folder().join("checkpoints").join(name)).unwrap());
    }
    seeds
}

/// A calibration, and adaptations with and without labels.
fn operating_points(write: &mut dyn FnMut(&'static str, &str, &[u8])) {
    let scores: Vec<f32> = (0..40).map(|i| (i * i % 37) as f32 / 40.0).collect();
    let benign = BenignScores::new(&scores).unwrap();
    let digest = Digest { sha256: sha256(b"model"), bytes: 5 };
    let point = OperatingPoint::Budget { fpr: 0.1, threshold: 0.875 };
    let calibration = Calibration {
        model: digest.clone(),
        rows: HeldOutRows { files: Some(vec![("flows.csv".to_owned(), digest.clone())]), benign: 40, attacks: 30 },
        scaling: Some(Scaling { slope: 0.5, offset: -0.25 }),
        benign: benign.clone(),
        point,
    };
    write("operation", "calibration.json", &calibration.to_bytes());
    let config = Calibration { scaling: None, point: OperatingPoint::Config, ..calibration };
    write("operation", "benign.json", &config.to_bytes());
    let conditions = |fails| {
        let first = Condition { feature: 2, value: 0.5, test: Test::AtMost, fails };
        vec![first, Condition { feature: 5, value: 3.0, test: Test::Is, fails: true }]
    };
    let segments = [(false, 1.5), (true, -2.0)].map(|(fails, weight)| Segment { conditions: conditions(fails), weight });
    let labels = Adaptation {
        model: digest.clone(),
        calibration: Some(digest.clone()),
        correction: Correction { slope: 0.75, offset: 0.5, segments: segments.to_vec() },
        prior: None,
        carried: Some(Carried { benign, point }),
    };
    write("operation", "labels.json", &labels.to_bytes());
    let correction = Correction { slope: 1.0, offset: -0.5, segments: Vec::new() };
    let prior = PriorShift { before: 0.5, after: 0.25, shift: -1.0, likelihood_ratio: 9.0 };
    let prior = Adaptation { calibration: None, correction, prior: Some(prior), carried: None, ..labels };
    write("operation", "prior.json", &prior.to_bytes());
}

/// Flows in formats other than CSV and Parquet.
fn other_formats(write: &mut dyn FnMut(&'static str, &str, &[u8])) {
    let object = |rate: &str, proto: &str, label: u8| {
        format!(
            "{{\"id\": 1, \"rate\": {rate}, \"size\": \"2\", \"proto\": \"{proto}\", \"more\": {{\"a\": [1, null]}}, \"label\": {label}}}"
        )
    };
    let objects = [object("0.5", "tcp", 0), object("null", "a}\\\"{", 1), object("1e3", "u\\u0064p", 1)];
    write("json", "lines.json", objects.join("\n").as_bytes());
    write("json", "list.json", format!("[\n{}\n]\n", objects.join(",\n")).as_bytes());
    write(
        "zeek",
        "conn.log",
        b"#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n#fields\tid\trate\tsize\tproto   label\n\
          1\t0.5\t-\ttcp   0\n2\t1e3\t7\t(empty)   1\n3\t-\t\\x31\tu\\x64p   1\n#close\t2022\n",
    );
    write("watch", "lines.json", (objects.join("\n") + "\n").as_bytes());
    write("watch", "flows.csv", FLOWS.as_bytes());
    write(
        "watch",
        "conn.log",
        b"#separator \\x09\n#fields\tid\trate\tsize\tproto\tid.orig_h\tid.resp_h\tts\n1\t2\t3\ttcp\t10.0.0.1\t10.0.0.2\t1714979289.4\n",
    );
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int64Array::from(vec![7, 8, 9]))),
        ("proto", Arc::new(["tcp", "udp", "tcp"].into_iter().collect::<DictionaryArray<Int32Type>>())),
        ("size", Arc::new(StringArray::from(vec![Some("1"), None, Some("1e3")]))),
        ("rate", Arc::new(Float64Array::from(vec![Some(0.5), None, Some(3.0)]))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, cells)| (name, cells, true))).unwrap();
    let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    write("arrow", "stream.arrow", &stream.into_inner().unwrap());
    let mut file = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    file.write(&batch).unwrap();
    write("arrow", "file.arrow", &file.into_inner().unwrap());
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(FLOWS.as_bytes()).unwrap();
    write("coded", "flows.csv.gz", &gzip.finish().unwrap());
    write("coded", "flows.csv.zst", &zstd::encode_all(FLOWS.as_bytes(), 1).unwrap());
    let utf16: Vec<u8> = "\u{feff}".encode_utf16().chain(FLOWS.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    write("coded", "utf16.csv", &utf16);
}

/// A run that leaves a checkpoint of some kilobytes.
fn small() -> Config {
    let text = "name: seed\ndata: { synthetic: { rows: 40, unlabelled_rows: 0 } }\ntokeniser: { quantile: false, log1p: true, bins: 0, \
                one_hot: false }\nmodel: { dim: 1, depth: 1, n_registers: 0, token_expansion: 0.05, channel_expansion: 1 }\n\
                engine: { gemm: tiles }\npretrain: { steps: 2, batch_size: 8 }\n";
    Config::parse(text, "seed.yaml", &[]).unwrap()
}

/// Wants every stage to stop after its first step.
struct StopsAtOnce;

impl Progress for StopsAtOnce {
    fn event(&mut self, _: Event<'_>) {}

    fn stop(&mut self) -> Option<u8> {
        Some(15)
    }
}

fn array(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes).unwrap();
    bytes
}

/// A checkpoint of a model without blocks, P 2, D 3, C 1, as numpy pickles it.
fn checkpoint() -> Vec<u8> {
    fn text(text: &str) -> Vec<u8> {
        [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    }
    fn array(shape: &[u8], code: &str, data: &[u8]) -> Vec<u8> {
        let (order, flags) = if code == "O8" { ("|", 63) } else { ("<", 0) };
        [
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01(".as_slice(),
            &shape.iter().flat_map(|&size| [b'K', size]).collect::<Vec<u8>>(),
            b"tcnumpy\ndtype\n",
            &text(code),
            b"\x89\x88\x87R(K\x03",
            &text(order),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK",
            &[flags],
            b"tb\x89",
            data,
            b"tb",
        ]
        .concat()
    }
    let numbers = |shape: &[u8]| {
        let n: u32 = shape.iter().map(|&size| u32::from(size)).product();
        array(shape, "f4", &[b"B".as_slice(), &(4 * n).to_le_bytes(), &vec![0; 4 * n as usize]].concat())
    };
    let arrays: [(&str, &[u8]); 6] = [
        ("Linear_weight_11", &[3, 2]),
        ("Linear_bias_12", &[3]),
        ("LayerNorm_weight_13", &[3]),
        ("LayerNorm_bias_14", &[3]),
        ("Linear_weight_15", &[1, 3]),
        ("Linear_bias_16", &[1]),
    ];
    let model: Vec<u8> = arrays.iter().flat_map(|(key, shape)| [text(key), numbers(shape)].concat()).collect();
    let moments = [text("step"), b"K\x07".to_vec(), text("exp_avg"), numbers(&[3]), text("exp_avg_sq"), numbers(&[3])].concat();
    let content = [
        b"]}(".to_vec(),
        text("model_state"),
        b"}(".to_vec(),
        model,
        b"u".to_vec(),
        text("optimizer_state"),
        b"}K\x0c}(".to_vec(),
        moments,
        b"usua".to_vec(),
    ]
    .concat();
    let header = format!("{:117}\n", "{'descr': '|O', 'fortran_order': False, 'shape': (), }");
    [b"\x93NUMPY\x01\x00v\x00", header.as_bytes(), b"\x80\x03", &array(&[], "O8", &content), b"."].concat()
}
