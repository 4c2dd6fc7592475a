//! What steps used, for those who keep account of it.
//!
//! Equal steps share an account while any of them is there: a build that shares a step with another one did not run
//! its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use executor::usage::{Closely, Samples, Usage};
use oci::Digest;
use parking_lot::Mutex;

/// Accounts looked through for those nobody holds any more, at first.
const FEW: usize = 256;

/// All accounts of a worker.
#[derive(Debug, Default)]
pub struct Usages {
    curious: Arc<AtomicUsize>,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    known: HashMap<Digest, Weak<Account>>,
    sweep_at: usize,
}

/// What equal steps used when one of them ran last.
#[derive(Debug, Default)]
pub(crate) struct Account {
    usage: Mutex<Option<Arc<Usage>>>,
}

/// Somebody wants to know what every step uses, for as long as this lives.
#[derive(Debug)]
pub struct Curious(Arc<AtomicUsize>);

impl Drop for Curious {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Usages {
    /// Has every step looked at.
    pub fn ask(&self) -> Curious {
        self.curious.fetch_add(1, Ordering::Relaxed);
        Curious(self.curious.clone())
    }

    fn closely(&self) -> Closely {
        match self.curious.load(Ordering::Relaxed) {
            0 => Closely::IfLong,
            _ => Closely::Always,
        }
    }

    /// The account of a step.
    pub(crate) fn account(&self, step: &Digest) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        if let Some(known) = accounts.known.get(step).and_then(Weak::upgrade) {
            return known;
        }
        if accounts.known.len() >= accounts.sweep_at.max(FEW) {
            accounts
                .known
                .retain(|_, account| account.strong_count() > 0);
            accounts.sweep_at = accounts.known.len() * 2;
        }
        let account = Arc::<Account>::default();
        let weak = Arc::downgrade(&account);
        accounts.known.insert(step.clone(), weak);
        account
    }

    /// The step of an account is about to run.
    pub(crate) fn begin(&self, account: &Account) -> Arc<Usage> {
        let usage = Arc::new(Usage::new(self.closely()));
        *account.usage.lock() = Some(usage.clone());
        usage
    }
}

impl Account {
    /// What the step used, if it ran and somebody looked.
    pub(crate) fn samples(&self) -> Option<Arc<Samples>> {
        self.usage.lock().as_ref()?.samples()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_steps_share_an_account_while_one_is_there() {
        let usages = Usages::default();
        let (one, other) = (Digest::of("one"), Digest::of("other"));
        let first = usages.account(&one);
        assert!(Arc::ptr_eq(&first, &usages.account(&one)));
        assert!(!Arc::ptr_eq(&first, &usages.account(&other)));
        for number in 0..3 * FEW {
            usages.account(&Digest::of(number.to_string()));
        }
        assert!(usages.accounts.lock().known.len() <= FEW + 1);
        assert!(Arc::ptr_eq(&first, &usages.account(&one)));
    }

    #[test]
    fn steps_are_looked_at_closely_while_somebody_asks() {
        let usages = Usages::default();
        assert_eq!(usages.closely(), Closely::IfLong);
        let asking = usages.ask();
        assert_eq!(usages.closely(), Closely::Always);
        drop(asking);
        assert_eq!(usages.closely(), Closely::IfLong);
    }
}
