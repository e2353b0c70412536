//! Random networks with something wrong in them: they load and run, or are refused; no code of ours panics, even where the engine
//! would catch it.

use crate::build;
use crate::net::{Dice, Gene, network};
use jouled::config::value::Size;
use jouled::engine::{Limits, Model};
use proptest::prelude::*;
use std::cell::RefCell;
use std::sync::Once;
use tract_onnx::pb::{ModelProto, TensorProto};

thread_local! {
    /// Where code of ours panicked last on this thread.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes panics of this package's files. Others are tract's: the engine turns them into errors.
fn note_our_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match panic.location() {
            Some(at) if at.file().starts_with("src/") => PANICKED.with_borrow_mut(|noted| *noted = Some(format!("{panic}"))),
            Some(at) if at.file().contains("/tract") => {}
            _ => before(panic),
        }));
    });
}

/// A number that somebody may have forgotten to think of.
fn extreme(dice: &mut Dice) -> i64 {
    let small = dice.below(12) as i64 - 4;
    [small, 0, -1, 1 << 15, (1 << 15) + 1, 1 << 31, i64::from(i32::MAX), i64::MAX, i64::MIN, 1 << 40, 255][dice.below(11)]
}

fn damage_tensor(tensor: &mut TensorProto, dice: &mut Dice) {
    let dims = tensor.dims.len();
    match dice.below(5) {
        0 if dims > 0 => tensor.dims[dice.below(dims)] = extreme(dice),
        1 => tensor.dims.push(1),
        2 => tensor.data_type = dice.below(17) as i32,
        3 if tensor.raw_data.len() == 4 => {
            let value = [f32::NAN, 0.0, -1.0, f32::INFINITY, 1e-40, 1e38, 1e-10][dice.below(7)];
            tensor.raw_data = value.to_le_bytes().to_vec();
        }
        _ if tensor.raw_data.len() >= 8 && tensor.data_type == 7 => tensor.raw_data[..8].copy_from_slice(&extreme(dice).to_le_bytes()),
        _ => {
            tensor.dims.clear();
        }
    }
}

/// Changes one thing.
fn damage(proto: &mut ModelProto, dice: &mut Dice) {
    let graph = proto.graph.as_mut().unwrap();
    let names: Vec<String> = graph.node.iter().flat_map(|n| n.output.iter().chain(&n.input)).cloned().collect();
    let constants = graph.initializer.len();
    if graph.node.is_empty() || (constants > 0 && dice.below(3) == 0) {
        if constants > 0 {
            damage_tensor(&mut graph.initializer[dice.below(constants)], dice);
        }
        return;
    }
    let ops: Vec<(String, String)> = graph.node.iter().map(|n| (n.op_type.clone(), n.domain.clone())).collect();
    let count = graph.node.len();
    let node = &mut graph.node[dice.below(count)];
    let slot = dice.below(node.input.len().max(1));
    match dice.below(8) {
        0 | 1 if !node.attribute.is_empty() => {
            let index = dice.below(node.attribute.len());
            let attribute = &mut node.attribute[index];
            match attribute.ints.len() {
                0 => attribute.i = extreme(dice),
                length => attribute.ints[dice.below(length)] = extreme(dice),
            }
        }
        2 if !node.attribute.is_empty() => {
            let index = dice.below(node.attribute.len());
            node.attribute[index].ints.pop();
        }
        3 if !node.attribute.is_empty() => {
            node.attribute.remove(dice.below(node.attribute.len()));
        }
        4 if !node.input.is_empty() => node.input[slot] = names[dice.below(names.len())].clone(),
        5 if !node.input.is_empty() => node.input[slot].clear(),
        6 => node.input.truncate(slot),
        _ => (node.op_type, node.domain) = ops[dice.below(ops.len())].clone(),
    }
}

fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Damages a network, then loads it and runs it where it still loads.
fn survives(mut proto: ModelProto, damages: &[u64]) -> Result<(), TestCaseError> {
    note_our_panics();
    PANICKED.take();
    damages.iter().for_each(|&seed| damage(&mut proto, &mut Dice(seed)));
    let limits = Limits { max_memory: Size::mib(32), ..Limits::default() };
    let run = || {
        if let Ok(model) = Model::from_bytes(&build::bytes(&proto), "damaged", &limits) {
            let mut session = model.session(1).unwrap();
            (0..model.inputs().len()).for_each(|input| session.input_mut(input).fill(0x5A));
            let _ = session.run();
        }
    };
    let caught = std::panic::catch_unwind(run);
    let noted = PANICKED.take();
    prop_assert!(caught.is_ok() && noted.is_none(), "{noted:?}\n{}", crate::oracle::picture(&proto));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(300), max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_networks_never_make_us_panic(
        genes in prop::collection::vec((any::<u8>(), any::<u32>()), 1..5),
        seed in any::<u32>(),
        damages in prop::collection::vec(any::<u64>(), 1..4),
    ) {
        let genes: Vec<Gene> = genes;
        survives(network(seed, &genes), &damages)?;
    }

    #[test]
    fn damaged_dynamic_networks_never_make_us_panic(which in any::<usize>(), damages in prop::collection::vec(any::<u64>(), 1..4)) {
        survives(crate::dynamic::example(which), &damages)?;
    }
}
