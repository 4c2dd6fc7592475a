//! Upstream's behaviour, recorded: word expansion, parse errors and findings of the parser.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dockerfile_syntax::lint::{self, Config, Linter};
use dockerfile_syntax::{directive, parse, shell};
use serde_json::Value;

fn vectors() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/vectors/dockerfile"
    ))
}

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(vectors()).expect("the vectors are part of the tree");
    let mut cases: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() > 370, "only {} cases", cases.len());
    cases
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("valid JSON")
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|one| one.as_str().expect("a string").to_owned())
        .collect()
}

#[test]
fn words_expand_as_upstream_expands_them() {
    let cases = json(&vectors().join("shell.json"));
    let mut failures = Vec::new();
    for case in cases.as_array().expect("a list") {
        let on = |key: &str| case[key].as_bool().unwrap_or(false);
        let lex = shell::Lex {
            keep_quotes: on("raw_quotes"),
            keep_escapes: on("raw_escapes"),
            keep_unset: on("skip_unset"),
            plain_quotes: on("skip_quotes"),
            ..shell::Lex::new(
                case["escape"]
                    .as_str()
                    .and_then(|text| text.chars().next())
                    .expect("an escape"),
            )
        };
        let env: BTreeMap<String, String> = strings(&case["env"])
            .iter()
            .map(|pair| pair.split_once('=').expect("a pair"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let input = case["input"].as_str().expect("an input");
        let names = |key: &str| strings(&case[key]).into_iter().collect::<BTreeSet<_>>();

        let (word, matched, unmatched) = match lex.process_word(input, &env) {
            Ok(done) => (Ok(done.text), done.matched, done.unmatched),
            Err(err) => (Err(err.to_string()), err.matched, err.unmatched),
        };
        let wanted = match case["word_error"].as_str() {
            Some(text) => Err(text.to_owned()),
            None => Ok(case["word"].as_str().expect("a word").to_owned()),
        };
        let words = lex
            .process_words(input, &env)
            .map_err(|err| err.to_string());
        let wanted_words = match case["words_error"].as_str() {
            Some(text) => Err(text.to_owned()),
            None => Ok(strings(&case["words"])),
        };
        if word != wanted
            || words != wanted_words
            || matched != names("matched")
            || unmatched != names("unmatched")
        {
            failures.push(format!(
                "{case:#?}\nword {word:?}\nwords {words:?}\n{matched:?} {unmatched:?}"
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}

/// Texts that only this crate can have made.
fn is_ours(text: &str) -> bool {
    const TEXTS: [&str; 9] = [
        "the Dockerfile cannot be empty",
        "file with no instructions",
        "no build stage in current context",
        "unterminated heredoc",
        "Syntax error - ",
        "only one ",
        "invalid escape token",
        "dockerfile line greater",
        "when using JSON array syntax",
    ];
    text.starts_with("dockerfile parse error on line ")
        || text.ends_with(" must have two arguments")
        || TEXTS.iter().any(|ours| text.starts_with(ours))
}

/// The lint configuration of a case, as the frontend finds it. None if it is refused.
fn config(source: &[u8], options: &Value) -> Option<Config> {
    match options["build-arg:BUILDKIT_DOCKERFILE_CHECK"].as_str() {
        Some(text) => Config::parse(text).ok(),
        None => Config::from_directive(
            &directive::check(source)
                .map(|one| one.value)
                .unwrap_or_default(),
        )
        .ok(),
    }
}

#[test]
fn errors_of_the_parser_have_upstreams_text_and_lines() {
    let mut ours = 0;
    for case in cases() {
        let name = case.display();
        let source = std::fs::read(case.join("Dockerfile")).expect("readable");
        let meta = json(&case.join("meta.json"));
        let wanted = std::fs::read_to_string(case.join("error.txt")).ok();
        let wanted = wanted.as_deref().map(|text| text.trim_end_matches('\n'));
        match parse(&source, &mut Linter::off()) {
            Ok(_) => assert!(
                !wanted.is_some_and(is_ours),
                "{name}: parses, but should say: {wanted:?}"
            ),
            // These fail before the file is read, or hand it to somebody else.
            Err(_) if wanted.is_none_or(|text| !is_ours(text)) => {
                assert!(
                    directive::syntax(&source).is_some()
                        || !meta["opts"]["build-arg:BUILDKIT_SYNTAX"].is_null(),
                    "{name}"
                );
            }
            Err(err) => {
                assert_eq!(Some(err.to_string().as_str()), wanted, "{name}");
                let lines: Vec<u64> = err
                    .span
                    .into_iter()
                    .flat_map(|span| span.lines())
                    .map(u64::from)
                    .collect();
                let ranges = &meta["error_source_ranges"][0];
                let starts = ranges
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|range| range[0].as_u64().expect("a line"));
                assert_eq!(lines, starts.collect::<Vec<_>>(), "{name}");
                ours += 1;
            }
        }
    }
    assert_eq!(ours, 57, "errors of the parser");
}

#[test]
fn findings_of_the_parser_are_upstreams() {
    const OURS: [&str; 8] = [
        "StageNameCasing",
        "FromAsCasing",
        "NoEmptyContinuation",
        "ConsistentInstructionCasing",
        "DuplicateStageName",
        "ReservedStageName",
        "MaintainerDeprecated",
        "InvalidDefinitionDescription",
    ];
    let mut count = 0;
    for case in cases() {
        let source = std::fs::read(case.join("Dockerfile")).expect("readable");
        let options = json(&case.join("meta.json"))["opts"].take();
        let (Some(config), Ok(Value::Array(warnings))) = (
            config(&source, &options),
            std::fs::read(case.join("warnings.json"))
                .map(|bytes| serde_json::from_slice(&bytes).expect("valid JSON")),
        ) else {
            continue;
        };
        // Requests other than a build send no warnings.
        if !options["requestid"].is_null() {
            continue;
        }
        let mut linter = Linter::new(config);
        if let Ok(file) = parse(&source, &mut linter) {
            lint::check_stage_names(&file, &mut linter);
            lint::check_casing(&file, &mut linter);
        }
        let found: Vec<_> = linter
            .take()
            .into_iter()
            .map(|one| {
                let lines: Vec<u64> = one.span.lines().map(u64::from).collect();
                (
                    one.short(),
                    vec![one.rule.description.to_owned()],
                    one.rule.url.to_owned(),
                    lines,
                )
            })
            .collect();
        let wanted: Vec<_> = warnings
            .iter()
            .filter(|one| {
                OURS.iter().any(|rule| {
                    one["short"]
                        .as_str()
                        .is_some_and(|text| text.starts_with(&format!("{rule}: ")))
                })
            })
            .map(|one| {
                let ranges = one["ranges"].as_array().expect("a list");
                let lines = ranges
                    .iter()
                    .map(|range| range[0].as_u64().expect("a line"))
                    .collect::<Vec<_>>();
                let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
                (text("short"), strings(&one["detail"]), text("url"), lines)
            })
            .collect();
        // A build that does not come as far as linting has no warnings at all.
        if wanted.is_empty() && case.join("error.txt").exists() && !found.is_empty() {
            println!("{}: not linted", case.display());
            continue;
        }
        count += found.len();
        assert_eq!(found, wanted, "{}", case.display());
    }
    assert_eq!(count, 20, "findings of the parser");
}
