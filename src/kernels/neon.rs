//! Inner loops for aarch64: plain NEON (Cortex-A53, A72) and the dot-product extension (A55, A76 and later).
//!
//! Dot product, narrow: 4 pixels x 16 channels; `SDOT` multiplies four input bytes of a pixel, picked from a register that
//! holds 16, with 4 x 4 bytes of weights into four sums. Exact for every int8.
//!
//! Plain, narrow: 4 pixels x 8 channels; `SMULL` and `SMLAL` add the products of two groups in 16 bits, `SADALP` adds
//! neighbours of those into 32. Two products fit 16 bits unless both weights are -128 (`NarrowRule::NoMinimum`). Each
//! channel has two partial sums, added at the end.
//!
//! Wide: `SMLAL` on 16-bit pairs, with the same two partial sums. Depthwise: see [`depthwise`].

use super::conv::{Kernel, Strip};
use super::depthwise::Depthwise;
use super::pack::{LANES, NarrowRule, Run, Style, Weights};
use super::{AddQuant, OutputQuant};
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::ops::Range;

mod depthwise;
mod epilogue;

pub(crate) use depthwise::ByteTaps;
use epilogue::{Finish, get, plus, put, scaled};

/// Proof that the CPU has NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon(());

/// Proof that the CPU has NEON and its dot products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dotprod(());

const NATURAL: [usize; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Neon {
    pub(crate) fn new() -> Option<Neon> {
        is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    pub(crate) fn peak_loop(self, iterations: usize) -> usize {
        // SAFETY: `self` proves NEON.
        unsafe { peak_neon(iterations) }
    }
}

impl Dotprod {
    pub(crate) fn new() -> Option<Dotprod> {
        (is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod")).then_some(Dotprod(()))
    }

    pub(crate) fn peak_loop(self, iterations: usize) -> usize {
        // SAFETY: `self` proves the dot products.
        unsafe { peak_dotprod(iterations) }
    }
}

impl Kernel for Neon {
    const STYLE: Style = Style { rule: NarrowRule::NoMinimum, order: NATURAL };

    fn strip(self, strip: &mut Strip<'_>) {
        strip.check();
        // SAFETY: `self` proves NEON; the strip was checked.
        unsafe {
            match strip.block.weights() {
                Weights::Narrow(w) => rows::<NARROW>(strip, w.as_slice().as_ptr().cast()),
                Weights::Wide(w) => rows::<WIDE>(strip, w.as_slice().as_ptr().cast()),
                Weights::Mixed(..) => unreachable!("only the pair rule of x86 mixes"),
            }
        }
    }

    fn widen(self, bytes: &[u8], wide: &mut [u8]) {
        assert_eq!(bytes.len() * 2, wide.len());
        // SAFETY: `self` proves NEON; the lengths were compared.
        unsafe { widen_bytes(bytes, wide) }
    }

    fn depthwise(self, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        dw.check(input, output, &rows);
        // SAFETY: `self` proves NEON; the buffers were checked.
        unsafe { depthwise::rows(dw, input, output, rows, false) }
    }
}

impl Kernel for Dotprod {
    const STYLE: Style = Style { rule: NarrowRule::Always, order: NATURAL };

    fn strip(self, strip: &mut Strip<'_>) {
        strip.check();
        // SAFETY: `self` proves the dot products; the strip was checked.
        unsafe {
            match strip.block.weights() {
                Weights::Narrow(w) => dot_rows(strip, w.as_slice().as_ptr().cast()),
                Weights::Wide(w) => rows::<WIDE>(strip, w.as_slice().as_ptr().cast()),
                Weights::Mixed(..) => unreachable!("only the pair rule of x86 mixes"),
            }
        }
    }

    fn widen(self, bytes: &[u8], wide: &mut [u8]) {
        Neon(()).widen(bytes, wide);
    }

    fn depthwise(self, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        dw.check(input, output, &rows);
        // SAFETY: `self` proves the dot products; the buffers were checked.
        unsafe { depthwise::rows(dw, input, output, rows, true) }
    }
}

/// Independent `SMULL`, `SMLAL`, `SADALP` chains on registers.
#[target_feature(enable = "neon")]
fn peak_neon(iterations: usize) -> usize {
    const CHAINS: usize = 8;
    let mut x = vdup_n_s8(3);
    let w = vdup_n_s8(1);
    let mut acc = [vdupq_n_s32(0); CHAINS];
    for _ in 0..iterations {
        for acc in &mut acc {
            // SAFETY: no instruction; the compiler must take `x` for changed, so the products are not hoisted.
            unsafe { asm!("/* {0:v} */", inout(vreg) x, options(nomem, nostack, preserves_flags)) };
            *acc = vpadalq_s16(*acc, vmlal_s8(vmull_s8(x, w), x, w));
        }
    }
    std::hint::black_box(acc.into_iter().fold(vdupq_n_s32(0), |s, a| vaddq_s32(s, a)));
    iterations * CHAINS * 16
}

/// Independent `SDOT` chains on registers.
#[target_feature(enable = "neon,dotprod")]
fn peak_dotprod(iterations: usize) -> usize {
    const CHAINS: usize = 16;
    let (x, w) = (vdupq_n_s8(3), vdupq_n_s8(1));
    let mut acc = [vdupq_n_s32(0); CHAINS];
    for _ in 0..iterations {
        for acc in &mut acc {
            *acc = sdot::<0>(*acc, w, x);
        }
        std::hint::black_box(());
    }
    std::hint::black_box(acc.into_iter().fold(vdupq_n_s32(0), |s, a| vaddq_s32(s, a)));
    iterations * CHAINS * 16
}

/// `acc[i] += w[4i..4i + 4] . x[4 * LANE..4 * LANE + 4]`. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const LANE: i32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: one arithmetic instruction on registers, which the target feature allows.
    unsafe {
        asm!("sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]", acc = inout(vreg) acc, w = in(vreg) w, x = in(vreg) x,
             lane = const LANE, options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// `acc[i] += w[4i..4i + 4] . x[4i..4i + 4]`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot_lanes(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: one arithmetic instruction on registers, which the target feature allows.
    unsafe {
        asm!("sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b", acc = inout(vreg) acc, w = in(vreg) w, x = in(vreg) x,
             options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// Bytes to 16-bit numbers.
///
/// # Safety
/// `wide` is twice as long as `bytes`.
#[target_feature(enable = "neon")]
unsafe fn widen_bytes(bytes: &[u8], wide: &mut [u8]) {
    let whole = bytes.len() / 8 * 8;
    for at in (0..whole).step_by(8) {
        // SAFETY: `at + 8 <= bytes.len()`, and `wide` is twice as long.
        unsafe { vst1q_u8(wide.as_mut_ptr().add(2 * at), vreinterpretq_u8_s16(vmovl_s8(vld1_s8(bytes.as_ptr().add(at).cast())))) };
    }
    for (&byte, pair) in bytes[whole..].iter().zip(wide[2 * whole..].chunks_exact_mut(2)) {
        pair.copy_from_slice(&i16::from(byte as i8).to_le_bytes());
    }
}

// ------------------------------------------------------------------------------------------------------------- dense

/// What a strip's tiles share.
struct Shared<'a> {
    runs: &'a [Run],
    weights: *const i8,
    /// Bytes from a group's weights to the next one's.
    group: usize,
    bias: &'a [i32; LANES],
    scale: &'a [f32; LANES],
    finish: Finish,
    lanes: usize,
    columns: usize,
    /// Bytes from one pixel to the next: input, output, residual.
    steps: [usize; 3],
    quant: &'a OutputQuant,
    add: Option<&'a AddQuant>,
}

impl<'a> Shared<'a> {
    #[target_feature(enable = "neon")]
    fn new(strip: &Strip<'a>, weights: *const i8, element: usize) -> Self {
        let block = strip.block;
        let add = strip.residual.as_ref().map(|r| r.add);
        Shared {
            runs: block.runs(),
            weights,
            group: block.lanes() * 4 * element,
            bias: &block.bias,
            scale: &block.scale,
            finish: Finish::new(add.map_or(strip.quant, |add| &add.output)),
            lanes: block.lanes(),
            columns: block.columns,
            steps: [strip.windows.step_x * element, strip.pixels.step_x, strip.residual.as_ref().map_or(0, |r| r.grid.step_x)],
            quant: strip.quant,
            add,
        }
    }

    /// Requantizes and writes `QUADS * 4` lanes from `lane` of one pixel.
    ///
    /// # Safety
    /// The pixel and the residual have the strip's `columns` bytes.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn emit<const QUADS: usize>(&self, acc: &[int32x4_t; QUADS], lane: usize, pixel: *mut u8, residual: *const u8) {
        let count = self.columns.saturating_sub(lane).min(4 * QUADS);
        // SAFETY: scale has 16 lanes; `count` bytes from `lane` are part of `columns`.
        unsafe {
            let scale = |q: usize| vld1q_f32(self.scale.as_ptr().add(lane + 4 * q));
            let values: [int32x4_t; QUADS] = match self.add {
                None => std::array::from_fn(|q| scaled(acc[q], scale(q))),
                Some(add) => {
                    let other = get(residual.add(lane), count);
                    let others = [vmovl_s8(vget_low_s8(other)), vmovl_high_s8(other)];
                    let quad = |q: usize| if q % 2 == 0 { vget_low_s16(others[q / 2]) } else { vget_high_s16(others[q / 2]) };
                    std::array::from_fn(|q| plus(add, self.quant, acc[q], scale(q), quad(q)))
                }
            };
            put(pixel.add(lane), self.finish.lanes(&values), count);
        }
    }
}

/// The next pixel of a row.
struct At {
    window: *const i8,
    pixel: *mut u8,
    residual: *const u8,
}

const NARROW: bool = false;
const WIDE: bool = true;

/// Calls `$tile::<$generics, N>(shared, at)` over every row of a strip, in tiles of 4, 2 and 1 pixels.
macro_rules! each_tile {
    ($strip:expr, $shared:expr, $element:expr, |$at:ident, $pixels:ident| $tile:expr) => {{
        let (strip, shared) = ($strip, $shared);
        let output = strip.output.as_mut_ptr();
        let residual = strip.residual.as_ref().map(|r| (r.bytes.map_or(output.cast_const(), <[u8]>::as_ptr), r.grid));
        let (height, width) = strip.rows();
        for y in 0..height {
            let mut $at = At {
                window: strip.input.as_ptr().add((strip.windows.base + y * strip.windows.step_y) * $element).cast(),
                pixel: output.add(strip.pixels.base + y * strip.pixels.step_y),
                residual: residual.map_or(output.cast_const(), |(from, grid)| from.add(grid.base + y * grid.step_y)),
            };
            let mut left = width;
            while left > 0 {
                let done = if left >= 4 {
                    const $pixels: usize = 4;
                    $tile;
                    4
                } else if left >= 2 {
                    const $pixels: usize = 2;
                    $tile;
                    2
                } else {
                    const $pixels: usize = 1;
                    $tile;
                    1
                };
                left -= done;
                $at.window = $at.window.wrapping_add(done * shared.steps[0]);
                $at.pixel = $at.pixel.wrapping_add(done * shared.steps[1]);
                $at.residual = $at.residual.wrapping_add(done * shared.steps[2]);
            }
        }
    }};
}

/// # Safety
/// `strip.check()` passed; `weights` are the block's, wide or narrow as `FORM` says.
#[target_feature(enable = "neon")]
unsafe fn rows<const FORM: bool>(strip: &mut Strip<'_>, weights: *const i8) {
    let element = if FORM == WIDE { 2 } else { 1 };
    let shared = &Shared::new(strip, weights, element);
    // SAFETY: every tile's pixels are the strip's, which was checked.
    unsafe { each_tile!(strip, shared, element, |at, PIXELS| tile::<FORM, PIXELS>(shared, &at)) }
}

/// `PIXELS` pixels, eight lanes at a time.
///
/// # Safety
/// As [`rows`]; the row has `PIXELS` pixels left.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile<const FORM: bool, const PIXELS: usize>(shared: &Shared<'_>, at: &At) {
    for lane in (0..shared.lanes).step_by(8) {
        let mut acc = [[vdupq_n_s32(0); 4]; PIXELS];
        // SAFETY: a run's bytes are inside every window; weights have `group` bytes for each group; bias has 16 lanes.
        unsafe {
            if FORM == WIDE {
                wide(shared, lane, at.window, &mut acc);
            } else {
                narrow(shared, lane, at.window, &mut acc);
            }
            let bias = [vld1q_s32(shared.bias.as_ptr().add(lane)), vld1q_s32(shared.bias.as_ptr().add(lane + 4))];
            for (p, acc) in acc.iter().enumerate() {
                let sums = [vaddq_s32(vpaddq_s32(acc[0], acc[1]), bias[0]), vaddq_s32(vpaddq_s32(acc[2], acc[3]), bias[1])];
                shared.emit(&sums, lane, at.pixel.add(p * shared.steps[1]), at.residual.wrapping_add(p * shared.steps[2]));
            }
        }
    }
}

/// Four input bytes, in all lanes.
///
/// # Safety
/// Four bytes are readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn broadcast(from: *const i8) -> int8x16_t {
    // SAFETY: the function's contract.
    vreinterpretq_s8_s32(vdupq_n_s32(unsafe { from.cast::<i32>().read_unaligned() }))
}

/// Byte products of eight lanes from `lane`, two groups at a time; two partial sums a lane.
///
/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn narrow<const PIXELS: usize>(shared: &Shared<'_>, lane: usize, window: *const i8, acc: &mut [[int32x4_t; 4]; PIXELS]) {
    let step = shared.steps[0];
    // SAFETY: the function's contract.
    unsafe {
        let mut weights = shared.weights.add(lane * 4);
        for run in shared.runs {
            let from = window.add(run.offset);
            for group in (0..run.groups).step_by(2) {
                let both = group + 1 < run.groups;
                let w = [vld1q_s8(weights), vld1q_s8(weights.add(16))];
                let v =
                    if both { [vld1q_s8(weights.add(shared.group)), vld1q_s8(weights.add(shared.group + 16))] } else { [vdupq_n_s8(0); 2] };
                weights = weights.add(shared.group * if both { 2 } else { 1 });
                for (p, acc) in acc.iter_mut().enumerate() {
                    let x = broadcast(from.add(p * step + group * 4));
                    let z = if both { broadcast(from.add(p * step + group * 4 + 4)) } else { x };
                    for q in 0..2 {
                        let low = vmlal_s8(vmull_s8(vget_low_s8(x), vget_low_s8(w[q])), vget_low_s8(z), vget_low_s8(v[q]));
                        let high = vmlal_high_s8(vmull_high_s8(x, w[q]), z, v[q]);
                        acc[2 * q] = vpadalq_s16(acc[2 * q], low);
                        acc[2 * q + 1] = vpadalq_s16(acc[2 * q + 1], high);
                    }
                }
            }
        }
    }
}

/// Products of 16-bit numbers, two steps a group; two partial sums a lane.
///
/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn wide<const PIXELS: usize>(shared: &Shared<'_>, lane: usize, window: *const i8, acc: &mut [[int32x4_t; 4]; PIXELS]) {
    // SAFETY: the function's contract.
    unsafe {
        let mut weights = shared.weights.add(lane * 4);
        for run in shared.runs {
            let from = window.add(run.offset * 2);
            for half in 0..run.groups * 2 {
                let w = [vld1q_s16(weights.cast()), vld1q_s16(weights.add(16).cast())];
                weights = weights.add(shared.group / 2);
                for (p, acc) in acc.iter_mut().enumerate() {
                    let x = vreinterpretq_s16_s8(broadcast(from.add(p * shared.steps[0] + half * 4)));
                    for q in 0..2 {
                        acc[2 * q] = vmlal_s16(acc[2 * q], vget_low_s16(x), vget_low_s16(w[q]));
                        acc[2 * q + 1] = vmlal_high_s16(acc[2 * q + 1], x, w[q]);
                    }
                }
            }
        }
    }
}

/// # Safety
/// `strip.check()` passed; `weights` are the block's, narrow.
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot_rows(strip: &mut Strip<'_>, weights: *const i8) {
    let shared = &Shared::new(strip, weights, 1);
    // SAFETY: every tile's pixels are the strip's, which was checked; blocks have 8 or 16 lanes.
    unsafe {
        match shared.lanes {
            LANES => each_tile!(strip, shared, 1, |at, PIXELS| dot_tile::<4, PIXELS>(shared, &at)),
            _ => each_tile!(strip, shared, 1, |at, PIXELS| dot_tile::<2, PIXELS>(shared, &at)),
        }
    }
}

/// `PIXELS` pixels x `QUADS * 4` lanes.
///
/// # Safety
/// As [`dot_rows`]; the row has `PIXELS` pixels left.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot_tile<const QUADS: usize, const PIXELS: usize>(shared: &Shared<'_>, at: &At) {
    let mut acc = [[vdupq_n_s32(0); QUADS]; PIXELS];
    // SAFETY: a run's bytes are inside every window; weights have `QUADS * 16` bytes for each group; bias has 16 lanes.
    unsafe {
        for q in 0..QUADS {
            let bias = vld1q_s32(shared.bias.as_ptr().add(q * 4));
            acc.iter_mut().for_each(|acc| acc[q] = bias);
        }
        let mut weights = shared.weights;
        for run in shared.runs {
            let from = at.window.add(run.offset);
            let fours = run.groups / 4;
            for four in 0..fours {
                let mut x = [vdupq_n_s8(0); PIXELS];
                for (p, x) in x.iter_mut().enumerate() {
                    *x = vld1q_s8(from.add(p * shared.steps[0] + four * 16));
                }
                dot_group::<0, QUADS, PIXELS>(&mut weights, &x, &mut acc);
                dot_group::<1, QUADS, PIXELS>(&mut weights, &x, &mut acc);
                dot_group::<2, QUADS, PIXELS>(&mut weights, &x, &mut acc);
                dot_group::<3, QUADS, PIXELS>(&mut weights, &x, &mut acc);
            }
            for group in fours * 4..run.groups {
                let mut x = [vdupq_n_s8(0); PIXELS];
                for (p, x) in x.iter_mut().enumerate() {
                    *x = broadcast(from.add(p * shared.steps[0] + group * 4));
                }
                dot_group::<0, QUADS, PIXELS>(&mut weights, &x, &mut acc);
            }
        }
        for (p, acc) in acc.iter().enumerate() {
            shared.emit(acc, 0, at.pixel.add(p * shared.steps[1]), at.residual.wrapping_add(p * shared.steps[2]));
        }
    }
}

/// One group of every lane; moves `weights` behind it.
///
/// # Safety
/// `weights` have `QUADS * 16` bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot_group<const LANE: i32, const QUADS: usize, const PIXELS: usize>(
    weights: &mut *const i8,
    x: &[int8x16_t; PIXELS],
    acc: &mut [[int32x4_t; QUADS]; PIXELS],
) {
    for q in 0..QUADS {
        // SAFETY: the function's contract.
        let w = unsafe { vld1q_s8(weights.add(q * 16)) };
        for (acc, &x) in acc.iter_mut().zip(x) {
            acc[q] = sdot::<LANE>(acc[q], w, x);
        }
    }
    *weights = weights.wrapping_add(QUADS * 16);
}
