//! Reads the bytes of a capture from a file or a pipe, decompressed, and keeps track of the offset.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use indicatif::{ProgressBar, ProgressStyle};

use super::stop::{Stop, Stoppable};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// Minimum size of a file for a progress bar, in bytes: smaller ones are read in a moment.
const WORTH_A_BAR: u64 = 32 << 20;
/// RFC 1952, 2.3.1.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Bytes in order, which can be looked at before they are taken.
pub(super) struct Stream {
    input: Box<dyn Read>,
    buffer: Vec<u8>,
    /// Index of the next byte in `buffer`.
    next: usize,
    /// Offset of the next byte in the data.
    offset: u64,
    compressed: bool,
    ended: bool,
}

impl Stream {
    /// Opens the file, or standard input for "-". The progress bar is visible if `bar` is set and the file is large.
    pub(super) fn open(path: &Path, bar: bool, stop: &Stop) -> Result<(Stream, ProgressBar)> {
        let stoppable = |input| Stoppable { input, stop: stop.clone() };
        if path == Path::new("-") {
            let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
            return Ok((Stream::new(stoppable(input))?, ProgressBar::hidden()));
        }
        // Do not wait here for a pipe without a writer.
        let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
        let length = file.metadata()?.len();
        let bar = if bar && length >= WORTH_A_BAR { progress(length) } else { ProgressBar::hidden() };
        Ok((Stream::new(bar.wrap_read(stoppable(file)))?, bar))
    }

    /// Reads `input`, and decompresses it if it is compressed.
    pub(super) fn new(input: impl Read + 'static) -> Result<Stream> {
        let mut stream =
            Stream { input: Box::new(input), buffer: Vec::new(), next: 0, offset: 0, compressed: false, ended: false };
        if stream.peek(GZIP.len())? == GZIP {
            let start = io::Cursor::new(std::mem::take(&mut stream.buffer));
            let rest = std::mem::replace(&mut stream.input, Box::new(io::empty()));
            stream.input = Box::new(MultiGzDecoder::new(BufReader::with_capacity(CHUNK, start.chain(rest))));
            stream.compressed = true;
        }
        Ok(stream)
    }

    /// The next `wanted` bytes; fewer only at the end of the data.
    pub(super) fn peek(&mut self, wanted: usize) -> Result<&[u8]> {
        while self.buffer.len() - self.next < wanted && !self.ended {
            self.fill(wanted)?;
        }
        let end = self.buffer.len().min(self.next + wanted);
        Ok(&self.buffer[self.next..end])
    }

    fn fill(&mut self, wanted: usize) -> Result<()> {
        self.buffer.drain(..self.next);
        self.next = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + CHUNK.max(wanted - filled), 0);
        let read = loop {
            match self.input.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(filled + read.as_ref().unwrap_or(&0));
        let end = self.offset + self.buffer.len() as u64;
        match read {
            Ok(read) => self.ended = read == 0,
            Err(error) if self.compressed && error.kind() == ErrorKind::UnexpectedEof => {
                bail!("the compressed file is cut off: its data ends at {}", self.place(end))
            }
            Err(error) => return Err(error).with_context(|| format!("read on at {}", self.place(end))),
        }
        Ok(())
    }

    /// Skips the next `count` bytes, which must have been looked at.
    pub(super) fn take(&mut self, count: usize) {
        self.next += count;
        self.offset += count as u64;
    }

    /// Offset of the next byte.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// An offset in words.
    pub(super) fn place(&self, offset: u64) -> String {
        format!("offset {offset}{}", if self.compressed { " of the uncompressed data" } else { "" })
    }
}

fn progress(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length); // it draws on standard error, and only if that is a terminal
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar
}
