//! A board in the files of a real one, below a folder.

use super::board::Board;
use super::spec::{Description, Shows, expand};
use std::io;
use std::path::{Path, PathBuf};

/// The files, and what was last written into those that change.
pub struct Tree {
    root: PathBuf,
    live: Vec<(PathBuf, Shows, String)>,
}

impl Tree {
    /// Lays out the board's fixed files below `root`, creating it where it is missing, and shows `board` in the others.
    /// `board` has one of the description's coolings. Errors: of the file system, with the path.
    pub fn lay_out(description: &Description, board: &Board, root: &Path) -> io::Result<Tree> {
        for (path, text) in description.files.iter().chain(&board.spec.cooling.files) {
            for path in expand(path) {
                write(&root.join(path), text)?;
            }
        }
        let live = description.live.iter().flat_map(|live| expand(&live.path).into_iter().map(|path| (path, live.shows.clone())));
        let live = live.map(|(path, shows)| (root.join(path), shows, String::new())).collect();
        let mut tree = Tree { root: root.to_path_buf(), live };
        tree.show(board, board.watts())?;
        Ok(tree)
    }

    /// Shows the board as it is now, and `watts` as its power: a monitor that averages shows the mean since the last look.
    pub fn show(&mut self, board: &Board, watts: f64) -> io::Result<()> {
        for (path, shows, last) in &mut self.live {
            let text = text(shows, board, watts);
            if text != *last {
                write(path, &text)?;
                *last = text;
            }
        }
        Ok(())
    }

    /// The folder that stands for `/`.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// The clock that `scaling_max_freq` allows, over the hardware's maximum; the mean of all processors. 1 where it cannot be read.
pub fn clock_cap(root: &Path) -> f64 {
    let khz = |cpu: &Path, name: &str| std::fs::read_to_string(cpu.join("cpufreq").join(name)).ok()?.trim().parse::<f64>().ok();
    let cpus = std::fs::read_dir(root.join("sys/devices/system/cpu")).into_iter().flatten().flatten().map(|entry| entry.path());
    let caps: Vec<f64> = cpus.filter_map(|cpu| Some(khz(&cpu, "scaling_max_freq")? / khz(&cpu, "cpuinfo_max_freq")?)).collect();
    if caps.is_empty() { 1.0 } else { (caps.iter().sum::<f64>() / caps.len() as f64).clamp(0.01, 1.0) }
}

fn text(shows: &Shows, board: &Board, watts: f64) -> String {
    match *shows {
        Shows::Celsius { offset } => format!("{:.0}\n", (board.sensed() + offset) * 1000.0),
        Shows::Clock { max_khz } => format!("{:.0}\n", max_khz * board.clock()),
        // Capped and throttled.
        Shows::Throttled => format!("{:x}\n", if board.firmware_clock() < 1.0 { 0b110 } else { 0 }),
        Shows::Milliamperes { volts, share } => format!("{:.0}\n", watts * share / volts * 1e3),
        Shows::Microjoules { range } => format!("{}\n", (board.joules() * 1e6) as u64 % range.max(1)),
        Shows::Percent => format!("{:.0}\n", board.charge().unwrap_or(100.0)),
        Shows::Microamperes { volts } => format!("{:.0}\n", watts / volts * 1e6),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(named)?;
    }
    std::fs::write(path, text).map_err(named)
}
