//! Twenty Dockerfiles whose caches cross between our daemon and the stock one, in both directions and all forms: what one
//! exported, the other finds on every step with an empty store.
//!
//! Needs `E2E_STOCK` (a folder with the stock daemon). What needs no such daemon is in `caches`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{BASE, Daemon, context, skipped_unless, stock};
use tempfile::TempDir;
use testkit::fixture;
use testkit::registry::Registry;
use testkit::require;
use testkit::web::{Repository, Response, Web};

/// A build. `{HOST}` is a registry, `{WEB}` a server of files, `{GIT}` one of repositories, `{DIR}` the
/// folder of the context.
struct Case {
    name: &'static str,
    /// Stands behind [`BASE`], unless it begins with a line of its own.
    dockerfile: &'static str,
    args: &'static [&'static str],
}

const fn case(name: &'static str, dockerfile: &'static str) -> Case {
    Case {
        name,
        dockerfile,
        args: &[],
    }
}

/// What all contexts have.
const FILES: &str = r#"
//- x
1
//- a.txt
a
//- b.txt
b
//- d/f
f
//- d/g.md
g
//- d/s/h
h
//- d2/f2
f2
//- more/m
m
//- secret
hidden
"#;

const CASES: &[Case] = &[
    case(
        "stages",
        "FROM base AS build\nWORKDIR /src\nCOPY a.txt .\nRUN mkdir /o && tr a-z A-Z < a.txt > /o/bin\n\
         FROM base AS other\nRUN echo other > /other\n\
         FROM scratch\nCOPY --from=build /o/bin /bin/x\nCOPY --from=other /other /\nCOPY b.txt /b\n",
    ),
    case(
        "links",
        "FROM base\nCOPY --link a.txt /l/\nCOPY --link --chown=1:2 --chmod=0640 d/ /d/\nADD --link b.txt /l/\n\
         RUN cat /l/a.txt /l/b.txt > /z\n",
    ),
    case(
        "links onto a run, and stages of links",
        "FROM base AS one\nRUN echo 1 > /one\nFROM scratch AS two\nCOPY --link --from=one /one /two\nFROM base\n\
         RUN echo 0 > /zero\nCOPY --link --from=one /one /\nCOPY --link --from=two /two /\nRUN cat /one /two > /z\n",
    ),
    case(
        "cache mounts",
        "FROM base AS seed\nRUN mkdir /seed && echo s > /seed/s\nFROM base\n\
         RUN --mount=type=cache,target=/root/.cache echo 1 > /root/.cache/x\n\
         RUN --mount=type=cache,id=own,target=/c,uid=7,mode=0750 echo 2 > /c/x\n\
         RUN --mount=type=cache,target=/lk,sharing=locked echo 3 > /lk/x\n\
         RUN --mount=type=cache,target=/sd,from=seed,source=/seed cat /sd/s > /got\n",
    ),
    Case {
        name: "secrets and agents",
        dockerfile: "FROM base\nRUN --mount=type=secret,id=tok cat /run/secrets/tok > /1\n\
         RUN --mount=type=secret,id=tok,target=/tok,mode=0444,uid=3 cat /tok > /2\n\
         RUN --mount=type=secret,id=tok,env=TOK echo $TOK > /3\n\
         RUN --mount=type=secret,id=none,required=false echo none > /4\n\
         RUN --mount=type=ssh echo 5 > /5\n",
        args: &["--secret=id=tok,src={DIR}/secret"],
    },
    case(
        "bind mounts and memory",
        "FROM base AS st\nRUN mkdir /p && echo p > /p/q\nFROM base\n\
         RUN --mount=type=bind,target=/src cat /src/a.txt > /1\n\
         RUN --mount=type=bind,source=d,target=/src cat /src/f > /2\n\
         RUN --mount=type=bind,from=st,source=/p,target=/src cat /src/q > /3\n\
         RUN --mount=type=bind,target=/src,rw cat /src/b.txt > /4 && touch /src/new\n\
         RUN --mount=type=tmpfs,target=/t,size=1048576 echo x > /t/x\n",
    ),
    case(
        "git",
        "FROM scratch AS got\nADD {GIT}/repo.git#main /r/\nFROM base\nCOPY --from=got /r/file /f\n\
         ADD --keep-git-dir=true {GIT}/repo.git#main:dir /sub/\nRUN cat /f > /z\n",
    ),
    case(
        "http",
        "FROM base\nADD {WEB}/file.txt /h/\nADD --chmod=0600 --chown=1:2 {WEB}/other.txt /h2\nRUN cat /h/file.txt > /z\n",
    ),
    Case {
        name: "several platforms",
        dockerfile: "FROM --platform=$BUILDPLATFORM base AS tool\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n\
         FROM scratch\nARG TARGETARCH\nCOPY --from=tool /arch /arch\nCOPY a.txt /a-${TARGETARCH}\nCOPY d /d/\n",
        args: &["--opt=platform=linux/amd64,linux/arm64"],
    },
    case(
        "here documents",
        "FROM base\nRUN <<EOT\nset -e\necho \"<one> & two\" > /h\nEOT\nCOPY <<EOT /c/d\nhello \"world\" <x>&y\nEOT\n\
         COPY --chmod=0700 <<\"RAW\" <<ONE /many/\n$not_expanded\nRAW\none\nONE\n",
    ),
    case(
        "archives",
        "FROM base\nADD t.tar.gz /u/\nADD a.txt /p\nCOPY t.tar.gz /kept/\nRUN cat /u/f > /z\n",
    ),
    case(
        "triggers",
        "FROM {HOST}/triggers:1 AS t\nRUN cat /from-trigger > /z\nFROM t\nRUN echo more >> /z\n",
    ),
    case(
        "parents and exclusions",
        "FROM base\nCOPY --exclude=*.md --exclude=d/s . /x/\nCOPY --parents d/f d2/f* /p/\nCOPY --parents ./d/./s /q/\n\
         RUN ls /x /p /q > /z\n",
    ),
    case(
        "wildcards",
        "FROM base\nCOPY *.txt /t/\nCOPY d?/f* /x/\nCOPY a.txt b.txt d /y/\nCOPY [ab].txt /w/\nRUN ls /t /x /y /w > /z\n",
    ),
    Case {
        name: "arguments",
        dockerfile: "FROM base\nARG V=1\nARG UNUSED=zzz\nARG GIVEN\nRUN echo $V $GIVEN > /v\nENV E=$V\nLABEL l=$V\n\
         WORKDIR /w/$E\nRUN echo again > again\n",
        args: &["--opt=build-arg:V=2", "--opt=build-arg:GIVEN=g"],
    },
    Case {
        name: "named contexts",
        dockerfile: "FROM base\nCOPY --from=more m /m\nRUN --mount=from=more,target=/mm cat /mm/m > /z\n",
        args: &["--local=more={DIR}/more", "--opt=context:more=local:more"],
    },
    case(
        "users",
        "FROM base\nRUN mkdir -p /etc && echo root:x:0:0:root:/:/bin/sh > /etc/passwd && echo u:x:7:8::/: >> /etc/passwd \
         && echo g:x:9: > /etc/group\nCOPY --chown=u:g a.txt /o1\nCOPY --chown=u d /o2\nUSER u\nRUN id > /tmp-id || true\n\
         WORKDIR /mine\n",
    ),
    case(
        "links of the file system",
        "FROM base\nCOPY ln /f\nCOPY lnd /dir/\nCOPY lnd/f /g\nRUN cat /f /g > /z\n",
    ),
    case(
        "a diamond",
        "FROM base AS root\nCOPY a.txt /a\nFROM root AS x\nRUN mkdir /x && cp /a /x/a\nFROM root AS y\n\
         RUN mkdir /y && cp /a /y/a\nFROM scratch\nCOPY --from=x /x /o/x\nCOPY --from=y /y /o/y\nCOPY --from=x /x/a /o/x2\n",
    ),
    Case {
        name: "a target, shells and networks",
        dockerfile: "FROM base AS wanted\nSHELL [\"/bin/sh\",\"-ec\"]\nRUN --network=none echo none > /n\n\
         RUN [\"/bin/sh\",\"-c\",\"echo exec > /e\"]\nHEALTHCHECK CMD true\nEXPOSE 80\nVOLUME /v\nCMD [\"/bin/sh\"]\n\
         FROM base\nRUN false\n",
        args: &["--opt=target=wanted"],
    },
];

/// How a cache goes out, whether by a daemon that has just exported others, and how it comes in.
struct Form {
    name: &'static str,
    /// A daemon that exported all would have all layers: the least is exported by one of its own.
    least: bool,
    export: &'static [&'static str],
    import: &'static str,
}

const FORMS: &[Form] = &[
    Form {
        name: "image manifest, all",
        least: false,
        export: &["--export-cache=type=registry,ref={HOST}/c:max,mode=max"],
        import: "type=registry,ref={HOST}/c:max",
    },
    Form {
        name: "index, all",
        least: false,
        export: &["--export-cache=type=registry,ref={HOST}/c:index,mode=max,image-manifest=false"],
        import: "type=registry,ref={HOST}/c:index",
    },
    Form {
        name: "folder, all",
        least: false,
        export: &["--export-cache=type=local,dest={OUT}/max,mode=max"],
        import: "type=local,src={OUT}/max",
    },
    Form {
        name: "inline",
        least: true,
        export: &[
            "--export-cache=type=inline",
            "--output=type=image,name={HOST}/i:1,push=true",
        ],
        import: "type=registry,ref={HOST}/i:1",
    },
    Form {
        name: "image manifest, least",
        least: true,
        export: &["--export-cache=type=registry,ref={HOST}/c:min"],
        import: "type=registry,ref={HOST}/c:min",
    },
    Form {
        name: "folder, least",
        least: true,
        export: &["--export-cache=type=local,dest={OUT}/min"],
        import: "type=local,src={OUT}/min",
    },
];

/// Where builds happen, and what they need.
struct Place {
    context: TempDir,
    out: TempDir,
    registry: Registry,
    web: Web,
    git: Web,
    _repositories: TempDir,
}

impl Place {
    fn new(case: &Case) -> Self {
        let repositories = tempfile::tempdir().expect("a folder");
        let repository = Repository::new(repositories.path().join("repo.git"));
        repository.commit("//- file\nfile\n//- dir/inner\ninner");
        repository.git(&["branch", "-M", "main"]);
        let place = Self {
            context: context(FILES),
            out: tempfile::tempdir().expect("a folder"),
            registry: Registry::start(),
            web: Web::start(|request| Response::file(request.path.clone())),
            git: Web::git(repositories.path()),
            _repositories: repositories,
        };
        let at = place.context.path();
        std::os::unix::fs::symlink("a.txt", at.join("ln")).expect("linked");
        std::os::unix::fs::symlink("d", at.join("lnd")).expect("linked");
        let tar = Command::new("/bin/busybox")
            .args(["tar", "-C"])
            .arg(at.join("d"))
            .arg("-czf")
            .arg(at.join("t.tar.gz"))
            .args(["f", "s"])
            .status();
        assert!(tar.expect("tar runs").success());
        let text = format!("{BASE}{}", place.fill(case.dockerfile));
        std::fs::write(at.join("Dockerfile"), text).expect("written");
        place
    }

    fn fill(&self, text: &str) -> String {
        let show = |path: &Path| path.display().to_string();
        text.replace("{HOST}", &self.registry.host())
            .replace("{WEB}", &self.web.url())
            .replace("{GIT}", &self.git.url())
            .replace("{DIR}", &show(self.context.path()))
            .replace("{OUT}", &show(self.out.path()))
    }

    /// Makes an image whose triggers another build fires.
    fn push_triggers(&self, daemon: &Daemon) {
        let dir = context(&format!(
            "//- Dockerfile\n{BASE}ONBUILD COPY x /from-trigger\nONBUILD RUN echo run > /run\n"
        ));
        let output = format!(
            "--output=type=image,name={}/triggers:1,push=true",
            self.registry.host()
        );
        daemon.build(dir.path(), &[&output]).ok();
    }

    fn build(&self, daemon: &Daemon, case: &Case, args: &[&str]) -> String {
        let args = case.args.iter().chain(args).map(|arg| self.fill(arg));
        let args: Vec<String> = args.collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        daemon.build(self.context.path(), &args).ok().text
    }
}

/// A daemon with nothing in it.
fn daemon(binary: Option<&PathBuf>) -> Daemon {
    binary.map_or_else(Daemon::start, |binary| Daemon::other(binary))
}

/// Steps that did not come from the cache; `text` is what the client printed. Sources are told under the names of the
/// steps that use them: what has such a name must be there from the cache once.
fn missed(text: &str) -> BTreeSet<&str> {
    let mut names = BTreeMap::new();
    let mut cached = BTreeSet::new();
    for line in text.lines() {
        let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        if rest == "CACHED" {
            cached.insert(number);
        } else if rest.starts_with('[')
            && !rest.starts_with("[internal]")
            && !rest.starts_with("[context ")
            && !rest.contains(" FROM ")
        {
            names.insert(number, rest);
        }
    }
    assert!(!names.is_empty(), "no steps:\n{text}");
    let found: BTreeSet<_> = cached.iter().filter_map(|it| names.get(it)).collect();
    let names = names.values().filter(|name| !found.contains(name));
    names.copied().collect()
}

/// Takes the cache of one build from one kind of daemon to another in all forms. Answers what was missed.
fn cross(case: &Case, from: Option<&PathBuf>, to: Option<&PathBuf>) -> Vec<String> {
    let place = Place::new(case);
    if case.dockerfile.contains("triggers") {
        place.push_triggers(&Daemon::start());
    }
    for least in [false, true] {
        let exporting = daemon(from);
        for form in FORMS.iter().filter(|form| form.least == least) {
            place.build(&exporting, case, form.export);
        }
    }
    let mut all = Vec::new();
    let mut trees: Vec<String> = Vec::new();
    for form in FORMS {
        let importing = daemon(to);
        let import = format!("--import-cache={}", form.import);
        // Nothing is unpacked by this one, which would be told of with the steps.
        let text = place.build(&importing, case, &[&import]);
        let name = format!("{}, {}", case.name, form.name);
        let missed = missed(&text);
        if !missed.is_empty() {
            eprintln!("{name}: {missed:?} in\n{text}");
            all.push(name.clone());
        }
        let tree = tempfile::tempdir().expect("a folder");
        let output = format!("--output=type=local,dest={}", tree.path().display());
        place.build(&importing, case, &[&import, &output]);
        trees.push(fixture::list(tree.path()).expect("listed"));
        if trees.last() != trees.first() {
            all.push(format!("{name}: another result"));
        }
    }
    all
}

fn all(from: Option<&PathBuf>, to: Option<&PathBuf>) {
    let only = std::env::var("E2E_CASE").unwrap_or_default();
    let cases = CASES.iter().filter(|case| case.name.contains(&only));
    let missed: Vec<String> = cases.flat_map(|case| cross(case, from, to)).collect();
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

#[test]
fn what_the_stock_daemon_exported_is_found_here() {
    require!(root, busybox, registry, git);
    let stock = stock();
    if !skipped_unless(
        stock.is_some(),
        "E2E_STOCK names no folder with the stock daemon",
    ) {
        all(stock.as_ref(), None);
    }
}

#[test]
fn what_we_exported_is_found_by_the_stock_daemon() {
    require!(root, busybox, registry, git);
    let stock = stock();
    if !skipped_unless(
        stock.is_some(),
        "E2E_STOCK names no folder with the stock daemon",
    ) {
        all(None, stock.as_ref());
    }
}
