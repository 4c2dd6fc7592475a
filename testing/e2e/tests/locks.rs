//! Cache mounts that one step has to itself.

use std::time::Duration;

use e2e::{Daemon, is_ours, on_base};
use testkit::require;

#[test]
fn a_step_that_waits_for_a_locked_cache_says_for_whom() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let slow = on_base(
        "RUN --mount=type=cache,target=/c,sharing=locked touch /c/first && sleep 3",
        "",
    );
    let next = on_base(
        "RUN --mount=type=cache,target=/c,sharing=locked test -e /c/first",
        "",
    );
    std::thread::scope(|scope| {
        let first = scope.spawn(|| daemon.build(slow.path(), &[]).ok());
        std::thread::sleep(Duration::from_millis(1500));
        let second = daemon.build(next.path(), &[]).ok();
        if is_ours() {
            let text = "waiting for cache mount /c, in use as cached mount /c from exec";
            assert!(second.text.contains(text), "{}", second.text);
        }
        first.join().expect("it works");
    });
}

#[test]
fn steps_that_lock_the_same_two_caches_never_wait_for_each_other() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let step = |first: &str, second: &str, number: usize| {
        on_base(
            &format!(
                "RUN --mount=type=cache,id={first},target=/1,sharing=locked --mount=type=cache,id={second},target=/2,sharing=locked echo {number} && sleep 0.1"
            ),
            "",
        )
    };
    let contexts: Vec<_> = (0..6)
        .map(|number| match number % 2 {
            0 => step("a", "b", number),
            _ => step("b", "a", number),
        })
        .collect();
    std::thread::scope(|scope| {
        for context in &contexts {
            let daemon = &daemon;
            scope.spawn(move || daemon.build(context.path(), &[]).ok());
        }
    });
}
