//! The fuzz targets, which the tests also run on the corpus: every parser of input that netmon does not control. None may panic,
//! hang, or produce much output from a small input.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use netmon::config::{Given, Key, Settings, Sources, WebConfig};
use netmon::control::{
    Api, At, ConfigValue, Events, FlowStats, Next, Objects, PacketTrace, RatedFlow, SeriesUse, Status, TablePlace,
};
use netmon::filter::{Filter, PacketFilter};
use netmon::http::Body;
use netmon::line::Line;
use netmon::sinks::detect::{EventWatch, SecurityEvent};

/// Longest error message allowed, in bytes: a person has to read it.
const ERROR_MOST: usize = 128 << 10;

/// Parses a filter over flows and one over packets, and applies them.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Filter::parse(text) {
        Ok(filter) => assert!(lines().filter(|line| filter.matches(line)).count() <= 2),
        Err(error) => assert!(error.to_string().len() < ERROR_MOST, "{error}"),
    }
    let interfaces = BTreeMap::from([(1, "lo".to_owned()), (2, "eth0".to_owned()), (7, "veth1".to_owned())]);
    match PacketFilter::parse(text) {
        Ok(filter) => drop(filter.compile(&interfaces)),
        Err(error) => assert!(error.to_string().len() < ERROR_MOST, "{error}"),
    }
}

/// Reads a configuration file, and a web configuration file.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Settings::of_text(Path::new("netmon.yaml"), text) {
        Ok(settings) => {
            settings.without_effect();
            settings.config.cache_slots(2);
            for key in Key::all() {
                key.shown(&settings.config);
                settings.value(key);
            }
        }
        Err(error) => assert!(error.to_string().len() < ERROR_MOST, "{error}"),
    }
    if let Err(error) = WebConfig::of_text(Path::new("web.yaml"), text) {
        assert!(error.to_string().len() < ERROR_MOST, "{error}");
    }
}

/// Answers a request to the control socket.
pub fn request(data: &[u8]) {
    let mut answer = Vec::new();
    netmon::control::respond(data, Arc::new(Agent), &mut answer).unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 500"), "a route panicked");
}

/// Reads a capture file.
pub fn capture(data: &[u8]) {
    if let Err(error) = netmon::replay::read(Cursor::new(data.to_vec())) {
        assert!(format!("{error:#}").len() < ERROR_MOST, "{error:#}");
    }
}

/// A flow with almost no fields set, and one with several.
fn lines() -> impl Iterator<Item = Line> {
    let more = Line {
        id: 1,
        protocol: "tcp".to_owned(),
        status: "failed",
        client_ip: Some([10, 0, 0, 1].into()),
        client_port: Some(40_000),
        server_ip: "fd00::1".parse().ok(),
        server_port: Some(443),
        server_bytes: u64::MAX,
        interface: Some("veth1".to_owned()),
        ..Line::default()
    };
    [Line::default(), more].into_iter()
}

/// A stub agent with two flows that accepts every request.
pub struct Agent;

struct Silence;

impl Events for Silence {
    fn next(&mut self, _: Duration) -> Next {
        Next::End
    }

    fn lost(&mut self) -> u64 {
        1
    }
}

impl Api for Agent {
    fn status(&self) -> Status {
        Status::default()
    }

    fn flows(&self, filter: &Filter, take: &mut dyn FnMut(At, Line) -> bool) {
        let mut numbered = (0..).zip(lines()).filter(|(_, line)| filter.matches(line));
        numbered.all(|(index, line)| take(At { shard: 0, id: 0, index }, line));
    }

    fn look(&self, places: &[At]) -> Vec<Line> {
        places.iter().filter_map(|at| lines().nth(at.index as usize)).collect()
    }

    fn flows_from(&self, _: TablePlace, most: usize) -> (Vec<Line>, Option<TablePlace>) {
        (lines().take(most).collect(), None)
    }

    fn busy(&self, _: &mut dyn FnMut(RatedFlow<'_>)) -> u64 {
        0
    }

    fn watch(&self, _: Filter) -> anyhow::Result<Box<dyn Events>> {
        Ok(Box::new(Silence))
    }

    fn security_events(&self) -> Option<Vec<Arc<SecurityEvent>>> {
        Some(Vec::new())
    }

    fn watch_security(&self) -> anyhow::Result<Option<EventWatch>> {
        Ok(None)
    }

    fn flow_stats(&self) -> FlowStats {
        FlowStats::default()
    }

    fn series(&self) -> Vec<SeriesUse> {
        Vec::new()
    }

    fn config(&self) -> Vec<ConfigValue> {
        Vec::new()
    }

    fn set(&self, key: &'static Key, given: Option<Given>) -> anyhow::Result<()> {
        let set = given.map(|given| (key.path, given)).into_iter().collect();
        Settings::read(&Sources { set, ..Sources::default() }).map(drop)
    }

    fn reload(&self) -> anyhow::Result<()> {
        Ok(())
    }

    fn objects(&self) -> Objects {
        Objects::default()
    }

    fn log(&self) -> Vec<String> {
        Vec::new()
    }

    fn metrics(&self) -> Body {
        Body::default()
    }

    fn trace(&self, filter: PacketFilter, _: Duration) -> anyhow::Result<Box<dyn PacketTrace>> {
        filter.compile(&BTreeMap::new()).map_err(anyhow::Error::msg)?;
        anyhow::bail!("nothing is traced here")
    }

    fn end_trace(&self) -> anyhow::Result<()> {
        Ok(())
    }
}
