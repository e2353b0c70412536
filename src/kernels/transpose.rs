//! Bytes between pixels (a pixel's channels adjacent) and planes (a channel's pixels adjacent), by way of a small tile.

/// Pixels and channels of a tile.
pub(crate) const PIXELS: usize = 64;
pub(crate) const CHANNELS: usize = 8;

/// Some pixels of some channels, as planes.
pub(crate) type Tile = [[u8; PIXELS]; CHANNELS];

/// Writes channel `c` of pixel `x` to `out[x * stride + c]`, for the tile's first `channels` and `pixels`.
#[inline(always)]
pub(crate) fn write_pixels(tile: &Tile, pixels: usize, channels: usize, out: &mut [u8], stride: usize) {
    match (channels, stride) {
        (1, 1) => out[..pixels].copy_from_slice(&tile[0][..pixels]),
        (2, 2) => interleave::<2>(tile, pixels, out),
        (3, 3) => interleave::<3>(tile, pixels, out),
        (4, 4) => interleave::<4>(tile, pixels, out),
        _ => {
            for first in (0..pixels).step_by(8) {
                let words = transposed(std::array::from_fn(|c| word(&tile[c][first..first + 8])));
                for (x, word) in (first..pixels).zip(words) {
                    put(&mut out[x * stride..x * stride + channels], word);
                }
            }
        }
    }
}

#[inline(always)]
fn put(out: &mut [u8], word: u64) {
    match out.first_chunk_mut::<CHANNELS>() {
        Some(out) => *out = word.to_le_bytes(),
        None => out.iter_mut().zip(word.to_le_bytes()).for_each(|(out, byte)| *out = byte),
    }
}

/// Few channels and nothing else in a pixel. The loops' length is fixed, so that they become shuffles.
#[inline(always)]
fn interleave<const N: usize>(tile: &Tile, pixels: usize, out: &mut [u8]) {
    let mut buffer = [[0; N]; PIXELS];
    for x in 0..PIXELS {
        for c in 0..N {
            buffer[x][c] = tile[c][x];
        }
    }
    out[..pixels * N].copy_from_slice(buffer[..pixels].as_flattened());
}

/// Reads the first `channels` of `pixels` pixels, `stride` bytes apart. Eight bytes are readable at each.
#[inline(always)]
pub(crate) fn read_pixels(input: &[u8], stride: usize, pixels: usize, channels: usize, tile: &mut Tile) {
    match (channels, stride) {
        (1, 1) => tile[0][..pixels].copy_from_slice(&input[..pixels]),
        (2, 2) => deinterleave::<2>(input, pixels, tile),
        (3, 3) => deinterleave::<3>(input, pixels, tile),
        (4, 4) => deinterleave::<4>(input, pixels, tile),
        _ => {
            for first in (0..pixels).step_by(8) {
                let words = std::array::from_fn(|i| {
                    let at = (first + i).min(pixels - 1) * stride;
                    word(&input[at..at + 8])
                });
                for (plane, word) in tile.iter_mut().zip(transposed(words)) {
                    plane[first..first + 8].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
}

#[inline(always)]
fn deinterleave<const N: usize>(input: &[u8], pixels: usize, tile: &mut Tile) {
    let mut buffer = [[0; N]; PIXELS];
    buffer[..pixels].as_flattened_mut().copy_from_slice(&input[..pixels * N]);
    for x in 0..PIXELS {
        for c in 0..N {
            tile[c][x] = buffer[x][c];
        }
    }
}

#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |&bytes| u64::from_le_bytes(bytes))
}

/// Byte `i` of word `j` becomes byte `j` of word `i`: quarters, then pairs, then bytes change places.
#[inline(always)]
fn transposed(mut words: [u64; 8]) -> [u64; 8] {
    for (distance, mask) in [(4, 0x0000_0000_FFFF_FFFF), (2, 0x0000_FFFF_0000_FFFF), (1, 0x00FF_00FF_00FF_00FF)] {
        for low in (0..8).filter(|i| i & distance == 0) {
            let high = low + distance;
            let swapped = ((words[low] >> (8 * distance)) ^ words[high]) & mask;
            words[high] ^= swapped;
            words[low] ^= swapped << (8 * distance);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pixels_written_from_a_tile_are_read_back(
            pixels in 1..=PIXELS, channels in 1..=CHANNELS, after in 0..3usize, seed: u8,
        ) {
            let mut tile = [[0; PIXELS]; CHANNELS];
            for (c, plane) in tile.iter_mut().enumerate() {
                plane.iter_mut().enumerate().for_each(|(x, byte)| *byte = (x * 7 + c * 31) as u8 ^ seed);
            }
            let stride = channels + after;
            let mut out = vec![0xA5; pixels * stride + 8];
            write_pixels(&tile, pixels, channels, &mut out, stride);
            for x in 0..pixels {
                let (ours, others) = out[x * stride..(x + 1) * stride].split_at(channels);
                prop_assert!(ours.iter().enumerate().all(|(c, &byte)| byte == tile[c][x]));
                prop_assert!(others.iter().all(|&byte| byte == 0xA5));
            }
            let mut back = [[0; PIXELS]; CHANNELS];
            read_pixels(&out, stride, pixels, channels, &mut back);
            prop_assert!((0..channels).all(|c| back[c][..pixels] == tile[c][..pixels]));
        }
    }
}
