//! The target of a request, as people write it: a filter has `<`, `>` and quotes, which a URI does not have as they are.

// What others wrote: no place in it is known to be there.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::collections::VecDeque;
use std::io;

/// Bytes read from the socket in one go.
const PIECE: usize = 1024;

/// Encodes these characters in the first line of a connection's first request.
#[derive(Debug, Default)]
pub(super) struct Targets {
    ended: bool,
    /// Encoded, and not handed on yet.
    ahead: VecDeque<u8>,
}

impl Targets {
    /// Nothing is left to be done.
    pub(super) fn is_over(&self) -> bool {
        self.ended && self.ahead.is_empty()
    }

    /// Fills `into` with what `read` gets. 0: the client has ended its side.
    pub(super) fn read(
        &mut self,
        into: &mut [u8],
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.ahead.is_empty() {
            let mut piece = [0; PIECE];
            let count = read(&mut piece)?;
            piece.iter().take(count).for_each(|byte| self.take(*byte));
        }
        let count = into.len().min(self.ahead.len());
        into.iter_mut().zip(self.ahead.drain(..count)).for_each(|(to, byte)| *to = byte);
        Ok(count)
    }

    fn take(&mut self, byte: u8) {
        match byte {
            b'"' | b'#' | b'<' | b'>' if !self.ended => self.ahead.extend(format!("%{byte:02X}").bytes()),
            _ => self.ahead.push_back(byte),
        }
        self.ended |= byte == b'\n';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of these pieces, taken `most` bytes at a time.
    fn read(pieces: &[&str], most: usize) -> String {
        let (mut targets, mut out) = (Targets::default(), Vec::new());
        for piece in pieces {
            let mut came = false;
            loop {
                let mut into = vec![0; most];
                let count = targets.read(&mut into, |to| {
                    if std::mem::replace(&mut came, true) {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    to.iter_mut().zip(piece.bytes()).for_each(|(to, byte)| *to = byte);
                    Ok(piece.len())
                });
                match count {
                    Ok(count) => out.extend(into.into_iter().take(count)),
                    Err(_) => break,
                }
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_first_line_alone_is_encoded() {
        let request = ["GET /v1/flows?filter=bytes>1 HT", "TP/1.1\r\nA: <\"#>\r\n\r\n"];
        for most in [1, 2, 3, 100] {
            assert_eq!(read(&request, most), "GET /v1/flows?filter=bytes%3E1 HTTP/1.1\r\nA: <\"#>\r\n\r\n", "{most}");
        }
        assert_eq!(read(&["<>\"#%<"], 5), "%3C%3E%22%23%%3C");
    }
}
