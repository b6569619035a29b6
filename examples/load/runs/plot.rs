//! The samples of a run as a picture.

use anyhow::{Result, anyhow};
use indicatif::HumanCount;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::samples::Sample;

const SIZE: (u32, u32) = (960, 780);
const FONT: &str = "sans-serif";
const COLOURS: [RGBColor; 2] = [RGBColor(31, 119, 180), RGBColor(230, 120, 20)];
const MIB: f64 = 1048576.0;

/// One figure over time.
type Line = (&'static str, fn(&Sample) -> f64);

/// Title and unit of a panel, and its lines.
const PANELS: [(&str, &[Line]); 6] = [
    (
        "CPU time, % of one core",
        &[
            ("agent", |sample| sample.cpu_percent),
            ("BPF programs", |sample| sample.programs_percent.unwrap_or_default()),
        ],
    ),
    ("Resident memory, MiB", &[("agent", |sample| sample.resident_bytes / MIB)]),
    ("Packets a second", &[("seen", |sample| sample.packets_per_s)]),
    ("Records a second", &[("merged", |sample| sample.records_per_s)]),
    ("Flows in the table", &[("flows", |sample| sample.flows)]),
    (
        "Lost since the sample before",
        &[("packets", |sample| sample.packets_lost), ("records", |sample| sample.records_lost)],
    ),
];

/// An SVG with a panel for each figure.
///
/// # Errors
///
/// It cannot be drawn.
pub fn svg(samples: &[Sample]) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let draw = || -> Result<(), Box<dyn std::error::Error>> {
            root.fill(&WHITE)?;
            for (area, (title, lines)) in root.split_evenly((3, 2)).iter().zip(PANELS) {
                panel(area, title, lines, samples)?;
            }
            root.present()?;
            Ok(())
        };
        draw().map_err(|error| anyhow!("draw the plots: {error}"))?;
    }
    Ok(text)
}

fn panel(
    area: &DrawingArea<SVGBackend, Shift>,
    title: &str,
    lines: &[Line],
    samples: &[Sample],
) -> Result<(), Box<dyn std::error::Error>> {
    let end = samples.last().map_or(1.0, |sample| sample.at_s);
    let highest = lines.iter().flat_map(|(_, of)| samples.iter().map(of)).fold(0.0, f64::max);
    // Room for the names of the lines; a line of zeros is at the bottom.
    let room = if lines.len() > 1 { 1.5 } else { 1.15 };
    let top = if highest > 0.0 { highest * room } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(10)
        .x_label_area_size(24)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .axis_style(BLACK.mix(0.5))
        .x_labels(7)
        .y_labels(5)
        .x_label_formatter(&|seconds| format!("{seconds} s"))
        .y_label_formatter(&|value| number(*value))
        .label_style((FONT, 12))
        .draw()?;
    for ((name, of), colour) in lines.iter().zip(COLOURS) {
        let points = samples.iter().map(|sample| (sample.at_s, of(sample)));
        let line = LineSeries::new(points, colour.stroke_width(2));
        let key = move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2));
        chart.draw_series(line)?.label(*name).legend(key);
    }
    if lines.len() > 1 {
        let place = SeriesLabelPosition::UpperRight;
        chart.configure_series_labels().position(place).background_style(WHITE).label_font((FONT, 12)).draw()?;
    }
    Ok(())
}

/// With no more digits than a label needs.
fn number(value: f64) -> String {
    match value {
        v if v == 0.0 || v >= 10.0 => HumanCount(v as u64).to_string(),
        v if v >= 1.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
