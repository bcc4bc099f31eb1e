//! Asks plugs that speak KLAP, for commands that look: with which account, and what its failure says about it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::bridge::event::{Exchange, Identity, PlugKey, Target, TdpReply};
use crate::cause::{self, Cause};
use crate::config::Config;
use crate::daemon::lan_login::LanLogin;
use crate::klap_hashes::{KlapAccounts, OwnerHash};
use crate::model::{Address, Failure, KLAP_PORT, LanProtocol};
use crate::secret::shortened;
use crate::smarthome::message::Reading;
use crate::store::Store;
use crate::transport::lan::Lan;

/// The account that plugs which speak KLAP are asked with.
#[derive(Debug)]
pub(super) struct KlapLogin {
    accounts: KlapAccounts,
    /// Such as `as m…@example.com, with the password in [local]`.
    words: String,
}

/// Whose account a plug says that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KlapOwner {
    /// It does not say, or it holds a setup account.
    Unknown,
    /// That of the user, in one of the spellings that are tried.
    Ours,
    /// Another account, or another spelling of the e-mail.
    Another,
}

impl KlapLogin {
    /// That of the config, else of the store. `registered` is the e-mail address as TP-Link spells it, if that is known.
    pub(super) fn of(config: &Config, store: &Store, registered: Option<&str>) -> Self {
        let login = LanLogin::look(config, &store.hash_file());
        let words = match login.username() {
            Some(username) => format!("as {}, {}", shortened(username), login.in_words()),
            None => "without an account".to_owned(),
        };
        Self { accounts: login.accounts(registered), words }
    }

    /// In words, without a secret.
    pub(super) fn words(&self) -> &str {
        &self.words
    }

    /// A LAN that logs in with it.
    pub(super) fn lan(&self) -> Lan {
        let lan = Lan::default();
        lan.set_klap_accounts(self.accounts.clone());
        lan
    }

    /// Whose account a plug holds that says this.
    pub(super) fn owner(&self, owner: Option<&OwnerHash>) -> KlapOwner {
        match owner.map(|owner| self.accounts.owner(owner)) {
            Some(Some(spelling)) if spelling.is_own() => KlapOwner::Ours,
            Some(None) => KlapOwner::Another,
            Some(Some(_)) | None => KlapOwner::Unknown,
        }
    }
}

impl KlapOwner {
    /// Why a plug refuses our account.
    pub(super) fn cause(self) -> Cause {
        match self {
            Self::Unknown => cause::OTHER_ACCOUNT,
            Self::Ours => cause::OLD_PASSWORD,
            Self::Another => cause::OTHER_OWNER,
        }
    }
}

/// Where a plug that speaks KLAP listens.
pub(super) fn socket_of(device: &TdpReply, ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, device.port.unwrap_or(KLAP_PORT))
}

/// Reads a plug over KLAP. `plug` tells it from the others that this LAN is used for.
pub(super) async fn read(
    lan: &Lan,
    plug: PlugKey,
    address: &Address,
    expect: Identity,
    limit: Duration,
) -> Result<Box<Reading>, Failure> {
    let target =
        Target::Local { address: address.clone(), protocol: LanProtocol::Klap, expect: expect.clone() };
    let exchange = Exchange::look(plug, address.to_string().into(), target, Instant::now() + limit);
    let outcome = lan.perform(&exchange, address, LanProtocol::Klap, &expect).await;
    outcome.result?.into_sysinfo().map(Box::new)
}
