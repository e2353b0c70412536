//! From which step to which each storage holds something.

use super::{Origin, Record, Storage};
use crate::engine::plan::Buffer;

/// The storages as the planner sees them, by the same numbers.
pub fn buffers(storages: &[Storage], records: &[Record], outputs: &[usize]) -> Vec<Buffer> {
    let mut buffers: Vec<Buffer> =
        storages.iter().map(|s| Buffer { name: s.name.clone(), size: 0, first: usize::MAX, last: 0, takes: None }).collect();
    for (step, record) in records.iter().enumerate() {
        for &write in &record.writes {
            buffers[write].size = storages[write].bytes;
            buffers[write].first = buffers[write].first.min(step);
        }
        for &storage in record.writes.iter().chain(&record.reads) {
            buffers[storage].last = buffers[storage].last.max(step);
        }
    }
    for &output in outputs {
        buffers[output].last = records.len();
    }
    for record in records.iter().filter(|r| r.writes.len() == 1) {
        let write = record.writes[0];
        let alone = records.iter().filter(|r| r.writes.contains(&write)).count() == 1;
        let wish = (0..record.reads.len()).find(|&read| record.may_take(read) && storages[record.reads[read]].origin == Origin::Arena);
        buffers[write].takes = wish.filter(|_| alone).map(|read| record.reads[read]);
    }
    for buffer in &mut buffers {
        buffer.first = buffer.first.min(buffer.last);
    }
    buffers
}
