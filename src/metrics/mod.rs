//! Aggregates of what flows do, and the page that Prometheus reads.

mod aggregates;
mod collector;
pub mod http;
mod own;
mod page;
mod series;

pub use aggregates::{Accounted, Aggregates};
pub use own::{Processing, SAMPLE};
pub use page::{Build, MetricsPage, Snapshot, Source};
pub use series::SeriesIndex;
