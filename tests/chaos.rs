//! The daemon's decisions in a world of faults, on a clock that does not wait: what is promised holds at every step,
//! and each promise can be seen to break. `cargo run --release --example chaos` plays longer ones.

mod chaos_kit;

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

/// Each of a hundred plugs would be read once a minute over the cloud, and that alone is more than the budget.
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
fn the_same_seed_tells_the_same_story() {
    let play = |seed| World::new(plan(seed, 1)).play().expect("no promise is broken");
    assert_eq!(play(3), play(3));
    assert_ne!(play(3), play(4));
}

#[test]
fn each_promise_can_be_broken_and_is_seen_to_be() {
    for (sabotage, promise) in Sabotage::ALL {
        let broken = (1..=6).find_map(|seed| {
            let plan = Plan { sabotage: Some(sabotage), ..plan(seed, 12) };
            World::new(plan).play().err()
        });
        let broken = broken.unwrap_or_else(|| panic!("nobody notices {sabotage:?}"));
        assert_eq!(broken.promise, promise, "{sabotage:?}: {broken}");
    }
    for promise in Promise::ALL {
        assert!(Sabotage::ALL.iter().any(|&(_, broken)| broken == promise), "nothing breaks {promise:?}");
    }
}
