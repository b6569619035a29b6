//! A scrape of as many series as the default configuration allows.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use netmon::config::Config;
use netmon::http::{Limits, Server};
use netmon::metrics::MetricsPage;

use crate::pairs;
use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::subject::{CHUNK, Subject, pin};
use crate::support::vary::Order;

fn making(page: &MetricsPage, rounds: usize) -> Result<Spread> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        ensure!(page.metrics().status == 200, "the page failed");
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Spread::of(times))
}

fn lines(page: &MetricsPage) -> Result<(usize, usize)> {
    let body = page.metrics().body;
    Ok((body.split(|b| *b == b'\n').filter(|line| line.first().is_some_and(|b| *b != b'#')).count(), body.len()))
}

pub fn run(report: &mut Report) -> Result<()> {
    pin()?;
    let config = Config::default();
    let mut subject = Subject::new(&config)?;
    subject.aim(0, Order::InTurn, u32::MAX);
    subject.run(10 * CHUNK, CHUNK, || Ok(()))?;
    let page = Arc::new(subject.inline.page());
    let (series, size) = lines(&page)?;
    ensure!(series >= config.series_limit, "{series} series, {} were meant to be", config.series_limit);
    let histograms = pairs::page(&config);
    let (more, more_size) = lines(&histograms)?;
    ensure!(more >= config.series_limit, "{more} series, {} were meant to be", config.series_limit);

    let rounds = report.rounds(21);
    let (builds, histograms) = (making(&page, rounds)?, making(&histograms, rounds)?);
    let server = Server::bind(netmon::metrics::SERVER, "127.0.0.1:0", Limits::default())?.start(page)?;
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

    report.table(&format!("A scrape of {series} series"), "ms");
    report.row("making the page", builds, AtMost(50.0), &format!("{} KiB", size >> 10));
    report.row("making one that is mostly histograms", histograms, AtMost(50.0), &format!("{} KiB", more_size >> 10));
    report.row("over HTTP", plain.0, AtMost(50.0), &format!("{} KiB", plain.1 >> 10));
    report.row("over HTTP, gzip, as Prometheus asks for", zipped.0, Budget::None, &format!("{} KiB", zipped.1 >> 10));
    Ok(())
}
