//! The body of a reply: made once, compressed once, and shared by all clients that get it.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use flate2::{Compression, write::GzEncoder};

/// Shorter ones are sent plain: gzip would save less than a packet.
const GZIP_FROM: usize = 1024;

/// The bytes of a reply. Copies are the same bytes.
#[derive(Clone, Debug, Default)]
pub struct Body(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    plain: Vec<u8>,
    small: OnceLock<Option<Vec<u8>>>,
}

impl From<Vec<u8>> for Body {
    fn from(plain: Vec<u8>) -> Body {
        Body(Arc::new(Inner { plain, small: OnceLock::new() }))
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.0.plain
    }
}

impl Body {
    /// It is long enough to be compressed.
    pub(super) fn is_long(&self) -> bool {
        self.0.plain.len() > GZIP_FROM
    }

    /// It was compressed before: nobody has to wait for that.
    pub(super) fn is_compressed(&self) -> bool {
        self.0.small.get().is_some()
    }

    /// The body compressed with gzip; `None` if that fails.
    pub(super) fn compressed(&self) -> Option<&[u8]> {
        // Text this regular gains little from more effort.
        self.0.small.get_or_init(|| gzip(&self.0.plain).ok()).as_deref()
    }

    /// Distinguishes it from all other bodies that exist at the same time.
    pub(super) fn identity(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// Bytes it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.0.plain.len() + self.0.small.get().and_then(Option::as_ref).map_or(0, Vec::len)
    }
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body)?;
    let mut small = encoder.finish()?;
    small.shrink_to_fit();
    Ok(small)
}
