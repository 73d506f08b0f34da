"""What `calibrate` and `adapt` do for a run on rows that are drawn in another way than those it has learned from.

For each seed, train.csv is cut by groups of equal rows: the run learns from three fifths (and validates on a fifth of those). Of the
rest, 500 rows are drawn to be labelled, the first 100 of which are the smaller set, and the others are scored. Shifts change the rest
only, but for `families` and `id`:

    none       nothing
    fuzzers    half of the Fuzzers are left out
    segment    of rows with sttl 254 and dttl 252, benign ones are there three times, and two thirds of the attacks are left out
    families   the run has not seen Fuzzers, Reconnaissance and Exploits
    id         the run learns from the rows with the lower half of ids, and the others are the rest

Nothing is chosen by the rows that are scored. The budget is 1 % of false alarms, `calibrate --fpr 0.01` on the validation rows; it
should be kept, with 95 % confidence, where the shift leaves benign rows alone.
"""

import argparse
import csv
import hashlib
import json
import pathlib
import random
import statistics
import subprocess

OUT = pathlib.Path("runs/shifts")
FAMILIES = {"Fuzzers", "Reconnaissance", "Exploits"}
SHIFTS = ["none", "fuzzers", "segment", "families", "id"]
ARMS = ["untouched", "calibrated", "no labels", "100 labels", "500 labels"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--config", default="configs/unsw-nb15-small.yaml")
    parser.add_argument("--binary", default="target/release/nids-mixer")
    args = parser.parse_args()
    first, last = (args.seeds.split("-") * 2)[:2]
    with (args.folder / "train.csv").open() as file:
        header, *rows = csv.reader(file)
    found = {}
    for seed in range(int(first), int(last) + 1):
        for shift in SHIFTS:
            for arm, metrics in measure(args, header, rows, shift, seed):
                found.setdefault((shift, arm), []).append(metrics)
    tables(found)


def measure(args, header, rows, shift, seed):
    """The metrics of each arm on one shift."""
    place = {name: i for i, name in enumerate(header)}
    draw = random.Random(seed)
    value = lambda row, name: row[place[name]]
    if shift == "id":
        ids = sorted(int(value(row, "id")) for row in rows)
        is_old = lambda row: int(value(row, "id")) < ids[len(ids) // 2]
    else:
        features = slice(place["id"] + 1, place["attack_cat"])
        fifth = lambda row: int(hashlib.sha256(f"{seed}|{row[features]}".encode()).hexdigest(), 16) % 5
        is_old = lambda row: fifth(row) < 3
    old, new = [row for row in rows if is_old(row)], [row for row in rows if not is_old(row)]
    if shift == "families":
        old = [row for row in old if value(row, "attack_cat") not in FAMILIES]
    if shift == "fuzzers":
        new = [row for row in new if value(row, "attack_cat") != "Fuzzers" or draw.random() < 0.5]
    if shift == "segment":
        is_in = lambda row: (value(row, "sttl"), value(row, "dttl")) == ("254", "252")
        copies = lambda row: 1 if not is_in(row) else 3 if value(row, "label") == "0" else draw.random() < 1 / 3
        new = [row for row in new for _ in range(copies(row))]
    draw.shuffle(new)
    OUT.mkdir(parents=True, exist_ok=True)
    for name, part in [("old", old), ("scored", new[500:]), ("100", new[:100]), ("500", new[:500])]:
        with (OUT / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *part])
    run = OUT / "run"

    def call(command, *more, may_fail=False):
        done = subprocess.run([args.binary, command, "--run", run, *more], capture_output=True, text=True)
        if done.returncode != 0 and not (may_fail and done.returncode == 3):
            raise SystemExit(f"{command} {more}: {done.stderr}")
        return done.stdout

    def scores():
        return json.loads(call("evaluate", "--data", OUT / "scored.csv", "--id", "row", "--json"))

    subprocess.run(["rm", "-rf", run], check=True)
    sets = [f"data.train={OUT}/old.csv", "data.unlabelled=null", f"seed={seed}"]
    call("finetune", "--config", args.config, *(part for setting in sets for part in ("--set", setting)))
    yield "untouched", scores()
    call("calibrate")
    yield "calibrated", scores()
    call("calibrate", "--fpr", "0.01")
    yield "budget of 1 %", scores()
    (run / "calibration.json").unlink()
    for arm, file, more in [("no labels", "scored", ["--no-labels"]), ("100 labels", "100", []), ("500 labels", "500", [])]:
        report = call("adapt", "--data", OUT / f"{file}.csv", "--id", "row", "--json", *more, may_fail=True)
        adapted = json.loads(report) if report else {}
        yield arm, scores() | {"is_adapted": bool(report), "segments": adapted.get("segments", 0)}
        call("adapt", "--undo")


def tables(found):
    for name, title in [("accuracy", "accuracy"), ("log_loss", "log loss"), ("ece", "calibration error")]:
        print(f"\n| {title} | " + " | ".join(ARMS) + " |\n|---|" + "---|" * len(ARMS))
        for shift in SHIFTS:
            means = [statistics.mean(metrics[name] for metrics in found[shift, arm]) for arm in ARMS]
            print(f"| {shift} | " + " | ".join(f"{mean:.4f}".lstrip("0") for mean in means) + " |")
    print("\n| cuts adapted, and with segments | " + " | ".join(ARMS[2:]) + " |\n|---|" + "---|" * len(ARMS[2:]))
    for shift in SHIFTS:
        runs = [found[shift, arm] for arm in ARMS[2:]]
        counts = [(sum(one["is_adapted"] for one in of), sum(one["segments"] > 0 for one in of), len(of)) for of in runs]
        print(f"| {shift} | " + " | ".join(f"{n}, {segments} of {all}" for n, segments, all in counts) + " |")
    print("\n| budget of 1 % | false alarms | cuts above 1 % | recall |\n|---|---|---|---|")
    for shift in SHIFTS:
        runs = found[shift, "budget of 1 %"]
        above = sum(metrics["fpr"] > 0.01 for metrics in runs)
        means = [statistics.mean(metrics[name] for metrics in runs) for name in ("fpr", "recall")]
        print(f"| {shift} | {means[0]:.4f} | {above} of {len(runs)} | {means[1]:.4f} |".replace(" 0.", " ."))


if __name__ == "__main__":
    main()
