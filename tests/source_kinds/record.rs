use crate::support::{LONG, config, run};
use jouled::source::Stop;
use jouled::source::record::record;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

const ROWS: &str = "x,y\n0.1,-3e-9\n123456.79,7\n1e30,0\n5,6\n";

fn replay(path: &Path, more: &str) -> String {
    format!("kind = \"replay\"\npath = {path:?}\npace = \"as-fast-as-possible\"\n{more}")
}

fn values(path: &Path, windows: usize) -> Vec<f32> {
    let rig = run(&replay(path, ""), Path::new("/"));
    let values = rig.values(windows);
    rig.end();
    values
}

#[test]
fn a_recording_replays_as_equal_rows_under_the_same_names() {
    let tree = tempfile::tempdir().unwrap();
    let source = tree.path().join("source.csv");
    fs::write(&source, ROWS).unwrap();
    let expected = values(&source, 4);
    for name in ["out.csv", "out.npy"] {
        let out = tree.path().join(name);
        let recorded = record(&config(&replay(&source, "rate = 4.0")), Path::new("/"), &out, None, &Stop::default()).unwrap();
        assert_eq!((recorded.rows, recorded.gaps, recorded.malformed), (4, 0, 0));
        assert_eq!(values(&out, 4), expected, "{name}");
    }
    let text = fs::read_to_string(tree.path().join("out.csv")).unwrap();
    let times: Vec<&str> = text.lines().map(|l| l.split(',').next().unwrap()).collect();
    assert_eq!(times, ["t", "0.000000", "0.250000", "0.500000", "0.750000"]);
    assert!(text.starts_with("t,x,y\n"));
}

#[test]
fn ready_windows_are_recorded_with_their_type() {
    let tree = tempfile::tempdir().unwrap();
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 3), }\n";
    npy.extend((text.len() as u16).to_le_bytes());
    npy.extend(text.as_bytes());
    npy.extend(0..12u8);
    let source = tree.path().join("source.npy");
    fs::write(&source, npy).unwrap();
    let out = tree.path().join("out.npy");
    record(&config(&replay(&source, "")), Path::new("/"), &out, None, &Stop::default()).unwrap();
    let rig = run(&replay(&out, ""), Path::new("/"));
    let sample = rig.sample();
    assert_eq!((sample.data.shape(), sample.data.bytes()), (&[2, 3][..], &[0u8, 1, 2, 3, 4, 5][..]));
    rig.end();
    let error = record(&config(&replay(&source, "")), Path::new("/"), &tree.path().join("out.csv"), None, &Stop::default()).unwrap_err();
    assert!(error.message.contains("out.csv") && error.message.contains("write .npy"), "{error}");
}

#[test]
fn a_stop_ends_a_recording_that_can_be_replayed() {
    let tree = tempfile::tempdir().unwrap();
    let source = tree.path().join("source.csv");
    fs::write(&source, ROWS).unwrap();
    let out = tree.path().join("out.npy");
    let endless = config(&replay(&source, "loop = true").replace("as-fast-as-possible", "fixed").replace("loop", "rate = 1000.0\nloop"));
    let stop = Stop::default();
    let (stopper, size) = (stop.clone(), out.clone());
    let thread = thread::spawn(move || {
        for _ in 0..LONG.as_millis() {
            if fs::metadata(&size).is_ok_and(|m| m.len() > 200) {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        stopper.request();
    });
    let recorded = record(&endless, Path::new("/"), &out, None, &stop).unwrap();
    thread.join().unwrap();
    assert!(recorded.rows >= 4);
    assert_eq!(values(&out, 4), values(&source, 4));
}

#[test]
fn a_source_that_gives_nothing_leaves_no_file_and_says_why() {
    let tree = tempfile::tempdir().unwrap();
    let out = tree.path().join("out.csv");
    let missing = config(&replay(&tree.path().join("missing.csv"), ""));
    let error = record(&missing, Path::new("/"), &out, Some(Duration::from_millis(20)), &Stop::default()).unwrap_err();
    assert!(error.message.contains("no row came") && error.message.contains("missing.csv"), "{error}");
    assert!(!out.exists());
    let error = record(&missing, Path::new("/"), &tree.path().join("out.wav"), None, &Stop::default()).unwrap_err();
    assert!(error.message.contains(".csv or .npy"), "{error}");
}
