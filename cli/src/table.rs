//! Tables for people: columns as wide as they must be, numbers to the right.

/// Rows under a heading. The last column is not padded.
pub(crate) fn render(heading: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).chain([heading[column].len()]).max().unwrap())
        .collect();
    let numeric: Vec<bool> = (0..heading.len())
        .map(|column| !rows.is_empty() && rows.iter().all(|row| row[column].parse::<f64>().is_ok()))
        .collect();
    let heading: Vec<String> = heading.iter().map(|word| (*word).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            line.push_str(&if numeric[column] { format!("{cell:>width$}") } else { format!("{cell:<width$}") });
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows =
            [vec!["a".to_owned(), "1.5".to_owned(), "x".to_owned()], vec!["long".into(), "20".into(), "".into()]];
        assert_eq!(super::render(&["NAME", "CPUS", "T"], &rows), "NAME  CPUS  T\na      1.5  x\nlong    20\n");
    }
}
