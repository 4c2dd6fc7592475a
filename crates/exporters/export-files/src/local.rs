//! `local`: the result becomes a directory of the client.

use std::collections::BTreeMap;

use async_trait::async_trait;
use export::{Error, Exported, Input, Instance, Work};
use filesync::{Listing, push};
use session::Session;
use tasks::Scope;

use crate::listing::{self, Together};
use crate::options::{Mode, Options};

#[derive(Debug)]
pub(crate) struct Local {
    pub options: Options,
}

#[async_trait]
impl Instance for Local {
    fn name(&self) -> String {
        "exporting to client directory".to_owned()
    }

    async fn export(&self, work: &Work, input: &Input) -> Result<Exported, Error> {
        let session = work.client().await?;
        let split = self.options.splits(input.is_map());
        let trees = listing::trees(work, input, &self.options, split).await?;
        match self.options.mode {
            Mode::Delete => {
                send(work, &session, "copying files", true, Together(trees)).await?;
            }
            Mode::Copy => {
                let mut scope: Scope<Error> = Scope::new(&work.cx, "export files");
                for tree in trees {
                    let id = if input.is_map() {
                        format!("copying files {}", tree.id())
                    } else {
                        "copying files".to_owned()
                    };
                    let mut work = work.clone();
                    work.cx = scope.cx().clone();
                    let session = session.clone();
                    scope.spawn("send platform", async move {
                        send(&work, &session, &id, false, tree).await
                    });
                }
                scope.join().await?;
            }
        }
        Ok(Exported {
            response: BTreeMap::new(),
            descriptor: None,
            finalize: None,
        })
    }
}

async fn send(
    work: &Work,
    session: &Session,
    id: &str,
    multi_platform: bool,
    listing: impl Listing,
) -> Result<(), Error> {
    let mut status = work.progress.status(id, "transferring");
    let progress = |sent| status.set(i64::try_from(sent).unwrap_or(i64::MAX), 0);
    let (cx, index) = (&work.cx, work.index);
    push::directory(cx, session, index, multi_platform, listing, progress)
        .await
        .map_err(crate::failed)
}
