//! The processes that a step is dealt to, and what they tell each other.
//!
//! Each process computes a contiguous range of the gradient groups. The sum starts at the first process, which adds its groups one
//! by one and hands the result on, and the last one gives it to all. So every number is the sum of the same terms in the same order
//! as in a single process. A tree of sums, as in `MPI_Allreduce`, would round otherwise.

use std::fmt;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use nids_kernels::{Real, bytes_of, bytes_of_mut};

/// One of several processes that train a network together. All of them call the same functions in the same order.
///
/// A process that is lost ends the others: no call returns without its result.
pub trait Peers: Send + Sync + fmt::Debug {
    /// The number of this process, counted from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Sends bytes to a process, which must [`Peers::receive`] as many.
    fn send(&self, to: usize, bytes: &[u8]);

    /// Receives what a process sends.
    fn receive(&self, from: usize, bytes: &mut [u8]);

    /// Gives the bytes of one process to all.
    fn broadcast(&self, from: usize, bytes: &mut [u8]);
}

impl dyn Peers + '_ {
    /// Whether this process writes for all.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// The part of `n` things in a row that is dealt to this process.
    pub fn own(&self, n: usize) -> Range<usize> {
        let first_of = |rank: usize| rank * n / self.size();
        first_of(self.rank())..first_of(self.rank() + 1)
    }

    /// Takes `numbers` through all processes in order, `piece` of them at a time and `at_once` pieces together: each process gets what
    /// the one before has made of them, changes it by `change`, which is told where it starts, and hands it on. In the end all have
    /// what the last one has made.
    ///
    /// A process sends a piece while the next one still works on the piece before.
    pub fn chain<R: Real>(&self, numbers: &mut [R], piece: usize, at_once: usize, mut change: impl FnMut(usize, &mut [R])) {
        let (rank, last) = (self.rank(), self.size() - 1);
        let wave = piece * at_once;
        for (i, numbers) in numbers.chunks_mut(wave).enumerate() {
            if rank > 0 {
                numbers.chunks_mut(piece).for_each(|piece| self.receive(rank - 1, bytes_of_mut(piece)));
            }
            change(i * wave, numbers);
            if rank < last {
                numbers.chunks(piece).for_each(|piece| self.send(rank + 1, bytes_of(piece)));
            }
        }
        self.broadcast(last, bytes_of_mut(numbers));
    }

    /// Waits until all processes are here.
    pub fn meet(&self) {
        self.chain(&mut [0.0_f32], 1, 1, |_, _| ());
    }

    /// Gives the bytes of the first process to all.
    pub fn share(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut len = (bytes.len() as u64).to_le_bytes();
        self.broadcast(0, &mut len);
        let mut shared = bytes;
        shared.resize(usize::try_from(u64::from_le_bytes(len)).expect("it is in the memory of a process"), 0);
        self.broadcast(0, &mut shared);
        shared
    }
}

/// [`Peers`] that are threads of one process, for tests.
pub struct ThreadPeers {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
}

impl ThreadPeers {
    /// So many of them, each for a thread of its own.
    pub fn new(size: usize) -> Vec<Self> {
        let (mut senders, mut receivers): (Vec<Vec<_>>, Vec<Vec<_>>) = (0..size).map(|_| (Vec::new(), Vec::new())).unzip();
        for receivers in &mut receivers {
            for senders in &mut senders {
                let (to, from) = channel();
                senders.push(to);
                receivers.push(Mutex::new(from));
            }
        }
        senders.into_iter().zip(receivers).enumerate().map(|(rank, (to, from))| Self { rank, to, from }).collect()
    }
}

impl fmt::Debug for ThreadPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThreadPeers({} of {})", self.rank, self.size())
    }
}

impl Peers for ThreadPeers {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.from.len()
    }

    fn send(&self, to: usize, bytes: &[u8]) {
        self.to[to].send(bytes.to_vec()).expect("the other thread is there");
    }

    fn receive(&self, from: usize, bytes: &mut [u8]) {
        let from = self.from[from].lock().unwrap_or_else(PoisonError::into_inner);
        bytes.copy_from_slice(&from.recv().expect("the other thread is there"));
    }

    fn broadcast(&self, from: usize, bytes: &mut [u8]) {
        if self.rank != from {
            return self.receive(from, bytes);
        }
        (0..self.size()).filter(|&to| to != from).for_each(|to| self.send(to, bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// What each of `size` threads returns.
    fn each<T: Send>(size: usize, work: impl Fn(&dyn Peers) -> T + Sync) -> Vec<T> {
        let peers = ThreadPeers::new(size);
        thread::scope(|scope| {
            let threads: Vec<_> = peers.iter().map(|peers| scope.spawn(|| work(peers))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn a_chain_goes_through_all_in_order_and_all_have_its_end() {
        for (size, piece, at_once) in [(1, 3, 1), (2, 3, 1), (3, 2, 2), (4, 10, 1)] {
            let found = each(size, |peers| {
                let mut numbers = [2.0_f64, 3.0, 5.0, 7.0, 11.0];
                peers.chain(&mut numbers, piece, at_once, |first, numbers| {
                    for (i, number) in numbers.iter_mut().enumerate() {
                        *number = *number * 10.0 + peers.rank() as f64 + 0.25 * (first + i) as f64;
                    }
                });
                numbers
            });
            let mut wanted = [2.0_f64, 3.0, 5.0, 7.0, 11.0];
            for rank in 0..size {
                for (i, number) in wanted.iter_mut().enumerate() {
                    *number = *number * 10.0 + rank as f64 + 0.25 * i as f64;
                }
            }
            assert_eq!(found, vec![wanted; size], "{size} processes, pieces of {piece}, {at_once} at once");
        }
    }

    #[test]
    fn all_things_are_dealt_out_in_order() {
        for (size, n) in [(1, 5), (2, 5), (4, 16), (3, 2)] {
            let parts = each(size, |peers| peers.own(n));
            assert!(parts.iter().cloned().flatten().eq(0..n), "{n} of {size}: {parts:?}");
        }
    }

    #[test]
    fn all_get_the_bytes_of_the_first() {
        let found = each(3, |peers| {
            peers.meet();
            peers.share(vec![peers.rank() as u8; 2 - peers.rank().min(1)])
        });
        assert_eq!(found, vec![vec![0, 0]; 3]);
    }
}
