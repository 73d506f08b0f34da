//! Looking for a network, and for settings.

use serde_json::Value as Json;

use crate::bench::{Bench, on_flows};

const WIDTHS: &str = "--set sweep.strategy.width_depth.iterations=10 --set sweep.strategy.width_depth.min_drop=0 \
    --set sweep.strategy.width_depth.min_dim=4 --set sweep.strategy.width_depth.max_dim=8 \
    --set sweep.strategy.width_depth.depth=1 --set sweep.strategy.width_depth.max_depth=2 --set finetune.lr=0.02";

#[test]
fn widths_then_depths_end_in_a_config_that_trains() {
    let bench = Bench::new();
    bench.flows();
    let (table, told) = bench.prints_and_tells(&on_flows("sweep", WIDTHS));
    let report: Json = serde_json::from_str(&bench.read("run/sweep.json")).unwrap();
    let trials = report["trials"].as_array().unwrap();
    assert!(trials.len() >= 3 && table.matches("chosen").count() == 1, "{table}");
    let verdicts: Vec<&str> = trials.iter().map(|trial| trial["verdict"].as_str().unwrap()).collect();
    let chosen = report["chosen"].as_u64().unwrap() as usize;
    for (i, verdict) in verdicts.iter().enumerate() {
        let allowed: &[&str] = if i == chosen { &["chosen"] } else { &["too_small", "too_big", "not_promising"] };
        assert!(allowed.contains(verdict), "{verdicts:?}");
    }
    assert!(told.contains("chosen.yaml"));
    assert!(bench.read("run/sweep.svg").starts_with("<svg"));
    bench.prints("config --config run/chosen.yaml");

    // no trial is judged on the rows that the chosen one will be
    for trial in trials {
        let config = bench.read(&format!("run/trials/{}/config.yaml", trial["name"].as_str().unwrap()));
        assert!(config.contains("inner_validation: true"), "{config}");
    }
    assert!(bench.read("run/chosen.yaml").contains("inner_validation: false"));

    // what was trained is not trained again
    let (again, told) = bench.prints_and_tells(&on_flows("sweep", WIDTHS));
    assert!(again == table && !told.contains("steps of"), "{told}");
    // a refit is for what is chosen
    let (_, told) = bench.prints_and_tells(&on_flows("sweep", &format!("{WIDTHS} --set finetune.refit=all")));
    assert!(told.contains("`finetune.refit`: trials do without") && !told.contains("steps of"), "{told}");
    assert!(bench.read("run/chosen.yaml").contains("refit: all"));
    bench.prints(&on_flows("sweep", WIDTHS));
    // the trial in hand when it was stopped is, and with the same result
    let name = trials[0]["name"].as_str().unwrap();
    std::fs::remove_file(bench.path(&format!("run/trials/{name}/manifest-finetune.json"))).unwrap();
    let (again, told) = bench.prints_and_tells(&on_flows("sweep", WIDTHS));
    assert!(again == table && told.matches("steps of").count() == 1, "{told}");
    // nor is it on the same flows under another name
    std::fs::rename(bench.path("flows.csv"), bench.path("rows.csv")).unwrap();
    let (again, told) = bench.prints_and_tells(&on_flows("sweep", &format!("{WIDTHS} --set data.train=rows.csv")));
    assert!(again == table && !told.contains("steps of"), "{told}");
    // what was trained on other flows does not count
    bench.prints("synth --rows 300 --seed 5 --output flows.csv");
    let (_, told) = bench.prints_and_tells(&on_flows("sweep", WIDTHS));
    assert!(told.matches("steps of").count() >= 3, "{told}");
}

#[test]
fn threads_change_no_byte_of_a_sweep() {
    let report = |threads: usize| {
        let bench = Bench::new();
        bench.flows();
        bench.prints(&on_flows("sweep", &format!("{WIDTHS} --set engine.threads={threads}")));
        bench.bytes("run/sweep.json")
    };
    assert!(report(1) == report(8));
}

#[test]
fn the_best_of_a_grid_go_on_for_longer() {
    let bench = Bench::new();
    bench.flows();
    let halving = "--set sweep.strategy.halving.min_steps=10 --set sweep.strategy.halving.eta=2 --grid finetune.lr=1e-9,0.02 \
        --grid finetune.from=pretrained,scratch";
    let (_, told) = bench.prints_and_tells(&on_flows("sweep", halving));
    let report: Json = serde_json::from_str(&bench.read("run/sweep.json")).unwrap();
    let trials = report["trials"].as_array().unwrap();
    let steps: Vec<u64> = trials.iter().map(|trial| trial["steps"].as_u64().unwrap()).collect();
    assert_eq!(steps, [10, 10, 10, 10, 20, 20, 40]);
    assert_eq!(told.matches("6 steps of 32").count(), 1, "pretrained more than once: {told}");
    let chosen = &trials[report["chosen"].as_u64().unwrap() as usize];
    assert_eq!(chosen["settings"][0], "finetune.lr=0.02");
    assert!(bench.read("run/chosen.yaml").contains("lr: 0.02"));
}

#[test]
fn what_cannot_be_swept_is_an_error() {
    let bench = Bench::new();
    bench.flows();
    let fails = |more: &str| bench.fails(&on_flows("sweep", more));
    insta::assert_snapshot!(fails("--grid model.dim=8,16"), @r"
    exit code 2
    error: `--grid` is what `sweep.strategy: halving` chooses from: name that strategy, or leave the grid out
    ");
    insta::assert_snapshot!(fails("--set sweep.strategy=halving"), @r"
    exit code 2
    error: `sweep.strategy: halving` chooses among settings: name them, as in `--grid finetune.lr=1e-3,2e-3,4e-3`
    ");
    insta::assert_snapshot!(fails("--set sweep.strategy=halving --grid model.dmi=8,16"), @r"
    exit code 2
    error: --set model.dmi=8: unknown key `model.dmi`: did you mean `model.dim`?
    ");
    insta::assert_snapshot!(fails("--set sweep.strategy.width_depth.min_dim=64 --set sweep.strategy.width_depth.max_dim=8"), @r"
    exit code 2
    error: --set sweep.strategy.width_depth.max_dim=8: `sweep.strategy.width_depth.max_dim`: expected `min_dim` (64) or more, found 8
    ");
    insta::assert_snapshot!(fails(&format!("{WIDTHS} --set sweep.strategy.width_depth.min_drop=0.99")), @r"
    exit code 5
    error: no width is promising within 10 iterations (tried depth=1,dim=4,steps=10, depth=1,dim=6,steps=10, depth=1,dim=8,steps=10): both losses must fall by 0.99 of ln 2: raise `sweep.strategy.width_depth.iterations` or `finetune.lr`, or lower `min_drop`
    ");
}
