//! The formats of printed results.

/// Formats of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The most important fields in columns, for people
    #[default]
    Table,
    /// All fields, one object on each line
    Json,
    /// All fields, with a header line
    Csv,
}

/// Formats of everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}
