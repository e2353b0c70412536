//! The inner loops on the layers of real networks: `cargo bench --bench kernels [-- FILTER]`.
//!
//! First a register-only loop of the machine's int8 multiplications is timed: the peak that no kernel can pass. Then every
//! layer runs by itself, hot in the caches, and beside Criterion's own figures a table gives its multiply-accumulates a
//! nanosecond and the fraction of that peak. Layers in Winograd's form pass it, because they multiply less.
//!
//! Weights are normally distributed with a deviation of 40, as per-channel quantization of a trained layer leaves them; many
//! adjacent pairs then need the wide loop. `JOULED_BENCH_DEVIATION=14` shows the narrow one.

use criterion::{Criterion, Throughput};
use jouled::kernels::{Conv, ConvParams, Int8Weights, Isa, Layout, OutputQuant};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// A convolution: input height, width, channels; kernel; stride; output channels (0: depthwise).
struct Layer(&'static str, [usize; 3], [usize; 2], usize, usize);

const LAYERS: &[Layer] = &[
    Layer("ds-cnn/first 10x4", [49, 10, 1], [10, 4], 2, 64),
    Layer("ds-cnn/depthwise 25x5x64", [25, 5, 64], [3, 3], 1, 0),
    Layer("ds-cnn/pointwise 25x5 64-64", [25, 5, 64], [1, 1], 1, 64),
    Layer("vww/first 3x3", [96, 96, 3], [3, 3], 2, 8),
    Layer("vww/depthwise 48x48x8", [48, 48, 8], [3, 3], 1, 0),
    Layer("vww/pointwise 48x48 8-16", [48, 48, 8], [1, 1], 1, 16),
    Layer("vww/depthwise 48x48x16 stride 2", [48, 48, 16], [3, 3], 2, 0),
    Layer("vww/pointwise 24x24 16-32", [24, 24, 16], [1, 1], 1, 32),
    Layer("vww/pointwise 12x12 64-64", [12, 12, 64], [1, 1], 1, 64),
    Layer("vww/depthwise 6x6x128", [6, 6, 128], [3, 3], 1, 0),
    Layer("vww/pointwise 6x6 128-128", [6, 6, 128], [1, 1], 1, 128),
    Layer("vww/pointwise 3x3 256-256", [3, 3, 256], [1, 1], 1, 256),
    Layer("mobilenetv2/first 3x3", [224, 224, 3], [3, 3], 2, 32),
    Layer("mobilenetv2/depthwise 112x112x32", [112, 112, 32], [3, 3], 1, 0),
    Layer("mobilenetv2/pointwise 112x112 32-16", [112, 112, 32], [1, 1], 1, 16),
    Layer("mobilenetv2/pointwise 112x112 16-96", [112, 112, 16], [1, 1], 1, 96),
    Layer("mobilenetv2/depthwise 112x112x96 stride 2", [112, 112, 96], [3, 3], 2, 0),
    Layer("mobilenetv2/pointwise 56x56 24-144", [56, 56, 24], [1, 1], 1, 144),
    Layer("mobilenetv2/pointwise 56x56 144-24", [56, 56, 144], [1, 1], 1, 24),
    Layer("mobilenetv2/depthwise 56x56x144", [56, 56, 144], [3, 3], 1, 0),
    Layer("mobilenetv2/depthwise 56x56x144 stride 2", [56, 56, 144], [3, 3], 2, 0),
    Layer("mobilenetv2/pointwise 28x28 32-192", [28, 28, 32], [1, 1], 1, 192),
    Layer("mobilenetv2/pointwise 28x28 192-32", [28, 28, 192], [1, 1], 1, 32),
    Layer("mobilenetv2/pointwise 14x14 96-576", [14, 14, 96], [1, 1], 1, 576),
    Layer("mobilenetv2/depthwise 14x14x576", [14, 14, 576], [3, 3], 1, 0),
    Layer("mobilenetv2/pointwise 14x14 576-96", [14, 14, 576], [1, 1], 1, 96),
    Layer("mobilenetv2/depthwise 7x7x960", [7, 7, 960], [3, 3], 1, 0),
    Layer("mobilenetv2/pointwise 7x7 960-320", [7, 7, 960], [1, 1], 1, 320),
    Layer("mobilenetv2/pointwise 7x7 320-1280", [7, 7, 320], [1, 1], 1, 1280),
    Layer("mobilenetv2/classifier", [1, 1, 1280], [1, 1], 1, 1000),
    Layer("resnet/first 7x7", [224, 224, 3], [7, 7], 2, 64),
    Layer("resnet/1x1 56x56 64-256", [56, 56, 64], [1, 1], 1, 256),
    Layer("resnet/1x1 56x56 256-64", [56, 56, 256], [1, 1], 1, 64),
    Layer("resnet/3x3 56x56 64-64", [56, 56, 64], [3, 3], 1, 64),
    Layer("resnet/3x3 28x28 128-128", [28, 28, 128], [3, 3], 1, 128),
    Layer("resnet/3x3 14x14 256-256", [14, 14, 256], [3, 3], 1, 256),
    Layer("resnet/3x3 7x7 512-512", [7, 7, 512], [3, 3], 1, 512),
    Layer("resnet/3x3 56x56 64-128 stride 2", [56, 56, 64], [3, 3], 2, 128),
    Layer("efficientnet/depthwise 5x5 56x56x144 stride 2", [56, 56, 144], [5, 5], 2, 0),
    Layer("efficientnet/depthwise 5x5 28x28x240", [28, 28, 240], [5, 5], 1, 0),
    Layer("efficientnet/depthwise 5x5 14x14x576", [14, 14, 576], [5, 5], 1, 0),
];

/// Sum of twelve uniform numbers: near enough to a normal distribution.
fn normal_weights(count: usize, deviation: f64) -> Vec<i8> {
    let mut seed = 0x2545_F491_4F6C_DD1Du64;
    let mut uniform = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as f64 / f64::from(1u32 << 31)
    };
    (0..count).map(|_| ((0..12).map(|_| uniform()).sum::<f64>() - 6.0) * deviation).map(|w| w.round().clamp(-127.0, 127.0) as i8).collect()
}

fn prepare(layer: &Layer, deviation: f64) -> (Conv, Layout) {
    let Layer(_, [height, width, channels], kernel, stride, out) = *layer;
    let (groups, out) = if out == 0 { (channels, channels) } else { (1, out) };
    let pad = kernel.map(|k| (k - 1) / 2);
    let size = |axis: usize, n: usize| (n - 1) / stride + usize::from(kernel[axis] > 0);
    let weights = normal_weights(out * channels / groups * kernel[0] * kernel[1], deviation);
    let mut params = ConvParams {
        input: Layout::new(height, width, channels),
        output: Layout::new(size(0, height), size(1, width), out),
        kernel,
        stride: [stride; 2],
        dilation: [1, 1],
        pad,
        groups,
        input_zero: -128,
        weights: Int8Weights { values: &weights, zeros: &[] },
        bias: &vec![100; out],
        multipliers: &vec![0.002; out],
        quant: OutputQuant::full(-128),
        residual: None,
    };
    params.input.border = params.border();
    let conv = Conv::prepare(Isa::best(), &params).expect("the table's layers are sound");
    (conv, params.input)
}

/// Multiply-accumulates a nanosecond of the register-only loop, the best of many.
fn peak() -> f64 {
    let once = |_| {
        let start = Instant::now();
        let macs = Isa::best().peak_loop(3000);
        macs as f64 / start.elapsed().as_nanos() as f64
    };
    (0..300).map(once).fold(0.0, f64::max)
}

fn main() {
    let deviation = std::env::var("JOULED_BENCH_DEVIATION").ok().and_then(|d| d.parse().ok()).unwrap_or(40.0);
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    let mut table = Vec::new();
    for layer in LAYERS {
        let (conv, input) = prepare(layer, deviation);
        let bytes: Vec<u8> = (0..input.bytes()).map(|i| (i * 7) as u8).collect();
        let (mut output, mut scratch) = (vec![0; conv.output().bytes()], vec![0; conv.scratch_bytes()]);
        let height = conv.output().height;
        let mut fastest = f64::INFINITY;
        let mut group = criterion.benchmark_group("conv");
        group.throughput(Throughput::Elements(conv.macs()));
        group.bench_function(layer.0, |bencher| {
            bencher.iter_custom(|runs| {
                let start = Instant::now();
                for _ in 0..runs {
                    conv.run(black_box(&bytes), &mut output, 0..height, None, &mut scratch);
                }
                let took = start.elapsed();
                fastest = fastest.min(took.as_nanos() as f64 / runs as f64);
                took
            });
        });
        group.finish();
        if fastest.is_finite() {
            table.push((layer.0, conv, fastest));
        }
    }
    let peak = peak();
    println!("\npeak of {}: {peak:.1} MAC/ns", Isa::best().name());
    for (name, conv, fastest) in table {
        let rate = conv.macs() as f64 / fastest;
        println!("{name:<47} {:>9.1} us {rate:>6.1} MAC/ns {:>5.1} % of peak  {}", fastest / 1e3, 100.0 * rate / peak, conv.describe());
    }
    criterion.final_summary();
}
