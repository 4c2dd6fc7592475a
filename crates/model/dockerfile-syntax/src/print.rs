//! Writes a parsed Dockerfile down again, in a normal form.
//!
//! Each instruction stands on one line as its author wrote it, below its comments and above its documents. Continuation
//! lines are joined and blank lines gone. What is printed means the same: parsed again, it is the same instructions.

use crate::ast::{Dockerfile, Instruction, Stage};
use crate::source::Text;

impl Dockerfile {
    /// The file in its normal form. Bytes, as documents need not be UTF-8.
    pub fn to_source(&self) -> Vec<u8> {
        let mut printer = Printer { out: Vec::new() };
        for directive in &self.directives {
            printer.line(&format!("# {}={}", directive.key.as_str(), directive.value));
        }
        // A blank line ends the directives: what follows is a comment, and no byte order mark either.
        let first = self.meta_args.first().map(|one| (&one.comments, &one.text));
        let stage = self.stages.first().map(|one| (&one.comments, &one.text));
        if let Some((comments, text)) = first.or(stage)
            && (!comments.is_empty() || text.untrimmed().starts_with('\u{feff}'))
        {
            printer.line("");
        }
        for instruction in &self.meta_args {
            printer.instruction(instruction);
        }
        for stage in &self.stages {
            printer.stage(stage);
        }
        printer.out
    }
}

struct Printer {
    out: Vec<u8>,
}

impl Printer {
    fn line(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.push(b'\n');
    }

    fn comments(&mut self, comments: &[String]) {
        for comment in comments {
            self.line(&format!("# {comment}"));
        }
    }

    fn stage(&mut self, stage: &Stage) {
        self.comments(&stage.comments);
        self.text(&stage.text);
        for instruction in &stage.instructions {
            self.instruction(instruction);
        }
    }

    fn instruction(&mut self, instruction: &Instruction) {
        self.comments(&instruction.comments);
        self.text(&instruction.text);
    }

    /// Blanks at the end stay: without them an escape character there would join the next line.
    fn text(&mut self, text: &Text) {
        self.line(text.untrimmed().trim_start());
        let below = text.below();
        self.out.extend_from_slice(below);
        if below.last().is_some_and(|&byte| byte != b'\n') {
            self.out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::lint::Linter;
    use crate::parse;

    fn printed(source: &str) -> String {
        let file = parse(source.as_bytes(), &mut Linter::off()).expect("parses");
        String::from_utf8(file.to_source()).expect("text")
    }

    #[test]
    fn lines_are_joined_and_blank_ones_gone() {
        let source = "# escape=`\n\nFROM a `\n  # inside\n  AS b\n\n\n  RUN x `\n    y\n";
        assert_eq!(printed(source), "# escape=`\nFROM a   AS b\nRUN x     y\n");
    }

    #[test]
    fn comments_and_documents_stay() {
        let source =
            "\n# escape=x\nFROM a\n# b\nRUN cat <<A <<-B\n1\nA\n\t2\nB\nONBUILD COPY <<E /\n3\nE\n";
        assert_eq!(printed(source), source);
    }
}
