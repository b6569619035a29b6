//! Reads packets from capture files: pcap, with times in micro- or nanoseconds, and pcapng, in either byte order.

use anyhow::{Context, Result, bail, ensure};
use pcap_parser::{
    Block, EnhancedPacketBlock, InterfaceDescriptionBlock, OptionCode, PcapHeader, PcapNGOption, parse_block_be,
    parse_block_le, parse_pcap_header,
};

use super::stream::Stream;

/// Bytes of each packet that are kept, more than any chain of headers has: BPF_PROG_TEST_RUN takes less than a page.
pub(super) const KEPT: usize = 3072;

/// Maximum length of a packet in bytes, that of libpcap for all link types that can be replayed.
const PACKET_MOST: u32 = 1 << 20;
/// Maximum length of a block in bytes: more than a packet with any comment, or any list of names, takes.
const BLOCK_MOST: u32 = 32 << 20;

const PCAP_HEADER: usize = 24;
const PCAP_RECORD: usize = 16;

// Blocks of pcapng, draft-ietf-opsawg-pcapng, section 4.
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a]; // the same in both byte orders
const LITTLE: [u8; 4] = [0x4d, 0x3c, 0x2b, 0x1a];
const BIG: [u8; 4] = [0x1a, 0x2b, 0x3c, 0x4d];
const OBSOLETE_PACKET: u32 = 2;
/// The option epb_flags of an enhanced packet block; its lowest two bits are the direction.
const EPB_FLAGS: u16 = 2;
const OUTGOING: u32 = 2;

/// A packet of the capture.
#[derive(Debug, Default)]
pub(super) struct Packet {
    /// Nanoseconds since 1970.
    pub(super) at_ns: u64,
    /// Its first bytes, [`KEPT`] at most.
    pub(super) data: Vec<u8>,
    /// Its length on the wire, in bytes.
    pub(super) wire_bytes: u32,
    /// Index of its interface in the capture, counted over all sections.
    pub(super) interface: usize,
    /// True if it left through the interface; `None` if the capture does not say.
    pub(super) outgoing: Option<bool>,
}

/// An interface of the capture.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) name: Option<String>,
    /// Its link type, a LINKTYPE_ number: <https://www.tcpdump.org/linktypes.html>.
    pub(super) link_type: u32,
    /// Ticks of its clock per second.
    ticks: u128,
    /// Seconds that are added to all its times.
    offset_s: i64,
    snaplen: u32,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Pcap { big_endian: bool, tick_ns: u64 },
    PcapNg { big_endian: bool },
}

/// Reads a capture from start to end.
pub(super) struct Capture {
    stream: Stream,
    format: Format,
    interfaces: Vec<Interface>,
    /// Number of interfaces in earlier sections: each section counts its own from 0.
    earlier: usize,
    packets: u64,
    /// Time of the last packet, for those without a time.
    last_ns: u64,
}

impl Capture {
    /// Reads the header.
    pub(super) fn new(mut stream: Stream) -> Result<Capture> {
        let start = stream.peek(PCAP_HEADER)?;
        ensure!(!start.is_empty(), "the file is empty");
        let (interfaces, format) = if start.starts_with(&SECTION) {
            (Vec::new(), Format::PcapNg { big_endian: false })
        } else {
            let (header, format) = pcap(start)?;
            let interface = Interface {
                name: None,
                // The upper bits describe frame check sequences.
                link_type: header.network.0 as u32 & 0xffff,
                ticks: 0,
                offset_s: 0,
                snaplen: header.snaplen,
            };
            stream.take(PCAP_HEADER);
            (vec![interface], format)
        };
        Ok(Capture { stream, format, interfaces, earlier: 0, packets: 0, last_ns: 1 })
    }

    /// The interfaces so far; a pcap file has exactly one.
    pub(super) fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Number of interfaces that belong to earlier sections.
    pub(super) fn earlier(&self) -> usize {
        self.earlier
    }

    /// Reads the next packet; false at the end. Errors say what is wrong, and at which offset.
    pub(super) fn next(&mut self, packet: &mut Packet) -> Result<bool> {
        let found = match self.format {
            Format::Pcap { big_endian, tick_ns } => self.next_record(packet, big_endian, tick_ns)?,
            Format::PcapNg { .. } => self.next_block(packet)?,
        };
        if found {
            self.packets += 1;
            self.last_ns = packet.at_ns;
        }
        Ok(found)
    }

    fn next_record(&mut self, packet: &mut Packet, big_endian: bool, tick_ns: u64) -> Result<bool> {
        let number = self.packets + 1;
        let header = self.stream.peek(PCAP_RECORD)?;
        if header.is_empty() {
            return Ok(false);
        }
        let there = header.len();
        if there < PCAP_RECORD {
            return Err(self.cut_off(&format!("the header of packet {number}"), PCAP_RECORD, there));
        }
        let field = |at| word(header, at, big_endian);
        let (seconds, ticks, captured, wire) = (field(0), field(4), field(8), field(12));
        if captured > PACKET_MOST {
            bail!(
                "packet {number} at {} is damaged: it claims to have {captured} bytes",
                self.stream.place(self.stream.offset())
            );
        }
        let whole = PCAP_RECORD + captured as usize;
        let record = self.stream.peek(whole)?;
        let there = record.len();
        if there < whole {
            return Err(self.cut_off(&format!("packet {number}"), whole, there));
        }
        packet.keep(&record[PCAP_RECORD..], captured, wire);
        packet.at_ns = u64::from(seconds) * 1_000_000_000 + u64::from(ticks) * tick_ns;
        packet.interface = 0;
        packet.outgoing = None;
        self.stream.take(whole);
        Ok(true)
    }

    fn next_block(&mut self, packet: &mut Packet) -> Result<bool> {
        loop {
            let offset = self.stream.offset();
            let Some(length) = self.block_length()? else { return Ok(false) };
            let Format::PcapNg { big_endian } = self.format else { return Ok(false) };
            let parse = if big_endian { parse_block_be } else { parse_block_le };
            let found = match parse(self.stream.peek(length)?) {
                Ok((_, Block::SectionHeader(_))) => {
                    self.earlier = self.interfaces.len();
                    Ok(false)
                }
                Ok((_, Block::InterfaceDescription(block))) => interface(&block, big_endian).map(|interface| {
                    self.interfaces.push(interface);
                    false
                }),
                Ok((_, Block::EnhancedPacket(block))) => {
                    packet.interface = self.earlier.saturating_add(block.if_id as usize);
                    fill_enhanced(packet, &block, self.interfaces.get(packet.interface), big_endian).map(|()| true)
                }
                Ok((_, Block::SimplePacket(block))) => {
                    packet.interface = self.earlier;
                    packet.at_ns = self.last_ns;
                    packet.outgoing = None;
                    let snaplen = self.interfaces.get(self.earlier).map_or(0, |i| i.snaplen);
                    let captured = if snaplen == 0 { block.origlen } else { block.origlen.min(snaplen) };
                    packet.keep(block.data, captured, block.origlen);
                    match self.interfaces.get(self.earlier) {
                        Some(_) => Ok(true),
                        None => Err(anyhow::anyhow!("its interface is not described")),
                    }
                }
                Ok((_, Block::Unknown(block)))
                    if [OBSOLETE_PACKET, OBSOLETE_PACKET.swap_bytes()].contains(&block.block_type) =>
                {
                    Err(anyhow::anyhow!(
                        "packet blocks of this kind are obsolete: convert the file with editcap -F pcapng"
                    ))
                }
                Ok(_) => Ok(false),
                Err(_) => Err(anyhow::anyhow!("its parts contradict its length")),
            };
            let what = if big_endian { "big" } else { "little" };
            let found = found.with_context(|| format!("block at {} ({what}-endian)", self.stream.place(offset)))?;
            self.stream.take(length);
            if found {
                return Ok(true);
            }
        }
    }

    /// Length of the next block, which has been read completely then; `None` at the end. Also detects the byte order of
    /// a section.
    fn block_length(&mut self) -> Result<Option<usize>> {
        let Format::PcapNg { big_endian } = &mut self.format else { return Ok(None) };
        let header = self.stream.peek(12)?;
        if header.is_empty() {
            return Ok(None);
        }
        let there = header.len();
        if there < 12 {
            return Err(self.cut_off("a block's header", 12, there));
        }
        let mut known = true;
        if header.starts_with(&SECTION) {
            known = header[8..] == LITTLE || header[8..] == BIG;
            *big_endian = header[8..] == BIG;
        }
        let length = word(header, 4, *big_endian);
        let place = || self.stream.place(self.stream.offset());
        ensure!(known, "the section header at {} has no byte order", place());
        if length < 12 || !length.is_multiple_of(4) || length > BLOCK_MOST {
            bail!("the block at {} is damaged: it claims to have {length} bytes", place());
        }
        let length = length as usize;
        let there = self.stream.peek(length)?.len();
        if there < length {
            return Err(self.cut_off("a block", length, there));
        }
        Ok(Some(length))
    }

    fn cut_off(&self, what: &str, whole: usize, there: usize) -> anyhow::Error {
        let offset = self.stream.offset();
        anyhow::anyhow!(
            "the file is cut off: {what} at {} needs {whole} bytes and has {there}; {} packets precede it",
            self.stream.place(offset),
            self.packets
        )
    }
}

impl Packet {
    fn keep(&mut self, data: &[u8], captured: u32, wire: u32) {
        let captured = data.len().min(captured as usize);
        self.data.clear();
        self.data.extend_from_slice(&data[..captured.min(KEPT)]);
        // Some writers omit the length on the wire.
        self.wire_bytes = wire.max(captured as u32);
    }
}

fn word(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
}

fn pcap(start: &[u8]) -> Result<(PcapHeader, Format)> {
    match parse_pcap_header(start) {
        // The parser also accepts a variant with longer records, which nothing writes any more.
        Ok((_, header)) if !header.is_modified_format() => {
            let tick_ns = if header.is_nanosecond_precision() { 1 } else { 1000 };
            Ok((header.clone(), Format::Pcap { big_endian: header.is_bigendian(), tick_ns }))
        }
        Err(pcap_parser::nom::Err::Incomplete(_)) if start.len() >= 4 => {
            bail!("the file is cut off: its header at offset 0 needs {PCAP_HEADER} bytes and has {}", start.len())
        }
        _ => {
            let start: Vec<String> = start.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            bail!(
                "not a capture file (it starts with {}): pcap and pcapng are supported, also compressed with gzip",
                start.join(" ")
            )
        }
    }
}

fn interface(block: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Result<Interface> {
    let option = |code: OptionCode| block.options.iter().find(|o| o.code == code);
    // Bit 7 selects powers of 2 instead of 10.
    let exponent = u32::from(block.if_tsresol & 0x7f);
    let ticks = if block.if_tsresol & 0x80 == 0 { 10u128.checked_pow(exponent) } else { 2u128.checked_pow(exponent) };
    // Here the parser supports only one byte order.
    let offset_s = option(OptionCode::IfTsoffset).and_then(|o| <[u8; 8]>::try_from(o.as_bytes().ok()?).ok());
    let offset_s = offset_s.map(if big_endian { i64::from_be_bytes } else { i64::from_le_bytes });
    Ok(Interface {
        name: option(OptionCode::IfName).and_then(|o| o.as_str().ok()).map(str::to_owned),
        link_type: block.linktype.0 as u32,
        ticks: ticks.context("the resolution of its clock is out of range")?,
        offset_s: offset_s.unwrap_or(0),
        snaplen: block.snaplen,
    })
}

impl Interface {
    fn at_ns(&self, ticks: u64) -> Result<u64> {
        let ns = i128::from(ticks) * 1_000_000_000;
        // Fractions of a nanosecond are dropped. Ticks are less than 10^39, so the cast is safe.
        let ns = ns / (self.ticks as i128) + i128::from(self.offset_s) * 1_000_000_000;
        u64::try_from(ns).context("its time is not between the years 1970 and 2554")
    }
}

fn fill_enhanced(
    packet: &mut Packet,
    block: &EnhancedPacketBlock<'_>,
    interface: Option<&Interface>,
    big_endian: bool,
) -> Result<()> {
    let interface = interface.with_context(|| format!("its interface {} is not described", block.if_id))?;
    packet.at_ns = interface.at_ns(u64::from(block.ts_high) << 32 | u64::from(block.ts_low))?;
    packet.outgoing = block.options.iter().find_map(|option| outgoing(option, big_endian));
    packet.keep(block.data, block.caplen, block.origlen);
    Ok(())
}

fn outgoing(option: &PcapNGOption<'_>, big_endian: bool) -> Option<bool> {
    if option.code.0 != EPB_FLAGS {
        return None;
    }
    let flags = word(option.as_bytes().ok().filter(|b| b.len() == 4)?, 0, big_endian);
    (flags & 3 != 0).then_some(flags & 3 == OUTGOING)
}

#[cfg(test)]
mod tests;
