# The commands of the day. `just` lists them; https://just.systems explains the file.

# List the commands.
default:
    @just --list --unsorted

# The daemon in a simulated home on loopback, with nothing installed.
demo *args:
    cargo run --release -- demo {{ args }}

# Format, clippy, unit and story tests: under four minutes with a warm build folder.
quick:
    .ci/run quick

# Everything that must hold before a change goes in. Installs what it needs.
gate:
    .ci/run

# All tests, or those of one program: `just test --test stories routing`.
test *args:
    cargo test {{ args }}

# Rewrite the source the way the gate wants it.
fmt:
    cargo fmt
    cargo fmt --manifest-path fuzz/Cargo.toml

# What clippy says, with and without features.
lint:
    cargo clippy --all-targets -- -D warnings
    cargo clippy --all-targets --no-default-features -- -D warnings

# The documentation of the crate, in a browser.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --open

# A day of faults for the decisions, in seconds: `just chaos --seed 7 --story plug-3`.
chaos *args:
    cargo run --release --example chaos -- --storm {{ args }}

# The daemon against its yardsticks: `just bench --quick`.
bench *args:
    cargo run --profile dist --example bench_house -- {{ args }}

# Fuzz each input that strangers control, a minute each.
fuzz *targets:
    fuzz/run.sh {{ targets }}

# The Debian package, in target/debian.
package *args:
    contrib/package.sh {{ args }}
