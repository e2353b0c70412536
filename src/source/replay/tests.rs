use super::*;
use crate::source::stream::{PATIENCE, Trouble};
use crate::tensor::Dtype;
use proptest::prelude::*;
use std::fs;
use std::io::Write;

fn config(path: &Path) -> ReplayConfig {
    ReplayConfig { path: path.to_path_buf(), pace: Pace::AsFastAsPossible, ..ReplayConfig::default() }
}

/// Everything until an error, and that error.
fn drain(source: &mut dyn Source, limit: usize) -> (Batch, Option<SourceError>) {
    let mut all = Batch::default();
    for _ in 0..1000 {
        let mut batch = Batch::default();
        let outcome = source.read(&mut batch, PATIENCE);
        all.rows.append(&mut batch.rows);
        all.windows.append(&mut batch.windows);
        all.malformed += batch.malformed;
        all.complaint = batch.complaint.or(all.complaint);
        if let Err(error) = outcome {
            return (all, Some(error));
        }
        if all.rows.len() + all.windows.len() >= limit {
            return (all, None);
        }
    }
    panic!("neither {limit} values nor an end");
}

fn replay(name: &str, content: &[u8], change: impl FnOnce(&mut ReplayConfig)) -> (Vec<String>, Batch, Option<SourceError>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    let mut config = config(&path);
    change(&mut config);
    let mut source = config.open(Path::new("/")).unwrap();
    let (batch, error) = drain(source.as_mut(), 10_000);
    (source.shape().channels.clone(), batch, error)
}

#[test]
fn csv_with_a_header_gives_the_columns_that_were_asked_for() {
    let text = b"# made by a machine\nt,x,\"y\"\n0.0,1,2\n0.5,3,4\r\n\n1.0,5,6";
    let (names, batch, error) = replay("a.csv", text, |_| {});
    assert_eq!((names, batch.rows), (vec!["x".into(), "y".into()], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    assert_eq!(error.unwrap().trouble, Trouble::End);
    let (_, batch, _) = replay("a.csv", text, |c| c.channels = vec!["y".into()]);
    assert_eq!(batch.rows, [2.0, 4.0, 6.0]);
    let (_, _, error) = replay("a.csv", text, |c| c.channels = vec!["z".into()]);
    let error = error.unwrap();
    assert_eq!(error.trouble, Trouble::Format);
    assert!(error.message.contains("a.csv: has no column \"z\""), "{error}");
}

#[test]
fn malformed_lines_are_counted_and_skipped() {
    let (_, batch, error) = replay("a.csv", b"1,2\n3\nx,4\nnan,5\n6,inf\n\xff\n7,8\n", |_| {});
    assert_eq!((batch.rows, batch.malformed), (vec![1.0, 2.0, 7.0, 8.0], 5));
    assert_eq!(error.unwrap().trouble, Trouble::End);
}

#[test]
fn json_lines_are_read_by_member_or_by_position() {
    let (names, batch, _) = replay("a.jsonl", b"[1,2]\n[3,4]\n[5]\n", |_| {});
    assert_eq!((names, batch.rows, batch.malformed), (vec!["ch0".into(), "ch1".into()], vec![1.0, 2.0, 3.0, 4.0], 1));
    let (names, batch, _) = replay("a.json", b"{\"t\":0,\"x\":1}\n{\"t\":1,\"x\":2}\n", |c| c.channels = vec!["x".into()]);
    assert_eq!((names, batch.rows), (vec!["x".into()], vec![1.0, 2.0]));
}

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
    out.extend(data);
    out
}

#[test]
fn npy_gives_rows_or_ready_windows_of_their_own_type() {
    let data: Vec<u8> = [1i16, -2, 3, -4].iter().flat_map(|v| v.to_be_bytes()).collect();
    let (names, batch, _) = replay("a.npy", &npy(">i2", "(2, 2)", &data), |_| {});
    assert_eq!((names.len(), batch.rows), (2, vec![1.0, -2.0, 3.0, -4.0]));
    let (names, batch, _) = replay("a.npy", &npy(">i2", "(4,)", &data), |_| {});
    assert_eq!((names.len(), batch.rows.len()), (1, 4));
    let (names, batch, _) = replay("a.npy", &npy("|u1", "(2, 2, 3)", &[7; 12]), |_| {});
    assert!(names.is_empty());
    let expected = Tensor::from_bytes(Dtype::Uint8, vec![2, 3], vec![7; 6]).unwrap();
    assert_eq!(batch.windows, [expected.clone(), expected]);
    let (_, batch, _) = replay("a.npy", &npy(">i2", "(1, 2, 2)", &data), |_| {});
    assert_eq!(batch.windows, [Tensor::from_f32(vec![2, 2], &[1.0, -2.0, 3.0, -4.0]).unwrap()]);
}

#[test]
fn bad_npy_files_are_refused_by_name() {
    let cases: [(&[u8], &str); 8] = [
        (&npy("<f4", "(2, 99999999999999999, 99999999999999999)", &[]), "bytes per index"),
        (b"PK\x03\x04", "is no .npy file"),
        (b"\x93NUM", "ends inside its .npy header"),
        (&npy("<c8", "(1,)", &[0; 8]), "<c8"),
        (&npy("<f4", "()", &[0; 4]), "scalar"),
        (&npy("<f4", "(1, 99999999999, 9)", &[]), "bytes per index"),
        (&npy("<f4", "(1, 0)", &[]), "bytes per index"),
        (&npy("<f4", "nonsense", &[]), "does not parse"),
    ];
    for (content, message) in cases {
        let (_, _, error) = replay("a.npy", content, |_| {});
        let error = error.unwrap();
        assert!(error.trouble == Trouble::Format && error.message.contains(message) && error.message.contains("a.npy"), "{error}");
    }
    let mut fortran = npy("<f4", "(2, 2)", &[0; 16]);
    let at = fortran.windows(5).position(|w| w == b"False").unwrap();
    fortran[at..at + 5].copy_from_slice(b"True ");
    let (_, _, error) = replay("a.npy", &fortran, |_| {});
    assert!(error.unwrap().message.contains("Fortran"));
}

#[test]
fn a_recording_that_ends_inside_a_row_keeps_the_rows_before() {
    let (_, batch, error) = replay("a.npy", &npy("<f4", "(9, 1)", &[0; 10]), |_| {});
    assert_eq!((batch.rows.len(), batch.malformed, error.unwrap().trouble), (2, 1, Trouble::End));
    let (_, batch, _) = replay("a.raw", &[1, 2, 3, 4, 5], |c| {
        c.channels = vec!["x".into(), "y".into()];
        c.dtype = Some(Element::Uint8);
    });
    assert_eq!((batch.rows, batch.malformed), (vec![1.0, 2.0, 3.0, 4.0], 1));
}

#[test]
fn a_loop_repeats_and_an_empty_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.csv");
    fs::write(&path, "x\n1\n2\n3\n").unwrap();
    let config = ReplayConfig { repeat: true, ..config(&path) };
    let (batch, error) = drain(config.open(Path::new("/")).unwrap().as_mut(), 8);
    assert_eq!((&batch.rows[..7], error), (&[1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0][..], None));
    fs::write(&path, "x\n").unwrap();
    let (_, error) = drain(config.open(Path::new("/")).unwrap().as_mut(), 8);
    assert!(error.unwrap().message.contains("no rows"));
}

#[test]
fn rows_come_no_earlier_than_they_are_due() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.csv");
    fs::write(&path, "t,x\n5.00,1\n5.02,2\n5.04,3\n").unwrap();
    let config = ReplayConfig { pace: Pace::Recorded, ..config(&path) };
    let start = Instant::now();
    let (batch, _) = drain(config.open(Path::new("/")).unwrap().as_mut(), 10);
    assert_eq!(batch.rows, [1.0, 2.0, 3.0]);
    assert!(start.elapsed() >= Duration::from_millis(40));
}

#[test]
fn a_pipe_gives_nothing_until_it_is_written_and_ends_with_its_writer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.csv");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let config = config(&path);
    let mut source = config.open(Path::new("/")).unwrap();
    let mut batch = Batch::default();
    source.read(&mut batch, Duration::from_millis(1)).unwrap();
    assert!(batch.is_empty());
    let mut writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all(b"1,2\n3,").unwrap();
    assert_eq!(drain(source.as_mut(), 2).0.rows, [1.0, 2.0]);
    writer.write_all(b"4\n").unwrap();
    drop(writer);
    let (batch, error) = drain(source.as_mut(), 10);
    assert_eq!((batch.rows, error.unwrap().trouble), (vec![3.0, 4.0], Trouble::End));
    let looped = ReplayConfig { repeat: true, ..config };
    assert!(looped.open(Path::new("/")).is_err());
}

#[test]
fn the_configuration_is_checked_by_key() {
    let check = |config: &ReplayConfig| {
        let mut found = Vec::new();
        config.check(&mut Checker::new(&mut found));
        found.into_iter().map(|p| p.key).collect::<Vec<_>>()
    };
    assert!(check(&config(Path::new("a.csv"))).is_empty());
    let bad = ReplayConfig {
        path: "-".into(),
        repeat: true,
        rate: Some(-1.0),
        dtype: Some(Element::Int16),
        channels: vec!["x".into(), "x".into()],
        ..ReplayConfig::default()
    };
    assert_eq!(check(&bad), ["format", "loop", "rate", "dtype", "channels[1]"]);
    let raw = ReplayConfig { path: "a.raw".into(), pace: Pace::Fixed, ..ReplayConfig::default() };
    assert_eq!(check(&raw), ["rate", "dtype", "channels"]);
}

/// Feeds bytes as a reader would. Every step must use up bytes it has, or ask for more.
fn exhaust(mut decoder: impl Decoder, bytes: &[u8], cut: usize) {
    let (mut start, mut end) = (0, cut.min(bytes.len()));
    let mut row = Vec::new();
    for _ in 0..=2 * bytes.len() + 2 {
        let last = end == bytes.len();
        row.clear();
        match decoder.decode(&bytes[start..end], last, &mut row) {
            Ok(Decoded::Item(_, used)) => {
                assert!(used >= 1 && start + used <= end);
                start += used;
            }
            Ok(Decoded::NeedMore(used)) => {
                assert!(start + used <= end);
                start += used;
                if last {
                    return;
                }
                end = bytes.len();
            }
            Ok(Decoded::End) | Err(_) => return,
        }
    }
    panic!("no progress at {start} of {}", bytes.len());
}

proptest! {
    #[test]
    fn no_recording_hangs_or_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200, text in "[ -~\n]{0,200}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            exhaust(Text::new(LineFormat::Csv, Vec::new()), bytes, cut);
            exhaust(Text::new(LineFormat::Json, vec!["x".into()]), bytes, cut);
            exhaust(Binary::raw(Element::Float32, vec!["x".into(), "y".into()]), bytes, cut);
            exhaust(Binary::npy(Vec::new()), bytes, cut);
            exhaust(Binary::npy(Vec::new()), &npy("<i2", "(9, 3)", bytes), cut);
            exhaust(Binary::npy(Vec::new()), &npy("<f2", "(9, 3, 2)", bytes), cut);
        }
    }
}
