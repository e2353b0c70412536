//! Where the groups of a block's weights meet the input.

use super::guard::Chunk;
use super::pack::GROUP;

/// `groups * GROUP` input bytes from `offset`, which counts from the window's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub offset: usize,
    pub groups: usize,
}

impl Run {
    /// The byte behind the last one. Kept offsets may be anything.
    fn end(&self) -> usize {
        self.offset.saturating_add(self.groups * GROUP)
    }
}

/// Groups in the order of their weights. Most blocks of a layer have the same, and share them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    /// Input byte of each, from the window's first.
    offsets: Vec<u32>,
    /// Empty on x86, whose loops go by groups, because theirs may be mixed.
    runs: Vec<Run>,
    chunks: Vec<Chunk>,
    span: usize,
}

impl Groups {
    pub fn new(offsets: Vec<u32>) -> Groups {
        let mut runs = runs(&offsets);
        let chunks = Chunk::of(&runs);
        let span = runs.iter().map(Run::end).max().unwrap_or(0);
        if cfg!(not(any(target_arch = "aarch64", target_arch = "arm", test))) {
            runs = Vec::new();
        }
        runs.shrink_to_fit();
        Groups { offsets, runs, chunks, span }
    }

    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// None where no loop reads them.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// What a guard compares at once.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Input bytes, from the window's first, that a loop may read.
    pub fn span(&self) -> usize {
        self.span
    }
}

/// Groups that follow each other joined.
fn runs(offsets: &[u32]) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::new();
    for offset in offsets.iter().map(|&offset| offset as usize) {
        match out.last_mut() {
            Some(last) if last.end() == offset => last.groups += 1,
            _ => out.push(Run { offset, groups: 1 }),
        }
    }
    out
}
