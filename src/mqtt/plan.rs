//! What a configuration means on this machine: names resolved, files read.

use super::config::{Config, Version};
use super::link::Settings;
use super::tls;
use super::topics::Topics;
use rustls::ClientConfig;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::Arc;

/// A configuration that can be connected with.
pub struct Plan {
    pub config: Config,
    pub topics: Topics,
    client_id: String,
    tls: Option<Arc<ClientConfig>>,
}

impl Plan {
    /// Reads certificates and tries the password. Errors name the file or key.
    pub fn new(config: Config, node: &str) -> Result<Plan, String> {
        let plan = Plan {
            topics: Topics::new(&config.prefix, node)?,
            client_id: config.client_id.clone().unwrap_or_else(|| default_client_id(node, &machine_id())),
            tls: config.tls.as_ref().map(tls::client_config).transpose()?,
            config,
        };
        plan.login()?;
        Ok(plan)
    }

    /// User name and password, the latter as its file is now.
    fn login(&self) -> Result<Option<(String, String)>, String> {
        let Some(user) = &self.config.username else { return Ok(None) };
        let password = match self.password_file()? {
            Some(path) => {
                let text = std::fs::read_to_string(&path).map_err(|e| format!("password file {}: {e}", path.display()))?;
                let password = text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text);
                if password.is_empty() {
                    return Err(format!("password file {}: expected a password, it is empty", path.display()));
                }
                password.to_string()
            }
            None => String::new(),
        };
        Ok(Some((user.clone(), password)))
    }

    fn password_file(&self) -> Result<Option<PathBuf>, String> {
        let Some(name) = &self.config.credential else { return Ok(self.config.password_file.clone()) };
        let dir = std::env::var_os("CREDENTIALS_DIRECTORY")
            .ok_or_else(|| format!("mqtt.credential is `{name}`, but CREDENTIALS_DIRECTORY is not set: is LoadCredential= in the unit?"))?;
        Ok(Some(PathBuf::from(dir).join(name)))
    }

    /// Settings for one connection. `clean` asks the broker to forget the session.
    pub fn settings<'a>(&'a self, status_topic: &'a str, clean: bool) -> Result<Settings<'a>, String> {
        Ok(Settings { config: &self.config, client_id: &self.client_id, status_topic, login: self.login()?, tls: self.tls.clone(), clean })
    }

    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// How many requests the broker may have outstanding. MQTT 3.1.1 cannot tell it; brokers have limits of 20 to some 100.
    pub fn outstanding(&self) -> usize {
        match self.config.version {
            Version::V4 => 1024,
            Version::V5 => self.config.receive_maximum.into(),
        }
    }
}

fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_string()
}

/// The suffix keeps two machines apart that were given the same name, and is the same after a restart.
fn default_client_id(node: &str, machine: &str) -> String {
    if machine.is_empty() {
        return format!("jouled-{node}");
    }
    // Machine ids are confidential (machine-id(5)): only a keyed hash leaves the machine.
    let digest = Sha256::digest(format!("jouled {machine} {node}"));
    let suffix: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("jouled-{node}-{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_differ_between_machines_and_stay_the_same() {
        let id = default_client_id("pi", "a");
        assert_eq!(id, default_client_id("pi", "a"));
        assert_ne!(id, default_client_id("pi", "b"));
        assert_eq!(default_client_id("pi", ""), "jouled-pi");
        assert!(id.starts_with("jouled-pi-") && id.len() == "jouled-pi-".len() + 8);
    }

    #[test]
    fn passwords_come_from_the_file_without_the_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let config = Config { username: Some("u".into()), password_file: Some(path.clone()), ..Config::default() };
        let error = Plan::new(config.clone(), "pi").err().unwrap();
        assert!(error.contains(&path.display().to_string()), "{error}");
        std::fs::write(&path, "se cret \r\n").unwrap();
        let plan = Plan::new(config, "pi").unwrap();
        assert_eq!(plan.login().unwrap(), Some(("u".into(), "se cret ".into())));
        std::fs::write(&path, "new").unwrap();
        assert_eq!(plan.login().unwrap(), Some(("u".into(), "new".into())));
        std::fs::write(&path, "\n").unwrap();
        assert!(plan.login().unwrap_err().contains("expected a password, it is empty"));
    }

    #[test]
    fn a_bad_node_name_is_an_error() {
        assert!(Plan::new(Config::default(), "a/b").err().unwrap().contains("a/b"));
    }
}
