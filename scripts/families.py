"""What is found of attacks that were not learned: by an autoencoder of benign rows, by classifiers, and by both.

For each seed a fifth of train.csv, cut by groups of equal rows, is held out; the run learns from the rest and validates on a fifth of
that, which is also what scores are compared with. The autoencoder (configs/unsw-nb15-anomaly.yaml) sees benign rows alone. Then each
family of attacks is left out in turn: a classifier learns from the other training rows, and all rows of the family and the benign
rows held out are scored. LightGBM learns from the same rows. Recall is that at 1 % of false alarms among the benign rows held out.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess

import lightgbm
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score, roc_curve

OUT = pathlib.Path("runs/families")
CONFIG = "configs/unsw-nb15-anomaly.yaml"
ARMS = {
    "trees": ["finetune.from=frozen", "finetune.heads=[extra_trees,boosting]"],
    "network": ["finetune.from=pretrained"],
    "network + trees": ["finetune.from=pretrained", "finetune.heads=[extra_trees,boosting]"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--arms", default="trees", help="of " + ", ".join(ARMS))
    parser.add_argument("--binary", default="target/release/nids-mixer")
    args = parser.parse_args()
    first, last = (args.seeds.split("-") * 2)[:2]
    rows = pd.read_csv(args.folder / "train.csv", keep_default_na=False)
    found = []
    for seed in range(int(first), int(last) + 1):
        found += list(of_seed(args, rows, seed))
        with (OUT / "found.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in found if line["seed"] == seed)
    tables(pd.DataFrame(found))


def of_seed(args, rows, seed):
    features = [name for name in rows.columns if name not in ("id", "attack_cat", "label")]
    groups = rows.groupby(features, sort=False).ngroup().to_numpy()
    is_held_out = np.random.default_rng(seed).random(groups.max() + 1)[groups] < 0.2
    learn, held_out = rows[~is_held_out].reset_index(drop=True), rows[is_held_out]
    folder = OUT / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    learn.to_csv(folder / "learn.csv", index=False)
    held_out.to_csv(folder / "held-out.csv", index=False)
    base = folder / "base"
    sets = [f"data.train={folder}/learn.csv", f"seed={seed}"]
    for stage in ("pretrain", "encode"):
        if not (base / f"manifest-{stage}.json").exists():
            call(args, stage, base, sets)
    benign = held_out[held_out["label"] == 0]
    yield {"seed": seed, "arm": "autoencoder", "family": "all"} | evaluate(args, base, folder / "held-out.csv", "anomaly")
    train = np.load(base / "latents" / "rows_train.npy")
    for family in sorted(set(rows["attack_cat"][rows["label"] == 1])):
        known = train[learn["attack_cat"].to_numpy()[train] != family]
        test = pd.concat([benign, rows[rows["attack_cat"] == family]])
        test.to_csv(folder / "test.csv", index=False)
        (folder / "known.txt").write_text("".join(f"{row}\n" for row in known))
        line = {"seed": seed, "family": family}
        yield line | {"arm": "autoencoder"} | evaluate(args, base, folder / "test.csv", "anomaly")
        yield line | {"arm": "LightGBM"} | gbdt(learn.iloc[known], test, features, seed)
        for arm in args.arms.split(","):
            run = folder / "run"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(base, run)
            call(args, "finetune", run, [*sets, *ARMS[arm], f"finetune.label_rows={folder}/known.txt"])
            for name, score in ((arm, "attack"), (f"{arm}, and autoencoder", "both")):
                yield line | {"arm": name} | evaluate(args, run, folder / "test.csv", score)


def call(args, stage, run, sets):
    command = [args.binary, stage, "--config", CONFIG, "--run", run]
    subprocess.run(command + [part for s in sets for part in ("--set", s)], check=True, capture_output=True)


def evaluate(args, run, data, score):
    command = [args.binary, "evaluate", "--run", run, "--data", data, "--id", "row", "--score", score, "--fpr", "0.01", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {name: found[name] for name in ("roc_auc", "recall_at_fpr_1pct", "fpr", "recall")}


def gbdt(train, test, features, seed):
    both = pd.concat([train, test])[features]
    for name in both.columns[~both.dtypes.map(pd.api.types.is_numeric_dtype)]:
        both[name] = both[name].astype("category")
    model = lightgbm.LGBMClassifier(n_estimators=400, learning_rate=0.05, num_leaves=63, random_state=seed, verbose=-1)
    model.fit(both.iloc[: len(train)], train["label"])
    scores = model.predict_proba(both.iloc[len(train) :])[:, 1]
    false_alarms, recall, _ = roc_curve(test["label"], scores)
    return {"roc_auc": roc_auc_score(test["label"], scores), "recall_at_fpr_1pct": recall[false_alarms <= 0.01].max()}


def tables(found):
    every, one = found[found["family"] == "all"], found[found["family"] != "all"]
    n = every["seed"].nunique()
    spread = lambda values: f"{values.mean():.4f}" + (f" ± {statistics.stdev(values):.4f}" if n > 1 else "")
    print(f"\nThe autoencoder on all rows held out, {n} cuts: ROC-AUC {spread(every['roc_auc'])}, recall at 1 % of false alarms "
          f"{spread(every['recall_at_fpr_1pct'])}; at the certified threshold {spread(every['recall'])} with "
          f"{spread(every['fpr'])} false alarms\n")
    table = one.pivot_table(index="arm", columns="family", values="recall_at_fpr_1pct", sort=False)
    print("| recall at 1 % of false alarms | mean | " + " | ".join(table.columns) + " |\n|---|---|" + "---|" * len(table.columns))
    for arm, values in table.iterrows():
        print(f"| {arm} | {values.mean():.3f} | " + " | ".join(f"{value:.3f}" for value in values) + " |")


if __name__ == "__main__":
    main()
