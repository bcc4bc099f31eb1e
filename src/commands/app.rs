//! `app`: runs the daemon in the container of the Home Assistant app.
//!
//! Its config is a file of one's own, the options of the app laid over it, and what the Supervisor says of the broker. The
//! daemon starts without waiting for the Supervisor: each answer is a reload.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use tokio::sync::mpsc;

use super::run::{self, Start};
use super::{Context, Exit, Failed};
use crate::config::paths::{ConfigPath, Environment, app_state_dir};
use crate::config::{BrokerConfig, Config, CurrentFile, Invalid};
use crate::daemon::signals::SignalRequest;
use crate::http::{HttpOptions, IngressOptions, Listen};
use crate::mqtt::LoginSource;
use crate::supervisor::answers::{Answers, WantedAnswers};
use crate::supervisor::client::{BrokerService, Supervisor, is_in_app};
use crate::supervisor::options::AppOptions;
use crate::supervisor::watch::Watch;

/// Where the Supervisor's requests for the status page come from.
const SUPERVISOR_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 30, 32, 2));
/// The options, in the state directory: the Supervisor writes there.
const OPTIONS: &str = "options.json";
/// The Unix socket for the page and for `hs100d health`, in the state directory. With the host's network another program may have
/// the usual port.
const SOCKET: &str = "http.sock";

/// Run as the Home Assistant app.
///
/// Reads /config/hs100d.toml, if it is there; lays the options in /data/options.json over it; and takes broker, user and
/// password from the Supervisor, unless the file or the options name a broker. The state is in /data.
///
/// $STATE_DIRECTORY replaces /data, --config and $HS100D_CONFIG replace /config/hs100d.toml. The Supervisor is at
/// $SUPERVISOR_API (http://supervisor) and is asked with $SUPERVISOR_TOKEN.
///
/// Broker and login are waited for, and asked for again when the broker refuses the login; the plugs are served meanwhile.
///
/// `hs100d health`, `list` and the other commands find this daemon in its container without arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The only address that may open the status page on its port for Home Assistant
    #[arg(long, value_name = "ADDRESS", default_value_t = SUPERVISOR_ADDRESS)]
    ingress_from: IpAddr,
}

/// The files of the app.
#[derive(Debug, Clone)]
pub(super) struct AppFiles {
    pub(super) config_path: ConfigPath,
    pub(super) state_dir: PathBuf,
    environment: Environment,
}

/// Runs until SIGTERM or SIGINT; SIGHUP reads the options and the file again, and asks the Supervisor.
///
/// # Errors
/// The options or the file are wrong.
pub(super) async fn run(args: Args, context: &Context) -> Result<(), Failed> {
    let app = AppFiles::of(context);
    let supervisor = Supervisor::of(&context.environment).map_err(|line| Failed::new(Exit::Config, line))?;
    let answers = Answers::default();
    let read = {
        let (app, answers) = (app.clone(), answers.clone());
        move |current: &CurrentFile| app.config(&answers, args.ingress_from, current)
    };
    let config = read(&CurrentFile::default())?;
    tracing::info!("{}", app.sources());
    let (source, inquiries) = LoginSource::channel();
    let mut watch = Watch::new(supervisor, answers, inquiries);
    let ask = move |requests: mpsc::Sender<SignalRequest>| {
        tokio::spawn(async move {
            loop {
                watch.changed().await;
                if requests.send(SignalRequest::Reload).await.is_err() {
                    return;
                }
            }
        });
    };
    let start = Start { config, state_dir: app.state_dir, read: Box::new(read), source };
    run::serve(start, ask).await
}

impl AppFiles {
    fn of(context: &Context) -> Self {
        Self {
            config_path: ConfigPath::find_of_app(context.config.as_deref(), &context.environment),
            state_dir: app_state_dir(&context.environment),
            environment: context.environment.clone(),
        }
    }

    /// The app in whose container this command runs, if it does.
    pub(super) fn around(context: &Context) -> Option<Self> {
        let app = Self::of(context);
        let is_here = context.config.is_none() && is_in_app(&context.environment) && app.options().exists();
        is_here.then_some(app)
    }

    /// How much is logged, as a number of `-v`. A fault is reported when the config is read.
    pub(super) fn verbosity(context: &Context) -> i8 {
        AppOptions::load(&Self::of(context).options()).map_or(0, |options| options.verbosity)
    }

    pub(super) fn options(&self) -> PathBuf {
        self.state_dir.join(OPTIONS)
    }

    /// The config as far as the files say it.
    ///
    /// # Errors
    /// One line for each fault.
    pub(super) fn config_of_files(&self) -> Result<Config, Invalid> {
        self.config(&Answers::default(), SUPERVISOR_ADDRESS, &CurrentFile::default())
    }

    fn config(
        &self,
        answers: &Answers,
        ingress_from: IpAddr,
        current: &CurrentFile,
    ) -> Result<Config, Invalid> {
        let options = self.options();
        current.set(&options);
        let AppOptions { mut overlay, mut warnings, .. } = AppOptions::load(&options)?;
        let socket = self.state_dir.join(SOCKET);
        overlay.set_default("http", "listen", &format!("{}{}", Listen::UNIX, socket.display()));
        let mut config = Config::load_below(&overlay, &self.config_path, &self.environment, current)?;
        warnings.append(&mut config.warnings);
        config.warnings = warnings;
        // The page in Home Assistant and `health` need it: turned off, it has no port.
        config.http.get_or_insert_with(|| HttpOptions::at(Listen::Unix(socket)));
        let known = answers.known();
        answers.want(wanted(&config.broker));
        if let Some(service) = known.broker {
            name_broker(&mut config.broker, service);
        }
        config.ingress = known.ingress.map(|listen| IngressOptions { listen, only_from: ingress_from });
        Ok(config)
    }

    /// Which files the config comes from, for the log.
    fn sources(&self) -> String {
        let options = self.options();
        match self.config_path.path() {
            Some(file) => {
                format!("config: {}, and the options in {} over it", file.display(), options.display())
            }
            None => format!("config: the options in {}; there is no file of one's own", options.display()),
        }
    }
}

fn wanted(broker: &BrokerConfig) -> WantedAnswers {
    match broker {
        BrokerConfig::Awaited { username: None, .. } => WantedAnswers::BrokerAndLogin,
        BrokerConfig::Awaited { .. } => WantedAnswers::Broker,
        BrokerConfig::Embedded { .. } | BrokerConfig::Outside { .. } => WantedAnswers::Nothing,
    }
}

/// Uses this broker, if none is named in the config; with the login in the config, if there is one.
fn name_broker(broker: &mut BrokerConfig, service: BrokerService) {
    if let BrokerConfig::Awaited { tls, username, password } = broker {
        let (username, password) = match username.take() {
            Some(username) => (Some(username), password.take()),
            None => (service.username, service.password),
        };
        let tls = service.has_tls.then(|| tls.clone());
        let BrokerService { host, port, .. } = service;
        *broker = BrokerConfig::Outside { host, port, others: Vec::new(), tls, username, password };
    }
}
