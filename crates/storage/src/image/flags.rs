//! Wrong flags of an image, of which qemu-img tells line by line and keeps no count of its own.
//!
//! A qcow2 image has a flag with each cluster that nobody shares. A step on snapshots that is cut off leaves some that say the wrong
//! thing about clusters which are all there and counted. There may be hundreds of thousands, so that they are counted as they come.

/// How each such line begins.
const WORDS: &[u8] = b"ERROR OFLAG_COPIED ";

/// Counts them in what qemu-img complains about.
#[derive(Debug, Default)]
pub(super) struct Flags {
    count: u64,
    /// How much of a line is there, up to the length of the words; more once it has others.
    at: usize,
}

impl Flags {
    /// More of the complaint, cut anywhere.
    pub(super) fn hear(&mut self, said: &[u8]) {
        for byte in said {
            self.at = match (WORDS.get(self.at), byte) {
                (_, b'\n') => 0,
                (Some(expected), byte) if expected == byte => self.at + 1,
                _ => usize::MAX,
            };
            self.count += u64::from(self.at == WORDS.len());
        }
    }

    /// How many there were.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_however_they_are_cut() {
        let said = b"ERROR OFLAG_COPIED data cluster: l2_entry=1 refcount=2\nLeaked cluster 5 refcount=1 reference=0\n\
                     ERROR cluster 3 refcount=0 reference=1\n\nERROR OFLAG_COPIED L2 cluster: l1_index=0\n\
                     Repairing: ERROR OFLAG_COPIED \nERROR OFLAG_COPIED";
        for cut in 0..said.len() {
            let mut flags = Flags::default();
            let (first, second) = said.split_at(cut);
            flags.hear(first);
            flags.hear(second);
            assert_eq!(flags.count(), 2, "{cut}");
        }
    }
}
