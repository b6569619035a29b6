//! A body whose length is not known before its end.

use std::io::{self, Write};

/// A body of unknown length, in chunks: an end that comes too early is noticed.
pub(super) struct Chunks<'a> {
    out: &'a mut dyn Write,
    chunk: Vec<u8>,
}

const CHUNK: usize = 32 << 10;

impl<'a> Chunks<'a> {
    pub(super) fn begin(out: &'a mut dyn Write, kind: &str) -> io::Result<Chunks<'a>> {
        write!(
            out,
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )?;
        Ok(Chunks { out, chunk: Vec::with_capacity(CHUNK + 4096) })
    }

    pub(super) fn end(mut self) -> io::Result<()> {
        self.flush()?;
        self.out.write_all(b"0\r\n\r\n")
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            write!(self.out, "{:x}\r\n", self.chunk.len())?;
            self.out.write_all(&self.chunk)?;
            self.out.write_all(b"\r\n")?;
            self.chunk.clear();
        }
        self.out.flush()
    }
}
