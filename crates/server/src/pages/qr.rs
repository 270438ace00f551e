//! Activation codes as QR codes: a PNG for phones and mails, an SVG for print, and block characters for a terminal.
//! Every form keeps the four light modules around the code that scanners need, and always dark on white, also in dark
//! mode: many phones do not read inverted codes.

use std::fmt::Write;

use fast_qr::{ECL, QRBuilder};

/// Light modules around the code, as the QR standard demands.
const QUIET_ZONE: usize = 4;
/// Pixels per module: large enough to be scanned from a phone's screen without being scaled.
const PIXELS_PER_MODULE: usize = 10;

/// Why there is no QR code.
#[derive(Debug)]
pub enum QrError {
    /// The text does not fit into the largest QR code.
    TooLong,
    /// The picture could not be written.
    Picture(png::EncodingError),
}

impl std::fmt::Display for QrError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong => f.write_str("the text is too long for a QR code"),
            Self::Picture(cause) => {
                write!(f, "the QR code's picture could not be written: {cause}")
            }
        }
    }
}

impl std::error::Error for QrError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::TooLong => None,
            Self::Picture(cause) => Some(cause),
        }
    }
}

impl From<png::EncodingError> for QrError {
    fn from(cause: png::EncodingError) -> Self {
        Self::Picture(cause)
    }
}

/// The code as a PNG: black on white, one bit per pixel, so some 1 KB, and under 3 KB for the longest activation code.
///
/// # Errors
/// When the text is too long for a QR code.
pub fn png(text: &str) -> Result<Vec<u8>, QrError> {
    let modules = Modules::of(text)?;
    let width = modules.side * PIXELS_PER_MODULE;
    let pixels = u32::try_from(width).map_err(|_| QrError::TooLong)?;
    let mut picture = Vec::new();
    let mut encoder = png::Encoder::new(&mut picture, pixels, pixels);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header()?;
    let mut rows = Vec::with_capacity(width * width.div_ceil(8));
    for y in 0..modules.side {
        let mut row = vec![0xFF_u8; width.div_ceil(8)];
        for x in (0..width).filter(|x| modules.is_dark(x / PIXELS_PER_MODULE, y)) {
            row[x / 8] &= !(0x80 >> (x % 8));
        }
        for _ in 0..PIXELS_PER_MODULE {
            rows.extend_from_slice(&row);
        }
    }
    writer.write_image_data(&rows)?;
    writer.finish()?;
    Ok(picture)
}

/// The code as an SVG of one path; it scales to any size and contains nothing but shapes.
///
/// # Errors
/// When the text is too long for a QR code.
pub fn svg(text: &str) -> Result<String, QrError> {
    let modules = Modules::of(text)?;
    let side = modules.side;
    let mut path = String::new();
    for y in 0..side {
        let mut x = 0;
        while x < side {
            let run = (x..side).take_while(|&x| modules.is_dark(x, y)).count();
            if run > 0 {
                // Writing into a String cannot fail.
                let _ = write!(path, "M{x} {y}h{run}v1h-{run}z");
            }
            x += run.max(1);
        }
    }
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {side}\" shape-rendering=\"crispEdges\" role=\"img\" aria-label=\"QR code\">\
         <rect width=\"{side}\" height=\"{side}\" fill=\"#fff\"/><path d=\"{path}\" fill=\"#000\"/></svg>\n"
    ))
}

/// The code for a terminal, two modules per character cell. The colours are set outright, because a terminal's own
/// foreground may be light or dark and its own "white" may be grey.
///
/// # Errors
/// When the text is too long for a QR code.
pub fn terminal(text: &str) -> Result<String, QrError> {
    let modules = Modules::of(text)?;
    let mut lines = String::new();
    for y in (0..modules.side).step_by(2) {
        lines.push_str(BLACK_ON_WHITE);
        lines.extend((0..modules.side).map(|x| match (modules.is_dark(x, y), modules.is_dark(x, y + 1)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        }));
        lines.push_str(RESET);
        lines.push('\n');
    }
    Ok(lines)
}

const BLACK_ON_WHITE: &str = "\u{1b}[38;5;16;48;5;231m";
const RESET: &str = "\u{1b}[0m";

/// The squares of a code with its quiet zone.
struct Modules {
    side: usize,
    code: Box<fast_qr::QRCode>,
}

impl Modules {
    fn of(text: &str) -> Result<Self, QrError> {
        let code = QRBuilder::new(text).ecl(ECL::M).build().map_err(|_| QrError::TooLong)?;
        Ok(Self { side: code.size + 2 * QUIET_ZONE, code: Box::new(code) })
    }

    /// Whether the square is dark; all outside the code is light.
    fn is_dark(&self, x: usize, y: usize) -> bool {
        let inside = QUIET_ZONE..QUIET_ZONE + self.code.size;
        inside.contains(&x) && inside.contains(&y) && self.code[y - QUIET_ZONE][x - QUIET_ZONE].value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "LPA:1$smdp.example.com$04386-AGYFT-A74Y8-3F815$$1";

    /// The picture as one byte per pixel.
    fn pixels(picture: &[u8]) -> (usize, Vec<u8>) {
        let mut decoder = png::Decoder::new(std::io::Cursor::new(picture));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut buffer = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut buffer).unwrap();
        (usize::try_from(frame.width).unwrap(), buffer)
    }

    fn read(side: usize, is_dark: impl Fn(usize, usize) -> bool) -> String {
        let mut image =
            rqrr::PreparedImage::prepare_from_greyscale(side, side, |x, y| if is_dark(x, y) { 0 } else { 255 });
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1);
        grids[0].decode().unwrap().1
    }

    #[test]
    fn the_png_reads_back_as_the_code_with_its_case() {
        let longest = format!("LPA:1$smdp.Example.com${}", "aB3-".repeat(57));
        for code in [CODE, "LPA:1$SMDP.EXAMPLE.COM$", "LPA:1$a.b$C", &longest] {
            let picture = png(code).unwrap();
            let most = if code.len() < 100 { 1_200 } else { 3_000 };
            assert!(picture.len() < most, "{} bytes for {code}", picture.len());
            let (width, pixels) = pixels(&picture);
            assert_eq!(read(width, |x, y| pixels[y * width + x] == 0), code);
        }
    }

    #[test]
    fn the_png_has_four_light_modules_around_it() {
        let (width, pixels) = pixels(&png(CODE).unwrap());
        let margin = QUIET_ZONE * PIXELS_PER_MODULE;
        let dark = |x: usize, y: usize| pixels[y * width + x] == 0;
        assert!((0..width).all(|i| {
            (0..margin).all(|m| !dark(i, m) && !dark(m, i) && !dark(i, width - 1 - m) && !dark(width - 1 - m, i))
        }));
        assert!(dark(margin, margin), "the finder pattern begins right after the quiet zone");
    }

    #[test]
    fn the_svg_draws_the_same_modules() {
        let picture = svg(CODE).unwrap();
        let modules = Modules::of(CODE).unwrap();
        let path = picture.split("d=\"").nth(1).unwrap().split('"').next().unwrap();
        let mut drawn = vec![false; modules.side * modules.side];
        for run in path.split('M').skip(1) {
            let (x, rest) = run.split_once(' ').unwrap();
            let (y, rest) = rest.split_once('h').unwrap();
            let length = rest.split('v').next().unwrap();
            let (x, y, length): (usize, usize, usize) =
                (x.parse().unwrap(), y.parse().unwrap(), length.parse().unwrap());
            drawn[y * modules.side + x..][..length].fill(true);
        }
        assert_eq!(read(modules.side * 4, |x, y| drawn[y / 4 * modules.side + x / 4]), CODE);
        assert!(picture.contains(&format!("viewBox=\"0 0 {0} {0}\"", modules.side)) && !picture.contains("script"));
    }

    #[test]
    fn the_terminal_shows_the_same_modules() {
        let shown = terminal(CODE).unwrap();
        let lines: Vec<Vec<char>> = shown
            .lines()
            .map(|line| line.strip_prefix(BLACK_ON_WHITE).unwrap().strip_suffix(RESET).unwrap().chars().collect())
            .collect();
        let side = lines[0].len();
        assert!(lines.iter().all(|line| line.len() == side));
        let is_dark = |x: usize, y: usize| match lines[y / 2][x] {
            '█' => true,
            '▀' => y.is_multiple_of(2),
            '▄' => !y.is_multiple_of(2),
            _ => false,
        };
        assert_eq!(read(side * 4, |x, y| is_dark(x / 4, y / 4)), CODE);
    }

    #[test]
    fn too_long_a_text_is_refused() {
        assert!(matches!(png(&"x".repeat(5_000)), Err(QrError::TooLong)));
        assert!(matches!(svg(&"x".repeat(5_000)), Err(QrError::TooLong)));
    }
}
