//! What steps get: secrets, caches, temporary files; and many builds at once.

use e2e::{Daemon, on_base};
use testkit::fixture::list;
use testkit::require;

#[test]
fn secrets_reach_the_step_and_stay_out_of_the_image() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base(
        "RUN --mount=type=secret,id=key,mode=0400 --mount=type=secret,id=word,env=WORD mkdir /o && cat /run/secrets/key | wc -c > /o/n && echo -n $WORD | wc -c > /o/m\nRUN test ! -e /run/secrets/key\nFROM scratch\nCOPY --from=base /o /",
        "",
    );
    let files = tempfile::tempdir().expect("a temporary directory");
    let key = files.path().join("key");
    std::fs::write(&key, "0123456789").expect("written");
    let out = files.path().join("out");
    let mut client = daemon.client(&["build", "--progress=plain", "--frontend=dockerfile.v0"]);
    let output = client
        .env("E2E_WORD", "secret-word")
        .arg(format!("--local=context={}", context.path().display()))
        .arg(format!("--local=dockerfile={}", context.path().display()))
        .arg(format!("--secret=id=key,src={}", key.display()))
        .arg("--secret=id=word,env=E2E_WORD")
        .arg(format!("--output=type=local,dest={}", out.display()))
        .output()
        .expect("the client runs");
    let build = e2e::Build::of(output).ok();
    assert!(!build.text.contains("secret-word"), "{}", build.text);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).expect("it is there");
    assert_eq!((read("n").trim(), read("m").trim()), ("10", "11"));
}

#[test]
fn a_secret_that_is_required_and_missing_fails_the_step() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("RUN --mount=type=secret,id=key,required true", "");
    daemon
        .build(context.path(), &[])
        .fails_with("secret key: not found");
}

#[test]
fn cache_mounts_keep_files_between_builds() {
    require!(root, busybox);
    let daemon = Daemon::start();
    for (round, expected) in [("1", 2), ("2", 4), ("3", 6)] {
        let context = on_base(
            &format!(
                "RUN --mount=type=cache,target=/c echo {round} >> /c/f && cp /c/f /f\nFROM scratch\nCOPY --from=base /f /"
            ),
            "",
        );
        let out = tempfile::tempdir().expect("a temporary directory");
        let output = format!("--output=type=local,dest={}", out.path().display());
        daemon.build(context.path(), &[&output]).ok();
        let tree = list(out.path()).expect("listed");
        assert_eq!(tree, format!("f 0644 {expected}"));
    }
}

#[test]
fn temporary_and_bound_files_do_not_stay() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base(
        "RUN --mount=type=tmpfs,target=/t --mount=type=bind,source=x,target=/b/x echo 1 > /t/f && cp /b/x /copy\nRUN test ! -e /t/f && test ! -s /b/x\nFROM scratch\nCOPY --from=base /copy /",
        "//- x\n123",
    );
    let out = tempfile::tempdir().expect("a temporary directory");
    let output = format!("--output=type=local,dest={}", out.path().display());
    daemon.build(context.path(), &[&output]).ok();
    assert_eq!(list(out.path()).expect("listed"), "copy 0644 4");
}

#[test]
fn eight_builds_at_once_share_their_stages() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let results: Vec<(String, String)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..8)
            .map(|number| {
                let daemon = &daemon;
                scope.spawn(move || {
                    let context = on_base(
                        "RUN sleep 1; cat /proc/sys/kernel/random/uuid > /shared\nFROM base\nARG N\nRUN echo $N > /own\nFROM scratch\nCOPY --from=1 /shared /own /",
                        "",
                    );
                    let out = tempfile::tempdir().expect("a temporary directory");
                    let output = format!("--output=type=local,dest={}", out.path().display());
                    let argument = format!("--opt=build-arg:N={number}");
                    daemon.build(context.path(), &[&output, &argument]).ok();
                    let read = |name| std::fs::read_to_string(out.path().join(name)).expect("it is there");
                    assert_eq!(read("own").trim(), number.to_string());
                    (read("shared"), read("own"))
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|it| it.join().expect("built"))
            .collect()
    });
    for (shared, _) in &results {
        assert_eq!(shared, &results[0].0, "the shared stage ran more than once");
    }
}
