//! `retry_mode=adaptive`: how many requests a second a store takes is learnt from what it refuses.
//!
//! The rate is that of CUBIC congestion control: it falls to a part when a store says that there are too many, and then
//! grows back to where it was, slowly near there and faster beyond. Nobody waits before the first refusal.

use std::time::Duration;

use parking_lot::Mutex;
use tasks::{Cancelled, Cx};
use tokio::time::Instant;

/// What is left of the rate after a refusal.
const REMAINDER: f64 = 0.7;
/// How fast the rate grows.
const GROWTH: f64 = 0.4;
/// How much the last half second counts in what is measured.
const SMOOTHING: f64 = 0.8;
/// Requests a second at least.
const SLOWEST: f64 = 0.5;

/// The pace of requests to one store.
#[derive(Debug)]
pub(crate) struct Pace {
    began: Instant,
    state: Mutex<State>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// Waits until one more request may go.
    pub(crate) async fn turn(&self, cx: &Cx) -> Result<(), Cancelled> {
        loop {
            let wait = self.state.lock().take(self.now());
            if wait.is_zero() {
                return Ok(());
            }
            cx.run(tokio::time::sleep(wait)).await?;
        }
    }

    /// A request was answered; whether with there being too many.
    pub(crate) fn answered(&self, refused: bool) {
        self.state.lock().answered(self.now(), refused);
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// Times are in seconds, rates in requests a second.
#[derive(Debug, Default)]
struct State {
    /// The rate; none before the first refusal.
    rate: Option<f64>,
    /// Requests that may go at once, at `filled`.
    saved: f64,
    filled: f64,
    /// The rate, and the time, of the last refusal.
    peak: f64,
    refused: f64,
    /// How fast answers come.
    measured: f64,
    /// Answers of the half second that began at `half`.
    answers: f64,
    half: f64,
}

impl State {
    /// Takes a request if one may go, else says how long to wait.
    fn take(&mut self, now: f64) -> Duration {
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        self.fill(now);
        if self.saved >= 1.0 {
            self.saved -= 1.0;
            return Duration::ZERO;
        }
        // Not so short that rounding makes a wait of nothing.
        Duration::from_secs_f64((1.0 - self.saved) / rate).max(Duration::from_millis(1))
    }

    fn fill(&mut self, now: f64) {
        let rate = self.rate.unwrap_or_default();
        self.saved = (self.saved + (now - self.filled) * rate).min(rate.max(1.0));
        self.filled = now;
    }

    fn answered(&mut self, now: f64, refused: bool) {
        self.measure(now);
        let wanted = if refused {
            self.peak = self
                .rate
                .map_or(self.measured, |rate| rate.min(self.measured));
            self.refused = now;
            self.peak * REMAINDER
        } else {
            // This long after a refusal the rate is what it was.
            let back = (self.peak * (1.0 - REMAINDER) / GROWTH).cbrt();
            GROWTH * (now - self.refused - back).powi(3) + self.peak
        };
        if refused || self.rate.is_some() {
            self.fill(now);
            let rate = wanted.min(2.0 * self.measured).max(SLOWEST);
            self.rate = Some(rate);
            self.saved = self.saved.min(rate.max(1.0));
        }
    }

    fn measure(&mut self, now: f64) {
        self.answers += 1.0;
        let half = (now * 2.0).floor() / 2.0;
        if half > self.half {
            let rate = self.answers / (half - self.half);
            self.measured = rate * SMOOTHING + self.measured * (1.0 - SMOOTHING);
            (self.answers, self.half) = (0.0, half);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as fast as the pace allows, up to a hundred a second, to a store that takes `most` of a second.
    /// How many requests went in each second, and how many of them were refused.
    async fn sent(pace: &Pace, most: u32, seconds: usize) -> Vec<(u32, u32)> {
        let began = Instant::now();
        let mut counts = vec![(0, 0); seconds];
        loop {
            pace.turn(&Cx::root()).await.expect("nobody cancels");
            tokio::time::sleep(Duration::from_millis(10)).await;
            let second = usize::try_from(began.elapsed().as_secs()).expect("it is small");
            let Some((all, refused)) = counts.get_mut(second) else {
                return counts;
            };
            *all += 1;
            let too_many = *all > most;
            *refused += u32::from(too_many);
            pace.answered(too_many);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_before_a_refusal() {
        let counts = sent(&Pace::new(), u32::MAX, 5).await;
        assert!(counts.iter().all(|(all, _)| *all >= 99), "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_settles_near_what_the_store_takes() {
        let pace = Pace::new();
        let counts = sent(&pace, 20, 30).await;
        let late = &counts[10..];
        let all: u32 = late.iter().map(|(all, _)| all).sum();
        let refused: u32 = late.iter().map(|(_, refused)| refused).sum();
        assert!((200..=440).contains(&all), "{counts:?}");
        assert!(refused * 10 <= all, "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_comes_back() {
        let pace = Pace::new();
        sent(&pace, 5, 10).await;
        let counts = sent(&pace, u32::MAX, 30).await;
        assert!(counts[0].0 < 50 && counts[29].0 > 90, "{counts:?}");
    }
}
