//! Pages of a running agent, over HTTP, and the samples in them.

use std::io::{self, Read, Write};

/// Time for which an agent serves the same page of metrics again.
pub const PAGE_AGE: std::time::Duration = std::time::Duration::from_millis(1010);

/// Asks for a page over a connection that nothing else is sent on; returns head and body of the answer.
///
/// # Errors
///
/// The connection breaks, or the answer is no HTTP.
pub fn get(mut stream: impl Read + Write, path: &str) -> io::Result<(String, String)> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: netmon\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    Ok((head.to_owned(), body.to_owned()))
}

/// The same, for an answer whose status is 200.
///
/// # Errors
///
/// Also another status, which is the error's text.
pub fn page(stream: impl Read + Write, path: &str) -> io::Result<String> {
    let (head, body) = get(stream, path)?;
    let status = head.lines().next().unwrap_or_default();
    if status.contains(" 200 ") {
        return Ok(body);
    }
    Err(io::Error::other(format!("{path}: {status}")))
}

/// The sum of all samples of a metric whose labels contain each of `labels`.
pub fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    let lines = page.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}
