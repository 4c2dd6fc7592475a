//! Containers that clients and frontends drive.
//!
//! A container is mounts until its first process starts; further processes join that one. Processes run as tasks of the
//! container: whoever waits for one may go away, which kills it, and the mounts stay until all have ended.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use diagnostics::{Detail, Failure};
use executor::{ExecProcess, MountSource, NetMode, Process, Security, Step, StepMount};
use fault::{Class, Classify as _};
use frontend::{Container, ContainerRequest, Ended, Start, Wires};
use futures::future::BoxFuture;
use ops::Entitlements;
use ops::container::{Asker, Container as Mounts, secret_env};
use parking_lot::Mutex;
use proto::{fsutil, pb};
use tasks::Cx;
use tokio::sync::{oneshot, watch};

use crate::Machinery;
use crate::bridge::BuildBridge;
use crate::files;
use crate::reference::LazyReference;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Compat: whoever asks for a container of that platform gets its path, wherever it runs.
const WINDOWS_PATH: &str =
    r"PATH=c:\Windows\System32;c:\Windows;C:\Windows\System32\WindowsPowerShell\v1.0";

/// The containers of one build.
#[derive(Default)]
pub(crate) struct Containers {
    list: Mutex<Vec<Arc<Driven>>>,
}

impl Containers {
    /// Gives up all of them.
    pub(crate) async fn release(&self) {
        let list = std::mem::take(&mut *self.list.lock());
        for driven in list {
            // Whoever wanted to know about failures has asked.
            let _ = driven.release().await;
        }
    }
}

/// A container.
struct Driven {
    machinery: Arc<Machinery>,
    entitlements: Entitlements,
    asker: Asker,
    id: String,
    path: &'static str,
    network: NetMode,
    hostname: String,
    extra_hosts: Vec<(String, IpAddr)>,
    mounts: Mutex<Option<Arc<Mounts>>>,
    files: Mutex<Vec<Directory>>,
    started: AtomicBool,
    running: watch::Sender<usize>,
    failed: Mutex<Option<Failure>>,
    /// Its processes.
    tasks: Mutex<Vec<tasks::Task<()>>>,
}

/// A directory of private files; gone when dropped.
struct Directory {
    path: PathBuf,
    dest: String,
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(err) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %err, "private files of a container stay behind");
        }
    }
}

impl BuildBridge {
    /// Makes a container; nothing runs in it yet.
    pub(crate) async fn new_driven(
        &self,
        cx: &Cx,
        request: ContainerRequest,
    ) -> Result<Arc<dyn Container>, Failure> {
        let mut mounts = Vec::with_capacity(request.mounts.len());
        for mount in &request.mounts {
            let value = match mount.result_id.as_str() {
                "" => None,
                id => Some(self.result(cx, &request, id, &mount.dest).await?),
            };
            let kept = pb::Mount {
                dest: mount.dest.clone(),
                selector: mount.selector.clone(),
                readonly: mount.readonly,
                mount_type: mount.mount_type,
                cache_opt: mount.cache_opt.clone(),
                secret_opt: mount.secret_opt.clone(),
                ssh_opt: mount.ssh_opt.clone(),
                ..pb::Mount::default()
            };
            mounts.push((kept, value));
        }
        let asker = Asker {
            cx: cx.child(),
            session: self.session.clone(),
        };
        let extra_hosts = extra_hosts(&request.extra_hosts)?;
        let worker = &self.machinery.worker;
        let mounts = Mounts::prepare(worker, &asker, &request.id, mounts).await?;
        let driven = Arc::new(Driven {
            machinery: self.machinery.clone(),
            entitlements: self.entitlements.clone(),
            asker,
            id: request.id.clone(),
            path: match request.os.as_str() {
                "windows" => WINDOWS_PATH,
                _ => PATH,
            },
            network: network(request.network),
            hostname: request.hostname.clone(),
            extra_hosts,
            mounts: Mutex::new(Some(Arc::new(mounts))),
            files: Mutex::new(write_files(worker, &request)?),
            started: AtomicBool::new(false),
            running: watch::Sender::new(0),
            failed: Mutex::default(),
            tasks: Mutex::default(),
        });
        self.containers.list.lock().push(driven.clone());
        Ok(Arc::new(Handle(driven)))
    }

    /// The tree a mount names: of a failed step, or a result of the build.
    async fn result(
        &self,
        cx: &Cx,
        request: &ContainerRequest,
        id: &str,
        dest: &str,
    ) -> Result<ops::Value, Failure> {
        if let Some(value) = self.exposed.get(id) {
            return Ok(value);
        }
        let Some(reference) = request.references.get(id) else {
            let text = format!(
                "failed to find ref {id} for {dest:?} mount: return reference {id} not found"
            );
            return Err(Failure::new(Class::User, text));
        };
        let lazy = reference.as_any().downcast_ref::<LazyReference>();
        let lazy =
            lazy.ok_or_else(|| Failure::new(Class::Internal, "a result of another build"))?;
        lazy.value(cx).await
    }
}

fn network(mode: pb::NetMode) -> NetMode {
    match mode {
        pb::NetMode::Unset => NetMode::Sandbox,
        pb::NetMode::Host => NetMode::Host,
        pb::NetMode::None => NetMode::None,
    }
}

fn extra_hosts(hosts: &[pb::HostIp]) -> Result<Vec<(String, IpAddr)>, Failure> {
    let parse = |host: &pb::HostIp| match host.ip.parse() {
        Ok(ip) => Ok((host.host.clone(), ip)),
        Err(_) => Err(Failure::new(
            Class::User,
            format!("failed to parse IP {}", host.ip),
        )),
    };
    hosts.iter().map(parse).collect()
}

fn write_files(
    worker: &ops::Worker,
    request: &ContainerRequest,
) -> Result<Vec<Directory>, Failure> {
    let mut directories: Vec<Directory> = Vec::new();
    for file in &request.files {
        let failed = |err: std::io::Error| {
            let text = format!("failed to write private file {}: {err}", file.name);
            Failure::new(err.class(), text)
        };
        let known = directories
            .iter()
            .position(|directory| directory.dest == file.directory);
        let known = match known {
            Some(known) => known,
            None => {
                let name = format!("files-{}", identity::new_id());
                let path = worker.options.scratch.join(name);
                std::fs::create_dir_all(&path).map_err(failed)?;
                directories.push(Directory {
                    path,
                    dest: file.directory.clone(),
                });
                directories.len() - 1
            }
        };
        let path = directories[known].path.join(&file.name);
        std::fs::write(path, &file.content).map_err(failed)?;
    }
    Ok(directories)
}

/// One more in a count, for as long as it lives.
struct Counted(Arc<Driven>);

impl Counted {
    fn new(driven: &Arc<Driven>) -> Self {
        driven.running.send_modify(|count| *count += 1);
        Self(driven.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.running.send_modify(|count| *count -= 1);
    }
}

/// Kills a process nobody waits for any more.
struct KillOnDrop(Cx);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.cancel("context canceled");
    }
}

/// A container as others see it.
struct Handle(Arc<Driven>);

#[async_trait]
impl Container for Handle {
    fn start(&self, start: Start, wires: Wires) -> BoxFuture<'static, Ended> {
        let driven = self.0.clone();
        let first = !driven.started.swap(true, Ordering::SeqCst);
        let cx = driven.asker.cx.child();
        let guard = KillOnDrop(cx.clone());
        let counted = Counted::new(&driven);
        let (done, ended) = oneshot::channel();
        let task = tasks::spawn("process of a container", async move {
            let result = driven.run(&cx, first, start, wires).await;
            if let Err(failure) = &result {
                driven.failed.lock().get_or_insert_with(|| failure.clone());
            }
            drop(counted);
            // Nobody may be waiting any more.
            let _ = done.send(result);
        });
        let mut tasks = self.0.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
        drop(tasks);
        Box::pin(async move {
            let _guard = guard;
            ended
                .await
                .unwrap_or_else(|_| Err(Failure::cancelled("context canceled")))
        })
    }

    async fn release(&self) -> Ended {
        self.0.release().await
    }

    async fn read_file(
        &self,
        mount: i32,
        path: &str,
        range: Option<(i64, i64)>,
    ) -> Result<Bytes, Failure> {
        files::read_file_at(self.0.tree(mount)?, path, range).await
    }

    async fn read_dir(
        &self,
        mount: i32,
        path: &str,
        include: &str,
    ) -> Result<Vec<fsutil::Stat>, Failure> {
        files::read_dir_at(self.0.tree(mount)?, path, include).await
    }

    async fn stat_file(&self, mount: i32, path: &str) -> Result<fsutil::Stat, Failure> {
        files::stat_file_at(self.0.tree(mount)?, path).await
    }
}

impl Driven {
    async fn release(&self) -> Ended {
        self.asker.cx.cancel("context canceled");
        let mut running = self.running.subscribe();
        // The sender is ours, so the channel stays open.
        let _ = running.wait_for(|count| *count == 0).await;
        self.mounts.lock().take();
        self.files.lock().clear();
        match self.failed.lock().take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn mounts(&self) -> Result<Arc<Mounts>, Failure> {
        let mounts = self.mounts.lock().clone();
        mounts.ok_or_else(|| {
            let text = format!("container {} has been released", self.id);
            Failure::new(Class::User, text)
        })
    }

    fn tree(&self, index: i32) -> Result<mount::Mount, Failure> {
        let mounts = self.mounts()?;
        let count = mounts.count();
        let place = usize::try_from(index).ok().filter(|index| *index < count);
        let Some(place) = place else {
            let text = format!("mount index {index} is out of bounds ({count} available)");
            return Err(Failure::new(Class::User, text));
        };
        let missing = || Failure::new(Class::User, format!("mountable {index} not found"));
        mounts.tree(place).ok_or_else(missing)
    }

    async fn run(&self, cx: &Cx, first: bool, start: Start, wires: Wires) -> Ended {
        let security = self.check(&start)?;
        let env = self.env(&start).await?;
        let executor = &self.machinery.worker.executor;
        let ended = if first {
            let mounts = self.mounts()?;
            let step = self.step(&mounts, &start, security, env);
            executor.run_attached(cx, step, wires).await
        } else {
            let process = ExecProcess {
                args: start.meta.args,
                env,
                cwd: start.meta.cwd,
                user: start.meta.user,
                tty: start.tty,
            };
            executor.exec(cx, &self.id, process, wires).await
        };
        ended.map_err(|err| {
            let code = u32::try_from(err.exit_code()).unwrap_or(255);
            Failure::from_error(&err).with(Detail::Exit { code })
        })
    }

    fn check(&self, start: &Start) -> Result<Security, Failure> {
        let security = match pb::SecurityMode::try_from(start.security) {
            Ok(pb::SecurityMode::Sandbox) => Security::Sandbox,
            Ok(pb::SecurityMode::Insecure) => Security::Insecure,
            Err(_) => {
                let text = format!("invalid security mode {}", start.security);
                return Err(Failure::new(Class::User, text));
            }
        };
        let needs = [
            ("network.host", self.network == NetMode::Host),
            ("security.insecure", security == Security::Insecure),
        ];
        for (name, needed) in needs {
            if needed && !self.entitlements.allow(name) {
                return Err(Failure::new(Class::User, format!("{name} is not allowed")));
            }
        }
        Ok(security)
    }

    /// The variables of a process, what it cannot do without, and its secrets.
    async fn env(&self, start: &Start) -> Result<Vec<String>, Failure> {
        let mut env = start.meta.env.clone();
        let mut add = |text: &str| {
            let name = text.split_inclusive('=').next().unwrap_or_default();
            if !env.iter().any(|entry| entry.starts_with(name)) {
                env.push(text.to_owned());
            }
        };
        add(self.path);
        if start.tty {
            add("TERM=xterm");
        }
        let worker = &self.machinery.worker;
        env.extend(secret_env(worker, &self.asker, &start.secret_env).await?);
        Ok(env)
    }

    fn step(&self, mounts: &Mounts, start: &Start, security: Security, env: Vec<String>) -> Step {
        let meta = start.meta.clone();
        let mut list = mounts.mounts();
        for directory in self.files.lock().iter() {
            list.push(StepMount {
                dest: directory.dest.clone(),
                source: MountSource::Path {
                    path: directory.path.clone(),
                    options: ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec(),
                },
                selector: None,
                readonly: true,
            });
        }
        list.sort_by(|a, b| a.dest.cmp(&b.dest));
        Step {
            id: self.id.clone(),
            root: mounts.root(),
            root_readonly: false,
            usage: None,
            mounts: list,
            process: Process {
                args: meta.args,
                env,
                cwd: if meta.cwd.is_empty() {
                    "/".to_owned()
                } else {
                    meta.cwd
                },
                user: meta.user,
                hostname: self.hostname.clone(),
                extra_hosts: self.extra_hosts.clone(),
                network: self.network,
                security,
                remove_stubs_recursive: meta.remove_mount_stubs_recursive,
                tty: start.tty,
                ..Process::default()
            },
        }
    }
}
