//! Writes what a package brings besides the program: man pages and shell completions from the command line's own definition, and
//! jouled.toml(5) from the README's section on the configuration.
//!
//!     cargo run --example manual -- target/manual
//!
//! It runs where the package is made, whatever machine the package is for, and costs the daemon nothing.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::roff::{Roff, bold, roman};
use jouled::cli::Cli;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or_else(|| io::Error::other("usage: manual FOLDER"))?;
    fs::create_dir_all(&folder)?;
    clap_mangen::generate_to(Cli::command(), &folder)?;
    fs::write(folder.join("jouled.toml.5"), configuration(include_str!("../README.md"))?)?;
    completions(&folder)
}

/// Under the names that each shell's folder of completions expects.
fn completions(folder: &Path) -> io::Result<()> {
    for (shell, name) in [(Shell::Bash, "jouled.bash"), (Shell::Zsh, "_jouled"), (Shell::Fish, "jouled.fish")] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "jouled", &mut text);
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}

/// The section's paragraphs, and its block of TOML as it is.
fn configuration(readme: &str) -> io::Result<String> {
    let section = readme.split("\n## The configuration\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let section = section.ok_or_else(|| io::Error::other("README.md has no section `## The configuration`"))?;
    let mut page = Roff::new();
    page.control("TH", ["jouled.toml", "5", "", concat!("jouled ", env!("CARGO_PKG_VERSION"))]);
    page.control("SH", ["NAME"]).text([roman("jouled.toml - the configuration of jouled(1)")]);
    page.control("SH", ["SYNOPSIS"]).text([bold("/etc/jouled/jouled.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    for (index, part) in section.split("```").enumerate() {
        if index % 2 == 1 {
            page.control("nf", []).text([roman(part.trim_start_matches("toml\n"))]).control("fi", []);
            continue;
        }
        for paragraph in part.split("\n\n").filter(|p| !p.trim().is_empty()) {
            page.text([roman(paragraph.trim().replace('`', ""))]).control("PP", []);
        }
    }
    page.control("SH", ["SEE ALSO"]).text([roman("jouled(1), /usr/share/doc/jouled")]);
    Ok(page.render())
}
