//! The demo as a user starts it, short: on its embedded broker, and then on a real one with the models of the first.

use std::path::Path;

use crate::harness::{broker, tidemill};

/// Runs the demo in `folder`; what it printed.
fn demo(folder: &Path, arguments: &[&str]) -> String {
    let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("pipelines/fraud.yaml");
    let common = ["demo", "--pipeline", pipeline.to_str().unwrap(), "--events", "3000", "--history-days", "40"];
    let ended = tidemill(folder, &[&common[..], arguments].concat());
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.log);
    ended.stdout
}

/// The line of the summary that begins with `name`, and the number before each of `words` in it.
fn numbers<const N: usize>(printed: &str, name: &str, words: [&str; N]) -> [f64; N] {
    let line = printed.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{printed}"));
    let tokens: Vec<&str> = line.split([' ', ',', ':']).filter(|token| !token.is_empty()).collect();
    words.map(|word| {
        let at = tokens.iter().position(|token| *token == word).unwrap_or_else(|| panic!("no {word} in {line}"));
        tokens[at - 1].parse().unwrap_or_else(|_| panic!("no number before {word} in {line}"))
    })
}

fn sends_reads_scores_and_alerts(printed: &str) {
    let [sent, read, scored, rejected] = numbers(printed, "events", ["sent", "read", "scored", "rejected"]);
    assert_eq!((sent, read), (3000.0, 3000.0), "{printed}");
    assert_eq!(scored + rejected, read, "{printed}");
    assert!(scored > 2900.0, "{printed}");
    let [alerts] = numbers(printed, "alerts", ["raised;"]);
    // The first twenty are printed.
    assert_eq!(printed.matches("ALERT").count() as f64, alerts.min(20.0), "{printed}");
    assert!(alerts > 0.0 && printed.contains("because"), "{printed}");
    assert!(printed.contains("p99"), "{printed}");
    let quality = |mark: &str| -> f64 {
        let line =
            printed.lines().find(|line| line.contains(mark)).unwrap_or_else(|| panic!("no {mark} in\n{printed}"));
        assert!(line.contains("precision") && line.contains("recall"), "{line}");
        line.split("PR-AUC ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap()
    };
    let (history, constants) = (quality("history features"), quality("with constants in their place"));
    assert!(history > 2.0 * constants, "{history} with history, {constants} without:\n{printed}");
}

/// Two versions, one after the other, and each record scored by one of them.
fn changes_the_model_on_the_way(printed: &str) {
    let line = printed.lines().find(|line| line.starts_with("models ")).unwrap_or_else(|| panic!("{printed}"));
    let by = |version: &str| -> f64 {
        let part = line.split([',', ';']).find(|part| part.ends_with(&format!("scored by version {version}")));
        let part = part.unwrap_or_else(|| panic!("no version {version} in {line}"));
        part.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
    };
    let [scored] = numbers(printed, "events", ["scored"]);
    assert_eq!(by("1") + by("2"), scored, "{printed}");
    assert!(by("1") > 0.0 && by("2") > 0.0 && printed.contains("is promoted while records flow"), "{printed}");
}

#[test]
fn the_demo_trains_registers_scores_alerts_and_changes_its_model_on_either_broker() {
    let folder = tempfile::tempdir().unwrap();
    let embedded = demo(folder.path(), &[]);
    sends_reads_scores_and_alerts(&embedded);
    changes_the_model_on_the_way(&embedded);
    // The second finds the models of the first.
    let real = demo(folder.path(), &["--broker", &broker()]);
    assert!(embedded.contains("training on the features") && !real.contains("training on the features"), "{real}");
    sends_reads_scores_and_alerts(&real);
    changes_the_model_on_the_way(&real);
}
