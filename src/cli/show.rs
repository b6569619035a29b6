//! Shows answers of the agent in a form for people.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use crate::printable::without_controls;

/// Properties of the output.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    /// True if it shows colours.
    pub(super) colours: bool,
    /// Its width in columns, if it is a terminal.
    pub(super) columns: Option<u16>,
}

impl Style {
    fn painted(self, colour: u8, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Marks text that needs attention.
    pub(super) fn bad(self, text: &str) -> String {
        self.painted(31, text)
    }

    fn bold(self, text: &str) -> String {
        self.painted(1, text)
    }
}

/// Width of the terminal, if its size is known.
pub(super) fn terminal_columns() -> Option<u16> {
    crossterm::terminal::size().ok().map(|(columns, _)| columns).filter(|columns| *columns > 0)
}

fn table(header: &[&str], right: std::ops::Range<usize>, columns: Option<u16>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if let Some(columns) = columns {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
    }
    table
}

fn write(table: &Table, out: &mut dyn Write) -> io::Result<()> {
    for line in table.lines() {
        // The last column is padded, too.
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The value without control characters: names that come from outside must not control the terminal.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => without_controls(text),
        other => other.to_string(),
    }
}

/// A number with separators: 1234567 becomes 1,234,567.
fn grouped(value: &Value) -> String {
    let digits = value.as_u64().unwrap_or_default().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn size(value: &Value) -> String {
    bytesize::ByteSize(value.as_f64().unwrap_or_default() as u64).display().iec().to_string()
}

/// Shows the state of the agent.
pub(super) fn status(status: &Value, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let get = |name: &str| text(&status[name]);
    let up = Duration::from_secs(status["uptime_s"].as_f64().unwrap_or_default() as u64);
    writeln!(
        out,
        "{} {} ({}, {}) on {}, Linux {}, up {} since {}",
        style.bold("netmon"),
        get("version"),
        get("commit"),
        get("arch"),
        get("node"),
        get("kernel"),
        humantime::format_duration(up),
        get("started")
    )?;
    for (trouble, name) in [("unready", "not ready"), ("unhealthy", "not healthy")] {
        if !status[trouble].is_null() {
            writeln!(out, "{}", style.bad(&format!("{name}: {}", get(trouble))))?;
        }
    }
    let packets = &status["packets"];
    let number = |name: &str| packets[name].as_u64().unwrap_or_default();
    let settled = number("accounted") + number("duplicate") + number("ignored") + number("lost");
    let on_their_way = (number("seen") + number("decapsulated")).saturating_sub(settled);
    writeln!(
        out,
        "traffic     {:.0} packets/s, {}/s",
        status["packets_per_s"].as_f64().unwrap_or_default(),
        size(&status["bytes_per_s"])
    )?;
    writeln!(
        out,
        "packets     {} seen + {} decapsulated = {} accounted + {} duplicate + {} ignored + {} lost + {on_their_way} on their way",
        grouped(&packets["seen"]),
        grouped(&packets["decapsulated"]),
        grouped(&packets["accounted"]),
        grouped(&packets["duplicate"]),
        grouped(&packets["ignored"]),
        grouped(&packets["lost"])
    )?;
    writeln!(
        out,
        "flows       {} of {}, {} evicted; {}% of all are tracked; {} translated by NAT",
        grouped(&status["flows_active"]),
        grouped(&status["flows_max"]),
        grouped(&status["flows_evicted"]),
        status["sampling_rate"].as_f64().unwrap_or(1.0) * 100.0,
        grouped(&status["nat_translations"])
    )?;
    writeln!(
        out,
        "records     {}, {} lost, {} workers",
        grouped(&status["records"]),
        grouped(&status["records_lost"]),
        get("workers")
    )?;
    let limit = |name: &str, shown: String| if status[name].is_null() { String::new() } else { format!(" of {shown}") };
    writeln!(
        out,
        "memory      {}{}",
        size(&status["memory_bytes"]),
        limit("memory_limit_bytes", size(&status["memory_limit_bytes"]))
    )?;
    if !status["cpu_limit_milli"].is_null() {
        writeln!(
            out,
            "CPU limit   {}m, {} steps taken to stay below it",
            get("cpu_limit_milli"),
            get("cpu_limit_level")
        )?;
    }
    writeln!(out, "series      {} of {}", grouped(&status["series"]), grouped(&status["series_limit"]))?;
    writeln!(
        out,
        "reloads     {}, {} refused",
        grouped(&status["config_reloads"]),
        grouped(&status["config_reload_failures"])
    )?;
    names(&status["names"], style, out)?;
    let waiting: Vec<String> = status["restart_needed"].as_array().into_iter().flatten().map(text).collect();
    if !waiting.is_empty() {
        writeln!(out, "{}", style.bad(&format!("a restart is needed for {}", waiting.join(", "))))?;
    }
    for idle in status["without_effect"].as_array().into_iter().flatten() {
        writeln!(out, "{}", style.bad(&format!("without effect: {}", text(idle))))?;
    }
    let number = |name: &str| status[name].as_u64().unwrap_or_default();
    if number("hooks_lost") > 0 {
        let line = format!(
            "another program detached netmon from {} hooks; {} of them were restored at once",
            grouped(&status["hooks_lost"]),
            grouped(&status["hooks_restored"])
        );
        writeln!(out, "{}", style.bad(&line))?;
    }
    writeln!(out)?;
    let header = ["INTERFACE", "KIND", "STATUS", "MODE", "FACES", "IN", "OUT", "COVERAGE", "BEFORE"];
    let mut interfaces = table(&header, 5..7, style.columns);
    for interface in status["interfaces"].as_array().into_iter().flatten() {
        let get = |name: &str| text(&interface[name]);
        let share = |share: &Value| share.as_f64().map_or("-".to_owned(), |share| format!("{:.1}%", 100.0 * share));
        let coverage = match &interface["status"] {
            Value::String(status) if status == "watched" => {
                format!("{} / {}", share(&interface["coverage"][0]), share(&interface["coverage"][1]))
            }
            _ => String::new(),
        };
        let before: Vec<String> = interface["programs_before"].as_array().into_iter().flatten().map(text).collect();
        let before = match (&interface["error"], &interface["outdated"]) {
            (Value::String(_), _) => get("error"),
            (_, Value::String(_)) => format!("old programs: {}", get("outdated")),
            _ => before.join(", "),
        };
        interfaces.add_row([
            get("name"),
            get("kind"),
            get("status"),
            get("mode"),
            if interface["faces_workload"] == true { "workload".to_owned() } else { String::new() },
            grouped(&interface["packets_in"]),
            grouped(&interface["packets_out"]),
            coverage,
            before,
        ]);
    }
    write(&interfaces, out)
}

/// Shows how the names of a cluster are read.
fn names(names: &Value, style: Style, out: &mut dyn Write) -> io::Result<()> {
    if names.is_null() {
        return Ok(());
    }
    let kinds = names["kinds"].as_array().into_iter().flatten();
    let kinds: Vec<String> = kinds
        .map(|kind| match text(&kind["status"]).as_str() {
            "watching" => format!("{} {}", grouped(&kind["objects"]), text(&kind["kind"])),
            status => format!("{} {} ({status})", grouped(&kind["objects"]), text(&kind["kind"])),
        })
        .collect();
    writeln!(
        out,
        "names       {}; updated {:.0} s ago by {}, with {}",
        kinds.join(", "),
        names["age_s"].as_f64().unwrap_or_default(),
        text(&names["server"]),
        text(&names["credentials"])
    )?;
    if !names["last_error"].is_null() {
        let error = format!("names: last failure at {}: {}", text(&names["last_error_at"]), text(&names["last_error"]));
        writeln!(out, "{}", style.bad(&error))?;
    }
    Ok(())
}

/// Shows counts of flows by their properties.
pub(super) fn flow_stats(stats: &Value, out: &mut dyn Write) -> io::Result<()> {
    let table_bytes = stats["active"].as_u64().unwrap_or_default() * stats["flow_bytes"].as_u64().unwrap_or_default();
    writeln!(
        out,
        "{} flows of {}, {} in the table; {} evicted",
        grouped(&stats["active"]),
        grouped(&stats["max"]),
        size(&table_bytes.into()),
        grouped(&stats["evicted"])
    )?;
    let groups = [
        ("by_protocol", "PROTOCOL"),
        ("by_direction", "DIRECTION"),
        ("by_state", "STATE"),
        ("by_status", "STATUS"),
        ("by_app", "APPLICATION"),
        ("ended", "ENDED SINCE START"),
    ];
    for (name, title) in groups {
        let Some(counts) = stats[name].as_object().filter(|counts| !counts.is_empty()) else { continue };
        let mut rows: Vec<(&String, &Value)> = counts.iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(count.as_u64()));
        let mut shown = table(&[title, "FLOWS"], 1..2, None);
        for (value, count) in rows {
            shown.add_row([if value.is_empty() { "-" } else { value.as_str() }.to_owned(), grouped(count)]);
        }
        writeln!(out)?;
        write(&shown, out)?;
    }
    Ok(())
}

/// Shows series by metric.
pub(super) fn series(series: &Value, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut shown = table(&["METRIC", "SERIES", "OVERFLOW", "VALUES OF LABELS"], 1..3, style.columns);
    let mut rows: Vec<&Value> = series.as_array().into_iter().flatten().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row["series"].as_u64()));
    for row in rows {
        let labels = row["labels"].as_array().into_iter().flatten();
        let labels: Vec<String> = labels.map(|label| format!("{} {}", text(&label[0]), grouped(&label[1]))).collect();
        shown.add_row([text(&row["metric"]), grouped(&row["series"]), grouped(&row["overflow"]), labels.join(", ")]);
    }
    write(&shown, out)
}

/// Shows the configuration.
pub(super) fn config(values: &Value, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut shown = table(&["KEY", "VALUE", "FROM", "CHANGES"], 0..0, style.columns);
    for value in values.as_array().into_iter().flatten() {
        let changes = match (&value["running"], &value["live"]) {
            (Value::String(running), _) => format!("at a restart; now {running}"),
            (_, Value::Bool(true)) => "at once".to_owned(),
            _ => "at a restart".to_owned(),
        };
        shown.add_row([text(&value["key"]), text(&value["value"]), text(&value["origin"]), changes]);
    }
    write(&shown, out)
}

/// Shows an event of a flow on one line.
pub(super) fn event(event: &Value, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let get = |name: &str| text(&event[name]);
    if event["event"] == "lost" {
        return writeln!(
            out,
            "{}",
            style.bad(&format!("{} events were lost because they came too fast", get("count")))
        );
    }
    let at = if event["event"] == "start" { "start" } else { "end" };
    let time = get(at).get(11..23).unwrap_or_default().to_owned();
    let end = |side: &str| {
        let names = &event[side];
        let name = ["service", "pod", "workload", "node"].iter().map(|name| &names[*name]).find(|name| !name.is_null());
        let (ip, port) = (get(&format!("{side}_ip")), get(&format!("{side}_port")));
        let host = name.map_or(ip, |name| match &names["namespace"] {
            Value::Null => text(name),
            namespace => format!("{}/{}", text(namespace), text(name)),
        });
        match port.as_str() {
            "" => host,
            port if host.contains(':') => format!("[{host}]:{port}"),
            port => format!("{host}:{port}"),
        }
    };
    let mut line = format!("{time} {:<5} {:<6} {} -> {}", get("event"), get("protocol"), end("client"), end("server"));
    if event["event"] != "start" {
        let total = |name: &str| {
            let of = |side: &str| event[format!("{side}_{name}")].as_u64().unwrap_or_default();
            of("client") + of("server")
        };
        line += &format!("  {} packets, {}", total("packets"), size(&total("bytes").into()));
    }
    for name in ["app_protocol", "reason"] {
        if !event[name].is_null() {
            line += &format!(", {}", get(name));
        }
    }
    writeln!(out, "{}", if event["event"] == "fail" { style.bad(&line) } else { line })
}
