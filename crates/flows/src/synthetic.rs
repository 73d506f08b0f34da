use std::io::Write;
use std::sync::Arc;

use rand::distr::weighted::WeightedIndex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::flows::CsvLines;
use crate::{FeatureColumn, Flows, Schema};

mod kinds;

use kinds::{KINDS, Kind, Spread, Weighted};

/// Flows of the shape of UNSW-NB15 for trying things without data: ten categories in about their real shares, 55 % attacks, a
/// fifth of the rows repeats an earlier one. The same seed gives the same flows on every machine.
///
/// Packets, bytes and duration are drawn from what is typical of a kind of traffic; what a flow meter derives from
/// them (rates, loads, means, gaps) is derived by the same formulas. No row stems from the real data.
pub fn synthetic(n_rows: usize, seed: u64) -> Flows {
    Generator::new(seed).next_batch(n_rows)
}

/// Writes the flows of [`synthetic`] as CSV, batch by batch: memory grows by 8 bytes a row.
pub fn write_synthetic(n_rows: usize, seed: u64, out: impl Write) -> std::io::Result<()> {
    SyntheticWriter::new(seed).write(n_rows, out)
}

/// The flows of [`synthetic`], written to several files one after the other.
pub struct SyntheticWriter(Generator);

impl SyntheticWriter {
    /// The first flow comes next.
    pub fn new(seed: u64) -> Self {
        Self(Generator::new(seed))
    }

    /// Writes the next flows as CSV with a header.
    pub fn write(&mut self, n_rows: usize, out: impl Write) -> std::io::Result<()> {
        const BATCH: usize = 4096;
        let mut lines = CsvLines::new(out);
        lines.write(&self.0.next_batch(n_rows % BATCH))?;
        for _ in 0..n_rows / BATCH {
            lines.write(&self.0.next_batch(BATCH))?;
        }
        lines.flush()
    }
}

/// An endless sequence of flows.
struct Generator {
    schema: Arc<Schema>,
    rng: ChaCha8Rng,
    kinds: WeightedIndex<u32>,
    /// For each kind, where in the random numbers its flows were drawn that were no repetition.
    earlier: [Vec<u64>; KINDS.len()],
    n_rows: u64,
}

impl Generator {
    fn new(seed: u64) -> Self {
        Self {
            schema: Arc::new(Schema::builtin("unsw-nb15").expect("it ships")),
            rng: ChaCha8Rng::seed_from_u64(seed),
            kinds: WeightedIndex::new(KINDS.iter().map(|kind| kind.share)).expect("the table has weights"),
            earlier: std::array::from_fn(|_| Vec::new()),
            n_rows: 0,
        }
    }

    fn next_batch(&mut self, n_rows: usize) -> Flows {
        let mut flows = Flows::empty(&self.schema, true, true);
        for _ in 0..n_rows {
            let (kind, flow) = self.next_flow();
            self.n_rows += 1;
            flows.ids.push(self.n_rows.to_string());
            let (mut texts, mut numbers) = (flow.texts.iter(), flow.numbers.iter());
            for column in &mut flows.features {
                match column {
                    FeatureColumn::Numeric(values) => values.extend(numbers.next()),
                    FeatureColumn::Categorical(column) => texts.next().into_iter().for_each(|text| column.push(text)),
                }
            }
            flows.labels.iter_mut().for_each(|labels| labels.push((kind.category != "Normal").into()));
            flows.categories.iter_mut().for_each(|categories| categories.push(kind.category));
        }
        flows
    }

    fn next_flow(&mut self) -> (&'static Kind, Flow) {
        let idx = self.kinds.sample(&mut self.rng);
        let (kind, earlier) = (&KINDS[idx], &mut self.earlier[idx]);
        let repeats = self.rng.random_bool(kind.repeats) && !earlier.is_empty();
        let flow = if repeats {
            let place = earlier[self.rng.random_range(0..earlier.len())];
            let mut again = self.rng.clone();
            again.set_word_pos(u128::from(place));
            draw(kind, &mut again)
        } else {
            earlier.push(self.rng.get_word_pos() as u64);
            draw(kind, &mut self.rng)
        };
        (kind, flow)
    }
}

/// The features of a flow, in schema order.
struct Flow {
    texts: [&'static str; 3],
    numbers: [f64; 39],
}

fn draw(kind: &Kind, rng: &mut ChaCha8Rng) -> Flow {
    let proto = pick(kind.protos, rng);
    let service = pick(kind.services, rng);
    let tcp = proto == "tcp";
    let spkts = log_normal(kind.packets, rng).round().max(1.0);
    let dpkts = (spkts * log_normal(kind.reply, rng)).round();
    let answered = dpkts > 0.0;
    let sbytes = (spkts * log_normal(kind.bytes[0], rng).clamp(28.0, 1500.0)).round();
    let dbytes = (dpkts * log_normal(kind.bytes[1], rng).clamp(28.0, 1500.0)).round();
    let dur = micro(log_normal(kind.seconds, rng).clamp(1e-6, 60.0));

    let handshake = log_normal(kind.rtt, rng).min(dur);
    let synack = micro(handshake * rng.random_range(0.35..0.65));
    let ackdat = micro(handshake - synack);
    let (sloss, dloss) = (lost(spkts, kind.loss, rng), lost(dpkts, 0.7 * kind.loss, rng));
    let (sinpkt, dinpkt) = (gap(spkts, dur, rng), gap(dpkts, dur, rng));
    let (sjit, djit) = (jitter(spkts, sinpkt, 0.7, rng), jitter(dpkts, dinpkt, 0.2, rng));
    let window = if tcp && answered { 255.0 } else { 0.0 };
    let mut sequence = || if window > 0.0 { f64::from(rng.random::<u32>()) } else { 0.0 };
    let (stcpb, dtcpb) = (sequence(), sequence());

    let http = service == "http" && answered;
    let trans_depth = f64::from(u8::from(http));
    let body = if http && rng.random_bool(0.5) { (dbytes * rng.random_range(0.2..0.9)).round() } else { 0.0 };
    let login = f64::from(u8::from(service == "ftp" && rng.random_bool(0.7)));
    let [sttl, dttl] = kind.ttl.map(f64::from);
    let state_ttl = match (kind.state, kind.ttl) {
        ("REQ", _) => 6.0,
        ("INT", _) => 2.0,
        ("CON", [62, _]) => 3.0,
        (_, [31, _]) => 0.0,
        _ => 1.0,
    };
    let together = normal(rng);
    let mut count = |typical: f64| crowd(typical, together, rng);
    let [srv_src, dst, src, pair] = kind.crowd.map(&mut count);
    let srv_dst = count(kind.crowd[0]);
    let dport = part(src, answered, rng);
    let sport = part(dst, answered, rng);

    let numbers = [
        dur,
        spkts,
        dpkts,
        sbytes,
        dbytes,
        micro((spkts + dpkts - 1.0) / dur),
        sttl,
        dttl,
        load(sbytes, spkts, dur),
        load(dbytes, dpkts, dur),
        sloss,
        dloss,
        sinpkt,
        dinpkt,
        sjit,
        djit,
        window,
        stcpb,
        dtcpb,
        window,
        micro(synack + ackdat),
        synack,
        ackdat,
        (sbytes / spkts).round(),
        if answered { (dbytes / dpkts).round() } else { 0.0 },
        trans_depth,
        body,
        srv_src,
        state_ttl,
        dst,
        dport,
        sport,
        pair,
        login,
        login,
        trans_depth,
        src,
        srv_dst,
        0.0,
    ];
    Flow { texts: [proto, service, kind.state], numbers }
}

fn pick(choices: Weighted, rng: &mut ChaCha8Rng) -> &'static str {
    let mut at = rng.random_range(0..choices.iter().map(|(weight, _)| weight).sum());
    for &(weight, choice) in choices {
        if at < weight {
            return choice;
        }
        at -= weight;
    }
    unreachable!("`at` was below the sum of the weights")
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// libm, because `exp` of the system differs between systems in its last bit.
fn log_normal(Spread(median, spread): Spread, rng: &mut ChaCha8Rng) -> f64 {
    median * libm::exp(spread * normal(rng))
}

/// Rounded to six decimals, as the meter writes.
fn micro(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

/// Bits per second, the last packet not counted.
fn load(bytes: f64, packets: f64, dur: f64) -> f64 {
    if packets > 1.0 { micro(8.0 * bytes * (packets - 1.0) / packets / dur) } else { 0.0 }
}

/// Mean milliseconds between packets of one direction, which is active for nearly the whole flow.
fn gap(packets: f64, dur: f64, rng: &mut ChaCha8Rng) -> f64 {
    let active = dur * rng.random_range(0.95..1.0);
    if packets > 1.0 { micro(1e3 * active / (packets - 1.0)) } else { 0.0 }
}

/// Milliseconds by which gaps vary; two packets have but one gap.
fn jitter(packets: f64, gap: f64, log_ratio: f64, rng: &mut ChaCha8Rng) -> f64 {
    let ratio = log_normal(Spread(libm::exp(log_ratio), 0.9), rng);
    if packets > 2.0 { micro(gap * ratio * packets.sqrt()) } else { 0.0 }
}

fn lost(packets: f64, share: f64, rng: &mut ChaCha8Rng) -> f64 {
    (packets * share * rng.random_range(0.7..1.3)).round().min(packets)
}

/// A count of recent connections; `together` makes the counts of a flow rise and fall together.
fn crowd(typical: f64, together: f64, rng: &mut ChaCha8Rng) -> f64 {
    let z = 0.8 * together + 0.6 * normal(rng);
    (typical * libm::exp(0.6 * z)).round().clamp(1.0, 63.0)
}

/// How many of `count` connections also share a port: most of a flood, few of conversations.
fn part(count: f64, answered: bool, rng: &mut ChaCha8Rng) -> f64 {
    let share: f64 = rng.random();
    (count * if answered { share * share } else { 1.0 - 0.4 * share }).round().max(1.0)
}

#[cfg(test)]
mod tests;
