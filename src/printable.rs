//! Makes names that come from outside printable. Names of interfaces, network namespaces and processes are arbitrary
//! bytes: they need not be text, and may contain sequences that control a terminal.

use std::fmt::Write;

/// Text that cannot control a terminal. Bytes that are not printable text, and backslashes, are written as `\x1b`, so
/// that different names stay different.
pub fn printable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_printable(c) { text.push(c) } else { escape(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()) }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// Like [`printable`], for text that may have been escaped before: backslashes stay as they are.
pub fn without_controls(text: &str) -> String {
    text.split('\\').map(|part| printable(part.as_bytes())).collect::<Vec<_>>().join("\\")
}

fn is_printable(c: char) -> bool {
    // The standard library knows which characters are printable; it also escapes quotes, which are.
    matches!(c, '"' | '\'') || c != '\\' && c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_and_the_rest_is_escaped() {
        assert_eq!(printable(b"eth0.5@if2"), "eth0.5@if2");
        assert_eq!(printable("größe-接口\"'".as_bytes()), "größe-接口\"'");
        assert_eq!(printable(b"a\xffb"), "a\\xffb");
        assert_eq!(printable(b"\x1b[31mred\x07\x7f"), "\\x1b[31mred\\x07\\x7f");
        assert_eq!(printable("a\u{202e}b\u{85}\u{200b}".as_bytes()), "a\\xe2\\x80\\xaeb\\xc2\\x85\\xe2\\x80\\x8b");
        assert_eq!(printable(b"\xe2\x82"), "\\xe2\\x82", "cut short");
    }

    #[test]
    fn different_names_stay_different() {
        assert_eq!(printable(br"a\xff"), "a\\x5cxff");
        assert_ne!(printable(br"a\xff"), printable(b"a\xff"));
    }

    #[test]
    fn escaped_text_is_not_escaped_again() {
        let once = printable(b"a\xff\x1b\\");
        assert_eq!(without_controls(&once), once);
        assert_eq!(without_controls("a\x1b\\b\nc"), "a\\x1b\\b\\x0ac");
    }
}
