//! Prints a report for people or for programs.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};

use super::{Report, Status};
use crate::config::Layout;
use crate::printable::without_controls;

/// Narrower terminals are treated as this wide.
const NARROWEST: u16 = 60;

/// Writes a report. A table uses colours and the terminal's width only if `out` is a terminal.
///
/// # Errors
///
/// `out` cannot be written to.
pub fn print(report: &Report, layout: Layout, mut out: impl Write + IsTerminal) -> io::Result<()> {
    let terminal = out.is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match layout {
        Layout::Json => {
            serde_json::to_writer_pretty(&mut out, report)?;
            out.write_all(b"\n")?;
        }
        Layout::Table => write_tables(report, terminal, colours, &mut out)?,
    }
    out.flush()
}

fn write_tables(report: &Report, terminal: bool, colours: bool, out: &mut impl Write) -> io::Result<()> {
    let mut checks = table(["STATUS", "CHECK", "FOUND"], terminal, colours);
    for check in &report.checks {
        let found = with_remedy(&check.detail, check.remedy.as_deref());
        checks.add_row([status(check.status), cell(&check.name), cell(&found)]);
    }
    write_lines(&checks, out)?;
    if !report.blind_spots.is_empty() {
        writeln!(out)?;
        let mut spots = table(["", "NOT SEEN HERE", "WHY"], terminal, colours);
        for spot in &report.blind_spots {
            let why = with_remedy(&spot.detail, spot.remedy.as_deref());
            spots.add_row([Cell::new("-"), cell(&spot.name), cell(&why)]);
        }
        write_lines(&spots, out)?;
    }
    writeln!(out)?;
    let count = |status| report.checks.iter().filter(|check| check.status == status).count();
    let verdict = if report.failed() { "netmon cannot run here yet" } else { "netmon can run here" };
    writeln!(out, "{verdict}: {} ok, {} warn, {} fail", count(Status::Ok), count(Status::Warn), count(Status::Fail))
}

/// A cell without control characters: names that come from outside must not control the terminal.
fn cell(text: &str) -> Cell {
    Cell::new(text.lines().map(without_controls).collect::<Vec<_>>().join("\n"))
}

fn with_remedy(detail: &str, remedy: Option<&str>) -> String {
    remedy.map_or_else(|| detail.to_owned(), |remedy| format!("{detail}\n-> {remedy}"))
}

fn status(status: Status) -> Cell {
    let cell = Cell::new(status.name());
    match status {
        Status::Ok => cell.fg(Color::Green),
        Status::Warn => cell.fg(Color::Yellow),
        Status::Fail => cell.fg(Color::Red).add_attribute(Attribute::Bold),
    }
}

fn table(header: [&str; 3], terminal: bool, colours: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    if terminal {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if let Some(width) = table.width().filter(|width| *width < NARROWEST) {
            log::trace!("a terminal of {width} columns");
            table.set_width(NARROWEST);
        }
        if let Some(column) = table.column_mut(0) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(8)));
        }
    }
    // comfy-table would check standard output, which is not always where the report goes.
    if colours {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

fn write_lines(table: &Table, out: &mut impl Write) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{BlindSpot, Check};

    fn report() -> Report {
        let spot = BlindSpot { name: "lo".to_owned(), detail: "excluded".to_owned(), remedy: None };
        Report::new(vec![Check::ok("a", "fine"), Check::fail("b", "broken", "mend it")], vec![spot])
    }

    fn written(colours: bool) -> String {
        let mut out = Vec::new();
        write_tables(&report(), false, colours, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_line_has_its_status_and_remedy() {
        let text = written(false);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["ok", "a", "fine"]);
        assert_eq!(lines[2], ["fail", "b", "broken"]);
        assert_eq!(lines[3], ["->", "mend", "it"]);
        assert!(text.contains("NOT SEEN HERE") && text.ends_with("netmon cannot run here yet: 1 ok, 0 warn, 1 fail\n"));
    }

    #[test]
    fn names_do_not_control_the_terminal() {
        let report = Report::new(vec![Check::ok("a\x1b[2Jb", "fine\x07\nmore")], Vec::new());
        let mut out = Vec::new();
        write_tables(&report, false, false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(r"a\x1b[2Jb") && text.contains(r"fine\x07"), "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text}");
    }

    #[test]
    fn colours_only_where_asked_for() {
        assert!(!written(false).contains('\u{1b}'));
        assert!(written(true).contains('\u{1b}'));
    }

    #[test]
    fn the_worst_result_decides() {
        let mut report = Report::new(vec![Check::ok("a", "")], Vec::new());
        assert!(!report.failed());
        report.extend([Check::warn("b", "", "")]);
        assert_eq!((report.status, report.failed()), (Status::Warn, false));
        report.extend([Check::fail("c", "", "")]);
        assert!(report.failed());
    }
}
