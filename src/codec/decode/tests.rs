use super::*;
use ::image::codecs::jpeg::JpegEncoder;
use ::image::{DynamicImage, ImageFormat, RgbImage};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ciborium::cbor;
use proptest::prelude::*;
use std::io::Cursor;

fn port(name: &str, dtype: Dtype, shape: &[usize]) -> Port {
    let spec = TensorSpec { name: name.into(), dtype, shape: shape.to_vec(), quant: None };
    Port { declared: spec.clone(), native: spec }
}

fn one(dtype: Dtype) -> Vec<Port> {
    vec![port("x", dtype, &[1, 2, 3])]
}

fn of(payload: impl AsRef<[u8]>, content_type: Option<&str>, ports: &[Port]) -> Result<Decoded, Rejection> {
    decode(payload.as_ref(), content_type, ports, &DecodeLimits::default())
}

fn json(payload: &str) -> Result<Decoded, Rejection> {
    of(payload, Some("application/json"), &one(Dtype::Float32))
}

fn cbor_bytes(value: &ciborium::Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn text(id: &str) -> Option<Id> {
    Some(Id::Text(id.into()))
}

fn picture(width: u32, height: u32) -> DynamicImage {
    DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, |x, y| ::image::Rgb([x as u8, y as u8, (x * y) as u8])))
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn code(result: Result<Decoded, Rejection>) -> Code {
    result.unwrap_err().code
}

const SIX: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.5];

fn six(shape: &[usize]) -> Vec<Input> {
    vec![Input::Numbers { values: SIX.to_vec(), shape: Some(shape.to_vec()) }]
}

#[test]
fn json_objects_and_arrays_nested_or_flat() {
    let expected = Decoded { id: text("a7"), inputs: six(&[2, 3]) };
    assert_eq!(json(r#"{"id": "a7", "data": [[1, 2, 3], [4, 5, 6.5]], "note": {"any": [1]}}"#).unwrap(), expected);
    assert_eq!(json("[1, 2, 3, 4, 5, 6.5]").unwrap(), Decoded { id: None, inputs: six(&[6]) });
    assert_eq!(
        json(r#"{"id": 7, "data": [1,2,3,4,5,6.5], "shape": [3, 2]}"#).unwrap(),
        Decoded { id: Some(Id::Int(7)), inputs: six(&[3, 2]) }
    );
    assert_eq!(json(r#"{"id": null, "inputs": {"x": [1,2,3,4,5,6.5]}}"#).unwrap(), Decoded { id: None, inputs: six(&[6]) });
    let scalar = of("{\"data\": 5}", None, &[port("x", Dtype::Float32, &[1])]).unwrap();
    assert_eq!(scalar.inputs, [Input::Numbers { values: vec![5.0], shape: Some(vec![]) }]);
}

#[test]
fn several_inputs_come_by_name_in_any_order() {
    let ports = [port("a", Dtype::Float32, &[1, 1]), port("b", Dtype::Int64, &[1, 2])];
    let found = of(r#"{"inputs": {"b": {"data": [9007199254740993, -1]}, "a": [0.5]}, "id": 1.5}"#, None, &ports).unwrap();
    assert_eq!(found.id, Some(Id::Float(1.5)));
    assert_eq!(found.inputs[0], Input::Numbers { values: vec![0.5], shape: Some(vec![1]) });
    let bytes = [9007199254740993i64, -1].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(found.inputs[1], Input::Raw(Tensor::from_bytes(Dtype::Int64, vec![2], bytes).unwrap()));
    let missing = of(r#"{"inputs": {"a": [1]}}"#, None, &ports).unwrap_err();
    assert_eq!((missing.code, missing.message.as_str()), (Code::WrongShape, "input `b` is missing"));
    let other = of(r#"{"inputs": {"a": [1], "b": [1, 2], "c": [1]}}"#, None, &ports).unwrap_err();
    assert!(other.message.contains("`c` is not an input"), "{other}");
    assert_eq!(code(of(r#"{"inputs": {"a": [1], "a": [1]}}"#, None, &ports)), Code::Malformed);
    let many: Vec<String> = (0..100_000).map(|i| format!("\"{i}\": 1")).collect();
    let rejection = of(format!("{{\"inputs\": {{{}}}}}", many.join(",")), Some("application/json"), &ports).unwrap_err();
    assert!(rejection.message.contains("at most 64 inputs"), "{rejection}");
    assert_eq!(code(of("[1, 2]", None, &ports)), Code::WrongShape);
    assert_eq!(code(of([0; 20], None, &ports)), Code::WrongShape);
}

#[test]
fn base64_holds_a_raw_tensor_or_an_image() {
    let bytes: Vec<u8> = SIX.iter().flat_map(|v| v.to_le_bytes()).collect();
    let text = BASE64_STANDARD.encode(&bytes);
    let tensor = |shape: &[usize]| vec![Input::Raw(Tensor::from_bytes(Dtype::Float32, shape.to_vec(), bytes.clone()).unwrap())];
    assert_eq!(json(&format!(r#"{{"base64": "{text}"}}"#)).unwrap().inputs, tensor(&[1, 2, 3]));
    let unpadded = text.trim_end_matches('=');
    assert_eq!(json(&format!(r#"{{"shape": [6], "base64": "{unpadded}", "dtype": "float32"}}"#)).unwrap().inputs, tensor(&[6]));
    assert_eq!(code(json(&format!(r#"{{"base64": "{text}", "dtype": "int8"}}"#))), Code::WrongDtype);
    assert_eq!(code(json(&format!(r#"{{"base64": "{text}", "dtype": "float64"}}"#))), Code::WrongDtype);
    assert_eq!(code(json(&format!(r#"{{"base64": "{text}", "shape": [7]}}"#))), Code::WrongLength);
    assert_eq!(code(json(r#"{"base64": "AAAA"}"#)), Code::WrongLength);
    assert_eq!(code(json(r#"{"base64": "A*"}"#)), Code::Malformed);
    let png = BASE64_STANDARD.encode(encoded(&picture(4, 3), ImageFormat::Png));
    let found = json(&format!(r#"{{"base64": "{png}"}}"#)).unwrap();
    assert!(matches!(&found.inputs[..], [Input::Image(p)] if (p.width(), p.height(), p.channels()) == (4, 3, 3)));
}

#[test]
fn cbor_has_the_same_members_and_byte_strings() {
    let ports = one(Dtype::Float32);
    let numbers = cbor!({"id" => "q", "data" => [[1, 2, 3], [4, 5, 6.5]]}).unwrap();
    let found = of(cbor_bytes(&numbers), Some("application/cbor"), &ports).unwrap();
    assert_eq!(found, Decoded { id: text("q"), inputs: six(&[2, 3]) });
    let bytes: Vec<u8> = SIX.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = vec![Input::Raw(Tensor::from_bytes(Dtype::Float32, vec![1, 2, 3], bytes.clone()).unwrap())];
    let with_bytes = cbor!({"id" => 3, "data" => ciborium::Value::Bytes(bytes.clone())}).unwrap();
    let found = of(cbor_bytes(&with_bytes), Some("application/cbor"), &ports).unwrap();
    assert_eq!(found, Decoded { id: Some(Id::Int(3)), inputs: tensor.clone() });
    assert_eq!(of(cbor_bytes(&ciborium::Value::Bytes(bytes)), Some("application/cbor"), &ports).unwrap().inputs, tensor);
    let jpeg = ciborium::Value::Bytes(encoded(&picture(80, 70), ImageFormat::Jpeg));
    let named = cbor!({"inputs" => {"x" => jpeg}}).unwrap();
    let found = of(cbor_bytes(&named), Some("application/cbor"), &ports).unwrap();
    assert!(matches!(&found.inputs[..], [Input::Image(p)] if (p.width(), p.height()) == (80, 70)));
    let long = cbor!({"base64" => BASE64_STANDARD.encode(vec![7; 9000])}).unwrap();
    let found = of(cbor_bytes(&long), Some("application/cbor"), &[port("x", Dtype::Uint8, &[1, 9000])]).unwrap();
    assert!(matches!(&found.inputs[..], [Input::Raw(t)] if t.bytes() == vec![7; 9000]));
}

#[test]
fn malformed_cbor_says_where() {
    let ports = one(Dtype::Float32);
    let refused = |bytes: &[u8]| of(bytes, Some("application/cbor"), &ports).unwrap_err();
    let cut = refused(&[0x86, 0x01]);
    assert!(cut.code == Code::Malformed && cut.message.contains("in the middle"), "{cut}");
    assert!(refused(&[0x01, 0x01]).message.contains("1 bytes follow"));
    assert_eq!(refused(&[0x81; 100_000]).code, Code::Malformed);
    // An array that claims 2^62 elements.
    assert_eq!(refused(&[0x9B, 0x40, 0, 0, 0, 0, 0, 0, 0, 1]).code, Code::Malformed);
    // A byte string that claims 2^62 bytes.
    assert_eq!(refused(&[0x5B, 0x40, 0, 0, 0, 0, 0, 0, 0, 1]).code, Code::Malformed);
    let nan = cbor!([1, 2, 3, 4, 5, f64::NAN]).unwrap();
    assert_eq!(refused(&cbor_bytes(&nan)).code, Code::NotFinite);
}

#[test]
fn malformed_json_names_line_and_column() {
    let rejection = json("{\"data\": [1,\n 2,, 3]}").unwrap_err();
    assert_eq!(rejection.code, Code::Malformed);
    assert!(rejection.message.contains("line 2 column 4"), "{rejection}");
    for bad in
        ["{\"data\": ", "{}", "null", "\"text\"", "[\"a\"]", "{\"data\": {}}", "{\"data\": [1], \"base64\": \"AA\"}", "{\"dtata\": [1]}"]
    {
        assert_eq!(code(json(bad)), Code::Malformed, "{bad}");
    }
    assert_eq!(code(json("[NaN]")), Code::Malformed);
    assert_eq!(code(of([b'{', 0xFF, b'}'], Some("application/json"), &one(Dtype::Float32))), Code::Malformed);
    assert_eq!(code(json(&format!("{{\"id\": \"{}\", \"data\": [1,2,3,4,5,6]}}", "a".repeat(257)))), Code::Malformed);
}

#[test]
fn nesting_is_bounded() {
    for depth in [9, 200, 1_000_000] {
        let rejection = json(&("[".repeat(depth) + &"]".repeat(depth))).unwrap_err();
        assert_eq!(rejection.code, Code::Malformed, "{depth}");
        let objects = "{\"data\":".repeat(depth);
        assert_eq!(code(json(&objects)), Code::Malformed);
    }
    let eight = "[".repeat(8) + "1" + &"]".repeat(8);
    assert!(of(eight, None, &[port("x", Dtype::Float32, &[1])]).is_ok());
}

#[test]
fn numbers_that_do_not_fit_are_named() {
    let too_many = format!("{{\"data\": [1,2,3,4,5,6], \"shape\": [{}, 2]}}", usize::MAX);
    let cases = [
        ("[1, 2, 3, 4, 5]", Code::WrongLength),
        ("[1, 2, 3, 4, 5, 6, 7]", Code::WrongLength),
        ("[]", Code::WrongLength),
        ("[[1, 2, 3], [4, 5]]", Code::WrongShape),
        ("[[1, 2, 3], 4, 5, 6]", Code::WrongShape),
        ("[1, 2, 3, 4, 5, []]", Code::WrongShape),
        ("[1, 2, 3, 4, 5, null]", Code::NotFinite),
        ("[1, 2, 3, 4, 5, 1e39]", Code::NotFinite),
        ("[1, 2, 3, 4, 5, 1e400]", Code::NotFinite),
        ("[1, 2, 3, 4, 5, true]", Code::WrongDtype),
        ("{\"data\": [1,2,3,4,5,6], \"shape\": [5]}", Code::WrongLength),
        (&too_many, Code::WrongLength),
        ("{\"data\": [1,2,3,4,5,6], \"shape\": [-1]}", Code::Malformed),
        ("{\"data\": [1,2,3,4,5,6], \"dtype\": \"int8\"}", Code::WrongDtype),
    ];
    for (payload, expected) in cases {
        assert_eq!(code(json(payload)), expected, "{payload}");
    }
    assert!(json("[1, 2, 3, 4, 5]").unwrap_err().message.contains("expected 6 numbers, found 5"));
    assert!(json("[1, 2, null, 1e39, 5]").unwrap_err().message.contains("element 2 is null"));
    let big = json("[18446744073709551615, 9223372036854775808, 3, 4, 5, 123456789012345678901234567890]").unwrap();
    assert!(matches!(&big.inputs[..], [Input::Numbers { values, .. }] if values[0] == 18446744073709551615.0 && values[5] == 1.2345679e29));
}

#[test]
fn integers_stay_exact_and_in_range() {
    let ports = one(Dtype::Int32);
    let found = of("[1, -2, 16777217, 4, 5, 2147483647]", None, &ports).unwrap();
    assert!(matches!(&found.inputs[..], [Input::Raw(t)] if t.bytes()[8..12] == 16777217i32.to_le_bytes()));
    assert_eq!(code(of("[1, 2, 3, 4, 5, 2147483648]", None, &ports)), Code::WrongDtype);
    assert_eq!(code(of("[1, 2, 3, 4, 5, 6.0]", None, &ports)), Code::WrongDtype);
}

#[test]
fn the_format_is_found_without_a_content_type() {
    let ports = one(Dtype::Float32);
    let png = encoded(&picture(5, 4), ImageFormat::Png);
    assert!(matches!(&of(&png, None, &ports).unwrap().inputs[..], [Input::Image(_)]));
    assert!(matches!(&of(" \n[1,2,3,4,5,6]", None, &ports).unwrap().inputs[..], [Input::Numbers { .. }]));
    assert!(matches!(&of([b'{'; 24], None, &ports).unwrap().inputs[..], [Input::Raw(_)]));
    assert_eq!(code(of("{\"data\": ", None, &ports)), Code::Malformed);
    let length = of([0; 23], None, &ports).unwrap_err();
    assert_eq!(length.code, Code::WrongLength);
    assert!(length.message.contains("x float32[1, 2, 3]") && length.message.contains("expected 24 bytes, found 23"), "{length}");
    assert_eq!(code(of([], None, &ports)), Code::EmptyPayload);
    assert_eq!(code(of([0; 24], Some("video/mp4"), &ports)), Code::UnknownContentType);
    assert_eq!(code(of([0; 24], Some("image/png"), &ports)), Code::BadImage);
    assert_eq!(code(of(&png, Some("application/octet-stream"), &ports)), Code::WrongLength);
}

#[test]
fn images_decode_to_grey_or_rgb() {
    let ports = one(Dtype::Float32);
    let image = picture(7, 5);
    let found = of(encoded(&image, ImageFormat::Png), Some("image/png"), &ports).unwrap();
    assert!(matches!(&found.inputs[..], [Input::Image(p)] if p.data() == image.as_bytes()));
    let grey = encoded(&DynamicImage::ImageLuma8(image.to_luma8()), ImageFormat::Png);
    assert!(matches!(&of(grey, None, &ports).unwrap().inputs[..], [Input::Image(p)] if p.channels() == 1));
    let alpha = encoded(&DynamicImage::ImageRgba16(image.to_rgba16()), ImageFormat::Png);
    assert!(matches!(&of(alpha, None, &ports).unwrap().inputs[..], [Input::Image(p)] if p.data() == image.as_bytes()));
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 90).encode_image(&image).unwrap();
    assert!(
        matches!(&of(&jpeg, None, &ports).unwrap().inputs[..], [Input::Image(p)] if (p.width(), p.height(), p.channels()) == (7, 5, 3))
    );
    assert_eq!(code(of(&jpeg[..20], None, &ports)), Code::BadImage);
    let large = encoded(&picture(200, 200), ImageFormat::Jpeg);
    assert_eq!(code(of(&large[..large.len() / 2], None, &ports)), Code::BadImage, "half a JPEG");
    let large = encoded(&picture(200, 200), ImageFormat::Png);
    assert_eq!(code(of(&large[..large.len() / 2], None, &ports)), Code::BadImage, "half a PNG");
}

/// A PNG whose header claims a size; its pixels are not there.
fn png_that_claims(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encoded(&picture(1, 1), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[test]
fn a_decompression_bomb_is_refused_by_its_header() {
    let ports = one(Dtype::Float32);
    for (width, height) in [(4097, 4096), (65_535, 65_535), (i32::MAX as u32, 1), (60_000, 60_000)] {
        let rejection = of(png_that_claims(width, height), None, &ports).unwrap_err();
        assert_eq!(rejection.code, Code::ImageTooLarge, "{rejection}");
    }
    let rejection = of(png_that_claims(5000, 5000), None, &ports).unwrap_err();
    assert!(rejection.message.contains("5000x5000") && rejection.message.contains("16777216 pixels"), "{rejection}");
    let tight = DecodeLimits { max_image_memory: Size(100), ..DecodeLimits::default() };
    let refused = decode(&encoded(&picture(10, 10), ImageFormat::Png), None, &ports, &tight).unwrap_err();
    assert_eq!(refused.code, Code::ImageTooLarge);
    // Within the limits, but without its pixels.
    assert_eq!(code(of(png_that_claims(100, 100), None, &ports)), Code::BadImage);
    let mut jpeg = encoded(&picture(8, 8), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF]);
    assert_eq!(code(of(&jpeg, None, &ports)), Code::ImageTooLarge);
}

#[test]
fn an_id_is_peeked_for_error_replies() {
    assert_eq!(peek_id(br#"{"data": "wrong", "id": "a"}"#, None), text("a"));
    assert_eq!(peek_id(br#"{"id": 12}"#, Some("application/json")), Some(Id::Int(12)));
    let bytes = cbor_bytes(&cbor!({"data" => [1, 2], "id" => "b"}).unwrap());
    assert_eq!(peek_id(&bytes, Some("application/cbor")), text("b"));
    assert_eq!(peek_id(b"{\"id\": ", None), None);
    assert_eq!(peek_id(b"[1]", None), None);
    assert_eq!(peek_id(&[0; 9], Some("application/octet-stream")), None);
    let long = format!(r#"{{"id": "a", "data": "{}"}}"#, "0".repeat(PEEK_LIMIT));
    assert_eq!(peek_id(long.as_bytes(), None), None);
}

#[test]
fn limits_are_checked_by_key() {
    let mut found = Vec::new();
    DecodeLimits { max_image_pixels: 0, max_image_memory: Size(0) }.check(&mut Checker::new(&mut found));
    assert_eq!(found.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), ["max_image_pixels", "max_image_memory"]);
    assert!(toml::from_str::<DecodeLimits>("max_pixels = 1").is_err());
}

fn content_types() -> impl Strategy<Value = Option<&'static str>> {
    proptest::sample::select(vec![
        None,
        Some("application/json"),
        Some("application/cbor"),
        Some("application/octet-stream"),
        Some("image/png"),
        Some("image/jpeg"),
    ])
}

/// Valid payloads of every format, to be damaged.
fn valid() -> Vec<(Option<&'static str>, Vec<u8>)> {
    let json = br#"{"id": "a", "inputs": {"x": {"data": [[1, 2, 3], [4, 5, 6.5]], "dtype": "float32"}}, "shape": [1, 2, 3]}"#;
    let value = cbor!({"id" => 5, "data" => [[1, 2, 3], [4, 5, 6.5]], "shape" => [1, 2, 3], "base64" => "AAAA"}).unwrap();
    let image = picture(9, 7);
    vec![
        (Some("application/json"), json.to_vec()),
        (Some("application/cbor"), cbor_bytes(&value)),
        (None, encoded(&image, ImageFormat::Png)),
        (None, encoded(&image, ImageFormat::Jpeg)),
        (None, encoded(&DynamicImage::ImageLumaA16(image.to_luma_alpha16()), ImageFormat::Png)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_bytes_make_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..200), content_type in content_types(), dtype in 0..3) {
        let dtype = [Dtype::Float32, Dtype::Int64, Dtype::Int8][dtype as usize];
        let _ = of(&payload, content_type, &one(dtype));
        let _ = peek_id(&payload, content_type);
    }

    #[test]
    fn no_damage_makes_it_panic(which in 0usize..5, edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>(), whole in any::<bool>()) {
        let (content_type, mut payload) = valid().swap_remove(which);
        for (at, byte) in edits {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if !whole {
            payload.truncate(cut.index(payload.len()));
        }
        let limits = DecodeLimits { max_image_pixels: 1 << 20, max_image_memory: Size::mib(4) };
        let _ = decode(&payload, content_type, &one(Dtype::Float32), &limits);
        let _ = peek_id(&payload, content_type);
    }

    #[test]
    fn json_numbers_come_through(values in proptest::collection::vec(any::<f32>().prop_filter("finite", |v| v.is_finite()), 6)) {
        let payload = serde_json::to_vec(&serde_json::json!({"data": values})).unwrap();
        let expected = Input::Numbers { values, shape: Some(vec![6]) };
        prop_assert_eq!(of(payload, None, &one(Dtype::Float32)).unwrap().inputs, vec![expected]);
    }
}
