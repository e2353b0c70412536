//! Writes what a source gives to a file that [`super::replay`] reads: CSV with a time column, or NPY.

use super::SourceConfig;
use super::npy::Header;
use super::runner::{Consumer, Stop, run};
use super::status::Shared;
use super::stream::{Batch, Rows, SourceError, Trouble};
use crate::tensor::{Dtype, Tensor};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// What was recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recorded {
    /// Rows, or ready windows.
    pub rows: u64,
    /// Times that the source had to be opened again in between: rows may be missing there.
    pub gaps: u64,
    /// Lines or rows that were left out because they hold something else than finite numbers.
    pub malformed: u64,
}

/// Records a source, through any number of failures, until it ends, `stop` is requested or `limit` has passed. `out` is
/// replaced; its extension, `csv` or `npy`, says what it becomes. It can be replayed at any time, also after a kill: an NPY
/// file then lacks at most the last second. Fails if `out` cannot be written, or if not one row came, and then leaves no file.
pub fn record(config: &SourceConfig, root: &Path, out: &Path, limit: Option<Duration>, stop: &Stop) -> Result<Recorded, SourceError> {
    let mut recorder = Recorder::create(out, stop.clone())?;
    if let Some(limit) = limit {
        stop.end_after(limit);
    }
    let status = Shared::new(&config.name, config.kind.name());
    run(config, root, stop, &status, &mut recorder);
    let status = status.lock().clone();
    match recorder.finish()? {
        (0, _) => {
            fs::remove_file(out).map_err(|e| SourceError::io(out, e))?;
            let reason = status.last_error.unwrap_or_else(|| "it is open and silent, or its recording is empty".into());
            Err(SourceError::new(Trouble::Missing, format!("source {}: no row came: {reason}", config.name)))
        }
        (rows, openings) => Ok(Recorded { rows, gaps: openings - 1, malformed: status.malformed }),
    }
}

/// Collects rows into a file.
struct Recorder {
    writer: Box<dyn Writer>,
    out: std::path::PathBuf,
    stop: Stop,
    shape: Option<Rows>,
    clock: RowClock,
    /// Rows or windows written.
    rows: u64,
    openings: u64,
    failure: Option<SourceError>,
}

impl Recorder {
    fn create(out: &Path, stop: Stop) -> Result<Recorder, SourceError> {
        let file = || File::create(out).map_err(|e| SourceError::io(out, e));
        let writer: Box<dyn Writer> = match out.extension().and_then(|e| e.to_str()) {
            Some("csv") => Box::new(Csv { file: BufWriter::new(file()?) }),
            Some("npy") => Box::new(Npy { file: BufWriter::new(file()?), layout: None, count: 0, fixed: Instant::now() }),
            _ => return Err(SourceError::format(out, "expected a name that ends in .csv or .npy")),
        };
        let (shape, clock, out) = (None, RowClock::default(), out.to_path_buf());
        Ok(Recorder { writer, out, stop, shape, clock, rows: 0, openings: 0, failure: None })
    }

    fn write(&mut self, batch: &Batch, taken: Instant) -> io::Result<()> {
        for window in &batch.windows {
            self.writer.window(window)?;
        }
        let channels = self.shape.as_ref().map_or(1, |s| s.channels.len().max(1));
        for row in batch.rows.chunks_exact(channels) {
            let seconds = self.clock.next(taken);
            self.writer.row(seconds, row)?;
        }
        self.rows += (batch.windows.len() + batch.rows.len() / channels) as u64;
        self.writer.flush()
    }

    /// Rows and openings.
    fn finish(mut self) -> Result<(u64, u64), SourceError> {
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => self.writer.finish().map(|()| (self.rows, self.openings)).map_err(|e| SourceError::io(&self.out, e)),
        }
    }

    /// A failure to write ends the recording: trying again would not help.
    fn fail(&mut self, failure: SourceError) {
        self.failure.get_or_insert(failure);
        self.stop.request();
    }
}

impl Consumer for Recorder {
    fn begin(&mut self, rows: &Rows) -> Result<(), SourceError> {
        self.openings += 1;
        self.clock.begin(rows.rate);
        match &self.shape {
            None => match self.writer.begin(&rows.channels) {
                Ok(()) => self.shape = Some(rows.clone()),
                Err(error) => self.fail(SourceError::io(&self.out, error)),
            },
            Some(before) if before.channels != rows.channels => {
                let message = format!("its channels were {:?} and are now {:?}", before.channels, rows.channels);
                self.fail(SourceError::format(&self.out, message));
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn take(&mut self, batch: &mut Batch, taken: Instant) {
        if self.failure.is_some() {
            return;
        }
        if let Err(error) = self.write(batch, taken) {
            self.fail(SourceError::io(&self.out, error));
        }
    }
}

/// Seconds from the first row to each row: by the source's rate where it is known, which gives even steps although rows arrive
/// in batches, otherwise by their arrival. After a gap they go on at the time of arrival. Never goes back.
#[derive(Default)]
struct RowClock {
    step: Option<f64>,
    start: Option<Instant>,
    last: Option<f64>,
    /// The next row is the first after an opening.
    opened: bool,
}

impl RowClock {
    fn begin(&mut self, rate: Option<f64>) {
        self.step = rate.filter(|r| r.is_finite() && *r > 0.0).map(|r| 1.0 / r);
        self.opened = true;
    }

    fn next(&mut self, taken: Instant) -> f64 {
        let arrived = taken.saturating_duration_since(*self.start.get_or_insert(taken)).as_secs_f64();
        let seconds = match (self.last, self.step) {
            (None, _) => 0.0,
            (Some(last), Some(step)) if !self.opened => last + step,
            (Some(last), step) => arrived.max(last + step.unwrap_or(0.0)),
        };
        self.opened = false;
        self.last = Some(seconds);
        seconds
    }
}

/// One file format.
trait Writer {
    /// Called once, before anything else; `channels` is empty for ready windows.
    fn begin(&mut self, channels: &[String]) -> io::Result<()>;
    fn row(&mut self, seconds: f64, row: &[f32]) -> io::Result<()>;
    fn window(&mut self, window: &Tensor) -> io::Result<()>;
    /// Makes what was written so far readable for others.
    fn flush(&mut self) -> io::Result<()>;
    fn finish(&mut self) -> io::Result<()>;
}

struct Csv {
    file: BufWriter<File>,
}

impl Writer for Csv {
    fn begin(&mut self, channels: &[String]) -> io::Result<()> {
        if channels.iter().any(|c| c == "t") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a channel is named `t`, as is the time column: write .npy"));
        }
        self.file.write_all(b"t")?;
        for name in channels {
            write!(self.file, ",{}", name.replace([',', ';', '"', '\t', '\r', '\n'], "_"))?;
        }
        self.file.write_all(b"\n")
    }

    fn row(&mut self, seconds: f64, row: &[f32]) -> io::Result<()> {
        write!(self.file, "{seconds:.6}")?;
        // The shortest text that reads back as the same number.
        row.iter().try_for_each(|value| write!(self.file, ",{value}"))?;
        self.file.write_all(b"\n")
    }

    fn window(&mut self, _: &Tensor) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "CSV holds no ready windows: write .npy"))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The number of rows is put into the header as they come.
struct Npy {
    file: BufWriter<File>,
    /// Type and shape of one row or window.
    layout: Option<(Dtype, Vec<usize>)>,
    /// Rows or windows so far.
    count: u64,
    /// When the header was last put right.
    fixed: Instant,
}

/// How long the header may lag behind the data.
const FIX_EVERY: Duration = Duration::from_secs(1);

impl Npy {
    fn item(&mut self, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> io::Result<()> {
        match &self.layout {
            None => {
                self.layout = Some((dtype, shape.to_vec()));
                let header = npy_header(dtype, 0, shape)?;
                self.file.write_all(&header)?;
            }
            Some((d, s)) if *d != dtype || s != shape => {
                let message = format!("expected {d}{s:?} like the first window, found {dtype}{shape:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            Some(_) => {}
        }
        self.count += 1;
        self.file.write_all(bytes)
    }

    fn fix_header(&mut self) -> io::Result<()> {
        let Some((dtype, shape)) = &self.layout else { return Ok(()) };
        let header = npy_header(*dtype, self.count, shape)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header)?;
        self.file.seek(SeekFrom::End(0))?;
        self.fixed = Instant::now();
        Ok(())
    }
}

fn npy_header(dtype: Dtype, count: u64, shape: &[usize]) -> io::Result<Vec<u8>> {
    let shape = std::iter::once(count).chain(shape.iter().map(|d| *d as u64)).collect();
    let header = Header { descr: dtype.npy_descr().into(), fortran: false, shape };
    header.to_bytes().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the shape is too long for NPY"))
}

impl Writer for Npy {
    fn begin(&mut self, _: &[String]) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, _: f64, row: &[f32]) -> io::Result<()> {
        let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.item(Dtype::Float32, &[row.len()], &bytes)
    }

    fn window(&mut self, window: &Tensor) -> io::Result<()> {
        self.item(window.dtype(), window.shape(), window.bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.fixed.elapsed() >= FIX_EVERY {
            self.fix_header()?;
        }
        self.file.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.fix_header()?;
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_even_by_rate_and_go_on_after_a_gap() {
        let start = Instant::now();
        let mut clock = RowClock::default();
        clock.begin(Some(4.0));
        let mut times: Vec<f64> = (0..3).map(|_| clock.next(start)).collect();
        clock.begin(Some(4.0));
        times.extend((0..2).map(|_| clock.next(start + Duration::from_secs(10))));
        clock.begin(None);
        times.extend((0..2).map(|_| clock.next(start + Duration::from_secs(10))));
        assert_eq!(times, [0.0, 0.25, 0.5, 10.0, 10.25, 10.25, 10.25]);
    }
}
