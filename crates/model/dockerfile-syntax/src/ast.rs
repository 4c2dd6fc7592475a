//! The typed instructions of a Dockerfile, as written: nothing in here is expanded.

mod mount;

use std::borrow::Cow;
use std::time::Duration;

use bytestring::ByteString;

pub use mount::{Device, DeviceError, Mount, MountError, MountFlag, MountKind, Sharing};

use crate::directive::Directive;
use crate::heredoc::Heredoc;
use crate::source::Text;
use crate::span::Span;

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq)]
pub struct Dockerfile {
    /// The character that escapes and continues lines: `\` or a backtick.
    pub escape: char,
    /// The parser directives in front of everything else.
    pub directives: Vec<Directive>,
    /// `ARG` instructions before the first `FROM`. Their kind is always [`Kind::Arg`].
    pub meta_args: Vec<Instruction>,
    /// The stages, in order. May be empty: a file of nothing but `ARG` parses.
    pub stages: Vec<Stage>,
}

impl Default for Dockerfile {
    /// A file with nothing in it.
    fn default() -> Self {
        Self {
            escape: '\\',
            directives: Vec::new(),
            meta_args: Vec::new(),
            stages: Vec::new(),
        }
    }
}

impl Dockerfile {
    /// Every instruction except `FROM`, in file order.
    pub fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.meta_args
            .iter()
            .chain(self.stages.iter().flat_map(|stage| &stage.instructions))
    }
}

/// `FROM` and everything up to the next one.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// What it is called, in lower case.
    pub name: Option<String>,
    /// What it starts from, as written.
    pub base: ByteString,
    /// Value of `--platform`, as written; empty if not given.
    pub platform: String,
    /// The instructions after `FROM`.
    pub instructions: Vec<Instruction>,
    /// The word `FROM` as written.
    pub keyword: Cow<'static, str>,
    /// The whole `FROM` instruction on one line.
    pub text: Text,
    /// Flags of `FROM`.
    pub flags: Vec<Flag>,
    /// The lines of the `FROM` instruction.
    pub span: Span,
    /// Comments right above.
    pub comments: Vec<String>,
    /// The description of the stage found in its comments.
    pub doc: Option<String>,
}

/// One instruction with what all instructions have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// What it says.
    pub kind: Kind,
    /// Its first word as written; see [`Kind::name`] for the canonical form.
    pub keyword: Cow<'static, str>,
    /// The instruction on one line: continuation lines joined, outer blanks gone, heredoc bodies not included.
    pub text: Text,
    /// The flags as they were written, in order.
    pub flags: Vec<Flag>,
    /// Its lines, heredoc bodies included.
    pub span: Span,
    /// Comments right above, without `#` and outer blanks.
    pub comments: Vec<String>,
}

/// A flag in front of the arguments of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Name without dashes.
    pub name: ByteString,
    /// What follows `=`, if there is one.
    pub value: Option<ByteString>,
    /// Where in [`Instruction::text`] it was written.
    pub range: std::ops::Range<usize>,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "named after the instructions")]
pub enum Kind {
    Add(Add),
    Arg(Arg),
    Cmd(Cmd),
    Copy(Copy),
    Entrypoint(Entrypoint),
    Env(Env),
    Expose(Expose),
    Healthcheck(Healthcheck),
    Label(Label),
    Maintainer(Maintainer),
    Onbuild(Onbuild),
    Run(Run),
    Shell(Shell),
    StopSignal(StopSignal),
    User(User),
    Volume(Volume),
    Workdir(Workdir),
}

impl Kind {
    /// The canonical, upper-case name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// JSON list: program and arguments. May be empty.
    Exec(Vec<ByteString>),
    /// One text for the shell. May be empty.
    Shell(ByteString),
}

impl Command {
    /// Whether a shell has to read it.
    pub fn is_shell(&self) -> bool {
        matches!(self, Self::Shell(_))
    }
}

/// What `ADD` and `COPY` copy, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Paths or URLs, in order.
    pub paths: Vec<ByteString>,
    /// Files whose content stands in the Dockerfile; copied after the paths.
    pub files: Vec<Heredoc>,
    /// Destination.
    pub dest: ByteString,
}

/// `ADD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// Sources and destination.
    pub sources: Sources,
    /// `--chown`; empty means not given.
    pub chown: String,
    /// `--chmod`; empty means not given.
    pub chmod: String,
    /// `--checksum`; empty means not given.
    pub checksum: String,
    /// `--link`
    pub link: bool,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
    /// `--unpack`
    pub unpack: Option<bool>,
    /// `--exclude`, each one
    pub exclude: Vec<String>,
}

/// `COPY`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Sources and destination.
    pub sources: Sources,
    /// `--from`; empty means not given.
    pub from: String,
    /// `--chown`; empty means not given.
    pub chown: String,
    /// `--chmod`; empty means not given.
    pub chmod: String,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`, each one
    pub exclude: Vec<String>,
}

/// `ARG`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// The declarations, at least one.
    pub args: Vec<ArgDeclaration>,
}

/// One name declared by `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// Name, as written.
    pub name: ByteString,
    /// Default value, as written; `None` without `=`.
    pub default: Option<ByteString>,
    /// The description of the argument found in the comments.
    pub doc: Option<String>,
}

/// `CMD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmd {
    /// The command.
    pub command: Command,
}

/// `ENTRYPOINT`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrypoint {
    /// The command.
    pub command: Command,
}

/// A key and its value, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Key, never empty.
    pub key: ByteString,
    /// Value, quotes included.
    pub value: ByteString,
}

/// `ENV`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Env {
    /// The pairs, at least one.
    pub pairs: Vec<Pair>,
    /// Whether it was written as `ENV key value`.
    pub legacy: bool,
}

/// `LABEL`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The pairs, at least one.
    pub pairs: Vec<Pair>,
    /// Whether it was written as `LABEL key value`.
    pub legacy: bool,
}

/// `EXPOSE`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expose {
    /// Port specifications in bytewise order, not expanded; see [`crate::port`].
    pub ports: Vec<ByteString>,
}

/// `HEALTHCHECK`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`
    pub test: Vec<String>,
    /// `--interval`
    pub interval: Duration,
    /// `--timeout`
    pub timeout: Duration,
    /// `--start-period`
    pub start_period: Duration,
    /// `--start-interval`
    pub start_interval: Duration,
    /// `--retries`
    pub retries: u32,
}

/// `MAINTAINER`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintainer {
    /// Author.
    pub author: ByteString,
}

/// `ONBUILD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The trigger as it is stored in the image: text with heredocs. See [`crate::parse_trigger`].
    pub expression: String,
}

/// `RUN`
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The command.
    pub command: Command,
    /// Heredocs of the shell form, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, each one
    pub mounts: Vec<MountFlag>,
    /// `--network`
    pub network: Network,
    /// `--security`
    pub security: Security,
    /// `--device`, each one
    pub devices: Vec<Device>,
}

impl Run {
    /// The document that is the whole command, as in `RUN <<EOF`. It is run in place of the command.
    pub fn script(&self) -> Option<&Heredoc> {
        match &self.command {
            Command::Shell(word) if crate::heredoc::from_word(word).is_some() => {
                self.heredocs.first()
            }
            _ => None,
        }
    }
}

/// Network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// What the build has as default.
    #[default]
    Default,
    /// No network.
    None,
    /// The network of the machine.
    Host,
}

/// Security mode of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// The usual restrictions.
    #[default]
    Sandbox,
    /// Nearly none.
    Insecure,
}

/// `SHELL`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell {
    /// Program and arguments, at least one.
    pub args: Vec<ByteString>,
}

/// `STOPSIGNAL`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopSignal {
    /// Signal, not expanded; see [`crate::signal`].
    pub signal: ByteString,
}

/// `USER`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User and perhaps group.
    pub user: ByteString,
}

/// `VOLUME`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Paths, none empty.
    pub paths: Vec<ByteString>,
}

/// `WORKDIR`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workdir {
    /// Path.
    pub path: ByteString,
}
