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

use super::AddQuant;
use super::conv::{After, Kernel, Residual, Strip};
use super::cursor::{Cursor, Place};
use super::depthwise::Depthwise;
use super::groups::Run;
use super::pack::{GROUP, LANES, NarrowRule, Style, Weights};
use super::rows::Runs;
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::ops::Range;

mod depthwise;
mod elementwise;
mod epilogue;
mod matrix;

pub(crate) use depthwise::ByteTaps;
use epilogue::{Finish, get, plus, put_sums, scaled};

/// Proof that the CPU has NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon(());

/// Proof that the CPU has NEON and its dot products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dotprod(());

/// Proof that the CPU has NEON, its dot products and its matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct I8mm(Dotprod);

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
    const STYLE: Style = Style { rule: NarrowRule::NoMinimum, order: NATURAL, pairs: false };

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

    fn add(self, quant: &AddQuant, runs: &Runs<3>, a: &[u8], b: &[u8], output: &mut [u8]) {
        runs.check([a.len(), b.len(), output.len()]);
        // SAFETY: `self` proves NEON; the lengths were compared.
        unsafe { elementwise::add_runs(quant, runs, a, b, output) }
    }

    fn table(self, table: &[u8; 256], runs: &Runs<2>, input: Option<&[u8]>, output: &mut [u8]) {
        runs.check([input.map_or(output.len(), <[u8]>::len), output.len()]);
        // SAFETY: `self` proves NEON; the lengths were compared, and in place there is one.
        unsafe { elementwise::look_up(table, runs, input, output) }
    }

    fn depthwise(self, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        dw.check(input, output, &rows);
        // SAFETY: `self` proves NEON; the buffers were checked.
        unsafe { depthwise::rows(dw, input, output, rows, false) }
    }
}

impl Kernel for Dotprod {
    const STYLE: Style = Style { rule: NarrowRule::Always, order: NATURAL, pairs: false };

    fn strip(self, strip: &mut Strip<'_>) {
        check_dots(strip);
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

    fn add(self, quant: &AddQuant, runs: &Runs<3>, a: &[u8], b: &[u8], output: &mut [u8]) {
        Neon(()).add(quant, runs, a, b, output);
    }

    fn table(self, table: &[u8; 256], runs: &Runs<2>, input: Option<&[u8]>, output: &mut [u8]) {
        Neon(()).table(table, runs, input, output);
    }

    fn depthwise(self, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        dw.check(input, output, &rows);
        // SAFETY: `self` proves the dot products; the buffers were checked.
        unsafe { depthwise::rows(dw, input, output, rows, true) }
    }
}

impl I8mm {
    pub(crate) fn new() -> Option<I8mm> {
        Dotprod::new().filter(|_| is_aarch64_feature_detected!("i8mm")).map(I8mm)
    }

    pub(crate) fn peak_loop(self, iterations: usize) -> usize {
        // SAFETY: `self` proves the matrix products.
        unsafe { matrix::peak(iterations) }
    }
}

impl Kernel for I8mm {
    const STYLE: Style = Style { pairs: true, ..Dotprod::STYLE };

    fn strip(self, strip: &mut Strip<'_>) {
        match strip.block.weights() {
            Weights::Narrow(weights) if strip.block.paired => {
                check_dots(strip);
                // SAFETY: `self` proves dot and matrix products; the strip was checked.
                unsafe { matrix::rows(strip, weights.as_slice().as_ptr()) }
            }
            _ => self.0.strip(strip),
        }
    }

    fn widen(self, bytes: &[u8], wide: &mut [u8]) {
        self.0.widen(bytes, wide);
    }

    fn add(self, quant: &AddQuant, runs: &Runs<3>, a: &[u8], b: &[u8], output: &mut [u8]) {
        self.0.add(quant, runs, a, b, output);
    }

    fn table(self, table: &[u8; 256], runs: &Runs<2>, input: Option<&[u8]>, output: &mut [u8]) {
        self.0.table(table, runs, input, output);
    }

    fn depthwise(self, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        self.0.depthwise(dw, input, output, rows);
    }
}

/// [`Strip::check`] for loops that read runs 16 bytes at a time, the last one too.
fn check_dots(strip: &Strip<'_>) {
    strip.check();
    let end = strip.windows.last(strip.height, strip.width) + strip.block.groups().span();
    assert!(end + 16 - GROUP <= strip.input.len());
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
    after: After<'a>,
}

impl<'a> Shared<'a> {
    #[target_feature(enable = "neon")]
    fn new(strip: &Strip<'a>, weights: *const i8, element: usize) -> Self {
        let block = strip.block;
        Shared {
            runs: block.groups().runs(),
            weights,
            group: block.lanes() * 4 * element,
            bias: &block.bias,
            scale: &block.scale,
            finish: Finish::new(&strip.after.bytes()),
            lanes: block.lanes(),
            columns: block.columns,
            after: strip.after,
        }
    }

    /// Requantizes and writes `QUADS * 4` lanes from `lane` of `PIXELS` pixels. `CALLER` numbers its callers: what one alone calls is
    /// inlined there, and sums stay in registers.
    ///
    /// # Safety
    /// `at` are places of the strip's pixels.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn emit<const CALLER: u8, const QUADS: usize, const PIXELS: usize>(
        &self,
        acc: [[int32x4_t; QUADS]; PIXELS],
        lane: usize,
        at: &[Place; PIXELS],
    ) {
        // SAFETY: scale has 16 lanes; the lanes are part of `columns` where all are written.
        unsafe {
            if !matches!(self.after, After::Quantize(_)) || self.columns < lane + 4 * QUADS {
                return acc.into_iter().enumerate().for_each(|(p, acc)| self.emit_one(acc, lane, at[p]));
            }
            let scale: [float32x4_t; QUADS] = std::array::from_fn(|q| vld1q_f32(self.scale.as_ptr().add(lane + 4 * q)));
            for (p, acc) in acc.iter().enumerate() {
                let to = at[p].pixel.add(lane);
                self.finish.write(&std::array::from_fn::<_, QUADS, _>(|q| scaled(acc[q], scale[q])), to, 4 * QUADS);
            }
        }
    }

    /// The same for one pixel: what is not only requantized, or has lanes past the last column.
    ///
    /// # Safety
    /// `at` is the place of one of the strip's pixels.
    #[inline(never)]
    #[target_feature(enable = "neon")]
    unsafe fn emit_one<const QUADS: usize>(&self, acc: [int32x4_t; QUADS], lane: usize, at: Place) {
        let count = self.columns.saturating_sub(lane).min(4 * QUADS);
        let (to, residual) = (at.pixel.wrapping_add(lane), at.residual.wrapping_add(lane));
        // SAFETY: scale has 16 lanes; `count` bytes from `lane` are part of `columns`, which the output and the residual have.
        unsafe {
            let scale = |q: usize| vld1q_f32(self.scale.as_ptr().add(lane + 4 * q));
            let values: [int32x4_t; QUADS] = match self.after {
                After::Sums => return put_sums(&acc, at.pixel.wrapping_add(4 * lane), count),
                After::Quantize(_) => std::array::from_fn(|q| scaled(acc[q], scale(q))),
                After::Add(quant, Residual { add, .. }) => {
                    let other = get(residual, count);
                    let others = [vmovl_s8(vget_low_s8(other)), vmovl_high_s8(other)];
                    let quad = |q: usize| if q.is_multiple_of(2) { vget_low_s16(others[q / 2]) } else { vget_high_s16(others[q / 2]) };
                    std::array::from_fn(|q| plus(add, quant, acc[q], scale(q), quad(q)))
                }
            };
            self.finish.write(&values, to, count);
        }
    }
}

const NARROW: bool = false;
const WIDE: bool = true;

/// `$tile` for all pixels of a strip, in tiles of 4, 2 and 1 of them: `$at` are their places, `$pixels` is their number.
macro_rules! each_tile {
    ($strip:expr, $element:expr, |$at:ident, $pixels:ident| $tile:expr) => {{
        let mut cursor = Cursor::over($strip, $element);
        while cursor.left() > 0 {
            if cursor.left() >= 4 {
                const $pixels: usize = 4;
                let $at = &cursor.take::<$pixels>();
                $tile;
            } else if cursor.left() >= 2 {
                const $pixels: usize = 2;
                let $at = &cursor.take::<$pixels>();
                $tile;
            } else {
                const $pixels: usize = 1;
                let $at = &cursor.take::<$pixels>();
                $tile;
            }
        }
    }};
}
use each_tile;

/// # Safety
/// `strip.check()` passed; `weights` are the block's, wide or narrow as `FORM` says.
#[target_feature(enable = "neon")]
unsafe fn rows<const FORM: bool>(strip: &mut Strip<'_>, weights: *const i8) {
    let element = if FORM == WIDE { 2 } else { 1 };
    let shared = &Shared::new(strip, weights, element);
    // SAFETY: every tile's pixels are the strip's, which was checked.
    unsafe { each_tile!(strip, element, |at, PIXELS| tile::<FORM, PIXELS>(shared, at)) }
}

/// `PIXELS` pixels, eight lanes at a time.
///
/// # Safety
/// As [`rows`]; `at` are places of the strip's pixels.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile<const FORM: bool, const PIXELS: usize>(shared: &Shared<'_>, at: &[Place; PIXELS]) {
    for lane in (0..shared.lanes).step_by(8) {
        // SAFETY: a run's bytes are inside every window; weights have `group` bytes for each group; bias has 16 lanes.
        unsafe {
            let bias = [vld1q_s32(shared.bias.as_ptr().add(lane)), vld1q_s32(shared.bias.as_ptr().add(lane + 4))];
            // The bias in one of a lane's partial sums.
            let zero = vdupq_n_s32(0);
            let start = [vzip1q_s32(bias[0], zero), vzip2q_s32(bias[0], zero), vzip1q_s32(bias[1], zero), vzip2q_s32(bias[1], zero)];
            let mut acc = [start; PIXELS];
            if FORM == WIDE {
                wide(shared, lane, at, &mut acc);
            } else {
                narrow(shared, lane, at, &mut acc);
            }
            let sums = acc.map(|acc| [vpaddq_s32(acc[0], acc[1]), vpaddq_s32(acc[2], acc[3])]);
            shared.emit::<0, 2, PIXELS>(sums, lane, at);
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
unsafe fn narrow<const PIXELS: usize>(shared: &Shared<'_>, lane: usize, at: &[Place; PIXELS], acc: &mut [[int32x4_t; 4]; PIXELS]) {
    // SAFETY: the function's contract; pointers move at most one group past the last.
    unsafe {
        let mut weights = shared.weights.add(lane * 4);
        let mut next = || {
            let w = [vld1q_s8(weights), vld1q_s8(weights.add(16))];
            weights = weights.wrapping_add(shared.group);
            w
        };
        let start = |run: &Run| -> [*const i8; PIXELS] { std::array::from_fn(|p| at[p].window.add(run.offset)) };
        let mut runs = shared.runs;
        // Few channels: two kernel rows of one group each.
        while let [first, last, rest @ ..] = runs
            && first.groups + last.groups == 2
        {
            let (first, last, w, v) = (start(first), start(last), next(), next());
            for p in 0..PIXELS {
                acc[p] = narrow_apart(first[p], last[p], w, v, acc[p]);
            }
            runs = rest;
        }
        for run in runs {
            let mut from = start(run);
            for _ in 0..run.groups / 2 {
                let (w, v) = (next(), next());
                for half in 0..PIXELS / 2 {
                    let p = 2 * half;
                    let (mut left, mut right) = (from[p], from[p + 1]);
                    [acc[p], acc[p + 1]] = narrow_pair_twice([&mut left, &mut right], w, v, [acc[p], acc[p + 1]]);
                    (from[p], from[p + 1]) = (left, right);
                }
                if PIXELS == 1 {
                    acc[0] = narrow_apart(from[0], from[0].wrapping_add(GROUP), w, v, acc[0]);
                    from[0] = from[0].wrapping_add(2 * GROUP);
                }
            }
            if run.groups % 2 == 1 {
                let w = next();
                for p in 0..PIXELS {
                    acc[p] = narrow_single(from[p], w, acc[p]);
                }
            }
        }
    }
}

/// Two groups of one pixel, each at its place. In assembly, because compilers take the broadcast apart again and move the sums
/// about.
///
/// # Safety
/// Four bytes are readable at both.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn narrow_apart(
    first: *const i8,
    last: *const i8,
    w: [int8x16_t; 2],
    v: [int8x16_t; 2],
    [mut a, mut b, mut c, mut d]: [int32x4_t; 4],
) -> [int32x4_t; 4] {
    // SAFETY: arithmetic on registers and two loads of four bytes.
    unsafe {
        asm!(
            "ld1r {{{x:v}.4s}}, [{first}]",
            "ld1r {{{z:v}.4s}}, [{last}]",
            "smull {p:v}.8h, {x:v}.8b, {w0:v}.8b",
            "smull2 {q:v}.8h, {x:v}.16b, {w0:v}.16b",
            "smull {r:v}.8h, {x:v}.8b, {w1:v}.8b",
            "smull2 {x:v}.8h, {x:v}.16b, {w1:v}.16b",
            "smlal {p:v}.8h, {z:v}.8b, {v0:v}.8b",
            "smlal2 {q:v}.8h, {z:v}.16b, {v0:v}.16b",
            "smlal {r:v}.8h, {z:v}.8b, {v1:v}.8b",
            "smlal2 {x:v}.8h, {z:v}.16b, {v1:v}.16b",
            "sadalp {a:v}.4s, {p:v}.8h",
            "sadalp {b:v}.4s, {q:v}.8h",
            "sadalp {c:v}.4s, {r:v}.8h",
            "sadalp {d:v}.4s, {x:v}.8h",
            first = in(reg) first, last = in(reg) last,
            w0 = in(vreg) w[0], w1 = in(vreg) w[1], v0 = in(vreg) v[0], v1 = in(vreg) v[1],
            a = inout(vreg) a, b = inout(vreg) b, c = inout(vreg) c, d = inout(vreg) d,
            x = out(vreg) _, z = out(vreg) _, p = out(vreg) _, q = out(vreg) _, r = out(vreg) _,
            options(readonly, nostack, preserves_flags)
        );
    }
    [a, b, c, d]
}

/// Two groups that follow each other, of two pixels in turn; the pointers move behind them. Cores that start instructions in order
/// wait less so.
///
/// # Safety
/// Eight bytes are readable from each.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn narrow_pair_twice(
    [left, right]: [&mut *const i8; 2],
    w: [int8x16_t; 2],
    v: [int8x16_t; 2],
    [[mut a, mut b, mut c, mut d], [mut e, mut f, mut g, mut h]]: [[int32x4_t; 4]; 2],
) -> [[int32x4_t; 4]; 2] {
    // SAFETY: arithmetic on registers and two loads of eight bytes.
    unsafe {
        asm!(
            "ld2r {{v28.4s, v29.4s}}, [{left}], #8",
            "ld2r {{v30.4s, v31.4s}}, [{right}], #8",
            "smull {p:v}.8h, v28.8b, {w0:v}.8b",
            "smull {i:v}.8h, v30.8b, {w0:v}.8b",
            "smull2 {q:v}.8h, v28.16b, {w0:v}.16b",
            "smull2 {j:v}.8h, v30.16b, {w0:v}.16b",
            "smull {r:v}.8h, v28.8b, {w1:v}.8b",
            "smull {k:v}.8h, v30.8b, {w1:v}.8b",
            "smull2 v28.8h, v28.16b, {w1:v}.16b",
            "smull2 v30.8h, v30.16b, {w1:v}.16b",
            "smlal {p:v}.8h, v29.8b, {v0:v}.8b",
            "smlal {i:v}.8h, v31.8b, {v0:v}.8b",
            "smlal2 {q:v}.8h, v29.16b, {v0:v}.16b",
            "smlal2 {j:v}.8h, v31.16b, {v0:v}.16b",
            "smlal {r:v}.8h, v29.8b, {v1:v}.8b",
            "smlal {k:v}.8h, v31.8b, {v1:v}.8b",
            "smlal2 v28.8h, v29.16b, {v1:v}.16b",
            "smlal2 v30.8h, v31.16b, {v1:v}.16b",
            "sadalp {a:v}.4s, {p:v}.8h",
            "sadalp {e:v}.4s, {i:v}.8h",
            "sadalp {b:v}.4s, {q:v}.8h",
            "sadalp {f:v}.4s, {j:v}.8h",
            "sadalp {c:v}.4s, {r:v}.8h",
            "sadalp {g:v}.4s, {k:v}.8h",
            "sadalp {d:v}.4s, v28.8h",
            "sadalp {h:v}.4s, v30.8h",
            left = inout(reg) *left, right = inout(reg) *right,
            w0 = in(vreg) w[0], w1 = in(vreg) w[1], v0 = in(vreg) v[0], v1 = in(vreg) v[1],
            a = inout(vreg) a, b = inout(vreg) b, c = inout(vreg) c, d = inout(vreg) d,
            e = inout(vreg) e, f = inout(vreg) f, g = inout(vreg) g, h = inout(vreg) h,
            out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            p = out(vreg) _, q = out(vreg) _, r = out(vreg) _, i = out(vreg) _, j = out(vreg) _, k = out(vreg) _,
            options(readonly, nostack, preserves_flags)
        );
    }
    [[a, b, c, d], [e, f, g, h]]
}

/// One group of one pixel.
///
/// # Safety
/// Four bytes are readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn narrow_single(from: *const i8, w: [int8x16_t; 2], [mut a, mut b, mut c, mut d]: [int32x4_t; 4]) -> [int32x4_t; 4] {
    // SAFETY: arithmetic on registers and a load of four bytes.
    unsafe {
        asm!(
            "ld1r {{{x:v}.4s}}, [{from}]",
            "smull {p:v}.8h, {x:v}.8b, {w0:v}.8b",
            "smull2 {q:v}.8h, {x:v}.16b, {w0:v}.16b",
            "smull {r:v}.8h, {x:v}.8b, {w1:v}.8b",
            "smull2 {x:v}.8h, {x:v}.16b, {w1:v}.16b",
            "sadalp {a:v}.4s, {p:v}.8h",
            "sadalp {b:v}.4s, {q:v}.8h",
            "sadalp {c:v}.4s, {r:v}.8h",
            "sadalp {d:v}.4s, {x:v}.8h",
            from = in(reg) from,
            w0 = in(vreg) w[0], w1 = in(vreg) w[1],
            a = inout(vreg) a, b = inout(vreg) b, c = inout(vreg) c, d = inout(vreg) d,
            x = out(vreg) _, p = out(vreg) _, q = out(vreg) _, r = out(vreg) _,
            options(readonly, nostack, preserves_flags)
        );
    }
    [a, b, c, d]
}

/// Products of 16-bit numbers, two steps a group; two partial sums a lane.
///
/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn wide<const PIXELS: usize>(shared: &Shared<'_>, lane: usize, at: &[Place; PIXELS], acc: &mut [[int32x4_t; 4]; PIXELS]) {
    // SAFETY: the function's contract.
    unsafe {
        let mut weights = shared.weights.add(lane * 4);
        for run in shared.runs {
            for half in 0..run.groups * 2 {
                let w = [vld1q_s16(weights.cast()), vld1q_s16(weights.add(16).cast())];
                weights = weights.add(shared.group / 2);
                for (p, acc) in acc.iter_mut().enumerate() {
                    let x = vreinterpretq_s16_s8(broadcast(at[p].window.add(run.offset * 2 + half * 4)));
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
            LANES => each_tile!(strip, 1, |at, PIXELS| dot_tile::<4, PIXELS>(shared, at)),
            _ => each_tile!(strip, 1, |at, PIXELS| dot_tile::<2, PIXELS>(shared, at)),
        }
    }
}

/// `PIXELS` pixels x `QUADS * 4` lanes.
///
/// # Safety
/// As [`dot_rows`]; `at` are places of the strip's pixels.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot_tile<const QUADS: usize, const PIXELS: usize>(shared: &Shared<'_>, at: &[Place; PIXELS]) {
    let mut acc = [[vdupq_n_s32(0); QUADS]; PIXELS];
    // SAFETY: a run's bytes are inside every window and 12 more behind it are readable; weights have `QUADS * 16` bytes for each
    // group; bias has 16 lanes.
    unsafe {
        for q in 0..QUADS {
            let bias = vld1q_s32(shared.bias.as_ptr().add(q * 4));
            acc.iter_mut().for_each(|acc| acc[q] = bias);
        }
        let mut weights = shared.weights;
        for run in shared.runs {
            let from: [*const i8; PIXELS] = std::array::from_fn(|p| at[p].window.add(run.offset));
            let bytes = run.groups / 4 * 16;
            for i in (0..bytes).step_by(16) {
                let x = from.map(|from| vld1q_s8(from.add(i)));
                dot_group::<0, QUADS, PIXELS>(&mut weights, &x, &mut acc);
                dot_group::<1, QUADS, PIXELS>(&mut weights, &x, &mut acc);
                dot_group::<2, QUADS, PIXELS>(&mut weights, &x, &mut acc);
                dot_group::<3, QUADS, PIXELS>(&mut weights, &x, &mut acc);
            }
            let rest = run.groups % 4;
            if rest > 0 {
                let x = from.map(|from| vld1q_s8(from.add(bytes)));
                dot_group::<0, QUADS, PIXELS>(&mut weights, &x, &mut acc);
                if rest > 1 {
                    dot_group::<1, QUADS, PIXELS>(&mut weights, &x, &mut acc);
                }
                if rest > 2 {
                    dot_group::<2, QUADS, PIXELS>(&mut weights, &x, &mut acc);
                }
            }
        }
        shared.emit::<1, QUADS, PIXELS>(acc, 0, at);
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
