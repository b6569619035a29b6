//! Which ring a flow's records go by: as nm_emit in bpf/ring.h.

use super::record::Endpoint;

/// As NM_K1 to NM_K3 in bpf/hash.h.
const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xff51_afd7_ed55_8ccd;
const K3: u64 = 0xc4ce_b9fe_1a85_ec53;

/// How records are spread over the rings.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub(super) seed: u64,
    pub(super) rings: u32,
}

impl Spread {
    /// Over so many rings.
    #[cfg(test)]
    pub fn sample(rings: u32) -> Spread {
        Spread { seed: 7, rings }
    }

    /// The ring of a flow between two endpoints, in either order.
    pub fn ring(&self, ends: &[Endpoint; 2], v6: bool) -> usize {
        let [a, b] = ends.map(|end| self.hash(&end, v6));
        let mut h = a.wrapping_add(b);
        h ^= h >> 32;
        let hash = h.wrapping_mul(K1) >> 32;
        ((hash * u64::from(self.rings)) >> 32) as usize
    }

    fn hash(&self, end: &Endpoint, v6: bool) -> u64 {
        // Both in network byte order, read as the processor reads them.
        let port = u64::from(end.port.to_be());
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| end.address[at + i]));
        let h = if v6 {
            (word(0) ^ self.seed).wrapping_mul(K1).wrapping_add((word(8) ^ port).wrapping_mul(K2))
        } else {
            let address = u64::from(u32::from_ne_bytes(std::array::from_fn(|i| end.address[i])));
            ((address << 16 | port) ^ self.seed).wrapping_mul(K2)
        };
        (h ^ h >> 32).wrapping_mul(K3)
    }
}
