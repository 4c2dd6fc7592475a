//! Notices clients that are gone without having said so.

use std::time::Duration;

use tasks::Cx;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How often a client is asked, and how patient we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    period: Duration,
    limit: Duration,
    failures: u32,
}

impl Schedule {
    /// The usual one, or that of a client that asked for `millis`.
    pub(crate) fn new(millis: Option<u64>) -> Self {
        match millis {
            None => Self {
                period: Duration::from_secs(5),
                limit: Duration::from_secs(15),
                failures: 2,
            },
            Some(millis) => {
                let millis = Duration::from_millis(millis.max(1000));
                Self {
                    period: millis,
                    limit: millis,
                    failures: 1,
                }
            }
        }
    }
}

/// Asks until the client fails too often; `session` is cancelled then.
pub(crate) async fn watch(channel: Channel, schedule: Schedule, session: Cx) {
    let mut client = HealthClient::new(channel);
    let mut failed = 0;
    let mut last = Duration::ZERO;
    loop {
        sleep(schedule.period).await;
        let begun = Instant::now();
        let limit = schedule.limit.max(last.mul_f64(1.5));
        // The limit does not rest on the connection: a peer that swallows frames is noticed too.
        let answer = timeout(limit, client.check(HealthCheckRequest::default())).await;
        last = begun.elapsed();
        let reason = match answer {
            Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => {
                failed = 0;
                continue;
            }
            Ok(Ok(answer)) => format!("service not serving: {:?}", answer.get_ref().status()),
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => "context deadline exceeded".to_owned(),
        };
        failed += 1;
        tracing::debug!(failed, reason, "session health check failed");
        if failed >= schedule.failures {
            session.cancel(&format!("session healthcheck failed fatally: {reason}"));
            return;
        }
    }
}
