"""The grid behind docs/results.md: arms x numbers of labels x seeds, paired, beside trees on the same rows.

A seed is one draw: one cut into training and validation rows (equal rows never straddle), one pretrained encoder of each kind,
one order in which labels are drawn (stratified; the first 100 of 200 are the 100). Every learner of a draw sees the same labelled
rows and is scored on the same validation rows, so that differences can be paired. Nothing is tuned on those.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import sys

import experiment
import lightgbm
import numpy as np
import pandas as pd
import xgboost
import yaml
from scipy.stats import ttest_rel
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import accuracy_score, roc_auc_score, roc_curve

BINARY = "target/release/nids-mixer"
VAE = ["pretrain.objective={ vae: {} }"]
PLAIN = ["finetune.mean_teacher=null"]
FROZEN = [*PLAIN, "finetune.from=latents", "finetune.encoder_lr_scale=1"]

# name: (kind of encoder, settings of fine-tuning, how rows are chosen)
ARMS = {
    "scratch": ("mae", [*PLAIN, "finetune.from=scratch"], "random"),
    "MAE, fine-tuned": ("mae", PLAIN, "random"),
    "VAE, fine-tuned": ("vae", PLAIN, "random"),
    **{
        f"{kind.upper()}, frozen, noise {sigma}": (kind, [*FROZEN, f"encode.noise.sigma={sigma}"], "random")
        for kind in ("mae", "vae")
        for sigma in (0, 0.1, 0.3)
    },
    "MAE, mean teacher": ("mae", [], "random"),
    "MAE, fine-tuned, chosen rows": ("mae", PLAIN, "chosen"),
    "MAE, mean teacher, chosen rows": ("mae", [], "chosen"),
    "MAE, mean teacher, chosen in rounds": ("mae", [], "rounds"),
}
TREES = ("LightGBM", "XGBoost", "ExtraTrees")
# what a tree's name ends in says how its rows are chosen
HOW = {"": "random", ", chosen rows": "chosen", ", chosen in rounds": "rounds"}
# labels after each round: medoids first, then those of which a classifier that has learned the ones before is not sure
ROUNDS = (40, 60, 80, 100, 150, 200, 350, 500, 750, 1000, 1500, 2000)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--labels", default="100,200,1000,2000,all")
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--arms", default=",".join([*(name.replace(",", ";") for name in ARMS), "trees"]),
                        help="arms by name, `;` for the commas in them; `trees` are the rivals, on the rows of all arms named")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    labels = [n if n == "all" else int(n) for n in args.labels.split(",")]
    arms = [name.strip().replace(";", ",") for name in args.arms.split(",")]
    for name in arms:
        if name not in ARMS and name != "trees":
            parser.error(f"--arms: no arm `{name}`: expected any of {', '.join(ARMS)}, trees")
    out = pathlib.Path("runs/ablation")
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / "results.jsonl")
    ways = {ARMS[name][2] for name in arms if name != "trees"} or set(HOW.values())
    fewest = min((n for n in labels if n != "all"), default=ROUNDS[0])
    if "rounds" in ways and fewest < ROUNDS[0]:
        parser.error(f"--labels: {fewest}: rows chosen in rounds start with {ROUNDS[0]}: name as many, or arms without rounds")
    rivals = [f"{tree}{end}" for end, how in HOW.items() if how in ways for tree in TREES]
    for seed in seeds:
        draw = Draw(args.folder, out, seed, args.settings)
        for n in labels:
            for arm in arms:
                for name in rivals if arm == "trees" else [arm]:
                    key = {"arm": name, "labels": n, "seed": seed, "settings": args.settings}
                    if (n == "all" and "chosen" in name) or (n == "all" and "mean teacher" in name) or results.has(key):
                        continue
                    found = draw.tree(name, n) if arm == "trees" else draw.network(name, n)
                    results.add(key | found)
                    print(f"seed {seed}, {n} labels, {name}: {found['accuracy']:.4f}", file=sys.stderr)
    results.table(labels, args.settings)


class Results(experiment.Results):
    def table(self, labels, settings):
        """Accuracy of every arm, and beside the best tree ensemble of that column (by mean) the paired difference."""
        frame = pd.DataFrame([line for line in self.lines if line["settings"] == settings])
        print("| | " + " | ".join(f"{n} labels" for n in labels) + " |")
        print("|---" * (len(labels) + 1) + "|")
        for arm in dict.fromkeys(frame["arm"]):
            cells = []
            for n in labels:
                of = frame[frame["labels"] == n].pivot_table(index="seed", columns="arm", values="accuracy")
                trees = [name for name in of if name.startswith(TREES)]
                if arm not in of:
                    cells.append("")
                    continue
                mean, sd = of[arm].mean(), of[arm].std(ddof=1) if of[arm].count() > 1 else float("nan")
                cell = f"{mean:.4f} ± {sd:.4f}"
                if trees and arm not in trees:
                    best = of[trees].mean().idxmax()
                    both = of[[arm, best]].dropna()
                    if len(both) > 1:
                        p = ttest_rel(both[arm], both[best]).pvalue
                        cell += f" ({(both[arm] - both[best]).mean():+.4f}, p {p:.3f})"
                cells.append(cell)
            print(f"| {arm} | " + " | ".join(cells) + " |")
        counts = frame.groupby("labels")["seed"].nunique()
        drawn = ", ".join(f"{n}: {counts.get(n, 0)}" for n in labels)
        print(f"\nAccuracy, mean ± sd over draws ({drawn}); in brackets the difference to the best trees on average of that column,")
        print("whichever rows they have, and the p of a paired t-test.")


def name_of(settings):
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8] if settings else "default"


class Draw:
    """One seed: the cut, the encoders, the labels."""

    def __init__(self, folder, out, seed, settings):
        self.seed, self.settings = seed, settings
        self.folder = out / name_of(settings) / str(seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        # settings of later stages change no encoder
        earlier = [setting for setting in settings if not setting.startswith(("encode.", "finetune.", "evaluate."))]
        self.encoders = out / "encoders" / name_of(earlier) / str(seed)
        train, unlabelled = folder / "train.csv", folder / "unlabelled.csv"
        self.data = [f"data.train={train}", f"data.unlabelled={unlabelled if unlabelled.exists() else 'null'}", f"seed={seed}"]
        self.rows = pd.read_csv(train, encoding="utf-8-sig")
        self.encoder("mae")
        self.train, self.val = (np.load(self.folder / "mae" / "latents" / f"rows_{part}.npy") for part in ("train", "val"))
        schema = yaml.safe_load((self.folder / "mae" / "config.yaml").read_text())["data"]["schema"]
        schema = yaml.safe_load(pathlib.Path("configs/schemas", f"{schema}.yaml").read_text())
        kinds = {column["name"]: column["kind"] for column in schema["columns"]}
        self.features = [name for name, kind in kinds.items() if kind in ("numeric", "categorical")]
        self.label = next(name for name, kind in kinds.items() if kind == "label")
        codes = {name: self.rows[name].astype("category").cat.codes for name in self.features if kinds[name] == "categorical"}
        self.x = self.rows[self.features].assign(**codes)
        self.categorical = list(codes)

    def config(self, n):
        return "configs/unsw-nb15.yaml" if n == "all" else "configs/unsw-nb15-few-labels.yaml"

    def command(self, stage, kind, n, settings, folder=None):
        overrides = [*self.data, *(VAE if kind == "vae" else []), *settings, *self.settings]
        run = ["--config", self.config(n), "--run", str((folder or self.folder) / kind)]
        sets = [part for setting in overrides for part in ("--set", setting)]
        experiment.call([BINARY, stage, *run, *sets])

    def encoder(self, kind):
        if not (self.encoders / kind / "manifest-pretrain.json").exists():
            self.command("pretrain", kind, 100, [], self.encoders)
        if not (self.folder / kind / "latents" / "rows_val.npy").exists():
            self.share(kind, kind)
            self.command("encode", kind, 100, [])

    def labelled(self, n, how):
        """The rows whose labels are shown, as a file and as an array."""
        if n == "all":
            return None, self.train
        path = self.folder / f"{how}-{n}.txt"
        if path.exists():
            return path, np.loadtxt(path, dtype=int)
        if how == "chosen" or (how == "rounds" and n == ROUNDS[0]):
            self.share("select")
            self.select(path, "select", n)
        elif how == "rounds":
            before, known = self.labelled(max(size for size in ROUNDS if size < n), how)
            # no teacher: a classifier without one costs a third, and is less sure of what it does not know
            self.share("rounds")
            self.command("finetune", "rounds", n, [*PLAIN, *self.listed(before, len(known))])
            part = path.with_suffix(".part")
            self.select(part, "rounds", n - len(known))
            part.write_text(before.read_text() + part.read_text())
            part.rename(path)
        else:
            rng = np.random.default_rng(self.seed)
            classes = [rng.permutation(self.train[self.rows.loc[self.train, self.label] == label]) for label in (0, 1)]
            share = len(classes[1]) / len(self.train)
            n_attack = round(n * share)
            rows = np.concatenate([classes[0][: n - n_attack], classes[1][:n_attack]])
            path.write_text("".join(f"{row}\n" for row in rows))
        return path, np.loadtxt(path, dtype=int)

    def share(self, folder, kind="mae"):
        """A folder with the encoder alone: in one with a classifier, select would leave out the rows that this one knows."""
        folder = self.folder / folder
        folder.mkdir(exist_ok=True)
        for name in ("manifest-pretrain.json", "pretrained.safetensors", "tokeniser.json"):
            shutil.copy(self.encoders / kind / name, folder / name)

    def select(self, path, folder, n):
        experiment.call([BINARY, "query", "--run", str(self.folder / folder), "--budget", str(n), "--output", str(path)])

    def listed(self, path, n):
        settings = ["finetune.labels=null", f"finetune.label_rows={path}"] if path else []
        if path and n >= 1000:  # fewer than 800 steps under-train
            settings += ["finetune.steps=1500", "finetune.encoder_lr_scale=1"]
        return settings

    def network(self, arm, n):
        kind, settings, how = ARMS[arm]
        self.encoder(kind)
        path, _ = self.labelled(n, how)
        settings = [*settings, *self.listed(path, n)]
        if "finetune.from=latents" in settings:
            self.command("encode", kind, n, settings)
        self.command("finetune", kind, n, settings)
        lines = (self.folder / kind / "metrics.jsonl").read_text().splitlines()
        found = [line["validation"] for line in map(json.loads, lines) if "validation" in line][-1]
        return {name: found[name] for name in ("accuracy", "roc_auc", "recall_at_fpr_1pct")}

    def tree(self, name, n):
        """Leaves and rows a leaf as suit the number of labels; all else as an expert would start."""
        how = HOW[name.removeprefix(name.split(",")[0])]
        _, rows = self.labelled(n, how)
        few = len(rows) <= 2000
        model = {
            "LightGBM": lambda: lightgbm.LGBMClassifier(
                n_estimators=200 if few else 400, learning_rate=0.05, num_leaves=15 if few else 63,
                min_child_samples=5 if few else 20, random_state=self.seed, verbose=-1),
            "XGBoost": lambda: xgboost.XGBClassifier(
                n_estimators=200 if few else 400, learning_rate=0.05, max_depth=4 if few else 8, random_state=self.seed),
            "ExtraTrees": lambda: ExtraTreesClassifier(500, random_state=self.seed, n_jobs=-1),
        }[name.split(",")[0]]()
        fit = {"categorical_feature": self.categorical} if name.startswith("LightGBM") and not few else {}
        model.fit(self.x.loc[rows], self.rows.loc[rows, self.label], **fit)
        labels, scores = self.rows.loc[self.val, self.label], model.predict_proba(self.x.loc[self.val])[:, 1]
        false_alarms, recall, _ = roc_curve(labels, scores)
        return {
            "accuracy": accuracy_score(labels, scores >= 0.5),
            "roc_auc": roc_auc_score(labels, scores),
            "recall_at_fpr_1pct": recall[false_alarms <= 0.01].max(),
        }


main()
