//! What builds start from: git repositories, files behind URLs, layouts of the client; and rules for them.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use e2e::{Build, Daemon, context, is_our_client, is_ours, skipped_unless};
use testkit::fixture::list;
use testkit::registry::Registry;
use testkit::require;
use testkit::web::{Repository, Request, Response, Web, git_backend};

/// Builds with only options, into a folder that is listed.
fn build(daemon: &Daemon, args: &[String]) -> (Build, String) {
    let out = tempfile::tempdir().expect("a temporary directory");
    let mut command = daemon.client(&["build", "--progress=plain", "--frontend=dockerfile.v0"]);
    command.arg(format!("--output=type=local,dest={}", out.path().display()));
    let build = Build::of(command.args(args).output().expect("the client runs"));
    let tree = list(out.path()).expect("listed");
    (build, tree)
}

/// Builds from a context that is a URL.
fn from_url(daemon: &Daemon, url: &str) -> (Build, String) {
    build(daemon, &[format!("--opt=context={url}")])
}

/// Builds a Dockerfile.
fn dockerfile(daemon: &Daemon, text: &str, more: &[String]) -> (Build, String) {
    let context = context(&format!("//- Dockerfile\n{text}"));
    let mut args: Vec<String> = ["context", "dockerfile"]
        .iter()
        .map(|name| format!("--local={name}={}", context.path().display()))
        .collect();
    args.extend(more.iter().cloned());
    build(daemon, &args)
}

const COPY_ALL: &str = "FROM scratch\nCOPY . /";

#[test]
fn a_repository_is_a_context() {
    require!(root, git, busybox);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let repository = Repository::new(dir.path().join("repo.git"));
    let first = repository.commit(&format!(
        "//- Dockerfile\n{COPY_ALL}\n//- a\none\n//- run mode=0755\nx"
    ));
    repository.git(&["tag", "-a", "v1", "-m", "v1"]);
    repository.commit(&format!(
        "//- a\ntwo\n//- sub/Dockerfile\n{COPY_ALL}\n//- sub/b\nb"
    ));
    let web = Web::git(dir.path());
    let url = format!("{}/repo.git", web.url());
    let daemon = Daemon::start();
    let newest =
        "Dockerfile 0644 22\na 0644 4\nrun 0755 2\nsub/ 0755\nsub/Dockerfile 0644 22\nsub/b 0644 2";
    let (done, tree) = from_url(&daemon, &url);
    done.ok();
    assert_eq!(tree, newest);
    let old = "Dockerfile 0644 22\na 0644 4\nrun 0755 2";
    for reference in ["v1", "refs/tags/v1", &first] {
        let (done, tree) = from_url(&daemon, &format!("{url}#{reference}"));
        done.ok();
        assert_eq!(tree, old, "{reference}");
    }
    let (done, tree) = from_url(&daemon, &format!("{url}#main:sub"));
    done.ok();
    assert_eq!(tree, "Dockerfile 0644 22\nb 0644 2");
    let (done, _) = from_url(&daemon, &format!("{url}#main:sub"));
    assert!(done.ok().cached() > 0);
    let (done, _) = from_url(&daemon, &format!("{url}#main:run"));
    done.fails_with("git subpath \"run\" contains non-directory \"run\"");
    let (done, _) = from_url(&daemon, &format!("{url}#nothing"));
    done.fails_with("repository does not contain ref nothing");
}

#[test]
fn a_repository_can_be_added_with_its_history_and_its_parts() {
    require!(root, git, busybox);
    let dir = tempfile::tempdir().expect("a temporary directory");
    Repository::new(dir.path().join("part.git")).commit("//- p\npart");
    let repository = Repository::new(dir.path().join("repo.git"));
    let web = Web::git(dir.path());
    let part = format!("{}/part.git", web.url());
    repository.git(&["submodule", "--quiet", "add", &part, "part"]);
    let commit = repository.commit("//- a\none");
    let url = format!("{}/repo.git", web.url());
    let daemon = Daemon::start();
    let add = |flags: &str| {
        let text = format!("FROM scratch\nADD {flags} {url} /");
        dockerfile(&daemon, &text, &[])
    };
    let (done, tree) = add("");
    done.ok();
    assert!(tree.starts_with(".gitmodules 0644"), "{tree}");
    // The stock daemon leaves a link to a repository that is not there any more.
    let tree = tree.replace("part/.git 0644 35\n", if is_ours() { "?" } else { "" });
    assert!(
        tree.ends_with("a 0644 4\npart/ 0755\npart/p 0644 5"),
        "{tree}"
    );
    let (done, tree) = add("--keep-git-dir");
    done.ok();
    assert!(tree.contains("\n.git/HEAD 0644"), "{tree}");
    let (done, _) = add(&format!("--checksum={commit}"));
    done.ok();
    let (done, _) = add(&format!("--checksum={}", "a".repeat(40)));
    done.fails_with(&format!(
        "expected checksum to match {}, got {commit}",
        "a".repeat(40)
    ));
}

#[test]
fn a_token_opens_a_repository_and_is_shown_to_nobody() {
    require!(root, git, busybox);
    let dir = tempfile::tempdir().expect("a temporary directory");
    Repository::new(dir.path().join("repo.git")).commit(&format!("//- Dockerfile\n{COPY_ALL}"));
    let root = dir.path().to_owned();
    // x-access-token:open-sesame
    let wanted = "basic eC1hY2Nlc3MtdG9rZW46b3Blbi1zZXNhbWU=";
    let web = Web::start(move |request| {
        if request.header("authorization") == wanted {
            git_backend(&root, request)
        } else {
            Response::status(401).with("WWW-Authenticate", "Basic realm=\"x\"")
        }
    });
    let daemon = Daemon::start();
    let url = format!("{}/repo.git", web.url());
    let (done, _) = from_url(&daemon, &url);
    done.fails_with("git stderr:");
    let secret = dir.path().join("token");
    std::fs::write(&secret, "open-sesame").expect("written");
    let args = [
        format!("--opt=context={url}"),
        format!("--secret=id=GIT_AUTH_TOKEN,src={}", secret.display()),
    ];
    let (done, tree) = build(&daemon, &args);
    let done = done.ok();
    assert_eq!(tree, "Dockerfile 0644 22");
    for text in [&done.text, &daemon.log()] {
        assert!(
            !text.contains("open-sesame") && !text.contains("eC1hY2Nl"),
            "{text}"
        );
    }
}

#[test]
fn a_hostile_repository_sees_nothing_of_the_machine() {
    require!(root, git, busybox);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let private = dir.path().join("private");
    Repository::new(private.join("secret.git")).commit("//- secret\nx");
    let path = private.join("secret.git");
    let repository = Repository::new(dir.path().join("public/repo.git"));
    repository.commit(&format!("//- Dockerfile\n{COPY_ALL}\n//- etc -> /etc"));
    repository.git(&["checkout", "-q", "-b", "module"]);
    repository.git(&["submodule", "--quiet", "add", &path.to_string_lossy(), "m"]);
    repository.commit("");
    let web = Web::git(&dir.path().join("public"));
    let url = format!("{}/repo.git", web.url());
    let daemon = Daemon::start();
    let (done, _) = from_url(&daemon, &format!("{url}#main:etc"));
    done.fails_with("git subpath \"etc\" contains non-directory \"etc\"");
    let (done, _) = from_url(&daemon, &format!("{url}#module"));
    done.fails_with("transport 'file' not allowed");
    let (done, _) = from_url(&daemon, "https://127.0.0.1:1/x.git#--upload-pack=touch");
    done.fails_with("invalid git ref");
}

#[test]
fn a_build_that_is_stopped_leaves_no_git_behind() {
    require!(root, git, busybox);
    let web = Web::start(|_| {
        std::thread::sleep(Duration::from_secs(600));
        Response::status(500)
    });
    let daemon = Daemon::start();
    let mut client = daemon
        .client(&["build", "--progress=plain", "--frontend=dockerfile.v0"])
        .arg(format!("--opt=context={}/repo.git", web.url()))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the client runs");
    let children = || {
        let output = Command::new("ps")
            .args(["-o", "comm=", "--ppid", &daemon.pid().to_string()])
            .output()
            .expect("ps is there");
        String::from_utf8_lossy(&output.stdout).contains("git")
    };
    let wait = |what: &str, wanted: bool| {
        let start = Instant::now();
        while children() != wanted {
            assert!(start.elapsed() < Duration::from_secs(120), "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait("git runs", true);
    client.kill().expect("it can be killed");
    client.wait().expect("it can be waited for");
    wait("git is gone", false);
}

/// A server with one file that changes.
fn changing() -> (Web, Arc<Mutex<(String, String)>>) {
    let state = Arc::new(Mutex::new(("one".to_owned(), "content one".to_owned())));
    let shared = state.clone();
    let web = Web::start(move |request: &Request| {
        let (tag, content) = shared.lock().expect("no panic").clone();
        let tag = format!("\"{tag}\"");
        if request.path != "/dir/file.txt" {
            return Response::status(404);
        }
        if request.header("if-none-match") == tag {
            return Response::status(304).with("ETag", &tag);
        }
        Response::file(content)
            .with("ETag", &tag)
            .with("Last-Modified", "Tue, 02 Jan 2024 03:04:05 GMT")
    });
    (web, state)
}

#[test]
fn a_file_is_downloaded_again_only_when_it_changed() {
    require!(root, busybox);
    let (web, state) = changing();
    let daemon = Daemon::start();
    let text = format!("FROM scratch\nADD {}/dir/file.txt /", web.url());
    let (done, tree) = dockerfile(&daemon, &text, &[]);
    done.ok();
    assert_eq!(tree, "file.txt 0600 11");
    let (done, _) = dockerfile(&daemon, &text, &[]);
    assert!(done.ok().cached() > 0);
    assert_eq!(web.requests(), ["GET /dir/file.txt", "HEAD /dir/file.txt"]);
    *state.lock().expect("no panic") = ("two".to_owned(), "two".to_owned());
    let (done, tree) = dockerfile(&daemon, &text, &[]);
    done.ok();
    assert_eq!(tree, "file.txt 0600 3");
    let missing = format!("FROM scratch\nADD {}/dir/other /", web.url());
    let (done, _) = dockerfile(&daemon, &missing, &[]);
    done.fails_with("invalid response status 404");
}

#[test]
fn a_file_must_be_the_one_that_is_meant() {
    require!(root, busybox);
    let (web, _) = changing();
    let daemon = Daemon::start();
    let add = |digest: &str| {
        let url = web.url();
        let text =
            format!("FROM scratch\nADD --checksum={digest} --chmod=640 {url}/dir/file.txt /x");
        dockerfile(&daemon, &text, &[])
    };
    let (done, _) = add(&format!("sha256:{}", "0".repeat(64)));
    let text = done.text;
    let actual = text
        .split("digest mismatch ")
        .nth(1)
        .and_then(|rest| rest.split(':').nth(1))
        .unwrap_or_else(|| panic!("no mismatch in:\n{text}"))
        .to_owned();
    let (done, tree) = add(&format!("sha256:{actual}"));
    done.ok();
    assert_eq!(tree, "x 0640 11");
}

#[test]
fn an_archive_behind_a_url_is_a_context() {
    require!(root, busybox);
    let files = context(&format!("//- Dockerfile\n{COPY_ALL}\n//- a/b\nx"));
    let archive = tempfile::NamedTempFile::new().expect("a file");
    let packed = Command::new("tar")
        .args(["-czf"])
        .arg(archive.path())
        .args(["-C"])
        .arg(files.path())
        .args(["Dockerfile", "a"])
        .status()
        .expect("tar is there");
    assert!(packed.success());
    let bytes = std::fs::read(archive.path()).expect("read");
    let web = Web::start(move |_| Response::file(bytes.clone()));
    let daemon = Daemon::start();
    let (done, tree) = from_url(&daemon, &format!("{}/context.tar.gz", web.url()));
    done.ok();
    assert_eq!(tree, "Dockerfile 0644 22\na/ 0755\na/b 0644 2");
}

#[test]
fn an_image_comes_from_a_layout_of_the_client() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let layout = dir.path().join("layout");
    let files = context("//- Dockerfile\nFROM scratch\nCOPY f /\n//- f\nx");
    let output = format!("--output=type=oci,tar=false,dest={}", layout.display());
    daemon.build(files.path(), &[&output]).ok();
    let index = std::fs::read(layout.join("index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    // Another daemon, which has seen nothing of it.
    let daemon = Daemon::start();
    let args = [
        format!("--oci-layout=store={}", layout.display()),
        format!("--opt=context:base=oci-layout://store@{digest}"),
    ];
    let text = "FROM base\nCOPY --from=base /f /g";
    let (done, tree) = dockerfile(&daemon, text, &args);
    done.ok();
    assert_eq!(tree, "f 0644 2\ng 0644 2");
    let missing = format!("sha256:{}", "0".repeat(64));
    let args = [
        format!("--oci-layout=store={}", layout.display()),
        format!("--opt=context:base=oci-layout://store@{missing}"),
    ];
    let (done, _) = dockerfile(&daemon, text, &args);
    done.fails_with("unable to get info about digest");
}

fn policy(dir: &Path, rules: &str) -> String {
    let path = dir.join("policy.json");
    std::fs::write(&path, format!("{{\"version\":1,\"rules\":[{rules}]}}")).expect("written");
    format!("--source-policy-file={}", path.display())
}

#[test]
fn a_policy_forbids_and_converts_sources() {
    require!(root, busybox);
    let served = Arc::new(AtomicUsize::new(0));
    let counter = served.clone();
    let web = Web::start(move |request| {
        counter.fetch_add(1, Ordering::Relaxed);
        Response::file(request.path.clone())
    });
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = web.url();
    let text = format!("FROM scratch\nADD {url}/wanted /");
    let deny = r#"{"action":"DENY","selector":{"identifier":"http://*"}}"#;
    let (done, _) = dockerfile(&daemon, &text, &[policy(dir.path(), deny)]);
    done.fails_with(&format!(
        "error evaluating the source policy: source \"{url}/wanted\" denied by policy: source denied by policy"
    ));
    assert_eq!(served.load(Ordering::Relaxed), 0);
    let convert = format!(
        r#"{{"action":"CONVERT","selector":{{"identifier":"{url}/*"}},"updates":{{"identifier":"{url}/other","attrs":{{"http.filename":"wanted"}}}}}}"#
    );
    let (done, tree) = dockerfile(&daemon, &text, &[policy(dir.path(), &convert)]);
    done.ok();
    assert_eq!(tree, "wanted 0600 6");
    // What it makes of a source is looked at even where the frontend says how to resolve.
    let nonsense = r#"{"action":"CONVERT","selector":{"identifier":"docker-image://localhost:1/x:y","match_type":"EXACT"},"updates":{"attrs":{"image.resolvemode":"nope"}}}"#;
    let policy = [policy(dir.path(), nonsense)];
    let (done, _) = dockerfile(&daemon, "FROM localhost:1/x:y", &policy);
    done.fails_with(
        "failed to resolve source metadata for localhost:1/x:y: invalid resolvemode: nope",
    );
}

#[test]
fn policies_choose_by_text_pattern_and_attribute() {
    require!(root, busybox);
    let web = Web::start(|request| Response::file(request.path.clone()));
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = web.url();
    let text = format!("FROM scratch\nADD {url}/wanted /");
    let rule = |action: &str, selector: &str, further: &str| {
        format!(r#"{{"action":"{action}","selector":{{{selector}}}{further}}}"#)
    };
    let exact = format!(r#""identifier":"{url}/wanted","match_type":"EXACT""#);
    let regex = r#""identifier":"^http://.*/want(ed)$","match_type":"REGEX""#;
    let attr = |condition: &str, value: &str| {
        let constraint =
            format!(r#"{{"key":"http.filename","value":"{value}","condition":"{condition}"}}"#);
        format!(r#""identifier":"http://*","constraints":[{constraint}]"#)
    };
    let denied = format!("source \"{url}/wanted\" denied by policy: source denied by policy");
    let allowed = "wanted 0600 7";
    for (rules, refused) in [
        (rule("DENY", &exact, ""), Some(denied.as_str())),
        (rule("DENY", r#""identifier":"http://nowhere/*""#, ""), None),
        (rule("DENY", regex, ""), Some(&denied)),
        (rule("DENY", &attr("EQUAL", "wanted"), ""), Some(&denied)),
        (rule("DENY", &attr("EQUAL", "other"), ""), None),
        (rule("DENY", &attr("NOTEQUAL", "wanted"), ""), None),
        (rule("DENY", &attr("MATCHES", "^w.*d$"), ""), Some(&denied)),
        (
            rule("DENY", &exact, "") + "," + &rule("ALLOW", regex, ""),
            None,
        ),
        (
            rule("ALLOW", regex, "") + "," + &rule("DENY", &exact, ""),
            Some(&denied),
        ),
        (
            rule("DENY", r#""identifier":"(","match_type":"REGEX""#, ""),
            Some("error parsing regexp: missing closing ): `(`"),
        ),
        (
            rule("CONVERT", &exact, ""),
            Some("missing destination for convert rule"),
        ),
        (
            rule(
                "CONVERT",
                &exact,
                &format!(
                    r#","updates":{{"attrs":{{"http.checksum":"sha256:{}"}}}}"#,
                    "1".repeat(64)
                ),
            ),
            Some("digest mismatch"),
        ),
    ] {
        let (done, tree) = dockerfile(&daemon, &text, &[policy(dir.path(), &rules)]);
        match refused {
            Some(refused) => {
                done.fails_with(refused);
            }
            None => {
                done.ok();
                assert_eq!(tree, allowed, "{rules}");
            }
        }
    }
}

#[test]
fn an_image_that_was_resolved_is_used_while_its_registry_is_down() {
    require!(root, busybox, registry);
    if skipped_unless(is_ours(), "the stock daemon asks the registry each time") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = dir.path().join("buildkitd.toml");
    std::fs::write(&config, "[system]\nofflineImages = \"fail\"\n").expect("written");
    let strict = Daemon::with(&["--config", &config.display().to_string()]);
    let daemon = Daemon::start();
    let registry = Registry::start();
    let name = format!("{}/some/base:1", registry.host());
    let files = context("//- Dockerfile\nFROM scratch\nCOPY f /\n//- f\nx");
    let output = format!("--output=type=image,name={name},push=true");
    daemon.build(files.path(), &[&output]).ok();
    let text = format!("FROM {name}\nCOPY f /g");
    let files = context(&format!("//- Dockerfile\n{text}\n//- f\nx"));
    let local = "--opt=image-resolve-mode=local";
    for daemon in [&daemon, &strict] {
        let asked = daemon.build(files.path(), &[]).ok();
        assert!(
            !asked.text.contains("as it was last time"),
            "{}",
            asked.text
        );
    }
    drop(registry);
    std::thread::sleep(Duration::from_secs(6));
    let told = |done: &Build, what: &str| {
        let warning = format!("WARN: {name} {what}, using sha256:");
        assert_eq!(done.text.matches(&warning).count(), 1, "{}", done.text);
        let told = done.text.contains(" 1 warning found");
        assert!(told || !is_our_client(), "{}", done.text);
    };
    let done = daemon.build(files.path(), &[]).ok();
    told(&done, "could not be resolved");
    let done = daemon.build(files.path(), &[local]).ok();
    told(&done, "was not resolved anew");
    let pull = daemon.build(files.path(), &["--opt=image-resolve-mode=pull"]);
    pull.fails_with("failed to resolve source metadata for");
    for args in [&[][..], &[local]] {
        let done = strict.build(files.path(), args);
        let done = done.fails_with("failed to resolve source metadata for");
        assert!(done.text.contains("connection refused"), "{}", done.text);
    }
}

#[test]
fn refs_may_move_and_become_folders() {
    require!(root, git, busybox);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let repository = Repository::new(dir.path().join("repo.git"));
    repository.commit(&format!("//- Dockerfile\n{COPY_ALL}\n//- a\n1"));
    repository.git(&["tag", "-a", "v1", "-m", "v1"]);
    repository.git(&["branch", "x"]);
    let web = Web::git(dir.path());
    let url = format!("{}/repo.git", web.url());
    let daemon = Daemon::start();
    let size = |reference: &str| {
        let (done, tree) = from_url(&daemon, &format!("{url}#{reference}"));
        done.ok();
        tree.rsplit(' ').next().map(str::to_owned)
    };
    assert_eq!(size("v1").as_deref(), Some("2"));
    assert_eq!(size("x").as_deref(), Some("2"));
    repository.commit("//- a\n22");
    repository.git(&["tag", "-f", "-a", "v1", "-m", "again"]);
    repository.git(&["branch", "-D", "x"]);
    repository.git(&["branch", "x/y"]);
    assert_eq!(size("v1").as_deref(), Some("3"));
    assert_eq!(size("x/y").as_deref(), Some("3"));
    repository.git(&["branch", "-D", "x/y"]);
    repository.git(&["branch", "x"]);
    assert_eq!(size("x").as_deref(), Some("3"));
    // History that was thrown away.
    repository.git(&["commit", "-q", "--amend", "-m", "other"]);
    assert_eq!(size("main").as_deref(), Some("3"));
}

#[test]
fn a_bundle_carries_commits_from_one_daemon_to_another() {
    require!(root, git, busybox);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let repository = Repository::new(dir.path().join("repo.git"));
    let commit = repository.commit(&format!("//- Dockerfile\n{COPY_ALL}\n//- a\n1"));
    let root = dir.path().to_owned();
    let used = Arc::new(AtomicUsize::new(0));
    let counter = used.clone();
    let web = Web::start(move |request| {
        counter.fetch_add(1, Ordering::Relaxed);
        git_backend(&root, request)
    });
    // Rules may say where commits come from, and what becomes of them.
    let converted = |daemon: &Daemon, attrs: &str, more: &[String]| {
        let rule = format!(
            r#"{{"action":"CONVERT","selector":{{"identifier":"git://*"}},"updates":{{"identifier":"git://$1","attrs":{{{attrs}}}}}}}"#
        );
        let mut args = vec![policy(dir.path(), &rule)];
        args.extend_from_slice(more);
        let text = format!("FROM scratch\nADD {}/repo.git#{commit} /", web.url());
        dockerfile(daemon, &text, &args)
    };
    let daemon = Daemon::start();
    let layout = dir.path().join("layout");
    let (done, tree) = converted(&daemon, r#""git.checkoutbundle":"true""#, &[]);
    done.ok();
    assert!(tree.starts_with("bundle 0666"), "{tree}");
    let out = dir.path().join("out");
    let output = format!("--output=type=local,dest={}", out.display());
    converted(&daemon, r#""git.checkoutbundle":"true""#, &[output])
        .0
        .ok();
    let bundle = std::fs::read(out.join("bundle")).expect("the bundle");
    let digest = store(&layout, &bundle);
    let before = used.load(Ordering::Relaxed);
    let daemon = Daemon::start();
    let attrs = format!(
        r#""git.bundle":"oci-layout+blob://some/bundles@{digest}","git.checksum":"{commit}","oci.store":"bundles""#
    );
    let offered = [format!("--oci-layout=bundles={}", layout.display())];
    let (done, tree) = converted(&daemon, &attrs, &offered);
    done.ok();
    assert_eq!(tree, "Dockerfile 0644 22\na 0644 2");
    assert_eq!(used.load(Ordering::Relaxed), before);
}

/// Puts a blob into a layout; returns its digest.
fn store(layout: &Path, blob: &[u8]) -> String {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("a folder");
    let file = layout.join("new");
    std::fs::write(&file, blob).expect("written");
    let output = Command::new("sha256sum")
        .arg(&file)
        .output()
        .expect("it is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let digest = text.split(' ').next().expect("a digest").to_owned();
    std::fs::rename(&file, blobs.join(&digest)).expect("renamed");
    std::fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("written");
    std::fs::write(
        layout.join("index.json"),
        r#"{"schemaVersion":2,"manifests":[]}"#,
    )
    .expect("written");
    format!("sha256:{digest}")
}
