//! The bytes of one part, in as many slices as the connection brought them in.

use bytes::Bytes;

/// Bytes that belong together. What is sent has one slice; what was received has those of the connection's frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    slices: Vec<Bytes>,
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::of(vec![bytes])
    }
}

impl Payload {
    pub(super) const fn of(slices: Vec<Bytes>) -> Self {
        Self { slices }
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.slices.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slices, when each of them but the last is a multiple of `unit` bytes long.
    pub fn in_units_of(&self, unit: usize) -> Option<&[Bytes]> {
        let (_, before) = self.slices.split_last()?;
        before.iter().all(|slice| slice.len().is_multiple_of(unit)).then_some(&*self.slices)
    }

    /// All of it in one piece: copied into `room` where it is in several.
    pub fn together<'a>(&'a self, room: &'a mut Vec<u8>) -> &'a [u8] {
        if let [only] = &*self.slices {
            return only;
        }
        room.clear();
        self.slices.iter().for_each(|slice| room.extend_from_slice(slice));
        room
    }

    /// Hands out the slices.
    pub(super) fn into_slices(self) -> Vec<Bytes> {
        self.slices
    }
}
