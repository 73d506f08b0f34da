//! The rows of a training step, wherever they lie: all in memory, or in a packed cache of which a thread reads those of the next
//! step meanwhile.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use nids_flows::TokenTable;
use nids_nn::engine::Sample;
use nids_store::{Error, Result};

use crate::packed::PackedRows;

/// The rows of a training step.
#[derive(Clone, Copy)]
pub(crate) enum StepRows<'d> {
    Memory(&'d TokenTable),
    Packed(&'d PackedSteps),
}

/// The most numbers that a token has in a table.
const TOKEN_CELLS: usize = 4;

impl StepRows<'_> {
    pub(crate) fn n_rows(self) -> usize {
        match self {
            Self::Memory(table) => table.n_rows(),
            Self::Packed(steps) => steps.rows.n_rows(),
        }
    }

    pub(crate) fn n_tokens(self) -> usize {
        match self {
            Self::Memory(table) => table.n_tokens(),
            Self::Packed(steps) => steps.table().n_tokens(),
        }
    }

    pub(crate) fn width(self) -> usize {
        match self {
            Self::Memory(table) => table.width(),
            Self::Packed(steps) => steps.table().width(),
        }
    }

    /// [`TokenTable::fill`] with the rows of some samples of the step.
    pub(crate) fn fill(self, samples: &[Sample], x: &mut [f32]) {
        match self {
            Self::Memory(table) => table.fill(samples.iter().map(|sample| sample.row), x),
            // a sample's key is its place in the step
            Self::Packed(steps) => steps.table().fill(samples.iter().map(|sample| sample.key), x),
        }
    }

    /// What is predicted of samples of the step.   targets: [F, b]
    pub(crate) fn fill_targets(self, samples: &[Sample], targets: &mut [f32]) {
        let fill = |table: &TokenTable, row: fn(&Sample) -> u32, targets: &mut [f32]| {
            for (token, targets) in targets.chunks_exact_mut(samples.len()).enumerate() {
                for (target, sample) in targets.iter_mut().zip(samples) {
                    *target = table.target(row(sample) as usize, token);
                }
            }
        };
        match self {
            Self::Memory(table) => fill(table, |sample| sample.row, targets),
            Self::Packed(steps) => fill(&steps.table(), |sample| sample.key, targets),
        }
    }

    /// Writes the token of another row, which need not be one of the step, over that of the sample at `place` of `samples`. Returns
    /// whether its values differ.
    pub(crate) fn swap(self, samples: &[Sample], token: usize, place: usize, donor: u32, x: &mut [f32]) -> bool {
        match self {
            Self::Memory(table) => {
                table.expand(donor as usize, token, &mut x[table.place(token, place, samples.len())]);
                !table.is_same([samples[place].row, donor], token)
            }
            Self::Packed(steps) => {
                let table = steps.table();
                let range = table.cells_of(token);
                let mut cells = [0.0; TOKEN_CELLS];
                let cells = &mut cells[..range.len()];
                if let Err(error) = steps.rows.read(donor, range.start, cells) {
                    lock(&steps.failure).get_or_insert(error);
                }
                table.expand_cells(token, cells, &mut x[table.place(token, place, samples.len())]);
                !table.is_same_as(samples[place].key, token, cells)
            }
        }
    }
}

/// Rows of a packed cache, those of one step in memory.
pub(crate) struct PackedSteps {
    rows: Arc<PackedRows>,
    /// The rows of the step, in the order of its samples.
    table: RwLock<TokenTable>,
    reader: Mutex<Reader>,
    /// What went wrong while rows of other steps were read.
    failure: Mutex<Option<Error>>,
}

/// The thread that reads, as seen from the training loop.
struct Reader {
    orders: SyncSender<Batch>,
    read: Receiver<(Batch, Result<()>)>,
    /// The buffer that it does not have.
    spare: Option<Batch>,
}

/// Samples whose rows are read, and the place for the cells of a step.
struct Batch {
    samples: Vec<Sample>,
    cells: Vec<f32>,
}

impl PackedSteps {
    /// For steps of `batch_size` rows.
    pub(crate) fn new(rows: Arc<PackedRows>, batch_size: usize) -> Result<Self> {
        let table = rows.tokeniser().empty_table(batch_size);
        let (orders, ordered) = sync_channel::<Batch>(1);
        let (done, read) = sync_channel(1);
        let source = Arc::clone(&rows);
        let work = move || {
            let mut order = Vec::new();
            while let Ok(mut batch) = ordered.recv() {
                let result = batch.read(&source, &mut order);
                if done.send((batch, result)).is_err() {
                    break;
                }
            }
        };
        let started = thread::Builder::new().name("rows".to_owned()).spawn(work);
        started.map_err(|error| Error::System(format!("no thread to read rows: {error}")))?;
        let spare = Some(Batch { samples: Vec::new(), cells: table.cells().to_vec() });
        let reader = Mutex::new(Reader { orders, read, spare });
        Ok(Self { rows, table: RwLock::new(table), reader, failure: Mutex::new(None) })
    }

    /// Brings rows of a step into memory, and has those of the next read meanwhile.
    pub(crate) fn fetch(&self, samples: &[Sample], next: &[Sample]) -> Result<()> {
        self.check()?;
        let mut reader = lock(&self.reader);
        let mut batch = reader.take()?;
        if batch.samples != samples {
            // the first step, or the one after a rollback
            reader.order(batch, samples);
            batch = reader.take()?;
        }
        self.table.write().unwrap_or_else(PoisonError::into_inner).swap_cells(&mut batch.cells);
        reader.order(batch, next);
        Ok(())
    }

    /// What went wrong while a step looked at rows of others.
    pub(crate) fn check(&self) -> Result<()> {
        lock(&self.failure).take().map_or(Ok(()), Err)
    }

    fn table(&self) -> RwLockReadGuard<'_, TokenTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// The batch that was read, once it is there; the empty one at the start.
    fn take(&mut self) -> Result<Batch> {
        if let Some(spare) = self.spare.take() {
            return Ok(spare);
        }
        let (batch, result) = self.read.recv().expect("it answers every order");
        result.map(|()| batch)
    }

    fn order(&mut self, mut batch: Batch, samples: &[Sample]) {
        batch.samples.clear();
        batch.samples.extend(samples);
        self.orders.send(batch).expect("it runs as long as there may be orders");
    }
}

impl Batch {
    /// Reads the rows, in the order in which they lie on the disk.
    fn read(&mut self, from: &PackedRows, order: &mut Vec<Sample>) -> Result<()> {
        let Self { samples, cells } = self;
        let stride = from.stride();
        order.clear();
        order.extend(&*samples);
        order.sort_unstable_by_key(|sample| sample.row);
        for sample in &*order {
            // a sample's key is its place in the step
            let place = sample.key as usize;
            from.read(sample.row, 0, &mut cells[place * stride..(place + 1) * stride])?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
