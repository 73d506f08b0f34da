//! The losses of every trial as a picture.

use plotters::prelude::{
    ChartBuilder, Circle, DrawingBackend, IntoDrawingArea, LineSeries, SVGBackend, SeriesLabelPosition, TriangleMarker,
};
use plotters::style::{BLACK, BLUE, Color, RED, WHITE};

use super::SweepReport;

/// Last training and validation loss of each trial, in order; the chosen one is marked.
pub(super) fn svg(report: &SweepReport) -> String {
    let mut text = String::new();
    draw(SVGBackend::with_string(&mut text, (900, 480)), report).expect("text is written to memory");
    text
}

fn draw<B: DrawingBackend>(backend: B, report: &SweepReport) -> Result<(), Box<dyn std::error::Error>>
where
    B::ErrorType: 'static,
{
    let of = |losses: fn(&super::Trial) -> f64| {
        report.trials.iter().enumerate().map(move |(i, trial)| (i as f64 + 1.0, losses(trial)))
    };
    let train: Vec<(f64, f64)> = of(|trial| trial.train_loss[1]).collect();
    let validation: Vec<(f64, f64)> = of(|trial| trial.validation_loss[1]).collect();
    let highest = train.iter().chain(&validation).map(|point| point.1).fold(0.0, f64::max).max(1e-9);
    let area = backend.into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("loss of every trial", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.5..report.trials.len() as f64 + 0.5, 0.0..highest * 1.1)?;
    // more names than this do not fit: the table has them in the same order
    let has_room = report.trials.len() <= 7;
    let label = |x: &f64| {
        let trial = (x.fract().abs() < 1e-9).then(|| report.trials.get(*x as usize - 1)).flatten();
        let name = |trial: &super::Trial| trial.name.split(",steps=").next().unwrap_or_default().to_owned();
        trial.map_or_else(String::new, |trial| if has_room { name(trial) } else { x.to_string() })
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_labels(report.trials.len() + 1)
        .x_label_formatter(&label)
        .x_desc("trial")
        .y_desc("loss")
        .draw()?;
    for (points, colour, name) in [(&train, BLUE, "training"), (&validation, RED, "validation")] {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
    }
    let chosen = validation[report.chosen];
    chart
        .draw_series([TriangleMarker::new(chosen, 9, BLACK.filled())])?
        .label("chosen")
        .legend(|(x, y)| TriangleMarker::new((x + 8, y), 6, BLACK.filled()));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.filled())
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}
