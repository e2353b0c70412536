//! Inner loops for x86-64 with AVX2.
//!
//! Dense, narrow: a register tile of 4 pixels x 16 channels; a step broadcasts 4 input bytes a pixel and multiplies them with
//! 64 bytes of weights.
//!
//! ```text
//!              w0 (8 lanes x 4)  w1
//!   pixel 0 |  acc00             acc01       acc += vpmaddwd(vpmaddubsw(x, w), 1)
//!   pixel 1 |  acc10             acc11       two multiplications for 32 products: at most 32 MAC a cycle on two multipliers
//!   pixel 2 |  acc20             acc21       exact by the pair rule of `pack`
//!   pixel 3 |  acc30             acc31
//! ```
//!
//! Where groups break the rule, they are guarded: the same loop, and `guard` makes up for what saturates.
//!
//! Wide: the same tile, `acc += vpmaddwd(x, w)` on 16-bit pairs, exact for every weight. Lanes are ordered so that the
//! packs of the epilogue, which interleave 128-bit halves, leave channels in order. What is not dense lies in files of its own.
//!
//! Every loop works on raw pointers after one check of the whole strip ([`Strip::check`], [`Depthwise::check`]).

use super::arrange::SEGMENT;
use super::conv::{After, Kernel, Residual, Strip};
use super::depthwise::Depthwise;
use super::forms::Windows;
use super::grouped::Grouped;
use super::pack::{GROUP, LANES, NarrowRule, Style, Weights};
use super::portable::Portable;
use super::rows::Runs;
use super::winograd::{Job, Winograd};
use super::{AddQuant, OutputQuant, store};
use guard::Ceilings;
use std::arch::x86_64::*;
use std::ops::Range;

mod arrange;
mod depthwise;
mod elementwise;
mod grouped;
mod guard;
mod winograd;

/// Proof that the CPU has AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

impl Avx2 {
    pub(crate) fn new() -> Option<Avx2> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }

    pub(crate) fn peak_loop(self, iterations: usize) -> usize {
        // SAFETY: `self` proves AVX2.
        unsafe { peak(iterations) }
    }
}

impl Kernel for Avx2 {
    const STYLE: Style = Style { rule: NarrowRule::Pairs, order: [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15], pairs: false };

    fn strip(self, strip: &mut Strip<'_>) {
        dense(self, self, strip);
    }

    fn widen(self, bytes: &[u8], wide: &mut [u8]) {
        assert_eq!(bytes.len() * 2, wide.len());
        // SAFETY: `self` proves AVX2; the lengths were compared.
        unsafe { elementwise::widen_bytes(bytes, wide) }
    }

    fn tops(self, bytes: &[u8], tops: &mut [u8]) {
        assert_eq!(bytes.len(), tops.len() * GROUP);
        // SAFETY: `self` proves AVX2; the lengths were compared.
        unsafe { guard::tops(bytes, tops) }
    }

    fn halves(self, bytes: &[u8], wide: &mut [u8]) {
        assert_eq!(bytes.len() * 2, wide.len());
        // SAFETY: `self` proves AVX2; the lengths were compared.
        unsafe { guard::halves(bytes, wide) }
    }

    fn arrange(self, order: &[u8], bytes: &[u8], windows: &Windows, to: &mut [u8]) {
        let (pixels, end) = (windows.height * windows.width, windows.grid.last(windows.height, windows.width) + order.len());
        assert!(order.len().is_multiple_of(SEGMENT) && end <= bytes.len() && pixels * order.len() <= to.len());
        // SAFETY: `self` proves AVX2; every window and its place were just found inside their buffers.
        unsafe { arrange::windows(order, bytes, windows, to) }
    }

    fn add(self, quant: &AddQuant, runs: &Runs<3>, a: &[u8], b: &[u8], output: &mut [u8]) {
        if quant.is_loud() {
            return Portable.add(quant, runs, a, b, output);
        }
        runs.check([a.len(), b.len(), output.len()]);
        // SAFETY: `self` proves AVX2; the lengths were compared.
        unsafe { elementwise::add_runs(quant, runs, a, b, output) };
    }

    fn table(self, table: &[u8; 256], runs: &Runs<2>, input: Option<&[u8]>, output: &mut [u8]) {
        runs.check([input.map_or(output.len(), <[u8]>::len), output.len()]);
        // SAFETY: `self` proves AVX2; the lengths were compared, and in place there is one.
        unsafe { elementwise::look_up(table, runs, input, output) };
    }

    fn depthwise(self, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        depthwise(self, self, dw, input, output, rows);
    }

    const GROUPED: bool = true;

    fn grouped(self, layer: &Grouped, input: &[u8], output: &mut [u8], rows: Range<usize>) {
        grouped(self, self, layer, input, output, rows);
    }

    const WINOGRAD: Option<usize> = Some(1);

    fn winograd(self, wg: &Winograd, job: &mut Job<'_>) {
        winograd(self, self, wg, job);
    }
}

/// How four products of bytes, or two of 16-bit numbers, join a 32-bit sum. A value of it proves that the CPU has the instructions.
pub(super) trait ByteProducts: Copy {
    /// True where a step needs no more registers than one for the input.
    const SPARES_REGISTERS: bool;
    /// True where byte products may saturate, so that weights may be guarded.
    const SATURATES: bool;

    /// `acc += x * w` for each lane's four bytes in each vector, with `x` the four bytes at `offset` of `window`. In assembly, because
    /// the compiler reorders the steps of a tile until they need more registers than there are.
    ///
    /// # Safety
    /// There is a value of `Self`, and the CPU has AVX2; the four bytes are readable.
    unsafe fn step<const VECTORS: usize>(
        window: *const u8,
        offset: usize,
        w: &[__m256i; VECTORS],
        ones: __m256i,
        acc: &mut [__m256i; VECTORS],
    );

    /// `acc += x * w` for each lane's two 16-bit numbers in each vector, with `x` the four bytes at element `offset` of the widened
    /// `window`, and `SKIP` on. In assembly for the same reason.
    ///
    /// # Safety
    /// As [`ByteProducts::step`].
    unsafe fn wide_step<const VECTORS: usize, const SKIP: usize>(
        window: *const u8,
        offset: usize,
        w: &[__m256i; VECTORS],
        acc: &mut [__m256i; VECTORS],
    );

    /// `acc + x * w`, the same in registers.
    ///
    /// # Safety
    /// There is a value of `Self`, and the CPU has AVX2.
    unsafe fn pairs(acc: __m256i, x: __m256i, w: __m256i) -> __m256i;

    /// `acc + x * w` for each lane's four bytes, of which `x` are unsigned.
    ///
    /// # Safety
    /// As [`ByteProducts::pairs`].
    unsafe fn fours(acc: __m256i, x: __m256i, w: __m256i) -> __m256i;
}

/// Computes a strip with the byte products of `P`.
#[inline(always)]
pub(super) fn dense<P: ByteProducts>(_: P, _: Avx2, strip: &mut Strip<'_>) {
    if strip.is_loud() {
        return Portable.strip(strip);
    }
    strip.check();
    // SAFETY: the arguments prove both instruction sets; the strip was checked.
    unsafe {
        match (strip.block.weights(), strip.block.guard()) {
            (Weights::Wide(_), _) => blocks::<P, WIDE>(strip),
            (Weights::Mixed(..), _) => blocks::<P, MIXED>(strip),
            (Weights::Narrow(_), Some(_)) if P::SATURATES && strip.widened => blocks::<P, WIDENED>(strip),
            (Weights::Narrow(_), Some(_)) if P::SATURATES => blocks::<P, GUARDED>(strip),
            (Weights::Narrow(_), _) => blocks::<P, NARROW>(strip),
        }
    }
}

/// How weights are multiplied: narrow ones as bytes.
const NARROW: u8 = 0;
/// As bytes, compared with ceilings.
const GUARDED: u8 = 1;
/// Narrow ones in 16 bits, as the input is.
const WIDENED: u8 = 2;
/// Wide ones in 16 bits.
const WIDE: u8 = 3;
/// Both, each in its way.
const MIXED: u8 = 4;

/// Computes a strip. A loop for each way, because small tiles feel every branch.
///
/// # Safety
/// As [`pixels`], but for the lanes.
#[target_feature(enable = "avx2")]
unsafe fn blocks<P: ByteProducts, const HOW: u8>(strip: &mut Strip<'_>) {
    // SAFETY: the function's contract.
    unsafe {
        match strip.block.lanes() {
            LANES => pixels::<P, HOW, 2>(strip),
            _ => pixels::<P, HOW, 1>(strip),
        }
    }
}

/// Computes rows of a depthwise convolution with the products of `P`.
#[inline(always)]
pub(super) fn depthwise<P: ByteProducts>(_: P, _: Avx2, dw: &Depthwise, input: &[u8], output: &mut [u8], rows: Range<usize>) {
    if dw.loud {
        return Portable.depthwise(dw, input, output, rows);
    }
    dw.check(input, output, &rows);
    // SAFETY: the arguments prove both instruction sets; the buffers were checked.
    unsafe { depthwise::rows::<P>(dw, input, output, rows) }
}

/// Computes rows of a convolution of narrow groups with the products of `P`.
#[inline(always)]
pub(super) fn grouped<P: ByteProducts>(_: P, _: Avx2, layer: &Grouped, input: &[u8], output: &mut [u8], rows: Range<usize>) {
    layer.check(input, output, &rows);
    // SAFETY: the arguments prove both instruction sets; the buffers were checked.
    unsafe { grouped::rows::<P>(layer, input, output, rows) }
}

/// Computes a convolution in Winograd's form with the products of `P`.
#[inline(always)]
pub(super) fn winograd<P: ByteProducts>(_: P, _: Avx2, wg: &Winograd, job: &mut Job<'_>) {
    wg.check(job);
    // SAFETY: the arguments prove both instruction sets; the job was checked.
    unsafe { winograd::run::<P>(wg, job) }
}

/// Independent `vpmaddubsw` -> `vpmaddwd` -> `vpaddd` chains on registers.
#[target_feature(enable = "avx2")]
fn peak(iterations: usize) -> usize {
    const CHAINS: usize = 10;
    let (ones, w) = (_mm256_set1_epi16(1), _mm256_set1_epi8(1));
    let mut x = _mm256_set1_epi8(3);
    let mut acc = [_mm256_setzero_si256(); CHAINS];
    for _ in 0..iterations {
        for a in &mut acc {
            // SAFETY: no instruction; the compiler must take `x` for changed, so the products are not hoisted.
            unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) x, options(nomem, nostack, preserves_flags)) };
            *a = _mm256_add_epi32(*a, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), ones));
        }
    }
    let sum = acc.into_iter().fold(_mm256_setzero_si256(), |s, a| _mm256_add_epi32(s, a));
    std::hint::black_box(_mm256_extract_epi32::<0>(sum));
    iterations * CHAINS * 32
}

// ---------------------------------------------------------------------------------------------------------- epilogue

/// Zero point and range of an output as the packs want them.
#[derive(Clone, Copy)]
struct Finish {
    zero: __m256i,
    low: __m256i,
    high: __m256i,
    /// The zero point is byte 0, as behind most Relus: nothing to add.
    unshifted: bool,
    /// The range is all there is: the packs saturate to it.
    full: bool,
}

impl Finish {
    #[target_feature(enable = "avx2")]
    fn new(quant: &OutputQuant) -> Finish {
        let byte = |v: i8| _mm256_set1_epi8(store(v) as i8);
        Finish {
            zero: _mm256_set1_epi16(i16::from(store(quant.zero_point))),
            low: byte(quant.low),
            high: byte(quant.high),
            unshifted: store(quant.zero_point) == 0,
            full: (quant.low, quant.high) == (i8::MIN, i8::MAX),
        }
    }

    /// Adds the zero point to 16-bit numbers and saturates them to bytes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn bytes(&self, mut a: __m256i, mut b: __m256i) -> __m256i {
        if !self.unshifted {
            (a, b) = (_mm256_adds_epi16(a, self.zero), _mm256_adds_epi16(b, self.zero));
        }
        let bytes = _mm256_packus_epi16(a, b);
        if self.full { bytes } else { _mm256_min_epu8(_mm256_max_epu8(bytes, self.low), self.high) }
    }

    /// Two pixels of 16 channels, 8 in each vector, become 16 bytes each.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn two_of_sixteen(&self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m128i; 2] {
        let bytes = self.bytes(_mm256_packs_epi32(a[0], a[1]), _mm256_packs_epi32(b[0], b[1]));
        let (first, second) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
        [_mm_unpacklo_epi64(first, second), _mm_unpackhi_epi64(first, second)]
    }

    /// Four pixels of 8 channels become 8 bytes each.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn four_of_eight(&self, v: [__m256i; 4]) -> __m256i {
        let bytes = self.bytes(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
    }
}

/// `round_half_even(acc * scale)`, which fits 32 bits: strips where it might not are left to the portable loops.
#[target_feature(enable = "avx2")]
fn scaled(acc: __m256i, scale: __m256) -> __m256i {
    _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(acc), scale))
}

/// Writes the first `count` of 16 bytes.
///
/// # Safety
/// `count` bytes at `to` are writable, `count <= 16`.
#[target_feature(enable = "avx2")]
unsafe fn put(to: *mut u8, bytes: __m128i, count: usize) {
    // SAFETY: each branch writes `count` bytes.
    unsafe {
        match count {
            16 => _mm_storeu_si128(to.cast(), bytes),
            8 => _mm_storel_epi64(to.cast(), bytes),
            _ => {
                let mut all = [0u8; 16];
                _mm_storeu_si128(all.as_mut_ptr().cast(), bytes);
                for (i, byte) in all.iter().enumerate().take(count) {
                    *to.add(i) = *byte;
                }
            }
        }
    }
}

/// Reads `count` bytes; the rest is zero.
///
/// # Safety
/// `count` bytes at `from` are readable, `count <= 16`.
#[target_feature(enable = "avx2")]
unsafe fn get(from: *const u8, count: usize) -> __m128i {
    // SAFETY: each branch reads `count` bytes.
    unsafe {
        match count {
            16 => _mm_loadu_si128(from.cast()),
            8 => _mm_loadl_epi64(from.cast()),
            _ => {
                let mut all = [0u8; 16];
                for (i, byte) in all.iter_mut().enumerate().take(count) {
                    *byte = *from.add(i);
                }
                _mm_loadu_si128(all.as_ptr().cast())
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------------------- dense

/// What a strip's tiles share, in memory where instructions take it as an operand.
struct Shared<'a, const VECTORS: usize> {
    /// Offsets and weights of the narrow groups, and of the wide ones.
    narrow: (&'a [u32], *const u8),
    wide: (&'a [u32], *const u8),
    /// Of the narrow groups.
    ceilings: Option<Ceilings<'a>>,
    bias: [__m256i; VECTORS],
    scale: [__m256; VECTORS],
    finish: Finish,
    columns: usize,
    /// Bytes from one pixel to the next: input (half of what it is in the widened one), output, residual.
    steps: [usize; 3],
    after: After<'a>,
}

impl<'a, const VECTORS: usize> Shared<'a, VECTORS> {
    #[target_feature(enable = "avx2")]
    fn new(strip: &Strip<'a>) -> Self {
        let (narrow, wide) = strip.block.groups().offsets().split_at(strip.block.narrow_groups());
        let none = std::ptr::null();
        let weights: (*const u8, *const u8) = match strip.block.weights() {
            Weights::Narrow(w) => (w.as_slice().as_ptr().cast(), none),
            Weights::Wide(w) => (none, w.as_slice().as_ptr().cast()),
            Weights::Mixed(n, w) => (n.as_slice().as_ptr().cast(), w.as_slice().as_ptr().cast()),
        };
        let (mut bias, mut scale) = ([_mm256_setzero_si256(); VECTORS], [_mm256_setzero_ps(); VECTORS]);
        for v in 0..VECTORS {
            // SAFETY: bias and scale have 16 lanes.
            unsafe {
                bias[v] = _mm256_loadu_si256(strip.block.bias[v * 8..][..8].as_ptr().cast());
                scale[v] = _mm256_loadu_ps(strip.block.scale[v * 8..][..8].as_ptr());
            }
        }
        Shared {
            narrow: (narrow, weights.0),
            wide: (wide, weights.1),
            ceilings: strip.block.guard().map(|guard| Ceilings::new(guard, strip.windows.step_x)),
            bias,
            scale,
            finish: Finish::new(&strip.after.bytes()),
            columns: strip.block.columns,
            steps: [strip.windows.step_x, strip.pixels.step_x, strip.residual().map_or(0, |r| r.grid.step_x)],
            after: strip.after,
        }
    }
}

/// Computes a strip whose block has `VECTORS * 8` lanes.
///
/// # Safety
/// There is a value of `P`; `strip.check()` passed; `VECTORS * 8` are the block's lanes.
#[target_feature(enable = "avx2")]
unsafe fn pixels<P: ByteProducts, const HOW: u8, const VECTORS: usize>(strip: &mut Strip<'_>) {
    let output = strip.output.as_mut_ptr();
    let shared = Shared::<VECTORS>::new(strip);
    let residual = strip.residual().map(|r| (r.bytes.map_or(output.cast_const(), <[u8]>::as_ptr), r.grid));
    let full = shared.columns == VECTORS * 8;
    let (height, width) = strip.rows();
    for y in 0..height {
        let window = strip.windows.base + y * strip.windows.step_y;
        // SAFETY: row `y` is one of the strip's, and the steps below stay inside it: `strip.check()` covers them.
        unsafe {
            let mut at = At {
                x: 0,
                bytes: strip.bytes.as_ptr().add(window),
                tops: strip.tops.as_ptr().wrapping_add(window / GROUP),
                window: strip.input.as_ptr().wrapping_add(window * 2),
                pixel: output.add(strip.pixels.base + y * strip.pixels.step_y),
                residual: residual.map_or(output, |(from, grid)| from.add(grid.base + y * grid.step_y)),
            };
            let mut left = width;
            while left > 0 {
                left -= match full {
                    true => next_tile::<P, HOW, VECTORS, true>(&shared, &mut at, left),
                    false => next_tile::<P, HOW, VECTORS, false>(&shared, &mut at, left),
                };
            }
        }
    }
}

/// Where a row's first pixel is, and the number of the next one.
struct At {
    x: usize,
    bytes: *const u8,
    /// Its tops where bytes are guarded, else dangling.
    tops: *const u8,
    /// The same in the widened input; dangling where there is none.
    window: *const u8,
    pixel: *mut u8,
    residual: *const u8,
}

impl At {
    /// The bytes of so many pixels' windows.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn windows<const VECTORS: usize, const PIXELS: usize>(&self, shared: &Shared<'_, VECTORS>) -> [*const u8; PIXELS] {
        windows(self.bytes.wrapping_add(self.x * shared.steps[0]), shared.steps[0])
    }

    /// The same in the widened input.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn wide_windows<const VECTORS: usize, const PIXELS: usize>(&self, shared: &Shared<'_, VECTORS>) -> [*const u8; PIXELS] {
        windows(self.window.wrapping_add(self.x * shared.steps[0] * 2), shared.steps[0] * 2)
    }

    #[inline(always)]
    fn tops<const VECTORS: usize>(&self, shared: &Shared<'_, VECTORS>) -> *const u8 {
        self.tops.wrapping_add(self.x * shared.steps[0] / GROUP)
    }

    #[inline(always)]
    fn pixel<const VECTORS: usize>(&self, shared: &Shared<'_, VECTORS>) -> *mut u8 {
        self.pixel.wrapping_add(self.x * shared.steps[1])
    }

    #[inline(always)]
    fn residual<const VECTORS: usize>(&self, shared: &Shared<'_, VECTORS>) -> *const u8 {
        self.residual.wrapping_add(self.x * shared.steps[2])
    }
}

/// The next tile of a row with `left` pixels left, as large as pays.
///
/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn next_tile<P: ByteProducts, const HOW: u8, const VECTORS: usize, const FULL: bool>(
    shared: &Shared<'_, VECTORS>,
    at: &mut At,
    left: usize,
) -> usize {
    // There are registers for six pixels of sixteen channels.
    let tall = const { HOW == WIDE || HOW == WIDENED || P::SPARES_REGISTERS };
    // SAFETY: the function's contract; no tile is larger than what is left.
    unsafe {
        match (VECTORS, left) {
            (1, 8..) => tile::<P, HOW, VECTORS, FULL, 8>(shared, at),
            (2, 6 | 11..) if tall => tile::<P, HOW, VECTORS, FULL, 6>(shared, at),
            (2, 5 | 9 | 10 | 13..) => tile::<P, HOW, VECTORS, FULL, 5>(shared, at),
            (2, 3 | 6) => tile::<P, HOW, VECTORS, FULL, 3>(shared, at),
            (_, 4..) => tile::<P, HOW, VECTORS, FULL, 4>(shared, at),
            (_, 2..) => tile::<P, HOW, VECTORS, FULL, 2>(shared, at),
            _ => tile::<P, HOW, VECTORS, FULL, 1>(shared, at),
        }
    }
}

/// One register tile: the next `PIXELS` pixels. Moves `at` behind them and returns how many they were.
///
/// # Safety
/// As [`pixels`]; the row has `PIXELS` pixels left; `FULL` only with all columns.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile<P: ByteProducts, const HOW: u8, const VECTORS: usize, const FULL: bool, const PIXELS: usize>(
    shared: &Shared<'_, VECTORS>,
    at: &mut At,
) -> usize {
    let mut acc: [[__m256i; VECTORS]; PIXELS] = std::array::from_fn(|_| std::array::from_fn(|v| shared.bias[v]));
    // SAFETY: groups stay inside the window's span, `columns` bytes at every pixel and residual are there: all of it was
    // checked for every pixel of the strip.
    unsafe {
        let ((narrow_offsets, narrow_weights), (wide_offsets, wide_weights)) = (shared.narrow, shared.wide);
        match (HOW, &shared.ceilings) {
            (WIDENED, _) => guard::widened::<P, _, _>(narrow_offsets, narrow_weights, &at.wide_windows(shared), &mut acc),
            (GUARDED, Some(ceilings)) if !ceilings.hold::<PIXELS>(at.tops(shared)) => {
                let mut sums = acc;
                guard::mended::<P, _, _>(ceilings, shared.narrow, &at.windows(shared), at.tops(shared), &shared.bias, &mut sums);
                acc = sums;
            }
            (WIDE, _) => {}
            _ => narrow::<P, _, _>(narrow_offsets, narrow_weights, &at.windows(shared), &mut acc),
        }
        if HOW == WIDE || HOW == MIXED {
            wide::<P, _, _>(wide_offsets, wide_weights, &at.wide_windows(shared), &mut acc);
        }
        let columns = if FULL { VECTORS * 8 } else { shared.columns };
        if let After::Quantize(_) = shared.after {
            for acc in &mut acc {
                for (acc, &scale) in acc.iter_mut().zip(&shared.scale) {
                    *acc = scaled(*acc, scale);
                }
            }
            emit(&shared.finish, acc, at.pixel(shared), shared.steps[1], columns);
        } else {
            let copies: [[__m256i; VECTORS]; PIXELS] = std::array::from_fn(|p| std::array::from_fn(|v| acc[p][v]));
            other_end(shared, at, &copies, columns);
        }
    }
    at.x += PIXELS;
    PIXELS
}

/// What becomes of a tile's sums where they are not just quantized: of copies, because sums whose address is taken live on the stack.
///
/// # Safety
/// As [`tile`]; `columns` are the block's.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn other_end<const VECTORS: usize, const PIXELS: usize>(
    shared: &Shared<'_, VECTORS>,
    at: &At,
    acc: &[[__m256i; VECTORS]; PIXELS],
    columns: usize,
) {
    // SAFETY: the function's contract: `columns` bytes at every pixel and residual are there, of sums four times as many.
    unsafe {
        let After::Add(quant, Residual { add, .. }) = shared.after else {
            return acc.iter().enumerate().for_each(|(p, acc)| put_sums(acc, at.pixel(shared).add(p * shared.steps[1]), columns));
        };
        let other = |p: usize| others(at.residual(shared).add(p * shared.steps[2]), columns, add.b_zero);
        let sums = std::array::from_fn(|p| plus(add, quant, acc[p], shared.scale, other(p)));
        emit::<VECTORS, PIXELS>(&shared.finish, sums, at.pixel(shared), shared.steps[1], columns);
    }
}

/// Writes the first `columns` of a pixel's sums.
///
/// # Safety
/// `columns * 4` bytes at `to` are writable, `columns <= VECTORS * 8`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn put_sums<const VECTORS: usize>(acc: &[__m256i; VECTORS], to: *mut u8, columns: usize) {
    let (a, b) = (acc[0], acc[VECTORS - 1]);
    // One vector holds channels 0 to 7, two hold 0-3, 8-11 and 4-7, 12-15.
    let inner = if VECTORS == 1 { a } else { _mm256_permute2x128_si256::<0x20>(a, b) };
    let mut all = [0u8; 64];
    // SAFETY: the array has 64 bytes; the function's contract.
    unsafe {
        _mm256_storeu_si256(all.as_mut_ptr().cast(), inner);
        _mm256_storeu_si256(all.as_mut_ptr().add(32).cast(), _mm256_permute2x128_si256::<0x31>(a, b));
        std::ptr::copy_nonoverlapping(all.as_ptr(), to, 4 * columns);
    }
}

/// No instruction: the compiler must have every sum in a register here. Left to itself it mixes the steps of a loop, runs out of
/// registers and spills.
#[inline]
#[target_feature(enable = "avx2")]
fn pin(sums: &mut [__m256i]) {
    for sum in sums {
        // SAFETY: an empty instruction sequence.
        unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) * sum, options(nomem, nostack, preserves_flags)) };
    }
}

/// No instruction: the compiler must not know how the pointer came about. So it neither computes addresses anew nor keeps in registers
/// what it could load again.
#[inline]
#[target_feature(enable = "avx2")]
fn opaque<T>(mut pointer: *const T) -> *const T {
    // SAFETY: an empty instruction sequence.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, readonly, nostack, preserves_flags)) };
    pointer
}

/// Windows of a tile, `step` bytes apart, a register each.
#[inline]
#[target_feature(enable = "avx2")]
fn windows<const PIXELS: usize>(first: *const u8, step: usize) -> [*const u8; PIXELS] {
    std::array::from_fn(|pixel| opaque(first.wrapping_add(pixel * step)))
}

/// `VECTORS` vectors of weights from `weights` on, which moves behind them.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn next_weights<const VECTORS: usize>(weights: &mut *const u8) -> [__m256i; VECTORS] {
    let mut w = [_mm256_setzero_si256(); VECTORS];
    for (v, w) in w.iter_mut().enumerate() {
        // SAFETY: the function's contract.
        *w = unsafe { _mm256_loadu_si256(weights.add(v * 32).cast()) };
    }
    *weights = weights.wrapping_add(VECTORS * 32);
    w
}

/// `acc += vpmaddwd(vpmaddubsw(x, w), 1)`.
impl ByteProducts for Avx2 {
    const SPARES_REGISTERS: bool = false;
    const SATURATES: bool = true;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn step<const VECTORS: usize>(
        window: *const u8,
        offset: usize,
        w: &[__m256i; VECTORS],
        ones: __m256i,
        acc: &mut [__m256i; VECTORS],
    ) {
        // SAFETY: reads the four bytes of the contract.
        unsafe {
            match acc.as_mut_slice() {
                [a] => std::arch::asm!(
                    "vpbroadcastd {x}, [{window} + {offset}]",
                    "vpmaddubsw {x}, {x}, {w0}",
                    "vpmaddwd {x}, {x}, {ones}",
                    "vpaddd {a}, {a}, {x}",
                    window = in(reg) window, offset = in(reg) offset, w0 = in(ymm_reg) w[0], ones = in(ymm_reg) ones,
                    a = inout(ymm_reg) *a, x = out(ymm_reg) _,
                    options(readonly, nostack, preserves_flags)
                ),
                [a, b] => std::arch::asm!(
                    "vpbroadcastd {x}, [{window} + {offset}]",
                    "vpmaddubsw {t}, {x}, {w0}",
                    "vpmaddubsw {x}, {x}, {w1}",
                    "vpmaddwd {t}, {t}, {ones}",
                    "vpmaddwd {x}, {x}, {ones}",
                    "vpaddd {a}, {a}, {t}",
                    "vpaddd {b}, {b}, {x}",
                    window = in(reg) window, offset = in(reg) offset, w0 = in(ymm_reg) w[0], w1 = in(ymm_reg) w[1],
                    ones = in(ymm_reg) ones, a = inout(ymm_reg) *a, b = inout(ymm_reg) *b, x = out(ymm_reg) _, t = out(ymm_reg) _,
                    options(readonly, nostack, preserves_flags)
                ),
                _ => unreachable!(),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn wide_step<const VECTORS: usize, const SKIP: usize>(
        window: *const u8,
        offset: usize,
        w: &[__m256i; VECTORS],
        acc: &mut [__m256i; VECTORS],
    ) {
        // SAFETY: reads the four bytes of the contract.
        unsafe {
            match acc.as_mut_slice() {
                [a] => std::arch::asm!(
                    "vpbroadcastd {x}, [{window} + 2 * {offset} + {skip}]",
                    "vpmaddwd {x}, {x}, {w0}",
                    "vpaddd {a}, {a}, {x}",
                    window = in(reg) window, offset = in(reg) offset, skip = const SKIP, w0 = in(ymm_reg) w[0],
                    a = inout(ymm_reg) *a, x = out(ymm_reg) _,
                    options(readonly, nostack, preserves_flags)
                ),
                [a, b] => std::arch::asm!(
                    "vpbroadcastd {x}, [{window} + 2 * {offset} + {skip}]",
                    "vpmaddwd {t}, {x}, {w0}",
                    "vpmaddwd {x}, {x}, {w1}",
                    "vpaddd {a}, {a}, {t}",
                    "vpaddd {b}, {b}, {x}",
                    window = in(reg) window, offset = in(reg) offset, skip = const SKIP, w0 = in(ymm_reg) w[0], w1 = in(ymm_reg) w[1],
                    a = inout(ymm_reg) *a, b = inout(ymm_reg) *b, x = out(ymm_reg) _, t = out(ymm_reg) _,
                    options(readonly, nostack, preserves_flags)
                ),
                _ => unreachable!(),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pairs(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        _mm256_add_epi32(acc, _mm256_madd_epi16(x, w))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn fours(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)))
    }
}

/// Byte products.
///
/// # Safety
/// There is a value of `P`. Four bytes are readable at every offset of every window; `weights` hold `VECTORS * 32` bytes a group.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn narrow<P: ByteProducts, const VECTORS: usize, const PIXELS: usize>(
    offsets: &[u32],
    mut weights: *const u8,
    windows: &[*const u8; PIXELS],
    acc: &mut [[__m256i; VECTORS]; PIXELS],
) {
    let ones = _mm256_set1_epi16(1);
    for &offset in offsets {
        // SAFETY: the function's contract.
        unsafe {
            let w = next_weights::<VECTORS>(&mut weights);
            for (acc, &window) in acc.iter_mut().zip(windows) {
                P::step(window, offset as usize, &w, ones, acc);
            }
        }
    }
}

/// Products of 16-bit numbers with weights of 16 bits. Offsets count elements.
///
/// # Safety
/// There is a value of `P`. Eight bytes are readable at every offset of every window; `weights` hold `VECTORS * 64` bytes a group.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn wide<P: ByteProducts, const VECTORS: usize, const PIXELS: usize>(
    offsets: &[u32],
    mut weights: *const u8,
    windows: &[*const u8; PIXELS],
    acc: &mut [[__m256i; VECTORS]; PIXELS],
) {
    // SAFETY: the function's contract.
    unsafe { in_halves::<P, _, _>(offsets, windows, acc, |_| next_weights(&mut weights)) }
}

/// Two of a group's four numbers.
#[derive(Clone, Copy)]
enum Half {
    First,
    Second,
}

/// Products of 16-bit numbers: two steps a group, with the weights that `half` gives for the first and for the second one. Offsets count
/// elements.
///
/// # Safety
/// There is a value of `P`. Eight bytes are readable at every offset of every window.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn in_halves<P: ByteProducts, const VECTORS: usize, const PIXELS: usize>(
    offsets: &[u32],
    windows: &[*const u8; PIXELS],
    acc: &mut [[__m256i; VECTORS]; PIXELS],
    mut half: impl FnMut(Half) -> [__m256i; VECTORS],
) {
    for &offset in offsets {
        // SAFETY: the function's contract.
        unsafe {
            let w = half(Half::First);
            for (acc, &window) in acc.iter_mut().zip(windows) {
                P::wide_step::<VECTORS, 0>(window, offset as usize, &w, acc);
            }
            let w = half(Half::Second);
            for (acc, &window) in acc.iter_mut().zip(windows) {
                P::wide_step::<VECTORS, 4>(window, offset as usize, &w, acc);
            }
        }
    }
}

/// `columns` bytes of a residual less their zero point, in the order of the lanes: one vector holds channels 0 to 7, two hold 0-3,
/// 8-11 and 4-7, 12-15.
///
/// # Safety
/// They are readable; `columns <= VECTORS * 8`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn others<const VECTORS: usize>(from: *const u8, columns: usize, zero: i8) -> [__m256; VECTORS] {
    // 2^23, whose last bits count ones: with a byte in them it is that much larger.
    const ONES: f32 = 8_388_608.0;
    // SAFETY: the function's contract.
    let bytes = unsafe { get(from, columns) };
    let words = if VECTORS == 2 { _mm256_cvtepu8_epi16(bytes) } else { _mm256_cvtepu8_epi16(_mm_unpacklo_epi32(bytes, bytes)) };
    let high = _mm256_set1_epi16((ONES.to_bits() >> 16) as i16);
    let zero = _mm256_set1_ps(ONES + f32::from(store(zero)));
    std::array::from_fn(|v| {
        let number = if v == 0 { _mm256_unpacklo_epi16(words, high) } else { _mm256_unpackhi_epi16(words, high) };
        _mm256_sub_ps(_mm256_castsi256_ps(number), zero)
    })
}

/// The convolution's own value, requantized, plus the residual: whole numbers in the sum's scale, zero point not yet added.
#[inline]
#[target_feature(enable = "avx2")]
fn plus<const VECTORS: usize>(
    add: &AddQuant,
    quant: &OutputQuant,
    acc: [__m256i; VECTORS],
    scale: [__m256; VECTORS],
    others: [__m256; VECTORS],
) -> [__m256i; VECTORS] {
    let (low, high) = quant.bounds();
    let (a_ratio, b_ratio) = (_mm256_set1_ps(add.a_ratio), _mm256_set1_ps(add.b_ratio));
    let mut sums = [_mm256_setzero_si256(); VECTORS];
    for v in 0..VECTORS {
        let own = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[v]), scale[v]);
        let own = _mm256_min_ps(_mm256_max_ps(own, _mm256_set1_ps(low)), _mm256_set1_ps(high));
        let own = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(own);
        let sum = _mm256_add_ps(_mm256_mul_ps(own, a_ratio), _mm256_mul_ps(others[v], b_ratio));
        sums[v] = _mm256_cvtps_epi32(sum);
    }
    sums
}

/// Saturates whole numbers to bytes and writes `columns` of them for each pixel.
///
/// # Safety
/// `columns` bytes are writable at `to` and at each of `PIXELS - 1` steps from it, `columns <= VECTORS * 8`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn emit<const VECTORS: usize, const PIXELS: usize>(
    finish: &Finish,
    values: [[__m256i; VECTORS]; PIXELS],
    to: *mut u8,
    step: usize,
    columns: usize,
) {
    let last = const { PIXELS - 1 };
    // SAFETY: the function's contract; `quarter` and `half` write no more than `columns` bytes.
    unsafe {
        if VECTORS == 1 {
            for p in (0..PIXELS).step_by(4) {
                let v = |i: usize| values[(p + i).min(last)][0];
                let bytes = finish.four_of_eight([v(0), v(1), v(2), v(3)]);
                for i in 0..(PIXELS - p).min(4) {
                    put(to.add((p + i) * step), quarter(bytes, i), columns);
                }
            }
        } else {
            for p in (0..PIXELS).step_by(2) {
                let pair = |i: usize| [values[i][0], values[i][VECTORS - 1]];
                let bytes = finish.two_of_sixteen(pair(p), pair((p + 1).min(last)));
                put(to.add(p * step), bytes[0], columns);
                if p < last {
                    put(to.add((p + 1) * step), bytes[1], columns);
                }
            }
        }
    }
}

/// Bytes `8 * i..` of a register in the low half of the result.
#[inline]
#[target_feature(enable = "avx2")]
fn quarter(bytes: __m256i, i: usize) -> __m128i {
    let half = if i < 2 { _mm256_castsi256_si128(bytes) } else { _mm256_extracti128_si256::<1>(bytes) };
    if i.is_multiple_of(2) { half } else { _mm_unpackhi_epi64(half, half) }
}
