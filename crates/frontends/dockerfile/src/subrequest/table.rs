//! Tables of text.

/// Columns wide enough for their longest cell and `gap` blanks; the last one is as it is.
pub(super) fn table<const N: usize>(rows: &[[String; N]], gap: usize) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + gap);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (at, (width, cell)) in widths.iter().zip(row).enumerate() {
            match at + 1 == N {
                true => text.push_str(cell),
                false => text.push_str(&format!("{cell:<width$}")),
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
    fn all_columns_but_the_last_are_padded() {
        let rows = [["A", "BB"], ["CCC", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows, 2), "A    BB\nCCC  \n");
    }
}
