//! Bar charts as SVG, small enough to read in a diff.

use std::fmt::Write as _;

use super::measure::Series;

const WIDTH: f64 = 760.0;
const NAMES: f64 = 300.0;
const VALUES: f64 = 110.0;
const BAR: f64 = 22.0;
const GAP: f64 = 10.0;
const TOP: f64 = 40.0;

/// Horizontal bars of the medians with a line from the least to the greatest value. The first bar is ours.
pub(crate) fn bars(title: &str, unit: &str, series: &[Series]) -> String {
    let height = TOP + series.len() as f64 * (BAR + GAP) + GAP;
    let longest = series.iter().map(Series::maximum).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - NAMES - VALUES) / longest;
    let mut svg = String::new();
    // Writing to a String cannot fail.
    _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">
<rect width="{WIDTH}" height="{height}" fill="white"/>
<text x="{GAP}" y="22" font-size="15" font-weight="bold">{}</text>"#,
        escaped(title)
    );
    for (index, series) in series.iter().enumerate() {
        let y = TOP + index as f64 * (BAR + GAP);
        let (middle, text) = (y + BAR / 2.0, y + BAR / 2.0 + 4.5);
        let (median, least, most) =
            (series.median() * scale, series.minimum() * scale, series.maximum() * scale);
        let colour = if index == 0 { "#2f6f4f" } else { "#9aa5b1" };
        _ = writeln!(
            svg,
            r##"<text x="{:.1}" y="{text:.1}" text-anchor="end">{}</text>
<rect x="{NAMES}" y="{y:.1}" width="{:.1}" height="{BAR}" fill="{colour}"/>
<line x1="{:.1}" y1="{middle:.1}" x2="{:.1}" y2="{middle:.1}" stroke="#222"/>
<text x="{:.1}" y="{text:.1}">{} {unit}</text>"##,
            NAMES - 8.0,
            escaped(&series.name),
            median.max(1.0),
            NAMES + least,
            NAMES + most,
            NAMES + most + 8.0,
            short(series.median()),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Three significant digits, without an exponent.
pub(crate) fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let digits = 2 - value.abs().log10().floor() as i32;
    format!("{value:.*}", usize::try_from(digits).unwrap_or(0))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let cases = [(1234.5, "1234"), (123.4, "123"), (1.2345, "1.23"), (0.012_345, "0.0123")];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
        assert_eq!(short(0.0), "0");
    }

    #[test]
    fn every_series_has_a_bar_and_names_are_escaped() {
        let series =
            |name: &str, values: &[f64]| Series { name: name.to_owned(), values: values.to_vec() };
        let svg = bars("a < b", "s", &[series("us", &[1.0]), series("x & y", &[2.0, 4.0])]);
        assert_eq!(svg.matches("<rect x=").count(), 2);
        assert!(svg.contains("a &lt; b") && svg.contains("x &amp; y"), "{svg}");
    }
}
