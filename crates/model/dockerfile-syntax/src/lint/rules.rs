//! The rules and the texts of their findings.

use std::fmt;

use crate::quote;

/// A lint rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name, as used in options.
    pub name: &'static str,
    /// What the rule asks for.
    pub description: &'static str,
    /// Its page; empty if it has none.
    pub url: &'static str,
    /// Whether it is reported only on request.
    pub experimental: bool,
}

macro_rules! rules {
    ($( $(#[$attr:ident])? $name:ident, $page:tt, $description:literal; )*) => {
        $(
            static $name: Rule = Rule {
                name: rules!(@name $name),
                description: $description,
                url: rules!(@url $page),
                experimental: rules!(@experimental $($attr)?),
            };
        )*
        /// All rules.
        pub static RULES: &[&Rule] = &[$(&$name),*];
    };
    (@url "") => { "" };
    (@url $page:tt) => { concat!("https://docs.docker.com/go/dockerfile/rule/", $page, "/") };
    (@experimental) => { false };
    (@experimental experimental) => { true };
    (@name $name:ident) => { stringify!($name) };
}

#[expect(non_upper_case_globals, reason = "the names are what users write")]
mod table {
    use super::Rule;

    rules! {
        StageNameCasing, "stage-name-casing", "Stage names should be lowercase";
        FromAsCasing, "from-as-casing", "The 'as' keyword should match the case of the 'from' keyword";
        NoEmptyContinuation, "no-empty-continuation",
            "Empty continuation lines will become errors in a future release";
        ConsistentInstructionCasing, "consistent-instruction-casing",
            "All commands within the Dockerfile should use the same casing (either upper or lower)";
        DuplicateStageName, "duplicate-stage-name", "Stage names should be unique";
        ReservedStageName, "reserved-stage-name", "Reserved words should not be used as stage names";
        JSONArgsRecommended, "json-args-recommended",
            "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals";
        MaintainerDeprecated, "maintainer-deprecated",
            "The MAINTAINER instruction is deprecated, use a label instead to define an image author";
        UndefinedArgInFrom, "undefined-arg-in-from", "FROM command must use declared ARGs";
        WorkdirRelativePath, "workdir-relative-path",
            "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes";
        UndefinedVar, "undefined-var", "Variables should be defined before their use";
        MultipleInstructionsDisallowed, "multiple-instructions-disallowed",
            "Multiple instructions of the same type should not be used in the same stage";
        LegacyKeyValueFormat, "legacy-key-value-format",
            "Legacy key/value format with whitespace separator should not be used";
        InvalidBaseImagePlatform, "", "Base image platform does not match expected target platform";
        RedundantTargetPlatform, "redundant-target-platform",
            "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
        SecretsUsedInArgOrEnv, "secrets-used-in-arg-or-env",
            "Sensitive data should not be used in the ARG or ENV commands";
        InvalidDefaultArgInFrom, "invalid-default-arg-in-from",
            "Default value for global ARG results in an empty or invalid base image name";
        FromPlatformFlagConstDisallowed, "from-platform-flag-const-disallowed",
            "FROM --platform flag should not use a constant value";
        CopyIgnoredFile, "copy-ignored-file", "Attempting to Copy file that is excluded by .dockerignore";
        #[experimental]
        InvalidDefinitionDescription, "invalid-definition-description",
            "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.";
        ExposeProtoCasing, "expose-proto-casing", "Protocol in EXPOSE instruction should be lowercase";
        ExposeInvalidFormat, "expose-invalid-format",
            "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release";
    }

    use super::Lint;

    impl Lint<'_> {
        /// The rule this is a finding of.
        pub fn rule(&self) -> &'static Rule {
            match self {
                Self::StageNameCasing { .. } => &StageNameCasing,
                Self::FromAsCasing { .. } => &FromAsCasing,
                Self::NoEmptyContinuation => &NoEmptyContinuation,
                Self::ConsistentInstructionCasing { .. } => &ConsistentInstructionCasing,
                Self::DuplicateStageName { .. } => &DuplicateStageName,
                Self::ReservedStageName { .. } => &ReservedStageName,
                Self::JsonArgsRecommended { .. } => &JSONArgsRecommended,
                Self::MaintainerDeprecated => &MaintainerDeprecated,
                Self::UndefinedArgInFrom { .. } => &UndefinedArgInFrom,
                Self::WorkdirRelativePath { .. } => &WorkdirRelativePath,
                Self::UndefinedVar { .. } => &UndefinedVar,
                Self::MultipleInstructionsDisallowed { .. } => &MultipleInstructionsDisallowed,
                Self::LegacyKeyValueFormat { .. } => &LegacyKeyValueFormat,
                Self::InvalidBaseImagePlatform { .. } => &InvalidBaseImagePlatform,
                Self::RedundantTargetPlatform { .. } => &RedundantTargetPlatform,
                Self::SecretsUsedInArgOrEnv { .. } => &SecretsUsedInArgOrEnv,
                Self::InvalidDefaultArgInFrom { .. } => &InvalidDefaultArgInFrom,
                Self::FromPlatformFlagConstDisallowed { .. } => &FromPlatformFlagConstDisallowed,
                Self::CopyIgnoredFile { .. } => &CopyIgnoredFile,
                Self::InvalidDefinitionDescription { .. } => &InvalidDefinitionDescription,
                Self::ExposeProtoCasing { .. } => &ExposeProtoCasing,
                Self::ExposeInvalidFormat { .. } => &ExposeInvalidFormat,
            }
        }
    }
}

pub use table::RULES;

/// A finding before it is decided whether it is reported. `Display` gives the message.
#[derive(Debug, Clone, Copy)]
#[expect(
    missing_docs,
    reason = "named after the rules; fields are the parts of the message"
)]
pub enum Lint<'a> {
    StageNameCasing {
        name: &'a str,
    },
    FromAsCasing {
        from: &'a str,
        as_word: &'a str,
    },
    NoEmptyContinuation,
    ConsistentInstructionCasing {
        keyword: &'a str,
        casing: &'a str,
    },
    DuplicateStageName {
        name: &'a str,
    },
    ReservedStageName {
        name: &'a str,
    },
    /// `keyword` as written.
    JsonArgsRecommended {
        keyword: &'a str,
    },
    MaintainerDeprecated,
    UndefinedArgInFrom {
        name: &'a str,
        suggestion: Option<&'a str>,
    },
    WorkdirRelativePath {
        path: &'a str,
    },
    UndefinedVar {
        name: &'a str,
        suggestion: Option<&'a str>,
    },
    /// `keyword` as written.
    MultipleInstructionsDisallowed {
        keyword: &'a str,
    },
    /// `keyword` as written.
    LegacyKeyValueFormat {
        keyword: &'a str,
    },
    InvalidBaseImagePlatform {
        image: &'a str,
        actual: &'a str,
        expected: &'a str,
    },
    RedundantTargetPlatform {
        expression: &'a str,
    },
    SecretsUsedInArgOrEnv {
        keyword: &'a str,
        name: &'a str,
    },
    InvalidDefaultArgInFrom {
        expression: &'a str,
    },
    FromPlatformFlagConstDisallowed {
        platform: &'a str,
    },
    /// `verb` is `Copy` or `Add`.
    CopyIgnoredFile {
        verb: &'a str,
        path: &'a str,
    },
    InvalidDefinitionDescription {
        keyword: &'a str,
        name: &'a str,
    },
    ExposeProtoCasing {
        port: &'a str,
    },
    ExposeInvalidFormat {
        port: &'a str,
    },
}

impl fmt::Display for Lint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::StageNameCasing { name } => write!(f, "Stage name '{name}' should be lowercase"),
            Self::FromAsCasing { from, as_word } => {
                write!(f, "'{as_word}' and '{from}' keywords' casing do not match")
            }
            Self::NoEmptyContinuation => f.write_str("Empty continuation line"),
            Self::ConsistentInstructionCasing { keyword, casing } => {
                write!(
                    f,
                    "Command '{keyword}' should match the case of the command majority ({casing})"
                )
            }
            Self::DuplicateStageName { name } => {
                write!(
                    f,
                    "Duplicate stage name {}, stage names should be unique",
                    quote::go(name)
                )
            }
            Self::ReservedStageName { name } => {
                write!(
                    f,
                    "Stage name should not use the same name as reserved stage {}",
                    quote::go(name)
                )
            }
            Self::JsonArgsRecommended { keyword } => write!(
                f,
                "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
            ),
            Self::MaintainerDeprecated => {
                f.write_str("Maintainer instruction is deprecated in favor of using label")
            }
            Self::UndefinedArgInFrom { name, suggestion } => {
                write!(f, "FROM argument '{name}' is not declared")?;
                suggestion.map_or(Ok(()), |other| write!(f, " (did you mean {other}?)"))
            }
            Self::WorkdirRelativePath { path } => write!(
                f,
                "Relative workdir {} can have unexpected results if the base image changes",
                quote::go(path)
            ),
            Self::UndefinedVar { name, suggestion } => {
                write!(f, "Usage of undefined variable '${name}'")?;
                suggestion.map_or(Ok(()), |other| write!(f, " (did you mean ${other}?)"))
            }
            Self::MultipleInstructionsDisallowed { keyword } => write!(
                f,
                "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
            ),
            Self::LegacyKeyValueFormat { keyword } => {
                write!(
                    f,
                    "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
                )
            }
            Self::InvalidBaseImagePlatform {
                image,
                actual,
                expected,
            } => write!(
                f,
                "Base image {image} was pulled with platform {}, expected {} for current build",
                quote::go(actual),
                quote::go(expected)
            ),
            Self::RedundantTargetPlatform { expression } => write!(
                f,
                "Setting platform to predefined {expression} in FROM is redundant as this is the default behavior"
            ),
            Self::SecretsUsedInArgOrEnv { keyword, name } => write!(
                f,
                "Do not use ARG or ENV instructions for sensitive data ({keyword} {})",
                quote::go(name)
            ),
            Self::InvalidDefaultArgInFrom { expression } => {
                write!(
                    f,
                    "Default value for ARG {expression} results in empty or invalid base image name"
                )
            }
            Self::FromPlatformFlagConstDisallowed { platform } => {
                write!(
                    f,
                    "FROM --platform flag should not use constant value {}",
                    quote::go(platform)
                )
            }
            Self::CopyIgnoredFile { verb, path } => {
                write!(
                    f,
                    "Attempting to {verb} file {} that is excluded by .dockerignore",
                    quote::go(path)
                )
            }
            Self::InvalidDefinitionDescription { keyword, name } => {
                write!(
                    f,
                    "Comment for {keyword} should follow the format: `# {name} <description>`"
                )
            }
            Self::ExposeProtoCasing { port } => {
                write!(
                    f,
                    "Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                )
            }
            Self::ExposeInvalidFormat { port } => write!(
                f,
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_the_name_in_kebab_case() {
        for rule in RULES {
            let mut kebab = String::new();
            let name = rule.name.replace("JSON", "Json");
            for letter in name.chars() {
                if letter.is_ascii_uppercase() && !kebab.is_empty() {
                    kebab.push('-');
                }
                kebab.push(letter.to_ascii_lowercase());
            }
            if rule.name == "InvalidBaseImagePlatform" {
                assert_eq!(rule.url, "");
            } else {
                assert_eq!(
                    rule.url,
                    format!("https://docs.docker.com/go/dockerfile/rule/{kebab}/")
                );
            }
        }
        assert_eq!(RULES.len(), 22);
    }
}
