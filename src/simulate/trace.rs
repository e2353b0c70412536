//! What happened in a run: rows of ten seconds, and the figures of the whole.

use super::run::Loop;
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

/// Length of a row.
pub const ROW: Duration = Duration::from_secs(10);

/// Ten seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    /// Seconds since the start, at the row's end.
    pub seconds: f64,
    /// Of the die, highest in the row.
    pub celsius: f64,
    /// Mean.
    pub watts: f64,
    /// At the row's end.
    pub level: usize,
    /// At the row's end.
    pub clock: f64,
    /// Whether the firmware lowered it.
    pub firmware: bool,
    pub inferences: u64,
    pub joules: f64,
    /// Of the row, a little other than [`ROW`] where the governor's period is no part of it.
    pub length: f64,
}

impl Row {
    pub fn rate(&self) -> f64 {
        self.inferences as f64 / self.length
    }

    pub fn joules_per_inference(&self) -> Option<f64> {
        (self.inferences > 0).then(|| self.joules / self.inferences as f64)
    }
}

/// All rows of a run.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub rows: Vec<Row>,
}

/// Adds up the row under way.
pub(super) struct Tally {
    begun: (Duration, u64, f64),
    hottest: f64,
}

impl Tally {
    pub(super) fn begin(run: &Loop) -> Tally {
        Tally { begun: (run.now, run.finished, run.board.joules()), hottest: run.board.celsius() }
    }

    pub(super) fn add(&mut self, run: &Loop, trace: &mut Trace) {
        self.hottest = self.hottest.max(run.board.celsius());
        let (now, finished, joules) = self.begun;
        if run.now - now < ROW {
            return;
        }
        let (length, joules) = ((run.now - now).as_secs_f64(), run.board.joules() - joules);
        trace.rows.push(Row {
            seconds: run.now.as_secs_f64(),
            celsius: self.hottest,
            watts: joules / length,
            level: run.throttle.level,
            clock: run.board.clock(),
            firmware: run.board.firmware_clock() < 1.0,
            inferences: run.finished - finished,
            joules,
            length,
        });
        *self = Tally::begin(run);
    }
}

/// A run in a few figures.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    pub hours: f64,
    pub inferences: u64,
    pub per_second: f64,
    pub joules_per_inference: Option<f64>,
    pub mean_watts: f64,
    pub hottest_celsius: f64,
    /// Share of the time in which the firmware lowered the clock.
    pub firmware_throttled: f64,
    /// Mean over the time.
    pub mean_clock: f64,
}

impl Trace {
    /// The figures of the whole run; all 0 where it has no row.
    pub fn summary(&self) -> Summary {
        let sum = |value: fn(&Row) -> f64| self.rows.iter().map(value).sum::<f64>();
        let seconds = sum(|row| row.length);
        let share = |value: f64| if seconds > 0.0 { value / seconds } else { 0.0 };
        let inferences: u64 = self.rows.iter().map(|row| row.inferences).sum();
        let joules = sum(|row| row.joules);
        Summary {
            hours: seconds / 3600.0,
            inferences,
            per_second: share(inferences as f64),
            joules_per_inference: (inferences > 0).then(|| joules / inferences as f64),
            mean_watts: share(joules),
            hottest_celsius: self.rows.iter().map(|row| row.celsius).fold(0.0, f64::max),
            firmware_throttled: share(sum(|row| if row.firmware { row.length } else { 0.0 })),
            mean_clock: share(sum(|row| row.clock * row.length)),
        }
    }
}

/// Both runs, row by row; a run that ended earlier leaves its columns empty.
pub fn csv(governed: &Trace, free: &Trace) -> String {
    let columns = ["celsius", "watts", "level", "clock", "inferences_per_second", "joules_per_inference"];
    let mut text = format!("seconds,{},free_{}\n", columns.join(","), columns.join(",free_"));
    for i in 0..governed.rows.len().max(free.rows.len()) {
        let (ours, theirs) = (governed.rows.get(i), free.rows.get(i));
        let seconds = ours.or(theirs).map_or(0.0, |row| row.seconds);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{seconds:.0},{},{}", cells(ours), cells(theirs));
    }
    text
}

fn cells(row: Option<&Row>) -> String {
    let Some(row) = row else { return ",,,,,".to_string() };
    let joules = row.joules_per_inference().map_or(String::new(), |joules| format!("{joules:.5}"));
    format!("{:.2},{:.3},{},{:.3},{:.3},{joules}", row.celsius, row.watts, row.level, row.clock, row.rate())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_adds_up_and_the_csv_has_a_row_for_each() {
        let row = Row {
            seconds: 10.0,
            celsius: 70.0,
            watts: 5.0,
            level: 2,
            clock: 0.5,
            firmware: true,
            inferences: 20,
            joules: 50.0,
            length: 10.0,
        };
        let ours = Trace { rows: vec![row, Row { seconds: 20.0, clock: 1.0, firmware: false, celsius: 71.0, ..row }] };
        let free = Trace { rows: vec![Row { inferences: 0, ..row }] };
        let summary = ours.summary();
        assert_eq!((summary.inferences, summary.per_second, summary.joules_per_inference), (40, 2.0, Some(2.5)));
        assert_eq!((summary.hottest_celsius, summary.firmware_throttled, summary.mean_clock), (71.0, 0.5, 0.75));
        let csv = csv(&ours, &free);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0].split(',').count(), 13);
        assert_eq!(lines[1], "10,70.00,5.000,2,0.500,2.000,2.50000,70.00,5.000,2,0.500,0.000,");
        assert_eq!(lines[2], "20,71.00,5.000,2,1.000,2.000,2.50000,,,,,,");
        assert_eq!(Trace::default().summary().inferences, 0);
    }
}
