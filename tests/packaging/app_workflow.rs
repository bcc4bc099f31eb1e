//! The workflow that builds and publishes the Home Assistant app: what it builds, and its scripts, run as they stand.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::homeassistant_app::{read, yaml};

const WORKFLOW: &str = "../../.github/workflows/app.yaml";

/// The branch that users add comes last, so that no Supervisor offers a version whose image is not there.
#[test]
fn the_workflow_builds_what_the_config_promises_with_pinned_actions() {
    let (Some(workflow), Some(config)) = (yaml(WORKFLOW), yaml("hs100d/config.yaml")) else {
        return;
    };
    let text = read(".github/workflows/app.yaml");
    let architectures = config["arch"].to_string().replace(',', ", ");
    assert!(text.contains(&format!("architectures={architectures}'")), "{architectures}");
    let actions: Vec<_> =
        text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("uses: ")).collect();
    assert_eq!(actions.len(), 7, "{actions:?}");
    for action in actions {
        let version = action.split('@').nth(1).unwrap_or_else(|| panic!("{action} names no version"));
        let is_commit = version.split(' ').next().is_some_and(|hash| hash.len() == 40);
        assert!(is_commit || version.starts_with('v'), "{action}: neither a version nor a commit");
    }
    assert!(!text.contains("latest"), "a version is all that the Supervisor asks for");
    let jobs = &workflow["jobs"];
    assert_eq!(jobs["manifest"]["needs"], json!(["prepare", "build"]));
    assert_eq!(jobs["branch"]["needs"], json!(["prepare", "manifest"]));
    assert_eq!(workflow["permissions"], json!({"contents": "read"}), "a job asks for more by itself");
}

/// The outputs of the step that reads the config, or what it complained about.
fn outputs(image: &str, git_ref: &str) -> Option<Result<BTreeMap<String, String>, String>> {
    let folder = tempfile::tempdir().unwrap();
    let config = read("contrib/homeassistant/hs100d/config.yaml");
    let shipped = config.lines().find(|line| line.starts_with("image: ")).unwrap();
    fs::write(folder.path().join("config.yaml"), config.replace(shipped, &format!("image: {image}")))
        .unwrap();
    let output = folder.path().join("output");
    let environment = [
        ("APP", folder.path().to_str().unwrap()),
        ("GITHUB_OUTPUT", output.to_str().unwrap()),
        ("GITHUB_REF", git_ref),
        ("GITHUB_REF_NAME", git_ref.rsplit('/').next().unwrap()),
    ];
    let done = run("prepare", "Read the config of the app", folder.path(), &environment)?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        return Some(Err(text));
    }
    let lines = fs::read_to_string(output).unwrap();
    let pairs = lines.lines().map(|line| line.split_once('=').unwrap());
    Some(Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
}

#[test]
fn only_a_tag_of_the_version_publishes_and_only_to_a_place_of_ones_own() {
    let version = env!("CARGO_PKG_VERSION");
    let tag = format!("refs/tags/v{version}");
    let Some(published) = outputs("ghcr.io/somebody/hs100d-app", &tag) else { return };
    let published = published.unwrap();
    let config = read("contrib/homeassistant/hs100d/config.yaml");
    let url = config.lines().find_map(|line| line.strip_prefix("url: ")).unwrap();
    let expected = [
        ("architectures", r#"["aarch64", "amd64"]"#),
        ("image", "hs100d-app"),
        ("publish", "true"),
        ("registry", "ghcr.io/somebody"),
        ("url", url),
        ("version", version),
    ];
    assert_eq!(published, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    for (image, git_ref) in [
        ("ghcr.io/somebody/hs100d-app", "refs/pull/7/merge"),
        ("ghcr.io/somebody/hs100d-app", "refs/heads/main"),
        ("registry.example.org/hs100d/hs100d-app", tag.as_str()),
    ] {
        assert_eq!(outputs(image, git_ref).unwrap().unwrap()["publish"], "false", "{image} {git_ref}");
    }
    let refused = outputs("ghcr.io/somebody/hs100d-app", "refs/tags/v99.0.0").unwrap().unwrap_err();
    assert!(refused.contains(&format!("version is {version}, and the tag is v99.0.0")), "{refused}");
}

#[test]
fn the_branch_that_users_add_has_the_apps_folder_at_its_root_version_after_version() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, checkout) = (folder.path().join("origin"), folder.path().join("checkout"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/homeassistant");
    let set_up = "git init -q --bare -b main origin && git clone -q origin checkout && cd checkout && mkdir contrib && \
                  cp -r \"$SOURCE\" contrib/ && git add . && git commit -q -m first && git push -q origin HEAD:main";
    bash(folder.path(), set_up, &[("SOURCE", source.to_str().unwrap())]);
    let files = |branch: &str| bash(&origin, &format!("git ls-tree -r --name-only {branch}"), &[]);

    let publish = |version: &str| {
        run("branch", "Put the app's folder on its branch", &checkout, &[("VERSION", version)])
    };
    let Some(first) = publish("0.1.0") else { return };
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let found = files("homeassistant");
    for file in ["repository.yaml", "hs100d/config.yaml", "hs100d/translations/de.yaml", "hs100d/icon.png"] {
        assert!(found.lines().any(|line| line == file), "{file} is not among {found}");
    }
    assert!(!found.contains("contrib"), "{found}");
    let change = "echo '## 0.2.0' >>contrib/homeassistant/hs100d/CHANGELOG.md && git commit -q -a -m second";
    bash(&checkout, change, &[]);
    let second = publish("0.2.0").unwrap();
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    assert_eq!(bash(&origin, "git log --format=%s homeassistant", &[]), "Version 0.2.0\nVersion 0.1.0\n");
    assert!(bash(&origin, "git show homeassistant:hs100d/CHANGELOG.md", &[]).contains("## 0.2.0"));
}

/// Runs a script of the workflow, as the runner does; `None` if nothing can read the workflow and nothing has to.
fn run(job: &str, step: &str, folder: &Path, environment: &[(&str, &str)]) -> Option<Output> {
    let workflow = yaml(WORKFLOW)?;
    let steps = workflow["jobs"][job]["steps"].as_array().unwrap();
    let script = steps.iter().find(|one| one["name"] == step).and_then(|one| one["run"].as_str());
    Some(shell(folder, script.unwrap_or_else(|| panic!("there is no step {step}")), environment))
}

/// The output of a script that must succeed.
fn bash(folder: &Path, script: &str, environment: &[(&str, &str)]) -> String {
    let done = shell(folder, script, environment);
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn shell(folder: &Path, script: &str, environment: &[(&str, &str)]) -> Output {
    let mut bash = Command::new("bash");
    // The runner's own options, and a git that knows nobody's settings.
    bash.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script]).current_dir(folder);
    bash.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    for name in ["AUTHOR", "COMMITTER"] {
        bash.env(format!("GIT_{name}_NAME"), "tests").env(format!("GIT_{name}_EMAIL"), "tests@example.org");
    }
    for git in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        bash.env_remove(git);
    }
    bash.envs(environment.iter().copied()).output().unwrap()
}
