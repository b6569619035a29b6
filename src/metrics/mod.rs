//! Aggregates of what flows do, and the page that Prometheus reads.

mod aggregates;
mod budget;
mod collector;
mod coverage;
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
pub use coverage::{Coverage, Covered, LOOK_EVERY as COVERAGE_EVERY, Part};
pub use ends::Telling;
pub use families::metric_names;
pub use held::Mark;
pub use interfaces::{Interface, InterfaceStatus};
pub use own::{Processing, SAMPLE, resident_bytes};
pub use page::{Build, HookCounts, MetricsPage, NatCounts, ProgramTime, Reloads, SERVER, Saved, Snapshot, Source};
pub use series::{Keys, SeriesIndex};
pub use spread::MetricSpread;
pub use sums::Sums;

#[cfg(test)]
mod tests;
