use std::time::Duration;

use crossterm::event::KeyCode;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

use super::super::model::tests::{press, row, top, type_text};
use super::*;
use crate::control::Order;

const COLOURS: Colours = Colours(true);

fn model() -> Model {
    let mut model = Model::new(View::Flows, None, false, String::new(), Duration::from_secs(1));
    let mut failed = row("5000", 0.0);
    failed.failed.insert("refused".to_owned(), 1);
    let mut rows = vec![row("4000", 2.5 * 1048576.0), row("4001", 1024.0), failed];
    rows[0].rtt_us = Some(1234.5);
    rows[0].packets_per_s = 1234.4;
    let mut all = top(rows);
    all.failed.insert("refused".to_owned(), 1);
    for _ in 0..3 {
        model.take(&model.query(true), Ok(all.clone()));
        all.rows[0].bytes_per_s /= 2.0;
    }
    model
}

fn drawn(model: &mut Model, width: u16, height: u16, colours: Colours) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, colours)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width);
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    buffer.content.chunks(width).map(line).map(|line| line.trim_end().to_owned()).collect()
}

fn line_of<'a>(lines: &'a [String], part: &str) -> &'a str {
    lines.iter().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no {part:?} in {lines:#?}"))
}

#[test]
fn rows_and_their_sums() {
    let screen = drawn(&mut model(), 140, 24, COLOURS);
    let text = lines(&screen);
    assert!(text[0].starts_with("netmon") && text[0].contains("1 Flows") && text[0].ends_with("every 1s"), "{text:#?}");
    assert!(text[1].contains("3 flows") && text[1].contains("failed: 1 refused"), "{text:#?}");
    let header = line_of(&text, "PROTO");
    assert!(header.contains("RATE/S▼") && header.contains("RTT MS") && header.contains("STATE"), "{header}");
    let first = line_of(&text, "10.0.0.1:4000");
    for part in ["tcp", "10.0.0.9:80", "640.0 KiB", "1,234", "1.234", "█▄▂", "established"] {
        assert!(first.contains(part), "{part}: {first}");
    }
    assert!(line_of(&text, "10.0.0.1:5000").contains("failed: refused"));
    assert!(text.last().unwrap().starts_with("? help"));
    // The highest line of the trend comes first.
    assert!(text[4].contains('█') || text[2].contains('█'), "{text:#?}");
}

#[test]
fn failures_are_red_unless_colours_are_off() {
    for (colours, red) in [(COLOURS, Color::Red), (Colours(false), Color::Reset)] {
        let screen = drawn(&mut model(), 140, 24, colours);
        let text = lines(&screen);
        let y = text.iter().position(|line| line.contains("failed: refused")).unwrap() as u16;
        let x = text[usize::from(y)].chars().position(|c| c == 'f').unwrap() as u16;
        assert_eq!(screen[(x, y)].fg, red);
        assert!(screen[(x, y)].modifier.contains(Modifier::BOLD));
        let coloured = screen.content.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(coloured, colours.0);
    }
}

#[test]
fn narrow_screens_keep_what_matters() {
    let header = |width| {
        let text = lines(&drawn(&mut model(), width, 24, COLOURS));
        line_of(&text, "CLIENT").to_owned()
    };
    assert!(header(130).contains("RETR") && header(130).contains("PKT/S"), "{}", header(130));
    let narrow = header(80);
    for part in ["CLIENT", "SERVER", "RATE/S", "STATE"] {
        assert!(narrow.contains(part), "{part}: {narrow}");
    }
    assert!(!narrow.contains("RETR"), "{narrow}");
    // A name that is too long ends in an ellipsis.
    let mut model = model();
    let mut long = row("1", 1.0);
    long.client = Some("a-namespace-of-some-length/a-workload-with-a-long-name:40000".to_owned());
    model.take(&model.query(true), Ok(top(vec![long])));
    assert!(lines(&drawn(&mut model, 80, 24, COLOURS)).iter().any(|line| line.contains('…')));
}

#[test]
fn every_size_can_be_drawn() {
    let mut model = model();
    for keys in ["", "?", "q", "\n", "/", "prt=1"] {
        for c in keys.chars() {
            press(&mut model, &[if c == '\n' { KeyCode::Enter } else { KeyCode::Char(c) }]);
        }
        for width in [1, 2, 3, 5, 10, 20, 43, 44, 45, 79, 200] {
            for height in [1, 2, 3, 4, 5, 6, 9, 10, 15, 16, 17, 60] {
                drawn(&mut model, width, height, COLOURS);
            }
        }
    }
}

#[test]
fn covers_and_inputs() {
    let mut model = model();
    press(&mut model, &[KeyCode::Char('?')]);
    let text = lines(&drawn(&mut model, 100, 30, COLOURS));
    assert!(line_of(&text, "PgUp").contains("select"));
    press(&mut model, &[KeyCode::Esc, KeyCode::Enter]);
    let text = lines(&drawn(&mut model, 100, 30, COLOURS));
    assert!(line_of(&text, "status ").contains("active"), "{text:#?}");
    press(&mut model, &[KeyCode::Esc, KeyCode::Char('/')]);
    type_text(&mut model, "proto=tcp and prt=1");
    let text = lines(&drawn(&mut model, 100, 30, COLOURS));
    assert_eq!(text[28], "filter: proto=tcp and prt=1");
    assert!(text[29].starts_with("                      ^ column 15: there is no field prt"), "{}", text[29]);
    press(&mut model, &[KeyCode::Esc, KeyCode::Char('p'), KeyCode::Char('e')]);
    model.take(&model.query(false), Ok(top(Vec::new())));
    let text = lines(&drawn(&mut model, 100, 30, COLOURS));
    assert!(text[0].ends_with("PAUSED"), "{}", text[0]);
    assert!(line_of(&text, "no flows").contains("that pass the filter"));
    assert_eq!(text[29], "filter: status=failed");
    model.take(&model.query(false), Err("no agent answers on /run".to_owned()));
    assert!(lines(&drawn(&mut model, 100, 30, COLOURS))[29].starts_with("no agent answers"));
}

#[test]
fn pairs_and_services() {
    let mut model = Model::new(View::Services, Some(Order::Failures), true, String::new(), Duration::from_secs(1));
    let mut service = row("1", 5.0);
    (service.client, service.flow, service.flows) = (None, None, 12_345);
    service.failed.extend([("refused".to_owned(), 3), ("timeout".to_owned(), 1)]);
    model.take(&model.query(true), Ok(top(vec![service])));
    let text = lines(&drawn(&mut model, 120, 20, COLOURS));
    assert!(line_of(&text, "SERVICE").contains("FAILED▲"));
    assert!(line_of(&text, "10.0.0.9:80").contains("12,345"));
    assert!(line_of(&text, "10.0.0.9:80").contains("3 refused, 1 timeout"));
}

#[test]
fn bars_grow_with_values() {
    assert_eq!(trend(&[0.0, 1.0, 4.0, 8.0], 6), "   ▁▄█");
    assert_eq!(trend(&[1.0, 2.0, 3.0], 2), "▆█");
    assert_eq!(trend(&[0.0, 0.0], 3), "   ");
    assert_eq!(trend(&[], 2), "  ");
}
