//! The C library's heap.
#![allow(unsafe_code, reason = "calls the C library")]

/// Gives freed memory back to the system: glibc keeps it otherwise, and to load a model takes more memory than to run it. Takes
/// milliseconds.
pub fn give_back() {
    // SAFETY: it takes no pointer, and every thread may call it at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use crate::reports::resident_bytes;

    #[test]
    fn freed_memory_is_no_longer_resident() {
        // Much more than what other tests take and give meanwhile.
        let mut small: Vec<Vec<u8>> = (0..4096).map(|_| vec![1; 64 << 10]).collect();
        let full = resident_bytes().unwrap();
        // Every 64th stays: what is free lies between.
        let mut index = 0;
        small.retain(|_| {
            index += 1;
            index % 64 == 0
        });
        super::give_back();
        let left = resident_bytes().unwrap();
        assert!(full > 256 << 20 && left < full - (128 << 20), "{full} bytes, then {left}");
        assert_eq!(small.len(), 64);
    }
}
