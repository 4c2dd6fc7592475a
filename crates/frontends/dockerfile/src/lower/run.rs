//! RUN.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytestring::ByteString;
use dockerfile_syntax::shell::{Env as Lookup, Lex};
use dockerfile_syntax::{self as syntax, Command, Heredoc, MountKind, Network, Security};
use llb::build::{FileOp, Mount, Options as OpOptions, Run, State};
use llb::caps;
use proto::pb;

use super::Lower;
use super::name::{COMMAND, upper_first};
use super::record::Step;
use super::words::{Vars, note_path};
use crate::error::Result;

/// Where scripts are mounted.
const PIPES: &str = "/dev/pipes/";

impl Lower<'_> {
    pub(super) fn run(&mut self, at: usize, step: &Step, run: &syntax::Run) -> Result<()> {
        let instruction = &step.instruction;
        let mut mounts = Vec::with_capacity(run.mounts.len());
        for flag in &run.mounts {
            let expand = |word: &str| -> Result<String> {
                Ok(self.expand(at, instruction, word)?.into_owned())
            };
            let mount = flag.resolve(expand);
            mounts.push(mount?);
        }
        // A command may read anything.
        let set = self.records[at].paths;
        note_path(&mut self.path_sets[set], "/".into());

        let mut exec = Run::default();
        exec.args = match &run.command {
            Command::Exec(args) => args.clone(),
            Command::Shell(line) => {
                let line = self.script(at, run, line, &mut exec);
                self.with_shell(at, line)
            }
        };
        exec.proxy.clone_from(&self.proxy);
        self.add_mounts(at, step, &mounts, &mut exec)?;
        if run.security == Security::Insecure {
            exec.security = Some(pb::SecurityMode::Insecure);
        }
        exec.network = match run.network {
            Network::Default => None,
            Network::None => Some(pb::NetMode::None),
            Network::Host => Some(pb::NetMode::Host),
        };
        exec.devices = run.devices.iter().map(device).collect();
        let name = self.run_name(at, step, run, &mounts);
        let mut options = self
            .op_options(at, name, instruction.span)
            .describe(COMMAND, instruction.text.as_str());
        self.add_limits(&mut exec, &mut options);
        let seen = self.records[at].in_result;
        let history = seen.then(|| self.run_history(at, &exec.args));
        let record = &mut self.records[at];
        record.state = record.state.run(exec, options).root();
        self.commit(at, history, true);
        Ok(())
    }

    /// What the shell is to run: the line, with its documents put back in.
    fn script(
        &self,
        at: usize,
        run: &syntax::Run,
        line: &ByteString,
        exec: &mut Run,
    ) -> ByteString {
        let Some(document) = run.script() else {
            if run.heredocs.is_empty() {
                return line.clone();
            }
            let mut script = line.to_string();
            for document in &run.heredocs {
                script.push('\n');
                script.push_str(&document.text());
                script.push_str(&document.name);
            }
            return script.into();
        };
        let content = document.file_text();
        if self.records[at].image.os == "windows" || !content.starts_with("#!") {
            return content.into_owned().into();
        }
        let file = FileOp::new().mkfile(
            &crate::paths::rooted(&document.name),
            0o755,
            content.into_owned().into_bytes(),
        );
        let options = OpOptions::named("[internal] preparing inline document");
        let source = State::scratch().file(file, options);
        let mount = Mount {
            selector: "/".to_owned(),
            ..Mount::readonly(PIPES, &source)
        };
        exec.mounts.push(mount);
        crate::paths::join(PIPES, &document.name).into()
    }

    fn run_name(
        &mut self,
        at: usize,
        step: &Step,
        run: &syntax::Run,
        mounts: &[syntax::Mount],
    ) -> String {
        let mut text = Cow::Borrowed(step.instruction.text.as_str());
        if let Some(document) = run.script() {
            text.to_mut().push_str(&format!(" ({})", summary(document)));
        }
        let secrets = mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Secret);
        let secrets: Vec<&str> = secrets.filter_map(|mount| mount.env.as_deref()).collect();
        let env = self.records[at].state.env_list().clone();
        let masked = Masked {
            env: Vars(&env),
            secrets: &secrets,
        };
        let lex = Lex::for_display(self.lex.escape);
        let shown = if lex.leaves_alone(&text) {
            upper_first(text)
        } else {
            match lex.expand(&text, &masked) {
                Ok((expanded, _)) => upper_first(expanded.into()),
                Err(_) => upper_first(text),
            }
        };
        self.count_step(at);
        let platform = self.records[at].state.current_platform();
        let platform = platform.unwrap_or(&self.target_platform);
        self.step_name(at, &shown, Some(platform), Some(&env))
    }

    fn add_limits(&self, exec: &mut Run, options: &mut OpOptions) {
        let asked = &self.files.options;
        let supports = |cap| self.files.bridge.supports(cap);
        exec.extra_hosts.clone_from(&asked.extra_hosts);
        if supports(caps::EXEC_META_ULIMIT) {
            exec.ulimits.clone_from(&asked.ulimits);
        }
        if supports(caps::EXEC_MOUNT_TMPFS_SIZE) && asked.shm_size > 0 {
            exec.mounts.push(Mount::tmpfs("/dev/shm", asked.shm_size));
        }
        if supports(caps::EXEC_META_CGROUP_PARENT) {
            exec.cgroup_parent.clone_from(&asked.cgroup_parent);
        }
        if supports(caps::EXEC_META_LINUX_RESOURCES) {
            options.resources.clone_from(&asked.resources);
        }
    }

    fn run_history(&self, at: usize, args: &[ByteString]) -> String {
        let record = &self.records[at];
        let mut values: Vec<(&str, &str)> = Vec::with_capacity(record.args.len());
        for arg in &record.args {
            let own = arg.value.as_deref().unwrap_or_default();
            let value = record.state.env_list().get(&arg.name).unwrap_or(own);
            match values.iter_mut().find(|(name, _)| **name == *arg.name) {
                Some(known) => known.1 = value,
                None => values.push((&arg.name, value)),
            }
        }
        let named: usize = values
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2)
            .sum();
        let words: usize = args.iter().map(|arg| arg.len() + 1).sum();
        let mut text = String::with_capacity("RUN |00 # buildkit".len() + named + words);
        text.push_str("RUN ");
        if !values.is_empty() {
            write!(text, "|{} ", values.len()).expect("a string takes everything");
            for (name, value) in values {
                text.extend([name, "=", value, " "]);
            }
        }
        for arg in args {
            text.extend([&**arg, " "]);
        }
        text.push_str("# buildkit");
        text
    }
}

fn device(device: &syntax::Device) -> pb::CdiDevice {
    pb::CdiDevice {
        name: device.name.clone(),
        optional: !device.required,
    }
}

/// First line of a document, and a hint that there is more.
fn summary(document: &Heredoc) -> String {
    let content = document.text().trim().replace("\r\n", "\n");
    match content.split_once('\n') {
        Some((first, _)) => format!("{first}..."),
        None => content,
    }
}

/// Variables with those that hold secrets crossed out.
struct Masked<'a> {
    env: Vars<'a>,
    secrets: &'a [&'a str],
}

impl Lookup for Masked<'_> {
    fn get(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
        if self.secrets.contains(&name) {
            return Some("****".into());
        }
        self.env.get(name)
    }
}
