//! Weights of depthwise windows of 3x3 and 5x5 with stride 1 or 2, as the loops of x86-64 read them: input rows are interleaved once and
//! serve every kernel column.
//!
//! A unit is a lane block, or two of them for 3x3, whose 16 lanes are then in the order of the [`Style`]. Its weights lie in one of two
//! forms, or in both:
//!
//! ```text
//!   pairs:    [phase][row pair][kernel column][lane][2]   16 bits; input rows 2p and 2p + 1, widened, serve several output rows
//!   columns:  [kernel column][lane][4]                    bytes (3x3); input rows r0 r1 r1 r2 of one output row
//! ```
//!
//! **Pairs.** An output row whose window starts on the first row of a pair is in phase 0, on the second (stride 1 only) in phase 1;
//! kernel rows without a partner meet zero weights.
//!
//! **Columns.** Four byte products in one sum. The middle weight is divided between its two bytes, `w1 = a + b`, so that neither
//! `r0 * w0 + r1 * a` nor `r1 * b + r2 * w2` leaves 16 bits for any input: that is possible unless the three weights of a column are
//! of one sign and together above 256. Then they stay within 16 bits while the channel's inputs stay at or below a **ceiling**, which
//! is 169 or more: the loop looks at the largest inputs first, and takes the pairs where one exceeds it. Behind a Relu hardly any does.

use super::depthwise::DW_LANES;
use super::pack::{LANES, NarrowRule, Style};
use super::stored::Aligned;

/// Input rows that are interleaved in pairs.
pub(crate) const PAIR_ROWS: usize = 2;

/// Row pairs that a window of an odd height meets, whichever row of a pair it starts on.
pub(crate) const fn pairs_per_row(kernel: usize) -> usize {
    kernel.div_ceil(PAIR_ROWS)
}

const _: () = assert!(LANES == 2 * DW_LANES);

/// The height of windows that may have columns, and units of two lane blocks: those of larger ones would not fit the registers.
pub(crate) const SMALL: usize = 3;

/// The ceiling of weights that are exact for every input.
const NONE: u8 = u8::MAX;
const UNGUARDED: [u8; LANES] = [NONE; LANES];

/// Some channels that a loop does together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    pub channel: usize,
    /// One or two.
    pub lane_blocks: usize,
    pub form: Form,
}

/// How a unit's weights lie: bytes before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Pairs(usize),
    Columns(usize),
    /// Columns where no channel's inputs exceed its ceiling, else pairs.
    Guarded {
        columns: usize,
        ceilings: [u8; LANES],
        pairs: usize,
    },
}

/// The units of a layer and their weights.
#[derive(Clone, Debug)]
pub(crate) struct Sliding {
    pub units: Vec<Unit>,
    pub weights: Aligned<u8>,
}

impl Sliding {
    /// `weights`: of each channel, `kernel * kernel` in row order.
    pub fn pack(style: &Style, weights: &[Vec<i16>], kernel: usize, stride: usize) -> Sliding {
        let wide = if kernel == SMALL { weights.len() / LANES * LANES } else { 0 };
        let wide_units = (0..wide).step_by(LANES).map(|first| (first, style.order.to_vec()));
        let others = (wide..weights.len()).step_by(DW_LANES).map(|first| (first, (0..DW_LANES).collect()));
        let mut bytes = Vec::new();
        let mut put = |weights: Vec<u8>| {
            let at = bytes.len();
            bytes.extend(weights);
            at
        };
        let mut units = Vec::new();
        for (channel, order) in wide_units.chain(others) {
            let of_unit = &weights[channel..];
            let pairs = || pairs(of_unit, &order, kernel, stride);
            let columns = if kernel == SMALL { columns(of_unit, &order, style.rule) } else { None };
            let form = match columns {
                None => Form::Pairs(put(pairs())),
                Some((columns, UNGUARDED)) => Form::Columns(put(columns)),
                Some((columns, ceilings)) => Form::Guarded { columns: put(columns), ceilings, pairs: put(pairs()) },
            };
            units.push(Unit { channel, lane_blocks: order.len() / DW_LANES, form });
        }
        Sliding { units, weights: Aligned::new(&bytes) }
    }
}

/// The weights of the channels of `order` in pairs. Channels that do not exist have zero weights.
fn pairs(weights: &[Vec<i16>], order: &[usize], kernel: usize, stride: usize) -> Vec<u8> {
    let weight = |channel: usize, ky: Option<usize>, kx: usize| {
        let ky = ky.filter(|&ky| ky < kernel);
        ky.zip(weights.get(channel)).map_or(0, |(ky, w)| w[ky * kernel + kx])
    };
    let mut out = Vec::new();
    for phase in (0..PAIR_ROWS).step_by(stride) {
        for (pair, kx) in (0..pairs_per_row(kernel)).flat_map(|pair| (0..kernel).map(move |kx| (pair, kx))) {
            let ky = |row: usize| (PAIR_ROWS * pair + row).checked_sub(phase);
            out.extend(order.iter().flat_map(|&c| [weight(c, ky(0), kx), weight(c, ky(1), kx)]).flat_map(i16::to_le_bytes));
        }
    }
    out
}

/// The weights of the channels of `order` in columns, and each channel's ceiling. `None` where a weight is none of 8 bits.
fn columns(weights: &[Vec<i16>], order: &[usize], rule: NarrowRule) -> Option<(Vec<u8>, [u8; LANES])> {
    let (mut out, mut ceilings) = (Vec::new(), UNGUARDED);
    for kx in 0..SMALL {
        for &channel in order {
            let column = weights.get(channel).map_or([0; SMALL], |w| std::array::from_fn(|ky| w[ky * SMALL + kx]));
            let divided = divided(column)?;
            if rule == NarrowRule::Pairs {
                ceilings[channel] = ceilings[channel].min(ceiling(divided));
            }
            out.extend(divided.map(|w| w as u8));
        }
    }
    Some((out, ceilings))
}

/// The weights of a column for rows r0, r1, r1, r2: the middle one between the others so that both pairs have the lower ceiling as high
/// as possible.
fn divided([first, middle, last]: [i16; SMALL]) -> Option<[i8; 4]> {
    let [first, middle, last] = [i8::try_from(first).ok()?, i8::try_from(middle).ok()?, i8::try_from(last).ok()?];
    let part = |part: i8| [first, part, middle - part, last];
    let parts = middle.min(0)..=middle.max(0);
    parts.map(part).max_by_key(|&weights| ceiling(weights))
}

/// The largest input for which both pairs of products of these weights stay within 16 bits.
fn ceiling([a, b, c, d]: [i8; 4]) -> u8 {
    let sum = |a: i8, b: i8| {
        let [a, b] = [i32::from(a), i32::from(b)];
        (a.max(0) + b.max(0)).max(-(a.min(0) + b.min(0)))
    };
    let largest = sum(a, b).max(sum(c, d)).max(1);
    (i32::from(i16::MAX) / largest).min(i32::from(u8::MAX)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(rule: NarrowRule) -> Style {
        Style { rule, order: std::array::from_fn(|i| i), pairs: false }
    }

    /// The largest and the smallest sum of products of two weights with bytes up to `ceiling`.
    fn extremes(a: i8, b: i8, ceiling: u8) -> [i32; 2] {
        let (a, b) = (i32::from(a), i32::from(b));
        [a.max(0) + b.max(0), a.min(0) + b.min(0)].map(|sum| sum * i32::from(ceiling))
    }

    #[test]
    fn a_divided_column_is_the_column_and_stays_within_16_bits_below_its_ceiling() {
        for first in i16::from(i8::MIN)..=127 {
            for middle in [-128, -127, -100, -64, -1, 0, 1, 63, 64, 65, 100, 127] {
                for last in [-128, -127, -90, -64, -1, 0, 1, 64, 90, 127] {
                    let weights = divided([first, middle, last]).unwrap();
                    let [a, b, c, d] = weights;
                    assert_eq!([i16::from(a), i16::from(b) + i16::from(c), i16::from(d)], [first, middle, last]);
                    let ceiling = ceiling(weights);
                    let one_sign = [first, middle, last].iter().all(|w| *w >= 0) || [first, middle, last].iter().all(|w| *w <= 0);
                    assert_eq!(ceiling == NONE, !one_sign || (first + middle + last).abs() <= 256, "{first} {middle} {last}");
                    assert!(ceiling >= 169, "{first} {middle} {last}: {ceiling}");
                    for sum in [extremes(a, b, ceiling), extremes(c, d, ceiling)].into_iter().flatten() {
                        assert!(i16::try_from(sum).is_ok(), "{first} {middle} {last}: {ceiling}");
                    }
                }
            }
        }
    }

    #[test]
    fn units_keep_what_their_channels_need() {
        let mut weights = vec![vec![1i16; 9]; 40];
        weights[17] = vec![127; 9];
        weights[39][0] = 128;
        let sliding = Sliding::pack(&style(NarrowRule::Pairs), &weights, 3, 1);
        let mut ceilings = UNGUARDED;
        ceilings[1] = 171;
        let (columns, pairs) = (3 * 16 * 4, 2 * 2 * 3 * 16 * 2 * size_of::<i16>());
        let forms: Vec<(usize, Form)> = sliding.units.iter().map(|unit| (unit.channel, unit.form)).collect();
        let guarded = Form::Guarded { columns, ceilings, pairs: 2 * columns };
        assert_eq!(forms, [(0, Form::Columns(0)), (16, guarded), (32, Form::Pairs(2 * columns + pairs))]);
        assert_eq!(sliding.weights.as_slice().len(), 2 * columns + pairs + pairs / 2);
    }

    #[test]
    fn four_products_in_one_instruction_need_no_ceiling() {
        let sliding = Sliding::pack(&style(NarrowRule::Always), &vec![vec![127; 9]; 16], 3, 2);
        assert_eq!(sliding.units[0].form, Form::Columns(0));
    }
}
