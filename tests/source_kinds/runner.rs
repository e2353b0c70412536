use crate::support::{LONG, config, run};
use jouled::config::problems::Checker;
use jouled::source::{Offered, SourceConfig, State, start};
use jouled::tensor::Dtype;
use rustix::fs::{CWD, Mode, mkfifoat};
use std::fs;
use std::time::Duration;

#[test]
fn windows_overlap_by_the_hop_and_count_up() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("a.csv"), "t,x,y\n0,1,2\n0.001,3,4\n0.002,5,6\n0.003,7,8\n").unwrap();
    let rig = run("kind = \"replay\"\npath = \"a.csv\"\nwindow = 2\nhop = 1", tree.path());
    let samples: Vec<_> = (0..3).map(|_| rig.sample()).collect();
    for (n, sample) in samples.iter().enumerate() {
        assert_eq!((&*sample.source, sample.sequence, sample.data.shape()), ("motor", n as u64, &[2, 2][..]));
        assert_eq!(sample.data.dtype(), Dtype::Float32);
    }
    assert_eq!(samples[2].data.to_f32(), [5.0, 6.0, 7.0, 8.0]);
    let status = rig.wait(|s| s.state == State::Ended);
    assert_eq!((status.samples, status.windows, status.dropped, status.retries, status.kind), (4, 3, 0, 0, "replay"));
    assert_eq!(status.last_error, None);
    rig.end();
}

#[test]
fn a_source_that_is_missing_at_the_start_is_found_when_it_appears() {
    let tree = tempfile::tempdir().unwrap();
    let rig = run("kind = \"replay\"\npath = \"a.csv\"\npace = \"as-fast-as-possible\"", tree.path());
    let status = rig.fails_with("a.csv");
    assert!(status.retries >= 1);
    // Whole at once, as a device appears.
    fs::write(tree.path().join("b.csv"), "1\n2\n").unwrap();
    fs::rename(tree.path().join("b.csv"), tree.path().join("a.csv")).unwrap();
    assert_eq!(rig.values(2), [1.0, 2.0]);
    rig.wait(|s| s.state == State::Ended);
    rig.end();
}

#[test]
fn a_hung_source_stops_and_delays_no_other() {
    let tree = tempfile::tempdir().unwrap();
    mkfifoat(CWD, tree.path().join("hung.csv"), Mode::RUSR | Mode::WUSR).unwrap();
    fs::write(tree.path().join("a.csv"), "1\n2\n3\n").unwrap();
    let hung = run("kind = \"replay\"\npath = \"hung.csv\"", tree.path());
    hung.wait(|s| s.state == State::Running);
    let other = run("kind = \"replay\"\npath = \"a.csv\"\nrate = 1000.0\nloop = true", tree.path());
    assert_eq!(other.values(4), [1.0, 2.0, 3.0, 1.0]);
    assert_eq!(hung.handle.status().windows, 0);
    hung.end();
    other.end();
}

#[test]
fn a_silent_source_is_opened_again_after_its_timeout() {
    let tree = tempfile::tempdir().unwrap();
    mkfifoat(CWD, tree.path().join("silent.csv"), Mode::RUSR | Mode::WUSR).unwrap();
    let rig = run("kind = \"replay\"\npath = \"silent.csv\"\ntimeout = \"1ms\"", tree.path());
    rig.fails_with("gave nothing");
    rig.wait(|s| s.retries >= 2);
    rig.end();
}

#[test]
fn a_sink_that_drops_is_counted_and_does_not_stop_the_source() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("a.csv"), "1\n2\nhello\n3\n").unwrap();
    let mut config = config("kind = \"replay\"\npath = \"a.csv\"\npace = \"as-fast-as-possible\"");
    config.resolve(tree.path());
    let (sender, sequences) = std::sync::mpsc::channel();
    let sink = move |sample: jouled::source::Sample| {
        sender.send(sample.sequence).unwrap();
        Offered::Dropped
    };
    let handle = start(config, tree.path(), sink).unwrap();
    assert_eq!((0..3).map(|_| sequences.recv_timeout(LONG).unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    // The sink goes when the thread ends.
    assert!(sequences.recv_timeout(LONG).is_err());
    let status = handle.status();
    assert_eq!((status.state, status.windows, status.dropped, status.malformed), (State::Ended, 3, 3, 1));
}

#[test]
fn a_sink_that_panics_ends_its_source_only() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("a.csv"), "1\n").unwrap();
    let mut config = config("kind = \"replay\"\npath = \"a.csv\"\npace = \"as-fast-as-possible\"");
    config.resolve(tree.path());
    let handle = start(config, tree.path(), |_| -> Offered { panic!("on purpose") }).unwrap();
    for _ in 0..1000 {
        if handle.status().state == State::Ended {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(handle.status().last_error.is_some_and(|e| e.contains("panicked")));
    assert!(handle.join(LONG));
}

#[test]
fn ready_windows_keep_their_type_and_refuse_a_window() {
    let tree = tempfile::tempdir().unwrap();
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 2), }\n";
    npy.extend((text.len() as u16).to_le_bytes());
    npy.extend(text.as_bytes());
    npy.extend([0, 1, 2, 3, 4, 5, 6, 7]);
    fs::write(tree.path().join("a.npy"), npy).unwrap();
    let rig = run("kind = \"replay\"\npath = \"a.npy\"\nrate = 500.0", tree.path());
    let sample = rig.sample();
    assert_eq!((sample.data.dtype(), sample.data.shape(), sample.data.bytes()), (Dtype::Uint8, &[2, 2][..], &[0u8, 1, 2, 3][..]));
    assert_eq!(rig.sample().sequence, 1);
    rig.end();
    let rig = run("kind = \"replay\"\npath = \"a.npy\"\nrate = 500.0\nwindow = 4", tree.path());
    rig.fails_with("expected window = 1, found 4");
    rig.end();
}

#[test]
fn a_source_reads_and_writes_as_toml_and_refuses_what_it_does_not_know() {
    let keys = "kind = \"iio\"\ndevice = \"adxl345\"\nchannels = [\"accel_x\"]\nrate = 3200\nwindow = 256\nhop = 128\ntimeout = \"5s\"";
    let config = config(keys);
    let text = toml::to_string(&config).unwrap();
    assert!(SourceConfig::KEYS.iter().all(|key| text.contains(key)), "{text}");
    assert_eq!(toml::from_str::<SourceConfig>(&text).unwrap(), config, "{text}");
    let head = "name = \"a\"\nmodel = \"b\"\n";
    for (toml, message) in [
        ("kind = \"iio\"\nchanels = []", "unknown field `chanels`"),
        ("kind = \"iio\"\nwindw = 3", "unknown field `windw`"),
        ("kind = \"camera\"", "unknown variant `camera`"),
        ("window = 3", "missing field `kind`"),
        ("kind = \"iio\"\nretry = { mn = 1 }", "unknown field `mn`"),
    ] {
        let error = toml::from_str::<SourceConfig>(&format!("{head}{toml}")).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn every_problem_is_reported_by_its_key() {
    let text = "name = \"\"\nmodel = \"\"\nwindow = 0\nhop = 0\ntimeout = 0\nretry = { min = \"2s\", max = \"1s\" }\nkind = \"iio\"\n\
                device = \"../x\"\nchannels = [\"a\", \"a\", \"b/c\"]\nbuffered = false\nlength = 1\nwatermark = 9\ntrigger = \"t\"";
    let config: SourceConfig = toml::from_str(text).unwrap();
    let mut problems = Vec::new();
    config.check(&mut Checker::new(&mut problems).below("source").below("[0]"));
    let keys: Vec<_> = problems.iter().map(|p| p.key.strip_prefix("source[0].").unwrap()).collect();
    let expected = [
        "name",
        "model",
        "window",
        "hop",
        "timeout",
        "retry.max",
        "device",
        "channels[1]",
        "channels[2]",
        "rate",
        "length",
        "watermark",
        "length",
        "watermark",
        "trigger",
    ];
    assert_eq!(keys, expected);
}
