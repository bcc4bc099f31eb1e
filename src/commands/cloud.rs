//! `cloud`: the TP-Link account.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;

use clap::Subcommand;
use serde_json::json;

use super::installation::Installation;
use super::oneshot;
use super::table::TextTable;
use super::{Context, Exit, Failed, daemon_client, say};
use crate::bridge::event::AccountPlug;
use crate::secret::{BadSecret, Secret};
use crate::store::Store;
use crate::transport::cloud::api::Row;
use crate::transport::cloud::{Cloud, CloudError};

/// The subcommands for the account.
#[derive(Debug, Subcommand)]
pub(super) enum CloudCommand {
    /// Log in: ask for the password, or read it from standard input, and store a token, never the password
    Login,
    /// Delete the token
    Logout,
    /// List the account's devices
    Devices {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the subcommand.
///
/// # Errors
/// The config has no account, or the cloud refuses.
pub(super) async fn run(command: CloudCommand, context: &Context) -> Result<(), Failed> {
    let installation = Installation::of(context)?;
    let store = installation.store()?;
    let config = &installation.config;
    if let CloudCommand::Logout = command {
        store.token_file().clear()?;
        say(
            "Logged out: the token is deleted here. TP-Link offers no way to revoke it; to end it there, change the \
             account's password.\n",
        )?;
        return daemon_client::reload(config, &store, installation.is_service_running()).await;
    }
    let account = oneshot::account(config, &store)?;
    let Some(cloud) = &account.cloud else {
        let line = "cloud: there is no account: add a [cloud] table with `username` to the config";
        return Err(Failed::new(Exit::Config, line));
    };
    match command {
        CloudCommand::Login => {
            cloud.login(password().await?).await?;
            say("Logged in. The token is stored, the password is not.\n")?;
            daemon_client::reload(config, &store, installation.is_service_running()).await
        }
        CloudCommand::Devices { json } => devices(cloud, &store, json).await,
        CloudCommand::Logout => Ok(()),
    }
}

/// Typed without an echo, or all of standard input. Standard input is read without its buffer, in which the password
/// would remain.
async fn password() -> Result<Secret, Failed> {
    let read = tokio::task::spawn_blocking(|| {
        let input = io::stdin();
        if !input.is_terminal() {
            return Secret::read(File::from(input.as_fd().try_clone_to_owned()?));
        }
        match rpassword::prompt_password("Password of the TP-Link account: ")? {
            typed if typed.is_empty() => Err(BadSecret::Empty),
            typed => Ok(Secret::new(typed)),
        }
    });
    match read.await {
        Ok(Ok(password)) => Ok(password),
        Ok(Err(BadSecret::Empty)) => {
            Err(Failed::new(Exit::Usage, "password: it is empty: type it, or pipe it in"))
        }
        Ok(Err(BadSecret::Unreadable(error))) => {
            Err(Failed::new(Exit::CommandFailed, format!("password: {error}: type it, or pipe it in")))
        }
        Ok(Err(bad)) => Err(Failed::new(Exit::Usage, format!("password: standard input {bad}"))),
        Err(_) => Err(Failed::new(Exit::CommandFailed, "password: it could not be read: try again")),
    }
}

/// The account's devices, with their last known addresses on the LAN.
async fn devices(cloud: &Cloud, store: &Store, as_json: bool) -> Result<(), Failed> {
    let rows = cloud.list().await?;
    let known = store.known_plugs();
    let host_of = |plug: &AccountPlug| {
        let known = known.iter().find(|known| known.device_id == plug.device_id)?;
        known.address.as_ref().map(crate::model::Address::host)
    };
    let mut rows: Vec<_> = rows.iter().map(|row| (row, row.to_account_plug())).collect();
    rows.sort_by(|(_, a), (_, b)| (&a.alias, &a.device_id).cmp(&(&b.alias, &b.device_id)));
    if as_json {
        let rows: Vec<_> = rows.iter().map(|(row, plug)| document(row, plug, host_of(plug))).collect();
        return say(&format!("{}\n", json!(rows)));
    }
    if rows.is_empty() {
        return say("The account lists no devices.\n");
    }
    let mut table = TextTable::new(["ALIAS", "MODEL", "DEVICE ID", "CLOUD", "SERVER", "ADDRESS"]);
    for (row, plug) in &rows {
        table.row([
            plug.alias.escape_debug().to_string(),
            plug.model.escape_debug().to_string(),
            plug.device_id.as_str().to_owned(),
            if plug.connected { "online" } else { "offline" }.to_owned(),
            server_of(row),
            host_of(plug).unwrap_or_default(),
        ]);
    }
    say(&table.to_string())
}

fn document(row: &Row, plug: &AccountPlug, host: Option<String>) -> serde_json::Value {
    json!({
        "device_id": plug.device_id.as_str(),
        "alias": &*plug.alias,
        "model": &*plug.model,
        "type": &*plug.kind,
        "mac": plug.mac.map(|mac| mac.to_string()),
        "server": server_of(row),
        "online": plug.connected,
        "host": host,
    })
}

fn server_of(row: &Row) -> String {
    match &row.server {
        Ok(host) => host.to_string(),
        Err(refused) => format!("({refused})"),
    }
}

impl From<CloudError> for Failed {
    fn from(error: CloudError) -> Self {
        let exit = match &error {
            CloudError::NotSaved(_) => Exit::Permission,
            CloudError::Stopped(_) | CloudError::Plug(_) | CloudError::Faulty(_) => Exit::CommandFailed,
            CloudError::Down(_) | CloudError::OnlyHere(_) | CloudError::Silent | CloudError::Throttled => {
                Exit::Unavailable
            }
        };
        Self::new(exit, format!("cloud: {error}"))
    }
}
