//! Several members whose probabilities are averaged.

use safetensors::SafeTensors;

use crate::bench::{Bench, on_flows};

const KINDS: [&str; 3] = ["ensemble=independent", "ensemble=batch", "ensemble.batch.shared_blocks=1"];

fn probabilities(bench: &Bench) -> Vec<f64> {
    let verdicts = bench.prints("predict --run run --data flows.csv");
    verdicts.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect()
}

/// Member `k` of an ensemble's weights, under the names of a network alone.
fn member(whole: &[u8], k: usize) -> Vec<u8> {
    let whole = SafeTensors::deserialize(whole).unwrap();
    let prefix = format!("members.{k}.");
    let own = whole.tensors().into_iter().filter_map(|(name, view)| {
        let is_shared = !name.starts_with("members.");
        name.strip_prefix(&prefix).map(str::to_owned).or(is_shared.then_some(name)).map(|name| (name, view))
    });
    safetensors::serialize(own, None).unwrap()
}

#[test]
fn every_ensemble_goes_with_everything() {
    let bench = Bench::trained();
    for kind in KINDS {
        for from in ["pretrained", "latents", "scratch"] {
            for task in ["task=binary", "task=multiclass"] {
                let more =
                    format!("--set finetune.members=3 --set finetune.{kind} --set finetune.from={from} --set finetune.{task}");
                bench.prints(&on_flows("finetune", &more));
                let metrics = bench.prints("evaluate --run run --data flows.csv --json");
                assert!(
                    metrics.contains("\"n\":300") && metrics.contains("categories") == (task == "task=multiclass"),
                    "{more}: {metrics}"
                );
                let found = probabilities(&bench);
                assert!(found.len() == 300 && found.iter().all(|p| (0.0..=1.0).contains(p)), "{more}");
            }
        }
    }
}

#[test]
fn a_verdict_is_the_mean_over_independent_members() {
    for from in ["pretrained", "latents"] {
        let bench = Bench::trained();
        bench.prints(&on_flows("finetune", &format!("--set finetune.from={from} --set finetune.members=3")));
        let (mean, whole) = (probabilities(&bench), bench.bytes("run/model.safetensors"));
        bench.prints(&on_flows("finetune", &format!("--set finetune.from={from}")));
        let alone = probabilities(&bench);
        let each = [0, 1, 2].map(|k| {
            bench.forge("finetune", "model.safetensors", &member(&whole, k));
            probabilities(&bench)
        });
        // six decimals are written
        assert!((0..300).all(|row| (mean[row] - (each[0][row] + each[1][row] + each[2][row]) / 3.0).abs() < 2e-6));
        assert!(each[0] != each[1] && each[1] != each[2]);
        assert!(each[0] == alone, "the first member is the network that is trained alone");
    }
}

#[test]
fn members_are_told_apart_in_the_metrics() {
    let bench = Bench::trained();
    let (_, told) = bench.prints_and_tells(&on_flows("finetune", "--set finetune.members=2"));
    assert!(told.contains("finetune: member 1, step 10: validation") && told.contains("finetune: 2 members averaged"), "{told}");
    let lines = bench.metrics("run", "finetune");
    let of_member = |k: u64| lines.iter().filter(|line| line["member"] == k).count();
    // five of steps and two of validations each, and one of all
    assert_eq!((of_member(0), of_member(1), lines.len()), (7, 7, 15));
    assert_eq!(lines.last().unwrap()["members"], 2);
    bench.prints(&on_flows("finetune", ""));
    assert!(bench.metrics("run", "finetune").iter().all(|line| line.get("member").is_none()));
}

#[test]
fn one_member_is_no_ensemble() {
    let bench = Bench::trained();
    let tensors = |settings: &str| {
        bench.prints(&on_flows("finetune", settings));
        let model = bench.bytes("run/model.safetensors");
        let model = SafeTensors::deserialize(&model).unwrap();
        let mut tensors: Vec<(String, Vec<u8>)> =
            model.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect();
        tensors.sort();
        tensors
    };
    let alone = tensors("");
    assert!(alone == tensors("--set finetune.members=1 --set finetune.ensemble=batch"));
}

#[test]
fn members_of_a_batch_share_all_but_scales_and_heads() {
    let bench = Bench::trained();
    bench.prints(&on_flows("finetune", "--set finetune.members=5 --set finetune.ensemble.batch.scales=signs"));
    let model = bench.bytes("run/model.safetensors");
    let model = SafeTensors::deserialize(&model).unwrap();
    assert_eq!(model.tensor("scales.weight").unwrap().shape(), [5, 48, 8]);
    let heads = model.names().into_iter().filter(|name| name.starts_with("classifier.") && name.ends_with(".weight")).count();
    assert_eq!((heads, model.names().iter().filter(|name| name.starts_with("encoder.norm")).count()), (5, 2));
}
