//! The charts of a comparison, as SVG.

use std::io;

use maud::{Markup, PreEscaped, html};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{Part, in_lines, percents};
use crate::{
    analysis::Outcome,
    contender::{Contender, KERNEL},
    load::expected,
    standing::{Against, Standing},
    theory::Model,
};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<io::Error>>;

const WIDTH: u32 = 700;

const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xb2);
const GREEN: RGBColor = RGBColor(0x00, 0x9e, 0x73);
const VERMILLION: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
/// Those of Okabe and Ito, which people with any colour vision tell apart, but for the yellow,
/// which is too pale on white.
const COLOURS: [RGBColor; 7] = [
    BLACK,
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    GREEN,
    BLUE,
    VERMILLION,
    RGBColor(0xcc, 0x79, 0xa7),
];
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Of what theory says, a line of another width for each model.
const FAINT: RGBColor = RGBColor(0x99, 0x99, 0x99);
const MODELS: [u32; 3] = [1, 2, 4];
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// About as many as the chart has pixels from bottom to top.
const STEPS: u32 = 300;
const DASH: (u32, u32) = (6, 4);

/// Those of the ratios' marks.
const MARKS: [RGBColor; 3] = [VERMILLION, BLUE, GREEN];

const PANELS_A_ROW: usize = 4;

/// Between the lines of names.
const LINE: i32 = 17;

/// Beside more workers than this there is no room for a label each.
const LABELLED: usize = 8;

/// Ratios beyond are drawn at the edge.
const RATIOS: (f64, f64) = (0.02, 50.0);

/// What part of the requests was answered within a time.
pub fn latency(outcome: &Outcome<'_>) -> Markup {
    let label = format!("{}: share of the requests answered within a time", outcome.scenario.name);
    svg(&label, 340, |area| draw_latency(area, outcome))
}

/// What each worker got of something, a panel a contender.
pub fn spread(outcome: &Outcome<'_>, what: &str, load: Part) -> Markup {
    let label = format!("{}: share of {what} by worker", outcome.scenario.name);
    let rows = outcome.standings.len().div_ceil(PANELS_A_ROW);
    svg(&label, 160 * size(rows), |area| draw_spread(area, outcome, load, rows))
}

/// Each contender's medians over the kernel's.
pub fn ratios(outcome: &Outcome<'_>) -> Markup {
    let label = format!("{}: ratios to kernel, with 95 % intervals", outcome.scenario.name);
    let others = outcome.standings.iter().filter(|standing| standing.contender != KERNEL);
    let others: Vec<_> = others.collect();
    svg(&label, 80 + 48 * size(others.len()), |area| draw_ratios(area, &others))
}

fn svg(label: &str, height: u32, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Markup {
    let mut text = String::new();
    let drawn = {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw(&area).and_then(|()| area.present())
    };
    if let Err(error) = drawn {
        return html! { p { "This chart could not be drawn: " (error) } };
    }
    let label = html! { (label) }.into_string();
    let opening = format!("<svg role=\"img\" aria-label=\"{label}\" ");
    PreEscaped(text.replacen("<svg ", &opening, 1))
}

fn draw_latency(area: &Area<'_>, outcome: &Outcome<'_>) -> Drawn {
    let standings = &outcome.standings;
    let ends = |part| standings.iter().filter_map(move |s| s.latency.quantile(part)).map(in_ms);
    let low = ends(0.0).fold(f64::INFINITY, f64::min);
    let high = ends(1.0).fold(0.0, f64::max);
    let (low, high) = if low > high { (1.0, 10.0) } else { (low * 0.9, high * 1.1) };
    let (plot, legend) = area.split_horizontally(WIDTH - 180);
    let mut chart = ChartBuilder::on(&plot)
        .margin(8)
        .margin_right(16)
        .x_label_area_size(42)
        .y_label_area_size(58)
        .build_cartesian_2d((low..high).log_scale().with_key_points(ticks(low, high)), 0.0..1.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(font(15))
        .x_desc("latency, ms")
        .y_desc("answered within")
        .x_label_formatter(&|ms| ms.to_string())
        .y_labels(10)
        .y_label_formatter(&|part| format!("{:.0} %", part * 100.0))
        .draw()?;
    let mut y = 20;
    for (index, standing) in standings.iter().enumerate() {
        let steps = || (0..=STEPS).map(|step| f64::from(step) / f64::from(STEPS));
        let at = |part| Some((in_ms(standing.latency.quantile(part)?), part));
        let points: Vec<_> = steps().filter_map(at).collect();
        let line = colour(index).stroke_width(2);
        if dashed(index) {
            chart.draw_series(DashedLineSeries::new(points, DASH.0, DASH.1, line))?;
        } else {
            chart.draw_series(LineSeries::new(points, line))?;
        }
        let lines: &[[i32; 2]] = if dashed(index) { &[[0, 9], [15, 24]] } else { &[[0, 24]] };
        for &[from, to] in lines {
            legend.draw(&PathElement::new([(from, y), (to, y)], colour(index).stroke_width(3)))?;
        }
        let style = anchored(15, HPos::Left, VPos::Center);
        y = draw_name(&legend, standing.contender, (30, y), &style)? + 3;
    }
    for model in outcome.theory.iter().flat_map(|_| Model::ALL) {
        let Some(theory) = outcome.theory else { break };
        let steps = (0..STEPS).map(|step| f64::from(step) / f64::from(STEPS));
        let at = |part| (theory.quantile(model, part) * 1e3, part);
        let points = steps.map(at).filter(|&(ms, _)| ms >= low);
        let width = MODELS[model as usize];
        chart.draw_series(LineSeries::new(points, FAINT.stroke_width(width)))?;
        legend.draw(&PathElement::new([(0, y), (24, y)], FAINT.stroke_width(width)))?;
        legend.draw(&Text::new(model.name(), (30, y), anchored(15, HPos::Left, VPos::Center)))?;
        y += LINE + 3;
    }
    Ok(())
}

/// Writes a name, an option a line, and says where the line after it would be.
fn draw_name(
    area: &Area<'_>,
    contender: Contender,
    (x, y): (i32, i32),
    style: &TextStyle<'_>,
) -> Drawn<i32> {
    let name = in_lines(contender);
    for (line, y) in name.lines().zip((y..).step_by(LINE as usize)) {
        area.draw(&Text::new(line.to_owned(), (x, y), style.clone()))?;
    }
    Ok(y + LINE * position(name.lines().count()))
}

fn draw_spread(area: &Area<'_>, outcome: &Outcome<'_>, load: Part, rows: usize) -> Drawn {
    let shares_of = outcome.standings.iter().map(load).flat_map(|load| &load.shares);
    let highest = shares_of.copied().fold(0.01, f64::max) * 1.25;
    let workers = outcome.scenario.workers;
    let panels = area.split_evenly((rows, PANELS_A_ROW));
    for (index, (standing, panel)) in outcome.standings.iter().zip(&panels).enumerate() {
        let mut chart = ChartBuilder::on(panel)
            .margin(8)
            .margin_top(8 + 2 * LINE)
            .x_label_area_size(18)
            .build_cartesian_2d(0.0..workers as f64, 0.0..highest)?;
        let middle = panel.dim_in_pixel().0.cast_signed() / 2;
        let top = anchored(15, HPos::Center, VPos::Top);
        draw_name(panel, standing.contender, (middle, 8), &top)?;
        let shares = &load(standing).shares;
        let left = (0..workers).map(|worker| worker as f64);
        let bars = left.clone().zip(shares).map(|(left, &share)| {
            Rectangle::new([(left + 0.12, 0.0), (left + 0.88, share)], colour(index).filled())
        });
        chart.draw_series(bars)?;
        let expected = expected(outcome.scenario, standing.contender);
        chart.draw_series(left.clone().zip(&expected).map(|(left, &share)| {
            PathElement::new([(left, share), (left + 1.0, share)], INK.stroke_width(2))
        }))?;
        if workers <= LABELLED {
            let above = anchored(13, HPos::Center, VPos::Bottom);
            chart.draw_series(left.clone().zip(shares).zip(&expected).map(
                |((left, &share), &line)| {
                    let top = share.max(line) + highest * 0.03;
                    Text::new(percents(&[share]), (left + 0.5, top), above.clone())
                },
            ))?;
        }
        let below = anchored(13, HPos::Center, VPos::Top);
        chart.draw_series(left.step_by(workers.div_ceil(LABELLED)).map(|left| {
            Text::new(left.to_string(), (left + 0.5, -highest * 0.04), below.clone())
        }))?;
    }
    Ok(())
}

fn draw_ratios(area: &Area<'_>, standings: &[&Standing<'_>]) -> Drawn {
    let ratios = standings.iter().flat_map(|standing| standing.against.each());
    let ends = ratios.filter_map(|(_, ratio)| ratio).flat_map(|ratio| {
        let around = ratio.interval.map(|around| [around.low, around.high]);
        [ratio.value].into_iter().chain(around.into_iter().flatten()).map(drawable)
    });
    let (low, high) = ends.fold((0.7, 1.4), |(low, high), end| (end.min(low), end.max(high)));
    let (low, high) = (low * 0.9, high * 1.1);
    let rows = standings.len() as f64;
    let middle = |row: usize| rows - row as f64 - 0.5;
    let (_legend, plot) = area.split_vertically(30);
    let mut chart = ChartBuilder::on(&plot)
        .margin_right(16)
        .x_label_area_size(42)
        .y_label_area_size(160)
        .build_cartesian_2d((low..high).log_scale().with_key_points(ticks(low, high)), 0.0..rows)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .disable_y_mesh()
        .axis_style(INK)
        .label_style(font(15))
        .x_desc("times the kernel's")
        .x_label_formatter(&|ratio| ratio.to_string())
        .y_labels(0)
        .draw()?;
    chart.draw_series([PathElement::new([(1.0, 0.0), (1.0, rows)], INK.stroke_width(2))])?;
    let left = anchored(15, HPos::Right, VPos::Center);
    for (row, standing) in standings.iter().enumerate() {
        let (edge, y) = chart.backend_coord(&(low, middle(row)));
        let lines = position(in_lines(standing.contender).lines().count());
        draw_name(area, standing.contender, (edge - 8, y - LINE * (lines - 1) / 2), &left)?;
        for (index, (_, ratio)) in standing.against.each().into_iter().enumerate() {
            let Some(ratio) = ratio else { continue };
            let y = middle(row) + 0.27 * (1.0 - index as f64);
            let at = drawable(ratio.value);
            if let Some(around) = ratio.interval {
                let line = [(drawable(around.low), y), (drawable(around.high), y)];
                let style = MARKS[index].stroke_width(2);
                chart.draw_series([PathElement::new(line, style)])?;
            }
            draw_mark(area, index, chart.backend_coord(&(at, y)), ratio.interval.is_some())?;
        }
    }
    for (index, (what, _)) in Against::default().each().into_iter().enumerate() {
        let x = 170 + 90 * position(index);
        draw_mark(area, index, (x, 14), true)?;
        let text = anchored(15, HPos::Left, VPos::Center);
        area.draw(&Text::new(what, (x + 10, 14), text))?;
    }
    Ok(())
}

/// One shape a figure; pale where there is no interval.
fn draw_mark(area: &Area<'_>, index: usize, at: (i32, i32), told: bool) -> Drawn {
    let colour = MARKS[index].mix(if told { 1.0 } else { 0.4 });
    match index {
        0 => area.draw(&Circle::new(at, 5, colour.filled())),
        1 => area.draw(&TriangleMarker::new(at, 6, colour.filled())),
        _ => area.draw(&Cross::new(at, 5, colour.stroke_width(2))),
    }
}

/// Round figures, the more the narrower the range.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let digits: &[f64] = match high / low {
        ..6.0 => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
        ..1000.0 => &[1.0, 2.0, 5.0],
        _ => &[1.0],
    };
    let power = |exponent: i32| {
        // Quotients are as near to 0.2 as can be, products are not.
        digits.iter().map(move |digit| match exponent {
            ..0 => digit / 10_f64.powi(-exponent),
            _ => digit * 10_f64.powi(exponent),
        })
    };
    (-6..9).flat_map(power).filter(|tick| (low..=high).contains(tick)).collect()
}

fn in_ms(micros: u64) -> f64 {
    // A logarithm has no zero.
    micros.max(1) as f64 / 1000.0
}

fn drawable(ratio: f64) -> f64 {
    ratio.clamp(RATIOS.0, RATIOS.1)
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// The second time around the colours.
fn dashed(index: usize) -> bool {
    index >= COLOURS.len()
}

fn font(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

fn anchored(size: u32, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    font(size).pos(Pos::new(horizontal, vertical))
}

fn size(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn position(index: usize) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{analysis::Analysis, read::tests::example};

    /// What a chart shows of a scenario of the example.
    fn drawn(scenario: usize, chart: impl Fn(&Outcome<'_>) -> Markup) -> String {
        let report = example();
        chart(&Analysis::of(&report).scenarios[scenario]).into_string()
    }

    fn connections(outcome: &Outcome<'_>) -> Markup {
        spread(outcome, "connections", |standing| &standing.connections)
    }

    #[test]
    fn a_chart_of_latency_has_a_line_and_a_name_for_each_contender() {
        let svg = drawn(1, latency);
        for colour in &COLOURS[..4] {
            let RGBColor(red, green, blue) = colour;
            let stroke = format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\" stroke-width=\"2\"");
            assert_eq!(svg.matches(&stroke).count(), 1, "{stroke}");
        }
        for name in ["kernel", "shared", "hash", "round-robin"] {
            assert_eq!(svg.matches(&format!(">\n{name}\n<")).count(), 1, "{name}");
        }
    }

    #[test]
    fn a_chart_of_shares() {
        insta::assert_snapshot!(drawn(1, connections));
    }

    #[test]
    fn a_chart_of_ratios() {
        insta::assert_snapshot!(drawn(1, ratios));
    }

    #[test]
    fn a_chart_says_what_it_is_to_who_cannot_see_it() {
        let mut report = example();
        report.scenarios[0].scenario.name = "\"><script>".into();
        let svg = latency(&Analysis::of(&report).scenarios[0]).into_string();
        let label = "<svg role=\"img\" aria-label=\"&quot;&gt;&lt;script&gt;: share of";
        assert!(svg.starts_with(label), "{svg:.200}");
    }

    #[test]
    fn without_any_trial_a_chart_is_empty_but_whole() {
        let mut report = example();
        report.scenarios[0].trials.clear();
        let analysis = Analysis::of(&report);
        for chart in [latency, ratios, connections] {
            let svg = chart(&analysis.scenarios[0]).into_string();
            assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
        }
    }

    #[test]
    fn ticks_are_round_and_neither_too_few_nor_too_many() {
        assert_eq!(ticks(0.7, 1.4), [0.8, 1.0, 1.2]);
        assert_eq!(ticks(0.15, 30.0), [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(ticks(0.05, 3000.0), [0.1, 1.0, 10.0, 100.0, 1000.0]);
    }
}
