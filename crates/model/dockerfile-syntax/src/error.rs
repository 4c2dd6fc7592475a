//! Why a Dockerfile cannot be parsed. Texts are those users know.

use fault::{Class, Classify};

use crate::ast::{DeviceError, MountError};
use crate::directive::Key;
use crate::quote;
use crate::span::Span;
use crate::suggest::Hint;

/// A problem and its place. `Display` gives the complete text a user is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What is wrong.
    pub problem: Problem,
    /// Where, if it belongs to a place.
    pub span: Option<Span>,
    /// Whether the text names the line.
    pub(crate) names_line: bool,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let (true, Some(span)) = (self.names_line, self.span) {
            write!(f, "dockerfile parse error on line {}: ", span.first)?;
        }
        self.problem.fmt(f)
    }
}

impl std::error::Error for Error {}

impl Classify for Error {
    fn class(&self) -> Class {
        Class::User
    }
}

/// What is wrong with a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Problem {
    #[error("the Dockerfile cannot be empty")]
    Empty,
    #[error("file with no instructions")]
    NoInstructions,
    #[error(
        "dockerfile line greater than max allowed size of {}",
        crate::source::MAX_LINE
    )]
    LineTooLong,
    #[error("only one {} parser directive can be used", .0.as_str())]
    DirectiveTwice(Key),
    #[error("invalid escape token '{0}' does not match ` or \\")]
    EscapeToken(String),
    #[error("unterminated heredoc")]
    OpenHeredoc,
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    JsonNotStrings,
    #[error("{0} must have two arguments")]
    TwoArguments(&'static str),
    #[error("Syntax error - can't find = in {}. Must be of the form: name=value", quote::go(.0))]
    NoAssignment(String),
    #[error("unknown instruction: {keyword}{hint}")]
    UnknownInstruction { keyword: String, hint: Hint },
    #[error("no build stage in current context")]
    NoStage,
    #[error("onbuild trigger should be a single expression")]
    SeveralTriggers,
    #[error("*instructions.Stage is not a command type")]
    TriggerIsStage,
    #[error("unknown flag: --{name}{hint}")]
    UnknownFlag { name: String, hint: Hint },
    #[error("duplicate flag specified: --{0}")]
    DuplicateFlag(String),
    #[error("missing a value on flag: --{0}")]
    FlagWithoutValue(String),
    #[error("expecting boolean value for flag --{name}, not: {value}")]
    FlagNotBool { name: String, value: String },
    #[error("{0} requires at least one argument")]
    AtLeastOneArgument(&'static str),
    #[error("{0} requires exactly one argument")]
    ExactlyOneArgument(&'static str),
    #[error(
        "{0} requires at least two arguments, but only one was provided. Destination could not be determined"
    )]
    NoDestination(&'static str),
    #[error("{0} cannot accept a heredoc as a destination")]
    HeredocDestination(&'static str),
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    #[error("FROM requires either one or three arguments")]
    FromArguments,
    #[error("invalid name for build stage: {}, name can't start with a number or contain symbols", quote::go(.0))]
    StageName(String),
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildOnbuild,
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    OnbuildTrigger(String),
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthcheckNone,
    #[error("Unknown type {} in HEALTHCHECK (try CMD)", quote::go(.0))]
    HealthcheckType(String),
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthcheckCommand,
    #[error("Interval \"{0}\" cannot be less than 1ms")]
    IntervalTooShort(&'static str),
    #[error("{0}")]
    Number(String),
    #[error("--retries cannot be negative ({0})")]
    NegativeRetries(i32),
    #[error("SHELL requires the arguments to be in JSON form")]
    ShellNotJson,
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    #[error("invalid network mode {}", quote::go(.0))]
    Network(String),
    #[error("security {} is not valid", quote::go(.0))]
    Security(String),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl Classify for Problem {
    fn class(&self) -> Class {
        Class::User
    }
}

impl Classify for MountError {
    fn class(&self) -> Class {
        Class::User
    }
}

impl Classify for DeviceError {
    fn class(&self) -> Class {
        Class::User
    }
}

impl Problem {
    /// At a place the text does not name.
    pub(crate) fn at(self, span: Span) -> Error {
        Error {
            problem: self,
            span: Some(span),
            names_line: false,
        }
    }

    /// At a place whose line the text names.
    pub(crate) fn in_instruction(self, span: Span) -> Error {
        Error {
            problem: self,
            span: Some(span),
            names_line: true,
        }
    }
}
