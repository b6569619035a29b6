//! Aggregates of what flows do, and the page that Prometheus reads.

mod aggregates;
mod budget;
mod collector;
mod families;
pub mod http;
mod interfaces;
mod own;
mod page;
mod pair_page;
mod pairs;
mod series;

pub use aggregates::{Accounted, Aggregates};
pub use interfaces::{Interface, InterfaceStatus, coverage_of};
pub use own::{Processing, SAMPLE, resident_bytes};
pub use page::{Build, MetricsPage, NatCounts, Reloads, Saved, Snapshot, Source};
pub use series::{MetricSpread, SeriesIndex};

#[cfg(test)]
mod tests;
