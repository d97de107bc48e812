//! Reads LZ4 blocks. Pure, in safe Rust: whatever is given, nothing beyond the room is written.
//!
//! Our own, since a crate's reader in safe Rust copies what repeats itself byte by byte: 256 KiB of one byte
//! took it a hundred times as long as 256 KiB of JSON. Here what repeats itself is doubled.
//! (<https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>)

/// Bytes that are copied at once where so many may be: most copies are shorter.
const AT_ONCE: usize = 16;
/// A match is at least so long.
const MATCH_MIN: usize = 4;
/// The largest length that a token holds by itself.
const IN_TOKEN: usize = 15;

/// Fills `room` with what `block` holds. `None` where it is no block, or not of just this length.
#[must_use]
pub fn decompress(mut block: &[u8], room: &mut [u8]) -> Option<()> {
    let mut at = 0_usize;
    loop {
        let token = take(&mut block)?;
        let literals = length(usize::from(token >> 4), &mut block)?;
        let end = at.checked_add(literals)?;
        if literals <= AT_ONCE && block.len() >= AT_ONCE && room.len() - at >= AT_ONCE {
            room[at..at + AT_ONCE].copy_from_slice(&block[..AT_ONCE]);
        } else {
            room.get_mut(at..end)?
                .copy_from_slice(block.get(..literals)?);
        }
        block = &block[literals..];
        at = end;
        if block.is_empty() {
            // The last sequence has no match.
            return (at == room.len()).then_some(());
        }
        let (offset, rest) = block.split_first_chunk()?;
        block = rest;
        let offset = usize::from(u16::from_le_bytes(*offset));
        let length = length(usize::from(token & 15), &mut block)?.checked_add(MATCH_MIN)?;
        let from = at.checked_sub(offset).filter(|from| *from < at)?;
        if length > room.len() - at {
            return None;
        }
        repeat(room, from, at, length);
        at += length;
    }
}

/// Copies `length` bytes that begin at `from` to `at`, behind it; what is copied may reach into what it makes.
fn repeat(room: &mut [u8], from: usize, at: usize, length: usize) {
    let offset = at - from;
    if length <= AT_ONCE && offset >= AT_ONCE && room.len() - at >= AT_ONCE {
        return room.copy_within(from..from + AT_ONCE, at);
    }
    let mut done = 0;
    while done < length {
        let bytes = (length - done).min(offset + done);
        room.copy_within(from..from + bytes, at + done);
        done += bytes;
    }
}

fn take(block: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = block.split_first()?;
    *block = rest;
    Some(*byte)
}

/// A length that begins in a token and goes on behind it, byte by byte while these are full.
fn length(in_token: usize, block: &mut &[u8]) -> Option<usize> {
    let mut length = in_token;
    if length == IN_TOKEN {
        loop {
            let more = take(block)?;
            length = length.checked_add(more.into())?;
            if more != u8::MAX {
                break;
            }
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn there_and_back(plain: &[u8]) {
        let block = lz4_flex::block::compress(plain);
        let mut room = vec![0; plain.len()];
        assert_eq!(decompress(&block, &mut room), Some(()));
        assert_eq!(room, plain);
        for other in [plain.len() + 1, plain.len().saturating_sub(1)] {
            if other != plain.len() {
                assert_eq!(decompress(&block, &mut vec![0; other]), None);
            }
        }
    }

    #[test]
    fn what_repeats_itself_at_any_distance_is_read() {
        for distance in 1..70_usize {
            let period: Vec<u8> = (0..distance).map(|byte| byte as u8).collect();
            for length in [0, 1, 4, 15, 16, 17, 100, 5_000] {
                let plain: Vec<u8> = period.iter().copied().cycle().take(length).collect();
                there_and_back(&plain);
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(
            words in prop::collection::vec("[a-d]{1,9}", 0..400),
            noise in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            there_and_back(&[words.concat().into_bytes(), noise].concat());
        }

        #[test]
        fn no_bytes_make_it_panic_or_differ_from_the_crate(
            block in prop::collection::vec(any::<u8>(), 0..64),
            length in 0_usize..200,
        ) {
            let (mut ours, mut theirs) = (vec![0; length], vec![0; length]);
            let read = decompress(&block, &mut ours);
            let crate_read = lz4_flex::block::decompress_into(&block, &mut theirs);
            if read.is_some() {
                prop_assert_eq!(crate_read.ok(), Some(length));
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
