//! What the kernel tells of the network of this namespace, by netlink.

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// struct nlmsghdr.
const NETLINK_HEADER_BYTES: usize = 16;

/// Gives every message of a dump to `take`.
pub(super) fn dump(request: RouteNetlinkMessage, mut take: impl FnMut(RouteNetlinkMessage)) -> Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("open a netlink socket")?;
    socket.bind_auto().context("bind a netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("connect a netlink socket")?;
    let mut request = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(request));
    request.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).context("ask the kernel")?;
    let mut all_read = true;
    loop {
        let (datagram, _) = socket.recv_from_full().context("read the kernel's answer")?;
        let mut rest = datagram.as_slice();
        while let Some(length) = length(rest) {
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]).map(|message| message.payload) {
                Ok(NetlinkPayload::Done(_)) => return Ok(()),
                Ok(NetlinkPayload::Error(error)) => bail!("the kernel refuses: {}", error.to_io()),
                Ok(NetlinkPayload::InnerMessage(message)) => take(message),
                Ok(_) => {}
                // Of a kind that is younger than this program. Said once: there may be very many.
                Err(error) if all_read => {
                    log::warn!("an answer of the kernel about the network is not understood: {error}");
                    all_read = false;
                }
                Err(_) => {}
            }
            // Messages are aligned to four bytes (NLMSG_ALIGN).
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// Of the message that `bytes` begin with; `None` if there is none.
fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(bytes.first_chunk().copied()?) as usize;
    (NETLINK_HEADER_BYTES..=bytes.len()).contains(&length).then_some(length)
}
