use crate::support::{Rig, run};
use jouled::source::State;
use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const DEVICE: &str = "sys/bus/iio/devices/iio:device1";

/// A tree as an accelerometer with a buffer has it, the character device being a FIFO.
struct Tree {
    root: tempfile::TempDir,
    /// Keeps the FIFO open for writing, as a driver does. Gone when unplugged.
    driver: Option<OwnedFd>,
}

impl Tree {
    /// `elements` is where scan elements are: `buffer0` since Linux 5.11, `scan_elements` before.
    fn new(elements: &str, attributes: &str) -> Tree {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree { root, driver: None };
        tree.put("sys/bus/iio/devices/iio:device0/name", "bme280\n");
        tree.put("sys/bus/iio/devices/trigger0/name", "sysfstrig1\n");
        for (file, text) in [
            ("name", "adxl345\n"),
            ("in_accel_scale", "0.5\n"),
            ("in_accel_y_offset", "10\n"),
            ("sampling_frequency", "100\n"),
            ("sampling_frequency_available", "100 200\n"),
            ("trigger/current_trigger", "\n"),
        ] {
            tree.put(&format!("{DEVICE}/{file}"), text);
        }
        for (index, (name, form)) in
            [("accel_x", "le:s12/16>>4"), ("accel_y", "be:s16/16>>0"), ("accel_z", "le:u8/8>>0"), ("timestamp", "le:s64/64>>0")]
                .iter()
                .enumerate()
        {
            for (suffix, text) in [("en", "1".to_string()), ("index", index.to_string()), ("type", form.to_string())] {
                tree.put(&format!("{DEVICE}/{elements}/in_{name}_{suffix}"), &text);
            }
        }
        for (file, text) in [("enable", "0"), ("length", "2"), ("watermark", "1")] {
            tree.put(&format!("{DEVICE}/{attributes}/{file}"), text);
        }
        fs::create_dir_all(tree.path("dev")).unwrap();
        tree.plug();
        tree
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }

    fn put(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, text).unwrap();
    }

    fn get(&self, file: &str) -> String {
        fs::read_to_string(self.path(&format!("{DEVICE}/{file}"))).unwrap()
    }

    fn plug(&mut self) {
        let node = self.path("dev/iio:device1");
        mkfifoat(CWD, &node, Mode::RUSR | Mode::WUSR).unwrap();
        self.driver = Some(rustix::fs::open(&node, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap());
    }

    fn unplug(&mut self) {
        fs::remove_file(self.path("dev/iio:device1")).unwrap();
        self.driver = None;
    }

    fn send(&self, bytes: &[u8]) {
        assert_eq!(rustix::io::write(self.driver.as_ref().unwrap(), bytes), Ok(bytes.len()));
    }

    fn run(&self, keys: &str) -> Rig {
        run(&format!("kind = \"iio\"\ndevice = \"adxl345\"\n{keys}"), self.root.path())
    }
}

/// A scan of x and y, as sensors store them.
fn scan(x: i16, y: i16) -> Vec<u8> {
    [(x << 4 | 5).to_le_bytes(), y.to_be_bytes()].concat()
}

#[test]
fn a_buffered_device_is_set_up_read_and_switched_off() {
    for (elements, attributes) in [("scan_elements", "buffer"), ("buffer0", "buffer0")] {
        let tree = Tree::new(elements, attributes);
        let rig = tree
            .run("channels = [\"accel_y\", \"accel_x\"]\nrate = 200\nlength = 64\nwatermark = 16\ntrigger = \"sysfstrig1\"\nwindow = 2");
        rig.wait(|s| s.state == State::Running);
        let files = ["length", "watermark", "enable"].map(|file| tree.get(&format!("{attributes}/{file}")));
        assert_eq!(files, ["64", "16", "1"]);
        let enabled = ["accel_x", "accel_y", "accel_z", "timestamp"].map(|c| tree.get(&format!("{elements}/in_{c}_en")));
        assert_eq!(enabled, ["1", "1", "0", "0"]);
        assert_eq!((tree.get("sampling_frequency"), tree.get("trigger/current_trigger")), ("200".into(), "sysfstrig1".into()));
        let bytes = [scan(-2048, 300), scan(2047, -300)].concat();
        // In two pieces, cut inside a scan.
        tree.send(&bytes[..3]);
        tree.send(&bytes[3..]);
        let sample = rig.sample();
        assert_eq!(sample.data.shape(), [2, 2]);
        assert_eq!(sample.data.to_f32(), [155.0, -1024.0, -145.0, 1023.5]);
        rig.end();
        assert_eq!(tree.get(&format!("{attributes}/enable")), "0");
    }
}

#[test]
fn padding_and_the_timestamp_follow_the_kernels_layout() {
    let tree = Tree::new("scan_elements", "buffer");
    let rig = tree.run("channels = [\"timestamp\", \"accel_x\", \"accel_z\"]\nwindow = 2");
    rig.wait(|s| s.state == State::Running);
    for (seconds, z) in [(5i64, 7u8), (7, 9)] {
        let mut bytes = vec![0x10, 0x00, z, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA];
        bytes.extend((seconds * 1_000_000_000).to_le_bytes());
        tree.send(&bytes);
    }
    assert_eq!(rig.values(1), [0.0, 0.5, 3.5, 2.0, 0.5, 4.5]);
    rig.end();
}

#[test]
fn an_unplugged_device_comes_back_without_mixing_rows_across_the_gap() {
    let mut tree = Tree::new("scan_elements", "buffer");
    let rig = tree.run("channels = [\"accel_x\"]\nwindow = 2");
    rig.wait(|s| s.state == State::Running);
    tree.send(&[0x10, 0, 0x20, 0, 0x30, 0]);
    assert_eq!(rig.values(1), [0.5, 1.0]);
    rig.wait(|s| s.samples == 3);
    tree.unplug();
    rig.fails_with("iio:device1");
    tree.plug();
    rig.wait(|s| s.state == State::Running);
    tree.send(&[0x40, 0, 0x50, 0]);
    let sample = rig.sample();
    assert_eq!((sample.data.to_f32(), sample.sequence), (vec![2.0, 2.5], 1));
    rig.end();
}

#[test]
fn a_device_that_hangs_stops_promptly() {
    let tree = Tree::new("scan_elements", "buffer");
    let rig = tree.run("channels = [\"accel_x\"]");
    rig.wait(|s| s.state == State::Running);
    rig.end();
    assert_eq!(tree.get("buffer/enable"), "0");
}

#[test]
fn garbage_in_sysfs_is_named_with_its_file_and_tried_again() {
    for (file, text, message) in [
        ("scan_elements/in_accel_x_type", "", "in_accel_x_type: is empty"),
        ("scan_elements/in_accel_x_type", "le:s99/16", "in_accel_x_type: expected a sample form"),
        ("scan_elements/in_accel_x_index", "first", "in_accel_x_index: expected a number, found \"first\""),
        ("in_accel_scale", "big", "in_accel_scale: expected a number, found \"big\""),
    ] {
        let tree = Tree::new("scan_elements", "buffer");
        let good = tree.get(file);
        tree.put(&format!("{DEVICE}/{file}"), text);
        let rig = tree.run("channels = [\"accel_x\"]");
        let status = rig.fails_with(message);
        assert_eq!(status.windows, 0);
        tree.put(&format!("{DEVICE}/{file}"), &good);
        rig.wait(|s| s.state == State::Running);
        tree.send(&[0x10, 0]);
        assert_eq!(rig.values(1), [0.5]);
        rig.end();
    }
}

#[test]
fn what_a_device_lacks_is_said() {
    let tree = Tree::new("scan_elements", "buffer");
    let rig = tree.run("channels = [\"anglvel_x\"]");
    rig.fails_with("no channel \"anglvel_x\"; found accel_x, accel_y, accel_z, timestamp");
    rig.end();
    let rig = run("kind = \"iio\"\ndevice = \"mpu6050\"\nchannels = [\"accel_x\"]", tree.root.path());
    rig.fails_with("no device \"mpu6050\"; found bme280, adxl345");
    rig.end();
    fs::remove_file(tree.path(&format!("{DEVICE}/sampling_frequency"))).unwrap();
    let rig = tree.run("channels = [\"accel_x\"]\nrate = 5");
    rig.fails_with("no sampling_frequency");
    rig.end();
}

/// A thermometer without a buffer.
fn polled(root: &Path, raw: &str) -> PathBuf {
    let device = root.join("sys/bus/iio/devices/iio:device3");
    fs::create_dir_all(&device).unwrap();
    for (file, text) in [("name", "tmp117\n"), ("in_temp_scale", "0.25"), ("in_temp_offset", "-4"), ("in_pressure_input", "101.5\n")] {
        fs::write(device.join(file), text).unwrap();
    }
    fs::write(device.join("in_temp_raw"), raw).unwrap();
    device
}

const POLLED: &str = "kind = \"iio\"\ndevice = \"iio:device3\"\nchannels = [\"temp\", \"pressure\"]\nbuffered = false\nrate = 500";

#[test]
fn a_polled_device_gives_scaled_and_processed_values() {
    let tree = tempfile::tempdir().unwrap();
    let device = polled(tree.path(), "84\n");
    let rig = run(POLLED, tree.path());
    assert_eq!(rig.values(1), [20.0, 101.5]);
    fs::write(device.join("in_temp_raw"), "88\n").unwrap();
    while rig.values(1)[0] != 21.0 {}
    rig.end();
}

#[test]
fn a_polled_value_that_turns_to_garbage_is_skipped_and_then_opened_again() {
    let tree = tempfile::tempdir().unwrap();
    let device = polled(tree.path(), "");
    let rig = run(POLLED, tree.path());
    rig.fails_with("in_temp_raw: is empty");
    fs::write(device.join("in_temp_raw"), "84").unwrap();
    assert_eq!(rig.values(1), [20.0, 101.5]);
    fs::write(device.join("in_temp_raw"), "off").unwrap();
    let status = rig.fails_with("in_temp_raw: expected a number, found \"off\"");
    assert!(status.malformed >= 3, "{status:?}");
    fs::write(device.join("in_temp_raw"), "88").unwrap();
    while rig.values(1)[0] != 21.0 {}
    rig.end();
}

#[test]
fn a_slow_rate_does_not_delay_the_stop() {
    let tree = tempfile::tempdir().unwrap();
    polled(tree.path(), "84");
    let rig = run(&POLLED.replace("500", "0.0001"), tree.path());
    assert_eq!(rig.values(1), [20.0, 101.5]);
    thread::sleep(Duration::from_millis(1));
    rig.end();
}
