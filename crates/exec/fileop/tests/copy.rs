//! What a copy does, case by case.

mod common;

use common::{inode, lines, mode, mtime, set_mode, tree};
use fileop::{Copy, SharedInodes, Sharing, copy};
use fstree::{Root, Time};
use tasks::Cx;

fn action(src: &str, dest: &str) -> Copy {
    Copy {
        src: src.to_owned(),
        dest: dest.to_owned(),
        create_dest_path: true,
        dir_copy_contents: true,
        follow_symlink: true,
        ..Copy::default()
    }
}

fn run(source: &Root, target: &Root, action: &Copy) -> Result<(), String> {
    copy(&Cx::root(), source, target, action, None).map_err(|err| fault::chain(&err))
}

/// Copies from one tree into another and compares what is there then.
fn check(source: &[&str], target: &[&str], action: &Copy, wanted: &[&str]) {
    let ((_a, source), (_b, target)) = (tree(source), tree(target));
    run(&source, &target, action).expect("copied");
    assert_eq!(lines(&target), wanted, "{action:?}");
}

fn fails(source: &[&str], target: &[&str], action: &Copy, wanted: &str) {
    let ((_a, source), (_b, target)) = (tree(source), tree(target));
    assert_eq!(
        run(&source, &target, action),
        Err(wanted.to_owned()),
        "{action:?}"
    );
}

#[test]
fn a_file_takes_the_name_of_the_destination() {
    check(&["f=1"], &[], &action("/f", "/g"), &["g=1"]);
    check(
        &["f=1"],
        &[],
        &action("f", "x/y/g"),
        &["x/", "x/y/", "x/y/g=1"],
    );
    check(&["f=1"], &["g=old"], &action("/f", "/g"), &["g=1"]);
}

#[test]
fn a_file_goes_into_a_destination_that_is_a_directory() {
    check(&["f=1"], &["d/"], &action("/f", "/d"), &["d/", "d/f=1"]);
    check(&["f=1"], &[], &action("/f", "/d/"), &["d/", "d/f=1"]);
    check(&["f=1"], &[], &action("/f", "/d/."), &["d/", "d/f=1"]);
    check(&["f=1"], &[], &action("/f", "/"), &["f=1"]);
}

#[test]
fn a_directory_gives_its_contents_or_itself() {
    let source = ["d/a=1", "d/e/b=2"];
    let wanted = ["x/", "x/a=1", "x/e/", "x/e/b=2"];
    check(&source, &[], &action("/d", "/x"), &wanted);
    check(&source, &["x/"], &action("/d/", "/x/"), &wanted);
    let whole = Copy {
        dir_copy_contents: false,
        ..action("/d", "/x")
    };
    check(&source, &[], &whole, &wanted);
    let inside = ["x/", "x/d/", "x/d/a=1", "x/d/e/", "x/d/e/b=2"];
    check(&source, &["x/"], &whole, &inside);
    check(&["a=1"], &["b=2"], &action("/", "/"), &["a=1", "b=2"]);
}

#[test]
fn directories_are_merged_and_files_replaced() {
    check(
        &["d/a=1", "d/e/b=2"],
        &["x/a=old", "x/e/c=3"],
        &action("/d", "/x"),
        &["x/", "x/a=1", "x/e/", "x/e/b=2", "x/e/c=3"],
    );
}

#[test]
fn links_in_the_destination_are_followed_inside_the_tree() {
    check(
        &["f=1"],
        &["real/", "link->/real"],
        &action("/f", "/link/f"),
        &["link->/real", "real/", "real/f=1"],
    );
    check(
        &["f=1"],
        &["out->../../../new"],
        &action("/f", "/out/f"),
        &["new/", "new/f=1", "out->../../../new"],
    );
    check(
        &["d/a=1"],
        &["real/", "link->real"],
        &action("/d", "/link"),
        &["link->real", "real/", "real/a=1"],
    );
}

#[test]
fn a_link_at_the_end_of_the_source_is_followed_only_if_asked() {
    let source = ["f=1", "l->f"];
    check(&source, &[], &action("/l", "/x"), &["x=1"]);
    let as_it_is = Copy {
        follow_symlink: false,
        ..action("/l", "/x")
    };
    check(&source, &[], &as_it_is, &["x->f"]);
    check(&["d/l->f"], &[], &action("/d", "/x"), &["x/", "x/l->f"]);
}

#[test]
fn what_is_missing_is_told_in_the_known_words() {
    let missing = "lstat /x: no such file or directory";
    fails(&[], &[], &action("/x", "/y"), missing);
    fails(
        &["f=1"],
        &[],
        &action("/f/x", "/y"),
        "lstat /f/x: not a directory",
    );
    let strict = Copy {
        create_dest_path: false,
        ..action("/f", "/no/g")
    };
    let text = "failed to stat /no/g: lstat /no: no such file or directory";
    fails(&["f=1"], &[], &strict, text);
}

#[test]
fn kinds_that_do_not_fit_are_refused_unless_told_to_replace() {
    let (source, target) = (["d/a=1"], ["x/a/b=2"]);
    let text = "cannot replace to directory /x/a with file";
    fails(&source, &target, &action("/d", "/x"), text);
    let always = Copy {
        always_replace: true,
        ..action("/d", "/x")
    };
    check(&source, &target, &always, &["x/", "x/a=1"]);

    let (source, target) = (["d/a/b=1"], ["x/a=2"]);
    let text = "cannot copy to non-directory: /x/a";
    fails(&source, &target, &action("/d", "/x"), text);
    check(&source, &target, &always, &["x/", "x/a/", "x/a/b=1"]);
}

#[test]
fn wildcards_match_like_a_shell_s() {
    let source = ["a.go=1", "b.go=2", "c.md=3", "d/e.go=4", "d/f/g=5"];
    let any = |src: &str| Copy {
        allow_wildcard: true,
        ..action(src, "/x/")
    };
    check(&source, &[], &any("/*.go"), &["x/", "x/a.go=1", "x/b.go=2"]);
    check(&source, &[], &any("/*/*.go"), &["x/", "x/e.go=4"]);
    check(
        &source,
        &[],
        &any("/[ab].go"),
        &["x/", "x/a.go=1", "x/b.go=2"],
    );
    let merged = [
        "x/", "x/a.go=1", "x/b.go=2", "x/c.md=3", "x/e.go=4", "x/f/", "x/f/g=5",
    ];
    check(&source, &[], &any("/*"), &merged);
    fails(&source, &[], &any("/*.c"), "/*.c not found");
    let maybe = Copy {
        allow_empty_wildcard: true,
        ..any("/*.c")
    };
    check(&source, &[], &maybe, &[]);
    // Without the permission a star is a name.
    check(&["*=1", "a=2"], &[], &action("/*", "/x"), &["x=1"]);
}

#[test]
fn directories_on_the_way_have_the_time_of_the_copy() {
    let (from, source) = tree(&["d/a/b/c=1"]);
    let (to, target) = tree(&[]);
    let old = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    for name in ["d/a", "d/a/b", "d/a/b/c"] {
        let file = std::fs::File::open(from.path().join(name)).expect("open");
        file.set_times(old).expect("times");
    }
    let copied = |pattern: &str| {
        let only = Copy {
            include_patterns: vec![pattern.to_owned()],
            ..action("/d", "/x")
        };
        run(&source, &target, &only).expect("copied");
        ["x/a", "x/a/b", "x/a/b/c"].map(|name| mtime(&to, name).0 == 0)
    };
    assert_eq!(copied("a/b/c"), [false, false, true]);
    std::fs::remove_dir_all(to.path().join("x")).expect("remove");
    assert_eq!(copied("a/b"), [false, true, true]);
}

#[test]
fn includes_bring_only_the_directories_they_need() {
    let source = ["d/a/b/c=1", "d/a/b/n=2", "d/e/f=3", "d/g=4"];
    let only = Copy {
        include_patterns: vec!["a/*/c".to_owned()],
        ..action("/d", "/x")
    };
    check(&source, &[], &only, &["x/", "x/a/", "x/a/b/", "x/a/b/c=1"]);
    let but = Copy {
        exclude_patterns: vec!["**/n".to_owned(), "e".to_owned()],
        ..action("/d", "/x")
    };
    let wanted = ["x/", "x/a/", "x/a/b/", "x/a/b/c=1", "x/g=4"];
    check(&source, &[], &but, &wanted);
    let again = Copy {
        exclude_patterns: vec!["a".to_owned(), "!a/b/n".to_owned()],
        ..action("/d", "/x")
    };
    let wanted = [
        "x/",
        "x/a/",
        "x/a/b/",
        "x/a/b/n=2",
        "x/e/",
        "x/e/f=3",
        "x/g=4",
    ];
    check(&source, &[], &again, &wanted);
    let bad = Copy {
        include_patterns: vec!["[".to_owned()],
        ..action("/d", "/x")
    };
    fails(
        &source,
        &[],
        &bad,
        "invalid includepatterns: [[]: syntax error in pattern",
    );
}

#[test]
fn modes_and_times_are_kept_or_set() {
    let ((from, source), (to, target)) = (tree(&["d/f=1", "d/e/g=2"]), tree(&[]));
    set_mode(&from, "d/f", 0o4711);
    set_mode(&from, "d/e", 0o1750);
    run(&source, &target, &action("/d", "/x")).expect("copied");
    assert_eq!(mode(&to, "x/f"), 0o4711);
    assert_eq!(mode(&to, "x/e"), 0o1750);
    for name in ["f", "e", "e/g"] {
        let (from, to) = (
            mtime(&from, &format!("d/{name}")),
            mtime(&to, &format!("x/{name}")),
        );
        assert_eq!(from, to, "{name}");
    }

    let set = Copy {
        mode_str: "u=rwX,go=".to_owned(),
        timestamp: Some(Time { sec: 7, nsec: 5 }),
        ..action("/d", "/y/z")
    };
    run(&source, &target, &set).expect("copied");
    assert_eq!(mode(&to, "y/z/f"), 0o700);
    assert_eq!(mode(&to, "y/z/e"), 0o1700);
    assert_eq!(mode(&to, "y/z/e/g"), 0o600);
    assert_eq!(mode(&to, "y"), 0o755);
    for name in ["y", "y/z", "y/z/f", "y/z/e", "y/z/e/g"] {
        assert_eq!(mtime(&to, name), (7, 5), "{name}");
    }

    let octal = Copy {
        mode: Some(0o2640),
        ..action("/d/f", "/q/f")
    };
    run(&source, &target, &octal).expect("copied");
    assert_eq!((mode(&to, "q"), mode(&to, "q/f")), (0o640, 0o2640));
}

#[test]
fn an_existing_directory_gets_the_mode_of_the_source_but_not_at_the_top() {
    let ((from, source), (to, target)) = (tree(&["d/e/f=1"]), tree(&["x/e/g=2"]));
    set_mode(&from, "d", 0o700);
    set_mode(&from, "d/e", 0o711);
    run(&source, &target, &action("/d", "/x")).expect("copied");
    assert_eq!((mode(&to, "x"), mode(&to, "x/e")), (0o755, 0o711));
    assert_eq!(mtime(&from, "d"), mtime(&to, "x"));
}

#[test]
fn names_of_one_inode_stay_together() {
    let source = ["d/a=1", "d/b==d/a", "d/c/e==d/a"];
    let ((_from, source), (to, target)) = (tree(&source), tree(&["x/b=old"]));
    run(&source, &target, &action("/d", "/x")).expect("copied");
    assert_eq!(inode(&to, "x/a"), inode(&to, "x/b"));
    assert_eq!(inode(&to, "x/a"), inode(&to, "x/c/e"));
}

/// Answers the names that were made, as `from=to`.
fn shared(source: &Root, target: &Root, action: &Copy, used: &mut SharedInodes) -> Vec<String> {
    let mut linked = Vec::new();
    let sharing = Sharing {
        source_layers: std::slice::from_ref(source),
        target_layer: target,
        used,
        linked: &mut linked,
    };
    copy(&Cx::root(), source, target, action, Some(sharing)).expect("copied");
    let mut names = Vec::new();
    for dir in &linked {
        for name in dir.names() {
            let name = String::from_utf8_lossy(name);
            let (from, to) = (dir.from.join(&*name), dir.to.join(&*name));
            names.push(format!("{}={}", from.display(), to.display()));
        }
    }
    names.sort();
    names
}

#[test]
fn names_that_a_copy_made_are_told() {
    let ((_from, source), (_to, target)) = (
        tree(&["d/a=1", "d/b=2", "d/e/c=3", "d/l->a", "o/a=4"]),
        tree(&["y/a=old"]),
    );
    let run = |action| shared(&source, &target, &action, &mut SharedInodes::new());
    assert_eq!(
        run(action("/d", "/x")),
        ["d/a=x/a", "d/b=x/b", "d/e/c=x/e/c"]
    );
    assert_eq!(run(action("/d/a", "/y/a")), ["d/a=y/a"]);
    assert_eq!(run(action("/d/a", "/y/b")), [""; 0], "another name");
    let several = Copy {
        allow_wildcard: true,
        dir_copy_contents: true,
        ..action("/*", "/z/")
    };
    assert_eq!(run(several), [""; 0], "one may have replaced the other");
    let others = Copy {
        mode: Some(0o600),
        ..action("/d", "/w")
    };
    assert_eq!(run(others), [""; 0], "they are other files");
}

#[test]
fn a_whole_tree_is_shared_with_links_in_it_and_files_in_its_way() {
    let many: Vec<String> = (0..300)
        .map(|at| format!("d/{}/{at}={at}", at % 3))
        .collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.push("d/2/again==d/0/0");
    let ((from, source), (to, target)) = (tree(&many), tree(&["x/0/3=old", "x/0/y=kept"]));
    let mut used = SharedInodes::new();
    assert_eq!(
        shared(&source, &target, &action("/d", "/x"), &mut used).len(),
        301
    );
    let wanted: Vec<String> = lines(&source)
        .iter()
        .map(|line| line.replace("d/", "x/"))
        .collect();
    for line in wanted {
        assert!(lines(&target).contains(&line), "{line}");
    }
    assert!(lines(&target).contains(&"x/0/y=kept".to_owned()));
    assert_eq!(inode(&from, "d/0/3"), inode(&to, "x/0/3"));
    assert_eq!(inode(&to, "x/0/0"), inode(&to, "x/2/again"));

    // A second copy would be a second name: its files are new ones, linked as the user linked them.
    assert_eq!(
        shared(&source, &target, &action("/d", "/z"), &mut used),
        [""; 0]
    );
    assert_ne!(inode(&from, "d/0/0"), inode(&to, "z/0/0"));
    assert_eq!(inode(&to, "z/0/0"), inode(&to, "z/2/again"));
}

#[test]
fn a_shared_inode_gets_one_name_in_the_target_only() {
    let ((from, source), (to, target)) = (tree(&["d/a=1", "d/b=2"]), tree(&[]));
    let mut used = SharedInodes::new();
    shared(&source, &target, &action("/d", "/x"), &mut used);
    shared(&source, &target, &action("/d", "/y"), &mut used);
    assert_eq!(inode(&from, "d/a"), inode(&to, "x/a"));
    assert_ne!(inode(&from, "d/a"), inode(&to, "y/a"));
    assert_eq!(
        lines(&target),
        ["x/", "x/a=1", "x/b=2", "y/", "y/a=1", "y/b=2"]
    );
}

#[test]
fn links_the_user_made_survive_sharing() {
    let ((from, source), (to, target)) = (tree(&["d/a=1", "d/b==d/a"]), tree(&[]));
    let mut used = SharedInodes::new();
    shared(&source, &target, &action("/d", "/x"), &mut used);
    shared(&source, &target, &action("/d", "/y"), &mut used);
    assert_eq!(inode(&to, "x/a"), inode(&from, "d/b"));
    assert_eq!(inode(&to, "x/a"), inode(&to, "x/b"));
    assert_eq!(inode(&to, "y/a"), inode(&to, "y/b"));
    assert_ne!(inode(&to, "x/a"), inode(&to, "y/a"));
}

#[test]
fn a_copy_that_differs_in_anything_is_not_shared() {
    let ((from, source), (to, target)) = (tree(&["d/a=1"]), tree(&[]));
    let timed = Copy {
        timestamp: Some(Time { sec: 1, nsec: 0 }),
        ..action("/d", "/t")
    };
    let moded = Copy {
        mode_str: "a+x".to_owned(),
        ..action("/d", "/m")
    };
    let mut used = SharedInodes::new();
    for (action, name) in [(timed, "t/a"), (moded, "m/a")] {
        shared(&source, &target, &action, &mut used);
        assert_ne!(inode(&from, "d/a"), inode(&to, name));
    }
    assert_eq!(mode(&from, "d/a"), 0o644);
}

#[test]
fn a_shared_file_is_never_written_through_its_new_name() {
    let ((from, source), (to, target)) = (tree(&["d/a=1"]), tree(&[]));
    shared(
        &source,
        &target,
        &action("/d", "/x"),
        &mut SharedInodes::new(),
    );
    let mkfile = fileop::Mkfile {
        path: "/x/a".to_owned(),
        data: b"new".to_vec(),
        mode: 0o600,
        ..fileop::Mkfile::default()
    };
    fileop::mkfile(&target, &mkfile).expect("written");
    assert_eq!(lines(&source), ["d/", "d/a=1"]);
    assert_eq!(lines(&target), ["x/", "x/a=new"]);
    assert_ne!(inode(&from, "d/a"), inode(&to, "x/a"));
    assert_eq!(mode(&to, "x/a"), 0o644);
}

#[test]
fn a_cancelled_copy_says_so() {
    let ((_a, source), (_b, target)) = (tree(&["f=1"]), tree(&[]));
    let cx = Cx::root();
    cx.cancel("enough");
    let err = copy(&cx, &source, &target, &action("/f", "/g"), None).expect_err("cancelled");
    assert_eq!(err.to_string(), "enough");
}
