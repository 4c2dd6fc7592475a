//! Laws: nothing panics, places are true, words follow a simple model.

use std::path::Path;

use dockerfile_syntax::lint::Linter;
use dockerfile_syntax::shell::{Empty, Lex};
use dockerfile_syntax::suggest::{Case, closest};
use dockerfile_syntax::{Dockerfile, Instruction, Kind, parse, parse_leniently, parse_trigger};
use proptest::prelude::*;

/// Pieces that mean something, so that random files get further than the first word.
const PIECES: &[&str] = &[
    "FROM x\n",
    "FROM ",
    "from a as B\n",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "LABEL ",
    "ARG ",
    "ONBUILD ",
    "CMD ",
    "ENTRYPOINT ",
    "SHELL ",
    "EXPOSE ",
    "VOLUME ",
    "USER ",
    "WORKDIR ",
    "STOPSIGNAL ",
    "HEALTHCHECK ",
    "MAINTAINER ",
    "NONE",
    "AS ",
    "a",
    "b=c",
    "/d ",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\\\n",
    "`\n",
    "\\",
    "\"",
    "'",
    "#",
    "# ",
    "\n# c\n",
    "# escape=`\n",
    "# check=skip=all\n",
    "<<EOF",
    "<<-'X'",
    "\nEOF\n",
    "\nX\n",
    "[\"a\", \"b\"]",
    "[1]",
    "[",
    "]",
    ",",
    "--",
    "--mount=type=cache,target=/x ",
    "--link ",
    "--chown=1 ",
    "--from=$x ",
    "--x=y ",
    "--interval=1s ",
    "$A",
    "${A",
    "${A:-b}",
    "}",
    "é",
    "\u{3000}",
    "\u{feff}",
    "80",
    "=",
    "\0",
];

fn pieces() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PIECES), 0..40).prop_map(|list| list.concat())
}

fn recorded() -> Vec<Vec<u8>> {
    let vectors = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/vectors/dockerfile"
    ));
    let cases = std::fs::read_dir(vectors).expect("the vectors are part of the tree");
    let files = cases.filter_map(|case| std::fs::read(case.ok()?.path().join("Dockerfile")).ok());
    let mut files: Vec<_> = files.filter(|file| file.len() < 10_000).collect();
    files.sort();
    files
}

/// A recorded file with pieces put in and taken out at random places.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec(
        (
            any::<prop::sample::Index>(),
            0usize..8,
            prop::sample::select(PIECES),
        ),
        0..6,
    );
    (prop::sample::select(recorded()), edits).prop_map(|(mut file, edits)| {
        for (at, cut, piece) in edits {
            let start = at.index(file.len() + 1);
            let end = (start + cut).min(file.len());
            file.splice(start..end, piece.bytes());
        }
        file
    })
}

/// Parses, and checks what must hold for any file that parses.
fn check(source: &[u8]) -> Result<(), TestCaseError> {
    let lines = u32::try_from(source.split(|&byte| byte == b'\n').count()).expect("small");
    let mut linter = Linter::new(Default::default());
    let (rest, errors) = parse_leniently(source, &mut Linter::off());
    match parse(source, &mut linter) {
        Ok(file) => {
            prop_assert_eq!(&rest, &file);
            prop_assert_eq!(errors, []);
            check_places(source, &file, lines)?;
            check_print(&file)?;
        }
        Err(err) => {
            prop_assert_eq!(errors.first(), Some(&err));
            check_places(source, &rest, lines)?;
            prop_assert!(!err.to_string().is_empty());
            prop_assert!(
                err.span.is_none_or(|span| span.last <= lines),
                "{err}: {:?}",
                err.span
            );
        }
    }
    for finding in linter.findings() {
        prop_assert!((1..=lines).contains(&finding.span.first));
    }
    Ok(())
}

fn check_places(source: &[u8], file: &Dockerfile, lines: u32) -> Result<(), TestCaseError> {
    let mut last = 0;
    let stages = file.stages.iter().flat_map(|stage| {
        let own = (stage.span, &stage.text, &stage.flags, &*stage.keyword);
        std::iter::once(own).chain(stage.instructions.iter().map(parts))
    });
    for (span, text, flags, keyword) in file.meta_args.iter().map(parts).chain(stages) {
        prop_assert!(last < span.first && span.first <= span.last && span.last <= lines);
        last = span.last;
        prop_assert!(text.starts_with(keyword));
        for flag in flags {
            prop_assert!(text[flag.range.clone()].starts_with("--"));
        }
        if let Ok(source) = std::str::from_utf8(source) {
            let physical: Vec<&str> = source.split('\n').collect();
            for (offset, c) in text.char_indices() {
                let place = text.locate(offset).expect("inside");
                prop_assert!(span.first <= place.line && place.line <= span.last);
                let line = physical[place.line as usize - 1];
                prop_assert!(
                    line[place.column as usize..].starts_with(c),
                    "{line:?} {place:?} {c:?}"
                );
            }
        }
    }
    for instruction in file.instructions() {
        let mut end = 0;
        for token in instruction.tokens(file) {
            prop_assert!(end <= token.range.start && token.range.start < token.range.end);
            prop_assert!(token.start <= token.end && token.end.line <= instruction.span.last);
            end = token.range.end;
        }
        if let Kind::Onbuild(onbuild) = &instruction.kind {
            let _ = parse_trigger(&onbuild.expression);
        }
        if let Kind::Run(run) = &instruction.kind {
            for mount in &run.mounts {
                let _ = mount.resolve::<dockerfile_syntax::MountError>(|word| Ok(word.to_owned()));
            }
        }
    }
    Ok(())
}

/// What an instruction says, wherever it stands.
type Said = (
    Option<Kind>,
    String,
    String,
    Vec<String>,
    Vec<(String, Option<String>)>,
);

fn said(file: &Dockerfile) -> (char, usize, Vec<Said>) {
    let flags = |flags: &[dockerfile_syntax::Flag]| -> Vec<_> {
        let text = |value: &bytestring::ByteString| value.to_string();
        let parts =
            |flag: &dockerfile_syntax::Flag| (text(&flag.name), flag.value.as_ref().map(text));
        flags.iter().map(parts).collect()
    };
    let instruction = |one: &Instruction| {
        let text = one.text.as_str().to_owned();
        let kind = Some(one.kind.clone());
        (
            kind,
            one.keyword.to_string(),
            text,
            one.comments.clone(),
            flags(&one.flags),
        )
    };
    let stages = file.stages.iter().flat_map(|stage| {
        let text = stage.text.as_str().to_owned();
        let keyword = stage.keyword.to_string();
        let from = (
            None,
            keyword,
            text,
            stage.comments.clone(),
            flags(&stage.flags),
        );
        std::iter::once(from).chain(stage.instructions.iter().map(instruction))
    });
    let all = file.meta_args.iter().map(instruction).chain(stages);
    (file.escape, file.directives.len(), all.collect())
}

/// Printed and parsed again, the file is the same; printed again, so is the text.
fn check_print(file: &Dockerfile) -> Result<(), TestCaseError> {
    let source = file.to_source();
    let shown = String::from_utf8_lossy(&source);
    let again = match parse(&source, &mut Linter::off()) {
        Ok(again) => again,
        Err(err) => return Err(TestCaseError::fail(format!("{err}: {shown:?}"))),
    };
    prop_assert_eq!(said(file), said(&again), "{:?}", shown);
    prop_assert_eq!(again.to_source(), source);
    Ok(())
}

type Parts<'a> = (
    dockerfile_syntax::Span,
    &'a dockerfile_syntax::Text,
    &'a Vec<dockerfile_syntax::Flag>,
    &'a str,
);

fn parts(one: &Instruction) -> Parts<'_> {
    (one.span, &one.text, &one.flags, &one.keyword)
}

/// Every length of a start of `text` that the pattern matches, found by trying.
fn matches(pattern: &[char], text: &[char], at: usize, found: &mut Vec<usize>) {
    match (pattern.split_first(), text.get(at)) {
        (None, _) => found.push(at),
        (Some(('*', rest)), next) => {
            matches(rest, text, at, found);
            if next.is_some_and(|&c| c != '\n') {
                matches(pattern, text, at + 1, found);
            }
        }
        (Some(('?', rest)), Some(&c)) if c != '\n' => matches(rest, text, at + 1, found),
        (Some((wanted, rest)), Some(c)) if wanted == c && *wanted != '?' => {
            matches(rest, text, at + 1, found)
        }
        _ => {}
    }
}

fn distance(a: &[char], b: &[char]) -> usize {
    match (a, b) {
        ([], rest) | (rest, []) => rest.len(),
        ([x, a_rest @ ..], [y, b_rest @ ..]) => {
            let change = distance(a_rest, b_rest) + usize::from(x != y);
            change
                .min(distance(a_rest, b) + 1)
                .min(distance(a, b_rest) + 1)
        }
    }
}

/// A piece of a word whose meaning is known because it is made, not read.
#[derive(Debug, Clone)]
enum Piece {
    Plain(String),
    Escaped(char),
    Single(String),
    Double(Vec<Piece>),
    Variable {
        name: &'static str,
        braces: bool,
    },
    /// `${name OPERATOR operand}`
    Operator {
        name: &'static str,
        operator: &'static str,
        operand: Vec<Piece>,
    },
}

const VARIABLES: [(&str, Option<&str>); 4] = [
    ("a", Some("1")),
    ("long_name", Some("x y")),
    ("empty", Some("")),
    ("unset", None),
];

impl Piece {
    fn write(&self, out: &mut String) {
        match self {
            Self::Plain(text) => out.push_str(text),
            Self::Escaped(c) => out.extend(['\\', *c]),
            Self::Single(text) => out.extend(["'", text, "'"]),
            Self::Double(pieces) => {
                out.push('"');
                pieces.iter().for_each(|piece| piece.write(out));
                out.push('"');
            }
            Self::Variable {
                name,
                braces: false,
            } => out.extend(["$", name]),
            Self::Variable { name, braces: true } => out.extend(["${", name, "}"]),
            Self::Operator {
                name,
                operator,
                operand,
            } => {
                out.extend(["${", name, operator]);
                operand.iter().for_each(|piece| piece.write(out));
                out.push('}');
            }
        }
    }

    fn mean(&self, out: &mut String) {
        let value = |wanted: &str| {
            let found = VARIABLES.iter().find(|(name, _)| *name == wanted);
            found.and_then(|(_, value)| *value)
        };
        match self {
            Self::Plain(text) | Self::Single(text) => out.push_str(text),
            Self::Escaped(c) => out.push(*c),
            Self::Double(pieces) => pieces.iter().for_each(|piece| piece.mean(out)),
            Self::Variable { name, .. } => out.push_str(value(name).unwrap_or_default()),
            Self::Operator {
                name,
                operator,
                operand,
            } => {
                let value = value(name);
                let full = value.is_some_and(|value| !value.is_empty());
                let (shown, instead) = match *operator {
                    "-" => (value, value.is_none()),
                    ":-" => (value, !full),
                    "+" => (None, value.is_some()),
                    _ => (None, full),
                };
                match instead {
                    true => operand.iter().for_each(|piece| piece.mean(out)),
                    false => out.push_str(shown.unwrap_or_default()),
                }
            }
        }
    }
}

fn words() -> impl Strategy<Value = Vec<Piece>> {
    let name = prop::sample::select(&["a", "long_name", "empty", "unset"][..]);
    let quotable = prop_oneof![
        // A blank keeps names apart from the letters behind them.
        "[ .,/]{1,3}[b-z]{0,2} ".prop_map(Piece::Plain),
        prop::sample::select(&['"', '$', '\\'][..]).prop_map(Piece::Escaped),
        (name.clone()).prop_map(|name| Piece::Variable { name, braces: true }),
    ];
    let leaf = prop_oneof![
        quotable.clone(),
        "[a-z $\"{}\\\\]{0,4}".prop_map(Piece::Single),
        prop::collection::vec(quotable, 0..3).prop_map(Piece::Double),
        name.clone()
            .prop_map(|name| Piece::Variable { name, braces: true }),
    ];
    let piece = leaf.prop_recursive(3, 12, 3, move |inner| {
        let operator = prop::sample::select(&["-", ":-", "+", ":+"][..]);
        let operand = prop::collection::vec(inner, 0..3);
        (name.clone(), operator, operand).prop_map(|(name, operator, operand)| Piece::Operator {
            name,
            operator,
            operand,
        })
    });
    let tail = prop::sample::select(&["a", "long_name"][..]);
    let last = prop::option::of(tail.prop_map(|name| Piece::Variable {
        name,
        braces: false,
    }));
    (prop::collection::vec(piece, 0..6), last).prop_map(|(mut pieces, last)| {
        pieces.extend(last);
        pieces
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_parse_or_fail(source in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&source)?;
    }

    #[test]
    fn any_sequence_of_pieces_parses_or_fails(source in pieces()) {
        check(source.as_bytes())?;
    }

    #[test]
    fn any_mutation_of_a_real_file_parses_or_fails(source in mutated()) {
        check(&source)?;
    }

    #[test]
    fn any_word_expands_or_fails(word in "[$a-c{}:+?#%/*\\\\`'\" \t<_@-]{0,20}", escape in prop::sample::select(&['\\', '`'][..]), bits in 0u8..16) {
        let env = vec![("a".to_owned(), "1 2".to_owned()), ("b".to_owned(), String::new())];
        let lex = Lex {
            escape,
            keep_quotes: bits & 1 != 0,
            keep_escapes: bits & 2 != 0,
            keep_unset: bits & 4 != 0,
            plain_quotes: bits & 8 != 0,
        };
        let one = lex.process_word(&word, &env);
        let many = lex.process_words(&word, &env);
        prop_assert_eq!(one.is_ok(), many.is_ok());
        if let (Ok(one), Ok(many)) = (one, many) {
            // Splitting only takes white space away, and what stands in front of an operator.
            let strip = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            let (one, many) = (strip(&one.text), strip(&many.concat()));
            let mut left = one.chars();
            prop_assert!(many.chars().all(|c| left.any(|other| other == c)), "{:?} {:?}", one, many);
            if !word.contains('{') {
                prop_assert_eq!(one, many);
            }
        }
    }

    #[test]
    fn words_mean_what_they_were_made_of(pieces in words()) {
        let (mut source, mut meaning) = (String::new(), String::new());
        for piece in &pieces {
            piece.write(&mut source);
            piece.mean(&mut meaning);
        }
        let set = VARIABLES.iter().filter_map(|(name, value)| Some((name.to_string(), (*value)?.to_owned())));
        let env: Vec<(String, String)> = set.collect();
        let expanded = Lex::new('\\').process_word(&source, &env);
        prop_assert_eq!(expanded.map(|it| it.text), Ok(meaning), "{:?}", source);
    }

    #[test]
    fn text_without_special_characters_stays(word in "[a-z0-9 =/.,é]{0,30}") {
        let done = Lex::new('\\').process_word(&word, &Empty).expect("nothing to expand");
        prop_assert_eq!(done.text, word);
    }

    #[test]
    fn quoting_is_undone(words in prop::collection::vec("[a-z$\"\\\\ \t\n{}]{1,10}", 0..5)) {
        let lex = Lex::new('\\');
        let single: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        prop_assert_eq!(&lex.process_words(&single.join(" "), &Empty).expect("quoted"), &words);
        let escape = |word: &String| word.chars().flat_map(|c| {
            let special = matches!(c, '$' | '"' | '\\');
            special.then_some('\\').into_iter().chain([c])
        }).collect::<String>();
        let double: Vec<String> = words.iter().map(|word| format!("\"{}\"", escape(word))).collect();
        prop_assert_eq!(&lex.process_words(&double.join(" "), &Empty).expect("quoted"), &words);
    }

    #[test]
    fn patterns_match_what_trying_everything_finds(value in "[ab\nc]{0,8}", pattern in "[ab*?\nc]{0,6}") {
        let env = vec![("v".to_owned(), value.clone())];
        let expand = |word: String| Lex::new('\\').process_word(&word, &env).expect("valid").text;
        let (text, glob): (Vec<char>, Vec<char>) = (value.chars().collect(), pattern.chars().collect());
        let mut found = Vec::new();
        matches(&glob, &text, 0, &mut found);
        let without = |length: Option<&usize>| text[length.copied().unwrap_or(0)..].iter().collect::<String>();
        // A pattern that starts with the sign would ask for the longest match.
        prop_assert_eq!(expand(format!("${{v#{pattern}}}")), without(found.iter().min()));
        prop_assert_eq!(expand(format!("${{v##{pattern}}}")), without(found.iter().max()));

        let (back, glob): (Vec<char>, Vec<char>) = (text.iter().rev().copied().collect(), glob.into_iter().rev().collect());
        let mut found = Vec::new();
        matches(&glob, &back, 0, &mut found);
        let without = |length: Option<&usize>| text[..text.len() - length.copied().unwrap_or(0)].iter().collect::<String>();
        prop_assert_eq!(expand(format!("${{v%{pattern}}}")), without(found.iter().min()));
        prop_assert_eq!(expand(format!("${{v%%{pattern}}}")), without(found.iter().max()));
    }

    #[test]
    fn a_suggestion_is_the_nearest_word(word in "[abc]{0,5}", candidates in prop::collection::vec("[abc]{1,5}", 0..5)) {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        let near = candidates.iter().map(|one| (distance(&chars(&word), &chars(one)), one)).min_by_key(|(distance, _)| *distance);
        let wanted = near.filter(|(distance, _)| (1..3).contains(distance)).map(|(_, one)| one.clone());
        prop_assert_eq!(closest(&word, candidates.iter().map(String::as_str), Case::Sensitive), wanted);
    }

    #[test]
    fn breaking_a_line_changes_nothing_but_its_places(words in prop::collection::vec("[a-z=\"$]{1,6}", 1..8), indent in "[ \t]{0,3}") {
        let flat = format!("FROM x\nRUN {}", words.join(" "));
        let broken = format!("FROM x\nRUN {}", words.join(&format!(" \\{indent}\n# comment\n")));
        let kind = |source: &str| parse(source.as_bytes(), &mut Linter::off()).map(|file| file.stages[0].instructions[0].kind.clone());
        prop_assert_eq!(kind(&flat), kind(&broken));
    }
}

#[test]
fn ten_times_the_lines_take_ten_times_as_long() {
    let best = |lines: usize| {
        let mut source = String::from("FROM alpine AS base\n");
        for line in 0..lines {
            let text = match line % 5 {
                0 => format!("ENV KEY{line}=\"value {line}\" OTHER=x\n"),
                1 => format!("RUN --mount=type=cache,target=/c{line} apk add package{line} \\\n"),
                2 => "    && echo done $HOME\n".to_owned(),
                3 => format!("COPY --chown=1:2 --from=base /a{line} b c /d/\n"),
                _ => "# a comment\n".to_owned(),
            };
            source.push_str(&text);
        }
        let runs = (0..5).map(|_| {
            let start = std::time::Instant::now();
            let file =
                parse(source.as_bytes(), &mut Linter::new(Default::default())).expect("valid");
            assert_eq!(file.stages[0].instructions.len(), lines / 5 * 3);
            start.elapsed()
        });
        runs.min().expect("five runs")
    };
    let (few, many) = (best(1000), best(10_000));
    println!("1000 lines: {few:?}, 10000 lines: {many:?}");
    // A busy machine slows one more than the other; a quadratic parser would need a hundred times as long.
    assert!(many < few * 50, "{few:?} {many:?}");
}
