//! What this machine runs without help: its own platform, the levels of it that the processor reaches, and what it includes.

use oci::Platform;

/// The machine's platforms, its own first.
pub(crate) fn native() -> Vec<Platform> {
    of(Platform::host(), level())
}

fn of(host: Platform, level: u8) -> Vec<Platform> {
    let mut all = vec![host.clone()];
    if host.architecture == "amd64" {
        all.extend((2..=level).map(|level| Platform {
            variant: format!("v{level}"),
            ..host.clone()
        }));
        all.push(Platform {
            architecture: "386".to_owned(),
            ..host
        });
    }
    all
}

/// The highest level of x86-64 whose instructions the processor and the kernel offer.
#[cfg(target_arch = "x86_64")]
fn level() -> u8 {
    macro_rules! all {
        ($($feature:tt),+) => { $(std::is_x86_feature_detected!($feature))&&+ };
    }
    let second = all!("cmpxchg16b", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3");
    let third = all!(
        "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe"
    );
    let fourth = all!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
    match (second, third, fourth) {
        (true, true, true) => 4,
        (true, true, false) => 3,
        (true, false, _) => 2,
        (false, ..) => 1,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> u8 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str, level: u8) -> Vec<String> {
        let host = Platform::parse(text).expect("a platform");
        of(host, level).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn levels_come_between_the_platform_and_what_it_includes() {
        let all = [
            "linux/amd64",
            "linux/amd64/v2",
            "linux/amd64/v3",
            "linux/386",
        ];
        assert_eq!(listed("linux/amd64", 3), all);
        assert_eq!(listed("linux/amd64", 1), ["linux/amd64", "linux/386"]);
        assert_eq!(listed("linux/riscv64", 1), ["linux/riscv64"]);
    }

    #[test]
    fn the_machine_runs_its_own_platform() {
        assert_eq!(native().first(), Some(&Platform::host()));
    }
}
