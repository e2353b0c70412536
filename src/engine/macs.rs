//! Multiply-accumulates of ONNX operators, from shapes alone.

/// What [`macs`] needs to know of a node.
#[derive(Clone, Copy, Debug)]
pub struct Shapes<'a> {
    /// Shape of each input; empty for one that is absent or unknown.
    pub inputs: &'a [&'a [usize]],
    /// Shape of the first output.
    pub output: &'a [usize],
    /// `Gemm`'s attribute transA.
    pub transposed_a: bool,
}

/// Multiply-accumulates of one node: one multiplication with its addition counts 1; biases, activations and requantization
/// count nothing. 0 for operators that do not multiply matrices. Saturates at `u64::MAX`.
///
/// Convolution: output elements x kernel elements of one output channel. Transposed convolution: input elements x kernel
/// elements of one input channel. Matrix products: output elements x inner length. LSTM, GRU and RNN: steps x batch x weights.
pub fn macs(op: &str, shapes: &Shapes) -> u64 {
    let input = |slot: usize| shapes.inputs.get(slot).copied().unwrap_or(&[]);
    let kernel = |slot: usize| input(slot).get(1..).map_or(0, elements);
    match op {
        "Conv" | "ConvInteger" => elements(shapes.output).saturating_mul(kernel(1)),
        "QLinearConv" => elements(shapes.output).saturating_mul(kernel(3)),
        "ConvTranspose" => elements(input(0)).saturating_mul(kernel(1)),
        "MatMul" | "MatMulInteger" | "QLinearMatMul" => elements(shapes.output).saturating_mul(last(input(0))),
        "Gemm" => {
            let inner = if shapes.transposed_a { input(0).first().map_or(0, |&k| k as u64) } else { last(input(0)) };
            elements(shapes.output).saturating_mul(inner)
        }
        "LSTM" | "GRU" | "RNN" => {
            let steps = input(0).get(..2).map_or(0, elements);
            steps.saturating_mul(elements(input(1)).saturating_add(elements(input(2))))
        }
        _ => 0,
    }
}

fn elements(shape: &[usize]) -> u64 {
    shape.iter().fold(1, |n: u64, &d| n.saturating_mul(d as u64))
}

fn last(shape: &[usize]) -> u64 {
    shape.last().map_or(0, |&k| k as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(op: &str, inputs: &[&[usize]], output: &[usize]) -> u64 {
        macs(op, &Shapes { inputs, output, transposed_a: false })
    }

    #[test]
    fn convolutions() {
        // MobileNet's first layer: 3x3 over 3 channels, 32 maps of 112 x 112.
        assert_eq!(of("Conv", &[&[1, 3, 224, 224], &[32, 3, 3, 3]], &[1, 32, 112, 112]), 10_838_016);
        // Depthwise: each output channel sees one input channel.
        assert_eq!(of("Conv", &[&[1, 32, 112, 112], &[32, 1, 3, 3]], &[1, 32, 112, 112]), 3_612_672);
        assert_eq!(of("QLinearConv", &[&[1, 2, 8], &[], &[], &[4, 2, 3]], &[1, 4, 6]), 144);
        assert_eq!(of("ConvTranspose", &[&[1, 2, 4], &[2, 3, 5]], &[1, 3, 8]), 8 * 15);
    }

    #[test]
    fn matrix_products() {
        assert_eq!(of("MatMul", &[&[2, 3, 5], &[5, 7]], &[2, 3, 7]), 210);
        assert_eq!(of("QLinearMatMul", &[&[1, 64], &[], &[], &[64, 12]], &[1, 12]), 768);
        let transposed = Shapes { inputs: &[&[5, 3], &[5, 7]], output: &[3, 7], transposed_a: true };
        assert_eq!(macs("Gemm", &transposed), 105);
        assert_eq!(of("LSTM", &[&[10, 1, 4], &[1, 32, 4], &[1, 32, 8]], &[10, 1, 1, 8]), 10 * (128 + 256));
    }

    #[test]
    fn others_are_free_and_nothing_overflows() {
        assert_eq!(of("Relu", &[&[1, 8]], &[1, 8]), 0);
        assert_eq!(of("Conv", &[], &[1, 8]), 0);
        assert_eq!(of("MatMul", &[&[usize::MAX]], &[usize::MAX, usize::MAX]), u64::MAX);
    }
}
