//! Shared by tests with many plugs: commands that flow to all of them, and a wait until all are shown at their
//! addresses.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::e2e::{Scene, json_of};
use crate::support::mqtt::{Message, Subscriber, within};

/// The number of commands to each plug before a change, and after it.
const COMMANDS: usize = 4;

/// The topic name of the plug with this number, which comes from its alias.
pub(crate) fn name(number: usize) -> String {
    format!("plug-{}", number + 1)
}

/// Waits until every plug is shown over the LAN at its host.
pub(crate) async fn all_are_shown(subscriber: &Subscriber, hosts: &BTreeMap<String, String>) {
    subscriber
        .until(&format!("all of {hosts:?}"), |all| {
            let newest = |topic: &str| all.iter().rfind(|seen| seen.topic == topic);
            let is_shown = |(plug, host): (&String, &String)| {
                let info = newest(&format!("hs100d/{plug}/info")).map(json_of);
                newest(&format!("hs100d/{plug}/availability")).is_some_and(|seen| seen.payload == "online")
                    && newest(&format!("hs100d/{plug}/state"))
                        .is_some_and(|seen| json_of(seen)["route"] == "local")
                    && info.is_some_and(|info| info["host"] == **host)
            };
            hosts.iter().all(is_shown).then_some(())
        })
        .await;
}

/// Switches all plugs on and off all the time while `change` happens. Each command must have exactly one result, which
/// must be `ok`. Returns how often each plug was switched.
pub(crate) async fn switch_all_through(
    scene: &Arc<Scene>,
    plugs: usize,
    change: impl Future<Output = ()>,
) -> Vec<usize> {
    let results = |all: &[Message]| all.iter().filter(|seen| seen.topic.ends_with("/result")).count();
    let before = results(&scene.subscriber.messages());
    let (done, mut progress) = watch::channel(0);
    let (tell_changed, changed) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for number in 0..plugs {
        let switching = keep_switching(Arc::clone(scene), number, done.clone(), changed.clone());
        tasks.spawn(async move { (number, switching.await) });
    }
    within("the first commands", progress.wait_for(|&done| done >= plugs * COMMANDS)).await.unwrap();
    change.await;
    tell_changed.send(true).unwrap();
    let mut counts = vec![0; plugs];
    while let Some(ended) = tasks.join_next().await {
        let (number, count) = ended.unwrap();
        counts[number] = count;
    }
    let commands: usize = counts.iter().sum();
    assert_eq!(results(&scene.subscriber.messages()) - before, commands, "each command has one result");
    counts
}

/// Switches a plug on and off in turn, each time after the last result.
async fn keep_switching(
    scene: Arc<Scene>,
    number: usize,
    done: watch::Sender<usize>,
    changed: watch::Receiver<bool>,
) -> usize {
    let (mut commands, mut left) = (0, COMMANDS);
    // An even number: in the end the plug is off, ready to be switched on again.
    while left > 0 || commands % 2 == 1 {
        let state = if commands % 2 == 0 { "ON" } else { "OFF" };
        left = left.saturating_sub(usize::from(*changed.borrow()));
        let result = scene.command(&name(number), json!({ "state": state })).await;
        assert_eq!((&result["status"], &result["state"]), (&json!("ok"), &json!(state)), "{result}");
        commands += 1;
        done.send_modify(|done| *done += 1);
    }
    commands
}

/// Checks that a plug's log has only these commands; a command that arrived twice counts once.
pub(crate) fn assert_own_commands_alone(plug: &str, log: impl IntoIterator<Item = bool>, commands: usize) {
    let mut states: Vec<bool> = log.into_iter().collect();
    states.dedup();
    let expected: Vec<bool> = (0..commands).map(|command| command % 2 == 0).collect();
    assert_eq!(states, expected, "{plug} is switched by its own commands alone");
}

/// Waits until this many plugs were followed to another address, and checks that no more were.
pub(crate) async fn so_many_moved(subscriber: &Subscriber, count: usize) {
    let moves =
        |all: &[Message]| all.iter().filter(|seen| seen.payload.contains("\"address_changed\"")).count();
    subscriber.until(&format!("{count} moves"), |all| (moves(all) >= count).then_some(())).await;
    assert_eq!(moves(&subscriber.messages()), count);
}
