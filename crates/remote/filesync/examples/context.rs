//! Measures how long it takes to fetch a context through a session, both ends in this process.
//!
//! `context FROM TO`: three times, so that the first fetches everything and the others nothing.

#[path = "../../session/tests/support/daemon.rs"]
mod daemon;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use contenthash::Records;
use daemon::Daemon;
use filesync::client::{DIR_METHODS, Dirs};
use filesync::{ReceiveOptions, pull};
use fstree::Root;
use session::client::Client;
use tasks::Cx;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).map(PathBuf::from);
    let (Some(from), Some(to)) = (args.next(), args.next()) else {
        eprintln!("usage: context FROM TO");
        return;
    };
    let daemon = Daemon::start().await;
    let cx = Cx::root();
    let mut client = Client::new("").await;
    let dirs = Dirs::new(BTreeMap::from([("context".to_owned(), from)]));
    client.add(dirs.service(), DIR_METHODS);
    let (session, _client) = daemon.attach(&cx, client).await;
    let wanted = pull::Wanted {
        name: "context".to_owned(),
        ..pull::Wanted::default()
    };
    let mut records = Some(Records::new());
    for _ in 0..3 {
        let begun = Instant::now();
        let root = Root::open(&to).expect("the target");
        let options = ReceiveOptions::default();
        let progress = progress::Progress::none();
        let pulled = pull::pull(&cx, &session, &wanted, root, options, records, &progress);
        let (received, kept) = pulled.await.expect("pulled");
        records = kept;
        println!("{:?} {received:?}", begun.elapsed());
    }
}
