//! Writes traced packets to a pcapng file: one interface block each, times in nanoseconds, the direction, and the
//! verdict as a comment.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::UNIX_EPOCH;

use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, Linktype, OptionCode, PcapNGOption, SectionHeaderBlock, ToVec,
};
use serde_json::Value;

/// The option if_tsresol: times are in nanoseconds.
const NANOSECONDS: u8 = 9;
/// The option epb_flags; its lowest bits are the direction.
const FLAGS: u16 = 2;
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A pcapng file that packets are written to.
pub(super) struct PacketFile<W: Write> {
    out: W,
    /// Names and link types of the interfaces, in the order of their numbers.
    interfaces: Vec<(String, Linktype)>,
}

fn option<'a>(code: u16, value: impl Into<Cow<'a, [u8]>>) -> PcapNGOption<'a> {
    let value = value.into();
    PcapNGOption { code: OptionCode(code), len: value.len() as u16, value }
}

impl<W: Write> PacketFile<W> {
    /// Writes the section header, which precedes the packets.
    pub(super) fn begin(out: W) -> io::Result<PacketFile<W>> {
        let program = concat!("netmon-cli ", env!("NETMON_VERSION"));
        let section = SectionHeaderBlock {
            block_type: 0,
            block_len1: 0,
            bom: 0,
            major_version: 1,
            minor_version: 0,
            section_len: -1,
            options: vec![option(OptionCode::ShbUserAppl.0, program.as_bytes())],
            block_len2: 0,
        };
        let mut file = PacketFile { out, interfaces: Vec::new() };
        file.put(section)?;
        file.flush()?;
        Ok(file)
    }

    fn put(&mut self, mut block: impl ToVec) -> io::Result<()> {
        let bytes = block.to_vec().map_err(|error| io::Error::other(format!("{error:?}")))?;
        self.out.write_all(&bytes)
    }

    /// Writes a packet in the form in which the control socket sends it.
    pub(super) fn write(&mut self, packet: &Value) -> io::Result<()> {
        let get = |name: &str| packet[name].as_str().unwrap_or_default();
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "a packet from the agent is malformed");
        let header = unhex(get("header")).ok_or_else(broken)?;
        let time = humantime::parse_rfc3339(get("time")).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let time = time.ok_or_else(broken)?.as_nanos() as u64;
        let link = if get("link") == "ip" { Linktype::RAW } else { Linktype::ETHERNET };
        let interface = self.interface(get("interface"), link)?;
        let direction = if get("hook") == "ingress" { INBOUND } else { OUTBOUND };
        let mut comment = get("verdict").to_owned();
        if let Some(inner) = packet["inner"]["verdict"].as_str() {
            comment += &format!("; inside: {inner}");
        }
        self.put(EnhancedPacketBlock {
            block_type: 0,
            block_len1: 0,
            if_id: interface,
            ts_high: (time >> 32) as u32,
            ts_low: time as u32,
            caplen: header.len() as u32,
            origlen: packet["length"].as_u64().unwrap_or_default().max(header.len() as u64) as u32,
            data: &header,
            options: vec![
                option(FLAGS, direction.to_le_bytes().to_vec()),
                option(OptionCode::Comment.0, comment.as_bytes()),
            ],
            block_len2: 0,
        })
    }

    /// The number of an interface. Its description is written before its first packet.
    fn interface(&mut self, name: &str, link: Linktype) -> io::Result<u32> {
        let known = self.interfaces.iter().position(|(known, of)| known == name && *of == link);
        if let Some(number) = known {
            return Ok(number as u32);
        }
        self.put(InterfaceDescriptionBlock {
            block_type: 0,
            block_len1: 0,
            linktype: link,
            reserved: 0,
            snaplen: 0,
            options: vec![option(OptionCode::IfName.0, name.as_bytes())],
            block_len2: 0,
            if_tsresol: NANOSECONDS,
            if_tsoffset: 0,
        })?;
        self.interfaces.push((name.to_owned(), link));
        Ok(self.interfaces.len() as u32 - 1)
    }

    /// Flushes the output, so that readers see what was written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}
