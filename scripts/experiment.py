"""What the experiments of scripts/ablation.py and scripts/networks.py share: reading a file as its schema says, running a stage,
keeping results as they come, and comparing them by seed."""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import yaml
from scipy.stats import ttest_rel

MISSING = ("", "-", "(empty)", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "nil", "?")


class Results:
    """Lines of JSON, a result each: what is there is not done again."""

    def __init__(self, path):
        self.path = path
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def has(self, key):
        return any(all(line[name] == value for name, value in key.items()) for line in self.lines)

    def add(self, line):
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def cell(values, name, rivals, more_is_better):
    """Mean ± sd of a learner; in brackets its lead over the best of the rivals on the same seeds, and the p of a paired t-test.
    `values` has a row for each seed and a column for each learner."""
    if name not in values or values[name].isna().all():
        return ""
    text = digits(f"{values[name].mean():.4f}")
    if values[name].count() > 1:
        text += digits(f" ± {values[name].std():.4f}")
    pairs = [values[[name, rival]].dropna() for rival in rivals if rival in values and rival != name]
    leads = [pair.iloc[:, 0] - pair.iloc[:, 1] for pair in pairs if len(pair) > 0]
    if leads:
        lead = min(leads, key=lambda lead: lead.mean() if more_is_better else -lead.mean())
        text += digits(f" ({lead.mean():+.4f}")
        if len(lead) > 1 and lead.std() > 0:
            p = ttest_rel(lead, np.zeros(len(lead))).pvalue
            text += ", p < .001" if p < 0.0005 else digits(f", p {p:.3f}")
        text += ")"
    return text


def digits(text):
    """As docs/results.md writes numbers below one."""
    return text.replace("0.", ".", 1)


def call(command):
    """Runs a stage; what it told is shown where it failed, and its exit code is ours."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{' '.join(command)}\n{done.stderr[done.stderr.find('error: '):]}", file=sys.stderr)
        sys.exit(done.returncode)


@dataclasses.dataclass
class Table:
    """Rows of files as the schema reads them."""

    x: pd.DataFrame  # the features: numbers, NaN where missing, and texts
    y: np.ndarray  # 1 attack, 0 benign, -1 a label that the schema ignores
    raw: pd.DataFrame  # every cell as text

    @functools.cached_property
    def key(self):
        return pd.util.hash_pandas_object(self.x, index=False).to_numpy()

    def rows(self, rows):
        return Table(self.x.loc[rows].reset_index(drop=True), self.y[rows], self.raw.loc[rows].reset_index(drop=True))


def joined(tables):
    x, y, raw = zip(*((table.x, table.y, table.raw) for table in tables), strict=True)
    return Table(pd.concat(x, ignore_index=True), np.concatenate(y), pd.concat(raw, ignore_index=True))


@functools.cache
def schema_of(name):
    return yaml.safe_load(pathlib.Path("configs/schemas", f"{name}.yaml").read_text())


def columns_of(schema, *kinds):
    return [column["name"] for column in schema_of(schema)["columns"] if column["kind"] in kinds]


@functools.cache
def read(path, schema):
    with path.open(encoding="utf-8-sig") as file:
        head = [line.rstrip("\n").split("\t") for line, _ in zip(file, range(20), strict=False)]
    options = {"dtype": str, "keep_default_na": False}
    if head[0][0].startswith("#separator"):
        names = next(line[1:] for line in head if line[0] == "#fields")
        raw = pd.read_csv(path, sep="\t", names=names, comment="#", quoting=3, **options)
    else:
        raw = pd.read_csv(path, **options)
    kind = {column["name"]: column["kind"] for column in schema_of(schema)["columns"]}
    cells = raw.rename(columns={other: name for column in schema_of(schema)["columns"] for name in [column["name"]]
                                for other in raw if other.lower() in (text.lower() for text in column.get("aliases", []))})
    cells = cells.mask(cells.isin(MISSING), "-")
    features = {}
    for name in columns_of(schema, "numeric", "categorical"):
        numbers = cells[name].mask(cells[name] == "-") if kind[name] == "numeric" else None
        features[name] = cells[name] if numbers is None else numbers.astype(float).replace([np.inf, -np.inf], np.nan)
    words = schema_of(schema).get("labels", {"benign": [0]})
    label = cells[columns_of(schema, "label")[0]].str.lower()
    found = {key: label.isin([str(word).lower() for word in words.get(key, [])]) for key in ("benign", "ignore")}
    return Table(pd.DataFrame(features), np.select([found["benign"], found["ignore"]], [0, -1], 1), raw)
