//! Makes lines of flows for clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::board::Board;
use crate::bpf::Clock;
use crate::flow::Flow;
use crate::line::{Line, LineContext};

/// Knows the names of interfaces and the clock, as they are now.
pub(super) struct Lines {
    board: Arc<Board>,
    workers: u64,
    names: BTreeMap<u32, String>,
    clock_offset_ns: i64,
    tick_ns: u64,
}

impl Lines {
    /// For the flows of so many workers.
    pub(super) fn new(board: &Arc<Board>, workers: usize) -> Lines {
        // The kernel tick is known wherever the programs run.
        let tick_ns = Clock::kernel_tick().map_or(1_000_000, |tick| tick.as_nanos() as u64);
        Lines {
            board: Arc::clone(board),
            workers: workers as u64,
            names: board.names(),
            clock_offset_ns: Clock::offset_to_1970(),
            tick_ns,
        }
    }

    /// The line of a flow of this shard.
    pub(super) fn line(&mut self, shard: usize, flow: &Flow) -> Line {
        let first = if flow.from_client().ifindex != 0 { flow.from_client() } else { flow.from_server() };
        let interface = self.names.get(&first.ifindex).cloned().or_else(|| {
            let name = self.board.name_of(first.ifindex)?;
            self.names.insert(first.ifindex, name.clone());
            Some(name)
        });
        let (clock_offset_ns, tick_ns) = (self.clock_offset_ns, self.tick_ns);
        let context = LineContext { clock_offset_ns, tick_ns, interface, directions: true };
        let id = u64::from(flow.id()) * self.workers + shard as u64;
        Line::new(id, flow, &context)
    }
}
