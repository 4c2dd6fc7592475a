//! Directories, files, links and removal.

mod common;

use common::{lines, mode, mtime, tree};
use fileop::{Mkdir, Mkfile, Remove, Symlink};
use fstree::Time;

fn told<T>(result: Result<T, fileop::Error>) -> Result<T, String> {
    result.map_err(|err| fault::chain(&err))
}

#[test]
fn a_directory_is_made_with_its_mode_and_time() {
    let (dir, root) = tree(&[]);
    let action = Mkdir {
        path: "/a/b/c".to_owned(),
        mode: 0o1770,
        make_parents: true,
        timestamp: Some(Time { sec: 9, nsec: 0 }),
        ..Mkdir::default()
    };
    fileop::mkdir(&root, &action).expect("made");
    for at in ["a", "a/b", "a/b/c"] {
        assert_eq!((mode(&dir, at), mtime(&dir, at)), (0o770, (9, 0)), "{at}");
    }
    fileop::mkdir(&root, &action).expect("again");
}

#[test]
fn a_directory_needs_its_parent_unless_told_otherwise() {
    let (_dir, root) = tree(&["f=1"]);
    let mkdir = |path: &str, make_parents| {
        told(fileop::mkdir(
            &root,
            &Mkdir {
                path: path.to_owned(),
                mode: 0o755,
                make_parents,
                ..Mkdir::default()
            },
        ))
    };
    let missing = Err("mkdir /a/b: no such file or directory".to_owned());
    assert_eq!(mkdir("/a/b", false), missing);
    assert_eq!(mkdir("/f", false), Ok(()));
    assert_eq!(
        mkdir("/f", true),
        Err("mkdir /f: not a directory".to_owned())
    );
    assert_eq!(mkdir("../../x", false), Ok(()));
    assert_eq!(lines(&root), ["f=1", "x/"]);
}

#[test]
fn a_file_is_written_or_rewritten_through_links() {
    let (dir, root) = tree(&["d/f=old text", "l->/d/f", "new->d/g"]);
    let mkfile = |path: &str| {
        told(fileop::mkfile(
            &root,
            &Mkfile {
                path: path.to_owned(),
                mode: 0o640,
                data: b"new".to_vec(),
                ..Mkfile::default()
            },
        ))
    };
    assert_eq!(mkfile("/l"), Ok(()));
    assert_eq!(mkfile("/new"), Ok(()));
    assert_eq!(
        lines(&root),
        ["d/", "d/f=new", "d/g=new", "l->/d/f", "new->d/g"]
    );
    assert_eq!((mode(&dir, "d/f"), mode(&dir, "d/g")), (0o644, 0o640));
    assert_eq!(mkfile("/d"), Err("open /d: is a directory".to_owned()));
    assert_eq!(
        mkfile("/n/f"),
        Err("open /n/f: no such file or directory".to_owned())
    );
}

#[test]
fn a_link_is_made_as_given_and_replaces_nothing() {
    let (dir, root) = tree(&["f=1"]);
    let symlink = |new: &str| {
        told(fileop::symlink(
            &root,
            &Symlink {
                old_path: "../any where".to_owned(),
                new_path: new.to_owned(),
                timestamp: Some(Time { sec: 3, nsec: 0 }),
                ..Symlink::default()
            },
        ))
    };
    assert_eq!(symlink("/l"), Ok(()));
    assert_eq!(mtime(&dir, "l"), (3, 0));
    assert_eq!(
        symlink("/f"),
        Err("symlink ../any where /f: file exists".to_owned())
    );
    assert_eq!(lines(&root), ["f=1", "l->../any where"]);
}

#[test]
fn removal_does_not_follow_the_last_link() {
    let remove = |path: &str, allow_not_found, wildcard| {
        let (_dir, root) = tree(&["d/a=1", "d/b=2", "l->d", "dead->none", "x/y/z=3"]);
        let action = Remove {
            path: path.to_owned(),
            allow_not_found,
            wildcard,
        };
        told(fileop::remove(&root, &action)).map(|()| lines(&root).join(" "))
    };
    let rest = |text: &str| Ok(text.to_owned());
    assert_eq!(
        remove("/l", false, false),
        rest("d/ d/a=1 d/b=2 dead->none x/ x/y/ x/y/z=3")
    );
    assert_eq!(
        remove("/dead", false, false),
        rest("d/ d/a=1 d/b=2 l->d x/ x/y/ x/y/z=3")
    );
    assert_eq!(
        remove("/l/a", false, false),
        rest("d/ d/b=2 dead->none l->d x/ x/y/ x/y/z=3")
    );
    assert_eq!(
        remove("x", false, false),
        rest("d/ d/a=1 d/b=2 dead->none l->d")
    );
    assert_eq!(
        remove("/d/*", false, true),
        rest("d/ dead->none l->d x/ x/y/ x/y/z=3")
    );
    let all = "d/ d/a=1 d/b=2 dead->none l->d x/ x/y/ x/y/z=3";
    assert_eq!(remove("/n", true, false), rest(all));
    assert_eq!(remove("/n/m", true, false), rest(all));
    assert_eq!(remove("/q*", false, true), rest(all));
    let missing = Err("stat /n: no such file or directory".to_owned());
    assert_eq!(remove("/n", false, false), missing);
    for root in ["/", "..", "a/../.."] {
        assert_eq!(
            remove(root, true, false),
            Err("rmPath: invalid empty path".to_owned())
        );
    }
}
