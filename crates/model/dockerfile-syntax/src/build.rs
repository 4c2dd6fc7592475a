//! Second half of parsing: from statements to typed instructions.

mod files;
mod health;

use bytestring::ByteString;

use crate::args::Args;
use crate::ast::{
    Arg, ArgDeclaration, Cmd, Command, Device, Dockerfile, Entrypoint, Env, Expose, Instruction,
    Kind, Label, Maintainer, MountFlag, Network, Onbuild, Pair, Run, Security, Shell, Stage,
    StopSignal, User, Volume, Workdir,
};
use crate::error::{Error, Problem};
use crate::flags::{self, check};
use crate::lint::{self, Lint, Linter};
use crate::statement::{self, NAMES, Statement, Statements};
use crate::suggest;

/// A statement with its meaning.
enum Meaning {
    Stage(Stage),
    Instruction(Instruction),
}

/// What cannot be understood is handed to `failed`, and left out if that says to go on.
pub(crate) fn file(
    source: &[u8],
    linter: &mut Linter,
    mut failed: impl FnMut(Error) -> Result<(), Error>,
) -> Result<Dockerfile, Error> {
    if source.is_empty() {
        failed(Error {
            problem: Problem::Empty,
            span: None,
            names_line: false,
        })?;
        return Ok(Dockerfile::default());
    }
    let Statements {
        escape,
        directives,
        list,
        empty_continuations,
    } = statement::read(source, &mut failed)?;
    for line in empty_continuations {
        linter.report(Lint::NoEmptyContinuation, crate::Span::line(line), &[]);
    }
    let mut file = Dockerfile {
        escape,
        directives,
        meta_args: Vec::new(),
        stages: Vec::new(),
    };
    // The stage that a `FROM` nobody understood would have begun: what follows belongs to no other.
    let mut lost = false;
    let mut list = list.into_iter();
    while let Some(statement) = list.next() {
        let span = statement.span;
        let begins_stage = begins_stage(&statement);
        lost &= !begins_stage;
        let meaning = match Meaning::of(statement, linter) {
            Ok(meaning) => meaning,
            Err(problem) => {
                failed(problem.in_instruction(span))?;
                lost |= begins_stage;
                continue;
            }
        };
        if lost {
            continue;
        }
        match (meaning, file.stages.last_mut()) {
            (Meaning::Stage(mut stage), _) => {
                let length = list.as_slice().iter().position(self::begins_stage);
                stage
                    .instructions
                    .reserve_exact(length.unwrap_or(list.len()));
                file.stages.push(stage);
            }
            (Meaning::Instruction(instruction), Some(stage)) => {
                stage.instructions.push(instruction)
            }
            (Meaning::Instruction(instruction), None)
                if matches!(instruction.kind, Kind::Arg(_)) =>
            {
                file.meta_args.push(instruction);
            }
            (Meaning::Instruction(_), None) => failed(Problem::NoStage.at(span))?,
        }
    }
    Ok(file)
}

fn begins_stage(statement: &Statement) -> bool {
    statement.keyword.eq_ignore_ascii_case("FROM")
}

pub(crate) fn trigger(expression: &str) -> Result<Instruction, Problem> {
    let list = statement::read(expression.as_bytes(), Err)
        .map_err(|err| err.problem)?
        .list;
    let [statement] = <[Statement; 1]>::try_from(list).map_err(|_| Problem::SeveralTriggers)?;
    match Meaning::of(statement, &mut Linter::off())? {
        Meaning::Instruction(instruction) => Ok(instruction),
        Meaning::Stage(_) => Err(Problem::TriggerIsStage),
    }
}

impl Meaning {
    fn of(mut statement: Statement, linter: &mut Linter) -> Result<Self, Problem> {
        let keyword = NAMES
            .iter()
            .find(|name| name.eq_ignore_ascii_case(&statement.keyword))
            .copied()
            .unwrap_or_default();
        if keyword == "FROM" {
            return stage(statement, linter).map(Self::Stage);
        }
        let kind = match keyword {
            "ADD" => files::add(&mut statement).map(Kind::Add),
            "ARG" => arg(&statement, linter).map(Kind::Arg),
            "CMD" => plain_command(&mut statement).map(|command| Kind::Cmd(Cmd { command })),
            "COPY" => files::copy(&mut statement).map(Kind::Copy),
            "ENTRYPOINT" => plain_command(&mut statement)
                .map(|command| Kind::Entrypoint(Entrypoint { command })),
            "ENV" => {
                pairs("ENV", &mut statement).map(|(pairs, legacy)| Kind::Env(Env { pairs, legacy }))
            }
            "EXPOSE" => expose(&statement).map(Kind::Expose),
            "HEALTHCHECK" => health::healthcheck(&mut statement).map(Kind::Healthcheck),
            "LABEL" => pairs("LABEL", &mut statement)
                .map(|(pairs, legacy)| Kind::Label(Label { pairs, legacy })),
            "MAINTAINER" => {
                linter.report(
                    Lint::MaintainerDeprecated,
                    statement.span,
                    &statement.comments,
                );
                one_text("MAINTAINER", &mut statement)
                    .map(|author| Kind::Maintainer(Maintainer { author }))
            }
            "ONBUILD" => onbuild(&statement).map(Kind::Onbuild),
            "RUN" => run(&mut statement).map(Kind::Run),
            "SHELL" => shell(&statement).map(Kind::Shell),
            "STOPSIGNAL" => match words(&statement) {
                [signal] => Ok(Kind::StopSignal(StopSignal {
                    signal: signal.clone(),
                })),
                _ => Err(Problem::ExactlyOneArgument("STOPSIGNAL")),
            },
            "USER" => one_text("USER", &mut statement).map(|user| Kind::User(User { user })),
            "VOLUME" => volume(&statement).map(Kind::Volume),
            "WORKDIR" => {
                one_text("WORKDIR", &mut statement).map(|path| Kind::Workdir(Workdir { path }))
            }
            _ => Err(Problem::UnknownInstruction {
                hint: suggest::hint(&statement.keyword, NAMES, suggest::Case::Insensitive),
                keyword: statement.keyword.to_string(),
            }),
        }?;
        let Statement {
            keyword,
            flags,
            text,
            span,
            comments,
            ..
        } = statement;
        Ok(Self::Instruction(Instruction {
            kind,
            keyword,
            text,
            flags,
            span,
            comments,
        }))
    }
}

/// Words or JSON strings; nothing for other forms.
fn words(statement: &Statement) -> &[ByteString] {
    match &statement.args {
        Args::Words(words) | Args::Json(words) => words,
        _ => &[],
    }
}

/// The description of `name`: the rest of the first comment that starts with it.
fn description(comments: &[String], name: &str) -> Option<String> {
    let rest = |comment: &String| {
        comment
            .strip_prefix(name)?
            .strip_prefix(' ')
            .map(str::to_owned)
    };
    comments.iter().find_map(rest)
}

fn stage(statement: Statement, linter: &mut Linter) -> Result<Stage, Problem> {
    let Statement {
        keyword,
        flags,
        text,
        span,
        comments,
        ..
    } = &statement;
    let args = words(&statement);
    lint::from_casing(keyword, args, *span, comments, linter);
    let (base, name) = match args {
        [base] => (base, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => (base, Some(stage_name(name)?)),
        _ => return Err(Problem::FromArguments),
    };
    let platform = check(flags, flags::FROM)?.value("platform").to_owned();
    if let Some(name) = &name {
        lint::definition_description("FROM", &[name], *span, comments, linter);
    }
    Ok(Stage {
        doc: name.as_deref().and_then(|name| description(comments, name)),
        name,
        base: base.clone(),
        platform,
        instructions: Vec::new(),
        keyword: keyword.clone(),
        text: text.clone(),
        flags: flags.clone(),
        span: *span,
        comments: comments.clone(),
    })
}

fn stage_name(written: &str) -> Result<String, Problem> {
    let name = written.to_lowercase();
    let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.')
        });
    if valid {
        Ok(name)
    } else {
        Err(Problem::StageName(written.to_owned()))
    }
}

fn arg(statement: &Statement, linter: &mut Linter) -> Result<Arg, Problem> {
    let words = words(statement);
    if words.is_empty() {
        return Err(Problem::AtLeastOneArgument("ARG"));
    }
    let mut args = Vec::with_capacity(words.len());
    for word in words {
        let (name, default) = match word.split_once('=') {
            Some(("", _)) => return Err(Problem::BlankName("ARG")),
            Some((name, default)) => (name, Some(word.slice_ref(default))),
            None => (&**word, None),
        };
        let doc = description(&statement.comments, name);
        args.push(ArgDeclaration {
            name: word.slice_ref(name),
            default,
            doc,
        });
    }
    let names: Vec<&str> = args.iter().map(|arg| &*arg.name).collect();
    lint::definition_description("ARG", &names, statement.span, &statement.comments, linter);
    Ok(Arg { args })
}

fn pairs(name: &'static str, statement: &mut Statement) -> Result<(Vec<Pair>, bool), Problem> {
    check(&statement.flags, flags::NONE)?;
    match &mut statement.args {
        Args::Pairs { pairs, legacy } if !pairs.is_empty() => {
            if pairs.iter().any(|pair| pair.key.is_empty()) {
                return Err(Problem::BlankName(name));
            }
            Ok((std::mem::take(pairs), *legacy))
        }
        _ => Err(Problem::AtLeastOneArgument(name)),
    }
}

fn one_text(name: &'static str, statement: &mut Statement) -> Result<ByteString, Problem> {
    let (Args::Words(words) | Args::Json(words)) = &mut statement.args else {
        return Err(Problem::ExactlyOneArgument(name));
    };
    let [text] = words.as_mut_slice() else {
        return Err(Problem::ExactlyOneArgument(name));
    };
    check(&statement.flags, flags::NONE)?;
    Ok(std::mem::take(text))
}

fn joined(words: &[ByteString]) -> String {
    let words: Vec<&str> = words.iter().map(|word| &**word).collect();
    words.join(" ")
}

/// Takes the arguments of the statement.
fn command_of(args: &mut Args) -> Command {
    match std::mem::replace(args, Args::NONE) {
        Args::Json(words) => Command::Exec(words),
        Args::Words(mut words) if words.len() == 1 => {
            Command::Shell(words.pop().unwrap_or_default())
        }
        Args::Words(words) => Command::Shell(joined(&words).into()),
        _ => Command::Shell(ByteString::new()),
    }
}

fn plain_command(statement: &mut Statement) -> Result<Command, Problem> {
    check(&statement.flags, flags::NONE)?;
    Ok(command_of(&mut statement.args))
}

fn run(statement: &mut Statement) -> Result<Run, Problem> {
    let flags = check(&statement.flags, flags::RUN)?;
    let devices = flags
        .values("device")
        .map(Device::parse)
        .collect::<Result<_, _>>()?;
    let mounts = flags
        .values("mount")
        .map(MountFlag::parse)
        .collect::<Result<_, _>>()?;
    let network = match flags.values("network").next() {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => return Err(Problem::Network(other.to_owned())),
    };
    let security = match flags.values("security").next() {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => return Err(Problem::Security(other.to_owned())),
    };
    Ok(Run {
        command: command_of(&mut statement.args),
        heredocs: std::mem::take(&mut statement.heredocs),
        mounts,
        network,
        security,
        devices,
    })
}

fn expose(statement: &Statement) -> Result<Expose, Problem> {
    let mut ports = words(statement).to_vec();
    if ports.is_empty() {
        return Err(Problem::AtLeastOneArgument("EXPOSE"));
    }
    check(&statement.flags, flags::NONE)?;
    ports.sort();
    Ok(Expose { ports })
}

fn volume(statement: &Statement) -> Result<Volume, Problem> {
    let words = words(statement);
    if words.is_empty() {
        return Err(Problem::AtLeastOneArgument("VOLUME"));
    }
    check(&statement.flags, flags::NONE)?;
    let paths: Vec<ByteString> = words
        .iter()
        .map(|word| word.slice_ref(word.trim()))
        .collect();
    if paths.iter().any(|path| path.is_empty()) {
        return Err(Problem::EmptyVolume);
    }
    Ok(Volume { paths })
}

fn shell(statement: &Statement) -> Result<Shell, Problem> {
    check(&statement.flags, flags::NONE)?;
    match &statement.args {
        Args::Json(args) if !args.is_empty() => Ok(Shell { args: args.clone() }),
        Args::Words(words) if !words.is_empty() => Err(Problem::ShellNotJson),
        _ => Err(Problem::AtLeastOneArgument("SHELL")),
    }
}

fn onbuild(statement: &Statement) -> Result<Onbuild, Problem> {
    let Args::Instruction(inner) = &statement.args else {
        return Err(Problem::AtLeastOneArgument("ONBUILD"));
    };
    check(&statement.flags, flags::NONE)?;
    match inner.keyword.to_ascii_uppercase().as_str() {
        "ONBUILD" => return Err(Problem::OnbuildOnbuild),
        name @ ("MAINTAINER" | "FROM") => return Err(Problem::OnbuildTrigger(name.to_owned())),
        _ => {}
    }
    let line = statement.text.untrimmed().trim_start();
    let mut expression = line[statement.keyword.len()..].trim_start().to_owned();
    for document in &statement.heredocs {
        expression.push('\n');
        expression.push_str(&document.text());
        expression.push_str(&document.name);
    }
    Ok(Onbuild { expression })
}
