//! Directories of the client: `local://NAME`.
//!
//! A transfer goes into the tree of the one before it, so that only what changed is sent. The tree stays writable for
//! the next build; this build gets a frozen view of it, and while such a view lives a parallel build makes a tree of its
//! own. Checksums are made while files arrive.

mod attrs;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use cache::{Cache, MutableRef, RecordOptions, RecordType};
use contenthash::Records;
use filesync::pull::{self, Wanted};
use fstree::Root;
use progress::Progress;
use session::{Group, Session};
use source::{Error, Identifier, Instance, Key, Memo, Source};
use tasks::Cx;

use attrs::Attrs;

/// The source of client directories.
pub struct Local {
    cache: Cache,
}

impl Local {
    /// Trees go into `cache`.
    pub fn new(cache: Cache) -> Self {
        Self { cache }
    }
}

impl Source for Local {
    fn schemes(&self) -> &'static [&'static str] {
        &["local"]
    }

    fn instance(&self, id: Identifier, _: &Arc<Memo>) -> Result<Arc<dyn Instance>, Error> {
        let attrs = Attrs::parse(&id.attrs)?;
        Ok(Arc::new(LocalInstance {
            cache: self.cache.clone(),
            name: id.name,
            attrs,
        }))
    }
}

struct LocalInstance {
    cache: Cache,
    name: String,
    attrs: Attrs,
}

#[async_trait]
impl Instance for LocalInstance {
    async fn key(&self, _: &Cx, sessions: &Group, _: &Progress, _: usize) -> Result<Key, Error> {
        let session = match &self.attrs.session {
            Some(session) => session.clone(),
            None => sessions
                .ids()
                .first()
                .cloned()
                .ok_or_else(|| Error::user("could not access local files without session"))?,
        };
        Ok(Key {
            text: format!("session:{}:{}", self.name, self.attrs.digest(&session)),
            done: true,
        })
    }

    async fn snapshot(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
    ) -> Result<Option<cache::Ref>, Error> {
        if let Some(pinned) = &self.attrs.session
            && let Ok(session) = sessions.manager().get(cx, pinned).await
        {
            match self.transfer(cx, &session, progress).await {
                // Any other session of the build may have the directory.
                Err(err) if err.class == fault::Class::NotFound && !sessions.is_empty() => {}
                result => return result.map(Some),
            }
        }
        let mut last = Error::user("could not access local files without session");
        for id in sessions.ids() {
            let session = match sessions.manager().get(cx, id).await {
                Ok(session) => session,
                Err(err) => {
                    last = Error::new(&err);
                    continue;
                }
            };
            match self.transfer(cx, &session, progress).await {
                Ok(tree) => return Ok(Some(tree)),
                Err(err) => last = err,
            }
            if cx.is_cancelled() {
                break;
            }
        }
        Err(last)
    }
}

impl LocalInstance {
    /// The directory as the client calls it.
    fn dir_name(&self) -> String {
        match &self.attrs.session_prefix {
            Some(prefix) => format!("{prefix}-{}", self.name),
            None => self.name.clone(),
        }
    }

    async fn transfer(
        &self,
        cx: &Cx,
        session: &Session,
        progress: &Progress,
    ) -> Result<cache::Ref, Error> {
        let mut index = format!(
            "local.sharedKey:{}:{}:{}",
            self.name,
            self.attrs.shared_key_hint,
            session.shared_key()
        );
        if self.attrs.metadata_only.is_some() {
            index.push_str(":metadata");
        }
        let (tree, records) = self.tree(cx, &index).await?;
        match self.receive(cx, session, &tree, records, progress).await {
            Ok(()) => {}
            Err(err) => {
                // A tree that is half of one build and half of another must not be the start of a third.
                tree.discard();
                return Err(err);
            }
        }
        tree.set_index(&index).map_err(|err| Error::new(&err))?;
        tree.freeze(cx).await.map_err(|err| Error::new(&err))
    }

    /// The tree of the transfer before this one with its checksums, or a new one.
    async fn tree(&self, cx: &Cx, index: &str) -> Result<(MutableRef, Records), Error> {
        if let Some(tree) = self.cache.find_mutable(index) {
            let records = tree.take_checksums();
            if !records.is_empty() || is_empty(cx, &tree).await? {
                return Ok((tree, records));
            }
            // A daemon died while it wrote to this tree: nobody knows what of it is true.
            tree.discard();
        }
        let options = RecordOptions {
            description: format!("local source for {}", self.name),
            record_type: RecordType::SourceLocal,
            ..RecordOptions::default()
        };
        let tree = self
            .cache
            .new_mutable(cx, None, options)
            .await
            .map_err(|err| Error::new(&err))?;
        Ok((tree, Records::new()))
    }

    async fn receive(
        &self,
        cx: &Cx,
        session: &Session,
        tree: &MutableRef,
        records: Records,
        progress: &Progress,
    ) -> Result<(), Error> {
        let opened = tree.tree(cx).await.map_err(|err| Error::new(&err))?;
        let root = Root::from_borrowed(opened.fd()).map_err(|err| Error::new(&err))?;
        let wanted = Wanted {
            name: self.dir_name(),
            include: self.attrs.include.clone().unwrap_or_default(),
            exclude: self.attrs.exclude.clone().unwrap_or_default(),
            follow: self.attrs.follow.clone().unwrap_or_default(),
        };
        let options = filesync::ReceiveOptions {
            differ: self.attrs.differ,
            metadata_only: self.attrs.metadata_only.clone(),
            ..filesync::ReceiveOptions::default()
        };
        let records = Some(records);
        let (_, records) = pull::pull(cx, session, &wanted, root, options, records, progress)
            .await
            .map_err(|err| Error::new(&err))?;
        if let Some(mut records) = records {
            records.finish_transfer();
            tree.set_checksums(records);
        }
        Ok(())
    }
}

async fn is_empty(cx: &Cx, tree: &MutableRef) -> Result<bool, Error> {
    let tree = tree.tree(cx).await.map_err(|err| Error::new(&err))?;
    let mut entries = std::fs::read_dir(tree.path()).map_err(|err| Error::new(&err))?;
    Ok(entries.next().is_none())
}

/// Attributes as LLB gives them.
type RawAttrs = BTreeMap<String, String>;
