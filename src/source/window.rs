//! Cuts a stream of rows into windows.

/// Holds the rows of the window that is being filled. A window starts every `hop` rows, the first with the first row.
/// After a gap a new one is made: rows before and after it never share a window.
pub struct Windower {
    /// Values per row.
    channels: usize,
    /// Values per window and per hop.
    window: usize,
    hop: usize,
    /// Values of the next window, less than `window` of them between calls.
    pending: Vec<f32>,
    /// Values that lie between the last window and the next.
    skip: usize,
}

impl Windower {
    /// `channels`, `window` and `hop` (in rows) are at least 1.
    pub fn new(channels: usize, window: usize, hop: usize) -> Windower {
        let (channels, window, hop) = (channels.max(1), window.max(1), hop.max(1));
        Windower { channels, window: window * channels, hop: hop * channels, pending: Vec::new(), skip: 0 }
    }

    /// Takes whole rows and gives each completed window `[window, channels]` to `emit`.
    pub fn push(&mut self, mut rows: &[f32], mut emit: impl FnMut(&[f32])) {
        debug_assert!(rows.len().is_multiple_of(self.channels));
        while !rows.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(rows.len());
                self.skip -= skipped;
                rows = &rows[skipped..];
                continue;
            }
            let (taken, rest) = rows.split_at((self.window - self.pending.len()).min(rows.len()));
            self.pending.extend_from_slice(taken);
            rows = rest;
            if self.pending.len() == self.window {
                emit(&self.pending);
                self.pending.drain(..self.hop.min(self.window));
                self.skip = self.hop.saturating_sub(self.window);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: window `k` is rows `k*hop .. k*hop + window`.
    fn naive(rows: &[f32], channels: usize, window: usize, hop: usize) -> Vec<Vec<f32>> {
        let count = rows.len() / channels;
        (0..).map(|k| k * hop).take_while(|s| s + window <= count).map(|s| rows[s * channels..(s + window) * channels].to_vec()).collect()
    }

    proptest! {
        #[test]
        fn windows_are_those_of_the_definition_however_the_rows_arrive(
            channels in 1usize..4, window in 1usize..9, hop in 1usize..20, count in 0usize..120, cuts in prop::collection::vec(0usize..120, 0..8),
        ) {
            let rows: Vec<f32> = (0..count * channels).map(|v| v as f32).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(count) * channels).collect();
            cuts.extend([0, rows.len()]);
            cuts.sort_unstable();
            let mut windower = Windower::new(channels, window, hop);
            let mut got = Vec::new();
            for pair in cuts.windows(2) {
                windower.push(&rows[pair[0]..pair[1]], |w| got.push(w.to_vec()));
            }
            prop_assert_eq!(got, naive(&rows, channels, window, hop));
        }
    }
}
