//! Files that get past the header: what libFuzzer changes here is what a file says, not the lengths that hold it together.

use std::sync::Arc;

use arbitrary::Arbitrary;
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, BooleanArray, DictionaryArray, Float32Array, Float64Array, Int64Array, StringArray};
use serde_json::{Map, Value as Json, json};

use crate::columnar::{Format, columnar};

/// A change of a file's bytes.
#[derive(Arbitrary, Debug)]
pub enum Edit {
    /// Another byte.
    Set(u16, u8),
    /// One bit flipped.
    Flip(u16, u8),
    /// From the end, where Parquet has its footer.
    SetFromEnd(u16, u8),
    /// A byte more.
    Insert(u16, u8),
    /// Some bytes fewer.
    Remove(u16, u8),
    /// The end of the file.
    Cut(u16),
}

fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits.iter().take(16) {
        let n = bytes.len();
        let place = |at: &u16| usize::from(*at) % n;
        if n == 0 {
            break;
        }
        match edit {
            Edit::Set(at, byte) => bytes[place(at)] = *byte,
            Edit::Flip(at, bit) => bytes[place(at)] ^= 1 << (bit % 8),
            Edit::SetFromEnd(at, byte) => bytes[n - 1 - place(at)] = *byte,
            Edit::Insert(at, byte) => bytes.insert(place(at), *byte),
            Edit::Remove(at, some) => drop(bytes.drain(place(at)..n.min(place(at) + usize::from(*some)))),
            Edit::Cut(at) => bytes.truncate(place(at)),
        }
    }
    bytes
}

/// An `.npy` file whose header is as long as it says.
#[derive(Arbitrary, Debug)]
pub struct Npy {
    version: u8,
    descr: Descr,
    fortran: bool,
    shape: Vec<Size>,
    /// Instead of the header that the above make.
    header: Option<String>,
    data: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Descr {
    F32,
    U8,
    U32,
    Big,
    Other(String),
}

#[derive(Arbitrary, Debug)]
enum Size {
    Small(u8),
    Any(i64),
}

impl Npy {
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let descr = match &self.descr {
            Descr::F32 => "<f4",
            Descr::U8 => "|u1",
            Descr::U32 => "<u4",
            Descr::Big => ">f4",
            Descr::Other(text) => text,
        };
        let shape: String = self
            .shape
            .iter()
            .map(|size| match size {
                Size::Small(size) => format!("{size}, "),
                Size::Any(size) => format!("{size}, "),
            })
            .collect();
        let fortran = if self.fortran { "True" } else { "False" };
        let made = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({shape}), }}\n");
        let header = self.header.as_ref().unwrap_or(&made).as_bytes();
        let length = (header.len() as u32).to_le_bytes();
        let version = self.version % 5;
        let length = if version == 1 { &length[..2] } else { &length[..] };
        [b"\x93NUMPY".as_slice(), &[version, 0], length, header, &self.data].concat()
    }
}

/// A safetensors file whose header is as long as it says.
#[derive(Arbitrary, Debug)]
pub struct Weights {
    tensors: Vec<Tensor>,
    metadata: Option<String>,
    data: Vec<u8>,
    edits: Vec<Edit>,
}

#[derive(Arbitrary, Debug)]
struct Tensor {
    name: Name,
    dtype: Dtype,
    shape: Option<Vec<Size>>,
    /// Added to where it would start and end, one after the other.
    offsets: Option<(i64, i64)>,
}

#[derive(Arbitrary, Debug)]
enum Name {
    ProjWeight,
    ProjBias,
    HeadWeight,
    HeadBias,
    Other(String),
}

#[derive(Arbitrary, Debug)]
enum Dtype {
    F32,
    F64,
    F4,
    Bool,
    Other(String),
}

impl Weights {
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = Map::new();
        let mut at = 0_i64;
        for tensor in self.tensors.iter().take(64) {
            let (name, shape): (&str, &[i64]) = match &tensor.name {
                Name::ProjWeight => ("encoder.proj.weight", &[5, 3]),
                Name::ProjBias => ("encoder.proj.bias", &[5]),
                Name::HeadWeight => ("head.weight", &[2, 5]),
                Name::HeadBias => ("head.bias", &[2]),
                Name::Other(name) => (name, &[1]),
            };
            let size = |size: &Size| match size {
                Size::Small(size) => i64::from(*size),
                Size::Any(size) => *size,
            };
            let shape: Vec<i64> = tensor.shape.as_ref().map_or_else(|| shape.to_vec(), |shape| shape.iter().map(size).collect());
            let (dtype, width) = match &tensor.dtype {
                Dtype::F32 => ("F32", 4),
                Dtype::F64 => ("F64", 8),
                Dtype::F4 => ("F4", 1),
                Dtype::Bool => ("BOOL", 1),
                Dtype::Other(name) => (name.as_str(), 1),
            };
            let end = shape.iter().fold(width, |n: i64, &size| n.wrapping_mul(size)).wrapping_add(at);
            let (from, to) = tensor.offsets.unwrap_or_default();
            let offsets = [at.wrapping_add(from), end.wrapping_add(to)];
            header.insert(name.to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            at = end;
        }
        if let Some(text) = &self.metadata {
            header.insert("__metadata__".to_owned(), json!({"nids_mixer": text}));
        }
        let mut header = edited(Json::Object(header).to_string().into_bytes(), &self.edits);
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut data = self.data.clone();
        if let Ok(wanted @ 0..4096) = usize::try_from(at) {
            data.resize(wanted, 0);
        }
        [&(header.len() as u64).to_le_bytes(), header.as_slice(), &data].concat()
    }
}

/// A pickle in an `.npy` file, opcode by opcode.
#[derive(Arbitrary, Debug)]
pub struct Pickle(Vec<Op>);

#[derive(Arbitrary, Debug)]
enum Op {
    Protocol(u8),
    Frame(u64),
    None,
    True,
    False,
    Int(i32),
    Byte(u8),
    Long(Vec<u8>),
    Text(String),
    Key(Key),
    Bytes(Vec<u8>),
    BytesOf(u64),
    Mark,
    Tuple(u8),
    MarkedTuple,
    EmptyTuple,
    List,
    Dict,
    Append,
    Appends,
    SetItem,
    SetItems,
    Get(u8),
    LongGet(u32),
    Put(u8),
    Memoize,
    Global(Global),
    StackGlobal,
    Reduce,
    Build,
    Stop,
    Raw(u8),
    /// An array as numpy writes it.
    Array(Vec<u8>, bool),
    /// What is left open of an array of objects.
    Objects,
}

#[derive(Arbitrary, Debug)]
enum Key {
    Model,
    Optimiser,
    LinearWeight(u8),
    LinearBias(u8),
    NormWeight(u8),
    NormBias(u8),
    Step,
    ExpAvg,
    ExpAvgSq,
    Little,
    Bar,
    F4,
    O8,
}

#[derive(Arbitrary, Debug)]
enum Global {
    Reconstruct,
    Ndarray,
    Dtype,
    System,
}

impl Pickle {
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let header = format!("{:117}\n", "{'descr': '|O', 'fortran_order': False, 'shape': (), }");
        let mut out = [b"\x93NUMPY\x01\x00v\x00", header.as_bytes(), b"\x80\x03"].concat();
        self.0.iter().take(1000).for_each(|op| op.write(&mut out));
        out.push(b'.');
        out
    }
}

fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// `_reconstruct(ndarray, (0,), b"b")` and the start of its state.
const RECONSTRUCT: &[u8] = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01(";

fn dtype(code: &str, order: &str, flags: u8) -> Vec<u8> {
    let start = [b"tcnumpy\ndtype\n".as_slice(), &text(code), b"\x89\x88\x87R(K\x03", &text(order)].concat();
    [&start, b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK".as_slice(), &[flags], b"tb"].concat()
}

impl Op {
    fn write(&self, out: &mut Vec<u8>) {
        let bytes: Vec<u8> = match self {
            Op::Protocol(version) => vec![0x80, *version],
            Op::Frame(len) => [b"\x95".as_slice(), &len.to_le_bytes()].concat(),
            Op::None => b"N".to_vec(),
            Op::True => vec![0x88],
            Op::False => vec![0x89],
            Op::Int(int) => [b"J".as_slice(), &int.to_le_bytes()].concat(),
            Op::Byte(byte) => vec![b'K', *byte],
            Op::Long(bytes) => [&[0x8a, bytes.len() as u8], bytes.as_slice()].concat(),
            Op::Text(found) => text(found),
            Op::Key(key) => text(&match key {
                Key::Model => "model_state".to_owned(),
                Key::Optimiser => "optimizer_state".to_owned(),
                Key::LinearWeight(id) => format!("Linear_weight_{id}"),
                Key::LinearBias(id) => format!("Linear_bias_{id}"),
                Key::NormWeight(id) => format!("LayerNorm_weight_{id}"),
                Key::NormBias(id) => format!("LayerNorm_bias_{id}"),
                Key::Step => "step".to_owned(),
                Key::ExpAvg => "exp_avg".to_owned(),
                Key::ExpAvgSq => "exp_avg_sq".to_owned(),
                Key::Little => "<".to_owned(),
                Key::Bar => "|".to_owned(),
                Key::F4 => "f4".to_owned(),
                Key::O8 => "O8".to_owned(),
            }),
            Op::Bytes(bytes) => [b"B".as_slice(), &(bytes.len() as u32).to_le_bytes(), bytes].concat(),
            Op::BytesOf(len) => [b"\x8e".as_slice(), &len.to_le_bytes()].concat(),
            Op::Mark => b"(".to_vec(),
            Op::Tuple(n) => vec![0x85 + n % 3],
            Op::MarkedTuple => b"t".to_vec(),
            Op::EmptyTuple => b")".to_vec(),
            Op::List => b"]".to_vec(),
            Op::Dict => b"}".to_vec(),
            Op::Append => b"a".to_vec(),
            Op::Appends => b"e".to_vec(),
            Op::SetItem => b"s".to_vec(),
            Op::SetItems => b"u".to_vec(),
            Op::Get(index) => vec![b'h', *index],
            Op::LongGet(index) => [b"j".as_slice(), &index.to_le_bytes()].concat(),
            Op::Put(index) => vec![b'q', *index],
            Op::Memoize => vec![0x94],
            Op::Global(global) => match global {
                Global::Reconstruct => b"cnumpy._core.multiarray\n_reconstruct\n".to_vec(),
                Global::Ndarray => b"cnumpy\nndarray\n".to_vec(),
                Global::Dtype => b"cnumpy\ndtype\n".to_vec(),
                Global::System => b"cos\nsystem\n".to_vec(),
            },
            Op::StackGlobal => vec![0x93],
            Op::Reduce => b"R".to_vec(),
            Op::Build => b"b".to_vec(),
            Op::Stop => b".".to_vec(),
            Op::Raw(byte) => vec![*byte],
            Op::Array(sizes, fortran) => {
                let sizes: Vec<u8> = sizes.iter().take(3).map(|size| size % 4).collect();
                let n: usize = sizes.iter().map(|&size| usize::from(size)).product();
                let shape: Vec<u8> = sizes.iter().flat_map(|&size| [b'K', size]).collect();
                let order = [if *fortran { 0x88 } else { 0x89 }];
                let data = [b"B".as_slice(), &(4 * n as u32).to_le_bytes(), &vec![0; 4 * n]].concat();
                [RECONSTRUCT, &shape, &dtype("f4", "<", 0), &order, &data, b"tb"].concat()
            }
            Op::Objects => [RECONSTRUCT, &dtype("O8", "|", 63), b"\x89]"].concat(),
        };
        out.extend_from_slice(&bytes);
    }
}

/// A Parquet file of the columns of [`crate::check::SCHEMA`], then damaged.
#[derive(Arbitrary, Debug)]
pub struct Table {
    rows: Vec<Row>,
    format: (u8, u8),
    edits: Vec<Edit>,
}

#[derive(Arbitrary, Debug)]
struct Row {
    rate: f32,
    size: Option<f64>,
    proto: Option<String>,
    label: bool,
}

impl Table {
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let rows = &self.rows[..self.rows.len().min(200)];
        let proto: DictionaryArray<Int32Type> = rows.iter().map(|row| row.proto.as_deref()).collect();
        let sizes = rows.iter().map(|row| row.size);
        let format = Format::numbered(self.format.0, self.format.1);
        let size: ArrayRef = if self.format.1 & 1 == 1 {
            Arc::new(sizes.map(|size| size.map(|size| size.to_string())).collect::<StringArray>())
        } else {
            Arc::new(sizes.collect::<Float64Array>())
        };
        let columns: [(&str, ArrayRef); 5] = [
            ("label", Arc::new(rows.iter().map(|row| Some(row.label)).collect::<BooleanArray>())),
            ("id", Arc::new((0..rows.len() as i64).collect::<Int64Array>())),
            ("proto", Arc::new(proto)),
            ("size", size),
            ("rate", Arc::new(rows.iter().map(|row| Some(row.rate)).collect::<Float32Array>())),
        ];
        edited(columnar(columns, &format), &self.edits)
    }
}

/// Settings of a run folder, as [`crate::check::run`] takes them.
#[derive(Arbitrary, Debug)]
pub struct Settings {
    fits: bool,
    classes: u16,
    settings: Vec<(u8, Setting)>,
}

#[derive(Arbitrary, Debug)]
enum Setting {
    Small(u8),
    Whole(u32),
    Share(u16),
    Choice(u8),
}

const KEYS: [(&str, &[&str]); 28] = [
    ("model.dim", &[]),
    ("model.depth", &[]),
    ("model.token_expansion", &[]),
    ("model.channel_expansion", &[]),
    ("model.n_registers", &[]),
    ("model.activation", &["gelu", "tanh"]),
    ("engine.threads", &[]),
    ("engine.gemm", &["auto", "tiles", "openblas"]),
    ("engine.precision", &["f32", "bf16"]),
    ("engine.shard", &[]),
    ("engine.gradient_groups", &[]),
    ("tokeniser.bins", &[]),
    ("tokeniser.one_hot", &["true", "false"]),
    ("data.synthetic.rows", &[]),
    ("pretrain.objective", &["mae", "vae"]),
    ("pretrain.objective.vae.latent_dim", &[]),
    ("pretrain.objective.vae.latent", &["token", "pooled"]),
    ("encode.latents", &["mean", "tokens", "mu"]),
    ("finetune.from", &["scratch", "pretrained", "latents"]),
    ("finetune.patch_size", &[]),
    ("finetune.members", &[]),
    ("finetune.ensemble", &["independent", "batch"]),
    ("finetune.ensemble.batch.shared_blocks", &[]),
    ("finetune.ensemble.batch.scales", &["normal", "signs"]),
    ("finetune.task", &["binary", "multiclass"]),
    ("finetune.batch_size", &[]),
    ("evaluate.threshold", &[]),
];

impl Settings {
    /// Those of the config, each after a NUL.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("classes={}{}", self.classes, if self.fits { "\0fits" } else { "" });
        for (key, setting) in self.settings.iter().take(16) {
            let (key, choices) = KEYS[usize::from(*key) % KEYS.len()];
            let value = match *setting {
                Setting::Small(number) => number.to_string(),
                Setting::Whole(number) => number.to_string(),
                Setting::Share(number) => (f64::from(number) / 1024.0).to_string(),
                Setting::Choice(number) => (*choices.get(usize::from(number) % choices.len().max(1)).unwrap_or(&"null")).to_owned(),
            };
            text.push_str(&format!("\0{key}={value}"));
        }
        text.into_bytes()
    }
}
