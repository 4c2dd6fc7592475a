//! Trying a whole transfer again after a while.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use progress::{Progress, Stream};
use tasks::Cx;

use crate::Error;

/// Tries in all; the waits between them double.
const TRIES: u32 = 4;
/// How often work that got further than before may begin to count anew.
const ADVANCES: u32 = 64;

/// Runs `work` until it succeeds, fails for good, or was tried often enough. Tells the user why it takes so long.
pub(crate) async fn retrying<T, F>(
    cx: &Cx,
    backoff: Duration,
    progress: &Progress,
    work: impl FnMut() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    retrying_from(cx, backoff, progress, || 0, work).await
}

/// The same for work that goes on where it broke. `far` tells how far it got: a connection that breaks now and then is
/// no reason to give up what comes nearer to its end each time, nor to wait.
pub(crate) async fn retrying_from<T, F>(
    cx: &Cx,
    backoff: Duration,
    progress: &Progress,
    far: impl Fn() -> u64,
    mut work: impl FnMut() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut wait = backoff;
    let mut done = 0;
    let (mut furthest, mut advances) = (0, 0);
    loop {
        done += 1;
        let err = match work().await {
            Ok(value) => return Ok(value),
            Err(err) => err,
        };
        let reached = far();
        if reached > furthest && advances < ADVANCES {
            furthest = reached;
            advances += 1;
            // The connection broke; the other side is there.
            (done, wait) = (1, Duration::ZERO);
        }
        let nothing_came = done == 1 && advances == 0;
        let hopeless = !err.is_temporary() || (nothing_came && err.found_nobody());
        if hopeless || done == TRIES || cx.is_cancelled() {
            return Err(err);
        }
        let text = fault::chain(&err);
        tracing::debug!(error = text, ?wait, "transfer failed, trying again");
        let when = match wait {
            Duration::ZERO => "where it broke".to_owned(),
            _ => format!("in {wait:?}"),
        };
        let lines = format!("error: {text}\nretrying {when}\n");
        progress.log(Stream::Stderr, Bytes::from(lines));
        if wait.is_zero() {
            wait = backoff;
            continue;
        }
        cx.run(tokio::time::sleep(wait)).await?;
        wait *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use progress::Event;
    use std::cell::Cell;
    use std::sync::Arc;

    fn temporary() -> Error {
        Error::Read {
            digest: oci::Digest::of("x"),
            host: "h".to_owned(),
            offset: 0,
            reason: "EOF".to_owned(),
        }
    }

    async fn tries(fail: impl Fn() -> Error) -> (u32, Result<(), Error>, Duration) {
        let count = Cell::new(0);
        let start = tokio::time::Instant::now();
        let result = retrying(
            &Cx::root(),
            Duration::from_secs(1),
            &Progress::none(),
            || {
                count.set(count.get() + 1);
                std::future::ready(Err(fail()))
            },
        )
        .await;
        (count.get(), result, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_temporary_failure_is_tried_four_times_in_seven_seconds() {
        let (count, result, took) = tries(temporary).await;
        assert!(result.is_err());
        assert_eq!(count, 4);
        assert_eq!(took.as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_advances_is_tried_more_often_but_not_for_ever() {
        let count = Cell::new(0_u64);
        let advancing = |until: u64| {
            let count = &count;
            count.set(0);
            async move {
                let far = || count.get().min(until);
                let second = Duration::from_secs(1);
                retrying_from(&Cx::root(), second, &Progress::none(), far, || {
                    count.set(count.get() + 1);
                    std::future::ready(Err::<(), _>(temporary()))
                })
                .await
            }
        };
        let start = tokio::time::Instant::now();
        assert!(advancing(10).await.is_err());
        assert_eq!(count.get(), 10 + 3);
        // At once while it comes nearer, then after one second, and two.
        assert_eq!(start.elapsed().as_secs(), 1 + 2);
        assert!(advancing(u64::MAX).await.is_err());
        assert_eq!(count.get(), u64::from(ADVANCES) + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn each_try_is_told() {
        let lines = Arc::new(Mutex::new(String::new()));
        let told = lines.clone();
        let sink = move |event: Event| {
            if let Event::Log(log) = event {
                told.lock().push_str(&String::from_utf8_lossy(&log.data));
            }
        };
        let progress = Progress::new(Arc::new(sink), "v");
        let count = Cell::new(0_u64);
        let far = || count.get().min(2);
        let (cx, second) = (Cx::root(), Duration::from_secs(1));
        let done = retrying_from(&cx, second, &progress, far, || {
            count.set(count.get() + 1);
            std::future::ready(Err::<(), _>(temporary()))
        });
        assert!(done.await.is_err());
        let lines = lines.lock();
        let waits = lines.lines().filter(|line| line.starts_with("retrying"));
        assert_eq!(
            waits.collect::<Vec<_>>(),
            [
                "retrying where it broke",
                "retrying where it broke",
                "retrying in 1s",
                "retrying in 2s"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_was_never_there_is_not_waited_for() {
        let (count, _, took) = tries(|| Error::Transport {
            method: "Get".to_owned(),
            url: "http://x/".to_owned(),
            reason: "connect: connection refused".to_owned(),
            kind: crate::Broken::Connect,
        })
        .await;
        assert_eq!((count, took.as_secs()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_for_good_is_told_at_once() {
        let (count, _, took) = tries(|| Error::NoScheme).await;
        assert_eq!((count, took.as_secs()), (1, 0));
    }
}
