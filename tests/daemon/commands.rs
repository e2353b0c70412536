//! The command line: what it prints, and its exit codes.

use crate::board::{config, jouled, models, no_broker};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

fn run(args: &[&str]) -> Output {
    jouled().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output as JSON, of a command that must succeed.
fn json(args: &[&str]) -> Value {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn path(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

fn written(dir: &tempfile::TempDir, name: &str, content: &str) -> String {
    let file = dir.path().join(name);
    std::fs::write(&file, content).unwrap();
    path(file)
}

#[test]
fn check_reports_every_error_with_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let good = written(&dir, "good.toml", &config(1883, ""));
    let output = run(&["check", &good]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let wrong = "node = \"a b\"\n[governor]\nmax_celcius = 70\nmax_watts = -1.0\n[[model]]\nname = \"m\"\npath = 3\n";
    let output = run(&["check", &written(&dir, "bad.toml", wrong)]);
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    for part in ["line 3: governor.max_celcius", "did you mean `max_celsius`?", "line 7: model[0].path"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    let semantic = "node = \"a b\"\n[governor]\nmax_watts = -1.0\n";
    let said = text(&run(&["check", &written(&dir, "semantic.toml", semantic)]).stderr);
    for part in ["line 1: node", "line 3: governor.max_watts", "at least one [[model]]"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
}

#[test]
fn an_unknown_key_of_a_source_is_named_with_a_suggestion() {
    let dir = tempfile::tempdir().unwrap();
    let source = "[[source]]\nname = \"s\"\nmodel = \"digits\"\nkind = \"replay\"\npath = \"x.csv\"\nwindw = 3\n";
    let output = run(&["check", &written(&dir, "c.toml", &config(1883, source))]);
    let said = text(&output.stderr);
    assert!(said.contains("windw") && said.contains("did you mean `window`?"), "{said}");
}

#[test]
fn check_loads_the_models_and_exit_codes_differ() {
    let dir = tempfile::tempdir().unwrap();
    let broken = written(&dir, "broken.onnx", "not a model");
    let config = config(1883, "").replace(&path(models().join("digits.onnx")), &broken);
    let file = written(&dir, "c.toml", &config);
    let output = run(&["check", &file]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("broken.onnx"));
    assert!(run(&["check", "--text-only", &file]).status.success());
    assert_eq!(run(&["check", "/nowhere.toml"]).status.code(), Some(3));
    assert_eq!(run(&["inspect", &broken]).status.code(), Some(4));
    assert_eq!(run(&["bench"]).status.code(), Some(2));
    let digits = path(models().join("digits.onnx"));
    let output = run(&["infer", &digits, "--input", &broken]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert_eq!(run(&["inspect", &digits, "--max-file", "1kB"]).status.code(), Some(4));
}

#[test]
fn infer_reads_images_with_the_configured_steps_and_writes_npy() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(&dir, "c.toml", &config(1883, ""));
    let (image, out) = (path(models().join("digits.sample-7.png")), path(dir.path().join("out.npy")));
    let answer = json(&["infer", "digits", "--config", &file, "--input", &image, "--output", &out, "--json"]);
    assert_eq!(answer["result"]["label"], "7", "{answer}");
    assert!(std::fs::read(&out).unwrap().starts_with(b"\x93NUMPY"));
    let golden = path(models().join("digits.sample-7.png"));
    let raw = json(&["infer", &path(models().join("digits.onnx")), "--input", &golden, "--json"]);
    assert_eq!(raw["outputs"][0]["values"].as_array().unwrap().len(), 10, "{raw}");
    assert!(text(&run(&["infer", "digit", "--config", &file, "--input", &image]).stderr).contains("digits"));
}

#[test]
fn bench_prints_its_figures_and_inspect_the_truth_about_int8() {
    let model = path(models().join("vibration.onnx"));
    let bench = json(&["bench", &model, "--seconds", "0.2", "--threads", "1", "--json"]);
    for key in ["model", "threads", "runs", "min_us", "p50_us", "p90_us", "p99_us", "macs", "arena_bytes", "peak_rss_bytes"] {
        assert!(bench.get(key).is_some_and(|v| !v.is_null()), "{key} is missing in {bench}");
    }
    assert!(bench["min_us"].as_f64() <= bench["p50_us"].as_f64());
    let report = json(&["inspect", &model, "--json"]);
    assert_eq!(report["totals"]["macs"], bench["macs"], "{report}");
    assert!(text(&run(&["inspect", &model]).stdout).contains("Conv"));
}

#[test]
fn bench_measures_workers_and_stages() {
    let model = path(models().join("digits.onnx"));
    for (more, stages) in [(&[][..], 1), (&["--cores", "0,0"], 1), (&["--cores", "0,0", "--stages", "2"], 2)] {
        let bench = json(&[&["bench", &model, "--seconds", "0.2", "--workers", "2", "--json"], more].concat());
        assert_eq!((&bench["workers"], &bench["stages"]), (&json!(2), &json!(stages)), "{bench}");
        assert!(bench["inferences"].as_u64() > Some(10) && bench["per_second"].as_f64() > Some(50.0), "{bench}");
    }
    let output = run(&["bench", &model, "--workers", "2", "--cores", "0,0", "--stages", "3"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--stages: expected at most one a CPU of --cores (2), found 3"), "{}", text(&output.stderr));
}

#[test]
fn record_writes_what_replay_reads() {
    let dir = tempfile::tempdir().unwrap();
    let source = "[[source]]\nname = \"s\"\nmodel = \"vibration\"\nkind = \"replay\"\npath = \"$MODELS/vibration.stream.csv\"\npace = \"as-fast-as-possible\"\n";
    let file = written(&dir, "c.toml", &config(1883, source));
    let out = path(dir.path().join("copy.csv"));
    let output = run(&["record", "--config", &file, "--source", "s", "--out", &out]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(&out).unwrap().lines().count(), 15_361);
    let output = run(&["record", "--config", &file, "--source", "t", "--out", &out]);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn doctor_names_what_does_not_work() {
    let dir = tempfile::tempdir().unwrap();
    let source = "[[source]]\nname = \"s\"\nmodel = \"vibration\"\nkind = \"serial\"\ndevice = \"/dev/ttyNOWHERE\"\nchannels = [\"x\"]\n";
    let file = written(&dir, "c.toml", &config(no_broker(), source));
    let root = path(dir.path());
    let output = run(&["doctor", "--config", &file, "--root", &root, "--json"]);
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap();
    let good = |what: &str| {
        let all = diagnosis["configured"].as_array().unwrap();
        all.iter().find(|f| f["what"].as_str().unwrap().starts_with(what)).unwrap_or_else(|| panic!("no {what}"))["good"].as_bool()
    };
    assert_eq!((good("model digits"), good("source s"), good("broker")), (Some(true), Some(false), Some(false)));
    let advice = diagnosis["advice"].to_string();
    assert!(advice.contains("temperature") && advice.contains("ttyNOWHERE"), "{advice}");
}

#[test]
fn simulate_sums_up_writes_rows_and_draws() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(&dir, "c.toml", &config(1883, "[inference]\nworkers = 4\n[governor]\nmax_celsius = 70.0\n"));
    let (csv, svg) = (path(dir.path().join("run.csv")), path(dir.path().join("run.svg")));
    let args = ["simulate", "--board", "pi5", "--hours", "0.5", "--config", &file, "--csv", &csv, "--svg", &svg, "--json"];
    let report = json(&args);
    let (ours, free) = (&report["governed"], &report["firmware_only"]);
    assert!(ours["hottest_celsius"].as_f64() < Some(72.0) && free["hottest_celsius"].as_f64() > Some(80.0), "{report}");
    assert!(ours["inferences"].as_u64() > Some(10_000) && report["efficiency_ratio"].is_number(), "{report}");
    let rows = std::fs::read_to_string(&csv).unwrap();
    assert_eq!((rows.lines().count(), rows.lines().next().unwrap().split(',').count()), (181, 13));
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("max_celsius = 70"), "{drawn}");
    let fan = run(&["simulate", "--board", "pi5", "--hours", "0.1", "--fan"]);
    assert!(text(&fan.stdout).contains("Raspberry Pi 5, fan, 25 °C around") && text(&fan.stdout).contains("joules per inference"));
    for (wrong, code, said) in [
        (&["--board", "pi6"][..], 2, "pi5, jetson-nano"),
        (&["--board", "pi5", "--cooling", "water"], 5, "bare, heatsink, fan"),
        (&["--board", "pi5", "--workers", "5"], 5, "expected 1 to 4 cores together"),
        (&["--board", "pi5", "--hours", "soon"], 2, "expected a number from 0 to 1000"),
        (&["--board", "pi5", "--load", "0s"], 5, "--load from 1ms"),
    ] {
        let output = run(&[&["simulate"], wrong].concat());
        assert_eq!(output.status.code(), Some(code), "{wrong:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{wrong:?}: {}", text(&output.stderr));
    }
}
