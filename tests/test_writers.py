"Several processes at one folder: one writes a run, whoever looks disturbs nobody, and two that measure lose nothing."
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import wait_for
from test_faults import TINY, check_same, evaluations, hold, lab, one_line, run_of, started, uninterrupted  # noqa: F401

from grok_nb import InputError, runs
from grok_nb.interventions import Hold
from grok_nb.listing import listing, listing_text, tree
from grok_nb.probes import curve, fingerprint, load_table, measure, measured, save_table
from grok_nb.runs import Busy, Run
from grok_nb.training import failures_are_named, save_artifacts

# ---- a process that stood still ----

LEASE = "from grok_nb import runs; runs.claim_seconds = 1."

# The process stops itself at the n-th look at its claim, right before or right after it: what comes then is the move.
STOP = LEASE + """
fence, looks = runs.Run.fence, 0
def stopping(run):
    global looks
    looks += run.claim is not None
    if looks == {n} and {before}: os.kill(os.getpid(), signal.SIGSTOP)
    fence(run)
    if looks == {n} and not {before}: os.kill(os.getpid(), signal.SIGSTOP)
runs.Run.fence = stopping"""


def stands_still(pid):
    from pathlib import Path
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def overtake(lab, root, first):
    "Another process takes the run over while the first stands still, which wakes as soon as it has; both end."
    run = run_of(root, TINY)
    wait_for(lambda: time.time() - (run.path/".claim").stat().st_mtime > .6, "half a lease", every=.05)
    second = lab.train(root, TINY, LEASE, slow=.002)
    wait_for(lambda: second.poll() is not None or f"pid={second.pid}\n" in (run.path/".claim").read_text(), "the successor's claim")
    first.kill(signal.SIGCONT)
    assert second.wait() == 0, second.errors
    first.wait()
    return run, second


def trial(lab, root, reference, n, before):
    first = lab.command(root, TINY, STOP.format(n=n, before=before))
    wait_for(lambda: first.poll() is not None or stands_still(first.pid), "the first process to stop")
    if first.poll() is not None: return False # it had fewer looks
    run, second = overtake(lab, root, first)
    assert first.status == 2 and one_line(first.errors) and "another one has taken the run over" in first.errors, first.errors
    check_same(run, reference)
    assert not [*run.path.rglob("*.partial"), *run.path.rglob("*.deleted")]
    assert [s["step"] for s in run.sessions()][0] == 0
    return True


linux = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="stopped processes are seen in /proc")


@pytest.mark.promise("writers")
@linux
@pytest.mark.parametrize("n, before", [(9, True), (9, False)], ids=["before the look", "after it"])
def test_who_stood_still_writes_nothing(lab, runs_root, uninterrupted, n, before):
    assert trial(lab, runs_root, uninterrupted(TINY), n, before)


@linux
@pytest.mark.slow
def test_who_stood_still_writes_nothing_wherever_it_was(lab, runs_root, uninterrupted, survived):
    "At every look of the beginning, and at others up to the end, on both sides of it."
    places = [(n, before) for n in (*range(1, 13), *random.sample(range(13, 60), 13)) for before in (True, False)]
    done = sum(trial(lab, runs_root/f"{n}{before}", uninterrupted(TINY), n, before) for n, before in places)
    assert done >= 45
    survived("writers", 45)


# ---- a claim that nobody holds ----

@pytest.mark.promise("writers")
@pytest.mark.parametrize("text", ["", "\n", "12\n", "filelock/2\npid=1", "\0\0\0"], ids="empty line legacy cut zeros".split())
def test_a_claim_of_nobody_is_void_after_the_lease(stopped_clock, text):
    "A kill between making the claim and writing it leaves it empty; an hour later the run is free, for `delete` too."
    run = stopped_clock
    claim = run.path/".claim"
    claim.write_text(text)
    assert run.locked and run.state == "running"
    with pytest.raises(Busy):
        with run.lock(): pass
    hour = time.time() - 3600
    os.utime(claim, (hour, hour))
    assert not run.locked and run.state == "new"
    with run.lock(wait=True): assert run.locked and "mode=lease" in claim.read_text()
    assert not claim.exists()


@pytest.fixture
def stopped_clock(runs_root):
    "A run that nobody has trained."
    from grok_nb.modular.study import study
    return Run.create(study.config("smoke"), runs_root)


@pytest.mark.promise("writers")
def test_who_looks_takes_nothing(stopped_clock):
    "Many readers beside starts: none is refused, and no idle run is taken for a running one."
    run, seen, end = stopped_clock, [], threading.Event()
    def look():
        while not end.is_set(): seen.append(Run(run.path).state)
    readers = [threading.Thread(target=look) for _ in range(3)]
    for r in readers: r.start()
    wait_for(lambda: len(seen) > 300, "three hundred looks")
    idle = len(seen)
    assert set(seen[:idle]) == {"new"}
    for _ in range(30):
        with run.lock(): pass # none is refused
    end.set()
    for r in readers: r.join()
    assert set(seen) <= {"new", "running"} and run.state == "new"


@pytest.mark.promise("writers")
def test_readers_beside_a_writer(lab, runs_root):
    "Lists and trees of a run while it is trained, its checkpoints coming and going: never an error, never another state."
    options = TINY | dict(steps=60, checkpoints=60, keep_states=1)
    job = lab.train(runs_root, options, slow=.01)
    started(runs_root, options, job, 1)
    looks, [path] = 0, runs_root.iterdir()
    while job.poll() is None:
        table, others = listing(runs_root)
        assert not others and len(table) == 1 and "slow" not in others
        if job.poll() is None: assert table.state[0] in ("running", "finished")
        listing_text(table), tree(path), Run(path).metrics()
        looks += 1
    assert job.status == 0, job.errors
    assert looks > 10


# ---- measured tables ----

def a_model(scale, folder):
    from grok_nb.models import gpt
    gpt(7, 16, 1, 2, 12, std=scale, seed=0).save_pretrained(folder)


def norm(model, context):
    return [dict(layer=i, metric="norm", value=b.self_attn.v_proj.weight.norm().item()) for i, b in enumerate(model.model.layers)]


@pytest.fixture
def series(tmp_path):
    "Six checkpoints, each of its own scale."
    for step in range(6): a_model(.02*(1 + step), tmp_path/"series"/f"step{step}")
    return tmp_path/"series"


@pytest.mark.promise("damage")
def test_rows_belong_to_the_content(series, tmp_path):
    "Weights replaced under the same names are measured; those that were not, or that were put back, are not again."
    calls = []
    def probe(model, context):
        calls.append(context.step)
        return norm(model, context)
    def ask(): return curve(measure(series, dict(norm=probe), tmp_path/"tables"), metric="norm")
    first = ask()
    assert calls == [*range(6)] and first.is_monotonic_increasing
    a_model(.5, series/"step2")
    assert measured(series, dict(norm=probe), tmp_path/"tables").step.tolist() == [0, 1, 3, 4, 5]
    second = ask()
    assert calls[6:] == [2] and second[2] > second[5] and second.drop(2).equals(first.drop(2))
    shutil.rmtree(series/"step2")
    shutil.copytree(series/"step1", series/"step2")
    third = ask()
    assert calls[7:] == [2] and third[2] == third[1] != second[2]
    assert ask().equals(third) and calls[8:] == []
    assert "content" not in measured(series, dict(norm=probe), tmp_path/"tables")


@pytest.mark.promise("damage")
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:len(data)//2], lambda data: b"garbage", lambda data: bytes(len(data)),
                                    lambda data: b"[]"], ids="empty cut garbage zeros json".split())
def test_damaged_tables_are_named_and_measured_again(series, tmp_path, capsys, damage):
    first = measure(series, dict(norm=norm), tmp_path/"tables")
    path = tmp_path/"tables"/"norm.parquet"
    path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()
    pd.testing.assert_frame_equal(measure(series, dict(norm=norm), tmp_path/"tables"), first)
    assert one_line(capsys.readouterr().err) and load_table(path) is not None


def test_no_flipped_bit_in_a_table_is_believed(tmp_path, survived):
    "Every seventh byte, one bit of it: the table is as it was, or is none."
    path = tmp_path/"t.parquet"
    table = pd.DataFrame(dict(run="a", step=np.arange(40)//4, tokens=np.arange(40.), layer=[0, None]*20, head=["x", None]*20, value=np.random.randn(40)))
    table.attrs["made_by"] = "this"
    save_table(table, path)
    whole, kept = load_table(path), path.read_bytes()
    pd.testing.assert_frame_equal(whole, table, check_dtype=False)
    for place in range(0, len(kept), 7):
        flipped = bytearray(kept)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        found = load_table(path, say=False)
        assert found is None or found.equals(whole) and found.attrs == whole.attrs, place
    survived("damage", len(kept)//7)


def measure_some(source, folder, steps, start):
    wait_for(start.exists, "the start", every=.001)
    measure([source/f"step{s}" for s in steps], dict(norm=norm), folder)
    os._exit(0)


def two_measure(series, tmp_path, trials):
    fork = multiprocessing.get_context("fork")
    for n in range(trials):
        folder, start = tmp_path/f"tables{n}", tmp_path/f"start{n}"
        both = [fork.Process(target=measure_some, args=(series, folder, range(part, 6, 2), start)) for part in (0, 1)]
        for p in both: p.start()
        start.touch()
        for p in both: p.join()
        assert [p.exitcode for p in both] == [0, 0]
        assert sorted(load_table(folder/"norm.parquet").step) == [*range(6)]


@pytest.mark.promise("writers")
def test_two_that_measure_lose_nothing(series, tmp_path): two_measure(series, tmp_path, 4)


@pytest.mark.slow
def test_two_that_measure_lose_nothing_often(series, tmp_path, survived):
    two_measure(series, tmp_path, 50)
    survived("writers", 50)


@pytest.mark.promise("damage")
def test_a_probe_is_all_that_it_calls(tmp_path, monkeypatch):
    "Another module, a class, a constant, a name imported inside, code of a closure: each changes the fingerprint; what is not called does not."
    import importlib
    import sys
    folder = tmp_path/"measures"
    folder.mkdir()
    parts = {"__init__": "", "deep": "LEVEL = 1\ndef deep(x): return x*LEVEL\ndef other(x): return x\n",
             "kinds": "from measures.deep import deep\nclass Kind:\n    def ask(self, x): return deep(x)\n    @property\n    def size(self): return 3\n",
             "probe": "from measures import kinds\ndef made(n):\n    def inner(x): return x + n\n    return inner\nadd = made(2)\n"
                      "def probe(model, context):\n    return kinds.Kind().ask(add(1))\n"}
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    def now(**changes):
        for name, text in (parts | changes).items(): (folder/f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        for name in [m for m in sys.modules if m.split(".")[0] == "measures"]: del sys.modules[name]
        import inspect, linecache
        linecache.clearcache()
        return fingerprint(importlib.import_module("measures.probe").probe)
    known = now()
    assert now() == known
    assert now(deep=parts["deep"].replace("return x\n", "return -x\n")) == known # not called
    changes = [dict(deep=parts["deep"].replace("x*LEVEL", "x/LEVEL")), dict(deep=parts["deep"].replace("LEVEL = 1", "LEVEL = 2")),
               dict(kinds=parts["kinds"].replace("return 3", "return 4")), dict(probe=parts["probe"].replace("x + n", "x - n")),
               dict(probe=parts["probe"].replace("made(2)", "made(3)"))]
    assert len({known, *(now(**change) for change in changes)}) == 1 + len(changes)


@pytest.mark.promise("damage")
def test_a_list_names_lost_evaluations(trained_copy):
    "A finished run of whose metrics a line is gone says so in the list, until it is trained again."
    run = trained_copy
    whole = listing(run.path.parent)[0].verdict[0]
    lines = (run.path/"metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path/"metrics.jsonl").write_text("".join(lines[:1] + lines[2:]))
    assert run.finished and listing(run.path.parent)[0].verdict[0] == "evaluations lost: 1; train it again"
    (run.path/"metrics.jsonl").write_text("".join(lines))
    assert listing(run.path.parent)[0].verdict[0] == whole


@pytest.fixture
def trained_copy(short_runs, tmp_path):
    "A copy of a finished run."
    run = short_runs["modular"]
    return Run(shutil.copytree(run.path, tmp_path/run.path.name))


@pytest.mark.promise("writers")
@pytest.mark.parametrize("write, name", [(save_artifacts, "artifacts"), (lambda run: Hold.save(SimpleNamespace(run=run, means={0: torch.ones(2)})), "clamp")],
                         ids=["data", "clamp"])
def test_who_lost_the_run_leaves_nothing_half_written(stopped_clock, monkeypatch, write, name):
    "The successor has tidied the folder already when the first wakes up in the middle of a file."
    run = stopped_clock
    before = sorted(os.listdir(run.path))
    def fence(run): raise Busy("another one has taken the run over")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "fence", fence)
        with pytest.raises(Busy): write(run)
    assert sorted(os.listdir(run.path)) == before
    write(run)
    assert sorted(os.listdir(run.path)) == sorted([*before, f"{name}.safetensors"])


@pytest.mark.parametrize("taken", [True, False])
def test_a_file_that_the_successor_took_is_no_fault_of_the_disk(taken):
    "Who stood still between its look at the claim and a file is told of the successor, not of the missing file."
    def fence():
        if taken: raise Busy("another one has taken the run over")
    session = SimpleNamespace(run=SimpleNamespace(fence=fence), writes=True)
    with pytest.raises(Busy if taken else FileNotFoundError):
        with failures_are_named(session): raise FileNotFoundError("MANIFEST.json")
