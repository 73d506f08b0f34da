"""The soak of `nids-mixer watch`: see scripts/watch-soak."""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time

FIELDS = (
    "ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto service duration orig_bytes resp_bytes conn_state "
    "orig_pkts orig_ip_bytes resp_pkts resp_ip_bytes"
).split()


NETWORKS = {"small": "model: { dim: 16, depth: 2 }\n", "default": ""}


def header(more=()):
    return "#separator \\x09\n#path\tconn\n#fields\t" + "\t".join([*FIELDS, *more]) + "\n"


def flow(number, rng, at, label=None):
    """A line of conn.log; one in 50 is a probe, which has no answer."""
    is_attack = rng.random() < 0.02
    port = rng.choice([22, 23, 3389, 5900]) if is_attack else rng.choice([53, 80, 443, 443])
    size = rng.randrange(40, 90) if is_attack else rng.randrange(200, 9000)
    answer = 0 if is_attack else rng.randrange(300, 90000)
    state = "S0" if is_attack else "SF"
    duration = "-" if is_attack else f"{rng.random() * 9:.6f}"
    cells = [
        f"{at:.6f}", f"C{number:010d}", f"10.0.{rng.randrange(256)}.{rng.randrange(256)}", str(rng.randrange(1024, 65535)),
        "192.0.2.7", str(port), "udp" if port == 53 else "tcp", "-" if is_attack else "ssl", duration,
        str(size), str(answer), state, str(1 + size // 900), str(size + 40), str(answer // 900), str(answer + 40 if answer else 0),
    ]  # fmt: skip
    if label:
        cells.append("Malicious" if is_attack else "Benign")
    return "\t".join(cells) + "\n"


def rss(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def lines_of(state):
    try:
        return json.loads(state.read_text())["counts"]["lines"]
    except FileNotFoundError:
        return 0


def train(binary, folder, rng, network):
    text = header(["label"]) + "".join(flow(n, rng, 1.7e9 + n, label=True) for n in range(20_000))
    (folder / "train.log").write_text(text)
    (folder / "config.yaml").write_text(
        f"name: soak\ndata: {{ train: {folder}/train.log, schema: zeek-conn }}\n"
        f"{NETWORKS[network]}pretrain: {{ steps: 20 }}\nfinetune: {{ steps: 150 }}\n"
    )
    for stage in ["pretrain", "finetune"]:
        command = [binary, "-q", stage, "--config", folder / "config.yaml", "--run", folder / "run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--network", choices=NETWORKS, default="small")
    args = parser.parse_args()
    found = [path for path in ["target/release/nids-mixer", "target/debug/nids-mixer"] if os.path.exists(path)]
    binary = os.environ.get("BINARY") or found[0]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="watch-soak-"))
    rng = random.Random(1)
    train(binary, folder, rng, args.network)
    log, alerts, state = folder / "conn.log", folder / "alerts.json", folder / "alerts.json.state"
    log.write_text(header())
    command = [
        binary, "watch", "--run", folder / "run", "--data", log, "--output", alerts, "--heartbeat", "10",
        "--metrics", folder / "watch.prom",
    ]  # fmt: skip
    told = (folder / "told.txt").open("w")
    start = lambda: subprocess.Popen(command, stderr=told)  # noqa: E731
    watcher = start()
    templates = [flow(0, rng, 0) for _ in range(50_000)]
    kills = sorted(rng.random() * args.seconds for _ in range(args.kills))
    began, written, tick, rotations, first, peak_lag = time.time(), 0, 0, 0, None, 0
    while (elapsed := time.time() - began) < args.seconds:
        now, n = time.time(), max(0, int(args.rate * (elapsed + 0.1)) - written)
        lines = []
        for number in range(written, written + n):
            _, _, rest = templates[number % len(templates)].split("\t", 2)
            lines.append(f"{now:.6f}\tC{number:010d}\t{rest}")
        with log.open("a") as out:
            out.write("".join(lines))
        written += n
        tick += 1
        if tick % 100 == 0:
            # as logrotate renames, and the next time as it copies and cuts
            rotations += 1
            if rotations % 3 or args.kills:
                log.rename(folder / f"conn.log-{rotations:05d}")
                log.write_text(header())
            else:
                while lines_of(state) < written:
                    time.sleep(0.05)  # two writers to one file would not know of each other
                shutil.copy(log, folder / f"conn.log-{rotations:05d}")
                os.truncate(log, 0)
                with log.open("a") as out:
                    out.write(header())
        if first is None and elapsed > min(10, args.seconds / 4):
            first = rss(watcher.pid)
        if kills and elapsed > kills[0]:
            kills.pop(0)
            watcher.kill()
            watcher.wait()
            watcher = start()
        if tick % 10 == 0:
            peak_lag = max(peak_lag, written - lines_of(state))
        time.sleep(max(0, began + (tick + 1) * 0.1 - time.time()))
    end = time.time()
    while lines_of(state) < written and time.time() < end + 120:
        time.sleep(0.05)
    behind, last = time.time() - end, rss(watcher.pid)
    watcher.send_signal(signal.SIGTERM)
    code = watcher.wait(timeout=5)
    counts = json.loads(state.read_text())["counts"]
    ids = [json.loads(line)["event"]["id"] for line in alerts.read_text().splitlines()]
    summary = {
        "network": args.network, "seconds": args.seconds, "kills": args.kills, "rotations": rotations, "written": written, "counts": counts,
        "flows_a_second": round(written / args.seconds), "alerts_in_file": len(ids), "different_alerts": len(set(ids)),
        "most_flows_behind": peak_lag, "seconds_to_catch_up": round(behind, 2),
        "rss_mib": [round(first or 0, 1), round(last, 1)], "exit_code": code,
    }  # fmt: skip
    print(json.dumps(summary, indent=1))
    told.close()
    assert code == 0, "SIGTERM is no failure"
    assert counts["lines"] == written == counts["flows"], "a flow was lost or doubled"
    assert len(ids) == len(set(ids)) == counts["alerts"], "an alert was lost or doubled"
    assert args.kills or last < 1.2 * first + 8, "memory grows"
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
