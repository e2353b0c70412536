//! The specification: every operator on dense `[height, width, channels]` int8 tensors, in the plainest words.
//!
//! Nothing here knows of layouts, packing or instruction sets. Sums are `i64`, so they are exact for every input; a kernel
//! that gives another byte is wrong. Windows are written by tensor coordinate; outside the tensor lies the zero point.

use super::softmax::exponentials;
use super::{
    AddQuant, Between, BinaryQuant, ConvParams, ConvTransposeParams, DynamicParams, LayerNormParams, MatMulParams, MulQuant, OutputQuant,
    PoolKind, PoolParams, SoftmaxQuant, dynamic_quantization,
};

/// Value at (y, x, channel), coordinates possibly outside.
fn at(input: &[i8], params: &Geometry, y: isize, x: isize, channel: usize) -> Option<i8> {
    let inside = (0..params.height as isize).contains(&y) && (0..params.width as isize).contains(&x);
    inside.then(|| input[(y as usize * params.width + x as usize) * params.channels + channel])
}

struct Geometry {
    height: usize,
    width: usize,
    channels: usize,
}

/// Input coordinate of tap `k` of the window at output coordinate `o`.
fn tap(o: usize, k: usize, stride: usize, dilation: usize, pad: usize) -> isize {
    (o * stride + k * dilation) as isize - pad as isize
}

/// Requantization of an exact sum: see [`super::requant`].
pub fn requantize(acc: i64, multiplier: f32, quant: &OutputQuant) -> i8 {
    quantize((acc as i32 as f32) * multiplier, quant)
}

/// Convolution of any kernel, stride, dilation, padding and group count; depthwise, pointwise and matrix product included.
pub fn conv2d(p: &ConvParams, input: &[i8]) -> Vec<i8> {
    let quantized = |(i, sum)| requantize(sum, p.multipliers[i % p.output.channels], &p.quant);
    sums(p, input).into_iter().enumerate().map(quantized).collect()
}

/// Scale and zero point (as int8) of a float tensor's own range.
pub fn own_quantization(tensor: &[f32]) -> (f32, i8) {
    let extreme = |pick: fn(f32, f32) -> f32| tensor.iter().copied().fold(0.0, pick);
    dynamic_quantization(extreme(f32::min), extreme(f32::max))
}

/// The same of a float tensor, quantized with this scale and zero point, to a float tensor; both `[height, width, channels]`.
pub fn dynamic(p: &DynamicParams, (scale, zero): (f32, i8), input: &[f32]) -> Vec<f32> {
    let input: Vec<i8> = input.iter().map(|x| quantize(x / scale, &OutputQuant::full(zero))).collect();
    let real = |(i, sum): (usize, i64)| {
        let o = i % p.conv.output.channels;
        sum as i32 as f32 * (scale * p.weight_scales[o]) + p.bias[o]
    };
    sums(&ConvParams { input_zero: zero, ..p.conv.clone() }, &input).into_iter().enumerate().map(real).collect()
}

/// The exact sums of a convolution.
fn sums(p: &ConvParams, input: &[i8]) -> Vec<i64> {
    let geometry = Geometry { height: p.input.height, width: p.input.width, channels: p.input.channels };
    let (out_channels, in_per_group) = (p.output.channels, p.input.channels / p.groups);
    let out_per_group = out_channels / p.groups;
    let mut out = Vec::with_capacity(p.output.height * p.output.width * out_channels);
    for oy in 0..p.output.height {
        for ox in 0..p.output.width {
            for o in 0..out_channels {
                let mut acc = i64::from(p.bias[o]);
                for i in 0..in_per_group {
                    for ky in 0..p.kernel[0] {
                        for kx in 0..p.kernel[1] {
                            let y = tap(oy, ky, p.stride[0], p.dilation[0], p.pad[0]);
                            let x = tap(ox, kx, p.stride[1], p.dilation[1], p.pad[1]);
                            let value = at(input, &geometry, y, x, o / out_per_group * in_per_group + i).unwrap_or(p.input_zero);
                            let weight = p.weights.less_zero(((o * in_per_group + i) * p.kernel[0] + ky) * p.kernel[1] + kx, o);
                            acc += (i64::from(value) - i64::from(p.input_zero)) * i64::from(weight);
                        }
                    }
                }
                out.push(acc);
            }
        }
    }
    out
}

/// Transposed convolution: every input value adds its weighted window to the output.
pub fn conv_transpose(p: &ConvTransposeParams, input: &[i8]) -> Vec<i8> {
    let (out, channels) = (p.output, p.input.channels);
    let [in_per_group, out_per_group] = [channels / p.groups, out.channels / p.groups];
    let mut sums: Vec<i64> = (0..out.height * out.width).flat_map(|_| p.bias.iter().map(|&b| i64::from(b))).collect();
    let place = |i: usize, k: usize, axis: usize, size: usize| {
        (i * p.stride[axis] + k * p.dilation[axis]).checked_sub(p.pad[axis]).filter(|&o| o < size)
    };
    for (at, &value) in input.iter().enumerate() {
        let (y, x, i) = (at / channels / p.input.width, at / channels % p.input.width, at % channels);
        for o in 0..out_per_group {
            for (ky, kx) in (0..p.kernel[0]).flat_map(|ky| (0..p.kernel[1]).map(move |kx| (ky, kx))) {
                if let (Some(oy), Some(ox)) = (place(y, ky, 0, out.height), place(x, kx, 1, out.width)) {
                    let channel = i / in_per_group * out_per_group + o;
                    let weight = p.weights.less_zero(((i * out_per_group + o) * p.kernel[0] + ky) * p.kernel[1] + kx, channel);
                    let sum = &mut sums[(oy * out.width + ox) * out.channels + channel];
                    *sum += (i64::from(value) - i64::from(p.input_zero)) * i64::from(weight);
                }
            }
        }
    }
    sums.into_iter().enumerate().map(|(at, sum)| requantize(sum, p.multipliers[at % out.channels], &p.quant)).collect()
}

/// Products of dense matrices `[batch][m][k]` and `[batch][k][n]`, or `[batch][n][k]` where transposed.
pub fn matmul(p: &MatMulParams, a: &[i8], b: &[i8]) -> Vec<i8> {
    let (k, n) = (p.a.layout.channels, p.output.layout.channels);
    let m = p.output.layout.height * p.output.layout.width;
    let mut out = Vec::with_capacity(p.batches * m * n);
    for (batch, row) in (0..p.batches).flat_map(|batch| (0..m).map(move |row| (batch, row))) {
        for column in 0..n {
            let right = |i: usize| batch * k * n + if p.b_is_transposed { column * k + i } else { i * n + column };
            let product = |i: usize| {
                let (a, b) = (a[(batch * m + row) * k + i], b[right(i)]);
                (i64::from(a) - i64::from(p.a_zero)) * (i64::from(b) - i64::from(p.b_zero))
            };
            out.push(requantize((0..k).map(product).sum(), p.multiplier, &p.quant));
        }
    }
    out
}

/// Elementwise sum, requantized.
pub fn add(q: &AddQuant, a: &[i8], b: &[i8]) -> Vec<i8> {
    let real = |v: i8, zero: i8, ratio: f32| (i32::from(v) - i32::from(zero)) as f32 * ratio;
    let sum = |(&a, &b): (&i8, &i8)| real(a, q.a_zero, q.a_ratio) + real(b, q.b_zero, q.b_ratio);
    a.iter().zip(b).map(sum).map(|sum| quantize(sum, &q.output)).collect()
}

/// Elementwise product, requantized.
pub fn multiply(q: &MulQuant, a: &[i8], b: &[i8]) -> Vec<i8> {
    let product = |(&a, &b): (&i8, &i8)| (i64::from(a) - i64::from(q.a_zero)) * (i64::from(b) - i64::from(q.b_zero));
    a.iter().zip(b).map(product).map(|product| requantize(product, q.ratio, &q.output)).collect()
}

/// Sum or product of `a`, of shape `[height, width, channels]`, and `b`, whose axes are as long or 1.
pub fn binary(q: &BinaryQuant, [height, width, channels]: [usize; 3], a: &[i8], b_shape: [usize; 3], b: &[i8]) -> Vec<i8> {
    let index = |size: usize, i: usize| if size == 1 { 0 } else { i };
    let at = |y, x, c| (index(b_shape[0], y) * b_shape[1] + index(b_shape[1], x)) * b_shape[2] + index(b_shape[2], c);
    let rows = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
    let full: Vec<i8> = rows.flat_map(|(y, x)| (0..channels).map(move |c| at(y, x, c))).map(|i| b[i]).collect();
    match q {
        BinaryQuant::Add(q) => add(q, a, &full),
        BinaryQuant::Mul(q) => multiply(q, a, &full),
    }
}

/// Largest or mean value of each window. Taps outside the tensor count for nothing, except that a mean with
/// `count_padding` divides by the whole window.
pub fn pool(p: &PoolParams, input: &[i8]) -> Vec<i8> {
    let geometry = Geometry { height: p.input.height, width: p.input.width, channels: p.input.channels };
    let mut out = Vec::new();
    for oy in 0..p.output.height {
        for ox in 0..p.output.width {
            for c in 0..p.input.channels {
                let rows = (0..p.kernel[0]).map(|k| tap(oy, k, p.stride[0], 1, p.pad[0]));
                let taps = rows.flat_map(|y| (0..p.kernel[1]).map(move |k| (y, tap(ox, k, p.stride[1], 1, p.pad[1]))));
                let values: Vec<i8> = taps.filter_map(|(y, x)| at(input, &geometry, y, x, c)).collect();
                out.push(match p.kind {
                    PoolKind::Max => values.iter().copied().max().unwrap_or(i8::MIN),
                    PoolKind::Average { input_zero, ratio, count_padding, quant } => {
                        let sum: i64 = values.iter().map(|&v| i64::from(v) - i64::from(input_zero)).sum();
                        let count = if count_padding { p.kernel[0] * p.kernel[1] } else { values.len().max(1) };
                        requantize(sum, ratio / count as f32, &quant)
                    }
                });
            }
        }
    }
    out
}

/// `table[value + 128]` for every value.
pub fn table(table: &[i8; 256], input: &[i8]) -> Vec<i8> {
    input.iter().map(|&v| table[(i32::from(v) + 128) as usize]).collect()
}

/// Softmax over each `channels` values: see [`super::softmax`] for the formula.
pub fn softmax(q: &SoftmaxQuant, channels: usize, input: &[i8]) -> Vec<i8> {
    let table = exponentials(q.input_scale);
    let pixel = |pixel: &[i8]| -> Vec<i8> {
        let largest = pixel.iter().copied().max().unwrap_or(i8::MIN);
        let entry = |&value: &i8| table[(i32::from(largest) - i32::from(value)) as usize];
        let sum: i128 = pixel.iter().map(|v| i128::from(entry(v))).sum();
        let factor = (1.0 / (sum as f64 * f64::from(q.output_scale))) as f32;
        pixel.iter().map(|v| quantize(entry(v) as f32 * factor, &q.output)).collect()
    };
    input.chunks(channels).flat_map(pixel).collect()
}

/// Layer normalization over each `gamma.len()` values: see [`super::layer_norm`] for the formula.
pub fn layer_norm(p: &LayerNormParams, input: &[i8]) -> Vec<i8> {
    let (n, scale) = (p.gamma.len() as i128, f64::from(p.input_scale));
    let pixel = |pixel: &[i8]| -> Vec<i8> {
        let sum: i128 = pixel.iter().map(|&v| i128::from(v)).sum();
        let squares: i128 = pixel.iter().map(|&v| i128::from(v) * i128::from(v)).sum();
        let variance = (n * squares - sum * sum) as f64 / (n * n) as f64 * scale * scale + f64::from(p.epsilon);
        let factor = if variance > 0.0 { (scale / variance.sqrt() / n as f64) as f32 } else { 0.0 };
        let value = |(c, &v): (usize, &i8)| {
            let centred = (n * i128::from(v) - sum) as f32;
            quantize(centred * factor * (p.gamma[c] / p.output_scale) + p.beta[c] / p.output_scale, &p.quant)
        };
        pixel.iter().enumerate().map(value).collect()
    };
    input.chunks(p.gamma.len()).flat_map(pixel).collect()
}

/// Linear resize of a tensor `[height, width, channels]` between the named rows and columns.
pub fn resize_linear([width, channels]: [usize; 2], rows: &[Between], columns: &[Between], zero: i8, input: &[i8]) -> Vec<i8> {
    let at = |y: usize, x: usize, c: usize| i64::from(input[(y * width + x) * channels + c]) - i64::from(zero);
    let mut out = Vec::new();
    for (row, column) in rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))) {
        for c in 0..channels {
            let mix = |a: i64, b: i64, weight: u16| a * (2048 - i64::from(weight)) + b * i64::from(weight);
            let line = |y: usize| mix(at(y, column.first, c), at(y, column.second, c), column.weight);
            let sum = mix(line(row.first), line(row.second), row.weight);
            out.push(((sum as f64 / f64::from(1 << 22)).round_ties_even() + f64::from(zero)) as i8);
        }
    }
    out
}

/// `clamp(round_half_even(scaled) + zero_point)`, in words that need no limits.
fn quantize(scaled: f32, quant: &OutputQuant) -> i8 {
    let rounded = f64::from(scaled.round_ties_even()) + f64::from(quant.zero_point);
    rounded.clamp(f64::from(quant.low), f64::from(quant.high)) as i8
}
