"""Detection on networks other than UNSW-NB15, each through its built-in schema, beside trees on the same rows.

A protocol has folds. A fold is a training file and a test file in the data set's own format:

    cic-days      CIC-IDS2017: test on one day, train on the others (Monday has no attacks)
    cic-families  CIC-IDS2017: test on one family of attacks and on a fifth of the benign rows, train on the rest
    iot-23        test on one capture, train on the others (the honeypots have no attacks)
    zeek          train on one day, test on the other
    netflow       NF-UNSW-NB15: test on a fifth of the rows

A fifth is drawn by groups of equal rows, and the seed decides. In every protocol, test rows whose features equal those of a row
of the training file are not scored. Nothing is fitted on test rows, and nothing is tuned: `pretrain` and `finetune` see the
training file only. A fold without attacks in its test file has false alarms only.

The network validates on a fifth of the training file and trains on the rest. The rivals are fitted on the rows that it trains on;
`encode` lists them. With --whole they are fitted on the whole training file, too. The test file of `cic-days`, `iot-23` and `zeek`
is the same for every seed, so sd and p say how much a training differs from the next, not how much a network does. Log losses
are of probabilities between 1e-6 and 1 - 1e-6.
"""

import argparse
import dataclasses
import functools
import pathlib
import sys

import experiment
import lightgbm
import numpy as np
import pandas as pd
import yaml
from sklearn.compose import make_column_transformer
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.impute import SimpleImputer
from sklearn.metrics import log_loss, roc_auc_score, roc_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

BINARY = "target/release/nids-mixer"
OUT = pathlib.Path("runs/networks")
CONFIGS = ("default", "configs/unsw-nb15-small.yaml")
RIVALS = ("LightGBM", "ExtraTrees")
WHOLE = ", whole training file"
METRICS = {  # key in the results: (column of the tables, whether more is better)
    "accuracy": ("accuracy", True),
    "roc_auc": ("ROC-AUC", True),
    "recall_at_fpr_1pct": ("recall at 1 % false alarms", True),
    "log_loss": ("log loss", False),
    "false_alarms": ("false alarms at .5", False),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--only", default=",".join(PROTOCOLS))
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--config", action="append", dest="configs", help="a config, or `default`; its name and data are replaced")
    parser.add_argument("--whole", action="store_true", help="fit the rivals on whole training files, too")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, run nothing")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    only = args.only.split(",")
    for name in only:
        if name not in PROTOCOLS:
            parser.error(f"--only: no protocol `{name}`: expected any of {', '.join(PROTOCOLS)}")
    OUT.mkdir(parents=True, exist_ok=True)
    results = Results(OUT / "results.jsonl")
    for protocol in only if not args.table else []:
        for seed in range(int(first), int(last or first) + 1):
            for fold in PROTOCOLS[protocol](args.folder, seed):
                for learner, config, score in learners(fold, args.configs or CONFIGS, args.whole):
                    key = {"protocol": protocol, "fold": fold.name, "seed": seed, "learner": learner, "config": config}
                    if not results.has(key):
                        found = score()
                        results.add(key | found)
                        print(f"{protocol}, {fold.name}, seed {seed}, {learner} {config or ''}: {found}", file=sys.stderr)
    results.tables(only)


# Protocols


@dataclasses.dataclass
class Fold:
    """Files to train on, a file to test on, and their rows."""

    name: str
    path: pathlib.Path
    seed: int
    schema: str
    train_files: list
    test_file: pathlib.Path
    train: experiment.Table
    test: experiment.Table

    def __post_init__(self):
        self.known = np.isin(self.test.key, self.train.key)
        self.scored = ~self.known & (self.test.y >= 0)

    @functools.cached_property
    def fitted(self):
        """The rows that the network trains on, among those with a label: `encode` lists them after a step of a small network."""
        run = self.path / "split" / str(self.seed)
        if not (run / "manifest-encode.json").exists():
            small = {"model": {"dim": 8, "depth": 1}, "pretrain": {"steps": 1}}
            call("pretrain", self.config(run, small), "--run", run)
            call("encode", self.config(run, small), "--run", run)
        rows, labels = (np.load(run / "latents" / f"{what}_train.npy") for what in ("rows", "labels"))
        assert np.array_equal(self.labelled.y[rows], labels), f"{run}: rows that are not those of the training file"
        return self.labelled.rows(rows)

    @functools.cached_property
    def labelled(self):
        return self.train.rows(self.train.y >= 0)

    def config(self, run, settings):
        run.mkdir(parents=True, exist_ok=True)
        data = {"schema": self.schema, "train": [str(path) for path in self.train_files], "unlabelled": None}
        path = run.parent / f"{run.name}.yaml"
        path.write_text(yaml.safe_dump(settings | {"name": "networks", "seed": self.seed, "data": data}))
        return ["--config", path]


def written(protocol, name, seed, schema, train, test):
    """A fold whose files are cut from another file."""
    path = OUT / protocol / name.replace(" ", "-")
    files = [path / f"{part}-{seed}.csv" for part in ("train", "test")]
    path.mkdir(parents=True, exist_ok=True)
    for file, part in zip(files, (train, test), strict=True):
        part.raw.to_csv(file, index=False)
    return Fold(name, path, seed, schema, files[:1], files[1], train, test)


def fifth(table, rows, seed):
    """A fifth of these rows by groups of equal rows, with the classes in proportion, as crates/flows/src/split.rs cuts."""
    groups = pd.Series(rows).groupby(table.key[rows], sort=False).apply(np.array).to_list()
    room = np.round(0.2 * np.bincount(table.y[rows], minlength=2)).astype(int)
    held_out = np.zeros(len(table.y), dtype=bool)
    for idx in np.random.default_rng(seed).permutation(len(groups)):
        counts = np.bincount(table.y[groups[idx]], minlength=2)
        if (counts <= room).all():
            room -= counts
            held_out[groups[idx]] = True
    return held_out


def cic_days(folder, seed):
    table = experiment.read(folder / "cic-ids2017/monday-to-wednesday.csv", "cicflowmeter")
    day = pd.to_datetime(table.raw["Timestamp"]).dt.day_name().to_numpy()
    for name in dict.fromkeys(day):
        yield written("cic-days", name, seed, "cicflowmeter", table.rows(day != name), table.rows(day == name))


def cic_families(folder, seed):
    table = experiment.read(folder / "cic-ids2017/monday-to-wednesday.csv", "cicflowmeter")
    family = table.raw["Label"].to_numpy()
    benign = fifth(table, np.flatnonzero(table.y == 0), seed)
    for name in sorted(set(family[table.y == 1])):
        test = benign | (family == name)
        yield written("cic-families", name, seed, "cicflowmeter", table.rows(~test), table.rows(test))


def whole_files(protocol, files, seed):
    tables = {path: experiment.read(path, "zeek-conn") for path in files}
    for path in files:
        others = [other for other in files if other != path]
        name = path.name.split(".")[0].removeprefix("CTU-").replace("-Capture", "")
        train = experiment.joined([tables[other] for other in others])
        yield Fold(name, OUT / protocol / name, seed, "zeek-conn", others, path, train, tables[path])


def iot_23(folder, seed):
    yield from whole_files("iot-23", sorted((folder / "iot-23").glob("*.csv")), seed)


def zeek(folder, seed):
    yield from whole_files("zeek", sorted((folder / "zeek").glob("*.conn.log.labeled")), seed)


def netflow(folder, seed):
    table = experiment.read(folder / "netflow/nf-unsw-nb15.csv", "netflow-v1")
    test = fifth(table, np.arange(len(table.y)), seed)
    yield written("netflow", "a fifth", seed, "netflow-v1", table.rows(~test), table.rows(test))


PROTOCOLS = {"zeek": zeek, "netflow": netflow, "iot-23": iot_23, "cic-days": cic_days, "cic-families": cic_families}


# Learners


def learners(fold, configs, whole):
    """(learner, config, what trains it and scores it)"""
    for name in RIVALS:
        yield name, None, lambda name=name: rival(fold, name, fold.fitted)
        if whole:
            yield name + WHOLE, None, lambda name=name: rival(fold, name, fold.labelled)
    if fold.path.parent.name == "iot-23":
        tcp = (fold.test.x["proto"] == "tcp").to_numpy(float)
        # a rule is sure of itself, so its log loss says nothing
        yield "the rule `proto` = tcp", None, lambda: metrics(fold, tcp) | {"log_loss": None}
    for config in configs:
        yield "nids-mixer", pathlib.Path(config).stem, lambda config=config: network(fold, config)


def call(stage, arguments, *more):
    experiment.call([BINARY, stage, *(str(part) for part in [*arguments, *more])])


def network(fold, config):
    settings = {} if config == "default" else yaml.safe_load(pathlib.Path(config).read_text())
    settings = {name: value for name, value in settings.items() if name not in ("name", "seed", "data")}
    run = fold.path / pathlib.Path(config).stem / str(fold.seed)
    arguments = fold.config(run, settings)
    if settings.get("finetune", {}).get("from") != "scratch":
        call("pretrain", arguments, "--run", run)
    call("finetune", arguments, "--run", run)
    call("predict", ["--run", run], "--data", fold.test_file, "--id", "row", "--output", run / "verdicts.csv")
    verdicts = pd.read_csv(run / "verdicts.csv")
    assert len(verdicts) == len(fold.test.y), f"{run}: verdicts for other rows than those of the test file"
    return metrics(fold, verdicts["probability"].to_numpy())


def rival(fold, name, train):
    """LightGBM as in scripts/quality.py, with missing numbers and categories as they are; ExtraTrees as in scripts/ablation.py,
    with medians for missing numbers, a column that says so, and a column a category."""
    numbers, texts = experiment.columns_of(fold.schema, "numeric"), experiment.columns_of(fold.schema, "categorical")
    if name.startswith("LightGBM"):
        known = {text: sorted(set(train.x[text])) for text in texts}
        train_x, test_x = (
            x.assign(**{text: pd.Categorical(x[text].where(x[text].isin(words)), words) for text, words in known.items()})
            for x in (train.x, fold.test.x))
        settings = {"n_estimators": 400, "learning_rate": 0.05, "num_leaves": 63, "random_state": fold.seed, "verbose": -1}
        model = lightgbm.LGBMClassifier(**settings).fit(train_x, train.y)
        return metrics(fold, model.predict_proba(test_x)[:, 1])
    columns = make_column_transformer(
        (SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), numbers),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), texts))
    model = make_pipeline(columns, ExtraTreesClassifier(500, random_state=fold.seed, n_jobs=-1)).fit(train.x, train.y)
    return metrics(fold, model.predict_proba(fold.test.x)[:, 1])


def metrics(fold, scores):
    labels, scores = fold.test.y[fold.scored], scores[fold.scored]
    attack, called = labels == 1, scores >= 0.5
    counts = {"rows": len(labels), "attacks": int(attack.sum()), "known_rows": int((fold.known & (fold.test.y >= 0)).sum())}
    found = {"false_alarms": float(called[~attack].mean())}
    if attack.any() and not attack.all():
        fpr, recall, _ = roc_curve(labels, scores)
        found |= {
            "accuracy": float((called == attack).mean()),
            "roc_auc": float(roc_auc_score(labels, scores)),
            "recall_at_fpr_1pct": float(recall[fpr <= 0.01].max()),
            "log_loss": float(log_loss(labels, np.clip(scores, 1e-6, 1 - 1e-6))),
        }
    return found | counts


# Results


class Results(experiment.Results):
    def tables(self, protocols):
        """Of each protocol, what its folds are, and mean ± sd over seeds: of the mean over folds, then of each fold."""
        frame = pd.DataFrame(self.lines).astype(dict.fromkeys(METRICS, float))
        frame["name"] = frame["learner"] + frame["config"].map(lambda config: f", {config}" if isinstance(config, str) else "")
        for protocol in protocols:
            lines = frame[frame["protocol"] == protocol]
            if lines.empty:
                continue
            sizes = ["rows", "attacks", "known_rows"]
            print(f"\n### {protocol}\n\n| fold | rows scored | attacks | rows left out, equal to training rows |\n|---|---|---|---|")
            for fold, counts in lines.groupby("fold", sort=False)[sizes].mean().round().astype(int).iterrows():
                print(f"| {fold} | " + " | ".join(f"{count:,}" for count in counts) + " |")
            print("\n| fold | learner | seeds | " + " | ".join(METRICS[key][0] for key in METRICS) + " |")
            print("|---" * (len(METRICS) + 3) + "|")
            folds = lines["fold"].nunique()
            if folds > 1:
                # a mean over folds needs all of them
                whole = lines[lines.groupby(["name", "seed"])["fold"].transform("nunique") == folds]
                print_rows("mean", whole.groupby(["name", "seed"])[list(METRICS)].mean().reset_index())
            for fold, part in lines.groupby("fold", sort=False):
                print_rows(fold, part[~part["name"].str.endswith(WHOLE)] if folds > 1 else part)


def print_rows(fold, lines):
    """In brackets the lead of a network over the best rival on the same rows, and the p of a paired t-test."""
    for name in sorted(lines["name"].unique(), key=lambda name: (not name.startswith("nids-mixer"), name)):
        cells = [fold, name, str((lines["name"] == name).sum())]
        for key in METRICS:
            values = lines.pivot(index="seed", columns="name", values=key)
            rivals = RIVALS if name.startswith("nids-mixer") else []
            cells.append(experiment.cell(values, name, rivals, METRICS[key][1]))
        print("| " + " | ".join(cells) + " |")


main()
