//! What a name stood for when its registry answered last, used without asking: whether that may be, and telling it.

use std::convert::Infallible;
use std::str::FromStr;

use oci::{Digest, Reference};
use progress::Progress;
use source::Memo;

/// What becomes of a build whose registry is unreachable, or need not be asked, when it has the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offline {
    /// It goes on with what the registry said last, and is warned.
    #[default]
    Warn,
    /// It fails, as upstream's: the registry is asked in any case.
    Fail,
}

/// Neither `warn` nor `fail`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: expected warn or fail")]
pub struct BadOffline {
    text: String,
}

impl FromStr for Offline {
    type Err = BadOffline;

    fn from_str(text: &str) -> Result<Self, BadOffline> {
        match text {
            "warn" => Ok(Self::Warn),
            "fail" => Ok(Self::Fail),
            _ => Err(BadOffline {
                text: text.to_owned(),
            }),
        }
    }
}

/// Why a registry did not say what a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was not asked: the build wants what is here.
    Local,
    /// It is not there.
    Unreachable,
}

/// Who is told.
#[derive(Clone, Copy)]
pub(crate) struct Build<'a> {
    pub(crate) memo: &'a Memo,
    pub(crate) progress: &'a Progress,
}

impl Build<'_> {
    /// Tells the build once that `reference` is taken for `used`. A reference that says so itself is no news.
    pub(crate) async fn warn(self, why: Why, reference: &Reference, used: &Digest) {
        if reference.digest() == Some(used) {
            return;
        }
        let told = || async {
            let what = match why {
                Why::Local => "was not resolved anew",
                Why::Unreachable => "could not be resolved",
            };
            self.progress.warn(format!(
                "{reference} {what}, using {used} as it was last time"
            ));
            Ok::<_, Infallible>(())
        };
        let key = format!("image taken from last time: {reference} {used}");
        match self.memo.get_or_try(&key, told).await {
            Ok(_) => {}
            Err(never) => match never {},
        }
    }
}
