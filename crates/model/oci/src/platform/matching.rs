//! Which images a platform can run, and which of them it would rather.

use super::Platform;

/// Windows Server 2022: from this build on, hosts run images of older builds down to this one.
const STABLE_SINCE: u32 = 20348;

/// Decides between the images of an index on behalf of one platform.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// What is accepted, best first.
    accepted: Vec<Platform>,
}

impl Matcher {
    /// Accepts the platform and those it runs as well: older variants, 386 on amd64, arm on arm64.
    pub fn only(platform: &Platform) -> Self {
        let platform = platform.normalized();
        let relatives = relatives(&platform.architecture, &platform.variant);
        let accepted = relatives
            .into_iter()
            .map(|(architecture, variant)| {
                Platform {
                    architecture: architecture.to_owned(),
                    variant,
                    ..platform.clone()
                }
                .normalized()
            })
            .collect();
        Self { accepted }
    }

    /// Accepts the platform itself and nothing else.
    pub fn strict(platform: &Platform) -> Self {
        Self {
            accepted: vec![platform.normalized()],
        }
    }

    /// How good a candidate is, 0 the best; `None` when it is not accepted.
    pub fn rank(&self, candidate: &Platform) -> Option<usize> {
        let candidate = candidate.normalized();
        self.accepted
            .iter()
            .position(|wanted| accepts(wanted, &candidate))
    }

    /// Whether the candidate is accepted.
    pub fn matches(&self, candidate: &Platform) -> bool {
        self.rank(candidate).is_some()
    }

    /// The best of the candidates; of equals the first.
    pub fn best<'a, T>(
        &self,
        candidates: impl IntoIterator<Item = &'a T>,
        platform: impl Fn(&T) -> Option<&Platform>,
    ) -> Option<&'a T> {
        candidates
            .into_iter()
            .filter_map(|candidate| Some((self.rank(platform(candidate)?)?, candidate)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, candidate)| candidate)
    }
}

fn accepts(wanted: &Platform, candidate: &Platform) -> bool {
    wanted.os == candidate.os
        && wanted.architecture == candidate.architecture
        && wanted.variant == candidate.variant
        && candidate
            .os_features
            .iter()
            .all(|feature| wanted.os_features.contains(feature))
        && (wanted.os != "windows" || windows_version(&wanted.os_version, &candidate.os_version))
}

/// Architecture and variant of what runs on this architecture, best first, itself included.
fn relatives<'a>(architecture: &'a str, variant: &str) -> Vec<(&'a str, String)> {
    let itself = vec![(architecture, variant.to_owned())];
    let number = variant.strip_prefix('v').unwrap_or(variant);
    match architecture {
        "amd64" => {
            let mut all = itself;
            let level: u32 = number.parse().unwrap_or(1);
            all.extend((2..level).rev().map(|older| ("amd64", format!("v{older}"))));
            if level > 1 {
                all.push(("amd64", String::new()));
            }
            all.push(("386", String::new()));
            all
        }
        "arm" => match number.parse::<u32>() {
            Ok(level) if level > 5 => arm(level),
            _ => itself,
        },
        "arm64" => {
            let mut all = arm64(number).unwrap_or(itself);
            all.extend(arm(8));
            all
        }
        _ => itself,
    }
}

fn arm<'a>(level: u32) -> Vec<(&'a str, String)> {
    (5..=level)
        .rev()
        .map(|level| ("arm", format!("v{level}")))
        .collect()
}

/// Revisions of v9 include those of v8 five later.
fn arm64<'a>(number: &str) -> Option<Vec<(&'a str, String)>> {
    let (major, minor) = match number.split_once('.') {
        Some((major, minor)) => (major, minor.parse::<u32>().ok()?),
        None => (number, 0),
    };
    let revisions = |major: u32, minor: u32| {
        (0..=minor).rev().map(move |minor| match minor {
            0 => ("arm64", format!("v{major}")),
            _ => ("arm64", format!("v{major}.{minor}")),
        })
    };
    match major {
        "" | "8" => Some(revisions(8, minor).collect()),
        "9" => Some(revisions(9, minor).chain(revisions(8, minor + 5)).collect()),
        _ => None,
    }
}

fn windows_version(host: &str, candidate: &str) -> bool {
    if host.is_empty() || candidate.is_empty() {
        return true;
    }
    let numbers = |text: &str| -> Vec<u32> {
        text.split('.')
            .take(3)
            .map(|number| number.parse().unwrap_or(0))
            .collect()
    };
    let (host, candidate) = (numbers(host), numbers(candidate));
    if host == candidate {
        return true;
    }
    let builds = (host.get(2), candidate.get(2));
    host.get(..2) == candidate.get(..2)
        && matches!(builds, (Some(host), Some(build)) if (STABLE_SINCE..=*host).contains(build))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(text: &str) -> Vec<String> {
        let platform = Platform::parse(text).expect("a platform");
        Matcher::only(&platform)
            .accepted
            .iter()
            .map(Platform::to_string)
            .collect()
    }

    #[test]
    fn arm64_revisions_reach_back_to_the_first() {
        assert_eq!(
            accepted("linux/arm64/v9.1")[..5],
            [
                "linux/arm64/v9.1",
                "linux/arm64/v9",
                "linux/arm64/v8.6",
                "linux/arm64/v8.5",
                "linux/arm64/v8.4"
            ]
        );
    }

    #[test]
    fn a_windows_host_runs_older_builds_of_its_stable_line() {
        assert!(windows_version("10.0.26100", "10.0.20348.1"));
        assert!(!windows_version("10.0.26100", "10.0.17763"));
        assert!(!windows_version("10.0.20348", "10.0.26100"));
    }

    #[test]
    fn the_best_candidate_wins_and_the_first_of_equals() {
        let parse = |text: &str| Platform::parse(text).expect("a platform");
        let candidates = [
            parse("linux/386"),
            parse("linux/amd64"),
            parse("linux/amd64/v2"),
        ];
        let best = |text: &str| {
            Matcher::only(&parse(text))
                .best(&candidates, |platform| Some(platform))
                .cloned()
        };
        assert_eq!(best("linux/amd64"), Some(parse("linux/amd64")));
        assert_eq!(best("linux/amd64/v3"), Some(parse("linux/amd64/v2")));
        assert_eq!(best("linux/s390x"), None);
    }
}
