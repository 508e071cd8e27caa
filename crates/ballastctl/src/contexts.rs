//! The file of contexts: clusters that this user administers, and with which certificate.
//!
//! Not here: which context a command uses (`client`).

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    failure::{Exit, Failure},
    server::Server,
};

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one that is used when nobody says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// One cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Nodes, tried in this order.
    pub servers: Vec<ServerText>,
    /// The cluster's CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// A [`Server`] as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerText(pub Server);

impl TryFrom<String> for ServerText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl From<ServerText> for String {
    fn from(server: ServerText) -> Self {
        server.0.to_string()
    }
}

impl Contexts {
    /// Reads the file; no file is a file without contexts.
    ///
    /// # Errors
    /// When it cannot be read or is not right.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(Failure::because(Exit::Error, format!("cannot read {}", path.display()), &error));
            }
        };
        toml::from_str(&text).map_err(|error| {
            Failure::new(Exit::Usage, format!("{} is not right: {}", path.display(), error.to_string().trim_end()))
                .remedy("correct it, or move it away and use `ballastctl context add`")
        })
    }

    /// Writes the file in one step, readable for its owner only.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string_pretty(self)
            .map_err(|error| Failure::because(Exit::Error, "cannot write the contexts", &error))?;
        let write = || {
            let folder = path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            // Made with mode 0600, in the folder that the file will be in.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok::<_, std::io::Error>(())
        };
        write().map_err(|error| Failure::because(Exit::Error, format!("cannot write {}", path.display()), &error))
    }

    /// A context by name.
    ///
    /// # Errors
    /// When there is none, with the names that there are.
    pub fn get(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let failure = Failure::new(Exit::NotFound, format!("there is no context {name:?}"));
            if self.contexts.is_empty() {
                failure.remedy(format!("add it: ballastctl context add {name} --server https://HOST:PORT --dir DIR"))
            } else {
                let names: Vec<_> = self.contexts.keys().map(String::as_str).collect();
                failure.remedy(format!("there are: {}", names.join(", ")))
            }
        })
    }

    /// The one in use.
    ///
    /// # Errors
    /// When the chosen one does not exist.
    pub fn current(&self) -> Result<Option<&Context>, Failure> {
        self.current.as_deref().map(|name| self.get(name)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_stored_is_loaded_and_private() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("deep/contexts.toml");
        assert_eq!(Contexts::load(&path).expect("no file"), Contexts::default());
        let context = Context {
            servers: vec![ServerText("https://node-1:7421".parse().expect("server"))],
            ca: Some("/etc/ballast/ca.pem".into()),
            ..Context::default()
        };
        let contexts =
            Contexts { current: Some("prod".to_owned()), contexts: BTreeMap::from([("prod".to_owned(), context)]) };
        contexts.store(&path).expect("stored");
        assert_eq!(Contexts::load(&path).expect("loaded"), contexts);
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_mistake_in_the_file_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("contexts.toml");
        fs::write(&path, "[contexts.a]\nservers = [\"http://x:1\"]\n").expect("written");
        let failure = Contexts::load(&path).expect_err("refused");
        assert!(failure.message().contains("never spoken in the clear"), "{}", failure.message());
        assert_eq!(failure.exit(), Exit::Usage);
    }

    #[test]
    fn a_missing_context_says_which_there_are() {
        let contexts = Contexts {
            current: Some("gone".to_owned()),
            contexts: BTreeMap::from([("prod".to_owned(), Context::default())]),
        };
        let failure = contexts.current().expect_err("gone");
        assert_eq!(failure.exit(), Exit::NotFound);
        assert_eq!(failure.remedies(), ["there are: prod"]);
    }
}
