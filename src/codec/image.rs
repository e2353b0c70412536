//! JPEG and PNG. Sizes are checked in the header, before a pixel is decoded.

use super::decode::DecodeLimits;
use super::input::Picture;
use crate::rejection::{Code, Rejection};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// The format that the first bytes name, if it is one that we read.
pub fn magic(bytes: &[u8]) -> Option<ImageFormat> {
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(ImageFormat::Png),
        _ => None,
    }
}

/// Decodes to grey or RGB of 8 bits. An EXIF orientation is applied, transparency is dropped, 16 bits are cut to 8.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, Rejection> {
    let format = magic(bytes).ok_or_else(|| Rejection::new(Code::BadImage, "expected a JPEG or PNG, found neither's first bytes"))?;
    if format == ImageFormat::Jpeg && is_cut_off(bytes) {
        return Err(Rejection::new(Code::BadImage, format!("the JPEG is cut off: no end-of-image marker in {} bytes", bytes.len())));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut bounds = Limits::default();
    bounds.max_alloc = Some(limits.max_image_memory.0);
    reader.limits(bounds);
    let mut decoder = reader.into_decoder().map_err(refused)?;
    check_size(&decoder, limits)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(refused)?;
    image.apply_orientation(orientation);
    flatten(image)
}

/// True for a JPEG whose last scan (marker FFDA) has no end (FFD9) after it: the decoder would fill the rest with grey. Inside a
/// scan neither occurs.
fn is_cut_off(jpeg: &[u8]) -> bool {
    let last = |marker: u8| jpeg.windows(2).rposition(|pair| pair == [0xFF, marker]);
    last(0xDA).is_none_or(|scan| last(0xD9) < Some(scan))
}

fn check_size(decoder: &impl ImageDecoder, limits: &DecodeLimits) -> Result<(), Rejection> {
    let (width, height) = decoder.dimensions();
    let too_large = |what: String| Err(Rejection::new(Code::ImageTooLarge, format!("image of {width}x{height}: {what}")));
    if u64::from(width) * u64::from(height) > limits.max_image_pixels {
        return too_large(format!("expected at most {} pixels", limits.max_image_pixels));
    }
    let bytes = decoder.total_bytes();
    if bytes > limits.max_image_memory.0 {
        return too_large(format!("expected at most {} when decoded, found {bytes} bytes", limits.max_image_memory));
    }
    Ok(())
}

fn flatten(image: DynamicImage) -> Result<Picture, Rejection> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let grey = matches!(image.color(), ColorType::L8 | ColorType::L16 | ColorType::La8 | ColorType::La16);
    let (channels, data) = if grey { (1, image.into_luma8().into_raw()) } else { (3, image.into_rgb8().into_raw()) };
    Picture::new(width, height, channels, data).ok_or_else(|| Rejection::new(Code::BadImage, "the image has no pixels"))
}

fn refused(error: ImageError) -> Rejection {
    match error {
        ImageError::Limits(e) => Rejection::new(Code::ImageTooLarge, e.to_string()),
        e => Rejection::new(Code::BadImage, e.to_string()),
    }
}
