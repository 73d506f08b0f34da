use std::collections::BTreeMap;

use nids_eval::metrics::{ByRows, Metrics};

use super::*;

/// Attacks from a row on, but for some.
fn labels_from(first: usize) -> Vec<u8> {
    (0..400).map(|i| u8::from(i % 7 > 2 && i > first)).collect()
}

fn report() -> Report {
    let p: Vec<f32> = (0..400).map(|i| i as f32 / 400.0).collect();
    let labels = labels_from(90);
    let found = BTreeMap::from([("DoS <b>".to_owned(), [20, 30]), ("Worms".to_owned(), [3, 3])]);
    let metrics = Metrics::new(&p, &labels, 0.5).unwrap();
    let keys: Vec<u64> = (0..400).map(|i| i / 3).collect();
    let mut held_out = Evaluation::new(metrics, &p, &labels, 0.5, Some(&found));
    held_out.by_rows = Some(ByRows::new(&p, &labels, &keys, 0.5, Some(&|key| key < 40)).unwrap());
    let check = |status, what, advice: &str| Check { status, what, found: "3 of 4 <rows>".to_owned(), advice: advice.to_owned() };
    let line = |name: &str, y: fn(f64) -> f64| Series {
        name: name.to_owned(),
        points: (1..20_000).map(|step| (f64::from(step), y(f64::from(step)))).collect(),
    };
    Report {
        name: "a & b".to_owned(),
        checks: vec![check(Status::Pass, "Leak", ""), check(Status::Warn, "Duplicates", "remove them")],
        trainings: vec![Training {
            stage: "finetune".to_owned(),
            loss: vec![line("training", |x| 1.0 / x), line("validation", |x| 1.1 / x)],
            lr: vec![line("lr", |_| 0.001)],
            grad_norm: vec![line("norm", |x| if x > 100.0 { 0.0 } else { 1.0 / x })],
            max_update: Vec::new(),
        }],
        latents: vec![line("benign", f64::sin), line("attacks", |_| f64::NAN)],
        rebuilt: [("dur <x>", 0.75), ("rate", -0.5)].map(|(name, share)| Rebuilt { feature: name.to_owned(), share }).into(),
        runs: [("few", Some(50), true), ("many", Some(1000), true), ("many, too", Some(1000), true), ("foreign", None, false)]
            .into_iter()
            .enumerate()
            .map(|(place, (name, labels, has_same_rows))| RunFigures {
                name: name.to_owned(),
                labels,
                has_same_rows,
                metrics: Metrics::new(&p, &labels_from(90 + 20 * place), 0.5).unwrap(),
            })
            .collect(),
        facts: vec![("data.train".to_owned(), "sha256 00ff".to_owned())],
        config: "name: x\nseed: 0 # <&>\n".to_owned(),
        ..Report::of(held_out)
    }
}

#[test]
fn the_verdict_comes_first_and_warnings_are_counted() {
    let html = report().html();
    let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("no {text:?}"));
    assert!(place("One warning.") < place("How good it is") && place("How good it is") < place("Training: finetune"));
    assert!(html.contains("remove them"));
    let none = Report { checks: Vec::new(), ..report() }.html();
    assert!(none.contains("Nothing speaks against it"));
}

#[test]
fn a_metric_stands_beside_those_of_other_rows() {
    let html = report().html();
    let Report { held_out, .. } = report();
    let ByRows { without_duplicates, new_rows, intervals, .. } = held_out.by_rows.clone().unwrap();
    let [of_all, of_different, of_new] = [&held_out.metrics, &without_duplicates.metrics, &new_rows.unwrap().metrics]
        .map(|metrics| format!("<td class=\"number\">{:.4}</td>", metrics.roc_auc.unwrap()));
    let [low, high] = intervals.roc_auc.unwrap();
    let row = format!("<td>ROC-AUC</td>{of_all}<td class=\"number\">{low:.4} to {high:.4}</td>{of_different}{of_new}");
    assert!(html.contains(&row) && of_all != of_new, "{row}");
    // nobody was asked which rows are equal
    let mut alone = report();
    alone.held_out.by_rows = None;
    let html = alone.html();
    assert!(!html.contains("New rows") && html.contains(&format!("<td>ROC-AUC</td>{of_all}<td class=\"number\"></td></tr>")));
}

#[test]
fn what_an_autoencoder_rebuilds_is_a_number_and_a_bar() {
    let html = report().html();
    let row = |name: &str| html.split(&format!("<tr><td>{name}</td>")).nth(1).unwrap().split("</tr>").next().unwrap();
    let (well, badly) = (row("dur &#60;x&#62;"), row("rate"));
    assert!(well.contains(">0.7500<") && well.contains("width:75.00%"), "{well}");
    assert!(badly.contains(">-0.5000<") && badly.contains("width:0.00%"), "{badly}");
    assert!(!Report { rebuilt: Vec::new(), ..report() }.html().contains("rebuilds"));
}

#[test]
fn features_that_have_changed_come_before_those_that_have_not() {
    let of = |feature: &str, psi, change, never_seen| Drifted {
        feature: feature.to_owned(),
        psi,
        change,
        missing: [0.0, 0.25],
        never_seen,
    };
    let drift = vec![of("dur <x>", 3.25, "moved", 0.125), of("rate", 0.0625, "", 0.0)];
    let html = Report { drift, ..report() }.html();
    let cells = |name: &str| {
        let row = html.split(&format!("<tr><td>{name}</td>")).nth(1).unwrap().split("</tr>").next().unwrap();
        row.replace("<td class=\"number\">", "").replace("</td>", "|")
    };
    assert_eq!(cells("dur &#60;x&#62;"), "<td class=\"warning\">moved|3.250||25.0 %|12.5 %|");
    assert_eq!(cells("rate"), "<td>|0.062||25.0 %||");
    let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("no {text:?}"));
    assert!(
        place("dur &#60;x&#62;</td><td class") < place("1 features that have not")
            && place("1 features that have not") < place("<td>rate</td><td>")
    );
    assert!(!report().html().contains("PSI"));
}

#[test]
fn runs_are_compared_by_their_labels() {
    let report = report();
    let html = report.html();
    let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("no {text:?}"));
    assert!(place("<td>foreign</td>") < place("<td>few</td>") && place("<td>few</td>") < place("<td>many</td>"));
    assert_eq!(html.matches("other rows held out").count(), 1);
    // one point for each number of labels, of the runs that can be compared
    let dots =
        |html: &str| html.split("Metrics by labels").nth(1).unwrap().split("</svg>").next().unwrap().matches("<circle").count();
    assert_eq!(dots(&html), 3 * 2);
    let mut mean = report.clone();
    mean.runs.remove(2);
    assert_ne!(html.split("Metrics by labels").nth(1), mean.html().split("Metrics by labels").nth(1));
    let alone = Report { runs: Vec::new(), ..report };
    assert!(!alone.html().contains("What labels are worth"));
}

#[test]
fn texts_of_a_run_are_texts_on_the_page() {
    let html = report().html();
    for wanted in ["a &#38; b", "DoS &#60;b&#62;", "3 of 4 &#60;rows&#62;", "seed: 0 # &#60;&#38;&#62;"] {
        assert!(html.contains(wanted), "{wanted}");
    }
    assert!(!html.contains("<rows>") && !html.contains("DoS <b>"));
}

#[test]
fn a_page_is_one_small_file_without_scripts() {
    let html = report().html();
    assert!(html.len() < 300_000, "{} bytes", html.len());
    for foreign in ["<script", "<link", "<img", "@import", "url(", "href="] {
        assert!(!html.contains(foreign), "{foreign}");
    }
    // the name of SVG's own elements is no address that is asked for
    assert!(html.matches("http").count() == html.matches("http://www.w3.org/2000/svg").count());
    assert_eq!(html, report().html());
}

#[test]
fn pictures_have_the_colours_of_the_page() {
    let html = report().html();
    let pictures: Vec<&str> = html.split("<svg ").skip(1).map(|rest| rest.split("</svg>").next().unwrap()).collect();
    assert_eq!(pictures.len(), 3 + 3 + 1 + 1);
    for picture in pictures {
        assert!(picture.contains("var(--ink)") && picture.contains("var(--series-1)"));
        assert!(!picture.contains("\"#"), "a colour that a theme cannot change");
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "a point that is nowhere");
    }
}

#[test]
fn a_chart_with_nothing_to_show_is_empty() {
    for series in [vec![], vec![Series::default()], vec![Series { name: "one".to_owned(), points: vec![(1.0, 2.0)] }]] {
        for has_log_y in [false, true] {
            let scale = Scale { has_log_y, ..Scale::default() };
            assert!(Chart { scale, ..Chart::of(&series) }.svg().starts_with("<svg "));
        }
    }
}

#[test]
fn a_card_says_what_the_page_says_and_no_text_breaks_it() {
    let mut of = report();
    "a | b\n# c".clone_into(&mut of.name);
    of.config = "name: x # ~~~~\n".to_owned();
    let card = of.card();
    let (front, body) = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).unwrap();
    let front: serde_json::Value = serde_yaml::from_str(front).unwrap();
    let result = &front["model-index"][0];
    assert_eq!(result["name"], "a | b\n# c");
    let auc = of.held_out.metrics.roc_auc.unwrap();
    let metrics = result["results"][0]["metrics"].as_array().unwrap();
    assert!(metrics.iter().any(|of| of["type"] == "roc_auc" && of["value"] == auc), "{metrics:?}");
    for text in [
        "\n# a \\| b \\# c\n",
        "| **warning** | Duplicates | 3 of 4 &lt;rows> | remove them |",
        "| DoS &lt;b> |",
        &format!("| ROC-AUC | {auc:.4} |"),
        "| data.train | sha256 00ff |",
        "\n~~~~~yaml\nname: x # ~~~~\n~~~~~\n",
    ] {
        assert!(body.contains(text), "{text}\n{body}");
    }
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    for lines in body.split("\n\n").filter(|part| part.starts_with('|')) {
        let n: Vec<usize> = lines.lines().filter(|line| !line.is_empty()).map(columns).collect();
        assert!(n.windows(2).all(|pair| pair[0] == pair[1]), "{lines}");
    }
}
