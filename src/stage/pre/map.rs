//! What the steps do to a number: an affine map for each channel, a window function along the frames, an affine map again.

/// `value -> gain * value + bias`. In `f64`, so that folding steps into one map costs no accuracy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    pub gain: f64,
    pub bias: f64,
}

impl Affine {
    pub const IDENTITY: Affine = Affine { gain: 1.0, bias: 0.0 };

    pub fn apply(self, value: f64) -> f64 {
        self.gain * value + self.bias
    }

    /// First this map, then `next`.
    pub fn then(self, next: Affine) -> Affine {
        Affine { gain: next.gain * self.gain, bias: next.gain * self.bias + next.bias }
    }
}

/// `after(taper[position] * before(value))`, all of one channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// One for each channel.
    before: Vec<Affine>,
    /// One weight for each position.
    taper: Option<Vec<f64>>,
    /// One for each channel.
    after: Vec<Affine>,
}

impl Map {
    pub fn identity(channels: usize) -> Map {
        Map { before: vec![Affine::IDENTITY; channels], taper: None, after: vec![Affine::IDENTITY; channels] }
    }

    /// Adds an affine map for each channel.
    pub fn then(&mut self, next: impl Fn(usize) -> Affine) {
        let last = if self.taper.is_some() { &mut self.after } else { &mut self.before };
        for (channel, affine) in last.iter_mut().enumerate() {
            *affine = affine.then(next(channel));
        }
    }

    /// Adds a weight for each position; false where there are weights already.
    pub fn taper(&mut self, weights: Vec<f64>) -> bool {
        let first = self.taper.is_none();
        self.taper.get_or_insert(weights);
        first
    }

    pub fn apply(&self, value: f32, channel: usize, position: usize) -> f32 {
        let before = self.before[channel].apply(f64::from(value));
        match &self.taper {
            None => before as f32,
            Some(weights) => self.after[channel].apply(before * weights[position]) as f32,
        }
    }

    pub fn is_identity(&self) -> bool {
        self.taper.is_none() && self.before.iter().all(|affine| *affine == Affine::IDENTITY)
    }

    /// True where every element is mapped alike.
    pub fn is_uniform(&self) -> bool {
        self.taper.is_none() && self.before.windows(2).all(|pair| pair[0] == pair[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn folding_is_applying_one_after_the_other(a in -9.0..9.0f64, b in -9.0..9.0f64, c in -9.0..9.0f64, d in -9.0..9.0f64, x in -1e3..1e3f64) {
            let (first, second) = (Affine { gain: a, bias: b }, Affine { gain: c, bias: d });
            let (folded, stepwise) = (first.then(second).apply(x), second.apply(first.apply(x)));
            prop_assert!((folded - stepwise).abs() <= 1e-9 * (1.0 + stepwise.abs()));
        }
    }

    #[test]
    fn the_window_lies_between_the_maps() {
        let mut map = Map::identity(2);
        map.then(|channel| Affine { gain: 2.0, bias: channel as f64 });
        assert!(!map.is_uniform() && !map.is_identity());
        assert!(map.taper(vec![0.5, 0.0]));
        assert!(!map.taper(vec![1.0, 1.0]));
        map.then(|_| Affine { gain: 1.0, bias: 10.0 });
        assert_eq!(map.apply(3.0, 0, 0), 13.0);
        assert_eq!(map.apply(3.0, 1, 0), 13.5);
        assert_eq!(map.apply(3.0, 1, 1), 10.0);
    }
}
