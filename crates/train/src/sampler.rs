//! The rows of a step. They are a function of seed and step, so a run can go on from any step.

use nids_config::Shuffle;
use nids_kernels::Key;
use nids_nn::engine::Sample;
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::stream;

/// Draws the rows of each step, in epochs over the rows of a stage and, if there are any, over rows without labels.
#[derive(Debug)]
pub struct Sampler {
    rows: Epochs,
    /// Epochs over rows without labels, and the number of these rows per step.
    unlabelled: Option<(Epochs, usize)>,
}

impl Sampler {
    /// Epochs over `rows`, shuffled by `seed`.
    ///
    /// # Panics
    /// If there are no rows.
    pub fn new(seed: u64, rows: Vec<u32>) -> Self {
        Self::of(seed, Rows::List(rows), LISTED)
    }

    /// Epochs over the rows 0 .. `n`. The order is that of [`Sampler::new`] with these rows; it takes no memory where they are many.
    ///
    /// # Panics
    /// If there are no rows, or more than 32 bits count.
    pub fn over(seed: u64, n: usize) -> Self {
        Self::of(seed, Rows::First(u32::try_from(n).expect("rows are counted in 32 bits")), LISTED)
    }

    /// The same rows in an order that reads a slow disk block by block, if `shuffle` says so: every 64 blocks of 1,024
    /// neighbouring rows, drawn from everywhere, are mixed with one another. Rows without labels keep their order.
    #[must_use]
    pub fn with_shuffle(mut self, shuffle: Shuffle) -> Self {
        if shuffle == Shuffle::Block {
            self.rows.order = Order::Blocks(Blocks::new(self.rows.key, self.rows.rows.len()));
        }
        self
    }

    fn of(seed: u64, rows: Rows, listed: u32) -> Self {
        Self { rows: Epochs::new(Key::new(seed).child(stream::SHUFFLE), rows, listed), unlabelled: None }
    }

    /// The same sampler with `batch_size` of the `unlabelled` rows after the rows of each step.
    ///
    /// # Panics
    /// If there are no rows.
    #[must_use]
    pub fn beside(self, seed: u64, unlabelled: Vec<u32>, batch_size: usize) -> Self {
        let unlabelled = Epochs::new(Key::new(seed).child(stream::UNLABELLED_SHUFFLE), Rows::List(unlabelled), LISTED);
        Self { unlabelled: Some((unlabelled, batch_size)), ..self }
    }

    /// Fills `out` with the samples of `step`, counted from 0: the next `batch_size` of the endless sequence of epochs, then the rows
    /// without labels.
    pub fn batch(&mut self, step: u64, batch_size: usize, out: &mut Vec<Sample>) {
        out.clear();
        self.rows.append(step, batch_size, out);
        if let Some((unlabelled, batch_size)) = &mut self.unlabelled {
            unlabelled.append(step, *batch_size, out);
        }
    }
}

/// Rows up to which an epoch's order is a shuffled list. Of more rows it is a permutation that is computed, place by place: a list
/// would take 8 bytes a row.
const LISTED: u32 = 1 << 22;

/// Epochs over some rows, each in another order.
#[derive(Debug)]
struct Epochs {
    key: Key,
    rows: Rows,
    order: Order,
    epoch: Option<u64>,
}

#[derive(Debug)]
enum Rows {
    List(Vec<u32>),
    /// 0 .. n
    First(u32),
}

#[derive(Debug)]
enum Order {
    List(Vec<u32>),
    Computed(Permutation),
    Blocks(Blocks),
}

impl Rows {
    fn len(&self) -> u32 {
        match self {
            Rows::List(rows) => u32::try_from(rows.len()).expect("rows are counted in 32 bits"),
            Rows::First(n) => *n,
        }
    }

    fn at(&self, place: u32) -> u32 {
        match self {
            Rows::List(rows) => rows[place as usize],
            Rows::First(_) => place,
        }
    }
}

impl Epochs {
    fn new(key: Key, rows: Rows, listed: u32) -> Self {
        let n = rows.len();
        assert!(n > 0, "rows to draw from");
        let order = if n <= listed { Order::List(Vec::new()) } else { Order::Computed(Permutation::new(key, n)) };
        Self { key, rows, order, epoch: None }
    }

    /// Appends the samples of `step`. A sample's key is its place in the step.
    fn append(&mut self, step: u64, batch_size: usize, out: &mut Vec<Sample>) {
        let n = u64::from(self.rows.len());
        for i in 0..batch_size as u64 {
            let position = step * batch_size as u64 + i;
            if self.epoch != Some(position / n) {
                self.shuffle(position / n);
            }
            let place = (position % n) as u32;
            let row = match &mut self.order {
                Order::List(order) => order[place as usize],
                Order::Computed(order) => self.rows.at(order.of(place)),
                Order::Blocks(order) => self.rows.at(order.of(place)),
            };
            out.push(Sample { row, key: out.len() as u32 });
        }
    }

    fn shuffle(&mut self, epoch: u64) {
        let key = self.key.child(epoch);
        match &mut self.order {
            Order::List(order) => {
                order.clear();
                match &self.rows {
                    Rows::List(rows) => order.extend(rows),
                    Rows::First(n) => order.extend(0..*n),
                }
                order.shuffle(&mut key.stream(0, 0));
            }
            Order::Computed(order) => *order = Permutation::new(key, self.rows.len()),
            Order::Blocks(order) => *order = Blocks::new(key, self.rows.len()),
        }
        self.epoch = Some(epoch);
    }
}

/// Rows of a block: some hundred KB of 42 features, which a disk reads at once.
const BLOCK_ROWS: u32 = 1 << 10;
/// Blocks that are mixed: some ten MB, which the system keeps in memory meanwhile.
const BLOCKS: u32 = 1 << 6;

/// A permutation of 0 .. n that stays among few blocks for long: blocks in an order drawn by a key, and the places of so many of them in
/// another. The rows beyond the last whole block come last.
#[derive(Debug)]
struct Blocks {
    key: Key,
    n: u32,
    /// Of whole blocks.
    order: Option<Permutation>,
    /// The blocks that are mixed now, and their places.
    window: Option<(u32, Permutation)>,
}

impl Blocks {
    fn new(key: Key, n: u32) -> Self {
        let whole = n / BLOCK_ROWS;
        Self { key, n, order: (whole > 0).then(|| Permutation::new(key, whole)), window: None }
    }

    fn of(&mut self, place: u32) -> u32 {
        const WINDOW: u32 = BLOCKS * BLOCK_ROWS;
        let (number, first) = (place / WINDOW, place / WINDOW * WINDOW);
        if self.window.as_ref().is_none_or(|(current, _)| *current != number) {
            let mixed = Permutation::new(self.key.child(1 + u64::from(number)), WINDOW.min(self.n - first));
            self.window = Some((number, mixed));
        }
        let (_, mixed) = self.window.as_ref().expect("it was made");
        let place = first + mixed.of(place - first);
        let block = place / BLOCK_ROWS;
        match &self.order {
            Some(order) if block < order.n => order.of(block) * BLOCK_ROWS + place % BLOCK_ROWS,
            _ => place,
        }
    }
}

/// A permutation of 0 .. n, drawn by a key: a Feistel network over the next even number of bits, walked until it is below n (Black
/// and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
#[derive(Debug)]
struct Permutation {
    n: u32,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

const ROUNDS: usize = 6;

impl Permutation {
    fn new(key: Key, n: u32) -> Self {
        let half_bits = (u32::BITS - (n - 1).leading_zeros()).div_ceil(2).max(1);
        let mut stream = key.stream(0, 0);
        Self { n, half_bits, keys: std::array::from_fn(|_| stream.random()) }
    }

    fn of(&self, place: u32) -> u32 {
        let mut x = u64::from(place);
        loop {
            x = self.once(x);
            // at most three of four numbers lie beyond n
            if x < u64::from(self.n) {
                return x as u32;
            }
        }
    }

    fn once(&self, x: u64) -> u64 {
        let mask = (1_u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys {
            // the finaliser of SplitMix64
            let mut z = right ^ key;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (left, right) = (right, left ^ ((z ^ (z >> 31)) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_takes_every_row_once_and_steps_can_be_taken_in_any_order() {
        let rows: Vec<u32> = (100..110).collect();
        let mut sampler = Sampler::new(5, rows.clone());
        let mut batch = Vec::new();
        let mut batches: Vec<Vec<Sample>> = Vec::new();
        for step in 0..10 {
            sampler.batch(step, 4, &mut batch);
            batches.push(batch.clone());
        }
        let drawn: Vec<u32> = batches.iter().flatten().map(|sample| sample.row).collect();
        for epoch in drawn.chunks(10) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, rows);
        }
        assert_ne!(drawn[..10], drawn[10..20]);
        let mut late = Sampler::new(5, rows);
        late.batch(7, 4, &mut batch);
        assert_eq!(batch, batches[7]);
    }

    #[test]
    fn many_rows_are_permuted_without_a_list_and_steps_can_still_be_taken_in_any_order() {
        for n in [1_u32, 2, 3, 16, 17, 100] {
            let batch = |sampler: &mut Sampler, step: u64| {
                let mut batch = Vec::new();
                sampler.batch(step, 5, &mut batch);
                batch.into_iter().map(|sample| sample.row).collect::<Vec<_>>()
            };
            let mut sampler = Sampler::of(5, Rows::First(n), 0);
            let drawn: Vec<Vec<u32>> = (0..u64::from(3 * n)).map(|step| batch(&mut sampler, step)).collect();
            for epoch in drawn.concat().chunks_exact(n as usize) {
                let mut sorted = epoch.to_vec();
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..n), "{n}: {epoch:?}");
            }
            let mut late = Sampler::of(5, Rows::First(n), 0);
            assert_eq!(batch(&mut late, 2), drawn[2]);
            // a list of rows is taken in the order of their places
            let mut listed = Sampler::of(5, Rows::List((100..100 + n).collect()), 0);
            assert!(batch(&mut listed, 1).into_iter().eq(drawn[1].iter().map(|row| row + 100)));
        }
        let order = Sampler::of(5, Rows::First(1000), 0);
        let Order::Computed(order) = order.rows.order else { panic!("no list") };
        let fixed = (0..1000).filter(|&place| order.of(place) == place).count();
        let rises = (1..1000).filter(|&place| order.of(place) > order.of(place - 1)).count();
        assert!(fixed < 8 && (400..600).contains(&rises), "{fixed} fixed points, {rises} rises");
    }

    #[test]
    fn blocks_are_read_one_after_another_and_every_row_once() {
        const WINDOW: usize = (BLOCKS * BLOCK_ROWS) as usize;
        for n in [1_usize, 700, 1024, 70_000, 3 * WINDOW + 5] {
            let new = || Sampler::over(5, n).with_shuffle(Shuffle::Block);
            let (mut sampler, mut batch, mut drawn) = (new(), Vec::new(), Vec::new());
            let steps = (2 * n).div_ceil(500) as u64;
            for step in 0..steps {
                sampler.batch(step, 500, &mut batch);
                drawn.extend(batch.iter().map(|sample| sample.row));
            }
            for epoch in drawn[..2 * n].chunks(n) {
                let mut sorted = epoch.to_vec();
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..n as u32), "{n}");
                for rows in epoch.chunks(WINDOW) {
                    let blocks: std::collections::BTreeSet<u32> = rows.iter().map(|row| row / BLOCK_ROWS).collect();
                    assert!(blocks.len() <= BLOCKS as usize + 1, "{n}: {} blocks", blocks.len());
                }
            }
            assert!(n == 1 || drawn[..n] != drawn[n..2 * n], "{n}: each epoch has an order of its own");
            // steps can be taken in any order, and a list is taken by its places
            let (mut late, mut again) = (new(), Vec::new());
            late.batch(steps - 1, 500, &mut again);
            assert_eq!(again, batch);
            let mut listed = Sampler::new(5, (7..7 + n as u32).collect()).with_shuffle(Shuffle::Block);
            listed.batch(steps - 1, 500, &mut again);
            assert!(again.iter().map(|sample| sample.row - 7).eq(batch.iter().map(|sample| sample.row)));
        }
        // a batch is from many blocks, far apart
        let (mut sampler, mut batch) = (Sampler::over(5, 3 * WINDOW).with_shuffle(Shuffle::Block), Vec::new());
        sampler.batch(0, 500, &mut batch);
        let blocks: std::collections::BTreeSet<u32> = batch.iter().map(|sample| sample.row / BLOCK_ROWS).collect();
        assert!(blocks.len() > 50 && blocks.last().unwrap() - blocks.first().unwrap() > 100, "{blocks:?}");
    }

    #[test]
    fn a_range_of_rows_is_drawn_like_a_list_of_them() {
        for listed in [0, LISTED] {
            let mut range = Sampler::of(7, Rows::First(23), listed);
            let mut list = Sampler::of(7, Rows::List((0..23).collect()), listed);
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for step in [0, 1, 9, 4] {
                range.batch(step, 8, &mut a);
                list.batch(step, 8, &mut b);
                assert_eq!(a, b);
            }
        }
        assert!(matches!(Sampler::over(7, LISTED as usize).rows.order, Order::List(_)));
        assert!(matches!(Sampler::over(7, LISTED as usize + 1).rows.order, Order::Computed(_)));
    }

    #[test]
    fn rows_without_labels_follow_and_change_nothing() {
        let rows: Vec<u32> = (0..5).collect();
        let mut alone = Sampler::new(5, rows.clone());
        let mut beside = Sampler::new(5, rows).beside(5, (100..107).collect(), 3);
        let (mut batch, mut mixed) = (Vec::new(), Vec::new());
        let mut unlabelled = Vec::new();
        for step in 0..7 {
            alone.batch(step, 4, &mut batch);
            beside.batch(step, 4, &mut mixed);
            assert_eq!((mixed.len(), &mixed[..4]), (7, &batch[..]));
            assert!(mixed.iter().zip(0..).all(|(sample, key)| sample.key == key));
            unlabelled.extend(mixed[4..].iter().map(|sample| sample.row));
        }
        for epoch in unlabelled.chunks_mut(7) {
            epoch.sort_unstable();
            assert!(epoch.iter().copied().eq(100..107), "{epoch:?}");
        }
    }
}
