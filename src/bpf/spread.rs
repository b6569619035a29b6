//! Computes which ring the records of a flow use, exactly as nm_ring_of in bpf/ring.h.

use super::record::Endpoint;
use super::skel::types::nm_number;

const K1: u64 = joined(nm_number::NM_K1_HIGH, nm_number::NM_K1_LOW);
const K2: u64 = joined(nm_number::NM_K2_HIGH, nm_number::NM_K2_LOW);
const K3: u64 = joined(nm_number::NM_K3_HIGH, nm_number::NM_K3_LOW);

/// Joins the halves of a 64-bit number.
const fn joined(high: nm_number, low: nm_number) -> u64 {
    (high.0 as u64) << 32 | low.0 as u64
}

/// How records are spread over the rings.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub(super) seed: u64,
    pub(super) rings: u32,
}

impl Spread {
    /// For tests: a spread over `rings` rings.
    #[cfg(test)]
    pub fn sample(rings: u32) -> Spread {
        Spread { seed: 7, rings }
    }

    /// The index of the ring of a flow between two endpoints, in either order.
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
