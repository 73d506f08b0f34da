//! The engine that a config asks for.

use nids_config::{Config, GemmBackend, Precision};
use nids_kernels::Gemm;
use nids_nn::engine::{Cut, Engine};
use nids_nn::{MAX_SHARD, ParamTable};
use nids_store::{Error, Result};

/// An engine for a network that keeps `activations` numbers of a row and passes it once for each of
/// `members`.
pub fn engine(
    config: &Config,
    table: &ParamTable,
    activations: usize,
    members: usize,
    micro_batch: usize,
) -> Result<Engine<f32>> {
    let cut = Cut { shard: shard(config, activations, members), groups: config.engine.groups(micro_batch) };
    let engine = Engine::new(table, config.engine.threads, gemm(config)?, cut);
    with_buffers(engine.map_err(|error| cannot_start(config, &error))?)
}

/// The same for passes without backward of a network of which a row's tokens have `tokens` numbers: of so many rows at once that
/// these stay within [`most_tokens`].
pub fn inference_engine(
    config: &Config,
    table: &ParamTable,
    activations: usize,
    members: usize,
    tokens: usize,
) -> Result<Engine<f32>> {
    let shard = shard(config, activations, members).min(most_tokens(table) / tokens.max(1)).max(1);
    let engine = Engine::for_inference(config.engine.threads, gemm(config)?, shard);
    engine.map_err(|error| cannot_start(config, &error))
}

/// Numbers of tokens that a worker may hold at once of a network that others may have made: no more than its weights account for,
/// or 4 MiB.
pub fn most_tokens(table: &ParamTable) -> usize {
    table.buffer_len().max(1 << 20)
}

fn shard(config: &Config, activations: usize, members: usize) -> usize {
    config.engine.shard(activations).min(MAX_SHARD / members)
}

fn gemm(config: &Config) -> Result<Gemm> {
    let gemm = match (config.engine.gemm, config.engine.precision) {
        (GemmBackend::Openblas, _) => Gemm::OpenBlas,
        (_, Precision::Bf16) => Gemm::Bf16,
        (_, Precision::F32) => Gemm::Tiles,
    };
    if gemm == Gemm::OpenBlas && config.engine.threads != 1 && !nids_kernels::is_thread_safe() {
        let message = "the OpenBLAS found here is the serial build, which is wrong on several threads: install `libopenblas0-pthread` and \
                       choose it with `update-alternatives`, or set `engine.gemm: tiles` or `engine.threads: 1`";
        return Err(Error::Usage(message.to_owned()));
    }
    Ok(gemm)
}

fn cannot_start(config: &Config, error: &dyn std::fmt::Display) -> Error {
    Error::System(format!(
        "`engine.threads: {}`: cannot start: {error}: set fewer, or raise `ulimit -u` or `ulimit -v`",
        config.engine.threads
    ))
}

/// The engine, with the buffers of OpenBLAS where it uses that.
fn with_buffers(engine: Engine<f32>) -> Result<Engine<f32>> {
    if engine.gemm() == Gemm::OpenBlas {
        reserve_openblas(engine.threads(), ", set `engine.threads` lower, or `engine.gemm: tiles`")?;
    }
    Ok(engine)
}

/// Gets the buffers of OpenBLAS for so many threads, before its first use.
pub fn reserve_openblas(threads: usize, or: &str) -> Result<()> {
    nids_kernels::reserve_openblas(threads).map_err(|_| {
        Error::System(format!(
            "no address space for OpenBLAS, which takes 128 MiB a thread ({threads} of them here): raise `ulimit -v`{or}"
        ))
    })
}
