"""Trains a config over several seeds; prints mean ± sd of its validation metrics beside LightGBM's on the same rows.

The rows are those that `encode` lists in latents/rows_*.npy: both learners see the same split, in which rows with equal
features never straddle. Nothing is tuned here.
"""

import json
import pathlib
import subprocess
import sys
import time

import lightgbm
import numpy as np
import pandas as pd
import yaml
from sklearn.metrics import accuracy_score, roc_auc_score, roc_curve

folder, config, seeds, *settings = sys.argv[1:]
train_csv, unlabelled_csv = pathlib.Path(folder, "train.csv"), pathlib.Path(folder, "unlabelled.csv")
binary = "target/release/nids-mixer"


def stage(name, run, seed):
    overrides = [f"data.train={train_csv}", f"data.unlabelled={unlabelled_csv if unlabelled_csv.exists() else 'null'}"]
    overrides += [f"seed={seed}", *settings]
    command = [binary, name, "--config", config, "--run", str(run)]
    started = time.monotonic()
    subprocess.run(command + [part for s in overrides for part in ("--set", s)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def metrics(labels, scores):
    false_alarms, recall, _ = roc_curve(labels, scores)
    return {
        "accuracy": accuracy_score(labels, scores >= 0.5),
        "roc_auc": roc_auc_score(labels, scores),
        "recall_at_fpr_1pct": recall[false_alarms <= 0.01].max(),
    }


def gbdt(run, seed, schema):
    rows = pd.read_csv(train_csv, encoding="utf-8-sig")
    kinds = {column["name"]: column["kind"] for column in schema["columns"]}
    features = [name for name, kind in kinds.items() if kind in ("numeric", "categorical")]
    label = next(name for name, kind in kinds.items() if kind == "label")
    for name in features:
        if kinds[name] == "categorical":
            rows[name] = rows[name].astype("category")
    train, val = (np.load(run / "latents" / f"rows_{part}.npy") for part in ("train", "val"))
    model = lightgbm.LGBMClassifier(n_estimators=400, learning_rate=0.05, num_leaves=63, random_state=seed, verbose=-1)
    model.fit(rows.loc[train, features], rows.loc[train, label])
    return metrics(rows.loc[val, label], model.predict_proba(rows.loc[val, features])[:, 1])


table = {}
for seed in seeds.split(","):
    run = pathlib.Path("runs", f"quality-{pathlib.Path(config).stem}-{seed}")
    seconds = {name: stage(name, run, seed) for name in ("pretrain", "encode", "finetune")}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [line["validation"] for line in lines if "validation" in line][-1]
    table.setdefault("nids-mixer", []).append({key: found[key] for key in ("accuracy", "roc_auc", "recall_at_fpr_1pct")})
    probes = next(line for line in lines if "ridge_probe" in line)
    for name, probe in (("ridge probe on latents", "ridge_probe"), ("logistic probe on tokens", "token_probe")):
        table.setdefault(name, []).append({key: probes[probe][key] for key in ("accuracy", "roc_auc")})
    name = yaml.safe_load((run / "config.yaml").read_text())["data"]["schema"]
    schema = pathlib.Path("configs/schemas", f"{name}.yaml")
    schema = yaml.safe_load((schema if schema.exists() else pathlib.Path(name)).read_text())
    table.setdefault("LightGBM", []).append(gbdt(run, int(seed), schema))
    print(f"seed {seed}: " + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()), file=sys.stderr)
    print(f"seed {seed}: " + json.dumps({name: found[-1] for name, found in table.items()}), file=sys.stderr)

print(f"{config} {' '.join(settings)}, seeds {seeds}: mean ± sd on the validation rows\n")
print("| | accuracy | ROC-AUC | recall at 1 % false alarms |\n|---|---|---|---|")
for name, found in table.items():
    cells = []
    for key in ("accuracy", "roc_auc", "recall_at_fpr_1pct"):
        values = [row[key] for row in found if key in row]
        cells.append(f"{np.mean(values):.4f} ± {np.std(values, ddof=min(1, len(values) - 1)):.4f}" if values else "")
    print(f"| {name} | " + " | ".join(cells) + " |")
