//! `tar`: the result becomes one archive.

use std::collections::BTreeMap;
use std::io::{self, Write};

use async_trait::async_trait;
use export::{Error, Exported, Input, Instance, Work};
use fault::Class;
use filesync::{Content, Item, Listing, push, stat};
use layer::archive::{Header, Kind, Writer};
use proto::fsutil::Stat;
use rustix::fs::{Mode, OFlags};
use tasks::Cx;

use crate::listing::{self, Together};
use crate::options::Options;

#[derive(Debug)]
pub(crate) struct Tarball {
    pub options: Options,
}

#[async_trait]
impl Instance for Tarball {
    fn name(&self) -> String {
        "exporting to client tarball".to_owned()
    }

    async fn export(&self, work: &Work, input: &Input) -> Result<Exported, Error> {
        // Compat: several platforms always get directories here (exporter/tar/export.go).
        let trees = listing::trees(work, input, &self.options, input.is_map()).await?;
        let session = work.client().await?;
        let upload = push::file(&work.cx, &session, work.index, &BTreeMap::new());
        let upload = upload.map_err(crate::failed)?;
        let status = work.progress.status("sending tarball", "");
        let (mut out, cx) = (upload.writer(), work.cx.clone());
        let written = tasks::blocking(move || {
            write(&cx, Together(trees), &mut out)?;
            out.flush().map_err(gone)
        })
        .await;
        match written {
            // The client wants no more; why is known to the call.
            Err(Stopped::Gone) | Ok(()) => {
                upload.finish().await.map_err(crate::failed)?;
            }
            Err(Stopped::Failed(err)) => return Err(crate::failed(err)),
        }
        drop(status);
        Ok(Exported {
            response: BTreeMap::new(),
            descriptor: None,
            finalize: None,
        })
    }
}

/// Why the archive is not complete.
enum Stopped {
    /// Nobody reads it any more.
    Gone,
    Failed(filesync::Error),
}

fn gone(_: io::Error) -> Stopped {
    Stopped::Gone
}

fn write(cx: &Cx, trees: impl Listing, out: &mut dyn Write) -> Result<(), Stopped> {
    let mut archive = Writer::new(out);
    let mut reader_gone = false;
    let listed = trees.list(&mut |item| {
        cx.check()?;
        put(&mut archive, item).map_err(|err| match err {
            Put::Read(err) => err,
            Put::Write => {
                reader_gone = true;
                filesync::Error::Eof
            }
        })
    });
    match listed {
        Ok(()) => archive.finish().map(drop).map_err(gone),
        Err(_) if reader_gone => Err(Stopped::Gone),
        Err(err) => Err(Stopped::Failed(err)),
    }
}

enum Put {
    Read(filesync::Error),
    Write,
}

fn put(archive: &mut Writer<&mut dyn Write>, item: Item) -> Result<(), Put> {
    let header = header(&item.stat);
    let fail = |op| {
        let path = item.stat.path.clone();
        move |err: io::Error| Put::Read(fstree::Error::new(op, path, err).into())
    };
    if header.size == 0 {
        return archive.member(&header).map_err(|_| Put::Write);
    }
    match item.content {
        Content::File { root, path } => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = root.open_with(&path, flags, Mode::empty());
            let file = std::fs::File::from(file.map_err(fail("open"))?);
            archive.member(&header).map_err(|_| Put::Write)?;
            archive.copy(file).map_err(|err| match err.kind() {
                io::ErrorKind::UnexpectedEof => fail("read")(err),
                _ => Put::Write,
            })
        }
        Content::Bytes(bytes) => {
            archive.member(&header).map_err(|_| Put::Write)?;
            archive.content(&bytes).map_err(|_| Put::Write)
        }
        Content::None => Err(Put::Read(filesync::Error::Call(diagnostics::Failure::new(
            Class::Internal,
            format!("{} has a size and no content", item.stat.path),
        )))),
    }
}

fn header(stat: &Stat) -> Header {
    let hard_link = stat::is_hard_link(stat);
    let kind = match stat::kind(stat) {
        _ if hard_link => Kind::HardLink,
        fstree::Kind::Dir => Kind::Dir,
        fstree::Kind::Symlink => Kind::Symlink,
        fstree::Kind::CharDevice => Kind::CharDevice,
        fstree::Kind::BlockDevice => Kind::BlockDevice,
        fstree::Kind::Fifo => Kind::Fifo,
        fstree::Kind::File | fstree::Kind::Socket => Kind::File,
    };
    let mut name = stat.path.clone().into_bytes();
    if kind == Kind::Dir {
        name.push(b'/');
    }
    let mut header = Header::new(name, kind, fstree::unix_mode(stat.mode) & 0o7777);
    header.uid = stat.uid;
    header.gid = stat.gid;
    // Compat: to the nearest second here, though layers round down.
    header.mtime = stat
        .mod_time
        .saturating_add(500_000_000)
        .div_euclid(1_000_000_000);
    if kind == Kind::File {
        header.size = u64::try_from(stat.size).unwrap_or(0);
    }
    if matches!(kind, Kind::HardLink | Kind::Symlink) {
        header.link = stat.linkname.clone().into_bytes();
    }
    if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
        header.device = stat::device(stat);
    }
    header.xattrs = stat
        .xattrs
        .iter()
        .map(|(name, value)| (name.clone().into_bytes(), value.to_vec()))
        .collect();
    header
}

#[cfg(test)]
mod tests {
    use filesync::Tree;
    use fstree::Root;
    use layer::archive::{MemberKind, Reader};

    use super::*;

    #[test]
    fn an_archive_has_the_tree_with_times_to_the_nearest_second() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("d")).expect("mkdir");
        std::fs::write(at("d/f"), "hello").expect("write");
        std::fs::hard_link(at("d/f"), at("d/g")).expect("link");
        std::os::unix::fs::symlink("/x", at("l")).expect("link");
        let mut tree = Tree::new(Root::open(dir.path()).expect("open"));
        tree.map = Box::new(|stat| stat.mod_time = 1_700_000_000_700_000_000);
        let mut bytes = Vec::new();
        let written = write(&Cx::root(), tree, &mut bytes);
        assert!(written.is_ok());
        assert!(bytes.ends_with(&[0; 1024]));
        let mut reader = Reader::new(&*bytes);
        let mut found = Vec::new();
        while let Some(member) = reader.next_member().expect("readable") {
            assert_eq!(member.mtime.sec, 1_700_000_001);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.push((
                text(&member.name),
                member.kind,
                text(&member.link),
                member.size,
            ));
        }
        let known = MemberKind::Known;
        let entry = |name: &str, kind, link: &str, size| {
            (name.to_owned(), known(kind), link.to_owned(), size)
        };
        assert_eq!(
            found,
            [
                entry("d/", Kind::Dir, "", 0),
                entry("d/f", Kind::File, "", 5),
                entry("d/g", Kind::HardLink, "d/f", 0),
                entry("l", Kind::Symlink, "/x", 0),
            ]
        );
    }
}
