//! The account that the LAN uses for KLAP: that of the config, else the hashes in the store.
//!
//! Owns which of the two counts. The hashes are computed once for each config and login, not for each plug.

use crate::config::{Config, LanAccount};
use crate::klap_hashes::{KlapAccounts, KlapHashes};
use crate::store::{HashFile, StoredHashes};

/// What is known of the account.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LanLogin {
    account: Option<LanAccount>,
    /// The store's hashes of this account.
    stored: Option<StoredHashes>,
}

/// Where the hashes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LanLoginSource {
    /// The password of this table of the config.
    Config(&'static str),
    /// The store.
    Store,
    /// There are none: only plugs without an account of their own can be served.
    Missing,
}

impl LanLogin {
    /// For the daemon and for commands to a plug. Blocks. Stored hashes that the password of the config contradicts are
    /// deleted: they would never be used, and somebody might steal them.
    pub(crate) fn load(config: &Config, file: &HashFile) -> Self {
        let stored = file.load().unwrap_or_else(|warning| {
            tracing::warn!("{warning}");
            None
        });
        if stored.is_some() && Self::password_contradicts(config, stored.as_ref()) {
            match file.clear() {
                Ok(()) => tracing::info!(
                    "the stored hashes of the account are deleted: the config has another account or password, which \
                     counts"
                ),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        Self::of(config, stored)
    }

    /// For commands that change nothing. Blocks.
    pub(crate) fn look(config: &Config, file: &HashFile) -> Self {
        Self::of(config, file.look())
    }

    /// The config's account with these hashes of the store. Hashes of another user name are not used.
    fn of(config: &Config, stored: Option<StoredHashes>) -> Self {
        let account = config.lan_account.clone();
        let is_its = |stored: &StoredHashes| {
            account
                .as_ref()
                .is_none_or(|account| account.password.is_none() && account.username == stored.username)
        };
        Self { stored: stored.filter(is_its), account }
    }

    fn password_contradicts(config: &Config, stored: Option<&StoredHashes>) -> bool {
        let Some(LanAccount { username, password: Some(password), .. }) = &config.lan_account else {
            return false;
        };
        let hashes = KlapHashes::of(username, password);
        stored.is_some_and(|stored| !stored.are_of(username, &hashes))
    }

    /// The accounts that a plug may hold. `registered` is the e-mail address as TP-Link spells it, if a login told it.
    pub(crate) fn accounts(&self, registered: Option<&str>) -> KlapAccounts {
        match (&self.account, &self.stored) {
            (Some(LanAccount { username, password: Some(password), is_of_cloud, .. }), _) => {
                KlapAccounts::of(username, password, registered.filter(|_| *is_of_cloud))
            }
            (_, Some(stored)) => stored.accounts(),
            (_, None) => KlapAccounts::default(),
        }
    }

    /// Where they come from.
    pub(crate) fn source(&self) -> LanLoginSource {
        match (&self.account, &self.stored) {
            (Some(LanAccount { password: Some(_), table, .. }), _) => LanLoginSource::Config(table),
            (_, Some(_)) => LanLoginSource::Store,
            (_, None) => LanLoginSource::Missing,
        }
    }

    /// The e-mail address; `None` if neither config nor store has one.
    pub(crate) fn username(&self) -> Option<&str> {
        let stored = || self.stored.as_ref().map(|stored| &*stored.username);
        self.account.as_ref().map(|account| &*account.username).or_else(stored)
    }

    /// Logs which account counts.
    pub(super) fn log(&self) {
        tracing::debug!("the account for plugs that speak KLAP: {}", self.in_words());
    }

    /// How the LAN logs in: `with the password in [local]`. Without a secret.
    pub(crate) fn in_words(&self) -> String {
        match (self.source(), &self.account) {
            (LanLoginSource::Config(table), _) => format!("with the password in {table}"),
            (LanLoginSource::Store, _) => "with the hashes of an earlier login".to_owned(),
            (LanLoginSource::Missing, Some(LanAccount { is_of_cloud: true, .. })) => {
                "not yet: run `hs100d cloud login`".to_owned()
            }
            (LanLoginSource::Missing, Some(_)) => "not yet: run `hs100d cloud login --lan-only`".to_owned(),
            (LanLoginSource::Missing, None) => {
                "none: add [local] username and password, or run `hs100d cloud login --lan-only`".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::paths::{ConfigPath, Environment};
    use crate::klap_hashes::KlapSpelling;
    use crate::secret::Secret;

    fn config(text: &str) -> Config {
        Config::read(text, &ConfigPath::Nowhere, &Environment::of([])).unwrap()
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn spellings(accounts: &KlapAccounts) -> Vec<KlapSpelling> {
        accounts.own().map(|account| account.spelling).collect()
    }

    const CLOUD: &str = "[cloud]\nusername = \"me@example.com\"\n";
    const WITH_PASSWORD: &str = "[cloud]\nusername = \"me@example.com\"\npassword = \"pw\"\n";

    fn stored(username: &str, password: &str) -> StoredHashes {
        StoredHashes::of(username, &KlapAccounts::of(username, &secret(password), Some("Me@example.com")))
    }

    #[test]
    fn the_config_counts_before_the_store_and_other_users_hashes_do_not_count() {
        use LanLoginSource::{Config, Missing, Store};
        let me = || Some(stored("me@example.com", "pw"));
        let you = || Some(stored("you@example.com", "pw"));
        let local = "[local]\nusername = \"you@example.com\"\n";
        let local_with_password = "[local]\nusername = \"you@example.com\"\npassword = \"pw\"\n";
        for (text, hashes, source) in [
            ("", None, Missing),
            ("", you(), Store),
            (CLOUD, None, Missing),
            (CLOUD, me(), Store),
            (CLOUD, you(), Missing),
            (WITH_PASSWORD, me(), Config("[cloud]")),
            (WITH_PASSWORD, None, Config("[cloud]")),
            (local, you(), Store),
            (local, me(), Missing),
            (local_with_password, me(), Config("[local]")),
        ] {
            assert_eq!(LanLogin::of(&config(text), hashes).source(), source, "{text}");
        }
        let both = format!("{local}{WITH_PASSWORD}");
        assert_eq!(
            LanLogin::of(&config(&both), None).source(),
            Missing,
            "the password is of another account"
        );
    }

    #[test]
    fn the_registered_spelling_is_added_to_the_clouds_account_only() {
        let accounts = |text: &str| LanLogin::of(&config(text), None).accounts(Some("Me@example.com"));
        let both = [KlapSpelling::AsWritten, KlapSpelling::AsRegistered];
        assert_eq!(spellings(&accounts(WITH_PASSWORD)), both);
        let other = "[local]\nusername = \"you@example.com\"\npassword = \"pw\"\n";
        assert_eq!(spellings(&accounts(&format!("{other}{WITH_PASSWORD}"))), both[..1]);
        let same = format!("[local]\nusername = \"ME@example.com\"\n{WITH_PASSWORD}");
        let expected = KlapAccounts::of("ME@example.com", &secret("pw"), Some("Me@example.com"));
        assert_eq!(accounts(&same), expected, "spelled for the LAN, with the password of [cloud]");
    }

    #[test]
    fn stored_hashes_need_no_password_and_are_deleted_once_the_config_contradicts_them() {
        let directory = tempfile::tempdir().unwrap();
        let file = HashFile::of(directory.path());
        let hashes = stored("me@example.com", "pw");
        file.save(&hashes).unwrap();
        let accounts = LanLogin::load(&config(CLOUD), &file).accounts(None);
        assert_eq!(accounts, KlapAccounts::of("me@example.com", &secret("pw"), Some("Me@example.com")));

        LanLogin::load(&config(WITH_PASSWORD), &file);
        assert_eq!(file.load(), Ok(Some(hashes)), "the same account and password");
        LanLogin::look(&config(&WITH_PASSWORD.replace("pw", "other")), &file);
        assert!(file.path().exists(), "a look changes nothing");
        let login = LanLogin::load(&config(&WITH_PASSWORD.replace("pw", "other")), &file);
        assert_eq!(login.source(), LanLoginSource::Config("[cloud]"));
        assert!(!file.path().exists());
    }

    #[test]
    fn damaged_hashes_are_set_aside_and_cost_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = HashFile::of(directory.path());
        std::fs::write(file.path(), "{").unwrap();
        assert_eq!(LanLogin::look(&config(CLOUD), &file).source(), LanLoginSource::Missing);
        assert!(file.path().exists(), "a look changes nothing");
        assert_eq!(LanLogin::load(&config(CLOUD), &file).source(), LanLoginSource::Missing);
        assert!(!file.path().exists() && directory.path().join("klap.hashes.damaged").exists());
    }
}
