//! A pickled `.npy` checkpoint, built here byte by byte, becomes safetensors; nothing of it is executed.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use std::error::Error;
use std::path::Path;

use nids_interop::import::from_bytes;
use safetensors::SafeTensors;

/// A network without blocks: patches of 2 numbers, width 3, one class. Keys are as the numpy model has them.
const ARRAYS: [(&str, &[i32]); 6] = [
    ("Linear_weight_1", &[3, 2]),
    ("Linear_bias_2", &[3]),
    ("LayerNorm_weight_3", &[3]),
    ("LayerNorm_bias_4", &[3]),
    ("Linear_weight_5", &[1, 3]),
    ("Linear_bias_6", &[1]),
];

/// A pickle of protocol 3.
#[derive(Default)]
struct Pickler(Vec<u8>);

impl Pickler {
    fn op(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    fn int(&mut self, int: i32) -> &mut Self {
        self.op(b"J").op(&int.to_le_bytes())
    }

    /// An array up to its data, which the caller writes before `tb`.
    fn array(&mut self, shape: &[i32], code: &str, order: &str, flags: i32) -> &mut Self {
        self.op(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01(");
        for &size in shape {
            self.int(size);
        }
        self.op(b"tcnumpy\ndtype\n").text(code).op(b"\x89\x88\x87R(K\x03").text(order);
        self.op(b"NNN").int(-1).int(-1).int(flags).op(b"tb\x89")
    }
}

/// The file: the header that `numpy.save` writes, then the pickle of `{"model_state": ..., "optimizer_state": {}}`.
fn checkpoint() -> Vec<u8> {
    let mut pickler = Pickler::default();
    pickler.op(b"\x80\x03").array(&[], "O8", "|", 63).op(b"]}(").text("model_state").op(b"}(");
    let mut next = 0.0_f32;
    for (key, shape) in ARRAYS {
        let n = shape.iter().product::<i32>();
        pickler.text(key).array(shape, "f4", "<", 0).op(b"B").op(&(4 * n).to_le_bytes());
        for _ in 0..n {
            pickler.op(&next.to_le_bytes());
            next += 1.0;
        }
        pickler.op(b"tb");
    }
    pickler.op(b"u").text("optimizer_state").op(b"}uatb.");
    let header = format!("{:117}\n", "{'descr': '|O', 'fortran_order': False, 'shape': (), }");
    [b"\x93NUMPY\x01\x00v\x00", header.as_bytes(), &pickler.0].concat()
}

fn main() -> Result<(), Box<dyn Error>> {
    let bytes = checkpoint();
    let mut written = Vec::new();
    let imported = from_bytes(&bytes, Path::new("model.npy"), &mut written)?;
    println!("{} bytes of pickle: {} blocks, {} numbers", bytes.len(), imported.depth, imported.n_params);

    let file = SafeTensors::deserialize(&written)?;
    let mut names = file.names();
    names.sort_unstable();
    for name in names {
        println!("{name:24} {:?}", file.tensor(name)?.shape());
    }
    let bias: Vec<f32> =
        file.tensor("param.proj.bias")?.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    assert_eq!(bias, [6.0, 7.0, 8.0], "numbers are those of the pickle");
    assert_eq!(imported.n_params, 19);

    // a pickle that would run a command when Python loads it is refused, with the place
    let hostile = [&bytes[..128], b"\x80\x03cos\nsystem\nX\x02\x00\x00\x00id\x85R."].concat();
    let error = from_bytes(&hostile, Path::new("hostile.npy"), &mut written).expect_err("nothing is executed");
    println!("{error}");
    Ok(())
}
