//! Tables for people: columns as wide as they must be, numbers to the right, and nothing in a cell that is not a letter.

use api::terminal::{plain, width};

/// As [`render`], with a word behind the heading.
pub(crate) fn render_with(heading: &[&str], rows: &[Vec<String>], behind: &str) -> String {
    let table = render(heading, rows);
    match table.split_once('\n') {
        Some((heading, rows)) if !behind.is_empty() => format!("{heading}  {behind}\n{rows}"),
        _ => table,
    }
}

/// Rows under a heading. The last column is not padded.
pub(crate) fn render(heading: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| plain(cell).into_owned()).collect()).collect();
    let cells = |column: usize| rows.iter().map(move |row| row[column].as_str());
    let widths: Vec<usize> =
        heading.iter().enumerate().map(|(at, name)| cells(at).chain([*name]).map(width).max().unwrap_or(0)).collect();
    // 0010 is a name.
    let is_padded = |cell: &str| cell.len() > 1 && cell.starts_with('0') && !cell.starts_with("0.");
    let is_number = |cell: &str| cell == "-" || cell.parse::<f64>().is_ok() && !is_padded(cell);
    let numeric: Vec<bool> =
        (0..heading.len()).map(|column| !rows.is_empty() && cells(column).all(is_number)).collect();
    let heading: Vec<String> = heading.iter().map(|word| (*word).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&heading).chain(&rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let room = " ".repeat(widths[column] - width(cell));
            line.push_str(&if numeric[column] { format!("{room}{cell}  ") } else { format!("{cell}{room}  ") });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::render;

    fn row(cells: [&str; 3]) -> Vec<String> {
        cells.map(str::to_owned).to_vec()
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [row(["a", "1.5", "x"]), row(["long", "20", ""])];
        assert_eq!(render(&["NAME", "CPUS", "T"], &rows), "NAME  CPUS  T\na      1.5  x\nlong    20\n");
        let rows = [row(["日本語", "1", "x"]), row(["abcdefg", "-", "y"])];
        assert_eq!(render(&["NAME", "N", "T"], &rows), "NAME     N  T\n日本語   1  x\nabcdefg  -  y\n");
    }

    #[test]
    fn no_name_can_forge_a_row() {
        let rows = [row(["a\u{1b}[2J\nb", "\u{9b}1m", "x\ty"])];
        assert_eq!(render(&["A", "B", "C"], &rows), "A            B       C\na\\x1b[2J\\nb  \\x9b1m  x\\ty\n");
    }
}
