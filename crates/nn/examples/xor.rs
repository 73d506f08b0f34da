//! A network of two layers learns XOR: a forward pass, a loss, a backward pass written by hand, gradient descent.
#![allow(clippy::print_stdout, reason = "an example prints what it shows")]

use nids_kernels::Arena;
use nids_nn::loss::{BceWeights, bce_with_logits, sigmoid};
use nids_nn::{Activation, ActivationLayer, Cx, Gemm, Linear, Mode, ParamTable, Scope, Tensor};

const X: [f32; 8] = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0];
const Y: [f32; 4] = [0.0, 1.0, 1.0, 0.0];

/// logits = linear2(tanh(linear1(x))).   x: [1, b, 2]   logits: [1, b, 1]
struct Network {
    linear1: Linear,
    activation: ActivationLayer,
    linear2: Linear,
}

impl Network {
    fn new(mut scope: Scope<'_>) -> Self {
        Self {
            linear1: Linear::new(&mut scope.at("linear1"), 2, 8),
            activation: ActivationLayer(Activation::Tanh),
            linear2: Linear::new(&mut scope.at("linear2"), 8, 1),
        }
    }

    /// Adds the gradient of the mean loss to `grads`. Returns the loss and the four logits.
    fn step(&self, cx: &Cx<'_, f32>, grads: &mut [f32]) -> (f64, [f32; 4]) {
        let x: Tensor<'_, f32> = cx.tensor([1, 4, 2]);
        x.data.copy_from_slice(&X);
        let (h, linear1) = self.linear1.forward(cx, x);
        let (h, activation) = self.activation.forward(cx, h);
        let (logits, linear2) = self.linear2.forward(cx, h);

        let dlogits = cx.tensor(logits.shape);
        let loss = bce_with_logits(logits.data, &Y, BceWeights::default(), Y.len() as f32, dlogits.data);

        // backward mirrors forward; each call takes its cache by value, so that none can be used twice
        let dh = self.linear2.backward(cx, grads, linear2, dlogits);
        let dh = self.activation.backward(cx, activation, dh);
        self.linear1.backward(cx, grads, linear1, dh);
        (loss, std::array::from_fn(|i| logits.data[i]))
    }
}

fn main() {
    let mut table = ParamTable::default();
    let network = Network::new(table.root());
    for spec in table.specs() {
        println!("{:15} {:?}", spec.name, spec.shape);
    }
    let mut params = table.init::<f32>(1);
    let mut grads = table.zeros::<f32>();
    let mut arena = Arena::default();
    let (mut loss, mut logits) = (f64::NAN, [0.0; 4]);
    for step in 0..=1000 {
        grads.fill(0.0);
        let cx = Cx::new(&params, &arena, Mode::Eval).with(Gemm::Tiles, None);
        (loss, logits) = network.step(&cx, &mut grads);
        drop(cx);
        arena.reset();
        params.iter_mut().zip(grads.iter()).for_each(|(p, g)| *p -= 0.5 * g);
        if step % 200 == 0 {
            println!("step {step:4}   loss {loss:.4}");
        }
    }
    for ((x, y), logit) in X.chunks_exact(2).zip(Y).zip(logits) {
        let p = sigmoid(logit);
        println!("{} xor {} = {y}   probability {p:.3}", x[0], x[1]);
        assert_eq!(p > 0.5, y > 0.5, "XOR was not learned");
    }
    assert!(loss < 0.05, "the loss is still {loss}");
}
