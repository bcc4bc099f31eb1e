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
