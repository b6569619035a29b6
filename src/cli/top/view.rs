//! Draws the model.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar::NINE_LEVELS;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell as Boxed, Clear, Paragraph, Row as Shown, Sparkline, Table};
use serde_json::Value;

use super::columns::{Cell, Column, count, fitting, reasons, size};
use super::model::{Cover, Model, VIEWS};
use crate::control::{Row, View};

/// Minimum height of a screen that has room for a large trend.
const TALL: u16 = 16;
const KEYS: &str = "? help  1 2 3 views  s sort  / filter  e failures  p pause  Enter details  q quit";

const HELP: [(&str, &str); 17] = [
    ("1 2 3  Tab", "flows, pairs, services"),
    ("s S", "sort by the next or previous column"),
    ("r", "reverse the order"),
    ("/", "filter: proto=tcp and dst_port=443 and not status=ok"),
    ("x", "remove the filter"),
    ("e", "only failures, or all again"),
    ("Up Down j k", "select; also PgUp PgDn Home End"),
    ("Enter", "show the flows of a pair or service, or a flow's details"),
    ("Backspace", "go back"),
    ("p Space", "pause, resume"),
    ("+ -", "update more or less often"),
    ("q", "quit"),
    ("", ""),
    ("RATE", "on the wire, both directions, by the kernel's latest report"),
    ("RTT", "the latest round trip; for several flows, the mean"),
    ("RETR", "retransmitted TCP segments"),
    ("FAILED", "failed flows stay for some seconds after their end"),
];

/// Whether to use colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Colours(pub(super) bool);

impl Colours {
    fn of(self, colour: Color) -> Style {
        if self.0 { Style::new().fg(colour) } else { Style::new() }
    }

    fn bad(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn faint(self) -> Style {
        self.of(Color::DarkGray)
    }

    fn trend(self) -> Style {
        self.of(Color::Cyan)
    }
}

/// Draws the whole screen, and sets the number of rows that fit in the model.
pub(super) fn draw(frame: &mut Frame, model: &mut Model, colours: Colours) {
    let area = frame.area();
    let trend = match area.height {
        TALL.. => 3,
        10.. => 1,
        _ => 0,
    };
    let [tabs, sums, over_time, header, rows, last] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(trend),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(if model.edit.is_some() { 2 } else { 1 }),
    ])
    .areas(area);
    model.fit(rows.height.into());
    draw_tabs(frame, tabs, model, colours);
    draw_sums(frame, sums, model, colours);
    let width = usize::from(over_time.width);
    let skipped = model.total().len().saturating_sub(width);
    let data: Vec<u64> = model.total().skip(skipped).map(|rate| rate as u64).collect();
    // The latest value is at the right edge.
    let bars = Rect { x: over_time.right() - data.len() as u16, width: data.len() as u16, ..over_time };
    frame.render_widget(Sparkline::default().data(data).style(colours.trend()), bars);
    draw_rows(frame, header, rows, model, colours);
    draw_last(frame, last, model, colours);
    match model.cover {
        Cover::Nothing => {}
        Cover::Help => {
            let lines = HELP.iter().map(|(key, does)| Line::from(format!(" {key:<12} {does}")));
            cover(frame, " keys ", lines.collect(), 0);
        }
        Cover::Flow(first) => {
            let lines = model.rows().get(model.selected).and_then(|row| row.flow.as_ref()).map(all_of);
            let lines = lines.unwrap_or_else(|| vec![Line::from(" the flow is gone")]);
            let most = lines.len().saturating_sub(usize::from(area.height.saturating_sub(2)));
            model.cover = Cover::Flow(first.min(most));
            cover(frame, " flow ", lines, first.min(most));
        }
    }
}

fn draw_tabs(frame: &mut Frame, area: Rect, model: &Model, colours: Colours) {
    let mut spans = vec![Span::styled("netmon", Style::new().add_modifier(Modifier::BOLD))];
    for (number, view) in VIEWS.into_iter().enumerate() {
        let style = if view == model.view { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        spans.push(Span::raw("  "));
        spans.push(Span::styled(format!(" {} {} ", number + 1, name(view)), style));
    }
    frame.render_widget(Line::from(spans), area);
    let pace = match model.paused {
        true => Span::styled("PAUSED ", Style::new().add_modifier(Modifier::BOLD)),
        false => Span::styled(format!("every {} ", humantime::format_duration(model.every)), colours.faint()),
    };
    frame.render_widget(Line::from(pace).right_aligned(), right_of(area, 44));
}

fn name(view: View) -> &'static str {
    match view {
        View::Flows => "Flows",
        View::Pairs => "Pairs",
        View::Services => "Services",
    }
}

fn draw_sums(frame: &mut Frame, area: Rect, model: &Model, colours: Colours) {
    let mut spans = Vec::new();
    if let Some(top) = &model.top {
        spans.push(Span::raw(format!(
            "{} flows  {}/s  {} packets/s",
            count(top.flows),
            size(top.bytes_per_s),
            count(top.packets_per_s.round() as u64)
        )));
        if model.view != View::Flows {
            spans.push(Span::raw(format!("  {} {}", count(top.rows_total as u64), name(model.view).to_lowercase())));
        }
        if !top.failed.is_empty() {
            spans.push(Span::styled(format!("  failed: {}", reasons(&top.failed)), colours.bad()));
        }
        if top.rates_unknown > 0 {
            let unknown = count(top.rates_unknown);
            spans.push(Span::styled(format!("  rates of {unknown} more flows are not known"), colours.faint()));
        }
    }
    frame.render_widget(Line::from(spans), area);
}

fn draw_rows(frame: &mut Frame, header: Rect, area: Rect, model: &Model, colours: Colours) {
    let columns = fitting(model.view, area.width);
    let widths: Vec<Constraint> = columns.iter().map(|(_, width)| Constraint::Length(*width)).collect();
    let titles = columns.iter().map(|(column, width)| {
        let sorted = column.order == Some(model.order());
        let mark = if model.reverse() { "▲" } else { "▼" };
        let title = if sorted { format!("{}{mark}", column.title) } else { column.title.to_owned() };
        Boxed::new(aligned(&title, column, *width))
    });
    let title_style = Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
    let titles = Shown::new(titles).style(title_style);
    frame.render_widget(Table::new([titles], widths.clone()).column_spacing(1), header);

    let visible = model.rows().iter().enumerate().skip(model.offset).take(area.height.into());
    let rows = visible.map(|(number, row)| {
        let cells = columns.iter().map(|(column, width)| cell(column, *width, row, model, colours));
        let mut style = Style::new();
        if model.view == View::Flows && !row.failed.is_empty() {
            style = colours.bad();
        }
        if number == model.selected {
            style = style.add_modifier(Modifier::REVERSED);
        }
        Shown::new(cells.collect::<Vec<_>>()).style(style)
    });
    frame.render_widget(Table::new(rows, widths).column_spacing(1), area);
    if model.top.as_ref().is_some_and(|top| top.rows.is_empty()) {
        let what = name(model.view).to_lowercase();
        let why = if model.filter.is_empty() { "" } else { " that pass the filter" };
        frame.render_widget(Line::styled(format!("no {what}{why}"), colours.faint()), area);
    }
}

fn cell(column: &Column, width: u16, row: &Row<Value>, model: &Model, colours: Colours) -> Boxed<'static> {
    match &column.cell {
        Cell::Text(text) => Boxed::new(aligned(&text(row), column, width)),
        Cell::Failure(text) => {
            let line = aligned(&text(row), column, width);
            Boxed::new(if row.failed.is_empty() { line } else { line.style(colours.bad()) })
        }
        Cell::Trend => Boxed::new(trend(&model.history(row), width.into())).style(colours.trend()),
    }
}

fn aligned(text: &str, column: &Column, width: u16) -> Line<'static> {
    let line = Line::from(cut(text, width.into()));
    if column.right { line.right_aligned() } else { line }
}

/// The text, shortened to the width.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// The latest values as bars; the greatest has full height.
pub(super) fn trend(values: &[f64], width: usize) -> String {
    let values = &values[values.len().saturating_sub(width)..];
    let most = values.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| match (value / most * 8.0).ceil() as usize {
        _ if most <= 0.0 || *value <= 0.0 => NINE_LEVELS.empty,
        1 => NINE_LEVELS.one_eighth,
        2 => NINE_LEVELS.one_quarter,
        3 => NINE_LEVELS.three_eighths,
        4 => NINE_LEVELS.half,
        5 => NINE_LEVELS.five_eighths,
        6 => NINE_LEVELS.three_quarters,
        7 => NINE_LEVELS.seven_eighths,
        _ => NINE_LEVELS.full,
    };
    let bars: String = values.iter().map(bar).collect();
    format!("{bars:>width$}")
}

fn draw_last(frame: &mut Frame, area: Rect, model: &Model, colours: Colours) {
    if let Some(edit) = &model.edit {
        let [input, fault] = Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(area);
        let prompt = "filter: ";
        // Of a long line, show the part around the cursor.
        let room = usize::from(input.width).saturating_sub(prompt.len() + 1);
        let skipped = (edit.cursor + 1).saturating_sub(room);
        let text: String = edit.text().chars().skip(skipped).take(room).collect();
        frame.render_widget(Line::from(format!("{prompt}{text}")), input);
        let place = |column: usize| prompt.len() + column.saturating_sub(skipped);
        if let Some(wrong) = &edit.fault {
            let message = wrong.message.lines().next().unwrap_or_default();
            let column = place(wrong.column);
            let marked = format!("{:>1$} column {2}: {message}", "^", column + 1, wrong.column + 1);
            let marked = if marked.chars().count() > usize::from(fault.width) {
                format!("column {}: {message}", wrong.column + 1)
            } else {
                marked
            };
            frame.render_widget(Line::styled(marked, colours.bad()), fault);
        } else {
            frame.render_widget(Line::styled("Enter applies the filter, Esc cancels", colours.faint()), fault);
        }
        let x = input.x + (place(edit.cursor) as u16).min(input.width.saturating_sub(1));
        frame.set_cursor_position((x, input.y));
        return;
    }
    let line = match (&model.trouble, model.filter.as_str()) {
        (Some(trouble), _) => Line::styled(trouble.lines().next().unwrap_or_default().to_owned(), colours.bad()),
        (None, "") => Line::styled(KEYS, colours.faint()),
        (None, filter) => Line::from(format!("filter: {filter}")),
    };
    frame.render_widget(line, area);
}

/// Draws a box in the middle of the screen with the lines from `first` on.
fn cover(frame: &mut Frame, title: &'static str, lines: Vec<Line<'static>>, first: usize) {
    let screen = frame.area();
    let width = lines.iter().map(Line::width).max().unwrap_or_default() as u16 + 3;
    let height = lines.len() as u16 + 2;
    let (width, height) = (width.min(screen.width), height.min(screen.height));
    let area = Rect { x: (screen.width - width) / 2, y: (screen.height - height) / 2, width, height };
    frame.render_widget(Clear, area);
    let text = Paragraph::new(lines).scroll((first as u16, 0)).block(Block::bordered().title(title));
    frame.render_widget(text, area);
}

/// All fields of a flow, one on each line.
fn all_of(flow: &Value) -> Vec<Line<'static>> {
    fn add(lines: &mut Vec<Line<'static>>, name: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                for (field, value) in fields {
                    add(lines, &if name.is_empty() { field.clone() } else { format!("{name}.{field}") }, value);
                }
            }
            Value::String(text) => lines.push(Line::from(format!(" {name:<22} {text}"))),
            other => lines.push(Line::from(format!(" {name:<22} {other}"))),
        }
    }
    let mut lines = Vec::new();
    add(&mut lines, "", flow);
    lines
}

/// The part of a line behind this column.
fn right_of(area: Rect, column: u16) -> Rect {
    let column = column.min(area.width);
    Rect { x: area.x + column, width: area.width - column, ..area }
}

#[cfg(test)]
mod tests;
