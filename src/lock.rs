//! Locks that a panic does not take with it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex even if a thread panicked while it held it. To be used where every change under the lock leaves the value whole: the
/// panic is reported with its thread ([`crate::threads`]), and a second one here would only hide the first.
pub(crate) fn ignoring_poison<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
