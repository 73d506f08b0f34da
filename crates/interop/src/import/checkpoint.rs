//! Arrays by position to parameters by name.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use nids_nn::tensor_file::{self, Dtype, NamedTensor};
use serde_json::json;

use super::Imported;
use super::pickle::{Array, Element, Pickle, Value};

/// Parameters outside of blocks: `proj`, `norm` and `classifier`.
const OUTSIDE: usize = 6;
/// Parameters of a block.
const OF_BLOCK: usize = 12;

/// The model and what the optimiser remembers of it.
#[derive(Debug)]
pub(super) struct Checkpoint<'f> {
    depth: usize,
    params: Vec<Param<'f>>,
}

#[derive(Debug)]
struct Param<'f> {
    name: String,
    value: Value<'f>,
    moments: Option<Moments<'f>>,
}

#[derive(Debug)]
struct Moments<'f> {
    step: i64,
    exp_avg: Value<'f>,
    exp_avg_sq: Value<'f>,
}

impl<'f> Checkpoint<'f> {
    /// The checkpoint that a file holds. The error says what is missing or does not fit.
    pub(super) fn of(pickle: &Pickle<'f>) -> Result<Self, String> {
        let wanted = "expected a dictionary of `model_state` and `optimizer_state`";
        let object = pickle.array(pickle.root()).and_then(|array| array.object).ok_or(wanted)?;
        let content = named(pickle.dict(object).ok_or(wanted)?, ["model_state", "optimizer_state"]).ok_or(wanted)?;
        let [model, optimiser] = content.map(|state| pickle.dict(state));
        let (model, optimiser) = (model.ok_or(wanted)?, optimiser.ok_or(wanted)?);

        let n = model.len();
        if n < OUTSIDE || !(n - OUTSIDE).is_multiple_of(OF_BLOCK) {
            return Err(format!("`model_state` has {n} arrays, expected {OUTSIDE} and {OF_BLOCK} for each block"));
        }
        let depth = (n - OUTSIDE) / OF_BLOCK;
        let mut states = BTreeMap::new();
        for &[key, state] in optimiser {
            let Value::Int(id) = key else { return Err("`optimizer_state` has a key that is no number".to_owned()) };
            if states.insert(id, state).is_some() {
                return Err(format!("`optimizer_state` has two entries of {id}"));
            }
        }
        let mut params = Vec::with_capacity(n);
        for (&[key, value], (name, kind)) in model.iter().zip(names(depth)) {
            let Value::Text(key) = key else { return Err("`model_state` has a key that is no text".to_owned()) };
            // `Linear_weight_140606947097744`: what it is of, and where it lay in memory
            let id = key.strip_prefix(kind).and_then(|id| id.parse::<i64>().ok());
            let id = id.ok_or_else(|| format!("`{key}` stands where `{name}` should, which is called `{kind}` and a number"))?;
            let moments = states.remove(&id).map(|state| Moments::of(pickle, state, &name)).transpose()?;
            params.push(Param { name, value, moments });
        }
        if let Some(id) = states.keys().next() {
            return Err(format!("`optimizer_state` has an entry of {id}, which is no parameter's"));
        }
        let checkpoint = Self { depth, params };
        checkpoint.check(pickle)?;
        Ok(checkpoint)
    }

    /// Shapes fit one another, numbers are finite, and no array is used twice.
    fn check(&self, pickle: &Pickle<'f>) -> Result<(), String> {
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        let mut used = BTreeSet::new();
        for Param { name, value, moments } in &self.params {
            let moments = moments.iter().flat_map(|moments| [moments.exp_avg, moments.exp_avg_sq]);
            for (i, value) in [*value].into_iter().chain(moments).enumerate() {
                let array = numbers(pickle, value).ok_or_else(|| format!("`{name}`: expected an array of numbers"))?;
                let dims = dims(name);
                if array.shape.len() != dims.len() {
                    return Err(format!("`{name}` has shape {:?}, expected {}", array.shape, dims.join(" x ")));
                }
                for (&dim, &size) in dims.iter().zip(&array.shape) {
                    let known = *sizes.entry(dim).or_insert(size);
                    if known != size || size == 0 {
                        return Err(format!("`{name}` has shape {:?}, and {dim} is {known}", array.shape));
                    }
                }
                if i == 0 && array.element != Element::F32 {
                    return Err(format!("`{name}`: expected numbers of 32 bits"));
                }
                if !is_finite(array) {
                    return Err(format!("`{name}` holds a number that is not finite"));
                }
                // each array has bytes of its own, so that what is written is no larger than the file
                if !used.insert(array.data.as_ptr()) {
                    return Err(format!("`{name}` shares its numbers with another parameter"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn imported(&self, pickle: &Pickle<'f>) -> Imported {
        let size = |param: &Param<'f>| numbers(pickle, param.value).map_or(0, |array| array.shape.iter().product());
        Imported { depth: self.depth, n_params: self.params.iter().map(size).sum() }
    }

    /// The same numbers under their names.
    pub(super) fn to_safetensors(&self, pickle: &Pickle<'f>) -> Vec<u8> {
        let mut tensors = Vec::new();
        let mut add = |group: &str, name: &str, value: Value<'f>| {
            let array = numbers(pickle, value).expect("checked when it was read");
            let dtype = if array.element == Element::F64 { Dtype::F64 } else { Dtype::F32 };
            let (name, shape) = (format!("{group}.{name}").into(), array.shape.clone());
            tensors.push(NamedTensor { name, dtype, shape, bytes: row_major(array) });
        };
        let mut steps = Vec::new();
        for Param { name, value, moments } in &self.params {
            add("param", name, *value);
            if let Some(Moments { step, exp_avg, exp_avg_sq }) = moments {
                add("exp_avg", name, *exp_avg);
                add("exp_avg_sq", name, *exp_avg_sq);
                let (name, bytes) = (format!("step.{name}").into(), step.to_le_bytes().to_vec().into());
                steps.push(NamedTensor { name, dtype: Dtype::I64, shape: vec![1], bytes });
            }
        }
        tensors.append(&mut steps);
        tensor_file::to_bytes(&tensors, &json!({"kind": "imported checkpoint", "depth": self.depth}).to_string())
    }
}

impl<'f> Moments<'f> {
    fn of(pickle: &Pickle<'f>, state: Value<'f>, name: &str) -> Result<Self, String> {
        let wanted = || format!("`{name}`: expected `step`, `exp_avg` and `exp_avg_sq` in its `optimizer_state`");
        let items = pickle.dict(state).ok_or_else(wanted)?;
        match named(items, ["step", "exp_avg", "exp_avg_sq"]) {
            Some([Value::Int(step), exp_avg, exp_avg_sq]) if step >= 0 => Ok(Self { step, exp_avg, exp_avg_sq }),
            _ => Err(wanted()),
        }
    }
}

/// The values of exactly these keys.
fn named<'f, const N: usize>(items: &[[Value<'f>; 2]], keys: [&str; N]) -> Option<[Value<'f>; N]> {
    let find = |key: &str| items.iter().find(|[found, _]| *found == Value::Text(key)).map(|[_, value]| *value);
    let found = keys.map(find);
    (items.len() == N && found.iter().all(Option::is_some)).then(|| found.map(|value| value.unwrap_or(Value::None)))
}

/// Dotted names in the order of the file, each with what its key starts with there.
fn names(depth: usize) -> impl Iterator<Item = (String, &'static str)> {
    const BLOCK: [&str; 6] = [
        "token_norm",
        "token_mixing.linear1",
        "token_mixing.linear2",
        "channel_norm",
        "channel_mixing.linear1",
        "channel_mixing.linear2",
    ];
    let blocks = (0..depth).flat_map(|i| BLOCK.map(|layer| format!("blocks.{i}.{layer}")));
    let layers = std::iter::once("proj".to_owned()).chain(blocks).chain(["norm", "classifier"].map(str::to_owned));
    layers.flat_map(|layer| {
        let kinds =
            if layer.ends_with("norm") { ["LayerNorm_weight_", "LayerNorm_bias_"] } else { ["Linear_weight_", "Linear_bias_"] };
        [(format!("{layer}.weight"), kinds[0]), (format!("{layer}.bias"), kinds[1])]
    })
}

/// The sizes of a parameter: P of a patch, D, N, hidden, C.
fn dims(name: &str) -> &'static [&'static str] {
    let layer = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')).map_or(name, |(_, rest)| rest);
    match layer {
        "proj.weight" => &["dim", "patch"],
        "token_mixing.linear1.weight" => &["token hidden", "tokens"],
        "token_mixing.linear1.bias" => &["token hidden"],
        "token_mixing.linear2.weight" => &["tokens", "token hidden"],
        "token_mixing.linear2.bias" => &["tokens"],
        "channel_mixing.linear1.weight" => &["channel hidden", "dim"],
        "channel_mixing.linear1.bias" => &["channel hidden"],
        "channel_mixing.linear2.weight" => &["dim", "channel hidden"],
        "classifier.weight" => &["classes", "dim"],
        "classifier.bias" => &["classes"],
        _ => &["dim"],
    }
}

fn numbers<'p, 'f>(pickle: &'p Pickle<'f>, value: Value<'f>) -> Option<&'p Array<'f>> {
    pickle.array(value).filter(|array| array.element != Element::Object)
}

fn is_finite(array: &Array<'_>) -> bool {
    match array.element {
        Element::F32 => array.data.as_chunks().0.iter().all(|&bytes| f32::from_le_bytes(bytes).is_finite()),
        _ => array.data.as_chunks().0.iter().all(|&bytes| f64::from_le_bytes(bytes).is_finite()),
    }
}

/// The numbers with the last index running fastest.
fn row_major<'f>(array: &Array<'f>) -> Cow<'f, [u8]> {
    let width = if array.element == Element::F64 { 8 } else { 4 };
    match array.shape[..] {
        [rows, cols] if array.fortran => {
            let element = |i: usize| &array.data[i * width..][..width];
            let by_row = (0..rows).flat_map(|row| (0..cols).map(move |col| col * rows + row));
            Cow::Owned(by_row.flat_map(element).copied().collect())
        }
        _ => Cow::Borrowed(array.data),
    }
}
