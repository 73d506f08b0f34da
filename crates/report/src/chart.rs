//! Lines and points as SVG, in the colours of the page.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::{
    ChartBuilder, Circle, DrawingArea, DrawingBackend, IntoDrawingArea, IntoLogRange, LineSeries, SVGBackend,
};
use plotters::style::{Color, RGBColor, ShapeStyle};

use super::Series;

/// Width and height in the picture's own units; the page scales it.
const SIZE: (u32, u32) = (520, 300);
/// Points of a series, at most: a page stays small.
const POINTS: usize = 240;
/// Colours that stand for a variable of the page, which may be light or dark.
const INK: RGBColor = RGBColor(1, 2, 3);
const SERIES: [RGBColor; 6] =
    [RGBColor(1, 2, 11), RGBColor(1, 2, 12), RGBColor(1, 2, 13), RGBColor(1, 2, 14), RGBColor(1, 2, 15), RGBColor(1, 2, 16)];

/// Where the axes go.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scale {
    /// From and to; those of the points where None.
    pub(crate) x: Option<[f64; 2]>,
    pub(crate) y: Option<[f64; 2]>,
    /// Whether y is logarithmic. Points at or below 0 are left out.
    pub(crate) has_log_y: bool,
}

/// A picture of series over two axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chart<'s> {
    pub(crate) series: &'s [Series],
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) scale: Scale,
    /// Points without lines.
    pub(crate) is_scatter: bool,
    /// Points on lines.
    pub(crate) has_dots: bool,
}

impl<'s> Chart<'s> {
    pub(crate) fn of(series: &'s [Series]) -> Self {
        Self { series, x: "", y: "", scale: Scale::default(), is_scatter: false, has_dots: false }
    }

    /// The picture, with a legend where there are several series.
    pub(crate) fn svg(self) -> String {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            self.draw(&area).expect("text is written to memory");
            area.present().expect("text is written to memory");
        }
        let (width, height) = SIZE;
        let sized = format!("<svg width=\"{width}\" height=\"{height}\" ");
        let label = format!("<svg role=\"img\" aria-label=\"{} over {}\" ", self.y, self.x);
        let mut text = text.replacen(&sized, &label, 1);
        for (i, colour) in SERIES.iter().enumerate() {
            text = text.replace(&hex(*colour), &format!("var(--series-{})", i + 1));
        }
        text.replace(&hex(INK), "var(--ink)").trim().to_owned() + &self.legend()
    }

    fn legend(&self) -> String {
        if self.series.len() < 2 {
            return String::new();
        }
        let entry = |(i, series): (usize, &Series)| {
            let name = series.name.replace('&', "&amp;").replace('<', "&lt;");
            format!("<li><i style=\"background:var(--series-{})\"></i>{name}</li>", i % SERIES.len() + 1)
        };
        format!("<ul class=\"legend\">{}</ul>", self.series.iter().enumerate().map(entry).collect::<String>())
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), Box<dyn std::error::Error>>
    where
        B::ErrorType: 'static,
    {
        let is_shown = |&(x, y): &(f64, f64)| x.is_finite() && y.is_finite() && (y > 0.0 || !self.scale.has_log_y);
        let thin = |series: &Series| -> Vec<(f64, f64)> {
            let points: Vec<(f64, f64)> = series.points.iter().copied().filter(is_shown).collect();
            let step = points.len().div_ceil(POINTS).max(1);
            let last = points.len().saturating_sub(1);
            points.iter().enumerate().filter(|(i, _)| i % step == 0 || *i == last).map(|(_, &point)| point).collect()
        };
        let series: Vec<Vec<(f64, f64)>> = self.series.iter().map(thin).collect();
        let range = |of: fn(&(f64, f64)) -> f64, fixed: Option<[f64; 2]>| {
            let values = || series.iter().flatten().map(of);
            let [low, high] =
                fixed.unwrap_or([values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max)]);
            // without points, or with one value alone, an axis needs some length
            if low < high {
                [low, high]
            } else if low.is_finite() {
                [low - 0.5, low + 0.5]
            } else {
                [0.0, 1.0]
            }
        };
        let [x, y] = [range(|point| point.0, self.scale.x), range(|point| point.1, self.scale.y)];
        // within one or two powers of ten a logarithmic axis has no labels to speak of
        if self.scale.has_log_y && y[0] > 0.0 && y[1] > 100.0 * y[0] {
            self.draw_on(area, x, (y[0]..y[1]).log_scale(), &series)
        } else {
            let room = if self.scale.y.is_some() { 0.0 } else { 0.05 * (y[1] - y[0]) };
            self.draw_on(area, x, y[0] - room..y[1] + room, &series)
        }
    }

    fn draw_on<B: DrawingBackend, Y>(
        &self,
        area: &DrawingArea<B, Shift>,
        x: [f64; 2],
        y: Y,
        series: &[Vec<(f64, f64)>],
    ) -> Result<(), Box<dyn std::error::Error>>
    where
        B::ErrorType: 'static,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let mut chart =
            ChartBuilder::on(area).margin(8).x_label_area_size(44).y_label_area_size(66).build_cartesian_2d(x[0]..x[1], y)?;
        let style = ("sans-serif", 15, &INK);
        chart
            .configure_mesh()
            .axis_style(INK)
            .bold_line_style(INK.mix(0.15))
            .light_line_style(INK.mix(0.0))
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .label_style(style)
            .axis_desc_style(style)
            .x_desc(self.x)
            .y_desc(self.y)
            .draw()?;
        for (points, colour) in series.iter().zip(SERIES.iter().cycle()) {
            if !self.is_scatter {
                let style = ShapeStyle { color: colour.to_rgba(), filled: false, stroke_width: 2 };
                chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            }
            if self.is_scatter || self.has_dots {
                let (size, style) = if self.is_scatter { (2, colour.mix(0.5).filled()) } else { (3, colour.filled()) };
                chart.draw_series(points.iter().map(|&point| Circle::new(point, size, style)))?;
            }
        }
        Ok(())
    }
}

/// As few digits as tell the labels of an axis apart.
fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1e-12 {
        "0".to_owned()
    } else if (0.01..10_000.0).contains(&size) {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.0e}")
    }
}

fn hex(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}
