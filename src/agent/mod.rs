//! Wires the stages: kernel, workers, flow tables, metrics; starts and stops them.

mod api;
mod board;
mod detecting;
mod figures;
mod inline;
mod limits;
mod lines;
mod names;
mod objects;
mod ranking;
mod reload;
mod report;
mod served;
mod servers;
mod start;
mod stop;
mod watch;

pub use board::{Interface, InterfaceStatus};
pub use figures::metric_names;
pub use inline::Inline;
pub use report::{Conservation, Report};
pub use served::Handle;
pub use start::{run, run_with};
