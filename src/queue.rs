//! What the router's thread hears: any number of threads put in, one takes out. It holds as much as it is given, so each
//! connection may have only one thing in it at a time: see [`Turn`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How much of the taker's time one may use at a stretch; over longer times it is half of all.
const STRETCH: Duration = Duration::from_millis(1);
/// The longest that one is kept quiet at a time.
const LONGEST: Duration = Duration::from_secs(1);

/// See the module.
pub struct Queue<T> {
    waiting: Mutex<VecDeque<T>>,
    some: Condvar,
}

impl<T> Queue<T> {
    pub fn new() -> Self {
        Queue { waiting: Mutex::default(), some: Condvar::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner) // nothing under the lock can panic halfway
    }

    pub fn put(&self, one: T) {
        let mut waiting = self.waiting();
        waiting.push_back(one);
        let first = waiting.len() == 1;
        drop(waiting);
        if first {
            self.some.notify_one();
        }
    }

    /// Moves all that is there to the end of `into`; with `until`, waits for something until then.
    pub fn take(&self, into: &mut VecDeque<T>, until: Option<Instant>) {
        let mut waiting = self.waiting();
        while let Some(until) = until.filter(|_| waiting.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.some.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        into.append(&mut waiting);
    }
}

/// Lets a thread that puts into a [`Queue`] wait until what it put before has been dealt with: one who floods waits for
/// its turn, and what waits is bounded.
pub struct Turn {
    taken: AtomicBool,
    owner: Thread,
    /// The taker's time that was used for it and is not made up for, in nanoseconds.
    used: AtomicU64,
}

impl Turn {
    /// The calling thread's.
    pub fn new() -> Arc<Self> {
        let (taken, used) = (AtomicBool::new(false), AtomicU64::new(0));
        Arc::new(Turn { taken, owner: thread::current(), used })
    }

    /// Takes it as soon as it is there; only its owner may.
    pub fn take(&self) {
        while self.taken.swap(true, Ordering::Acquire) {
            thread::park();
        }
    }

    /// So much of the taker's time went into it.
    pub fn used(&self, time: Duration) {
        self.used.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Gives it back.
    pub fn over(&self) {
        self.taken.store(false, Ordering::Release);
        self.owner.unpark();
    }

    /// How long its owner is to keep quiet if it was last asked this `ago`, so that half of the time is for the others.
    fn rest(&self, ago: Duration) -> Duration {
        let used = Duration::from_nanos(self.used.swap(0, Ordering::Relaxed)).saturating_sub(ago / 2);
        self.used(used.min(STRETCH));
        // A hub that was stopped for an hour owes nobody an hour.
        (2 * used.saturating_sub(STRETCH)).min(LONGEST)
    }

    /// Keeps the calling thread quiet as long as it has to.
    pub fn make_up(&self, since: &mut Instant) {
        let rest = self.rest(since.elapsed());
        *since = Instant::now();
        if !rest.is_zero() {
            thread::sleep(rest);
            *since += rest; // it is made up for
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_comes_out_in_order_and_in_turn() {
        let queue = Arc::new(Queue::new());
        let readers: Vec<_> = (0..4)
            .map(|reader| {
                let queue = queue.clone();
                thread::spawn(move || {
                    let turn = Turn::new();
                    for n in 0..100 {
                        turn.take();
                        queue.put((reader, n, turn.clone()));
                    }
                })
            })
            .collect();
        let (mut next, mut all) = ([0; 4], VecDeque::new());
        while next != [100; 4] {
            queue.take(&mut all, Some(Instant::now() + crate::hub::HELLO));
            assert!(all.len() <= readers.len(), "one of each");
            for (reader, n, turn) in all.drain(..) {
                assert_eq!(n, std::mem::replace(&mut next[reader], n + 1));
                turn.over();
            }
        }
        readers.into_iter().for_each(|reader| reader.join().expect("it ends"));
    }

    #[test]
    fn one_who_floods_gets_half_of_the_time() {
        let (turn, ms) = (Turn::new(), Duration::from_millis);
        let mut clock = Duration::ZERO;
        for _ in 0..100 {
            turn.used(ms(3));
            clock += ms(3) + turn.rest(ms(3));
        }
        assert!((ms(590)..=ms(600)).contains(&clock), "{clock:?}");
        turn.used(ms(1));
        assert_eq!(turn.rest(ms(4)), Duration::ZERO, "who uses little is not kept");
    }

    #[test]
    fn nobody_waits_for_longer_than_until() {
        let (queue, mut all) = (Queue::<u8>::new(), VecDeque::new());
        queue.take(&mut all, None);
        queue.take(&mut all, Some(Instant::now()));
        assert!(all.is_empty());
        queue.put(1);
        queue.take(&mut all, Some(Instant::now()));
        assert_eq!(all, [1]);
    }
}
