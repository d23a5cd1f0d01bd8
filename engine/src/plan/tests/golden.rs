//! Texts that a user sees, as data: `tests/sql/*.sql` hold cases (`-- case NAME`), the `.expected` beside them what comes of
//! each. `BLESS=1` writes them anew.

use std::path::PathBuf;

use super::*;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/sql")
}

/// Name, line of the text's first line, text.
fn cases(file: &str) -> Vec<(String, usize, String)> {
    let content = std::fs::read_to_string(folder().join(file)).unwrap();
    let mut cases: Vec<(String, usize, String)> = Vec::new();
    for (index, line) in content.lines().enumerate() {
        match line.strip_prefix("-- case ") {
            Some(name) => cases.push((name.to_owned(), index + 2, String::new())),
            None => {
                if let Some((_, _, sql)) = cases.last_mut() {
                    sql.push_str(line);
                    sql.push('\n');
                }
            }
        }
    }
    cases
}

fn compare(file: &str, found: &str) {
    let path = folder().join(file);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if expected != found {
        let first = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
        panic!("{file} differs (BLESS=1 rewrites it): {first:#?}\n\nwhole:\n{found}");
    }
}

fn functions() -> Functions {
    Score::new().functions()
}

fn compile_view(file: &str, line: usize, sql: &str) -> Result<Plan, Vec<PlanProblem>> {
    let mut pipeline = pipeline(
        vec![source("events"), narrow_source("others")],
        &[("earlier", "SELECT id, a AS first FROM events"), ("v", sql)],
        &[("out", "SELECT * FROM v")],
    );
    pipeline.views[1].query.place = Place { file: PathBuf::from(file), line, column: 1 };
    Plan::compile(&pipeline, &functions())
}

#[test]
fn what_cannot_run_on_a_stream_is_refused_with_place_reason_and_alternative() {
    let mut found = String::new();
    for (name, line, sql) in cases("refused.sql") {
        let problems = compile_view("refused.sql", line, &sql).err();
        let problems = problems.map_or_else(|| "ACCEPTED\n".to_owned(), |problems| lines(&problems));
        found.push_str(&format!("-- case {name}\n{problems}"));
    }
    assert!(!found.contains("ACCEPTED"), "{found}");
    compare("refused.expected", &found);
}

#[test]
fn plain_selects_are_accepted_and_planned() {
    let mut found = String::new();
    for (name, line, sql) in cases("accepted.sql") {
        let outcome = match compile_view("accepted.sql", line, &sql) {
            Ok(plan) => {
                let explanation = plan.explain();
                let stages = explanation.lines().skip_while(|line| !line.starts_with("stage "));
                stages.take_while(|line| !line.starts_with("operators")).map(|line| format!("{line}\n")).collect()
            }
            Err(problems) => format!("REFUSED {}", lines(&problems)),
        };
        found.push_str(&format!("-- case {name}\n{outcome}"));
    }
    assert!(!found.contains("REFUSED"), "{found}");
    compare("accepted.expected", &found);
}

#[test]
fn checks_are_conditions_on_one_row() {
    let mut found = String::new();
    for (name, line, sql) in cases("checks.sql") {
        let mut events = source("events");
        events.checks = vec![SqlText {
            sql: sql.trim_end().to_owned(),
            place: Place { file: PathBuf::from("checks.sql"), line, column: 1 },
        }];
        let outcome =
            match Plan::compile(&pipeline(vec![events], &[], &[("out", "SELECT * FROM events")]), &functions()) {
                Ok(_) => "ok\n".to_owned(),
                Err(problems) => lines(&problems),
            };
        found.push_str(&format!("-- case {name}\n{outcome}"));
    }
    compare("checks.expected", &found);
}

#[test]
fn explain_shows_sources_stages_and_plans() {
    let mut events = source("transactions");
    events.checks = vec![text("a BETWEEN 0 AND 1000", "pipeline.yaml", 7, 10)];
    let pipeline = pipeline(
        vec![events],
        &[
            ("features", "SELECT id, a, x * 2 AS twice, b <> 0 AND a / b > 2 AS often FROM transactions"),
            ("scored", "SELECT *, score('fraud', a, twice) AS p FROM features"),
        ],
        &[
            ("alerts", "SELECT id, p FROM scored WHERE p >= 0.7"),
            ("scores", "SELECT * FROM scored"),
            ("archive", "SELECT * FROM transactions"),
        ],
    );
    compare("explain.expected", &compiled(&pipeline, &functions()).explain());
}

#[test]
fn explain_shows_the_kernels_frames_and_sizes_of_windows() {
    let features = "SELECT id, x, time, twice,
            count(*) OVER (PARTITION BY id ORDER BY time RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW) AS n,
            avg(x) OVER (PARTITION BY id ORDER BY time ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS rolling,
            sum(twice) OVER (PARTITION BY id, a ORDER BY time ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS spent
        FROM doubled WHERE a > 0";
    let pipeline = pipeline(
        vec![source("transactions")],
        &[("doubled", "SELECT *, x * 2 AS twice FROM transactions"), ("features", features)],
        &[("out", "SELECT * FROM features WHERE n > 3"), ("archive", "SELECT * FROM transactions")],
    );
    compare("explain_windows.expected", &compiled(&pipeline, &functions()).explain());
}
