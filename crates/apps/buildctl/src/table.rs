//! Columns of text, aligned with tabs. Compat: the stops upstream's tables have.

const STOP: usize = 8;

/// Lines of cells; the last cell of a line belongs to no column. All lines have the same number of cells.
pub(crate) fn align<L: AsRef<[String]>>(lines: &[L]) -> String {
    let columns = lines.first().map_or(0, |line| line.as_ref().len());
    let widths: Vec<usize> = (0..columns)
        .map(|at| {
            let cells = lines.iter().filter_map(|line| line.as_ref().get(at));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            (widest + 1).next_multiple_of(STOP)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.as_ref();
        for (at, cell) in cells.iter().enumerate() {
            text.push_str(cell);
            if at + 1 < cells.len() {
                let missing = widths[at].saturating_sub(cell.chars().count());
                text.extend(std::iter::repeat_n('\t', missing.div_ceil(STOP)));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_end_at_the_next_stop_after_the_widest_cell() {
        let line = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        assert_eq!(
            align(&[line("a", "1"), line("bbbbbbb", "2")]),
            "a\t1\nbbbbbbb\t2\n"
        );
        assert_eq!(
            align(&[line("a", "1"), line("bbbbbbbb", "2")]),
            "a\t\t1\nbbbbbbbb\t2\n"
        );
    }
}
