//! One drawing, two files: SVG for the report, PNG for registries that show pictures. Text of the PNG is drawn with the font in `font/`;
//! machines that train have none. The PNG is drawn at twice its size and averaged, which smooths its lines.

use std::error::Error as StdError;
use std::io::Write as _;
use std::sync::OnceLock;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};

/// The subset of DejaVu Sans that pictures are written in: ASCII and a few signs. Its licence is beside it.
static FONT: &[u8] = include_bytes!("font/DejaVuSans-subset.ttf");
/// What the font is called in SVG, where the browser has its own.
const FONT_NAME: &str = "sans-serif";
/// Pixels of a PNG for one unit of a drawing.
const PIXELS: u32 = 2;
/// Pixels that are averaged into one, in each direction.
const SAMPLES: u32 = 2;

/// Colours. The report's style sheet knows these values and turns some of them for a dark screen.
pub(super) const PAPER: RGBColor = RGBColor(255, 255, 255);
pub(super) const INK: RGBColor = RGBColor(31, 41, 51);
pub(super) const FAINT: RGBColor = RGBColor(107, 119, 133);
pub(super) const GRID: RGBColor = RGBColor(226, 230, 235);
pub(super) const BLUE: RGBColor = RGBColor(37, 99, 235);
pub(super) const ORANGE: RGBColor = RGBColor(217, 83, 25);
pub(super) const GREEN: RGBColor = RGBColor(21, 138, 96);

/// A surface to draw on. Sizes are in units; `scale` is how many pixels one has.
pub(super) struct Canvas<DB: DrawingBackend> {
    pub(super) area: DrawingArea<DB, Shift>,
    pub(super) scale: f64,
    /// Text that is centred at a height stands this share of its size too high: the font's box has more room below than above.
    pub(super) drop: f64,
}

pub(super) type Drawn<DB> = std::result::Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

impl<DB: DrawingBackend> Canvas<DB> {
    /// Units as pixels.
    pub(super) fn px(&self, units: f64) -> i32 {
        (units * self.scale).round() as i32
    }

    /// The style of text of so many units.
    pub(super) fn text(&self, units: f64, color: &RGBColor) -> TextStyle<'static> {
        (FONT_NAME, units * self.scale).into_font().color(color)
    }

    /// Writes text whose middle is at a height. The place is in units.
    pub(super) fn write(&self, text: &str, units: f64, color: &RGBColor, side: HPos, place: (f64, f64)) -> Drawn<DB> {
        let style = self.text(units, color).pos(Pos::new(side, VPos::Center));
        self.area.draw_text(text, &style, (self.px(place.0), self.px(place.1 + self.drop * units)))
    }

    /// The style of a line of so many units.
    pub(super) fn line(&self, units: f64, color: &RGBColor) -> ShapeStyle {
        color.stroke_width((units * self.scale).round().max(1.0) as u32)
    }
}

/// Something that can be drawn.
pub(super) trait Drawing {
    /// Width and height in units.
    fn size(&self) -> (u32, u32);
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Drawn<DB>;
}

/// A picture in both forms.
pub(super) struct Picture {
    pub(super) svg: String,
    pub(super) png: Vec<u8>,
}

pub(super) fn picture(drawing: &impl Drawing) -> Result<Picture> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    if !REGISTERED.get_or_init(|| register_font(FONT_NAME, FontStyle::Normal, FONT).is_ok()) {
        return Err(Error::internal("the font of pictures cannot be read"));
    }
    let (width, height) = drawing.size();
    let mut svg = String::new();
    draw_on(SVGBackend::with_string(&mut svg, (width, height)), drawing, (1.0, 0.0))?;
    let (width, height) = (width * PIXELS, height * PIXELS);
    let mut large = vec![0; (width * SAMPLES * height * SAMPLES * 3) as usize];
    let backend = BitMapBackend::with_buffer(&mut large, (width * SAMPLES, height * SAMPLES));
    draw_on(backend, drawing, (f64::from(PIXELS * SAMPLES), 0.15))?;
    Ok(Picture { svg, png: png(&averaged(&large, width as usize), width, height)? })
}

fn draw_on<DB>(backend: DB, drawing: &impl Drawing, (scale, drop): (f64, f64)) -> Result<()>
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    let canvas = Canvas { area: backend.into_drawing_area(), scale, drop };
    let drawn = canvas.area.fill(&PAPER).and_then(|()| drawing.draw(&canvas)).and_then(|()| canvas.area.present());
    drawn.map_err(|error| {
        let error: Box<dyn StdError + Send + Sync> = error.to_string().into();
        Error::internal("a picture cannot be drawn").with_source(error)
    })
}

/// Each square of [`SAMPLES`] pixels as one. `width` is that of the result.
fn averaged(large: &[u8], width: usize) -> Vec<u8> {
    let samples = SAMPLES as usize;
    let stride = width * samples * 3;
    let mut small = Vec::with_capacity(large.len() / (samples * samples));
    for rows in large.chunks_exact(stride * samples) {
        for x in 0..width {
            for channel in 0..3 {
                let at =
                    |row: usize, column: usize| usize::from(rows[row * stride + (x * samples + column) * 3 + channel]);
                let sum: usize = (0..samples)
                    .flat_map(|row| (0..samples).map(move |column| (row, column)))
                    .map(|(row, column)| at(row, column))
                    .sum();
                small.push((sum / (samples * samples)) as u8);
            }
        }
    }
    small
}

/// The file of a bitmap of RGB bytes, row by row.
fn png(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Error::internal("a picture cannot be compressed").with_source(error);
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    for row in pixels.chunks_exact(width as usize * 3) {
        // Filter 0: areas of one colour need no better.
        encoder.write_all(&[0]).and_then(|()| encoder.write_all(row)).map_err(failed)?;
    }
    let compressed = encoder.finish().map_err(failed)?;
    let mut header = Vec::with_capacity(13);
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    // Eight bits a channel, RGB, deflate, adaptive filters, not interlaced.
    header.extend([8, 2, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, content) in [(b"IHDR", header.as_slice()), (b"IDAT", &compressed), (b"IEND", &[])] {
        let mut crc = Crc::new();
        crc.update(kind);
        crc.update(content);
        file.extend((content.len() as u32).to_be_bytes());
        file.extend(kind);
        file.extend(content);
        file.extend(crc.sum().to_be_bytes());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_png_holds_the_pixels_that_it_was_given() {
        let pixels: Vec<u8> = (0..5 * 3 * 3).map(|byte| byte * 5).collect();
        let file = png(&pixels, 5, 3).unwrap();
        assert!(file.starts_with(b"\x89PNG\r\n\x1a\n"));
        let (mut at, mut kinds, mut data) = (8, Vec::new(), Vec::new());
        while at < file.len() {
            let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
            let (kind, content) = (&file[at + 4..at + 8], &file[at + 8..at + 8 + length]);
            let mut crc = Crc::new();
            crc.update(&file[at + 4..at + 8 + length]);
            assert_eq!(file[at + 8 + length..at + 12 + length], crc.sum().to_be_bytes());
            if kind == b"IHDR" {
                assert_eq!(content, [0, 0, 0, 5, 0, 0, 0, 3, 8, 2, 0, 0, 0]);
            } else if kind == b"IDAT" {
                flate2::read::ZlibDecoder::new(content).read_to_end(&mut data).unwrap();
            }
            kinds.push(kind.to_vec());
            at += 12 + length;
        }
        assert_eq!(kinds, [b"IHDR", b"IDAT", b"IEND"]);
        let rows: Vec<u8> = data.chunks_exact(16).flat_map(|row| row[1..].to_vec()).collect();
        assert_eq!(rows, pixels);
    }

    #[test]
    fn four_pixels_become_their_mean() {
        // Two rows of four pixels of one grey each.
        let grey = |values: &[u8]| values.iter().flat_map(|value| [*value; 3]).collect::<Vec<u8>>();
        let large = grey(&[0, 100, 8, 8, 200, 100, 8, 8]);
        assert_eq!(averaged(&large, 2), grey(&[100, 8]));
    }

    #[test]
    fn the_font_has_every_sign_that_pictures_use() {
        struct Text;
        impl Drawing for Text {
            fn size(&self) -> (u32, u32) {
                (400, 40)
            }
            fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Drawn<DB> {
                canvas.area.draw_text("Recall 0.75 ± 0.02, ≥ 3 µs × 2 – … −1", &canvas.text(18.0, &INK), (4, 10))
            }
        }
        let picture = picture(&Text).unwrap();
        assert!(picture.svg.contains("±") && picture.png.len() > 1000);
    }
}
