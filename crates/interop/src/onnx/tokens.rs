//! Raw values to tokens: what `nids_flows::Tokeniser` does, as operators.

use nids_flows::{Learnt, TokenSpec};

use super::Weights;
use super::graph::{Attribute, Graph, signed};
use super::proto::{DOUBLE, FLOAT, INT64, STRING};
use crate::Result;

/// How the values of features come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// An input a feature, `[N, 1]`, by its name: numbers as doubles, NaN where they are missing, categories as strings.
    Raw,
    /// `numbers: [N, numeric features]` as floats and `codes: [N, categorical features]` as 64-bit integers, each in the order of the
    /// schema. The code of a category is its place in the property `classes`; the code after the last one is any other category.
    Codes,
}

/// What reads the features of a graph.
pub(super) struct Reader {
    /// Values of features, `[N, 1]`: doubles and class indices.
    values: Vec<String>,
}

impl Reader {
    /// Adds the inputs.
    pub(super) fn new(graph: &mut Graph, inputs: Inputs, features: &[(&TokenSpec, Learnt<'_>)]) -> Self {
        let values = match inputs {
            Inputs::Raw => features.iter().map(|(token, learnt)| raw(graph, token, learnt)).collect(),
            Inputs::Codes => from_codes(graph, features),
        };
        Self { values }
    }

    /// The token of a feature.   -> [N, 1, D]
    pub(super) fn token(
        &self,
        graph: &mut Graph,
        place: usize,
        learnt: &Learnt<'_>,
        is_missing: IsMissing,
        map: &Map<'_>,
    ) -> String {
        let value = &self.values[place];
        let token = match learnt {
            Learnt::Categorical { n_classes, code, .. } => return class_token(graph, value, *n_classes, *code, map),
            Learnt::Parts { quantile, log1p, edges, neutral, indicator } => {
                let missing = is_missing.of(graph, value);
                let zero = graph.double(0.0);
                let x = graph.op("Where", &[&missing, &zero, value], &[]);
                let mut parts = Vec::new();
                if let Some([knots, normal]) = quantile {
                    let found = interpolate(graph, &x, knots, normal);
                    parts.push(or_else(graph, &missing, 0.0, &found));
                }
                if let Some(affine) = log1p {
                    let found = signed_log1p(graph, &x);
                    let found = scaled(graph, &found, *affine);
                    parts.push(or_else(graph, &missing, 0.0, &found));
                }
                if edges.len() > 1 {
                    parts.push(bins(graph, &x, edges, &missing, *neutral));
                }
                if *indicator {
                    parts.push(graph.cast(&missing, FLOAT));
                }
                linear(graph, &parts, &missing, map)
            }
            Learnt::Scaled { affine, indicator } => {
                let missing = is_missing.of(graph, value);
                let found = scaled(graph, value, *affine);
                let mut parts = vec![or_else(graph, &missing, 0.0, &found)];
                if *indicator {
                    parts.push(graph.cast(&missing, FLOAT));
                }
                linear(graph, &parts, &missing, map)
            }
        };
        let axis = graph.ints(&[1], &[1]);
        graph.op("Unsqueeze", &[&token, &axis], &[])
    }
}

/// Which numbers are missing.
#[derive(Clone, Copy)]
pub(super) enum IsMissing {
    Nan,
    /// Infinite ones, too.
    NotFinite,
}

impl IsMissing {
    fn of(self, graph: &mut Graph, x: &str) -> String {
        // in tract 0.23 `IsNaN` is no truth value
        let is_there = match self {
            Self::Nan => graph.op("Equal", &[x, x], &[]),
            Self::NotFinite => {
                let (size, most) = (graph.op("Abs", &[x], &[]), graph.double(f64::MAX));
                graph.op("LessOrEqual", &[&size, &most], &[])
            }
        };
        graph.op("Not", &[&is_there], &[])
    }
}

/// The linear map of a feature to its token.   weight: [D, F]   bias: [D]
pub(super) struct Map<'w> {
    dim: usize,
    width: usize,
    weight: &'w [f32],
    bias: &'w [f32],
}

impl<'w> Map<'w> {
    pub(super) fn new(weights: &Weights<'w>, name: &str, width: usize) -> Result<Self> {
        let (shape, weight) = weights.get(&format!("{name}.weight"))?;
        let (_, bias) = weights.get(&format!("{name}.bias"))?;
        Ok(Self { dim: shape[0], width, weight, bias })
    }

    /// [F, D]
    fn transposed(&self) -> Vec<f32> {
        transposed(self.weight, self.dim, self.width)
    }
}

/// [cols, rows] of [rows, cols]
pub(super) fn transposed(matrix: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| matrix[row * cols + col])).collect()
}

fn raw(graph: &mut Graph, token: &TokenSpec, learnt: &Learnt<'_>) -> String {
    let name = &token.feature;
    let Learnt::Categorical { n_classes, classes, .. } = learnt else {
        graph.input(name, DOUBLE, 1, "a number; NaN where it is missing");
        return name.clone();
    };
    graph.input(name, STRING, 1, "a category");
    let keys = classes.iter().map(|(text, _)| text.as_str()).collect();
    let values = classes.iter().map(|&(_, class)| signed(class)).collect();
    let attributes = [
        ("keys_strings", Attribute::Strings(keys)),
        ("values_int64s", Attribute::Ints(values)),
        ("default_int64", Attribute::Int(signed(*n_classes) - 1)),
    ];
    if classes.is_empty() {
        // every text is of the one class: an encoder needs a key
        let attributes = [
            ("keys_strings", Attribute::Strings(vec![""])),
            ("values_int64s", Attribute::Ints(vec![0])),
            ("default_int64", Attribute::Int(0)),
        ];
        return graph.op("LabelEncoder", &[name], &attributes);
    }
    graph.op("LabelEncoder", &[name], &attributes)
}

fn from_codes(graph: &mut Graph, features: &[(&TokenSpec, Learnt<'_>)]) -> Vec<String> {
    let is_class = |learnt: &Learnt<'_>| matches!(learnt, Learnt::Categorical { .. });
    let n_codes = features.iter().filter(|(_, learnt)| is_class(learnt)).count();
    let n_numbers = features.len() - n_codes;
    if n_numbers > 0 {
        graph.input("numbers", FLOAT, n_numbers, "the numeric features in the order of the schema; NaN where one is missing");
    }
    if n_codes > 0 {
        graph.input("codes", INT64, n_codes, "the classes of the categorical features in the order of the schema");
    }
    let (mut number, mut code) = (0, 0);
    let column = |graph: &mut Graph, of: &str, place: &mut i64| {
        let index = graph.ints(&[1], &[*place]);
        *place += 1;
        graph.op("Gather", &[of, &index], &[("axis", Attribute::Int(1))])
    };
    let value = |(_, learnt): &(&TokenSpec, Learnt<'_>)| {
        if is_class(learnt) {
            return column(graph, "codes", &mut code);
        }
        let found = column(graph, "numbers", &mut number);
        graph.cast(&found, DOUBLE)
    };
    features.iter().map(value).collect()
}

/// The row of a table: what the linear map makes of each class.   -> [N, 1, D]
fn class_token(graph: &mut Graph, class: &str, n_classes: usize, code: Option<[f64; 3]>, map: &Map<'_>) -> String {
    let columns = map.transposed();
    let table: Vec<f32> = match code {
        None => columns.chunks_exact(map.dim).flat_map(|column| column.iter().zip(map.bias).map(|(w, b)| w + b)).collect(),
        Some([mean, std, clip]) => {
            let value = |class: usize| ((class as f64 - mean) / std).clamp(-clip, clip) as f32;
            let row = |class: usize| columns.iter().zip(map.bias).map(move |(w, b)| w * value(class) + b);
            (0..n_classes).flat_map(row).collect()
        }
    };
    let table = graph.floats(&[table.len() / map.dim, map.dim], &table);
    graph.op("Gather", &[&table, class], &[("axis", Attribute::Int(0))])
}

/// parts: [N, F_i]   -> [N, D]
fn linear(graph: &mut Graph, parts: &[String], missing: &str, map: &Map<'_>) -> String {
    let bias = graph.floats(&[1, map.dim], map.bias);
    let names: Vec<&str> = parts.iter().map(String::as_str).collect();
    let x = match *names {
        [] => {
            // nothing is known of the feature: its token is the bias, once a row
            let (none, zero) = (graph.cast(missing, FLOAT), graph.float(0.0));
            graph.op("Mul", &[&none, &zero], &[])
        }
        [one] => one.to_owned(),
        _ => graph.op("Concat", &names, &[("axis", Attribute::Int(1))]),
    };
    if names.is_empty() {
        return graph.op("Add", &[&x, &bias], &[]);
    }
    let weight = graph.floats(&[map.width, map.dim], &map.transposed());
    let product = graph.op("MatMul", &[&x, &weight], &[]);
    graph.op("Add", &[&product, &bias], &[])
}

/// Doubles as floats, with another number in the place of what is missing.
fn or_else(graph: &mut Graph, missing: &str, number: f32, x: &str) -> String {
    let (x, number) = (graph.cast(x, FLOAT), graph.float(number));
    graph.op("Where", &[missing, &number, &x], &[])
}

/// sign(x) ln(1 + |x|)
fn signed_log1p(graph: &mut Graph, x: &str) -> String {
    let (one, size, sign) = (graph.double(1.0), graph.op("Abs", &[x], &[]), graph.op("Sign", &[x], &[]));
    let sum = graph.op("Add", &[&size, &one], &[]);
    let log = graph.op("Log", &[&sum], &[]);
    graph.op("Mul", &[&sign, &log], &[])
}

/// (x - mean) / std, clipped.
fn scaled(graph: &mut Graph, x: &str, [mean, std, clip]: [f64; 3]) -> String {
    let [mean, std, low, high] = [mean, std, -clip, clip].map(|number| graph.double(number));
    let centred = graph.op("Sub", &[x, &mean], &[]);
    let found = graph.op("Div", &[&centred, &std], &[]);
    let found = graph.op("Max", &[&found, &low], &[]);
    graph.op("Min", &[&found, &high], &[])
}

/// How much of each bin lies below x.   x: [N, 1]   -> [N, bins]
fn bins(graph: &mut Graph, x: &str, edges: &[f64], missing: &str, neutral: f32) -> String {
    let n = edges.len() - 1;
    let places: Vec<f64> = (0..=n).map(|place| place as f64).collect();
    let place = interpolate(graph, x, edges, &places);
    let place = or_else(graph, missing, neutral, &place);
    let firsts: Vec<f32> = (0..n).map(|bin| bin as f32).collect();
    let (firsts, zero, one) = (graph.floats(&[1, n], &firsts), graph.float(0.0), graph.float(1.0));
    let inside = graph.op("Sub", &[&place, &firsts], &[]);
    let inside = graph.op("Max", &[&inside, &zero], &[]);
    graph.op("Min", &[&inside, &one], &[])
}

/// The piecewise-linear function through knots, constant beyond them.   x: [N, 1], no NaN
///
/// Every piece that lies below x adds all that the function rises there, and the one that x is in a part of it.
fn interpolate(graph: &mut Graph, x: &str, knots: &[f64], values: &[f64]) -> String {
    let differences = |numbers: &[f64]| numbers.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<f64>>();
    let (n, last) = (knots.len() - 1, knots[knots.len() - 1]);
    let [low, high, first] = [knots[0], last, values[0]].map(|number| graph.double(number));
    let x = graph.op("Max", &[x, &low], &[]);
    let x = graph.op("Min", &[&x, &high], &[]);
    if n == 0 {
        let zero = graph.double(0.0);
        let nothing = graph.op("Mul", &[&x, &zero], &[]);
        return graph.op("Add", &[&nothing, &first], &[]);
    }
    let (starts, lengths) = (graph.doubles(&[1, n], &knots[..n]), graph.doubles(&[1, n], &differences(knots)));
    let [zero, one] = [0.0, 1.0].map(|number| graph.double(number));
    let along = graph.op("Sub", &[&x, &starts], &[]);
    let share = graph.op("Div", &[&along, &lengths], &[]);
    let share = graph.op("Max", &[&share, &zero], &[]);
    let share = graph.op("Min", &[&share, &one], &[]);
    let rises = graph.doubles(&[n, 1], &differences(values));
    let risen = graph.op("MatMul", &[&share, &rises], &[]);
    graph.op("Add", &[&risen, &first], &[])
}
