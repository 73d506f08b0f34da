//! A network with its weights, ready to infer.

use nids_config::Config;
use nids_flows::{TokenTable, all_rows};
use nids_kernels::Buffer;
use nids_nn::engine::Engine;
use nids_nn::{Cx, ParamTable, Prepared};
use nids_store::Result;

use crate::engine::inference_engine;
use crate::network::LatentEncoder;

/// An engine, the weights of a network and what the engine prepares of them.
#[derive(Debug)]
pub struct Session {
    engine: Engine<f32>,
    params: Buffer<f32>,
    prepared: Prepared<f32>,
}

impl Session {
    /// The engine of `config` for a network of `table` that keeps `activations` numbers of a row, passes it once for each of
    /// `members`, and of which a row's tokens have `tokens` numbers.
    pub fn new(
        config: &Config,
        table: &ParamTable,
        [activations, members, tokens]: [usize; 3],
        params: Buffer<f32>,
    ) -> Result<Self> {
        let engine = inference_engine(config, table, activations, members, tokens)?;
        let prepared = Prepared::of(table, engine.gemm(), &params);
        Ok(Self { engine, params, prepared })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine<f32> {
        &self.engine
    }

    /// The weights.
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// What the engine has prepared of the weights.
    pub fn prepared(&self) -> &Prepared<f32> {
        &self.prepared
    }

    /// [`Engine::infer`] with the session's weights.
    pub fn infer(&self, rows: &[u32], width: usize, out: &mut [f32], forward: impl Fn(&Cx<'_, f32>, &[u32], &mut [f32]) + Sync) {
        self.engine.infer(&self.params, &self.prepared, rows, width, out, forward);
    }
}

/// The pretrained encoder of a run, ready to give latents.
#[derive(Debug)]
pub struct LatentSession {
    encoder: LatentEncoder,
    session: Session,
}

impl LatentSession {
    /// `params` are those of `table`, in which `encoder` has its own.
    pub fn new(config: &Config, table: &ParamTable, encoder: LatentEncoder, params: Buffer<f32>) -> Result<Self> {
        let session = Session::new(config, table, [encoder.encoder().activations(), 1, encoder.tokens()], params)?;
        Ok(Self { encoder, session })
    }

    /// The encoder.
    pub fn encoder(&self) -> &LatentEncoder {
        &self.encoder
    }

    /// The engine.
    pub fn engine(&self) -> &Engine<f32> {
        self.session.engine()
    }

    /// The latents of all rows.   out: [rows, width]
    pub fn latents(&self, encoded: &TokenTable, out: &mut [f32]) {
        self.latents_of(encoded, &all_rows(encoded.n_rows()), out);
    }

    /// The latents of some rows.   out: [rows, width]
    pub fn latents_of(&self, encoded: &TokenTable, rows: &[u32], out: &mut [f32]) {
        let encoder = &self.encoder;
        self.session.infer(rows, encoder.width(), out, |cx, rows, out| {
            let x = cx.alloc(rows.len() * encoded.width());
            encoded.fill(rows.iter().copied(), x);
            encoder.infer(cx, rows.len(), x, out);
        });
    }
}
