//! The table of docs/FLEET.md.

use std::fmt::Write as _;
use std::time::Duration;

use super::audit::Found;
use super::cases::Outcome;
use super::site::Sites;

/// One outcome as a line of progress.
pub(crate) fn line(outcome: &Outcome) -> String {
    let Outcome { case, moved, peak, bars, commands, .. } = outcome;
    let [before, after] = &outcome.at_nodes;
    let all_answer = outcome.all_answer.map_or("never".to_owned(), seconds);
    format!(
        "{}: {} → {}: {moved} sites moved, all answer after {all_answer}, peak {peak} connections/s |{bars}|; {} commands, {} ok, \
         {} errors, {} without subscriber, {} cut off, {} silent ({} of those executed), slowest {}, retained {}, after a \
         birth {} in {}",
        case.title(),
        numbers(before),
        numbers(after),
        commands.sent,
        commands.ok,
        commands.error,
        commands.nobody,
        commands.cut_off,
        commands.silent,
        commands.executed_silently,
        seconds(commands.slowest),
        outcome.retained.map(|found| share(&found)).join(" "),
        share(&outcome.births.0),
        seconds(outcome.births.1),
    )
}

/// All outcomes as Markdown.
pub(crate) fn table(outcomes: &[Outcome], sites: &Sites) -> String {
    let mut text = format!("{} sites of {} plugs at three nodes\n\n", sites.count, sites.each);
    text.push_str(
        "| failure | sites at n1 n2 n3 | sites that moved | all answer again | connections in the worst second | commands: ok / all | \
         without result | retained at n1, n2, n3 | after a birth message |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for outcome in outcomes {
        let Outcome { moved, peak, bars, commands, .. } = outcome;
        let [before, after] = &outcome.at_nodes;
        let without = commands.nobody + commands.cut_off + commands.silent;
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} → {} | {moved} | {} (at most {}) | {peak} `{bars}` | {} / {} | {without} | {} | {} in {} |",
            outcome.case.title(),
            numbers(before),
            numbers(after),
            outcome.all_answer.map_or("never".to_owned(), seconds),
            seconds(outcome.bound),
            commands.ok,
            commands.sent,
            outcome.retained.map(|found| share(&found)).join("; "),
            share(&outcome.births.0),
            seconds(outcome.births.1),
        );
    }
    text
}

fn numbers(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")
}

fn share(found: &Found) -> String {
    let Found { expected, present, right, .. } = found;
    match present - right {
        0 => format!("{right}/{expected}"),
        stale => format!("{right}/{expected}, {stale} stale"),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
