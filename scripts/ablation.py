"""The grid behind docs/results.md: arms x numbers of labels x seeds, paired, beside rivals that choose their rows for themselves.

A seed is one draw: one cut into training and validation rows (equal rows never straddle), one pretrained encoder of each kind,
one order in which labels are drawn (stratified; the first 100 of 200 are the 100). Every learner of a draw is scored on the same
validation rows, so that differences can be paired. Nothing is tuned on those.

Rows are shown to a learner in one of these ways:

    random       a stratified draw
    chosen       medoids of the pretrained encoder's latents, all at once, as `nids-mixer query` picks them
    in rounds    40 such medoids, then those of which a classifier that has learned the ones before is not sure (ROUNDS). The
                 classifier is the product's with some settings (CHOOSERS), or the rival itself ("choosing for itself")

All ways in rounds start with the same 40 medoids. No learner sees the label of a row that is not shown to it.

Another data set is a folder with `train.csv`, and `--set data.schema=NAME`.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import sys
import time

import experiment
import lightgbm
import numpy as np
import pandas as pd
import xgboost
import yaml
from sklearn.cluster import KMeans
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score, roc_curve

BINARY = "target/release/nids-mixer"
OUT = pathlib.Path("runs/ablation")
THREADS = int(os.environ.get("OMP_NUM_THREADS", -1))  # of the rivals; -1: all cores
METRICS = {"accuracy": True, "roc_auc": True, "recall_at_fpr_1pct": True, "log_loss": False}  # whether more is better

VAE = ["pretrain.objective={ vae: {} }"]
PLAIN = ["finetune.mean_teacher=null"]
LATENTS = [*PLAIN, "finetune.from=latents", "finetune.encoder_lr_scale=1"]
COMMITTEE = [*PLAIN, "finetune.from=frozen", "finetune.encoder_lr_scale=1"]
FEATURES = [*PLAIN, "finetune.from=features", "finetune.encoder_lr_scale=1"]
HEADS = ["finetune.heads=[logistic, kernel_machine]"]
WITH_TREES = ["finetune.heads=[extra_trees, boosting]"]

# way: settings of the classifier that chooses the rows of each round
CHOOSERS = {
    "rounds": PLAIN,  # no teacher: a classifier without one costs a third, and is less sure of what it does not know
    "committee": COMMITTEE,
    "heads": [*COMMITTEE, *HEADS],
    "features": FEATURES,
    "features-heads": [*FEATURES, *HEADS],
}
# name: (kind of encoder, settings of fine-tuning, how rows are chosen)
ARMS = {
    "scratch": ("mae", [*PLAIN, "finetune.from=scratch"], "random"),
    "MAE, fine-tuned": ("mae", PLAIN, "random"),
    "VAE, fine-tuned": ("vae", PLAIN, "random"),
    **{
        f"{kind.upper()}, frozen, noise {sigma}": (kind, [*LATENTS, f"encode.noise.sigma={sigma}"], "random")
        for kind in ("mae", "vae")
        for sigma in (0, 0.1, 0.3)
    },
    "MAE, mean teacher": ("mae", [], "random"),
    "MAE, fine-tuned, chosen rows": ("mae", PLAIN, "chosen"),
    "MAE, mean teacher, chosen rows": ("mae", [], "chosen"),
    "MAE, mean teacher, chosen in rounds": ("mae", [], "rounds"),
    "MAE, fine-tuned, with trees": ("mae", [*PLAIN, *WITH_TREES], "random"),
    "MAE, mean teacher, with trees, chosen in rounds": ("mae", WITH_TREES, "rounds"),
    "committee, random rows": ("mae", COMMITTEE, "random"),
    "committee, heads alone, random rows": ("mae", CHOOSERS["heads"], "random"),
    "committee, chosen in rounds": ("mae", COMMITTEE, "committee"),
    "committee, heads alone, chosen in rounds": ("mae", CHOOSERS["heads"], "heads"),
    "committee on raw features, random rows": ("mae", FEATURES, "random"),
    "committee on raw features, chosen in rounds": ("mae", FEATURES, "features"),
    "committee on raw features, heads alone, chosen in rounds": ("mae", CHOOSERS["features-heads"], "features-heads"),
}
LEARNERS = ("LightGBM", "XGBoost", "ExtraTrees", "ExtraTrees + LightGBM")
OWN = ", choosing for itself"
# what a rival's name ends in says which rows it has
ENDS = {"random": "", "chosen": ", chosen rows", "rounds": ", chosen in rounds", "committee": ", rows of the committee"}
REAL_MLP = "RealMLP"
# name: (learner, how rows are chosen)
RIVALS = {f"{learner}{end}": (learner, way) for way, end in ENDS.items() for learner in LEARNERS}
RIVALS |= {f"{learner}{OWN}": (learner, learner) for learner in LEARNERS} | {REAL_MLP: (REAL_MLP, "random")}
# groups that --arms knows: a word for several rivals
GROUPS = {
    "trees": "the trees on the rows of all arms named (of every way of choosing if there is none), and on rows of their own",
    "rivals": "the trees that choose for themselves, and the rivals on random rows and with all labels",
}
# labels after each round
ROUNDS = (40, 60, 80, 100, 150, 200, 350, 500, 750, 1000, 1500, 2000)
# candidates for each row to choose, and passes of k-means, as in crates/pipeline/src/commands/query.rs
CANDIDATES, PASSES = 10, 50


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path, nargs="?")
    parser.add_argument("--labels", default="100,200,1000,2000,all")
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--arms", default=",".join([*(name.replace(",", ";") for name in ARMS), "trees"]),
                        help="arms and rivals by name, `;` for the commas in them; "
                             + "; ".join(f"`{group}`: {what}" for group, what in GROUPS.items()))
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, run nothing")
    parser.add_argument("--metrics", default="accuracy", help=f"of the tables: any of {', '.join(METRICS)}")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    labels = [n if n == "all" else int(n) for n in args.labels.split(",")]
    arms = [name.strip().replace(";", ",") for name in args.arms.split(",")]
    metrics = args.metrics.split(",")
    for name in arms:
        if name not in {**ARMS, **RIVALS, **GROUPS}:
            known = ", ".join(arm.replace(",", ";") for arm in [*ARMS, *RIVALS, *GROUPS])
            parser.error(f"--arms: no arm `{name}`: expected any of {known}")
    for name in metrics:
        if name not in METRICS:
            parser.error(f"--metrics: no metric `{name}`: expected any of {', '.join(METRICS)}")
    if args.folder is None and not args.table:
        parser.error("a folder with train.csv is needed, or --table")
    names = expanded(arms)
    fewest = min((n for n in labels if n != "all"), default=ROUNDS[0])
    if any(in_rounds(way_of(name)) for name in names) and fewest < ROUNDS[0]:
        parser.error(f"--labels: {fewest}: rows chosen in rounds start with {ROUNDS[0]}: name as many, or arms without rounds")
    OUT.mkdir(parents=True, exist_ok=True)
    results = Results(OUT / "results.jsonl")
    if REAL_MLP in names and "all" in labels and not args.table and importlib.util.find_spec("pytabkit") is None:
        names.remove(REAL_MLP)
        print(f"{REAL_MLP}, skipped: not installed (pip install pytabkit)", file=sys.stderr)
    for seed in seeds if not args.table else []:
        draw = Draw(args.folder, seed, args.settings)
        for n in labels:
            for name in names:
                key = {"arm": name, "labels": n, "seed": seed, "settings": args.settings}
                if not has_cell(name, n) or results.has(key):
                    continue
                found = draw.rival(name, n) if name in RIVALS else draw.network(name, n)
                results.add(key | found)
                print(f"seed {seed}, {n} labels, {name}: {found['accuracy']:.4f}", file=sys.stderr)
    for metric in metrics:
        results.table(labels, args.settings, metric)


def expanded(arms):
    """The names that these arms and groups stand for."""
    ways = {ARMS[name][2] for name in arms if name in ARMS} or set(ENDS)
    groups = {
        "trees": [name for name, (learner, way) in RIVALS.items() if learner in LEARNERS and way in {*ways, learner}],
        "rivals": [name for name, (learner, way) in RIVALS.items() if way in ("random", learner)],
    }
    return list(dict.fromkeys(name for arm in arms for name in groups.get(arm, [arm])))


def way_of(name):
    return RIVALS[name][1] if name in RIVALS else ARMS[name][2]


def in_rounds(way):
    return way in CHOOSERS or way in LEARNERS


def has_cell(name, n):
    """With all labels there is nothing to choose and no row for a teacher. RealMLP is a rival with all labels only."""
    return way_of(name) == "random" and "mean teacher" not in name if n == "all" else name != REAL_MLP


class Results(experiment.Results):
    def table(self, labels, settings, metric):
        """Of every arm the mean ± sd, and the paired difference to the best rival that is as free as the arm in choosing rows."""
        lines = [line for line in self.lines if line["settings"] == settings]
        names = [name for name in [*ARMS, *RIVALS] if any(line["arm"] == name for line in lines)]
        print(f"| {metric} | " + " | ".join(f"{n} labels" for n in labels) + " |")
        print("|---" * (len(labels) + 1) + "|")
        of = {n: pd.DataFrame({name: pd.Series({line["seed"]: line.get(metric, np.nan) for line in lines
                                                if line["arm"] == name and line["labels"] == n}, dtype=float) for name in names})
              for n in labels}
        for name in names:
            own = way_of(name) != "random"
            rivals = [rival for rival in RIVALS if (rival.endswith(OWN) if own else way_of(rival) == "random")]
            cells = [experiment.cell(of[n], name, [] if name in RIVALS else rivals, METRICS[metric]) for n in labels]
            print(f"| {name} | " + " | ".join(cells) + " |")
        drawn = ", ".join(f"{n}: {of[n].dropna(how='all').shape[0]}" for n in labels)
        print(f"\n{metric}, mean ± sd over draws ({drawn}). Brackets have the difference to the best rival on these draws, and")
        print("the p of a paired t-test. With random rows or all labels that is the best rival on those, else the best one that")
        print("chooses for itself.\n")


def name_of(settings):
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8] if settings else "default"


class Draw:
    """One seed: the cut, the encoders, the labels."""

    def __init__(self, folder, seed, settings):
        self.seed, self.settings = seed, settings
        self.folder = OUT / name_of(settings) / str(seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        # settings of later stages change no encoder
        earlier = [setting for setting in settings if not setting.startswith(("encode.", "finetune.", "evaluate."))]
        self.encoders = OUT / "encoders" / name_of(earlier) / str(seed)
        train, unlabelled = folder / "train.csv", folder / "unlabelled.csv"
        self.data = [f"data.train={train}", f"data.unlabelled={unlabelled if unlabelled.exists() else 'null'}", f"seed={seed}"]
        cut = self.cut()
        self.train, self.val = (np.load(cut / "latents" / f"rows_{part}.npy") for part in ("train", "val"))
        schema = yaml.safe_load((cut / "config.yaml").read_text())["data"]["schema"]
        table = experiment.read(train, schema)
        table = table.rows(table.y >= 0)
        for part, rows in (("train", self.train), ("val", self.val)):
            labels = np.load(cut / "latents" / f"labels_{part}.npy")
            assert np.array_equal(table.y[rows], labels), f"{cut}: labels that are not those of {train}"
        self.y = table.y
        self.categorical = experiment.columns_of(schema, "categorical")
        self.x = table.x.assign(**{name: table.x[name].astype("category").cat.codes for name in self.categorical})
        # equal rows have equal numbers
        self.group = self.x.groupby(list(self.x), dropna=False).ngroup().to_numpy()
        assert not np.isin(self.group[self.val], self.group[self.train]).any(), f"{cut}: equal rows straddle the cut"
        # one row of each group of equal training rows, which stands for all of them
        _, first, size = np.unique(self.group[self.train], return_index=True, return_counts=True)
        self.pool, self.size = self.train[first], dict(zip(self.group[self.train[first]], size, strict=True))
        self.space = space(table.x, self.categorical, self.train)

    def config(self, n):
        return "configs/unsw-nb15.yaml" if n == "all" else "configs/unsw-nb15-few-labels.yaml"

    def cut(self):
        """A run whose `encode` lists the rows of either part. The cut follows from the data and the seed, so a step of a small
        network will do: it takes a second, and rivals need no encoder."""
        folder = self.folder / "cut"
        if not (folder / "manifest-encode.json").exists():
            small = ["data.unlabelled=null", "model.dim=8", "model.depth=1", "pretrain.steps=1"]
            overrides = [*self.data, *(setting for setting in self.settings if setting.startswith("data.")), *small]
            for stage in ("pretrain", "encode"):
                self.call(stage, folder, self.config(100), overrides)
        return folder

    def call(self, stage, folder, config, overrides):
        sets = [part for setting in overrides for part in ("--set", setting)]
        experiment.call([BINARY, stage, "--config", config, "--run", str(folder), *sets])

    def command(self, stage, kind, n, settings, folder=None):
        overrides = [*self.data, *(VAE if kind == "vae" else []), *settings, *self.settings]
        self.call(stage, (folder or self.folder) / kind, self.config(n), overrides)

    def labelled(self, n, way):
        """The rows whose labels are shown, as a file and as an array."""
        if n == "all":
            return None, self.train
        # all ways in rounds start with the same medoids
        starts = in_rounds(way) and n == ROUNDS[0]
        path = self.folder / f"{'rounds' if starts else way.replace(' + ', '-')}-{n}.txt"
        known = np.array([], dtype=int)
        if in_rounds(way) and not starts:
            before, known = self.labelled(max(size for size in ROUNDS if size < n), way)
        if not path.exists():
            part = path.with_suffix(".part")
            if way == "chosen" or starts:
                self.share("select")
                self.select(part, "select", n)
            elif way in CHOOSERS:
                folder = "rounds" if way == "rounds" else f"rounds-{way}"
                self.share(folder)
                self.command("finetune", folder, n, [*CHOOSERS[way], *self.listed(before, CHOOSERS[way])])
                self.select(part, folder, n - len(known))
                part.write_text(before.read_text() + part.read_text())
            else:
                rows = self.drawn(n) if way == "random" else [*known, *self.unsure(way, known, n - len(known))]
                part.write_text("".join(f"{row}\n" for row in rows))
            part.rename(path)
        rows = np.loadtxt(path, dtype=int)
        assert len(rows) == n == len(set(rows)), f"{path}: {len(set(rows))} different rows, wanted {n}"
        assert np.isin(rows, self.train).all(), f"{path}: rows that are held out"
        assert np.array_equal(rows[: len(known)], known), f"{path}: does not begin with the rows of the rounds before"
        if way != "random":
            assert len(set(self.group[rows])) == n, f"{path}: rows with equal features"
        return path, rows

    def drawn(self, n):
        """`n` random rows, with the classes in proportion."""
        rng = np.random.default_rng(self.seed)
        classes = [rng.permutation(self.train[self.y[self.train] == label]) for label in (0, 1)]
        n_attack = round(n * len(classes[1]) / len(self.train))
        return np.concatenate([classes[0][: n - n_attack], classes[1][:n_attack]])

    def share(self, folder, kind="mae"):
        """A folder with the encoder alone: in one with a classifier, query would leave out the rows that this one knows."""
        if not (self.encoders / kind / "manifest-pretrain.json").exists():
            self.command("pretrain", kind, 100, [], self.encoders)
        folder = self.folder / folder
        folder.mkdir(exist_ok=True)
        for name in ("manifest-pretrain.json", "pretrained.safetensors", "tokeniser.json"):
            shutil.copy(self.encoders / kind / name, folder / name)

    def select(self, path, folder, n):
        experiment.call([BINARY, "query", "--run", str(self.folder / folder), "--budget", str(n), "--output", str(path)])

    def unsure(self, learner, known, n):
        """The `n` rows that a rival chooses next, as `query` does: medoids of k-means weighted by p(1 - p), and by how many rows
        a row stands for, among the rows with the highest weights. The labels of the known rows are all that it sees."""
        pool = self.pool[~np.isin(self.group[self.pool], self.group[known])]
        p = self.scores(learner, known, pool)
        weight = p * (1 - p) * [self.size[group] for group in self.group[pool]]
        candidates = np.sort(np.argsort(-weight, kind="stable")[: CANDIDATES * n])
        return pool[candidates[medoids(self.space[pool[candidates]], weight[candidates], n, self.seed)]]

    def listed(self, path, settings):
        found = ["finetune.labels=null", f"finetune.label_rows={path}"] if path else []
        has_steps = not {"finetune.from=frozen", "finetune.from=features"} & set(settings)
        if path and has_steps and len(np.loadtxt(path)) >= 1000:  # fewer than 800 steps under-train
            found += ["finetune.steps=1500", "finetune.encoder_lr_scale=1"]
        return found

    def network(self, arm, n):
        kind, settings, way = ARMS[arm]
        path, _ = self.labelled(n, way)
        self.share(kind, kind)
        settings = [*settings, *self.listed(path, settings)]
        if "finetune.from=latents" in settings:
            self.command("encode", kind, n, settings)
        self.command("finetune", kind, n, settings)
        lines = (self.folder / kind / "metrics.jsonl").read_text().splitlines()
        found = [line["validation"] for line in map(json.loads, lines) if "validation" in line][-1]
        assert found["n"] == len(self.val), f"{arm}: scored on {found['n']} rows, wanted {len(self.val)}"
        return {name: found[name] for name in METRICS}

    def rival(self, name, n):
        learner, way = RIVALS[name]
        _, rows = self.labelled(n, way)
        started = time.monotonic()
        scores, labels = self.scores(learner, rows, self.val), self.y[self.val]
        seconds = time.monotonic() - started
        false_alarms, recall, _ = roc_curve(labels, scores)
        return {
            "accuracy": accuracy_score(labels, scores >= 0.5),
            "roc_auc": roc_auc_score(labels, scores),
            "recall_at_fpr_1pct": recall[false_alarms <= 0.01].max(),
            "log_loss": log_loss(labels, np.clip(scores, 1e-7, 1 - 1e-7)),
            "seconds": round(seconds, 1),
        }

    def scores(self, learner, rows, of):
        """The probabilities of attack that the learner, fitted on `rows`, gives to the rows `of`; `A + B` is the mean of two."""
        x, y, of = self.x.loc[rows], self.y[rows], self.x.loc[of]
        if len(set(y)) == 1:
            return np.full(len(of), (y.sum() + 1) / (len(y) + 2))
        return np.mean([self.fitted(name, x, y).predict_proba(of)[:, 1] for name in learner.split(" + ")], axis=0)

    def fitted(self, name, x, y):
        """Leaves and rows a leaf as suit the number of labels; all else as an expert would start."""
        few = len(x) <= 2000
        if name == REAL_MLP:
            from pytabkit import RealMLP_TD_Classifier

            model = RealMLP_TD_Classifier(random_state=self.seed, device="cpu", n_threads=max(THREADS, 0) or os.cpu_count())
            return model.fit(x, y, cat_col_names=self.categorical)
        model = {
            "LightGBM": lambda: lightgbm.LGBMClassifier(
                n_estimators=200 if few else 400, learning_rate=0.05, num_leaves=15 if few else 63,
                min_child_samples=5 if few else 20, random_state=self.seed, n_jobs=THREADS, verbose=-1),
            "XGBoost": lambda: xgboost.XGBClassifier(
                n_estimators=200 if few else 400, learning_rate=0.05, max_depth=4 if few else 8, random_state=self.seed,
                n_jobs=THREADS),
            "ExtraTrees": lambda: ExtraTreesClassifier(500, random_state=self.seed, n_jobs=THREADS),
        }[name]()
        fit = {"categorical_feature": self.categorical} if name == "LightGBM" and not few else {}
        return model.fit(x, y, **fit)


def space(x, categorical, train):
    """Where the rivals cluster: numbers as sign(x) ln(1 + |x|), standardised by the training rows, missing ones as their mean,
    and a column a category."""
    numbers = x.drop(columns=categorical).to_numpy()
    numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
    mean, std = np.nanmean(numbers[train], axis=0), np.nanstd(numbers[train], axis=0)
    numbers = np.nan_to_num((numbers - mean) / np.where(std > 0, std, 1))
    return np.hstack([numbers, pd.get_dummies(x[categorical]).to_numpy(float)])


def medoids(x, weight, n, seed):
    """The row nearest to each of the `n` centres of weighted k-means; where clusters are empty, the heaviest other rows."""
    # rows that weigh nothing would leave centres without rows
    means = KMeans(n, n_init=1, max_iter=PASSES, random_state=seed).fit(x, sample_weight=np.maximum(weight, 1e-9))
    distance = means.transform(x)[np.arange(len(x)), means.labels_]
    order = np.lexsort((distance, means.labels_))
    _, first = np.unique(means.labels_[order], return_index=True)
    picked = order[first]
    others = np.argsort(-weight, kind="stable")
    return np.concatenate([picked, others[~np.isin(others, picked)][: n - len(picked)]])


if __name__ == "__main__":
    main()
