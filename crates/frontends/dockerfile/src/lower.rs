//! Turns a parsed Dockerfile into LLB, for one platform.
//!
//! 1. Global arguments get their values (`args`).
//! 2. Each FROM becomes a *record*, and so does everything else an instruction may copy or mount from: images,
//!    contexts, the empty tree (`plan`). Records are linked, the target is found, cycles are refused.
//! 3. Base images and named contexts of what the target needs are looked up. ONBUILD triggers may add links, so this
//!    repeats until nothing new turns up (`base`).
//! 4. Instructions of the records that are needed run in file order (`run`, `copy`, `config`, …).
//! 5. Only now it is known which paths of the contexts are used, and the context ops are made.
//!
//! The order of the steps decides which error or warning comes first; it is upstream's.

mod args;
mod base;
mod config;
mod copy;
mod cycle;
mod epoch;
mod mounts;
mod name;
mod outline;
mod plan;
mod record;
mod run;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use dockerfile_syntax::lint::{Linter, check_casing, check_stage_names};
use dockerfile_syntax::shell::Lex;
use dockerfile_syntax::{Dockerfile, Instruction, Kind, Problem};
use fstree::Patterns;
use llb::build::{Defaults, Env, Later, SourceMap, State};
use oci::Platform;
use proto::pb;

use self::outline::ArgInfo;
pub(crate) use self::outline::{Need, Outline};
use self::record::{Record, Said, Step};
use crate::error::{Error, Locate, Result, text};
use crate::explain::{From, Taken};
use crate::files::{Files, Source};
use crate::image::Image;
use crate::named::PendingLocal;

/// What a Dockerfile means on one platform.
#[derive(Clone)]
pub(crate) struct Lowered {
    pub(crate) state: State,
    pub(crate) defaults: Defaults,
    pub(crate) image: Image,
    pub(crate) base_image: Option<Arc<Image>>,
    /// Seconds.
    pub(crate) epoch: Option<i64>,
    pub(crate) scan: Scan,
    pub(crate) outline: Option<Outline>,
    /// What it takes from where.
    pub(crate) taken: Arc<Taken>,
}

/// What is to be lowered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish<'a> {
    /// Without one the build's own is taken, and base images may decide.
    pub(crate) platform: Option<&'a Platform>,
    /// Also what the target does not need.
    pub(crate) all_stages: bool,
    /// Also what the target can be told.
    pub(crate) outline: bool,
}

/// What an SBOM scanner is to look at besides the result.
#[derive(Clone, Default)]
pub(crate) struct Scan {
    pub(crate) extras: BTreeMap<String, State>,
    pub(crate) ignore_cache: bool,
}

/// Lowers the file. What was found goes to `linter` even on failure.
pub(crate) async fn lower(
    files: &Files,
    source: &Source,
    wish: Wish<'_>,
    linter: &mut Linter,
) -> Result<Lowered> {
    if source.map.data.is_empty() {
        return Err(Error::Says("the Dockerfile cannot be empty").into());
    }
    let file = dockerfile_syntax::parse(&source.map.data, linter).map_err(|err| {
        let spans = err.span.into_iter().collect();
        crate::error::Trouble {
            error: Box::new(err.into()),
            spans,
        }
    })?;
    if file.stages.is_empty() {
        return Err(Error::Says("dockerfile contains no stages to build").into());
    }
    check_stage_names(&file, linter);
    check_casing(&file, linter);
    let mut lower = Lower::new(files, source, wish, &file, linter);
    lower.read_global_args(&file).await?;
    lower.add_stages(&file)?;
    let target = lower.find_target()?;
    lower.link()?;
    let needed = lower.resolve(target).await?;
    lower.mark_result(target);
    lower.run_records(&needed).await?;
    lower.finish(target, &needed).await
}

struct Lower<'a> {
    files: &'a Files,
    source: &'a Source,
    linter: &'a mut Linter,
    build_args: BTreeMap<String, String>,
    target_platform: Platform,
    /// Nobody asked for a platform.
    implicit_platform: bool,
    all_stages: bool,
    outline: bool,
    lex: Lex,
    globals: Env,
    /// Arguments declared before the first FROM.
    declared: BTreeMap<String, ArgInfo>,
    epoch: Option<i64>,
    proxy: Option<pb::ProxyEnv>,
    records: Vec<Record<'a>>,
    by_name: HashMap<String, usize>,
    /// Paths used of a record and of all that are based on it.
    path_sets: Vec<BTreeSet<String>>,
    context: State,
    context_later: Later,
    context_paths: BTreeSet<String>,
    ignored: Option<Patterns>,
    /// Directories of the client, and the set of paths used of them.
    pending: Vec<(usize, PendingLocal)>,
    /// What is taken from records, or from the main context.
    taken: Taken,
}

impl<'a> Lower<'a> {
    fn new(
        files: &'a Files,
        source: &'a Source,
        wish: Wish<'_>,
        file: &Dockerfile,
        linter: &'a mut Linter,
    ) -> Self {
        let options = &files.options;
        let (context, context_later) = State::later();
        Self {
            files,
            source,
            linter,
            build_args: options.build_args.clone(),
            target_platform: wish.platform.unwrap_or(&options.build_platform).clone(),
            implicit_platform: wish.platform.is_none(),
            all_stages: wish.all_stages,
            outline: wish.outline,
            lex: Lex::new(file.escape),
            globals: Env::new(),
            declared: BTreeMap::new(),
            epoch: None,
            proxy: args::proxy(&options.build_args),
            records: Vec::new(),
            by_name: HashMap::new(),
            path_sets: Vec::new(),
            context,
            context_later,
            context_paths: BTreeSet::new(),
            ignored: None,
            pending: Vec::new(),
            taken: Taken::default(),
        }
    }

    fn map(&self) -> &Arc<SourceMap> {
        &self.source.map
    }

    /// Marks the stages whose images make up the one of `target`.
    fn mark_result(&mut self, target: usize) {
        let mut next = Some(target);
        while let Some(at) = next {
            let record = &mut self.records[at];
            record.in_result = true;
            next = record.extends;
        }
    }

    /// Step 4.
    async fn run_records(&mut self, needed: &BTreeSet<usize>) -> Result<()> {
        let patterns = self.files.ignored(self.source).await?;
        if !patterns.is_empty() {
            let patterns = Patterns::new(patterns).map_err(|err| text(err.to_string()))?;
            self.ignored = Some(patterns);
        }
        for at in 0..self.records.len() {
            if !self.all_stages && (!needed.contains(&at) || self.records[at].done) {
                continue;
            }
            self.start(at)?;
            self.records[at].done = true;
            let steps = std::mem::take(&mut self.records[at].steps);
            let outcome = steps
                .iter()
                .try_for_each(|step| self.run_step(at, step).at(step.instruction.span));
            self.records[at].steps = steps;
            outcome?;
            self.note_scans(at);
        }
        Ok(())
    }

    /// Brings a record to where its first instruction begins.
    fn start(&mut self, at: usize) -> Result<()> {
        self.inherit(at);
        let span = self.records[at].span;
        let hostname = &self.files.options.hostname;
        let record = &mut self.records[at];
        let platform = record
            .platform
            .get_or_insert_with(|| self.target_platform.clone())
            .clone();
        if record.image.env().all(|(key, _)| key != "PATH") && platform.os != "windows" {
            let line = format!("PATH={}", crate::image::DEFAULT_PATH);
            record.image.config.env.push(line);
        }
        let mut state = std::mem::take(&mut record.state);
        for (key, value) in record.image.env() {
            state = state.env(key, value);
        }
        if !hostname.is_empty() {
            state = state.hostname(hostname);
        }
        record.state = state;
        let dir = record.image.config.working_dir.clone();
        if !dir.is_empty() {
            self.change_dir(at, &dir).at(span)?;
        }
        let record = &mut self.records[at];
        let mut state = std::mem::take(&mut record.state);
        if !record.image.config.user.is_empty() {
            state = state.user(&record.image.config.user);
        }
        record.state = state.network(self.files.options.network);
        Ok(())
    }

    /// Takes over what the stage it is based on ended with.
    fn inherit(&mut self, at: usize) {
        let Some(base) = self.records[at].extends else {
            return;
        };
        let base = &self.records[base];
        let state = base.state.clone();
        let platform = base.platform.clone();
        let mut image = base.image.clone();
        image.config.on_build.clear();
        let base_image = base.base_image.clone();
        let paths = base.paths;
        let workdir_set = base.workdir_set;
        let args = base.args.clone();
        let record = &mut self.records[at];
        record.state = state;
        record.platform = platform;
        record.image = image;
        record.base_image = base_image;
        record.paths = paths;
        record.workdir_set = workdir_set;
        record.args.extend(args);
    }

    fn run_step(&mut self, at: usize, step: &Step<'_>) -> Result<()> {
        self.records[at].on_trigger = matches!(step.instruction, Said::Trigger(_));
        let instruction = &*step.instruction;
        match &instruction.kind {
            Kind::Add(add) => self.add(at, instruction, add),
            Kind::Arg(arg) => self.arg(at, instruction, arg),
            Kind::Cmd(cmd) => self.cmd(at, instruction, cmd),
            Kind::Copy(copy) => self.copy(at, step, copy),
            Kind::Entrypoint(entrypoint) => self.entrypoint(at, instruction, entrypoint),
            Kind::Env(env) => self.env(at, instruction, env),
            Kind::Expose(expose) => self.expose(at, instruction, expose),
            Kind::Healthcheck(check) => self.healthcheck(at, instruction, check),
            Kind::Label(label) => self.label(at, instruction, label),
            Kind::Maintainer(maintainer) => self.maintainer(at, maintainer),
            Kind::Onbuild(onbuild) => {
                let image = &mut self.records[at].image;
                image.config.on_build.push(onbuild.expression.clone());
                Ok(())
            }
            Kind::Run(run) => self.run(at, step, run),
            Kind::Shell(shell) => self.shell(at, shell),
            Kind::StopSignal(stop) => self.stop_signal(at, instruction, stop),
            Kind::User(user) => self.user(at, instruction, user),
            Kind::Volume(volume) => self.volume(at, instruction, volume),
            Kind::Workdir(workdir) => self.workdir(at, instruction, workdir),
        }
    }

    /// Whether a scanner is to look at this stage or at its context.
    fn note_scans(&mut self, at: usize) {
        let enabled = |name: &str| {
            let record = &self.records[at];
            let own = record
                .args
                .iter()
                .rev()
                .find(|arg| &*arg.name == name && arg.value.is_some());
            let value = match own {
                Some(arg) => arg.value.as_deref(),
                None => self.globals.get(name),
            };
            value.is_some_and(|value| {
                fault::truth(value)
                    .unwrap_or_else(|| value.split(',').any(|one| one == record.display))
            })
        };
        let (context, stage) = (
            enabled("BUILDKIT_SBOM_SCAN_CONTEXT"),
            enabled("BUILDKIT_SBOM_SCAN_STAGE"),
        );
        self.records[at].scan_context |= context;
        self.records[at].scan_stage |= stage;
    }

    /// Step 5.
    async fn finish(mut self, target: usize, needed: &BTreeSet<usize>) -> Result<Lowered> {
        // The result is exported whole.
        let set = self.records[target].paths;
        self.path_sets[set].insert("/".to_owned());
        let labels = &self.files.options.labels;
        self.records[target]
            .image
            .config
            .labels
            .extend(labels.clone());
        self.linter.verdict()?;
        let follow = words::follow_paths(&self.context_paths);
        let context = self.files.context(self.source, follow).await?;
        self.context_later.set(&context);
        let taken = self.all_taken();
        for (set, local) in std::mem::take(&mut self.pending) {
            local.resolve(words::follow_paths(&self.path_sets[set]));
        }
        let scan = self.scan(target, needed);
        let outline = self.outline.then(|| self.outline_of(target));
        let defaults = Defaults {
            platform: self.target_platform.clone(),
            daemon_sets_path: self
                .files
                .bridge
                .supports(llb::caps::EXEC_META_SETS_DEFAULT_PATH),
            ..Defaults::default()
        };
        let epoch = self.epoch;
        let record = &mut self.records[target];
        let mut image = std::mem::take(&mut record.image);
        if !self.implicit_platform {
            name_platform(&mut image, &self.target_platform);
        }
        image.set_platform(image.platform().normalized());
        Ok(Lowered {
            state: std::mem::take(&mut record.state),
            defaults,
            image,
            base_image: record.base_image.take(),
            epoch,
            scan,
            outline,
            taken,
        })
    }

    fn all_taken(&mut self) -> Arc<Taken> {
        let mut taken = std::mem::take(&mut self.taken);
        taken.name_origins(|at| {
            let record = &self.records[at];
            let own = |(set, _): &&(usize, PendingLocal)| *set == record.paths;
            match self.pending.iter().find(own) {
                // Nothing ran there, so it is still what the client has.
                Some((_, local)) if record.steps.is_empty() => {
                    From::Directory(local.directory.clone())
                }
                _ => From::Tree(record.state.clone()),
            }
        });
        taken.into()
    }

    fn scan(&self, target: usize, needed: &BTreeSet<usize>) -> Scan {
        let mut scan = Scan::default();
        if self.records[target].scan_context {
            scan.extras
                .insert("context".to_owned(), self.context.clone());
        }
        scan.ignore_cache = self.records[target].ignore_cache;
        for &at in needed {
            let record = &self.records[at];
            if at != target && record.scan_stage {
                scan.extras
                    .insert(record.display.clone(), record.state.clone());
                scan.ignore_cache |= record.ignore_cache;
            }
        }
        scan
    }
}

/// The result says it is for the platform that was asked for.
fn name_platform(image: &mut Image, target: &Platform) {
    let same = image.os == target.os && image.architecture == target.architecture;
    image.os.clone_from(&target.os);
    image.architecture.clone_from(&target.architecture);
    if !target.variant.is_empty() || !same {
        image.variant.clone_from(&target.variant);
    }
    if !target.os_version.is_empty() || !same {
        image.os_version.clone_from(&target.os_version);
    }
    if !target.os_features.is_empty() {
        image.os_features.clone_from(&target.os_features);
    }
}

/// Parses what ONBUILD kept.
fn parse_trigger(expression: &str) -> std::result::Result<Instruction, Problem> {
    dockerfile_syntax::parse_trigger(expression)
}
