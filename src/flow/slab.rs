//! Storage whose memory follows its contents. Values are in small blocks that never move, the lowest free place is used
//! first, and a block that has become empty is released. So a value keeps its place, and a burst leaves only the blocks
//! of values that outlive it.

/// Places of a block, one bit of a word each.
const BLOCK: usize = u64::BITS as usize;
/// Blocks of a page.
const PAGE: usize = 64;

/// Values in places that are numbered by index.
#[derive(Debug)]
pub struct Slab<T> {
    /// `None` for an empty block. The pointers are thin because each access reads one: those of a million values fit a
    /// cache.
    blocks: Vec<Option<Box<[Option<T>; BLOCK]>>>,
    /// For each block a word, with a bit for each place that is in use.
    taken: Vec<u64>,
    /// A bit for each block that has a free place.
    room: Vec<u64>,
    /// No word of `room` before this one has a bit.
    first: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { blocks: Vec::new(), taken: Vec::new(), room: Vec::new(), first: 0 }
    }
}

/// Builds the block on the heap, because it may be too large for a stack.
fn empty_block<T>() -> Box<[Option<T>; BLOCK]> {
    let places: Box<[Option<T>]> = std::iter::repeat_with(|| None).take(BLOCK).collect();
    places.try_into().unwrap_or_else(|_| unreachable!("the slice has BLOCK places"))
}

impl<T> Slab<T> {
    /// Inserts a value and returns its index.
    pub fn insert(&mut self, value: T) -> u32 {
        let block = self.block_with_room();
        let place = self.taken[block].trailing_ones() as usize;
        self.taken[block] |= 1 << place;
        if self.taken[block] == u64::MAX {
            self.room[block / BLOCK] &= !(1 << (block % BLOCK));
        }
        self.blocks[block].get_or_insert_with(empty_block)[place] = Some(value);
        (block * BLOCK + place) as u32
    }

    fn block_with_room(&mut self) -> usize {
        while let Some(&word) = self.room.get(self.first) {
            if word != 0 {
                return self.first * BLOCK + word.trailing_zeros() as usize;
            }
            self.first += 1;
        }
        let block = self.blocks.len();
        self.blocks.push(None);
        self.taken.push(0);
        self.room.resize(block / BLOCK + 1, 0);
        self.room[block / BLOCK] |= 1 << (block % BLOCK);
        self.first = block / BLOCK;
        block
    }

    /// The value with this index.
    pub fn get(&self, index: u32) -> Option<&T> {
        self.blocks.get(index as usize / BLOCK)?.as_ref()?[index as usize % BLOCK].as_ref()
    }

    /// The value with this index.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.blocks.get_mut(index as usize / BLOCK)?.as_mut()?[index as usize % BLOCK].as_mut()
    }

    /// Removes and returns the value with this index.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let (block, place) = (index as usize / BLOCK, index as usize % BLOCK);
        let value = self.blocks.get_mut(block)?.as_mut()?[place].take()?;
        self.taken[block] &= !(1 << place);
        self.room[block / BLOCK] |= 1 << (block % BLOCK);
        self.first = self.first.min(block / BLOCK);
        if self.taken[block] == 0 {
            self.blocks[block] = None;
            self.cut();
        }
        Some(value)
    }

    /// Releases the empty blocks at the end.
    fn cut(&mut self) {
        while self.taken.last() == Some(&0) {
            self.taken.pop();
            self.blocks.pop();
            let block = self.taken.len();
            self.room[block / BLOCK] &= !(1 << (block % BLOCK));
        }
        self.room.truncate(self.taken.len().div_ceil(BLOCK));
        if self.blocks.capacity() > 4 * self.blocks.len() + BLOCK {
            self.blocks.shrink_to(2 * self.blocks.len());
            self.taken.shrink_to(2 * self.taken.len());
            self.room.shrink_to(2 * self.room.len());
        }
    }

    /// Number of places in allocated blocks.
    pub fn capacity(&self) -> usize {
        self.blocks.iter().flatten().count() * BLOCK
    }

    /// The values of the `page`th part; `None` after the last part.
    pub fn page(&self, page: usize) -> Option<impl Iterator<Item = &T>> {
        let from = page.checked_mul(PAGE).filter(|from| *from < self.blocks.len())?;
        Some(self.blocks[from..].iter().take(PAGE).flatten().flat_map(|block| block.iter().flatten()))
    }

    /// The values from index `from` on, each with its index.
    pub fn places(&self, from: u32) -> impl Iterator<Item = (u32, &T)> {
        let (first, skipped) = (from as usize / BLOCK, from as usize % BLOCK);
        self.blocks.iter().enumerate().skip(first).flat_map(move |(number, block)| {
            let places =
                block.iter().flat_map(|block| block.iter()).enumerate().skip(if number == first { skipped } else { 0 });
            places.filter_map(move |(place, value)| Some(((number * BLOCK + place) as u32, value.as_ref()?)))
        })
    }

    /// All values.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.blocks.iter_mut().flatten().flat_map(|block| block.iter_mut().flatten())
    }

    /// All values.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flatten().flat_map(|block| block.iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_and_the_lowest_free_one_is_taken() {
        let mut slab = Slab::default();
        let places: Vec<u32> = (0..300).map(|value| slab.insert(value)).collect();
        assert_eq!(places, (0..300).collect::<Vec<u32>>());
        assert_eq!([250, 70, 3].map(|place| slab.remove(place)), [Some(250), Some(70), Some(3)]);
        assert_eq!(slab.remove(70), None);
        assert_eq!([1000, 1001, 1002, 1003].map(|value| slab.insert(value)), [3, 70, 250, 300]);
        assert_eq!([3, 4, 70, 299, 300, 301].map(|place| slab.get(place).copied()), {
            [Some(1000), Some(4), Some(1001), Some(299), Some(1003), None]
        });
        assert_eq!(slab.places(298).map(|(place, value)| (place, *value)).collect::<Vec<_>>(), {
            [(298, 298), (299, 299), (300, 1003)]
        });
        let pages: usize = (0..).map_while(|page| Some(slab.page(page)?.count())).sum();
        assert_eq!((pages, slab.iter().count()), (301, 301));
    }

    #[test]
    fn empty_blocks_are_released() {
        let mut slab = Slab::default();
        for value in 0..100_000u32 {
            slab.insert(value);
        }
        // A few outlive the rest, wherever they are.
        let stays = |value: u32| value.is_multiple_of(10_007);
        for value in (0..100_000).filter(|value| !stays(*value)) {
            slab.remove(value);
        }
        assert_eq!((slab.iter().count(), slab.capacity()), (10, 10 * BLOCK));
        for value in 100_000..100_000 + 10 * BLOCK as u32 - 10 {
            slab.insert(value);
        }
        assert_eq!(slab.iter().count(), 10 * BLOCK);
        assert_eq!(slab.capacity(), 20 * BLOCK - BLOCK, "from the bottom on: the first block alone had one of them");
        let left: Vec<u32> = slab.places(0).map(|(place, _)| place).collect();
        for place in left {
            slab.remove(place);
        }
        assert_eq!((slab.capacity(), slab.blocks.len(), slab.room.len()), (0, 0, 0));
        assert!(slab.blocks.capacity() <= BLOCK, "{}", slab.blocks.capacity());
        assert_eq!(slab.insert(7), 0);
    }
}
