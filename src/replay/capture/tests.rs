//! Captures written byte by byte as the formats' specifications say, and broken at every place.

use std::io::{Cursor, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

/// Time, data and bytes on the wire.
type Written = (u64, Vec<u8>, u32);

fn packets() -> Vec<Written> {
    let second = 1_000_000_000;
    vec![
        (1_700_000_000 * second + 123_456_000, vec![1; 60], 60),
        (1_700_000_000 * second + 123_457_000, (0..=255).collect(), 1500), // cut by the snaplen
        (1_700_000_001 * second, vec![3; 61], 61),                         // padded in pcapng
        (4_000_000_000 * second, vec![], 70),                              // beyond 2038
    ]
}

#[derive(Clone, Copy)]
struct Writer {
    big_endian: bool,
}

impl Writer {
    fn both() -> [Writer; 2] {
        [false, true].map(|big_endian| Writer { big_endian })
    }

    fn u16(self, n: u16) -> [u8; 2] {
        if self.big_endian { n.to_be_bytes() } else { n.to_le_bytes() }
    }

    fn u32(self, n: u32) -> [u8; 4] {
        if self.big_endian { n.to_be_bytes() } else { n.to_le_bytes() }
    }

    fn words(self, words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|&n| self.u32(n)).collect()
    }

    fn pcap(self, nanoseconds: bool, packets: &[Written]) -> Vec<u8> {
        let (magic, tick) = if nanoseconds { (0xa1b2_3c4d, 1) } else { (0xa1b2_c3d4, 1000) };
        let mut file = [&self.u32(magic)[..], &self.u16(2), &self.u16(4), &self.words(&[0, 0, 256, 101])].concat();
        for (at_ns, data, wire) in packets {
            let ticks = at_ns % 1_000_000_000 / tick;
            file.extend(self.words(&[(at_ns / 1_000_000_000) as u32, ticks as u32, data.len() as u32, *wire]));
            file.extend(data);
        }
        file
    }

    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let body = [body, &vec![0; body.len().next_multiple_of(4) - body.len()]].concat();
        let length = self.u32(body.len() as u32 + 12);
        [&self.u32(kind)[..], &length, &body, &length].concat()
    }

    fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
        [&self.u16(code)[..], &self.u16(value.len() as u16), value, &padding].concat()
    }

    fn section(self) -> Vec<u8> {
        let body = [&self.u32(0x1a2b_3c4d)[..], &self.u16(1), &self.u16(0), &[0xff; 8]].concat();
        self.block(0x0a0d_0d0a, &body)
    }

    fn interface(self, link_type: u16, options: &[u8]) -> Vec<u8> {
        self.block(1, &[&self.u16(link_type)[..], &[0, 0], &self.u32(256), options, &[0; 4]].concat())
    }

    fn packet(self, interface: u32, ticks: u64, data: &[u8], wire: u32, options: &[u8]) -> Vec<u8> {
        let head = self.words(&[interface, (ticks >> 32) as u32, ticks as u32, data.len() as u32, wire]);
        let padding = vec![0; data.len().next_multiple_of(4) - data.len()];
        self.block(6, &[&head, data, &padding, options].concat())
    }

    /// Ticks of 10^-`exponent` seconds.
    fn pcapng(self, exponent: u8, packets: &[Written]) -> Vec<u8> {
        let name = [self.option(2, b"eth0"), self.option(9, &[exponent])].concat();
        let mut file = [self.section(), self.interface(1, &name)].concat();
        for (at_ns, data, wire) in packets {
            let ticks = if exponent >= 9 {
                at_ns * 10u64.pow(u32::from(exponent) - 9)
            } else {
                at_ns / 10u64.pow(9 - u32::from(exponent))
            };
            file.extend(self.packet(0, ticks, data, *wire, &[]));
        }
        file
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The packets that can be read, and the error after them.
fn read(file: impl Read + 'static) -> (Vec<Written>, Option<String>) {
    let (mut packets, mut packet) = (Vec::new(), Packet::default());
    let mut capture = match Stream::new(file).and_then(Capture::new) {
        Ok(capture) => capture,
        Err(error) => return (packets, Some(format!("{error:#}"))),
    };
    loop {
        match capture.next(&mut packet) {
            Ok(true) => packets.push((packet.at_ns, packet.data.clone(), packet.wire_bytes)),
            Ok(false) => return (packets, None),
            Err(error) => return (packets, Some(format!("{error:#}"))),
        }
    }
}

fn bytes(file: &[u8]) -> (Vec<Written>, Option<String>) {
    read(Cursor::new(file.to_vec()))
}

/// Yields one byte at a time, as a slow pipe may.
struct Slow(Cursor<Vec<u8>>);

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(1);
        self.0.read(&mut buffer[..most])
    }
}

#[test]
fn all_formats_yield_the_same_packets() {
    for w in Writer::both() {
        let mut files = vec![w.pcap(false, &packets()), w.pcap(true, &packets())];
        files.extend([6, 9].map(|exponent| w.pcapng(exponent, &packets())));
        for file in files {
            assert_eq!(bytes(&file), (packets(), None));
            assert_eq!(bytes(&gzip(&file)), (packets(), None));
            assert_eq!(read(Slow(Cursor::new(file))), (packets(), None));
        }
    }
}

#[test]
fn nanoseconds_survive() {
    let fine = vec![(1_700_000_000_123_456_789, vec![7; 20], 20), (1_700_000_000_123_456_790, vec![8; 20], 20)];
    for w in Writer::both() {
        assert_eq!(bytes(&w.pcap(true, &fine)), (fine.clone(), None));
        assert_eq!(bytes(&w.pcapng(9, &fine)), (fine.clone(), None));
        assert_eq!(bytes(&w.pcapng(10, &fine)), (fine.clone(), None));
    }
}

/// Clocks with powers of two and an offset in seconds, and interfaces in each of two sections, of which the second has
/// the other byte order.
#[test]
fn clocks_and_sections_of_pcapng() {
    let [little, big] = Writer::both();
    let mut file = Vec::new();
    for (w, other) in [(little, big), (big, little)] {
        let clock = [
            w.option(9, &[0x80 | 20]),
            w.option(14, &if w.big_endian { 100i64.to_be_bytes() } else { 100i64.to_le_bytes() }),
        ];
        file.extend([w.section(), w.interface(1, &[]), w.interface(113, &clock.concat())].concat());
        // A block of an unknown kind and one with names, both of which are skipped.
        file.extend([w.block(0x0bad, b"whatever"), w.block(4, &w.words(&[0]))].concat());
        file.extend(w.packet(1, (5 << 20) | (1 << 19), b"0123", 4, &w.option(2, &w.u32(2))));
        file.extend(w.packet(0, 7_000_001, b"4567", 4, &w.option(2, &w.u32(1))));
        let _ = other;
    }
    let mut capture = Capture::new(Stream::new(Cursor::new(file)).unwrap()).unwrap();
    let mut packet = Packet::default();
    let mut seen = Vec::new();
    while capture.next(&mut packet).unwrap() {
        let link = capture.interfaces()[packet.interface].link_type;
        seen.push((packet.interface, link, packet.at_ns, packet.outgoing));
    }
    let (left, right) = ((113, 105_500_000_000, Some(true)), (1, 7_000_001_000, Some(false)));
    let of = |interface, (link, at, outgoing)| (interface, link, at, outgoing);
    assert_eq!(seen, [of(1, left), of(0, right), of(3, left), of(2, right)]);
}

/// Simple packets have no time of their own, and only the length on the wire.
#[test]
fn simple_packets() {
    for w in Writer::both() {
        let long = [&w.u32(300)[..], &[5; 256]].concat();
        let file = [
            w.section(),
            w.interface(1, &[]),
            w.packet(0, 9_000_000, b"0123", 4, &[]),
            w.block(3, &[&w.u32(3)[..], b"abc"].concat()),
            w.block(3, &long),
        ];
        let at = 9_000_000_000;
        let expected = vec![(at, b"0123".to_vec(), 4), (at, b"abc".to_vec(), 3), (at, vec![5; 256], 300)];
        assert_eq!(bytes(&file.concat()), (expected, None));
    }
}

/// A file cut at any byte: complete packets are read, and the error has the exact offset.
#[test]
fn cut_off_anywhere() {
    for w in Writer::both() {
        for (file, first) in [(w.pcap(true, &packets()), 24), (w.pcapng(9, &packets()), 28 + 40)] {
            let mut starts = vec![first];
            for (_, data, _) in packets() {
                let whole = if first == 24 { 16 + data.len() } else { 32 + data.len().next_multiple_of(4) };
                starts.push(starts[starts.len() - 1] + whole);
            }
            assert_eq!(starts[4], file.len(), "the test calculates where packets start");
            for cut in 0..file.len() {
                let whole = starts.iter().filter(|&&start| start <= cut).count().saturating_sub(1);
                let (read, error) = bytes(&file[..cut]);
                assert_eq!(read, packets()[..whole], "cut at {cut}");
                if starts.contains(&cut) || first != 24 && cut == 28 {
                    assert_eq!(error, None, "cut at {cut} is between packets");
                    continue;
                }
                let error = error.unwrap_or_default();
                let start = [0, 28].into_iter().filter(|_| first != 24).chain(starts.clone());
                let start = start.filter(|&start| start <= cut).max().unwrap_or(0);
                match cut {
                    0 => assert_eq!(error, "the file is empty"),
                    1..4 => assert!(error.contains("not a capture file") || error.contains("cut off"), "{error}"),
                    _ => {
                        assert!(error.contains(&format!("at offset {start} ")), "cut at {cut}: {error}");
                        assert!(error.contains(&format!("has {}", cut - start)), "cut at {cut}: {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn damage_is_reported_with_its_offset() {
    for w in Writer::both() {
        let mut file = w.pcap(true, &packets());
        file[24 + 16 + 60 + 8..][..4].copy_from_slice(&w.u32(0x7fff_ffff));
        let (read, error) = bytes(&file);
        assert_eq!(read, packets()[..1]);
        assert_eq!(error.unwrap(), "packet 2 at offset 100 is damaged: it claims to have 2147483647 bytes");

        let second = 28 + 40 + 32 + 60;
        for (at, value, message) in [
            (4, 7, "the block at offset 160 is damaged: it claims to have 7 bytes"),
            (4, 0xffff_fff0, "the block at offset 160 is damaged: it claims to have 4294967280 bytes"),
            (8, 3, "block at offset 160 (ENDIAN-endian): its interface 3 is not described"),
            (20, 5000, "block at offset 160 (ENDIAN-endian): its parts contradict its length"),
            (284, 100, "block at offset 160 (ENDIAN-endian): its parts contradict its length"),
            (
                0,
                2,
                "block at offset 160 (ENDIAN-endian): packet blocks of this kind are obsolete: convert the file with editcap -F pcapng",
            ),
        ] {
            let mut file = w.pcapng(9, &packets());
            file[second + at..][..4].copy_from_slice(&w.u32(value));
            let (read, error) = bytes(&file);
            assert_eq!(read, packets()[..1]);
            let order = if w.big_endian { "big" } else { "little" };
            assert_eq!(error.unwrap(), message.replace("ENDIAN", order));
        }
        let mut file = w.pcapng(9, &packets());
        file[8] = 9;
        assert_eq!(bytes(&file).1.unwrap(), "the section header at offset 0 has no byte order");
    }
}

#[test]
fn offsets_inside_gzip_are_those_of_the_uncompressed_data() {
    let [w, _] = Writer::both();
    let file = w.pcap(true, &packets());
    let (read, error) = bytes(&gzip(&file[..100 + 16 + 9]));
    assert_eq!(read, packets()[..1]);
    let error = error.unwrap();
    assert!(error.contains("packet 2 at offset 100 of the uncompressed data needs 272 bytes and has 25"), "{error}");

    // The compressed file itself ends early.
    let many: Vec<Written> = (0..2000u64).map(|n| (n * 1_000_003, n.to_be_bytes().repeat(50), 400)).collect();
    let packed = gzip(&w.pcap(true, &many));
    let (read, error) = bytes(&packed[..packed.len() / 2]);
    assert!(!read.is_empty() && read == many[..read.len()], "{} packets", read.len());
    let error = error.unwrap();
    assert!(error.starts_with("the compressed file is cut off: its data ends at offset "), "{error}");
    let end: usize = error.split_whitespace().nth(11).unwrap().parse().unwrap();
    let next = 24 + 416 * read.len();
    assert!((next..next + 416).contains(&end), "{error}, though packet {} starts at {next}", read.len() + 1);

    // Damaged: its checksum is wrong.
    let mut packed = packed;
    let checksum = packed.len() - 8;
    packed[checksum] ^= 1;
    let (read, error) = bytes(&packed);
    assert_eq!(read.len(), many.len());
    let error = error.unwrap();
    assert!(error.starts_with(&format!("read on at offset {} of the uncompressed data: ", 24 + 416 * 2000)), "{error}");
}

#[test]
fn other_files_are_refused() {
    for (file, message) in [
        (&b""[..], "the file is empty"),
        (
            b"GET / HTTP/1.1\r\n\r\nand more, so that it has a header's length",
            "not a capture file (it starts with 47 45 54 20)",
        ),
        (b"hi", "not a capture file (it starts with 68 69)"),
        (&[0; 100], "not a capture file (it starts with 00 00 00 00)"),
    ] {
        let error = bytes(file).1.unwrap();
        assert!(error.starts_with(message), "{error}");
        if !file.is_empty() {
            assert!(bytes(&gzip(file)).1.unwrap().starts_with(message));
        }
    }
    assert_eq!(bytes(&gzip(b"")).1.unwrap(), "the file is empty");
}

/// The BPF programs get the start of a packet and its length.
#[test]
fn long_packets_are_cut() {
    let long = vec![(1, vec![9; 60_000], 61_000)];
    for w in Writer::both() {
        for file in [w.pcap(true, &long), w.pcapng(9, &long)] {
            assert_eq!(bytes(&file), (vec![(1, vec![9; KEPT], 61_000)], None));
        }
    }
}
