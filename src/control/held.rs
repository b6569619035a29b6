//! The memory that clients of the control socket hold while they are answered.

use std::sync::Arc;

use super::refusal::Refusal;
use crate::clients::{Budget, Reason, Share, Turned};

/// The memory that clients hold together, and the count of those that are refused because of it.
#[derive(Clone, Default)]
pub(super) struct Held {
    pub(super) budget: Arc<Budget>,
    pub(super) turned: Arc<Turned>,
}

impl Held {
    /// Takes `bytes` for a client.
    ///
    /// # Errors
    ///
    /// All that clients may hold is held.
    pub(super) fn take(&self, bytes: usize) -> Result<Share, Refusal> {
        self.budget.take(bytes).ok_or_else(|| self.no_room())
    }

    /// The refusal of a client for which there is no room; it is counted.
    pub(super) fn no_room(&self) -> Refusal {
        self.turned.count(Reason::Memory);
        Refusal(503, self.no_room_text())
    }

    /// Why it is refused.
    pub(super) fn no_room_text(&self) -> String {
        let most = self.budget.most() >> 20;
        format!(
            "clients hold all of the {most} MiB that they may together: come again when others have read their answers, ask for \
             less (limit, filter), or raise resources.memory_limit"
        )
    }
}
