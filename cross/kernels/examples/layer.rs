//! `layer HEIGHT WIDTH CHANNELS OUT KERNEL STRIDE RUNS [ISA]`: prepares one convolution (depthwise where OUT is `dw`; KERNEL is a
//! number or HEIGHTxWIDTH) with "same" padding and runs it RUNS times with the kernels of ISA, or else the fastest of this CPU. For
//! counting the instructions of one layer, and for comparing instruction sets on one core. Weights are near to normally distributed,
//! one scale a channel, and inputs like them without their negative half, as behind a Relu; with `ZERO=128` in the environment they
//! lie around the byte 128. `CHANNEL_GROUPS` divides the channels. With `RESIDUAL` set, the output holds a residual, to which the result is
//! added. With `COLD` set, weights come from memory in every run, as in a network whose weights no cache holds.

use jouled_kernels::kernels::{AddQuant, Conv, ConvParams, Int8Weights, Isa, Layout, OutputQuant};
use std::time::{Duration, Instant};

/// The instruction set of this name among those of this CPU.
fn named(name: &str) -> Isa {
    let known = Isa::supported();
    known.iter().copied().find(|isa| isa.name() == name).unwrap_or_else(|| panic!("{name} is none of {known:?}"))
}

/// Sums of twelve random numbers: mean 0, variance 1.
fn normal() -> impl Iterator<Item = f32> {
    let mut state = 1u64;
    std::iter::repeat_with(move || {
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        (0..12).map(|_| uniform()).sum::<f32>() - 6.0
    })
}

/// Weights of one channel: the largest becomes 127.
fn quantized(weights: Vec<f32>) -> impl Iterator<Item = i8> {
    let largest = weights.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
    weights.into_iter().map(move |weight| (weight / largest * 127.0).round() as i8)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| words[i].parse::<usize>().expect("a number");
    let depthwise = words[3] == "dw";
    let (height, width, channels) = (number(0), number(1), number(2));
    let (out, stride, runs) = (if depthwise { channels } else { number(3) }, number(5), number(6));
    let sides = words[4].split_once('x').unwrap_or((&words[4], &words[4]));
    let kernel = [sides.0, sides.1].map(|side| side.parse::<usize>().expect("a kernel size"));
    let output = Layout::new(height.div_ceil(stride), width.div_ceil(stride), out);
    let groups = std::env::var("CHANNEL_GROUPS").map_or(1, |groups| groups.parse::<usize>().expect("CHANNEL_GROUPS: a number"));
    let groups = if depthwise { channels } else { groups };
    let depth = channels / groups;
    let (taps, mut normal) = (depth * kernel[0] * kernel[1], normal());
    let weights: Vec<i8> = (0..out).flat_map(|_| quantized(normal.by_ref().take(taps).collect())).collect();
    let zero = std::env::var("ZERO").map_or(0, |zero| zero.parse::<u8>().expect("ZERO: a byte"));
    let (bias, multipliers) = (vec![7; out], vec![0.003; out]);
    let mut params = ConvParams {
        input: Layout::new(height, width, channels),
        output,
        kernel,
        stride: [stride; 2],
        dilation: [1, 1],
        pad: kernel.map(|side| (side - 1) / 2),
        groups,
        input_zero: (zero ^ 128) as i8,
        weights: Int8Weights { values: &weights, zeros: &[] },
        bias: &bias,
        multipliers: &multipliers,
        quant: OutputQuant::full(-128),
        residual: None,
    };
    params.input.border = params.border();
    if std::env::var_os("RESIDUAL").is_some() {
        let add = AddQuant { a_ratio: 0.6, b_ratio: 0.5, a_zero: -128, b_zero: -128, output: params.quant };
        params.residual = Some((add, output));
    }
    let isa = words.get(7).map_or_else(Isa::best, |name| named(name));
    let conv = Conv::prepare(isa, &params).expect("a convolution that can be prepared");
    // The scale that a calibration finds, whose largest value is the largest of all channels.
    let spread = f32::from(255 - zero) / 5.0;
    let uniform = std::env::var_os("UNIFORM").is_some();
    let byte = |x: f32| if uniform { (x * 1e4) as i32 as u8 } else { (x * spread + f32::from(zero)).round() as u8 };
    let input: Vec<u8> = normal.take(params.input.bytes()).map(byte).collect();
    let (mut bytes, mut scratch) = (vec![0; output.bytes()], vec![0; conv.scratch_bytes()]);
    let mut fastest = Duration::MAX;
    let cold = std::env::var_os("COLD").is_some();
    let mut sweep = vec![0u8; if cold { 96 << 20 } else { 0 }];
    for _ in 0..runs {
        if cold {
            sweep.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
            [&mut bytes, &mut scratch].into_iter().flatten().for_each(|byte| *byte = std::hint::black_box(*byte));
            std::hint::black_box(input.iter().map(|&byte| u64::from(byte)).sum::<u64>());
        }
        let start = Instant::now();
        conv.run(&input, &mut bytes, 0..output.height, None, &mut scratch);
        fastest = fastest.min(start.elapsed());
    }
    println!("{}, {} MACs in {fastest:?}, byte sum {}", conv.describe(), conv.macs(), bytes.iter().map(|&b| u64::from(b)).sum::<u64>());
}
