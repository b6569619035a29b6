//! A client for the agent's control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// The agent at a socket.
#[derive(Clone)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Client {
        Client { socket: socket.to_owned() }
    }

    /// Sends a request and returns the body of the answer, to be read as it arrives.
    ///
    /// # Errors
    ///
    /// No agent answers, or it refuses the request.
    pub(super) fn ask(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Result<Body> {
        let mut stream = UnixStream::connect(&self.socket).map_err(|error| self.absent(&error))?;
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pairs: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let query = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
        // If this fails, the agent may already have sent a refusal.
        let sent = write!(stream, "{method} {path}{query} HTTP/1.1\r\nHost: netmon\r\n\r\n");
        let mut reader = BufReader::with_capacity(64 << 10, stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).context("read the agent's answer")? == 0 {
                sent.context("ask the agent")?;
                bail!("the agent closed the connection without an answer");
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(&head).map_err(|error| anyhow!("the agent's answer is not HTTP: {error}"))?;
        let header = |name: &str| {
            let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.and_then(|header| std::str::from_utf8(header.value).ok())
        };
        let length = header("content-length").and_then(|length| length.parse().ok());
        let (status, reason) = (response.code.unwrap_or_default(), response.reason.unwrap_or_default().to_owned());
        let mut body = Body { reader, left: length.unwrap_or(0), chunked: length.is_none(), ended: false };
        if status == 200 {
            return Ok(body);
        }
        let mut text = String::new();
        body.read_to_string(&mut text).context("read the agent's answer")?;
        let error = serde_json::from_str::<serde_json::Value>(&text).ok();
        match error.as_ref().and_then(|value| value["error"].as_str()).unwrap_or(&text).trim_end() {
            // The server itself has no words for a request that is no HTTP, or too large.
            "" => bail!("the agent refused the request: {status} {}", reason.trim_end()),
            error => bail!("{error}"),
        }
    }

    /// Sends a request whose answer is one JSON value.
    pub(super) fn value(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Result<serde_json::Value> {
        serde_json::from_reader(self.ask(method, path, parameters)?).context("the agent's answer is not JSON")
    }

    fn absent(&self, error: &io::Error) -> anyhow::Error {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                anyhow!("{socket}: {error}: only root and the agent's own user may use it; try sudo")
            }
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                anyhow!("no agent answers on {socket} ({error}): start netmon, or name its socket with --socket")
            }
            _ => anyhow!("{socket}: {error}"),
        }
    }
}

/// The body of an answer, of a known length or in chunks.
pub(super) struct Body {
    reader: BufReader<UnixStream>,
    /// Remaining bytes of the body, or of the current chunk.
    left: u64,
    chunked: bool,
    ended: bool,
}

impl Body {
    /// Reads the header of the next chunk.
    fn advance(&mut self) -> io::Result<()> {
        let mut line = String::new();
        while line.trim().is_empty() {
            line.clear();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the agent's answer is incomplete"));
            }
        }
        let broken = |_| io::Error::new(io::ErrorKind::InvalidData, "the agent's answer is malformed");
        self.left = u64::from_str_radix(line.trim(), 16).map_err(broken)?;
        self.ended = self.left == 0;
        Ok(())
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && self.chunked && !self.ended {
            self.advance()?;
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the agent's answer is incomplete"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}
