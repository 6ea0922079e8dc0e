//! Plain tables: an upper-case header, columns parted by three spaces, nothing cut off.

/// A table with the given header and rows; the last column is not padded. What a terminal would obey is shown as
/// its escape: runtimes hand names on as they were given.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let widths = widths(&header, &rows);
    std::iter::once(&header).chain(&rows).map(|row| line(row, &widths)).collect()
}

fn printable(cell: &str) -> String {
    let shown = |letter: char| match letter.is_control() {
        true => letter.escape_default().collect(),
        false => letter.to_string(),
    };
    cell.chars().map(shown).collect()
}

fn widths(header: &[String], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| {
        let cells = std::iter::once(header).chain(rows.iter().map(Vec::as_slice));
        cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    (0..header.len()).map(width).collect()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
    format!("{}\n", cells.collect::<Vec<_>>().join("   ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_given_nothing_to_obey() {
        let rows = [vec!["we\u{1b}[2Jb\n".into()]];
        assert_eq!(render(&["NAME"], &rows), "NAME\nwe\\u{1b}[2Jb\\n\n");
    }

    #[test]
    fn columns_are_parted_by_three_spaces_and_nothing_is_cut() {
        let rows = [
            vec!["mynet".into(), "172.18.0.0/16".into(), "2".into()],
            vec!["n".into(), String::new(), "0".into()],
        ];
        assert_eq!(
            render(&["NAME", "SUBNET", "ENDPOINTS"], &rows),
            "NAME    SUBNET          ENDPOINTS\nmynet   172.18.0.0/16   2\nn                       0\n"
        );
    }
}
