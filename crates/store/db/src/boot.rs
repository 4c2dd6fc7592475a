//! The name of this run of the machine.

use std::time::SystemTime;

/// The given name or the kernel's boot id, as a part of a file name.
pub(crate) fn name(given: Option<&str>) -> String {
    let boot = given.map_or_else(boot_id, str::to_owned);
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    boot.chars().filter(|c| allowed(*c)).take(64).collect()
}

/// Names this run of the machine; a new name each time where the kernel does not tell.
fn boot_id() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(id) => id.trim().to_owned(),
        Err(err) => {
            tracing::warn!(error = %err, "the kernel does not tell its boot id, a killed daemon loses what was not synced");
            format!("unknown-{:?}", SystemTime::now())
        }
    }
}
