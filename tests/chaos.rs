//! The daemon's decisions under simulated faults, on a clock that does not wait. Every promise holds at every step, and
//! for every promise there is a sabotage that the judge notices. `cargo run --release --example chaos` runs longer
//! ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

#[path = "support/chaos/mod.rs"]
mod chaos_kit;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chaos_kit::{Listener, Plan, Promise, Sabotage, Season, World};

fn plan(seed: u64, hours: u64) -> Plan {
    Plan {
        seed,
        lasts: Duration::from_secs(hours * 3600),
        plugs: 30,
        season: Season::Storm,
        sabotage: None,
        listener: Listener::Nobody,
    }
}

#[test]
fn a_few_stormy_hours_break_no_promise() {
    for seed in 1..=8 {
        if let Err(broken) = World::new(plan(seed, 3)).play() {
            panic!("seed {seed}: {broken}");
        }
    }
}

/// A hundred plugs, each read once a minute over the cloud, exceed the rate limit.
#[test]
fn over_a_day_of_a_dead_lan_the_cloud_is_used_to_its_budget_and_no_more() {
    let plan = Plan { plugs: 100, season: Season::DeadLan, ..plan(1, 24) };
    let lasts = plan.lasts.as_secs();
    let tally = World::new(plan).play().unwrap_or_else(|broken| panic!("{broken}"));
    assert!(tally.cloud_calls <= lasts + 60, "{tally:?}");
    assert!(tally.cloud_calls >= lasts * 9 / 10, "it is made use of: {tally:?}");
    assert!(tally.done > 0 && tally.done + tally.superseded >= tally.commands * 9 / 10, "{tally:?}");
}

#[test]
fn the_same_seed_tells_the_same_story_to_the_byte() {
    let play = |seed| {
        let mut world = World::new(Plan { listener: Listener::Written, ..plan(seed, 2) });
        let tally = world.play().unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        (tally, world.written().to_owned())
    };
    let ((tally, story), (again, same_story)) = (play(3), play(3));
    let lines = story.lines().zip(same_story.lines()).enumerate();
    for (number, (line, same)) in lines {
        assert_eq!(line, same, "line {number}");
    }
    assert_eq!((tally, story.len()), (again, same_story.len()));
    assert!(story.contains("bytes of text"), "it has a rest in it");
    assert_ne!(story, play(4).1);
}

#[test]
fn each_promise_can_be_broken_and_is_seen_to_be() {
    for (sabotage, promise) in Sabotage::ALL {
        let broken = (1..=6).find_map(|seed| {
            let plan = Plan { sabotage: Some(sabotage), ..plan(seed, 12) };
            World::new(plan).play().err()
        });
        let broken = broken.unwrap_or_else(|| panic!("the judge does not notice {sabotage:?}"));
        assert_eq!(broken.promise, promise, "{sabotage:?}: {broken}");
    }
    for promise in Promise::ALL {
        assert!(Sabotage::ALL.iter().any(|&(_, broken)| broken == promise), "nothing breaks {promise:?}");
    }
}

/// Standard output of a command that succeeds.
fn output(folder: &Path, words: &str) -> String {
    let mut bash = Command::new("bash");
    bash.args(["-c", words]).current_dir(folder).env("SOURCES", env!("CARGO_MANIFEST_DIR"));
    // A Git hook that runs the tests may set these for its own repository.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        bash.env_remove(name);
    }
    let output = bash.output().expect("bash runs");
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn the_gate_draws_the_same_fresh_seeds_from_a_commit_in_a_shallow_clone_and_in_an_exported_tree() {
    if Command::new("git").arg("--version").output().is_err() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a folder");
    let repo = scratch.path().join("repo");
    std::fs::create_dir(&repo).expect("a folder");
    let commit = "git add -A && git -c user.name=x -c user.email=x@example.com -c commit.gpgsign=false \
                  commit -q -m x --no-verify";
    output(
        &repo,
        r#"cp -r "$SOURCES"/{.ci,.gitattributes,Cargo.toml,Cargo.lock} . && mkdir src crates tests examples"#,
    );
    // As it is in the repository, before `git archive` replaces it.
    output(&repo, "echo '$Format:%H$' >.ci/commit");
    output(&repo, &format!("git init -q && {commit}"));

    let drawn = |folder: &str| output(&scratch.path().join(folder), ".ci/fresh-seeds 200");
    let first = drawn("repo");
    let head = output(&repo, "git rev-parse HEAD");
    let (seeds, from) = first.split_once(' ').expect("the seeds and where they come from");
    let (start, end) = seeds.split_once('-').expect("a range");
    let [start, end] = [start, end].map(|number| number.parse::<u64>().expect("a seed"));
    assert_eq!((end - start, from), (199, head.as_str()));
    assert_eq!(format!("{start:012x}"), head[..12], "drawn from the commit");

    output(scratch.path(), "git clone -q --depth 1 file://$PWD/repo shallow");
    assert_eq!(drawn("shallow"), first);
    output(scratch.path(), "mkdir exported && git -C repo archive HEAD | tar -x -C exported");
    assert_eq!(drawn("exported"), first);
    // The archive has neither the id of its commit nor that of a repository around it.
    output(
        scratch.path(),
        "mkdir repo/copy && cp -r repo/.ci repo/Cargo.* repo/src repo/crates repo/tests repo/examples repo/copy",
    );
    let copied = drawn("repo/copy");
    assert!(!copied.contains(from) && copied.contains('-'), "{copied}");
    assert_eq!(drawn("repo/copy"), copied);

    output(&repo, commit);
    assert_ne!(drawn("repo"), first);
}
