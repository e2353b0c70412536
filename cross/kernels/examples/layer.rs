//! `layer HEIGHT WIDTH CHANNELS OUT KERNEL STRIDE RUNS [ISA]`: prepares one convolution (depthwise where OUT is `dw`; KERNEL is a
//! number or HEIGHTxWIDTH) with "same" padding and runs it RUNS times with the kernels of ISA, or else the fastest of this CPU. For
//! counting the instructions of one layer, and for comparing instruction sets on one core.

use jouled_kernels::kernels::{Conv, ConvParams, Int8Weights, Isa, Layout, OutputQuant};
use std::time::{Duration, Instant};

/// The instruction set of this name among those of this CPU.
fn named(name: &str) -> Isa {
    let known = Isa::supported();
    known.iter().copied().find(|isa| isa.name() == name).unwrap_or_else(|| panic!("{name} is none of {known:?}"))
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
    let depth = if depthwise { 1 } else { channels };
    let weights: Vec<i8> = (0..out * depth * kernel[0] * kernel[1]).map(|i| ((i * 37 % 201) as i16 - 100) as i8).collect();
    let (bias, multipliers) = (vec![7; out], vec![0.003; out]);
    let mut params = ConvParams {
        input: Layout::new(height, width, channels),
        output,
        kernel,
        stride: [stride; 2],
        dilation: [1, 1],
        pad: kernel.map(|side| (side - 1) / 2),
        groups: if depthwise { channels } else { 1 },
        input_zero: 3,
        weights: Int8Weights { values: &weights, zeros: &[] },
        bias: &bias,
        multipliers: &multipliers,
        quant: OutputQuant::full(-128),
        residual: None,
    };
    params.input.border = params.border();
    let isa = words.get(7).map_or_else(Isa::best, |name| named(name));
    let conv = Conv::prepare(isa, &params).expect("a convolution that can be prepared");
    let input: Vec<u8> = (0..params.input.bytes()).map(|i| (i * 91 % 256) as u8).collect();
    let (mut bytes, mut scratch) = (vec![0; output.bytes()], vec![0; conv.scratch_bytes()]);
    let mut fastest = Duration::MAX;
    for _ in 0..runs {
        let start = Instant::now();
        conv.run(&input, &mut bytes, 0..output.height, None, &mut scratch);
        fastest = fastest.min(start.elapsed());
    }
    println!("{}, {} MACs in {fastest:?}, byte sum {}", conv.describe(), conv.macs(), bytes.iter().map(|&b| u64::from(b)).sum::<u64>());
}
