//! Profiles of users in the usual files, and the way from a profile to keys. Nobody is asked anything here.

use std::collections::BTreeMap;

use super::credentials::Keys;

type Section = BTreeMap<String, String>;

/// What stands in both files.
#[derive(Default)]
pub(super) struct Profiles {
    profiles: BTreeMap<String, Section>,
    sessions: BTreeMap<String, Section>,
}

/// Where keys come from at first.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    Keys(Keys),
    /// The daemon's variables.
    Environment,
    Container,
    Machine,
    /// A token that somebody wrote into a file, for a role.
    WebIdentity {
        file: String,
        role: Role,
    },
    /// A token that its user's browser got.
    SingleSignOn {
        start: String,
        region: String,
        account: String,
        role: String,
    },
    /// What a command prints.
    Process(String),
}

/// A role to take on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) arn: String,
    pub(super) session: Option<String>,
    pub(super) external: Option<String>,
    /// Seconds.
    pub(super) duration: Option<String>,
}

/// The way to keys: from the first ones by the roles, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) first: First,
    pub(super) roles: Vec<Role>,
}

impl Profiles {
    /// Adds a file of either kind. What an earlier one says stays.
    pub(super) fn read(&mut self, text: &str) {
        let mut section: Option<&mut Section> = None;
        for line in text.lines() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
                continue;
            }
            let title = trimmed
                .strip_prefix('[')
                .and_then(|rest| rest.split_once(']'));
            if let Some((title, _)) = title {
                let title = title.trim();
                section = Some(match title.strip_prefix("sso-session ") {
                    Some(name) => self.sessions.entry(name.trim().to_owned()).or_default(),
                    None => {
                        let name = title.strip_prefix("profile ").map_or(title, str::trim);
                        self.profiles.entry(name.to_owned()).or_default()
                    }
                });
            } else if let (Some((key, value)), Some(section)) = (trimmed.split_once('='), &mut section)
                // Settings of services are indented.
                && !line.starts_with([' ', '\t'])
            {
                let key = key.trim().to_lowercase();
                section
                    .entry(key)
                    .or_insert_with(|| value.trim().to_owned());
            }
        }
    }

    /// The way to the keys of a profile; none if it has none.
    pub(super) fn way(&self, name: &str) -> Result<Option<Way>, String> {
        self.way_from(name, &mut Vec::new())
    }

    fn way_from(&self, name: &str, seen: &mut Vec<String>) -> Result<Option<Way>, String> {
        let Some(profile) = self.profiles.get(name) else {
            return Ok(None);
        };
        if seen.iter().any(|known| known == name) {
            return Err(format!(
                "profile {name}: its source_profile leads back to it"
            ));
        }
        seen.push(name.to_owned());
        let value = |key: &str| profile.get(key).filter(|value| !value.is_empty()).cloned();
        let Some(arn) = value("role_arn") else {
            let first = match own_keys(profile) {
                Some(keys) => Some(keys),
                None => self.sign_on(name, profile)?,
            };
            let first = first.or_else(|| value("credential_process").map(First::Process));
            return Ok(first.map(|first| Way {
                first,
                roles: Vec::new(),
            }));
        };
        if value("mfa_serial").is_some() {
            return Err(format!("unimplemented: mfa_serial of profile {name}"));
        }
        let role = Role {
            arn,
            session: value("role_session_name"),
            external: value("external_id"),
            duration: value("duration_seconds"),
        };
        let way = match (value("source_profile"), value("credential_source")) {
            (Some(_), Some(_)) => {
                return Err(format!(
                    "profile {name}: only one of source_profile and credential_source may be given"
                ));
            }
            (Some(source), None) if source == name => own_keys(profile).map(|first| Way {
                first,
                roles: Vec::new(),
            }),
            (Some(source), None) => self.way_from(&source, seen)?,
            (None, Some(source)) => {
                let first = match source.as_str() {
                    "Environment" => First::Environment,
                    "EcsContainer" => First::Container,
                    "Ec2InstanceMetadata" => First::Machine,
                    other => {
                        return Err(format!(
                            "profile {name}: unknown credential_source {other:?}"
                        ));
                    }
                };
                Some(Way {
                    first,
                    roles: Vec::new(),
                })
            }
            (None, None) => {
                let file = value("web_identity_token_file");
                let file =
                    file.ok_or_else(|| format!("profile {name}: role_arn without source_profile"))?;
                let first = First::WebIdentity { file, role };
                return Ok(Some(Way {
                    first,
                    roles: Vec::new(),
                }));
            }
        };
        let mut way =
            way.ok_or_else(|| format!("profile {name}: its source_profile has no keys"))?;
        way.roles.push(role);
        Ok(Some(way))
    }

    fn sign_on(&self, name: &str, profile: &Section) -> Result<Option<First>, String> {
        let session = match profile.get("sso_session") {
            None => None,
            Some(session) => {
                let unknown = || format!("profile {name}: there is no sso-session {session}");
                Some(self.sessions.get(session).ok_or_else(unknown)?)
            }
        };
        let value = |key: &str| {
            let of_session = session.and_then(|session| session.get(key));
            of_session.or_else(|| profile.get(key)).cloned()
        };
        let Some(account) = value("sso_account_id") else {
            return Ok(None);
        };
        let needed =
            |key: &str| value(key).ok_or_else(|| format!("profile {name}: {key} is missing"));
        Ok(Some(First::SingleSignOn {
            start: needed("sso_start_url")?,
            region: needed("sso_region")?,
            account,
            role: needed("sso_role_name")?,
        }))
    }
}

fn own_keys(profile: &Section) -> Option<First> {
    let value = |key: &str| profile.get(key).filter(|value| !value.is_empty()).cloned();
    Some(First::Keys(Keys {
        id: value("aws_access_key_id")?,
        secret: value("aws_secret_access_key")?,
        token: value("aws_session_token"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles(text: &str) -> Profiles {
        let mut profiles = Profiles::default();
        profiles.read(text);
        profiles
    }

    fn keys(way: &Way) -> &Keys {
        match &way.first {
            First::Keys(keys) => keys,
            other => panic!("{other:?}"),
        }
    }

    fn id(way: &Way) -> &str {
        &keys(way).id
    }

    #[test]
    fn secrets_of_keys_are_not_shown() {
        let all = profiles(
            "[x]\naws_access_key_id=shown\naws_secret_access_key=s1\naws_session_token=s2\n",
        );
        let way = all.way("x").expect("no error").expect("keys");
        let text = format!("{way:?}");
        assert!(text.contains("shown"), "{text}");
        assert!(!text.contains("s1") && !text.contains("s2"), "{text}");
    }

    #[test]
    fn a_profile_is_found_in_either_file() {
        let mut all = profiles("[default]\naws_access_key_id=a\naws_secret_access_key = b\n");
        all.read(
            "[default]\naws_access_key_id=later\n[profile x]\naws_access_key_id = c\naws_secret_access_key = d\n\
             aws_session_token = e\n# [y]\n[y]\nregion=z\ns3 =\n  role_arn = no\n",
        );
        assert_eq!(
            all.way("default")
                .map(|way| way.map(|way| id(&way).to_owned())),
            Ok(Some("a".to_owned()))
        );
        let x = all.way("x").expect("no error").expect("keys");
        let keys = keys(&x);
        assert_eq!((keys.id.as_str(), keys.token.as_deref()), ("c", Some("e")));
        assert_eq!(all.way("y"), Ok(None));
        assert_eq!(all.way("none"), Ok(None));
    }

    #[test]
    fn roles_are_taken_on_from_the_source_up() {
        let all = profiles(
            "[base]\naws_access_key_id=a\naws_secret_access_key=b\n\
             [profile mid]\nrole_arn=r1\nsource_profile=base\n\
             [profile top]\nrole_arn=r2\nsource_profile=mid\nexternal_id=e\nrole_session_name=s\nduration_seconds=900\n\
             [profile own]\nrole_arn=r3\nsource_profile=own\naws_access_key_id=o\naws_secret_access_key=p\n",
        );
        let top = all.way("top").expect("no error").expect("a way");
        assert_eq!(id(&top), "a");
        let arns: Vec<_> = top.roles.iter().map(|role| role.arn.as_str()).collect();
        assert_eq!(arns, ["r1", "r2"]);
        assert_eq!(top.roles[1].external.as_deref(), Some("e"));
        let own = all.way("own").expect("no error").expect("a way");
        assert_eq!((id(&own), own.roles.len()), ("o", 1));
    }

    #[test]
    fn other_first_keys_are_known() {
        let all = profiles(
            "[profile env]\nrole_arn=r\ncredential_source=Environment\n\
             [profile web]\nrole_arn=r\nweb_identity_token_file=/t\n\
             [profile old]\nsso_start_url=u\nsso_region=eu\nsso_account_id=1\nsso_role_name=n\n\
             [profile new]\nsso_session=s\nsso_account_id=2\nsso_role_name=n\n\
             [sso-session s]\nsso_start_url=v\nsso_region=us\n\
             [profile made]\ncredential_process=/bin/keys now\n",
        );
        let first = |name: &str| all.way(name).expect("no error").expect("a way").first;
        assert_eq!(first("env"), First::Environment);
        assert!(
            matches!(first("web"), First::WebIdentity { file, role } if file == "/t" && role.arn == "r")
        );
        assert!(
            matches!(first("old"), First::SingleSignOn { start, account, .. } if start == "u" && account == "1")
        );
        assert!(
            matches!(first("new"), First::SingleSignOn { start, region, .. } if start == "v" && region == "us")
        );
        assert_eq!(first("made"), First::Process("/bin/keys now".to_owned()));
    }

    #[test]
    fn ways_that_lead_nowhere_are_told() {
        let all = profiles(
            "[profile a]\nrole_arn=r\nsource_profile=b\n[profile b]\nrole_arn=r\nsource_profile=a\n\
             [profile c]\nrole_arn=r\n[profile d]\nrole_arn=r\nsource_profile=none\n\
             [profile e]\nrole_arn=r\nsource_profile=c\nmfa_serial=m\n\
             [profile f]\nrole_arn=r\ncredential_source=Moon\n\
             [profile g]\nsso_session=none\nsso_account_id=1\n",
        );
        for (name, wanted) in [
            ("a", "profile a: its source_profile leads back to it"),
            ("c", "profile c: role_arn without source_profile"),
            ("d", "profile d: its source_profile has no keys"),
            ("e", "unimplemented: mfa_serial of profile e"),
            ("f", "profile f: unknown credential_source \"Moon\""),
            ("g", "profile g: there is no sso-session none"),
        ] {
            assert_eq!(all.way(name), Err(wanted.to_owned()));
        }
    }
}
