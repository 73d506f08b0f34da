//! The part of pickle that numpy's arrays in lists, tuples and dictionaries are made of, read and not executed.
//!
//! A pickle is a program for a stack machine (Python's `pickletools` documents it). Here is a machine that knows containers,
//! numbers, text, bytes, three names (`_reconstruct`, `ndarray`, `dtype` of numpy) and what calling and filling those may look
//! like. Everything else is refused at its offset: other names, other calls, `BUILD` of anything else, persistent ids, extension
//! codes, a memo out of order, nesting, and sizes that the file does not have. No text of the file chooses what happens.
//!
//! Numbers of arrays stay where they are in the file, and an opcode makes a hundred bytes at most of all else, so that
//! [`MAX_OPCODES`] bounds memory to that of the file and 32 MiB.

use nids_store::npy::{self, HeaderError};

/// `numpy.save` writes this before a pickled object, padded with spaces; `True` or another shape would be no checkpoint.
const HEADER: &str = "{'descr': '|O', 'fortran_order': False, 'shape': (), }";
/// Thirty an array: room for some two hundred blocks and their moments.
const MAX_OPCODES: usize = 1 << 18;
/// Python fills a dictionary a thousand items at a time.
const MAX_STACK: usize = 1 << 12;
/// A checkpoint opens five.
const MAX_MARKS: usize = 16;
/// The longest name of a parameter is 40 bytes.
const MAX_TEXT: usize = 256;

/// A value; containers and arrays are numbers of [`Pickle::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'f> {
    None,
    Bool(bool),
    Int(i64),
    Text(&'f str),
    Bytes(&'f [u8]),
    Global(Global),
    Tuple(u32),
    List(u32),
    Dict(u32),
    Dtype(u32),
    Array(u32),
}

/// The names that may be spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    Reconstruct,
    Ndarray,
    Dtype,
}

/// What the elements of an array are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Object,
    F32,
    F64,
}

impl Element {
    fn of(code: &str) -> Option<Self> {
        match code {
            "O8" => Some(Self::Object),
            "f4" => Some(Self::F32),
            "f8" => Some(Self::F64),
            _ => None,
        }
    }
}

/// A little-endian array; `data` lies in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Array<'f> {
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    /// Whether the first index runs fastest.
    pub(super) fortran: bool,
    /// Empty for objects.
    pub(super) data: &'f [u8],
    /// The one element of an array of objects.
    pub(super) object: Option<Value<'f>>,
}

#[derive(Debug)]
enum Node<'f> {
    Tuple(Vec<Value<'f>>),
    List(Vec<Value<'f>>),
    Dict(Vec<[Value<'f>; 2]>),
    /// Its element, and whether its state has been set.
    Dtype(Element, bool),
    /// None before its state has been set.
    Array(Option<Box<Array<'f>>>),
}

/// A file that was read to its end.
#[derive(Debug)]
pub(super) struct Pickle<'f> {
    nodes: Vec<Node<'f>>,
    root: Value<'f>,
}

type Read<T> = Result<T, String>;

impl<'f> Pickle<'f> {
    /// Reads an `.npy` file that holds one pickled object. The error says where and what.
    pub(super) fn read(file: &'f [u8]) -> Read<Self> {
        let start = start(file)?;
        let mut machine =
            Machine { file, at: start, opcode: start, stack: Vec::new(), marks: Vec::new(), memo: Vec::new(), nodes: Vec::new() };
        let root = machine.run()?;
        Ok(Self { nodes: machine.nodes, root })
    }

    pub(super) fn root(&self) -> Value<'f> {
        self.root
    }

    pub(super) fn array(&self, value: Value<'f>) -> Option<&Array<'f>> {
        match value {
            Value::Array(node) => match &self.nodes[node as usize] {
                Node::Array(array) => array.as_deref(),
                _ => None,
            },
            _ => None,
        }
    }

    /// Keys and values, in the order of the file.
    pub(super) fn dict(&self, value: Value<'f>) -> Option<&[[Value<'f>; 2]]> {
        match value {
            Value::Dict(node) => match &self.nodes[node as usize] {
                Node::Dict(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Where the pickle starts.
fn start(file: &[u8]) -> Read<usize> {
    let wanted = "expected what `numpy.save` makes of one object: is it a checkpoint of the numpy MLP-Mixer?";
    let (text, start) = npy::header(file).map_err(|error| match error {
        HeaderError::Long(_) | HeaderError::Truncated => error.to_string(),
        _ => format!("{error}; {wanted}"),
    })?;
    match text.trim_end() {
        HEADER => Ok(start),
        text => Err(format!("an array of {}; {wanted}", shown(text))),
    }
}

/// Text of the file, made safe to print.
fn shown(text: &str) -> String {
    const SHOWN: usize = 60;
    let short: String = text.chars().take(SHOWN).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("`{}{more}`", short.escape_debug())
}

struct Machine<'f> {
    file: &'f [u8],
    at: usize,
    /// Where the current opcode stands.
    opcode: usize,
    stack: Vec<Value<'f>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Vec<Value<'f>>,
    nodes: Vec<Node<'f>>,
}

impl<'f> Machine<'f> {
    fn run(&mut self) -> Read<Value<'f>> {
        for _ in 0..MAX_OPCODES {
            self.opcode = self.at;
            let [opcode] = self.array()?;
            if opcode == b'.' {
                return self.stop();
            }
            self.step(opcode)?;
            if self.stack.len() > MAX_STACK {
                return Err(self.refuse(format!("more than {MAX_STACK} values wait on the stack")));
            }
        }
        Err(self.refuse(format!("more than {MAX_OPCODES} opcodes")))
    }

    #[expect(clippy::too_many_lines, reason = "a table of opcodes")]
    fn step(&mut self, opcode: u8) -> Read<()> {
        match opcode {
            // protocol and framing
            0x80 => {
                let [version] = self.array()?;
                let fits = self.opcode + 2 == self.at && self.stack.is_empty() && self.memo.is_empty();
                if !(2..=5).contains(&version) || !fits {
                    return Err(self.refuse(format!("protocol {version}, expected 2 to 5")));
                }
            }
            0x95 => {
                let len = u64::from_le_bytes(self.array()?);
                if usize::try_from(len).map_or(true, |len| len > self.file.len() - self.at) {
                    return Err(self.truncated());
                }
            }
            // atoms
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' => {
                let [byte] = self.array()?;
                self.stack.push(Value::Int(byte.into()));
            }
            b'M' => {
                let int = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(int.into()));
            }
            b'J' => {
                let int = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(int.into()));
            }
            0x8a => {
                let int = self.long()?;
                self.stack.push(Value::Int(int));
            }
            0x8c => {
                let [len] = self.array()?;
                self.text(len.into())?;
            }
            b'X' => {
                let len = u32::from_le_bytes(self.array()?);
                self.text(len.into())?;
            }
            b'C' => {
                let [len] = self.array()?;
                self.bytes(len.into())?;
            }
            b'B' => {
                let len = u32::from_le_bytes(self.array()?);
                self.bytes(len.into())?;
            }
            0x8e => {
                let len = u64::from_le_bytes(self.array()?);
                self.bytes(len)?;
            }
            // containers
            b'(' => {
                if self.marks.len() == MAX_MARKS {
                    return Err(self.refuse(format!("nested deeper than {MAX_MARKS} levels")));
                }
                self.marks.push(self.stack.len());
            }
            b')' => self.tuple(Vec::new()),
            0x85..=0x87 => {
                let items = self.take(usize::from(opcode - 0x84))?;
                self.tuple(items);
            }
            b't' => {
                let items = self.marked()?;
                self.tuple(items);
            }
            b']' => {
                let node = self.node(Node::List(Vec::new()));
                self.stack.push(Value::List(node));
            }
            b'}' => {
                let node = self.node(Node::Dict(Vec::new()));
                self.stack.push(Value::Dict(node));
            }
            b'a' => {
                let items = self.take(1)?;
                self.append(&items)?;
            }
            b'e' => {
                let items = self.marked()?;
                self.append(&items)?;
            }
            b's' => {
                let items = self.take(2)?;
                self.set(&items)?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set(&items)?;
            }
            // memo
            b'h' => {
                let [index] = self.array()?;
                self.get(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.get(index)?;
            }
            b'q' => {
                let [index] = self.array()?;
                self.put(Some(index.into()))?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.put(Some(index))?;
            }
            0x94 => self.put(None)?,
            // arrays
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => match self.take(2)?[..] {
                [Value::Text(module), Value::Text(name)] => self.global(module, name)?,
                _ => return Err(self.refuse("a name that is no text")),
            },
            b'R' => {
                let call = self.take(2)?;
                self.reduce(call[0], call[1])?;
            }
            b'b' => {
                let fill = self.take(2)?;
                self.build(fill[0], fill[1])?;
                self.stack.push(fill[0]);
            }
            _ => return Err(self.refuse("an opcode that no array needs")),
        }
        Ok(())
    }

    /// `.`: one value is left, and nothing after it.
    fn stop(&mut self) -> Read<Value<'f>> {
        match self.stack[..] {
            [root] if self.marks.is_empty() && self.at == self.file.len() => Ok(root),
            [_] if self.marks.is_empty() => Err(self.refuse(format!("{} bytes after the end", self.file.len() - self.at))),
            _ => Err(self.refuse(format!("{} values are left, expected one", self.stack.len()))),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Read<()> {
        let global = match (module, name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Global::Reconstruct,
            ("numpy", "ndarray") => Global::Ndarray,
            ("numpy", "dtype") => Global::Dtype,
            _ => {
                let name = shown(&format!("{module}.{name}"));
                let wanted = "only numpy's `_reconstruct`, `ndarray` and `dtype` are known, and nothing is executed";
                return Err(self.refuse(format!("names {name}; {wanted}")));
            }
        };
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// `_reconstruct(ndarray, (0,), b"b")` and `dtype("f4", False, True)`.
    fn reduce(&mut self, callable: Value<'f>, args: Value<'f>) -> Read<()> {
        let args = self.items(args).unwrap_or_default().to_vec();
        let value = match (callable, &args[..]) {
            (Value::Global(Global::Reconstruct), &[Value::Global(Global::Ndarray), shape, Value::Bytes(b"b")])
                if self.items(shape) == Some(&[Value::Int(0)]) =>
            {
                Value::Array(self.node(Node::Array(None)))
            }
            (Value::Global(Global::Dtype), &[Value::Text(code), Value::Bool(false), Value::Bool(true)]) => {
                let Some(element) = Element::of(code) else {
                    return Err(self.refuse(format!("an array of {}, expected `f4`, `f8` or `O8`", shown(code))));
                };
                Value::Dtype(self.node(Node::Dtype(element, false)))
            }
            _ => return Err(self.refuse("a call that is not one of numpy's to make an array")),
        };
        self.stack.push(value);
        Ok(())
    }

    /// The state of a dtype, `(3, "<", None, None, None, -1, -1, 0)`, or of an array, `(1, shape, dtype, fortran, data)`.
    fn build(&mut self, value: Value<'f>, state: Value<'f>) -> Read<()> {
        let state = self.items(state).unwrap_or_default().to_vec();
        match value {
            Value::Dtype(node) => {
                let Node::Dtype(element, false) = self.nodes[node as usize] else {
                    return Err(self.refuse("the state of a dtype that has one"));
                };
                let (order, flags) = if element == Element::Object { ("|", 63) } else { ("<", 0) };
                let minus = Value::Int(-1);
                let plain = [Value::None; 3];
                let wanted = [Value::Int(3), Value::Text(order), plain[0], plain[1], plain[2], minus, minus, Value::Int(flags)];
                if state != wanted {
                    return Err(self.refuse("a dtype that is not plain and little-endian"));
                }
                self.nodes[node as usize] = Node::Dtype(element, true);
            }
            Value::Array(node) if matches!(self.nodes[node as usize], Node::Array(None)) => {
                let array = self.built(&state)?;
                self.nodes[node as usize] = Node::Array(Some(Box::new(array)));
            }
            _ => return Err(self.refuse("the state of something that is no new array")),
        }
        Ok(())
    }

    fn built(&self, state: &[Value<'f>]) -> Read<Array<'f>> {
        let &[Value::Int(1), shape, Value::Dtype(dtype), Value::Bool(fortran), data] = state else {
            return Err(self.refuse("a state that is no array's"));
        };
        let Node::Dtype(element, true) = self.nodes[dtype as usize] else {
            return Err(self.refuse("an array of a dtype that has no state"));
        };
        let size = |value: &Value<'f>| if let Value::Int(size) = value { usize::try_from(*size).ok() } else { None };
        let Some(shape) = self.items(shape).and_then(|sizes| sizes.iter().map(size).collect::<Option<Vec<usize>>>()) else {
            return Err(self.refuse("an invalid shape"));
        };
        if shape.len() > 2 {
            return Err(self.refuse(format!("an array of {} dimensions, expected at most 2", shape.len())));
        }
        let n = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
        match (element, data) {
            (Element::Object, Value::List(items)) => match &self.nodes[items as usize] {
                Node::List(items) if shape.is_empty() && items.len() == 1 => {
                    Ok(Array { element, shape, fortran, data: &[], object: Some(items[0]) })
                }
                _ => Err(self.refuse("objects in an array, expected one in a scalar")),
            },
            (Element::F32 | Element::F64, Value::Bytes(data)) => {
                let width = if element == Element::F32 { 4 } else { 8 };
                if n.and_then(|n| n.checked_mul(width)) != Some(data.len()) {
                    return Err(self.refuse(format!("{} bytes for an array of shape {shape:?}", data.len())));
                }
                Ok(Array { element, shape, fortran, data, object: None })
            }
            _ => Err(self.refuse("an array whose numbers are no bytes")),
        }
    }

    fn append(&mut self, items: &[Value<'f>]) -> Read<()> {
        if let Some(&Value::List(node)) = self.stack.last()
            && let Node::List(list) = &mut self.nodes[node as usize]
        {
            list.extend(items);
            return Ok(());
        }
        Err(self.refuse("items for something that is no list"))
    }

    fn set(&mut self, items: &[Value<'f>]) -> Read<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if let Some(&Value::Dict(node)) = self.stack.last()
            && let Node::Dict(dict) = &mut self.nodes[node as usize]
            && rest.is_empty()
        {
            dict.extend(pairs);
            return Ok(());
        }
        Err(self.refuse("items for something that is no dictionary, or a key without a value"))
    }

    fn get(&mut self, index: u32) -> Read<()> {
        let Some(&value) = self.memo.get(index as usize) else {
            return Err(self.refuse(format!("memo {index}, which nothing was put into")));
        };
        self.stack.push(value);
        Ok(())
    }

    /// Python counts what it remembers from 0 up.
    fn put(&mut self, index: Option<u32>) -> Read<()> {
        let next = self.memo.len();
        match self.stack.last() {
            Some(&value) if index.is_none_or(|index| index as usize == next) => self.memo.push(value),
            Some(_) => return Err(self.refuse(format!("memo {}, expected {next}", index.unwrap_or_default()))),
            None => return Err(self.refuse("nothing to remember")),
        }
        Ok(())
    }

    fn tuple(&mut self, items: Vec<Value<'f>>) {
        let node = self.node(Node::Tuple(items));
        self.stack.push(Value::Tuple(node));
    }

    fn items(&self, value: Value<'f>) -> Option<&[Value<'f>]> {
        match value {
            Value::Tuple(node) => match &self.nodes[node as usize] {
                Node::Tuple(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    fn node(&mut self, node: Node<'f>) -> u32 {
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32 // one an opcode at most
    }

    /// The last `n` values, none of them from below the last mark.
    fn take(&mut self, n: usize) -> Read<Vec<Value<'f>>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(n) {
            Some(from) if from >= floor => Ok(self.stack.split_off(from)),
            _ => Err(self.refuse("too few values on the stack")),
        }
    }

    /// The values since the last mark.
    fn marked(&mut self) -> Read<Vec<Value<'f>>> {
        let from = self.marks.pop().ok_or_else(|| self.refuse("no mark"))?;
        Ok(self.stack.split_off(from))
    }

    /// `LONG1`: two's complement, up to 8 bytes of it.
    fn long(&mut self) -> Read<i64> {
        let [len] = self.array()?;
        if len > 8 {
            return Err(self.refuse(format!("a whole number of {len} bytes, expected at most 8")));
        }
        let bytes = self.slice(len.into())?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut all = [if negative { 0xff } else { 0 }; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(all))
    }

    fn text(&mut self, len: u64) -> Read<()> {
        if len > MAX_TEXT as u64 {
            return Err(self.refuse(format!("a text of {len} bytes, expected at most {MAX_TEXT}")));
        }
        let bytes = self.slice(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.refuse("a text that is not UTF-8"))?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn bytes(&mut self, len: u64) -> Read<()> {
        let bytes = self.slice(len)?;
        self.stack.push(Value::Bytes(bytes));
        Ok(())
    }

    /// Up to the end of the line.
    fn line(&mut self) -> Read<&'f str> {
        let rest = &self.file[self.at..];
        let Some(len) = rest.iter().take(MAX_TEXT).position(|&byte| byte == b'\n') else {
            return Err(self.refuse(format!("a name that does not end within {MAX_TEXT} bytes")));
        };
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| self.refuse("a name that is not UTF-8"))
    }

    fn slice(&mut self, len: u64) -> Read<&'f [u8]> {
        let rest = &self.file[self.at..];
        let slice = usize::try_from(len).ok().and_then(|len| rest.get(..len)).ok_or_else(|| self.truncated())?;
        self.at += slice.len();
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let rest = &self.file[self.at..];
        let bytes = *rest.first_chunk().ok_or_else(|| self.truncated())?;
        self.at += N;
        Ok(bytes)
    }

    fn truncated(&self) -> String {
        self.refuse("truncated: the file ends before what this asks for")
    }

    /// Where, which opcode, and why not.
    fn refuse(&self, what: impl std::fmt::Display) -> String {
        let opcode = match self.file.get(self.opcode) {
            Some(byte) if byte.is_ascii_graphic() => format!("opcode {byte:#04x} (`{}`)", char::from(*byte)),
            Some(byte) => format!("opcode {byte:#04x}"),
            None => "the end of the file".to_owned(),
        };
        format!("refused at byte {}, {opcode}: {what}", self.opcode)
    }
}
