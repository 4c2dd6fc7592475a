//! `buildctl debug verify`: whether what the daemon has stored fits together.

use anyhow::{Result, bail};
use client::VerifyCounts;

use crate::args::Global;
use crate::connection::connect;

/// Prints what is damaged or without an owner and what to do about it; fails if there is anything.
pub(crate) async fn run(global: &Global, names_only: bool) -> Result<()> {
    let connection = connect(global).await?;
    let mut problems = 0;
    let counts = connection.client.verify(names_only, |problem| {
        problems += 1;
        println!("{}\n    {}", problem.what, problem.advice);
    });
    let counts = counts.await?;
    eprintln!("{}", summary(&counts, problems));
    if problems > 0 {
        bail!("not everything in the store is as it should be");
    }
    Ok(())
}

fn summary(counts: &VerifyCounts, problems: usize) -> String {
    let VerifyCounts {
        records,
        trees,
        blobs,
        loose_blobs,
        bytes,
    } = counts;
    let megabytes = bytes / 1_000_000;
    format!(
        "{records} records, {trees} trees, {blobs} blobs ({loose_blobs} without a record; {megabytes} MB read): \
         {problems} problems"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_how_much_was_looked_at() {
        let counts = VerifyCounts {
            records: 3,
            trees: 2,
            blobs: 5,
            loose_blobs: 1,
            bytes: 12_345_678,
        };
        assert_eq!(
            summary(&counts, 0),
            "3 records, 2 trees, 5 blobs (1 without a record; 12 MB read): 0 problems"
        );
    }
}
