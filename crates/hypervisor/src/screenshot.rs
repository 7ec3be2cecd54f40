//! Pictures of consoles, made small enough to travel with a task's result.
//!
//! ```text
//!   PPM or PNG of the hypervisor ─▶ pixels (bounded) ─▶ PNG ─▶ too large? half as wide and high, until it is not
//! ```
//! What the hypervisor gives shows what a guest drew: its header is not believed before it was compared with its length.

use std::io::Cursor;

/// The largest PNG that is handed on, in bytes.
pub const MAX_SCREENSHOT: usize = 512 << 10;
/// The widest and highest screen that is looked at.
const MAX_SIDE: u32 = 8192;
const MAX_PIXELS: u64 = 4096 * 2304;
const RGB: usize = 3;

/// What there is to see of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Console {
    /// A PNG of at most [`MAX_SCREENSHOT`] bytes.
    Shown(Vec<u8>),
    /// Nothing, and why.
    Dark(String),
}

impl Console {
    pub(crate) fn of(picture: Picture) -> Self {
        let mut picture = picture;
        loop {
            match picture.png() {
                Ok(png) if png.len() <= MAX_SCREENSHOT => return Self::Shown(png),
                Ok(_) => picture = picture.halved(),
                Err(error) => return Self::Dark(format!("its screenshot cannot be written: {error}")),
            }
        }
    }
}

/// Rows from top to bottom, red, green and blue of each pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    pub width: u32,
    pub height: u32,
    pub pixels: Vec<u8>,
}

impl Picture {
    /// # Errors
    /// With the reason why these bytes are no picture that is looked at.
    pub fn read(image: &[u8]) -> Result<Self, String> {
        if image.starts_with(b"P6") { ppm(image) } else { read_png(image) }
    }

    fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut written = Vec::new();
        let mut encoder = png::Encoder::new(&mut written, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(written)
    }

    /// The mean of every four pixels.
    fn halved(&self) -> Self {
        let (width, height) = ((self.width / 2).max(1), (self.height / 2).max(1));
        let at = |x: u32, y: u32, colour: usize| {
            let (x, y) = (x.min(self.width - 1) as usize, y.min(self.height - 1) as usize);
            u16::from(self.pixels[(y * self.width as usize + x) * RGB + colour])
        };
        let mut pixels = Vec::with_capacity(width as usize * height as usize * RGB);
        for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (2 * x, 2 * y))) {
            for colour in 0..RGB {
                let sum =
                    at(x, y, colour) + at(x + 1, y, colour) + at(x, y + 1, colour) + at(x + 1, y + 1, colour);
                pixels.push((sum / 4) as u8);
            }
        }
        Self { width, height, pixels }
    }
}

/// Refuses what no screen is.
fn bounded(width: u32, height: u32) -> Result<usize, String> {
    let pixels = u64::from(width) * u64::from(height);
    if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE || pixels > MAX_PIXELS {
        return Err(format!("a picture of {width} by {height} pixels is not looked at"));
    }
    // At most 27 MiB.
    Ok(pixels as usize * RGB)
}

/// `P6 width height 255`, separated by white space, and the pixels.
fn ppm(image: &[u8]) -> Result<Picture, String> {
    let mut rest = &image[2..];
    let mut numbers = [0u32; 3];
    for number in &mut numbers {
        let start =
            rest.iter().position(|byte| !byte.is_ascii_whitespace()).ok_or("its header is cut off")?;
        rest = &rest[start..];
        let end = rest.iter().position(u8::is_ascii_whitespace).ok_or("its header is cut off")?;
        let digits = std::str::from_utf8(&rest[..end]).ok().and_then(|digits| digits.parse().ok());
        *number = digits.ok_or("its header is no list of numbers")?;
        rest = &rest[end..];
    }
    let [width, height, most] = numbers;
    let length = bounded(width, height)?;
    let pixels = rest.get(1..1 + length).filter(|_| most == 255);
    let pixels = pixels.ok_or_else(|| format!("it has not {length} bytes of pixels"))?;
    Ok(Picture { width, height, pixels: pixels.to_vec() })
}

fn read_png(image: &[u8]) -> Result<Picture, String> {
    let mut decoder = png::Decoder::new(Cursor::new(image));
    // Palettes, grey and 16 bits become 8 bits of each colour.
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(|error| error.to_string())?;
    let (width, height) = (reader.info().width, reader.info().height);
    let length = bounded(width, height)?;
    let (colour, _) = reader.output_color_type();
    let samples = colour.samples();
    let mut read = vec![0; length / RGB * samples];
    if reader.output_buffer_size() != Some(read.len()) {
        return Err("its pixels are of a form that is not known".to_owned());
    }
    reader.next_frame(&mut read).map_err(|error| error.to_string())?;
    let pixels = match colour {
        png::ColorType::Rgb => read,
        png::ColorType::Rgba => {
            read.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
        }
        png::ColorType::Grayscale => read.iter().flat_map(|grey| [*grey; RGB]).collect(),
        png::ColorType::GrayscaleAlpha => read.chunks_exact(2).flat_map(|pixel| [pixel[0]; RGB]).collect(),
        png::ColorType::Indexed => return Err("its palette was not resolved".to_owned()),
    };
    Ok(Picture { width, height, pixels })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whose PNG does not get smaller than its pixels.
    fn noise(width: u32, height: u32) -> Picture {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let pixels = (0..width as usize * height as usize * RGB).map(|_| next()).collect();
        Picture { width, height, pixels }
    }

    fn as_ppm(picture: &Picture) -> Vec<u8> {
        let header = format!("P6\n{} {}\n255\n", picture.width, picture.height);
        [header.as_bytes(), &picture.pixels].concat()
    }

    /// R-TF-8: both forms that hypervisors give are read, and what is handed on is the same picture.
    #[test]
    fn a_picture_is_the_same_in_every_form() {
        let picture = noise(31, 17);
        assert_eq!(Picture::read(&as_ppm(&picture)).unwrap(), picture);
        let Console::Shown(png) = Console::of(picture.clone()) else { panic!("it is not shown") };
        assert_eq!(Picture::read(&png).unwrap(), picture);
    }

    /// Invariant 14
    #[test]
    fn a_large_picture_is_made_smaller() {
        let Console::Shown(png) = Console::of(noise(1024, 768)) else { panic!("it is not shown") };
        assert!(png.len() <= MAX_SCREENSHOT, "{}", png.len());
        let small = Picture::read(&png).unwrap();
        assert_eq!((small.width, small.height), (256, 192));
        let line = Picture { width: 3, height: 1, pixels: vec![0, 0, 0, 255, 255, 255, 9, 9, 9] };
        assert_eq!(line.halved(), Picture { width: 1, height: 1, pixels: vec![127; 3] });
    }

    #[test]
    fn what_is_no_picture_of_a_screen_is_refused() {
        for (image, why) in [
            (&b"P6\n100000 100000\n255\n"[..], "not looked at"),
            (b"P6\n8000 8000\n255\n", "not looked at"),
            (b"P6\n0 5\n255\n", "not looked at"),
            (b"P6\n2 2\n255\nxxx", "12 bytes of pixels"),
            (b"P6\n2 2\n65535\nxxxxxxxxxxxxxxxxxxxxxxxx", "12 bytes of pixels"),
            (b"P6\n2 x\n255\n", "no list of numbers"),
            (b"P6\n2", "cut off"),
            (b"", ""),
            (b"<html>", ""),
        ] {
            let error = Picture::read(image).unwrap_err();
            assert!(error.contains(why), "{image:?}: {error}");
        }
        let Console::Shown(mut png) = Console::of(noise(8, 8)) else { panic!("it is not shown") };
        png.truncate(60);
        assert!(Picture::read(&png).is_err());
    }
}
