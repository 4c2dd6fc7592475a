//! Global arguments.

use std::collections::BTreeMap;

use dockerfile_syntax::lint::Lint;
use dockerfile_syntax::{Dockerfile, Instruction, Kind};
use llb::build::Env;
use proto::pb;

use super::Lower;
use super::outline::ArgInfo;
use super::words::Vars;
use crate::error::{Locate, Result};
use crate::named::is_plainly_valid;

impl Lower<'_> {
    pub(super) async fn read_global_args(&mut self, file: &Dockerfile) -> Result<()> {
        let last = file.stages.last().and_then(|stage| stage.name.as_deref());
        let predefined = self.predefined(last);
        self.check_default_bases(file, &predefined);
        let (globals, declared) =
            self.evaluate(predefined, &file.meta_args, Some(&self.build_args))?;
        self.globals = globals;
        self.declared = declared;
        self.read_epoch(file).await
    }

    /// What every FROM may use without declaring it.
    fn predefined(&self, last_stage: Option<&str>) -> Env {
        let build = &self.files.options.build_platform;
        let target = &self.target_platform;
        let stage = match (self.files.options.target.as_str(), last_stage) {
            ("", None) => "default",
            ("", Some(name)) => name,
            (target, _) => target,
        };
        let build_name = oci::Platform {
            os_version: String::new(),
            ..build.clone()
        }
        .to_string();
        let target_name = target.to_string();
        let values = [
            ("BUILDPLATFORM", build_name.as_str()),
            ("BUILDOS", &build.os),
            ("BUILDOSVERSION", &build.os_version),
            ("BUILDARCH", &build.architecture),
            ("BUILDVARIANT", &build.variant),
            ("TARGETPLATFORM", &target_name),
            ("TARGETOS", &target.os),
            ("TARGETOSVERSION", &target.os_version),
            ("TARGETARCH", &target.architecture),
            ("TARGETVARIANT", &target.variant),
            ("TARGETSTAGE", stage),
        ];
        let mut env = Env::new();
        for (name, value) in values {
            env.set(
                name,
                self.build_args.get(name).map_or(value, String::as_str),
            );
        }
        env
    }

    /// Gives the arguments their values: what the client says, else the default.
    fn evaluate(
        &self,
        mut env: Env,
        instructions: &[Instruction],
        given: Option<&BTreeMap<String, String>>,
    ) -> Result<(Env, BTreeMap<String, ArgInfo>)> {
        let mut declared: BTreeMap<String, ArgInfo> = BTreeMap::new();
        for instruction in instructions {
            let Kind::Arg(arg) = &instruction.kind else {
                continue;
            };
            for arg in &arg.args {
                let mut info = ArgInfo::new(arg, instruction.span);
                let given = given.and_then(|given| given.get(&*arg.name));
                if let Some(value) = given {
                    env.set(&arg.name, value);
                    info.value.clone_from(value);
                } else if let Some(default) = &arg.default {
                    let expanded = self
                        .lex
                        .process_word(default, &Vars(&env))
                        .at(instruction.span)?;
                    info.needs = expanded.matched;
                    if info.needs.remove(&*arg.name)
                        && let Some(earlier) = declared.get(&*arg.name)
                    {
                        info.needs.extend(earlier.needs.iter().cloned());
                    }
                    env.set(&arg.name, &expanded.text);
                    info.value = expanded.text;
                }
                declared.insert(arg.name.to_string(), info);
            }
        }
        Ok((env, declared))
    }

    /// Base images should make sense when nobody gives arguments.
    fn check_default_bases(&mut self, file: &Dockerfile, predefined: &Env) {
        let Ok((env, _)) = self.evaluate(predefined.clone(), &file.meta_args, None) else {
            return; // fails again, and then as an error
        };
        for stage in &file.stages {
            let Ok(base) = self.lex.process_word(&stage.base, &Vars(&env)) else {
                return;
            };
            if !is_plainly_valid(&base.text) && oci::Reference::parse(&base.text).is_err() {
                let lint = Lint::InvalidDefaultArgInFrom {
                    expression: &stage.base,
                };
                self.linter.report(lint, stage.span, &[]);
            }
        }
    }
}

/// Proxies the client gave as arguments. Later names win, and lower case sorts last.
pub(super) fn proxy(args: &BTreeMap<String, String>) -> Option<pb::ProxyEnv> {
    let mut proxy = None;
    for (name, value) in args {
        let mut set = |field: fn(&mut pb::ProxyEnv) -> &mut String| {
            value.clone_into(field(proxy.get_or_insert_with(pb::ProxyEnv::default)));
        };
        match name.to_ascii_lowercase().as_str() {
            "http_proxy" => set(|proxy| &mut proxy.http_proxy),
            "https_proxy" => set(|proxy| &mut proxy.https_proxy),
            "ftp_proxy" => set(|proxy| &mut proxy.ftp_proxy),
            "no_proxy" => set(|proxy| &mut proxy.no_proxy),
            "all_proxy" => set(|proxy| &mut proxy.all_proxy),
            _ => {}
        }
    }
    proxy
}
