//! Reads bytes from a file, pipe or device without ever waiting longer than it was told to.

use super::stream::SourceError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// An open file with the bytes of it that were read and not yet used.
pub struct Reader {
    fd: OwnedFd,
    path: PathBuf,
    /// The descriptor never blocks, so that a read can be tried although poll saw nothing: some drivers report an unplugged
    /// device by the read alone. Standard input stays blocking, as the mode would be shared with other processes.
    nonblocking: bool,
    buffer: Vec<u8>,
    used: usize,
}

/// What a [`Reader::fill`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// There are more bytes than before.
    More,
    /// Nothing came in time.
    Nothing,
    /// Nothing will come.
    End,
}

/// Bytes asked for at once.
const CHUNK: usize = 1 << 16;
/// Pause where poll reports readiness and the read finds nothing, which must not become a busy loop.
const SPURIOUS: Duration = Duration::from_millis(10);

impl Reader {
    /// Opens with `flags` on top of those that keep it from blocking; a terminal never becomes the controlling one.
    pub fn open(path: &Path, flags: OFlags) -> Result<Reader, SourceError> {
        let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| SourceError::io(path, e))?;
        Ok(Reader { fd, path: path.to_path_buf(), nonblocking: true, buffer: Vec::new(), used: 0 })
    }

    pub fn stdin() -> Result<Reader, SourceError> {
        let path = PathBuf::from("standard input");
        let fd = io::stdin().as_fd().try_clone_to_owned().map_err(|e| SourceError::io(&path, e))?;
        Ok(Reader::blocking(fd, path))
    }

    fn blocking(fd: OwnedFd, path: PathBuf) -> Reader {
        Reader { fd, path, nonblocking: false, buffer: Vec::new(), used: 0 }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Bytes read and not yet consumed.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    /// Marks the first `count` of [`Reader::bytes`] as used.
    pub fn consume(&mut self, count: usize) {
        self.used = (self.used + count).min(self.buffer.len());
    }

    /// Waits at most `patience` for bytes and reads once.
    pub fn fill(&mut self, patience: Duration) -> Result<Fill, SourceError> {
        let ready = match self.wait(patience) {
            Ok(ready) => ready,
            Err(Errno::INTR) => return Ok(Fill::Nothing),
            Err(error) => return Err(SourceError::io(&self.path, error)),
        };
        if !ready && !self.nonblocking {
            return Ok(Fill::Nothing);
        }
        match self.read() {
            Ok(0) if ready => Ok(Fill::End),
            // A pipe that no writer has opened yet reads as ended but does not poll as readable.
            Ok(0) => Ok(Fill::Nothing),
            Ok(_) => Ok(Fill::More),
            Err(Errno::AGAIN | Errno::INTR) => {
                if ready {
                    thread::sleep(patience.min(SPURIOUS));
                }
                Ok(Fill::Nothing)
            }
            Err(error) => Err(SourceError::io(&self.path, error)),
        }
    }

    fn wait(&self, patience: Duration) -> Result<bool, Errno> {
        let timeout = Timespec { tv_sec: patience.as_secs() as _, tv_nsec: patience.subsec_nanos() as _ };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&timeout))? > 0)
    }

    fn read(&mut self) -> Result<usize, Errno> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + CHUNK, 0);
        let outcome = rustix::io::read(&self.fd, &mut self.buffer[filled..]);
        self.buffer.truncate(filled + *outcome.as_ref().unwrap_or(&0));
        outcome
    }

    /// Goes back to the start of the file.
    pub fn rewind(&mut self) -> Result<(), SourceError> {
        rustix::fs::seek(&self.fd, rustix::fs::SeekFrom::Start(0)).map_err(|e| SourceError::io(&self.path, e))?;
        self.buffer.clear();
        self.used = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::stream::Trouble;
    use std::io::Write;

    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn a_blocking_pipe_is_never_waited_for_too_long() {
        let (from, mut to) = io::pipe().unwrap();
        let mut reader = Reader::blocking(from.into(), "pipe".into());
        assert_eq!(reader.fill(SHORT), Ok(Fill::Nothing));
        to.write_all(b"abc").unwrap();
        assert_eq!((reader.fill(SHORT), reader.bytes()), (Ok(Fill::More), &b"abc"[..]));
        reader.consume(2);
        to.write_all(b"d").unwrap();
        drop(to);
        assert_eq!((reader.fill(SHORT), reader.bytes()), (Ok(Fill::More), &b"cd"[..]));
        assert_eq!(reader.fill(SHORT), Ok(Fill::End));
        reader.consume(99);
        assert!(reader.bytes().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_sorted_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Reader::open(&directory.path().join("none"), OFlags::RDONLY).err().unwrap();
        assert!(missing.trouble == Trouble::Missing && missing.message.contains("none"), "{missing}");
        let error = Reader::open(directory.path(), OFlags::RDONLY).unwrap().fill(SHORT).unwrap_err();
        assert_eq!(error.trouble, Trouble::Format);
    }

    #[test]
    fn a_file_is_read_again_from_its_start() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"12").unwrap();
        let mut reader = Reader::open(file.path(), OFlags::RDONLY).unwrap();
        for _ in 0..2 {
            assert_eq!((reader.fill(SHORT), reader.bytes()), (Ok(Fill::More), &b"12"[..]));
            assert_eq!(reader.fill(SHORT), Ok(Fill::End));
            reader.rewind().unwrap();
        }
    }
}
