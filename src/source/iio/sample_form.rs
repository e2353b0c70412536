//! The form of a scan element (`[be|le]:[s|u|f]bits/storagebits[Xrepeat][>>shift]`) and where elements lie in a scan,
//! by the kernel's Documentation/ABI/testing/sysfs-bus-iio and drivers/iio/industrialio-buffer.c.

use half::f16;
use std::fmt;
use std::str::FromStr;

/// How the stored bits mean a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Two's complement.
    Signed,
    Unsigned,
    /// IEEE 754 of 16, 32 or 64 bits.
    Float,
}

/// One scan element: `repeat` numbers, each of `storage_bits`, of which `bits` are valid after a right shift by `shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleForm {
    pub big_endian: bool,
    pub coding: Coding,
    /// 1 to 64.
    pub bits: u32,
    /// A multiple of 8, up to 64.
    pub storage_bits: u32,
    /// 1 or more.
    pub repeat: usize,
    /// `bits + shift <= storage_bits`.
    pub shift: u32,
}

/// Most numbers in one element.
const MAX_REPEAT: usize = 256;

impl SampleForm {
    /// Bytes of one number.
    pub fn number_size(&self) -> usize {
        (self.storage_bits / 8) as usize
    }

    /// Bytes of the element, to which it is also aligned.
    pub fn size(&self) -> usize {
        self.number_size() * self.repeat
    }

    /// The valid bits of the number in the first [`SampleForm::number_size`] of `bytes`; missing bytes count as zero.
    fn valid_bits(&self, bytes: &[u8]) -> u64 {
        let mut le = [0u8; 8];
        let size = self.number_size();
        for (to, from) in le.iter_mut().zip(bytes.iter().take(size)) {
            *to = *from;
        }
        if self.big_endian {
            le[..size].reverse();
        }
        (u64::from_le_bytes(le) >> self.shift) & (u64::MAX >> (64 - self.bits))
    }

    /// The number as an integer; a float's bits.
    pub fn integer(&self, bytes: &[u8]) -> i128 {
        let valid = self.valid_bits(bytes);
        match self.coding {
            // The valid bits move to the top, and the shift back repeats the sign.
            Coding::Signed => i128::from((valid << (64 - self.bits)) as i64 >> (64 - self.bits)),
            Coding::Unsigned | Coding::Float => i128::from(valid),
        }
    }

    /// The number before offset and scale.
    pub fn value(&self, bytes: &[u8]) -> f64 {
        match (self.coding, self.bits) {
            (Coding::Float, 16) => f16::from_bits(self.valid_bits(bytes) as u16).to_f64(),
            (Coding::Float, 32) => f64::from(f32::from_bits(self.valid_bits(bytes) as u32)),
            (Coding::Float, _) => f64::from_bits(self.valid_bits(bytes)),
            _ => self.integer(bytes) as f64,
        }
    }
}

impl FromStr for SampleForm {
    type Err = String;

    fn from_str(text: &str) -> Result<SampleForm, String> {
        let wrong = || format!("expected a sample form such as le:s12/16>>4, found {:?}", text.chars().take(40).collect::<String>());
        let form = split_form(text.trim()).ok_or_else(wrong)?;
        let storage_holds = form.storage_bits.is_multiple_of(8) && (8..=64).contains(&form.storage_bits);
        let bits_hold = form.bits >= 1 && form.bits.checked_add(form.shift).is_some_and(|n| n <= form.storage_bits);
        let float_holds = form.coding != Coding::Float || (matches!(form.bits, 16 | 32 | 64) && form.bits == form.storage_bits);
        let repeat_holds = (1..=MAX_REPEAT).contains(&form.repeat);
        if storage_holds && bits_hold && float_holds && repeat_holds { Ok(form) } else { Err(wrong()) }
    }
}

/// Takes the form apart without judging its numbers.
fn split_form(text: &str) -> Option<SampleForm> {
    let (endian, rest) = text.split_once(':')?;
    let big_endian = match endian {
        "be" => true,
        "le" => false,
        _ => return None,
    };
    let coding = match rest.chars().next()? {
        's' => Coding::Signed,
        'u' => Coding::Unsigned,
        'f' => Coding::Float,
        _ => return None,
    };
    let (bits, rest) = rest.get(1..)?.split_once('/')?;
    let (rest, shift) = rest.split_once(">>").unwrap_or((rest, "0"));
    let (storage, repeat) = rest.split_once('X').unwrap_or((rest, "1"));
    let repeat: usize = digits(repeat)?;
    let (bits, storage_bits, shift) = (digits(bits)?, digits(storage)?, digits(shift)?);
    // The kernel leaves out a repeat of 0 or 1.
    Some(SampleForm { big_endian, coding, bits, storage_bits, repeat: repeat.max(1), shift })
}

fn digits<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for SampleForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let coding = match self.coding {
            Coding::Signed => 's',
            Coding::Unsigned => 'u',
            Coding::Float => 'f',
        };
        write!(f, "{}:{coding}{}/{}", if self.big_endian { "be" } else { "le" }, self.bits, self.storage_bits)?;
        if self.repeat > 1 {
            write!(f, "X{}", self.repeat)?;
        }
        write!(f, ">>{}", self.shift)
    }
}

/// Byte offset of each element, which are in the order of their index with the timestamp last, and bytes of a whole scan.
/// Each element is aligned to its own size; the scan is padded to the largest.
pub fn layout<'a>(forms: impl IntoIterator<Item = &'a SampleForm>) -> (Vec<usize>, usize) {
    let (mut offsets, mut end, mut largest) = (Vec::new(), 0usize, 1);
    for size in forms.into_iter().map(SampleForm::size) {
        let offset = end.next_multiple_of(size);
        offsets.push(offset);
        end = offset + size;
        largest = largest.max(size);
    }
    (offsets, end.next_multiple_of(largest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every integer form with a storage of 8, 16, 32 or 64 bits.
    fn integer_forms() -> impl Strategy<Value = SampleForm> {
        let storage = prop::sample::select(vec![8u32, 16, 24, 32, 64]);
        storage.prop_flat_map(|storage_bits| (1..=storage_bits, Just(storage_bits))).prop_flat_map(|(bits, storage_bits)| {
            (any::<bool>(), any::<bool>(), 0..=storage_bits - bits, 1usize..5).prop_map(move |(big_endian, signed, shift, repeat)| {
                let coding = if signed { Coding::Signed } else { Coding::Unsigned };
                SampleForm { big_endian, coding, bits, storage_bits, repeat, shift }
            })
        })
    }

    /// What a driver does: the value in the valid bits, anything around them.
    fn encode(form: &SampleForm, value: i128, noise: u64) -> Vec<u8> {
        let mask = (u64::MAX >> (64 - form.bits)) << form.shift;
        let stored = (((value as u64) << form.shift) & mask) | (noise & !mask);
        let mut bytes = stored.to_le_bytes()[..form.number_size()].to_vec();
        if form.big_endian {
            bytes.reverse();
        }
        bytes
    }

    proptest! {
        #[test]
        fn a_form_reads_as_it_prints(form in integer_forms()) {
            prop_assert_eq!(form.to_string().parse::<SampleForm>(), Ok(form));
        }

        #[test]
        fn integers_decode_as_encoded_whatever_the_other_bits_hold(form in integer_forms(), seed in any::<u64>(), noise in any::<u64>()) {
            let span = 1i128 << form.bits;
            let low = if form.coding == Coding::Signed { -(span / 2) } else { 0 };
            let value = low + i128::from(seed) % span;
            for value in [value, low, low + span - 1] {
                let bytes = encode(&form, value, noise);
                prop_assert_eq!(form.integer(&bytes), value);
                prop_assert_eq!(form.value(&bytes), value as f64);
            }
        }

        #[test]
        fn elements_are_aligned_apart_and_inside_the_scan(forms in prop::collection::vec(integer_forms(), 1..8)) {
            let (offsets, scan) = layout(&forms);
            let mut end = 0;
            for (form, offset) in forms.iter().zip(&offsets) {
                prop_assert!(offset.is_multiple_of(form.size()) && *offset >= end && *offset < end + form.size());
                end = offset + form.size();
            }
            let largest = forms.iter().map(SampleForm::size).max().unwrap_or(1);
            prop_assert!(scan >= end && scan < end + largest && scan.is_multiple_of(largest));
        }

        #[test]
        fn no_text_panics(text in "[bels:uf0-9/X>]{0,24}") {
            if let Ok(form) = text.parse::<SampleForm>() {
                form.value(&[0xFF; 8]);
                form.value(&[]);
            }
        }
    }

    #[test]
    fn forms_from_drivers() {
        let form: SampleForm = "le:s12/16>>4\n".parse().unwrap();
        assert_eq!(form.integer(&[0xF0, 0x7F]), 2047);
        assert_eq!(form.integer(&[0x0F, 0x80]), -2048);
        let form: SampleForm = "be:u24/32>>8".parse().unwrap();
        assert_eq!(form.integer(&[0x12, 0x34, 0x56, 0xFF]), 0x123456);
        let quaternion: SampleForm = "le:s32/32X4>>0".parse().unwrap();
        assert_eq!((quaternion.repeat, quaternion.size()), (4, 16));
        let float: SampleForm = "be:f32/32".parse().unwrap();
        assert_eq!(float.value(&1.5f32.to_be_bytes()), 1.5);
        assert_eq!("le:f16/16".parse::<SampleForm>().unwrap().value(&f16::from_f32(-2.0).to_le_bytes()), -2.0);
        assert_eq!("le:f64/64".parse::<SampleForm>().unwrap().value(&0.1f64.to_le_bytes()), 0.1);
    }

    #[test]
    fn three_axes_and_a_timestamp_take_sixteen_bytes() {
        let axis: SampleForm = "le:s16/16>>0".parse().unwrap();
        let time: SampleForm = "le:s64/64>>0".parse().unwrap();
        assert_eq!(layout(&[axis, axis, axis, time]), (vec![0, 2, 4, 8], 16));
        assert_eq!(layout(&[axis, time, axis]), (vec![0, 8, 16], 24));
    }

    #[test]
    fn what_is_no_form_is_refused_with_what_was_found() {
        for text in
            ["", "le", "xx:s8/8", "le:q8/8", "le:s0/8", "le:s9/8", "le:s8/12", "le:s12/16>>5", "le:s8/72", "le:f12/16", "le:s8/8X999"]
        {
            let error = text.parse::<SampleForm>().unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
        assert!("le:s8/8>>99999999999".parse::<SampleForm>().is_err());
        assert!("le:s+8/8".parse::<SampleForm>().is_err());
    }
}
