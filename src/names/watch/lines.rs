//! Splits an endless response body into lines.

use http_body_util::BodyExt;
use kube::client::Body;

use super::failure::Failure;
use super::remedies::chain;

/// Longest line, in bytes: an object has at most a few megabytes.
const LINE_MOST: usize = 32 << 20;
/// A buffer that a long line has made larger than this is freed.
const KEEP: usize = 1 << 20;

pub(super) struct Lines {
    body: Body,
    buffer: Vec<u8>,
    /// Length of the line that was returned last.
    taken: usize,
    /// There is no line break before this offset.
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Body) -> Lines {
        Lines { body, buffer: Vec::new(), taken: 0, searched: 0 }
    }

    /// Returns the next line, or `None` at the end. A last line without a line break is discarded.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        self.buffer.drain(..self.taken);
        (self.taken, self.searched) = (0, 0);
        loop {
            if let Some(more) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
                let length = self.searched + more;
                self.taken = length + 1;
                return Ok(Some(&self.buffer[..length]));
            }
            self.searched = self.buffer.len();
            if self.buffer.is_empty() && self.buffer.capacity() > KEEP {
                self.buffer = Vec::new();
            }
            if self.buffer.len() > LINE_MOST {
                return Err(Failure::Malformed(format!("a line of a watch has more than {LINE_MOST} bytes")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::Lost(format!("the watch broke off: {}", chain(&error)))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
