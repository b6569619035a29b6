//! The formats of printed results.

/// How to write flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: the most important fields in columns.
    #[default]
    Table,
    /// All fields, an object a line.
    Json,
    /// All fields, with a header line.
    Csv,
}

/// How to write what is no list of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}
