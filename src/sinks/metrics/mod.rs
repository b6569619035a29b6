//! Aggregates of what flows do, and the page that Prometheus reads.

mod aggregates;
mod budget;
mod ends;
mod figures;
mod held;
mod own;
mod page;
mod pair_page;
mod pairs;
mod series;
mod series_page;
mod sums;
mod text;
mod usage;

pub use aggregates::{Accounted, Aggregates};
pub use ends::Identification;
pub use figures::{Families, Family, FigureList, Figures};
pub use held::Mark;
pub use own::{Build, OwnProcess, Processing, SAMPLE, resident_bytes};
pub use page::{MetricsPage, Reading, SERVER, Source};
pub use series::{Keys, SeriesIndex};
pub use sums::Sums;
pub use usage::MetricUsage;

#[cfg(test)]
mod tests;
