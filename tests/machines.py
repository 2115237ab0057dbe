"""What a training comes to under other CPUs' kernels: the pages that train, and the presets.

Run by `make machines`. A sum is not the same to the last bit on every CPU, so a training takes another path on
each, and what a page or a test says of it must hold on all of them. A library's kernels can be chosen by the
environment: each choice below stands for a machine.

    python tests/machines.py                       # pages and presets
    python tests/machines.py --only presets --seeds 100 101
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEVELS = { # torch's own kernels, oneDNN's, and those of the BLAS
    "default": dict(ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41", MKL_ENABLE_INSTRUCTIONS="SSE4_2"),
    "avx2": dict(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2"),
    "avx512": dict(ATEN_CPU_CAPABILITY="avx512", ONEDNN_MAX_CPU_ISA="AVX512_CORE", MKL_ENABLE_INSTRUCTIONS="AVX512"),
}
PRESETS = [(study, preset) for study in ("modular", "copying", "grammar", "markov") for preset in ("smoke", "demo")]
TRAINS = re.compile(r"\b(train|trained|train_all|run|sweep|run_all)\(|\.backward\(|grok_nb_(train|demo|sweep)")
RUN = """
import json, sys, time
from grok_nb import studies
from grok_nb.training import headline_curve, train
study, preset, seed, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
began = time.process_time()
run = train(studies[study].config(preset, seed=seed), threads=threads, progress=False)
curve = headline_curve(run)
half = (curve.iloc[0] + curve.iloc[-3:].mean()) / 2
print(json.dumps(dict(first=curve.iloc[0], last=curve.iloc[-3:].mean(), half=int(curve[curve >= half].index[0]),
                      seconds=time.process_time() - began)))
"""


def machines():
    "Name → environment: the kernels this CPU has, with one thread, and its best with two."
    import torch
    best = torch.backends.cpu.get_cpu_capability().lower()
    names = [*LEVELS][:1 + ([*LEVELS].index(best) if best in LEVELS else 0)]
    found = {f"{name}, 1 thread": LEVELS[name] | dict(OMP_NUM_THREADS="1") for name in names}
    return found | {f"{names[-1]}, 2 threads": LEVELS[names[-1]] | dict(OMP_NUM_THREADS="2")}


def pages():
    "Notebooks with a cell that trains and is run in tests."
    for path in sorted(ROOT.glob("nbs/**/*.ipynb")):
        cells = ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        if any(TRAINS.search(s) and not re.search(r"^#\| *(slow|gpu|notest|export)", s, re.M) for s in cells): yield path


def of_page(path, environment):
    "Did the page run to its end? A row of the table."
    done = subprocess.run([Path(sys.executable).with_name("nbdev_test"), "--path", path], cwd=ROOT,
                          env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wrong = re.findall(r"^\w*(?:Error|Exception)\b.*", done.stdout, re.M)
    return "passed" if not done.returncode else f"failed: {wrong[-1][:120] if wrong else done.stdout[-120:]}"


def of_preset(study, preset, seed, threads, environment):
    "From where to where the study's one curve went, and when it was half-way."
    done = subprocess.run([sys.executable, "-c", RUN, study, preset, str(seed), threads], cwd=ROOT,
                          env=environment, text=True, capture_output=True)
    if done.returncode: return f"failed: {(done.stderr.strip().splitlines() or [f'exit status {done.returncode}'])[-1][:120]}"
    r = json.loads(done.stdout.splitlines()[-1])
    return f"{r['first']:.2f} → {r['last']:.2f}, half-way at {r['half']:,} ({r['seconds']:.0f} CPU s)"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("pages", "presets"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[100])
    parser.add_argument("--match", default="", help="only pages and presets whose name has this in it")
    asked = parser.parse_args()
    jobs = [] if asked.only == "presets" else [(str(p.relative_to(ROOT)), of_page, (p,)) for p in pages()]
    if asked.only != "pages":
        jobs += [(f"{study} {preset}, seed {seed}", of_preset, (study, preset, seed))
                 for study, preset in PRESETS for seed in asked.seeds]
    jobs, failed = [job for job in jobs if asked.match in job[0]], 0
    print("| what | " + " | ".join(machines()) + " |\n|---|" + "---|" * len(machines()), flush=True)
    for name, look, arguments in jobs:
        print(f"| {name} |", end="", flush=True)
        for kernels in machines().values():
            with tempfile.TemporaryDirectory() as runs:
                environment = os.environ | kernels | dict(GROK_NB_RUNS=runs)
                more = (kernels["OMP_NUM_THREADS"],) if look is of_preset else ()
                found = look(*arguments, *more, environment)
            failed += found.startswith("failed")
            print(f" {found} |", end="", flush=True)
        print(flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    began = time.monotonic()
    status = main()
    print(f"\n{(time.monotonic() - began) / 60:.0f} minutes")
    sys.exit(status)
