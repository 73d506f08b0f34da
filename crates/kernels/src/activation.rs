//! The pass after the first product of an MLP: bias, activation, its derivative and dropout at once.

use crate::simd::{arch, simd, update};
use crate::{Mask, Real};

/// The nonlinearity of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x), exact (Hendrycks & Gimpel 2016).
    Gelu,
    /// tanh x.
    Tanh,
}

impl Activation {
    /// Value and derivative at `x`.
    #[inline(always)]
    fn eval<R: Real>(self, x: R) -> [R; 2] {
        match self {
            Self::Gelu => {
                let (cdf, pdf) = x.normal_cdf_pdf();
                [x * cdf, x.mul_add(pdf, cdf)]
            }
            Self::Tanh => {
                let (y, dy) = x.tanh_and_derivative();
                [y, dy]
            }
        }
    }
}

/// How a bias lies along a `[rows, cols]` matrix.
#[derive(Clone, Copy, Debug)]
pub enum Bias<'b, R> {
    /// One number a row (`[rows]`): token mixing, whose units are rows.
    PerRow(&'b [R]),
    /// One number a column (`[cols]`): channel mixing.
    PerColumn(&'b [R]),
}

impl<R: Real> Bias<'_, R> {
    #[inline(always)]
    pub(crate) fn check(&self, rows: usize, cols: usize) {
        match self {
            Self::PerRow(bias) => assert_eq!(bias.len(), rows, "one bias a row"),
            Self::PerColumn(bias) => assert_eq!(bias.len(), cols, "one bias a column"),
        }
    }
}

/// h = act(h + bias) · mask;   derivative = act'(h + bias) · mask, where wanted.   h, derivative: [rows, cols]
///
/// Backward is then `dh = dy · derivative`, with neither the activation nor the mask computed again.
///
/// # Panics
/// If lengths do not fit `cols`, or `cols` is 0.
pub fn bias_activation_dropout<R: Real>(
    activation: Activation,
    bias: Bias<'_, R>,
    mask: Mask<'_, R>,
    cols: usize,
    h: &mut [R],
    derivative: Option<&mut [R]>,
) {
    bias.check(h.len() / cols, cols);
    if let Some(derivative) = &derivative {
        assert_eq!(derivative.len(), h.len());
    }
    R::activate(activation, bias, mask, cols, h, derivative);
}

pub(crate) fn run<R: Real>(
    activation: Activation,
    bias: Bias<'_, R>,
    mask: Mask<'_, R>,
    cols: usize,
    h: &mut [R],
    mut derivative: Option<&mut [R]>,
) {
    #[cfg(target_arch = "x86_64")]
    if let (Activation::Gelu, pulp::Arch::V4(simd)) = (activation, arch())
        && R::gelu_avx512(simd, bias, mask, cols, h, &mut derivative)
    {
        return;
    }
    let rows = h.len() / cols;
    match activation {
        Activation::Gelu => simd(
            #[inline(always)]
            || body(Activation::Gelu, bias, mask, rows, cols, h, derivative),
        ),
        Activation::Tanh => simd(
            #[inline(always)]
            || body(Activation::Tanh, bias, mask, rows, cols, h, derivative),
        ),
    }
}

#[inline(always)]
fn body<R: Real>(
    activation: Activation,
    bias: Bias<'_, R>,
    mask: Mask<'_, R>,
    rows: usize,
    cols: usize,
    h: &mut [R],
    mut derivative: Option<&mut [R]>,
) {
    // decided once a run, so that the loops within have no choice left
    mask.for_each_run(
        rows,
        cols,
        #[inline(always)]
        |row, col, len, multipliers| {
            let start = row * cols + col;
            let h = &mut h[start..][..len];
            match (&mut derivative, bias, multipliers) {
                (Some(d), Bias::PerRow(bias), None) => update(
                    [h, &mut d[start..][..len]],
                    [],
                    #[inline(always)]
                    |[h, _], []| activation.eval(h + bias[row]),
                ),
                (Some(d), Bias::PerColumn(bias), None) => update(
                    [h, &mut d[start..][..len]],
                    [&bias[col..][..len]],
                    #[inline(always)]
                    |[h, _], [b]| activation.eval(h + b),
                ),
                (Some(d), Bias::PerRow(bias), Some(m)) => update(
                    [h, &mut d[start..][..len]],
                    [m],
                    #[inline(always)]
                    |[h, _], [m]| {
                        let [y, dy] = activation.eval(h + bias[row]);
                        [y * m, dy * m]
                    },
                ),
                (Some(d), Bias::PerColumn(bias), Some(m)) => update(
                    [h, &mut d[start..][..len]],
                    [&bias[col..][..len], m],
                    #[inline(always)]
                    |[h, _], [b, m]| {
                        let [y, dy] = activation.eval(h + b);
                        [y * m, dy * m]
                    },
                ),
                (None, Bias::PerRow(bias), None) => update(
                    [h],
                    [],
                    #[inline(always)]
                    |[h], []| [activation.eval(h + bias[row])[0]],
                ),
                (None, Bias::PerColumn(bias), None) => update(
                    [h],
                    [&bias[col..][..len]],
                    #[inline(always)]
                    |[h], [b]| [activation.eval(h + b)[0]],
                ),
                (None, Bias::PerRow(bias), Some(m)) => update(
                    [h],
                    [m],
                    #[inline(always)]
                    |[h], [m]| [activation.eval(h + bias[row])[0] * m],
                ),
                (None, Bias::PerColumn(bias), Some(m)) => update(
                    [h],
                    [&bias[col..][..len], m],
                    #[inline(always)]
                    |[h], [b, m]| [activation.eval(h + b)[0] * m],
                ),
            }
        },
    );
}

/// x *= mask.   x: [rows, cols]. Dropout both ways.
///
/// # Panics
/// If `cols` is 0, or the mask is given and has another length.
pub fn dropout_rows<R: Real>(mask: Mask<'_, R>, cols: usize, x: &mut [R]) {
    R::dropout(mask, cols, x);
}

pub(crate) fn dropout<R: Real>(mask: Mask<'_, R>, cols: usize, x: &mut [R]) {
    let rows = x.len() / cols;
    simd(
        #[inline(always)]
        || {
            mask.for_each_run(
                rows,
                cols,
                #[inline(always)]
                |row, col, len, multipliers| {
                    if let Some(multipliers) = multipliers {
                        let x = &mut x[row * cols + col..][..len];
                        update([x], [multipliers], |[x], [m]| [x * m]);
                    }
                },
            );
        },
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Source, assert_close, cast, each_arch, numbers, sources, with_mask};

    fn twin(activation: Activation, x: f64) -> (f64, f64) {
        match activation {
            Activation::Gelu => {
                let cdf = 0.5 * (1.0 + libm::erf(x / 2.0_f64.sqrt()));
                (x * cdf, cdf + x * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt())
            }
            Activation::Tanh => (x.tanh(), x.cosh().powi(-2)),
        }
    }

    fn check<R: Real>(activation: Activation, per_row: bool, source: Source, rows: usize, cols: usize) {
        let h: Vec<f64> = numbers(1, rows * cols).iter().map(|x| 4.0 * x).collect();
        let bias = numbers(2, if per_row { rows } else { cols });
        let own: Vec<R> = cast(&bias);
        let borrowed = if per_row { Bias::PerRow(&own[..]) } else { Bias::PerColumn(&own[..]) };
        with_mask::<R>(source, &[3, 8, 1], rows, cols, |mask, multipliers| {
            let both = h.iter().zip(multipliers).enumerate().map(|(i, (h, m))| {
                let (y, dy) = twin(activation, h + bias[if per_row { i / cols } else { i % cols }]);
                (y * m, dy * m)
            });
            let (want, want_derivative): (Vec<_>, Vec<_>) = both.unzip();
            let (mut got, mut derivative) = (cast::<R>(&h), cast::<R>(&h));
            bias_activation_dropout(activation, borrowed, mask, cols, &mut got, Some(&mut derivative));
            assert_close(&got, &want);
            assert_close(&derivative, &want_derivative);
            let mut alone = cast::<R>(&h);
            bias_activation_dropout(activation, borrowed, mask, cols, &mut alone, None);
            assert_eq!(alone, got);
            let mut dropped = cast::<R>(&h);
            dropout_rows(mask, cols, &mut dropped);
            assert_close(&dropped, &h.iter().zip(multipliers).map(|(h, m)| h * m).collect::<Vec<_>>());
        });
    }

    proptest! {
        #[test]
        fn one_pass_is_bias_then_activation_then_mask(
            gelu: bool, per_row: bool, source in sources(), rows in 0..8_usize, cols in 1..150_usize,
        ) {
            let activation = if gelu { Activation::Gelu } else { Activation::Tanh };
            each_arch(|| {
                check::<f32>(activation, per_row, source, rows, cols);
                check::<f64>(activation, per_row, source, rows, cols);
            });
        }
    }
}
