//! UDP: one datagram does not settle the protocol for good.
