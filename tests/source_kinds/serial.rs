use crate::support::run;
use jouled::source::State;
use rustix::fd::OwnedFd;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Plugs a terminal in as `/dev/ttyUSB0` below `root`.
fn plug(root: &Path) -> OwnedFd {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    symlink(name, root.join("dev/ttyUSB0")).unwrap();
    master
}

fn send(master: &OwnedFd, text: &str) {
    assert_eq!(rustix::io::write(master, text.as_bytes()), Ok(text.len()));
}

#[test]
fn a_terminal_that_is_unplugged_and_plugged_in_again_goes_on() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("dev")).unwrap();
    let rig = run("kind = \"serial\"\ndevice = \"/dev/ttyUSB0\"\nbaud = 9600\nchannels = [\"x\", \"y\"]\nwindow = 2", root.path());
    rig.fails_with("ttyUSB0");

    let master = plug(root.path());
    rig.wait(|s| s.state == State::Running);
    send(&master, "\n1,2\n3,4\ngarbage\n5,6\n");
    assert_eq!(rig.values(1), [1.0, 2.0, 3.0, 4.0]);
    rig.wait(|s| s.samples == 3 && s.malformed == 1);

    drop(master);
    fs::remove_file(root.path().join("dev/ttyUSB0")).unwrap();
    rig.fails_with("ttyUSB0");

    let master = plug(root.path());
    rig.wait(|s| s.state == State::Running);
    send(&master, "\n7,8\n9,10\n");
    let sample = rig.sample();
    assert_eq!((sample.data.to_f32(), sample.sequence), (vec![7.0, 8.0, 9.0, 10.0], 1));
    rig.end();
}
