//! A scrape of as many series as the default configuration allows.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use netmon::config::Config;
use netmon::http::{Server, ServerLimits};
use netmon::sinks::metrics::MetricsPage;
use netmon::threads::Threads;

use crate::pairs;
use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::subject::{CHUNK, Subject, pin};
use crate::support::vary::Order;

fn making(page: &MetricsPage, rounds: usize) -> Spread {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        page.make();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Spread::of(times)
}

/// Contents of a page.
struct Size {
    series: usize,
    bytes: usize,
    /// True if something needed a new series and there was no room for it.
    full: bool,
}

/// Measures a page. When all room is used, the number of series shown varies: one that has counted nothing yet takes room but is
/// not shown.
fn size(page: &MetricsPage) -> Result<Size> {
    let body = page.make();
    let text = std::str::from_utf8(&body)?;
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let refused =
        series.clone().filter_map(|line| line.strip_prefix("netmon_series_overflow_total")?.rsplit(' ').next());
    let full = refused.filter_map(|count| count.parse::<f64>().ok()).any(|count| count > 0.0);
    Ok(Size { series: series.count(), bytes: body.len(), full })
}

/// Series of a large cluster.
const MANY: usize = 100_000;

/// Rounds of new flows after which all room for series must be used.
const ROUNDS_MOST: u32 = 100;

/// Workers with as many series as the configuration has room for, and their page.
fn filled(config: &Config) -> Result<(Subject, MetricsPage, Size)> {
    let mut subject = Subject::new(config)?;
    subject.aim(0, Order::InTurn, u32::MAX);
    for _ in 0..ROUNDS_MOST {
        subject.run(CHUNK, CHUNK, || Ok(()))?;
        let page = subject.inline.page();
        let size = size(&page)?;
        if size.full {
            return Ok((subject, page, size));
        }
    }
    bail!("there is still room for series after {ROUNDS_MOST} rounds of new flows")
}

/// A scrape of so many series as a large cluster may have: time to render it, and for how long it keeps workers waiting.
fn many(report: &mut Report, rounds: usize) -> Result<()> {
    let config = Config { series_limit: MANY, ..Config::default() };
    let (subject, page, size) = filled(&config)?;
    let renders = making(&page, rounds);
    // Of all the work for a page, a worker can wait only for this: its sums are copied under its lock.
    let mut copies = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        ensure!(subject.inline.reading().is_some(), "there are no workers");
        copies.push(start.elapsed().as_secs_f64() * 1e3);
    }
    report.table(&format!("A scrape of {} series", size.series), "ms");
    report.row("rendering the page", renders, AtMost(75.0), &format!("{} KiB", size.bytes >> 10));
    report.row(
        "copying what is shown: no worker waits longer",
        Spread::of(copies),
        Budget::None,
        "all workers in turn",
    );
    Ok(())
}

pub fn run(report: &mut Report) -> Result<()> {
    pin()?;
    let config = Config::default();
    let (_subject, page, flows) = filled(&config)?;
    let page = Arc::new(page);
    let histograms = pairs::page(&config);
    let times = size(&histograms)?;
    ensure!(times.full, "only {} series of times", times.series);

    let rounds = report.rounds(21);
    let (builds, histograms) = (making(&page, rounds), making(&histograms, rounds));
    let server = Server::bind(netmon::sinks::metrics::SERVER, "127.0.0.1:0", ServerLimits::default())?
        .start(&Threads::new().0, page)?;
    let get = |accept: &str| -> Result<(Spread, usize)> {
        let (mut times, mut size) = (Vec::new(), 0);
        for _ in 0..rounds {
            let start = Instant::now();
            let mut stream = TcpStream::connect(server.local_addr())?;
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: n\r\n{accept}Connection: close\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            ensure!(answer.starts_with(b"HTTP/1.1 200"), "the scrape failed");
            size = answer.len();
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok((Spread::of(times), size))
    };
    let (plain, zipped) = (get("")?, get("Accept-Encoding: gzip\r\n")?);
    server.stop()?;

    report.table(&format!("A scrape of {} series, the limit", flows.series), "ms");
    report.row("rendering the page", builds, AtMost(50.0), &format!("{} KiB", flows.bytes >> 10));
    report.row(
        "rendering a page that is mostly histograms",
        histograms,
        AtMost(50.0),
        &format!("{} series, {} KiB", times.series, times.bytes >> 10),
    );
    report.row("over HTTP, once rendered", plain.0, AtMost(50.0), &format!("{} KiB", plain.1 >> 10));
    report.row(
        "over HTTP, once rendered, gzip as Prometheus requests",
        zipped.0,
        Budget::None,
        &format!("{} KiB", zipped.1 >> 10),
    );
    many(report, rounds)
}
