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
use crate::config::{Config, LanAccount};
use crate::klap_hashes::KlapAccounts;
use crate::secret::{BadSecret, Secret};
use crate::store::{Store, StoredHashes};
use crate::transport::cloud::api::{Row, TwoStep};
use crate::transport::cloud::request::CodeBy;
use crate::transport::cloud::{Cloud, CloudError};

/// Nothing usable was typed when a code was asked for.
const NO_CODE: &str = "code: there is none: run the command again, and type what it asks for";

/// The subcommands for the account.
#[derive(Debug, Subcommand)]
pub(super) enum CloudCommand {
    /// Log in: ask for the password, or read it from standard input, and store a token, and hashes of the password for
    /// plugs that speak KLAP; never the password
    Login {
        /// Store only the hashes, and use no network
        #[arg(long)]
        lan_only: bool,
    },
    /// Delete the token and the hashes
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
    match command {
        CloudCommand::Login { lan_only: false } => login(&installation, &store).await,
        CloudCommand::Login { lan_only: true } => login_for_the_lan(&installation, &store).await,
        CloudCommand::Logout => logout(&installation, &store).await,
        CloudCommand::Devices { json } => devices(&cloud(&installation, &store)?, &store, json).await,
    }
}

/// The account of the config.
fn cloud(installation: &Installation, store: &Store) -> Result<Cloud, Failed> {
    oneshot::account(&installation.config, store)?.cloud.ok_or_else(|| {
        Failed::new(
            Exit::Config,
            "cloud: there is no account: add a [cloud] table with `username` to the config",
        )
    })
}

async fn login(installation: &Installation, store: &Store) -> Result<(), Failed> {
    let cloud = cloud(installation, store)?;
    let password = password().await?;
    if let Err(refused) = cloud.login(password.clone()).await {
        let Some(two_step) = cloud.two_step() else { return Err(refused.into()) };
        confirm(&cloud, &password, &two_step).await?;
    }
    match &installation.config.lan_account {
        Some(LanAccount { username, is_of_cloud: true, .. }) => {
            let registered = cloud.registered().borrow().clone();
            save_hashes(store, username, &password, registered.as_deref())?;
            say(
                "Logged in. A token is stored, and hashes of the password for plugs that speak KLAP; the password is \
                 not.\n",
            )?;
        }
        _ => say(
            "Logged in. The token is stored, the password is not. For plugs that speak KLAP, [local] names another \
             account: `hs100d cloud login --lan-only` is for that one.\n",
        )?,
    }
    say_which_password_counts(&installation.config, &password)?;
    daemon_client::reload(&installation.config, store, installation.is_service_running()).await
}

/// Completes a login with a code, once: a wrong one needs a new login.
async fn confirm(cloud: &Cloud, password: &Secret, two_step: &TwoStep) -> Result<(), Failed> {
    if !is_terminal() {
        return Err(Failed::new(
            Exit::CommandFailed,
            "cloud: the account uses two-step verification, and only a terminal can be asked for the code: run `hs100d cloud \
             login` at one, and type the password",
        ));
    }
    let ways = two_step.ways.clone();
    let by = match ways[..] {
        [by] => by,
        _ => typed(NO_CODE, move || prompt_for_way(&ways)).await?,
    };
    cloud.send_code(by, password).await?;
    let code = typed(NO_CODE, move || prompt_for_code(by)).await?;
    Ok(cloud.login_with_code(password.clone(), two_step, by, code).await?)
}

/// Stores the hashes of what the user types, without a check: only a plug could tell whether they are right.
async fn login_for_the_lan(installation: &Installation, store: &Store) -> Result<(), Failed> {
    let config = &installation.config;
    let (username, password) = match &config.lan_account {
        Some(account) => (account.username.clone(), password().await?),
        None => username_and_password().await?,
    };
    save_hashes(store, &username, &password, None)?;
    say(
        "Hashes of the password are stored for plugs that speak KLAP; the password is not. Nothing was sent, so a plug \
         has to show that they are right: `hs100d check --online`.\n",
    )?;
    say_which_password_counts(config, &password)?;
    if config.broker.is_on_this_machine() {
        return daemon_client::reload(config, store, installation.is_service_running()).await;
    }
    say(
        "The broker is on another machine, so no running daemon was informed: type `sudo systemctl reload hs100d`, or send \
         SIGHUP to it.\n",
    )
}

async fn logout(installation: &Installation, store: &Store) -> Result<(), Failed> {
    store.token_file().clear().and(store.hash_file().clear())?;
    say(
        "Logged out: the token and the hashes of the password are deleted here. TP-Link offers no way to revoke the \
         token; to end it there, change the account's password.\n",
    )?;
    daemon_client::reload(&installation.config, store, installation.is_service_running()).await
}

fn save_hashes(
    store: &Store,
    username: &str,
    password: &Secret,
    registered: Option<&str>,
) -> Result<(), Failed> {
    let accounts = KlapAccounts::of(username, password, registered);
    Ok(store.hash_file().save(&StoredHashes::of(username, &accounts))?)
}

/// A password in the config has priority over the stored hashes.
fn say_which_password_counts(config: &Config, typed: &Secret) -> Result<(), Failed> {
    match &config.lan_account {
        Some(LanAccount { password: Some(written), table, .. }) if written != typed => say(&format!(
            "The config has another password in {table}, which plugs that speak KLAP get instead: correct or remove it.\n"
        )),
        _ => Ok(()),
    }
}

/// Typed without an echo, or all of standard input.
async fn password() -> Result<Secret, Failed> {
    let missing = "password: it is empty: type it, or pipe it in";
    typed(missing, || if is_terminal() { prompt_for_password() } else { Secret::read(standard_input()?) })
        .await
}

/// Typed, the password without an echo, or the two lines of standard input.
async fn username_and_password() -> Result<(String, Secret), Failed> {
    let missing = "user name or password: it is empty: type both, pipe in two lines, the e-mail address and the password, or \
                   add [local] username to the config";
    let read = || {
        let (username, password) = if is_terminal() {
            (prompt_for_username()?, prompt_for_password()?)
        } else {
            Secret::read_after_a_line(standard_input()?)?
        };
        let username = username.trim().to_owned();
        if username.is_empty() { Err(BadSecret::Empty) } else { Ok((username, password)) }
    };
    typed(missing, read).await
}

/// Reads in a thread: a user takes time to type.
async fn typed<T: Send + 'static>(
    missing: &str,
    read: impl FnOnce() -> Result<T, BadSecret> + Send + 'static,
) -> Result<T, Failed> {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(typed)) => Ok(typed),
        Ok(Err(BadSecret::Empty)) => Err(Failed::new(Exit::Usage, missing)),
        Ok(Err(BadSecret::Unreadable(error))) => {
            Err(Failed::new(Exit::CommandFailed, format!("password: {error}: type it, or pipe it in")))
        }
        Ok(Err(bad)) => Err(Failed::new(Exit::Usage, format!("password: standard input {bad}"))),
        Err(_) => Err(Failed::new(Exit::CommandFailed, "password: it could not be read: try again")),
    }
}

fn is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Without the buffer of standard input, in which the password would remain.
fn standard_input() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn prompt_for_username() -> Result<String, BadSecret> {
    eprint!("E-mail address of the TP-Link account, spelled as the app shows it: ");
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line)
}

fn prompt_for_way(ways: &[CodeBy]) -> Result<CodeBy, BadSecret> {
    eprint!("The account uses two-step verification. Send the code to its apps (a) or by e-mail (e)? ");
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let by = match line.trim().chars().next().map(|first| first.to_ascii_lowercase()) {
        Some('a') => CodeBy::Push,
        Some('e') => CodeBy::Email,
        _ => return Err(BadSecret::Empty),
    };
    ways.contains(&by).then_some(by).ok_or(BadSecret::Empty)
}

/// With an echo: it is good for one login, and easily mistyped.
fn prompt_for_code(by: CodeBy) -> Result<Secret, BadSecret> {
    match by {
        CodeBy::Push => eprint!("Code that an app of TP-Link's shows: "),
        CodeBy::Email => eprint!("Code from TP-Link's e-mail: "),
    }
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    match line.trim() {
        "" => Err(BadSecret::Empty),
        code => Ok(Secret::new(code.to_owned())),
    }
}

fn prompt_for_password() -> Result<Secret, BadSecret> {
    match rpassword::prompt_password("Password of the TP-Link account: ")? {
        typed if typed.is_empty() => Err(BadSecret::Empty),
        typed => Ok(Secret::new(typed)),
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
