//! What each kind of line means, case by case.

use dockerfile_syntax::lint::{Config, Linter};
use dockerfile_syntax::{
    Command, Dockerfile, Instruction, Kind, Mount, MountError, MountKind, Position, Sharing, Span,
    parse, parse_leniently, parse_trigger,
};

fn file(source: &str) -> Dockerfile {
    parse(source.as_bytes(), &mut Linter::off()).unwrap_or_else(|err| panic!("{source:?}: {err}"))
}

/// The only instruction after `FROM`.
fn one(source: &str) -> Instruction {
    let mut file = file(&format!("FROM x\n{source}"));
    let mut instructions = file.stages.remove(0).instructions;
    assert_eq!(instructions.len(), 1, "{source:?}");
    instructions.remove(0)
}

fn fails(source: &str) -> String {
    let source = format!("FROM x\n{source}");
    parse(source.as_bytes(), &mut Linter::off())
        .expect_err(&source)
        .to_string()
}

fn findings(source: &str) -> Vec<String> {
    let mut linter = Linter::new(Config::parse("experimental=all").expect("valid"));
    let _ = parse(source.as_bytes(), &mut linter);
    linter
        .findings()
        .iter()
        .map(|finding| finding.short())
        .collect()
}

fn mount(value: &str) -> Result<Mount, MountError> {
    let Kind::Run(run) = one(&format!("RUN --mount={value} x")).kind else {
        panic!("not RUN")
    };
    run.mounts[0].resolve(|word| Ok(word.to_owned()))
}

#[test]
fn lines_are_joined_without_comments_and_blank_lines() {
    let run = one("  RUN a \\\n  # no\n\n  b \\  \n c  ");
    assert_eq!(run.text.as_str(), "RUN a   b  c");
    assert_eq!(run.span, Span { first: 2, last: 6 });
    assert_eq!(run.span.lines().collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
}

#[test]
fn a_doubled_escape_does_not_join_lines() {
    assert_eq!(one("RUN a \\\\").text.as_str(), "RUN a \\\\");
    assert_eq!(one("RUN a \\\\\\").text.as_str(), "RUN a \\\\\\");
    assert_eq!(one("RUN a \\").text.as_str(), "RUN a");
}

#[test]
fn the_escape_can_be_a_backtick() {
    let file = file("# escape=`\nFROM x\nRUN a \\\nRUN b `\nc\n");
    let texts: Vec<_> = file.stages[0]
        .instructions
        .iter()
        .map(|one| one.text.as_str())
        .collect();
    assert_eq!((file.escape, texts), ('`', vec!["RUN a \\", "RUN b c"]));
}

#[test]
fn each_byte_of_the_text_knows_its_place() {
    let run = one("\tRUN --network=none a \\\n  bb");
    let place = |what: &str| run.text.locate(run.text.find(what).expect("there"));
    assert_eq!(place("RUN"), Some(Position { line: 2, column: 1 }));
    assert_eq!(
        place("a "),
        Some(Position {
            line: 2,
            column: 20
        })
    );
    assert_eq!(place("bb"), Some(Position { line: 3, column: 2 }));
    assert_eq!(&run.text[run.flags[0].range.clone()], "--network=none");
    assert_eq!(run.text.locate(1000), None);
}

#[test]
fn a_byte_order_mark_counts_as_bytes_of_the_first_line() {
    let file = file("\u{feff}FROM x");
    assert_eq!(
        file.stages[0].text.locate(0),
        Some(Position { line: 1, column: 3 })
    );
}

#[test]
fn comments_belong_to_the_next_instruction() {
    let file = file(
        "# escape=\\\n# x the base\n\n# other\nFROM a AS x\n# gone\n#\n# A first\n# b\nARG A B=1\nARG C\n",
    );
    let stage = &file.stages[0];
    assert_eq!(
        (stage.doc.as_deref(), &stage.comments[..]),
        (
            Some("the base"),
            &["x the base", "other"].map(String::from)[..]
        )
    );
    let Kind::Arg(arg) = &stage.instructions[0].kind else {
        panic!("not ARG")
    };
    assert_eq!(arg.args[0].doc.as_deref(), Some("first"));
    assert_eq!(arg.args[1].doc, None);
    assert!(stage.instructions[1].comments.is_empty());
}

#[test]
fn arguments_before_the_first_stage_stand_apart() {
    let file = file("ARG A=1\nFROM $A\nARG B\n");
    assert_eq!(
        (file.meta_args.len(), file.stages[0].instructions.len()),
        (1, 1)
    );
    assert_eq!(file.instructions().count(), 2);
}

#[test]
fn commands_have_two_forms() {
    let command = |source: &str| match one(source).kind {
        Kind::Run(run) => run.command,
        Kind::Cmd(cmd) => cmd.command,
        Kind::Entrypoint(entrypoint) => entrypoint.command,
        other => panic!("{other:?}"),
    };
    assert_eq!(command("CMD a  b"), Command::Shell("a  b".into()));
    assert_eq!(
        command(r#"CMD ["a", "b\u0041"]"#),
        Command::Exec(vec!["a".into(), "bA".into()])
    );
    assert_eq!(command("ENTRYPOINT []"), Command::Exec(vec![]));
    assert_eq!(command("ENTRYPOINT [ a ]"), Command::Shell("[ a ]".into()));
    assert_eq!(command("RUN"), Command::Shell(Default::default()));
    assert_eq!(
        fails("RUN [1]"),
        "when using JSON array syntax, arrays must be comprised of strings only"
    );
}

#[test]
fn pairs_have_a_new_and_an_old_form() {
    let pairs = |source: &str| match one(source).kind {
        Kind::Env(env) => (
            env.pairs
                .into_iter()
                .map(|pair| (pair.key, pair.value))
                .collect::<Vec<_>>(),
            env.legacy,
        ),
        other => panic!("{other:?}"),
    };
    let pair = |key: &str, value: &str| (key.into(), value.into());
    assert_eq!(
        pairs(r#"ENV a=1 b="x y" c=\ d"#),
        (
            vec![pair("a", "1"), pair("b", "\"x y\""), pair("c", "\\ d")],
            false
        )
    );
    assert_eq!(pairs("ENV a  b=c  d "), (vec![pair("a", "b=c  d")], true));
    assert_eq!(fails("ENV a"), "ENV must have two arguments");
    assert_eq!(
        fails("ENV a=1 # b"),
        "Syntax error - can't find = in \"#\". Must be of the form: name=value"
    );
}

#[test]
fn documents_become_files_or_go_to_the_shell() {
    let Kind::Copy(copy) = one("COPY <<a <<-\"b\" c /d/\n$x\na\n\ty\n\tb\n").kind else {
        panic!("not COPY")
    };
    let files: Vec<_> = copy
        .sources
        .files
        .iter()
        .map(|one| (one.name.as_str(), one.file_text(), one.expand))
        .collect();
    assert_eq!(
        files,
        [("a", "$x\n".into(), true), ("b", "y\n".into(), false)]
    );
    assert_eq!(copy.sources.paths, ["c"]);

    let Kind::Run(run) = one("RUN <<EOF\nx\nEOF").kind else {
        panic!("not RUN")
    };
    assert_eq!(
        run.script()
            .map(|script| script.text().into_owned())
            .as_deref(),
        Some("x\n")
    );
    let Kind::Run(run) = one("RUN cat <<EOF\nx\nEOF").kind else {
        panic!("not RUN")
    };
    assert!(run.script().is_none() && run.heredocs.len() == 1);
    assert_eq!(
        fails("COPY a <<EOF\nEOF"),
        "dockerfile parse error on line 2: COPY cannot accept a heredoc as a destination"
    );
    assert_eq!(fails("RUN <<EOF\n"), "unterminated heredoc");
}

#[test]
fn documents_may_hold_any_bytes() {
    let file = parse(
        b"FROM x\nCOPY <<E /d\n\xe9\r\nE\r\nRUN x",
        &mut Linter::off(),
    )
    .expect("valid");
    let Kind::Copy(copy) = &file.stages[0].instructions[0].kind else {
        panic!("not COPY")
    };
    assert_eq!(&*copy.sources.files[0].file_bytes(), b"\xe9\r\n");
}

#[test]
fn a_health_check_has_durations() {
    let Kind::Healthcheck(check) = one("HEALTHCHECK --interval=1m30s --retries=3 CMD a b").kind
    else {
        panic!()
    };
    assert_eq!(
        (
            check.interval.as_secs(),
            check.retries,
            check.test.join(" ")
        ),
        (90, 3, "CMD-SHELL a b".to_owned())
    );
    let Kind::Healthcheck(check) = one("HEALTHCHECK cmd [\"a\"]").kind else {
        panic!()
    };
    assert_eq!(check.test, ["CMD", "a"]);
    let Kind::Healthcheck(check) = one("HEALTHCHECK --interval=x none").kind else {
        panic!()
    };
    assert_eq!(check.test, ["NONE"]);
}

#[test]
fn a_trigger_keeps_its_text_and_is_parsed_when_pulled() {
    let Kind::Onbuild(onbuild) = one("onbuild  RUN a <<E \nx\nE\n").kind else {
        panic!("not ONBUILD")
    };
    assert_eq!(onbuild.expression, "RUN a <<E \nx\nE");
    let Ok(Instruction {
        kind: Kind::Run(run),
        ..
    }) = parse_trigger(&onbuild.expression)
    else {
        panic!("not RUN")
    };
    assert_eq!(
        (run.command, run.heredocs[0].text().into_owned()),
        (Command::Shell("a <<E".into()), "x\n".to_owned())
    );
    let fails = |text: &str| parse_trigger(text).expect_err("refused").to_string();
    assert_eq!(
        fails("RUN a\nRUN b"),
        "onbuild trigger should be a single expression"
    );
    assert_eq!(
        fails("COPY x"),
        "COPY requires at least two arguments, but only one was provided. Destination could not be determined"
    );
    assert_eq!(fails("FROM x"), "*instructions.Stage is not a command type");
    assert_eq!(fails(""), "file with no instructions");
}

#[test]
fn mounts_are_read_only_unless_they_are_caches_or_memory() {
    for (value, readonly) in [
        ("target=/a", true),
        ("target=/a,rw", false),
        ("type=cache,target=/a", false),
        ("target=/a,type=cache,ro", true),
        ("type=tmpfs,target=/a", false),
        ("target=/a,readonly=0", false),
        ("target=/a,readwrite=true", false),
        ("type=secret,id=a", true),
    ] {
        assert_eq!(
            mount(value).map(|mount| mount.readonly),
            Ok(readonly),
            "{value}"
        );
    }
}

#[test]
fn mounts_have_many_fields() {
    let cache = mount("TYPE=Cache,dst=/a,id=b,sharing=LOCKED,mode=0750,uid=1,gid=2,from=c,src=d")
        .expect("valid");
    let wanted = Mount {
        kind: MountKind::Cache,
        from: "c".into(),
        source: "d".into(),
        target: "/a".into(),
        id: "b".into(),
        sharing: Some(Sharing::Locked),
        mode: Some(0o750),
        uid: Some(1),
        gid: Some(2),
        ..Mount::default()
    };
    assert_eq!(cache, wanted);
    assert_eq!(
        mount("type=tmpfs,size=64m").map(|mount| mount.size),
        Ok(64 << 20)
    );
    assert_eq!(
        mount("type=secret,id=a,env=,required").map(|one| (one.env, one.required)),
        Ok((Some(String::new()), true))
    );
}

#[test]
fn bad_mounts_are_refused_when_resolved() {
    for (value, text) in [
        (
            "type=cach",
            "unsupported mount type \"cach\" (did you mean cache?)",
        ),
        (
            "taget=/x",
            "unexpected key 'taget' in 'taget=/x' (did you mean target?)",
        ),
        ("foo", "invalid field 'foo' must be a key=value pair"),
        (
            "type=cache,sharing=lock",
            "unsupported sharing value \"lock\" (did you mean locked?)",
        ),
        ("sharing=locked", "invalid cache sharing set for bind mount"),
        ("mode=7", "mode not allowed for \"bind\" type mounts"),
        (
            "type=tmpfs,uid=7",
            "uid not allowed for \"tmpfs\" type mounts",
        ),
        (
            "type=cache,size=1",
            "unexpected key 'size' for mount type 'cache'",
        ),
        (
            "size=1m,type=tmpfs",
            "unexpected key 'size' for mount type 'bind'",
        ),
        ("type=tmpfs,size=z", "invalid value for size: z"),
        (
            "required",
            "unexpected key 'required' for mount type 'bind'",
        ),
        ("type=cache,uid=a", "invalid value a for uid"),
        ("type=cache,mode=9", "invalid value 9 for mode"),
        ("type=cache,ro=7", "invalid value for ro: 7"),
        (
            "type=secret,id=a,from=b",
            "secret mount should not have a from",
        ),
        (
            "type=secret",
            "invalid secret mount. one of source, target required",
        ),
        ("type=secret,id=a,src=b", "both source and id can't be set"),
        (
            "type=secret,id=a,sharing=shared",
            "secret mount should not define sharing",
        ),
    ] {
        assert_eq!(mount(value).expect_err(value).to_string(), text);
    }
    assert_eq!(
        fails("RUN --mount=from=$X,target=/x y"),
        "dockerfile parse error on line 2: 'from' doesn't support variable expansion, define alias stage instead"
    );
}

#[test]
fn flags_are_checked() {
    for (source, text) in [
        (
            "COPY --chmwn=1 a b",
            "unknown flag: --chmwn (did you mean chown?)",
        ),
        ("COPY --link --link a b", "duplicate flag specified: --link"),
        ("COPY --chown a b", "missing a value on flag: --chown"),
        ("COPY --link= a b", "missing a value on flag: --link"),
        (
            "COPY --link=maybe a b",
            "expecting boolean value for flag --link, not: maybe",
        ),
        ("CMD --x y", "unknown flag: --x"),
    ] {
        assert_eq!(
            fails(source),
            format!("dockerfile parse error on line 2: {text}")
        );
    }
    let Kind::Copy(copy) = one("COPY --exclude=a --exclude=b --link=TRUE --parents=false x y").kind
    else {
        panic!()
    };
    assert_eq!(
        (copy.exclude.join(" "), copy.link, copy.parents),
        ("a b".to_owned(), true, false)
    );
    let Kind::Add(add) = one("ADD --unpack --keep-git-dir=false --chmod='1 2' x y").kind else {
        panic!()
    };
    assert_eq!(
        (add.unpack, add.keep_git_dir, add.chmod.as_str(), add.link),
        (Some(true), Some(false), "1 2", false)
    );
    assert!(matches!(one("ARG --x A").kind, Kind::Arg(_)));
}

#[test]
fn ports_are_sorted_as_text() {
    let Kind::Expose(expose) = one("EXPOSE 9 80 $A").kind else {
        panic!()
    };
    assert_eq!(expose.ports, ["$A", "80", "9"]);
}

#[test]
fn findings_come_in_the_order_of_the_file() {
    assert_eq!(
        findings("# Y x\nFROM a as X\nMAINTAINER y\n# nothing\nARG A B\nRUN a \\\n\nb\n"),
        [
            "NoEmptyContinuation: Empty continuation line (line 8)",
            "StageNameCasing: Stage name 'X' should be lowercase (line 2)",
            "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 2)",
            "InvalidDefinitionDescription: Comment for FROM should follow the format: `# x <description>` (line 2)",
            "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 3)",
            "InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>` (line 5)",
        ]
    );
}

#[test]
fn a_check_comment_silences_its_instruction_only() {
    assert_eq!(
        findings("FROM a\n# check=skip=MaintainerDeprecated\nMAINTAINER x\nMAINTAINER y\n"),
        [
            "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 4)"
        ]
    );
}

#[test]
fn findings_can_fail_a_build() {
    let mut linter = Linter::new(Config::parse("error=true").expect("valid"));
    assert!(linter.verdict().is_ok());
    let _ = parse(b"FROM a as B\nMAINTAINER x\nMAINTAINER x\n", &mut linter);
    let text = linter.verdict().expect_err("findings").to_string();
    assert_eq!(
        text,
        "lint violation found for rules: StageNameCasing, FromAsCasing, MaintainerDeprecated"
    );
    assert!(Linter::off().verdict().is_ok());
}

#[test]
fn lines_may_be_long_but_not_too_long() {
    let long = |length: usize| format!("FROM x\nRUN {}", "y".repeat(length - 4));
    assert_eq!(file(&long(65535)).stages[0].instructions.len(), 1);
    let err = parse(long(65536).as_bytes(), &mut Linter::off()).expect_err("too long");
    assert_eq!(
        err.to_string(),
        "dockerfile line greater than max allowed size of 65535"
    );
    assert_eq!(err.span, Some(Span::line(1)));
}

#[test]
fn deep_nesting_is_no_danger() {
    let onbuild = format!("FROM x\n{}", "ONBUILD \\\n".repeat(50_000));
    assert!(parse(onbuild.as_bytes(), &mut Linter::off()).is_err());
    let braces = "${a:-".repeat(50_000);
    let lex = dockerfile_syntax::shell::Lex::new('\\');
    assert!(
        lex.process_word(&braces, &dockerfile_syntax::shell::Empty)
            .is_err()
    );
    let json = format!("FROM x\nRUN {}", "[".repeat(60_000));
    assert!(parse(json.as_bytes(), &mut Linter::off()).is_ok());
}

/// The instructions that are left, and the lines and texts of the errors.
fn left(source: &str) -> (Vec<String>, Vec<String>) {
    let (file, errors) = parse_leniently(source.as_bytes(), &mut Linter::off());
    let text = |instruction: &Instruction| instruction.text.to_string();
    let stages = file.stages.iter().flat_map(|stage| {
        std::iter::once(stage.text.to_string()).chain(stage.instructions.iter().map(text))
    });
    let errors = errors.iter().map(|err| {
        let line = err.span.map_or(0, |span| span.first);
        format!("{line}: {}", err.problem)
    });
    (
        file.meta_args.iter().map(text).chain(stages).collect(),
        errors.collect(),
    )
}

#[test]
fn a_file_with_errors_keeps_the_instructions_without() {
    let (kept, errors) = left("FROM a\nRUM x\nCOPY one\nUSER me\nENV =\n\nCMD x\n");
    assert_eq!(kept, ["FROM a", "USER me", "CMD x"]);
    assert_eq!(
        errors,
        [
            "2: unknown instruction: RUM (did you mean RUN?)",
            "3: COPY requires at least two arguments, but only one was provided. Destination could not be determined",
            "5: ENV names can not be blank"
        ]
    );
}

#[test]
fn a_stage_nobody_understands_does_not_lend_its_instructions_to_the_one_before() {
    let (kept, errors) = left("FROM a\nUSER a\nFROM b AS\nUSER b\nWHATEVER\nFROM c\nUSER c\n");
    assert_eq!(kept, ["FROM a", "USER a", "FROM c", "USER c"]);
    assert_eq!(
        errors,
        [
            "3: FROM requires either one or three arguments",
            "5: unknown instruction: WHATEVER"
        ]
    );
    let (kept, errors) = left("ARG x\nUSER a\nFROM b\n");
    assert_eq!(kept, ["ARG x", "FROM b"]);
    assert_eq!(errors, ["2: no build stage in current context"]);
}

#[test]
fn a_heredoc_without_an_end_does_not_swallow_the_file() {
    let (kept, errors) = left("FROM a\nRUN <<EOF\n  RUN b\nUSER me\n");
    assert_eq!(kept, ["FROM a", "RUN b", "USER me"]);
    assert_eq!(errors, ["2: unterminated heredoc"]);
}

#[test]
fn errors_come_from_both_halves_of_parsing() {
    let (kept, errors) = left("# escape=x\nFROM a\nRUM\nENV a\nUSER me\n");
    assert_eq!(kept, ["FROM a", "USER me"]);
    assert_eq!(
        errors,
        [
            "0: invalid escape token 'x' does not match ` or \\",
            "4: ENV must have two arguments",
            "3: unknown instruction: RUM (did you mean RUN?)"
        ]
    );
    assert_eq!(
        left(""),
        (vec![], vec!["0: the Dockerfile cannot be empty".to_owned()])
    );
    assert_eq!(
        left("#\n"),
        (vec![], vec!["1: file with no instructions".to_owned()])
    );
}
