//! The command line: what can be asked, and the exit code of each answer.

mod bench;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod infer;
mod inspect;
mod output;
mod record;
mod run;
mod simulate;

use crate::config::value::Size;
use crate::engine::Limits;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Runs int8 ONNX models on a small board, answers over MQTT, and keeps within a temperature and power budget.
#[derive(Parser, Debug)]
#[command(name = "jouled", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Says more: once for debug messages, twice for traces. `RUST_LOG` overrides it.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the daemon with a configuration file.
    Run(run::Args),
    /// Show the whole thing at work: an embedded broker, shipped models, a replayed sensor, requests over MQTT.
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    /// Check a configuration file, its models and label files; report every error with its line and key.
    Check(check::Args),
    /// Run one model on one input and print its output.
    Infer(infer::Args),
    /// Time a model's inference alone, on inputs that are the same every time.
    Bench(bench::Args),
    /// Show what is in a model: nodes, shapes, parameters, multiplications, memory, and what runs in int8.
    Inspect(inspect::Args),
    /// Record a configured source into a file that a replay source reads.
    Record(record::Args),
    /// Say what this board is, what can be read on it and what not, and what to change.
    Doctor(doctor::Args),
    /// Try a configuration's budgets on a simulated board, faster than real time, before you buy a fan.
    Simulate(simulate::Args),
}

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  it failed while running
  2  the command line is wrong
  3  the configuration is wrong
  4  a model does not load
  5  an input cannot be read or does not fit the model
  6  doctor found something to change";

/// What a model may cost, for commands that take a model's file.
#[derive(clap::Args, Debug)]
struct LimitArgs {
    /// Refuse a larger file.
    #[arg(long, value_name = "SIZE", default_value_t = Limits::default().max_file)]
    max_file: Size,
    /// Refuse a model whose weights and activations need more.
    #[arg(long, value_name = "SIZE", default_value_t = Size::mib(1024))]
    max_memory: Size,
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        Limits { max_file: self.max_file, max_memory: self.max_memory }
    }
}

/// Why a command failed: one variant for each exit code.
#[derive(Debug)]
pub enum Failure {
    Running(String),
    Usage(String),
    Configuration(String),
    Model(String),
    Input(String),
    Findings,
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Running(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Configuration(_) => 3,
            Failure::Model(_) => 4,
            Failure::Input(_) => 5,
            Failure::Findings => 6,
        }
    }

    fn message(&self) -> Option<&str> {
        match self {
            Failure::Running(m) | Failure::Usage(m) | Failure::Configuration(m) | Failure::Model(m) | Failure::Input(m) => Some(m),
            Failure::Findings => None,
        }
    }
}

/// Runs the command and gives its exit code; errors go to stderr.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    let done = match cli.command {
        Command::Run(args) => run::main(&args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::main(&args),
        Command::Check(args) => check::main(&args),
        Command::Infer(args) => infer::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Inspect(args) => inspect::main(&args),
        Command::Record(args) => record::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Simulate(args) => simulate::main(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                eprintln!("jouled: {message}");
            }
            ExitCode::from(failure.code())
        }
    }
}

/// Levels: error = something was lost or stopped, warn = degraded but going on, info = a change of state, debug = each
/// step, trace = each byte. Libraries below warn are silent unless asked for. Under systemd the journal has the time.
fn start_log(verbose: u8) {
    let level = ["info", "debug", "trace"][usize::from(verbose.min(2))];
    let filter = format!("warn,jouled={level},tract_onnx=error,rumqttd=off");
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter));
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.format_timestamp(None);
    } else {
        builder.format_timestamp_millis();
    }
    builder.init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
