//! Keys for signatures. They stay on the node: a document is read by many.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::hmac;
use serde::Deserialize;

/// `[webhooks.NAME]` of `ballastd.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSecret {
    /// File with the key under which what is sent to this webhook is signed. Each node that may lead needs it.
    pub secret_file: PathBuf,
}

/// Longer files are no keys.
const BYTES_MAX: usize = 4096;

/// Keys by webhook.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, hmac::Key>);

impl Secrets {
    /// Reads the files.
    ///
    /// # Errors
    /// Which cannot be read or holds no key, with its key in `ballastd.toml`.
    pub fn read(named: &BTreeMap<String, WebhookSecret>) -> Result<Self> {
        let key = |(name, WebhookSecret { secret_file }): (&String, &WebhookSecret)| {
            let at = format!("webhooks.{name}.secret_file: {}", secret_file.display());
            let text = fs::read(secret_file)
                .with_context(|| format!("{at}: cannot be read; correct the path or its rights"))?;
            let secret = text.trim_ascii_end();
            ensure!(!secret.is_empty(), "{at}: holds no key; write one, such as that of `openssl rand -hex 32`");
            ensure!(secret.len() <= BYTES_MAX, "{at}: is longer than {BYTES_MAX} bytes and no key; name another file");
            Ok((name.clone(), hmac::Key::new(hmac::HMAC_SHA256, secret)))
        };
        named.iter().map(key).collect::<Result<_>>().map(Self)
    }

    /// The key for a webhook, if there is one.
    pub(super) fn of(&self, webhook: &str) -> Option<hmac::Key> {
        self.0.get(webhook).cloned()
    }
}

/// The signature of a body, as it stands in its field.
pub(super) fn sign(key: &hmac::Key, body: &[u8]) -> String {
    let tag = hmac::sign(key, body);
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_signed_as_others_check_it() {
        // RFC 4231, test case 2.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
        assert_eq!(
            sign(&key, b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_file_without_a_key_is_refused_by_its_place() {
        let folder = tempfile::tempdir().expect("folder");
        let read = |file: &str| {
            let secret = WebhookSecret { secret_file: folder.path().join(file) };
            Secrets::read(&BTreeMap::from([("alarm".to_owned(), secret)]))
        };
        fs::write(folder.path().join("empty"), "\n").expect("written");
        fs::write(folder.path().join("good"), "key\n").expect("written");
        for file in ["missing", "empty"] {
            let error = read(file).err().expect("refused");
            assert!(format!("{error:#}").contains("webhooks.alarm.secret_file"), "{error:#}");
        }
        assert!(read("good").expect("read").of("alarm").is_some());
    }
}
