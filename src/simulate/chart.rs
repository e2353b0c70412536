//! A run as an SVG picture: five panels over one time axis, ours against the same load that only the firmware slows.

use super::trace::{Row, Trace};
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 76.0;
const PANEL: f64 = 120.0;
const GAP: f64 = 34.0;
const BOTTOM: f64 = 46.0;
/// A line has at most so many points: more are not seen.
const POINTS: usize = 360;
const OURS: &str = "#1f5fa8";
const FREE: &str = "#d9822b";

/// What is drawn.
pub struct Chart<'a> {
    pub title: &'a str,
    pub subtitle: &'a str,
    pub governed: &'a Trace,
    pub free: &'a Trace,
    /// Budgets and limits in the panel of the temperature.
    pub celsius_limits: Vec<Limit>,
    /// The same in the panel of the power.
    pub watts_limits: Vec<Limit>,
}

/// A horizontal line with its name.
pub struct Limit {
    pub value: f64,
    pub name: String,
    /// Ours; otherwise the firmware's.
    pub ours: bool,
}

/// A panel: what it shows and how.
struct Panel<'a> {
    title: &'a str,
    value: fn(&Row) -> Option<f64>,
    /// Whether the axis begins at 0.
    from_zero: bool,
    limits: &'a [Limit],
    /// Whether the firmware's run is drawn, too.
    both: bool,
}

impl Chart<'_> {
    /// The picture's text.
    pub fn svg(&self) -> String {
        let panel = |title, value, from_zero, limits, both| Panel { title, value, from_zero, limits, both };
        let panels = [
            panel("Temperature, °C", |row: &Row| Some(row.celsius), false, &self.celsius_limits[..], true),
            panel("Power, W", |row: &Row| Some(row.watts), true, &self.watts_limits[..], true),
            panel("Throttle level", |row: &Row| Some(row.level as f64), true, &[], false),
            panel("Inferences per second", |row: &Row| Some(row.rate()), true, &[], true),
            panel("Joules per inference", Row::joules_per_inference, true, &[], true),
        ];
        let height = TOP + panels.len() as f64 * (PANEL + GAP) - GAP + BOTTOM;
        let mut out = self.head(height);
        for (i, panel) in panels.iter().enumerate() {
            self.draw(&mut out, panel, TOP + i as f64 * (PANEL + GAP));
        }
        self.time_axis(&mut out, height - BOTTOM);
        out.push_str("</svg>\n");
        out
    }

    fn head(&self, height: f64) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\" \
             fill=\"#333\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        let title = escaped(self.title);
        let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"22\" font-size=\"16\" font-weight=\"bold\">{title}</text>");
        let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"40\" fill=\"#666\">{}</text>", escaped(self.subtitle));
        for (y, colour, name) in [(18.0, OURS, "jouled"), (36.0, FREE, "firmware only")] {
            let x = WIDTH - RIGHT - 90.0;
            let _ = writeln!(out, "<path d=\"M{} {y}h24\" stroke=\"{colour}\" stroke-width=\"2.5\"/>", x - 32.0);
            let _ = writeln!(out, "<text x=\"{x}\" y=\"{}\">{name}</text>", y + 4.0);
        }
        out
    }

    fn draw(&self, out: &mut String, panel: &Panel, top: f64) {
        let (ours, free) = (thinned(self.governed, panel.value), thinned(self.free, panel.value));
        let drawn = if panel.both { &free[..] } else { &[] };
        let values = ours.iter().chain(drawn).map(|(_, value)| *value).chain(panel.limits.iter().map(|limit| limit.value));
        let (low, high, step) = axis(values, panel.from_zero);
        let y = |value: f64| top + PANEL * (1.0 - (value - low) / (high - low));
        let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{:.0}\" font-weight=\"bold\">{}</text>", top - 7.0, panel.title);
        let right = WIDTH - RIGHT;
        for tick in 0..=((high - low) / step).round() as usize {
            let value = low + tick as f64 * step;
            let _ = writeln!(out, "<path d=\"M{LEFT} {:.1}H{right}\" stroke=\"#e3e3e3\"/>", y(value));
            let _ =
                writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 8.0, y(value) + 4.0, number(value, step));
        }
        if panel.both {
            self.line(out, &free, FREE, 1.5, &y);
        }
        self.line(out, &ours, OURS, 2.0, &y);
        for limit in panel.limits {
            let (at, colour) = (y(limit.value), if limit.ours { OURS } else { FREE });
            let _ = writeln!(out, "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"{colour}\" stroke-dasharray=\"5 4\"/>");
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{colour}\" stroke=\"#fff\" stroke-width=\"3\" \
                 paint-order=\"stroke\">{}</text>",
                right - 4.0,
                at - 4.0,
                escaped(&limit.name)
            );
        }
    }

    fn line(&self, out: &mut String, points: &[(f64, f64)], colour: &str, width: f64, y: &impl Fn(f64) -> f64) {
        out.push_str("<polyline points=\"");
        for (seconds, value) in points {
            let _ = write!(out, "{:.1},{:.1} ", self.x(*seconds), y(*value));
        }
        let _ = writeln!(out, "\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>");
    }

    fn time_axis(&self, out: &mut String, y: f64) {
        let (unit, name) = if self.seconds() > 2.0 * 3600.0 { (3600.0, "hours") } else { (60.0, "minutes") };
        let (_, high, step) = axis([0.0, self.seconds() / unit].into_iter(), true);
        let ticks = (0..=(high / step).round() as usize).map(|tick| tick as f64 * step).filter(|at| at * unit <= self.seconds() * 1.001);
        for at in ticks {
            let x = self.x(at * unit);
            let _ = writeln!(out, "<path d=\"M{x:.1} {y}v5\" stroke=\"#888\"/>");
            let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", y + 19.0, number(at, step));
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let _ = writeln!(out, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{name}</text>", y + 37.0);
    }

    fn seconds(&self) -> f64 {
        let ends = [self.governed, self.free].map(|trace| trace.rows.last().map_or(0.0, |row| row.seconds));
        ends[0].max(ends[1]).max(1.0)
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + seconds / self.seconds() * (WIDTH - LEFT - RIGHT)
    }
}

/// Seconds and values, several rows taken together where there are many: their mean, at the time of the last.
fn thinned(trace: &Trace, value: fn(&Row) -> Option<f64>) -> Vec<(f64, f64)> {
    let points: Vec<(f64, f64)> = trace.rows.iter().filter_map(|row| Some((row.seconds, value(row)?))).collect();
    let size = points.len().div_ceil(POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| Some((chunk.last()?.0, chunk.iter().map(|(_, value)| value).sum::<f64>() / chunk.len() as f64));
    points.chunks(size).filter_map(mean).collect()
}

/// Lowest and highest tick, and the step between two: 1, 2 or 5 times a power of ten, three to six of them.
fn axis(values: impl Iterator<Item = f64>, from_zero: bool) -> (f64, f64, f64) {
    let (mut low, mut high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        (low, high) = (0.0, 1.0);
    }
    low = if from_zero { 0.0 } else { low };
    let span = (high - low).max(1e-6);
    let power = 10f64.powf((span / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| span / step <= 5.0).unwrap_or(10.0 * power);
    low = (low / step).floor() * step;
    (low, ((high / step).ceil() * step).max(low + step), step)
}

/// With as many decimals as the step has.
fn number(value: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    format!("{value:.decimals$}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        for (low, high, zero, expected) in
            [(47.3, 84.2, false, (40.0, 90.0, 10.0)), (3.0, 9.1, true, (0.0, 10.0, 2.0)), (0.0, 0.0, true, (0.0, 0.000001, 0.000001))]
        {
            let (a, b, step) = axis([low, high].into_iter(), zero);
            assert!((a - expected.0).abs() < 1e-9 && (b - expected.1).abs() < 1e-6, "{a} {b} {step}");
            assert!(step <= expected.2 + 1e-9);
        }
        assert_eq!((number(0.5, 0.1), number(20.0, 5.0)), ("0.5".to_string(), "20".to_string()));
    }

    #[test]
    fn a_long_run_is_drawn_with_few_points_and_an_empty_one_without_any() {
        let row = |i: usize| Row { seconds: 10.0 * i as f64, celsius: 50.0, length: 10.0, ..Row::default() };
        let long = Trace { rows: (1..=2880).map(row).collect() };
        assert!(thinned(&long, |row| Some(row.celsius)).len() <= POINTS);
        let chart = |governed, free| Chart {
            title: "a < b",
            subtitle: "",
            governed,
            free,
            celsius_limits: vec![Limit { value: 75.0, name: "budget".to_string(), ours: true }],
            watts_limits: Vec::new(),
        };
        let empty = Trace::default();
        let svg = chart(&long, &empty).svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("a &lt; b") && svg.contains(">hours<"));
        assert!(!svg.contains("NaN") && svg.len() < 60_000, "{}", svg.len());
        assert!(!chart(&empty, &empty).svg().contains("NaN"));
    }
}
