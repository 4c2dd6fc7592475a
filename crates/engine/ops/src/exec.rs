//! The exec op: runs a process on trees and keeps what it wrote.

use std::net::IpAddr;
use std::sync::Arc;

use diagnostics::{Detail, Failure};
use executor::{NetMode, Process, Resources, Security, Step, Ulimit};
use fault::Class;
use oci::Platform;
use proto::pb;
use solver::Work;

use crate::devices;
use crate::exec_key::ExecKey;
use crate::exec_mounts::{Mounts, inputs_of, secret_variables};
use crate::logs::Logs;
use crate::usage::Account;
use crate::{Remains, Value, Worker};

/// An exec op with what its metadata adds.
pub struct ExecOp {
    pub(crate) worker: Arc<Worker>,
    pub(crate) op: pb::ExecOp,
    pub(crate) platform: Platform,
    pub(crate) inputs: usize,
    pub(crate) resources: Option<Arc<pb::LinuxResources>>,
    pub(crate) account: Arc<Account>,
}

impl ExecOp {
    /// What its keys depend on.
    pub(crate) fn key(&self) -> ExecKey<'_> {
        ExecKey {
            op: &self.op,
            platform: &self.platform,
            inputs: self.inputs,
        }
    }

    fn meta(&self) -> &pb::Meta {
        static EMPTY: std::sync::LazyLock<pb::Meta> = std::sync::LazyLock::new(pb::Meta::default);
        self.op.meta.as_ref().unwrap_or(&EMPTY)
    }

    /// Runs the process; the results are the trees of its outputs.
    pub(crate) async fn run(&self, work: &Work, inputs: &[Value]) -> Result<Vec<Value>, Failure> {
        let result = self.execute(work, inputs).await;
        result.map_err(|err| {
            let name = self.meta().args.join(" ");
            err.context(format_args!(
                "process {} did not complete successfully",
                quote(&name)
            ))
        })?
    }

    /// The outer error is that of the process; the inner one is everything else and stays without its name.
    async fn execute(
        &self,
        work: &Work,
        inputs: &[Value],
    ) -> Result<Result<Vec<Value>, Failure>, Failure> {
        let mounts = match Mounts::prepare(&self.worker, work, self, inputs).await {
            Ok(mounts) => mounts,
            Err(err) => {
                let remains = Remains {
                    inputs: inputs_of(self, inputs),
                    mounts: inputs_of(self, inputs),
                    subject: None,
                };
                return Ok(Err(remains.of_failed(err)));
            }
        };
        let process = match self.process(work).await {
            Ok(process) => process,
            Err(err) => return Ok(Err(mounts.remains().await.of_failed(err))),
        };
        let logs = Arc::new(Logs::new(
            work.progress.clone(),
            self.worker.options.log_limits,
        ));
        let step = Step {
            id: identity::new_id(),
            root: mounts.root.clone(),
            root_readonly: mounts.root_readonly,
            mounts: mounts.step.clone(),
            process,
            usage: Some(self.worker.usages.begin(&self.account)),
        };
        let output = {
            let logs = logs.clone();
            Arc::new(move |stream, data| logs.write(stream, data))
        };
        let ended = self.worker.executor.run(&work.cx, step, output).await;
        if let Err(err) = ended {
            logs.flush_tail();
            let code = err.exit_code();
            let failure = Failure::from_error(&err).with(Detail::Exit {
                code: u32::try_from(code).unwrap_or(255),
            });
            if failure.is_cancelled() {
                return Err(failure);
            }
            return Err(mounts.remains().await.of_failed(failure));
        }
        Ok(mounts.commit(&work.cx).await)
    }

    async fn process(&self, work: &Work) -> Result<Process, Failure> {
        let meta = self.meta();
        if pb::SecurityMode::try_from(self.op.security).is_err() {
            let text = format!("invalid security mode {}", self.op.security);
            return Err(Failure::new(Class::User, text));
        }
        Ok(Process {
            args: meta.args.clone(),
            env: self.env(work).await?,
            cwd: meta.cwd.clone(),
            user: meta.user.clone(),
            hostname: meta.hostname.clone(),
            extra_hosts: extra_hosts(meta)?,
            network: match self.op.network() {
                pb::NetMode::Unset => NetMode::Sandbox,
                pb::NetMode::Host => NetMode::Host,
                pb::NetMode::None => NetMode::None,
            },
            security: match self.op.security() {
                pb::SecurityMode::Sandbox => Security::Sandbox,
                pb::SecurityMode::Insecure => Security::Insecure,
            },
            ulimits: meta.ulimit.iter().map(ulimit).collect(),
            cgroup_parent: meta.cgroup_parent.clone(),
            resources: self.resources.as_deref().map(resources).unwrap_or_default(),
            remove_stubs_recursive: meta.remove_mount_stubs_recursive,
            valid_exit_codes: meta.valid_exit_codes.clone(),
            tty: false,
            devices: self.op.cdi_devices.iter().map(devices::wanted).collect(),
            trace_env: Vec::new(),
        })
    }

    /// The op's variables, those of the proxy, PATH and the secrets, in that order.
    async fn env(&self, work: &Work) -> Result<Vec<String>, Failure> {
        let meta = self.meta();
        let mut env = meta.env.clone();
        if let Some(proxy) = &meta.proxy_env {
            let pairs = [
                ("HTTP_PROXY", "http_proxy", &proxy.http_proxy),
                ("HTTPS_PROXY", "https_proxy", &proxy.https_proxy),
                ("FTP_PROXY", "ftp_proxy", &proxy.ftp_proxy),
                ("NO_PROXY", "no_proxy", &proxy.no_proxy),
                ("ALL_PROXY", "all_proxy", &proxy.all_proxy),
            ];
            for (upper, lower, value) in pairs {
                if !value.is_empty() {
                    env.push(format!("{upper}={value}"));
                    env.push(format!("{lower}={value}"));
                }
            }
        }
        if !env.iter().any(|entry| entry.starts_with("PATH=")) {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
        env.extend(secret_variables(&self.worker, work, &self.op.secretenv).await?);
        Ok(env)
    }
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn extra_hosts(meta: &pb::Meta) -> Result<Vec<(String, IpAddr)>, Failure> {
    meta.extra_hosts
        .iter()
        .map(|host| match host.ip.parse() {
            Ok(ip) => Ok((host.host.clone(), ip)),
            Err(_) => Err(Failure::new(
                Class::User,
                format!("failed to parse IP {}", host.ip),
            )),
        })
        .collect()
}

fn ulimit(limit: &pb::Ulimit) -> Ulimit {
    Ulimit {
        name: limit.name.clone(),
        soft: limit.soft,
        hard: limit.hard,
    }
}

fn resources(limits: &pb::LinuxResources) -> Resources {
    Resources {
        memory: limits.memory,
        memory_swap: limits.memory_swap,
        cpu_shares: i64::try_from(limits.cpu_shares).unwrap_or(i64::MAX),
        cpu_period: i64::try_from(limits.cpu_period).unwrap_or(i64::MAX),
        cpu_quota: limits.cpu_quota,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
    }
}

/// A text in double quotes as `%q` of Go's formatter writes it, which tools parse.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            other if other.is_ascii_control() => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(other)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_are_quoted_like_upstream() {
        assert_eq!(
            quote("/bin/sh -c echo \"a\"\n\t\\\u{1}"),
            r#""/bin/sh -c echo \"a\"\n\t\\\x01""#
        );
    }

    #[test]
    fn ids_are_25_digits_and_letters() {
        let id = identity::new_id();
        assert_eq!(id.len(), 25);
        assert!(
            id.bytes()
                .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
        );
    }
}
