//! Aggregates of what flows do, and the page that Prometheus reads.

mod aggregates;
mod budget;
mod collector;
mod ends;
mod families;
mod held;
mod interfaces;
mod own;
mod page;
mod pair_page;
mod pairs;
mod series;
mod spread;
mod sums;

pub use aggregates::{Accounted, Aggregates};
pub use ends::Telling;
pub use families::metric_names;
pub use interfaces::{Interface, InterfaceStatus, coverage_of};
pub use own::{Processing, SAMPLE, resident_bytes};
pub use page::{Build, MetricsPage, NatCounts, Reloads, SERVER, Saved, Snapshot, Source};
pub use series::{Keys, SeriesIndex};
pub use spread::MetricSpread;
pub use sums::Sums;

#[cfg(test)]
mod tests;
