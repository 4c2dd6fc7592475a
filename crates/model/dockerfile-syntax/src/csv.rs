//! One line of comma separated values, as in `--mount` and in frontend options.

/// Why text is not one line of values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum CsvError {
    #[error("EOF")]
    Empty,
    #[error("parse error on line 1, column {column}: bare \" in non-quoted-field")]
    BareQuote { column: usize },
    #[error("parse error on line 1, column {column}: extraneous or missing \" in quoted-field")]
    Quote { column: usize },
}

/// Splits a line into fields. Fields in double quotes may hold commas, and quotes written twice.
pub fn fields(line: &str) -> Result<Vec<String>, CsvError> {
    let line = match line.strip_suffix('\n') {
        Some(line) => line.strip_suffix('\r').unwrap_or(line),
        None => line,
    };
    if line.is_empty() {
        return Err(CsvError::Empty);
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let rest = &line[at..];
        let (field, end) = match rest.strip_prefix('"') {
            Some(_) => quoted_field(line, at + 1)?,
            None => {
                let field = rest.split(',').next().unwrap_or(rest);
                if let Some(quote) = field.find('"') {
                    return Err(CsvError::BareQuote {
                        column: at + quote + 1,
                    });
                }
                (field.to_owned(), at + field.len())
            }
        };
        fields.push(field);
        if end == line.len() {
            return Ok(fields);
        }
        at = end + 1;
    }
}

/// Reads a field whose opening quote is right before `at`; also returns where it ends.
fn quoted_field(line: &str, mut at: usize) -> Result<(String, usize), CsvError> {
    let mut field = String::new();
    loop {
        let Some(length) = line[at..].find('"') else {
            return Err(CsvError::Quote { column: at + 1 });
        };
        field.push_str(&line[at..at + length]);
        at += length + 1;
        match line.as_bytes().get(at) {
            None | Some(b',') => return Ok((field, at)),
            Some(b'"') => {
                field.push('"');
                at += 1;
            }
            Some(_) => return Err(CsvError::Quote { column: at }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_protect_commas() {
        assert_eq!(
            fields(r#"a,"b,c","d""e","#),
            Ok(["a", "b,c", "d\"e", ""].map(String::from).to_vec())
        );
    }

    #[test]
    fn stray_quotes_are_refused_with_their_column() {
        assert_eq!(fields(r#"ab,c"d"#), Err(CsvError::BareQuote { column: 5 }));
        assert_eq!(fields(r#""ab"c"#), Err(CsvError::Quote { column: 4 }));
        assert_eq!(fields(r#""ab"#), Err(CsvError::Quote { column: 2 }));
        assert_eq!(fields(""), Err(CsvError::Empty));
    }
}
