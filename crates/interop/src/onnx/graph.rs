//! A graph that grows node by node.

use prost::Message as _;

use super::proto::{
    AttributeProto, DOUBLE, Dimension, DimensionProto, FLOAT, GraphProto, INT64, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// The format of the file.
const IR_VERSION: i64 = 8;
/// The newest operators that are used.
const OPSET: i64 = 17;
/// The operators of classical learners, such as the classes of texts.
const ML_DOMAIN: &str = "ai.onnx.ml";
const ML_OPSET: i64 = 3;

/// The value of an attribute.
pub(super) enum Attribute<'a> {
    Int(i64),
    Float(f32),
    Ints(Vec<i64>),
    Strings(Vec<&'a str>),
}

/// Nodes and constants. A value is called by a name; those that the graph gives begin with a slash.
#[derive(Default)]
pub(super) struct Graph {
    graph: GraphProto,
    values: usize,
}

impl Graph {
    fn name(&mut self) -> String {
        self.values += 1;
        format!("/{}", self.values)
    }

    /// An input `[N, width]`, and what to know of it.
    pub(super) fn input(&mut self, name: &str, element: i32, width: usize, about: &str) {
        self.graph.input.push(ValueInfoProto { doc_string: about.to_owned(), ..value(name, element, width) });
    }

    /// Gives a value a name that others read: an output `[N, width]`.
    pub(super) fn output(&mut self, name: &str, element: i32, width: usize, from: &str) {
        self.graph.output.push(value(name, element, width));
        self.graph.node.push(node("Identity", &[from], name, &[]));
    }

    /// What an operator makes of values.
    pub(super) fn op(&mut self, operator: &str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)]) -> String {
        let name = self.name();
        self.graph.node.push(node(operator, inputs, &name, attributes));
        name
    }

    fn constant(&mut self, data_type: i32, shape: &[usize], raw_data: Vec<u8>) -> String {
        let name = self.name();
        let dims = shape.iter().map(|&size| signed(size)).collect();
        self.graph.initializer.push(TensorProto { dims, data_type, name: name.clone(), raw_data });
        name
    }

    pub(super) fn floats(&mut self, shape: &[usize], numbers: &[f32]) -> String {
        self.constant(FLOAT, shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub(super) fn doubles(&mut self, shape: &[usize], numbers: &[f64]) -> String {
        self.constant(DOUBLE, shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub(super) fn ints(&mut self, shape: &[usize], numbers: &[i64]) -> String {
        self.constant(INT64, shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    pub(super) fn double(&mut self, number: f64) -> String {
        self.doubles(&[], &[number])
    }

    pub(super) fn float(&mut self, number: f32) -> String {
        self.floats(&[], &[number])
    }

    /// The same numbers as another type.
    pub(super) fn cast(&mut self, x: &str, element: i32) -> String {
        self.op("Cast", &[x], &[("to", Attribute::Int(element.into()))])
    }

    /// The file.
    pub(super) fn into_bytes(mut self, name: &str, about: &str, properties: &[(&str, String)]) -> Vec<u8> {
        name.clone_into(&mut self.graph.name);
        let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.to_owned(), version };
        let property = |(key, value): &(&str, String)| StringStringEntryProto { key: (*key).to_owned(), value: value.clone() };
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "nids-mixer".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            doc_string: about.to_owned(),
            graph: Some(self.graph),
            opset_import: vec![opset("", OPSET), opset(ML_DOMAIN, ML_OPSET)],
            metadata_props: properties.iter().map(property).collect(),
        };
        model.encode_to_vec()
    }
}

/// A size or a place, as these files have it.
pub(super) fn signed(n: usize) -> i64 {
    i64::try_from(n).expect("sizes of what is in memory")
}

fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute<'_>)]) -> NodeProto {
    let domain = if operator == "LabelEncoder" { ML_DOMAIN } else { "" };
    NodeProto {
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: format!("{operator} {output}"),
        op_type: operator.to_owned(),
        attribute: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        domain: domain.to_owned(),
    }
}

fn attribute(name: &str, value: &Attribute<'_>) -> AttributeProto {
    let named = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    match value {
        Attribute::Float(f) => AttributeProto { f: *f, kind: 1, ..named },
        Attribute::Int(i) => AttributeProto { i: *i, kind: 2, ..named },
        Attribute::Ints(ints) => AttributeProto { ints: ints.clone(), kind: 7, ..named },
        Attribute::Strings(texts) => {
            AttributeProto { strings: texts.iter().map(|text| text.as_bytes().to_vec()).collect(), kind: 8, ..named }
        }
    }
}

/// A value `[N, width]`.
fn value(name: &str, elem_type: i32, width: usize) -> ValueInfoProto {
    let sizes = [Dimension::Name("N".to_owned()), Dimension::Size(signed(width))];
    let dim = sizes.into_iter().map(|value| DimensionProto { value: Some(value) }).collect();
    let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) });
    ValueInfoProto { name: name.to_owned(), kind: Some(TypeProto { tensor_type }), doc_string: String::new() }
}
