"Sweeps on every engine: what is killed, hangs or fails, and that each run is trained once."
import json
import os
import re
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path

import pytest
from conftest import PATIENCE, wait_for
from test_faults import alive

from grok_nb import InputError, RunError, runs, sweeps
from grok_nb.engines import Serial
from grok_nb.files import file_hash
from grok_nb.modular.study import study
from grok_nb.runs import Run
from grok_nb.sweeps import run_all, summarise, sweep

TINY = dict(p=7, alpha=.6, n_shots=12, depth=1, width=16, heads=2, batch_size=8, n_eval=8, steps=4, warmup_steps=0, evaluate_every=2, checkpoints=1, checkpoint_on_change=0., optimizer="adamw")
QUIET = dict(progress=False, every=.05)
tiny = lambda **changes: study.config("demo", **TINY | changes)


@pytest.fixture
def helpers(tmp_path, monkeypatch):
    "A module of functions that workers can import by name; it writes down every call."
    folder, log = tmp_path/"helpers", tmp_path/"calls"
    folder.mkdir()
    (folder/"sweep_helpers.py").write_text(f"""
import os, time
from grok_nb.runs import Run
def calls(): return [line.split() for line in open({str(log)!r})]
def note(run, what):
    with open({str(log)!r}, "a") as f: f.write(f"{{run.run_id}} {{what}} {{os.getpid()}}\\n")
def done(run):
    note(run, "done")
    while len({{process for *_, process in calls()}}) < 2: time.sleep(.01) # both processes have come
def fails_once(run):
    first = not (run.path/"tried").exists()
    (run.path/"tried").touch(); note(run, "tried")
    if first and run.config.seed == 1: raise ValueError("not the first time\\nnor on two lines")
def fails(run):
    note(run, "tried")
    if run.config.seed == 1: raise OSError("never")
def hangs(run):
    note(run, "tried")
    while run.config.seed == 1: time.sleep(1)
def kills_itself(run):
    note(run, "tried")
    if run.config.seed == 1: os.kill(os.getpid(), 9)
def rests(run):
    "Once forty runs are finished."
    while sum(Run(p.parent).finished for p in run.path.parent.glob("*/config.json")) >= 40: time.sleep(.1)
def at_once(curve): return len(curve) > 1
""")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    return lambda: [line.split() for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def untrained(helpers, tmp_path):
    "Workers do not load torch: they write down what a training would have left. What an engine does with a job is the same."
    (tmp_path/"helpers"/"sitecustomize.py").write_text("""
import sys, types
def train(config, root=None, **_):
    from grok_nb.files import atomic_folder
    from grok_nb.runs import Run
    assert "torch" not in sys.modules
    run = Run.create(config, root)
    if run.finished: return run
    with run.lock(wait=True):
        for step in (0, 2, 4): run.append(step=step, tokens=8*step, seconds=0., rows=[dict(probe="train", metric="loss", value=1.)])
        with atomic_folder(run.folder(4), step=4, tokens=32, run=run.run_id) as folder:
            for name in ("config.json", "model.safetensors"): (folder/name).write_text("{}")
    return run
sys.modules["grok_nb.training"] = types.ModuleType("grok_nb.training")
sys.modules["grok_nb.training"].train = train
""")
    return helpers


def reference(root, config):
    [task] = run_all([config], root, "serial", progress=False)
    return file_hash(task.run.at(config.steps).path/"model.safetensors")


def check_once(runs):
    "Every run has ended, with each step measured once."
    for run in runs:
        assert run.finished and not run.locked and run.state == "finished"
        assert [r["step"] for r in run.records()] == [0, 2, 4]


def test_a_run_that_ends_is_told_of_at_once(runs_root, monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    first, second = tiny(), tiny(seed=1)
    class Here: submit = Serial().submit
    sweeps.train_all([first, second], engine=Here(), say=lambda run: f"{len(run.steps)} checkpoints")
    told = [f"{c.run_id}: finished ({n} of 2). 2 checkpoints" for n, c in enumerate((first, second), 1)]
    assert capsys.readouterr().err.splitlines() == told


# ---- the engine of our own ----

@pytest.mark.parametrize("then, error", [("fails", "OSError: never"), ("hangs", "no step for 1,800 seconds"),
                                         ("kills_itself", "its process was killed")])
def test_one_bad_job_stops_no_other(untrained, runs_root, monkeypatch, then, error):
    "One run of four fails, hangs or is killed: it is tried twice, its error shown; the others are trained."
    look, hours = sweeps._look, count(1)
    def hangs(task):
        calls = [run for run, *_ in untrained()].count(task.run.run_id)
        return then == "hangs" and task.run.config.seed == 1 and calls > task.tries
    def later(task, now, *rest): look(task, now + 3600*next(hours) if hangs(task) else now, *rest)
    monkeypatch.setattr(sweeps, "_look", later) # for the job that hangs, an hour goes by between two looks
    tasks = run_all([tiny(seed=s) for s in range(4)], None, workers=2, then=f"sweep_helpers:{then}", **QUIET)
    assert [t.state for t in tasks] == ["finished", "failed", "finished", "finished"]
    assert tasks[1].error.endswith(error) and "\n" not in tasks[1].error and tasks[1].tries == 2
    assert [run for run, *_ in untrained()].count(tasks[1].run.run_id) == 2
    check_once([t.run for t in tasks])


def test_a_worker_that_is_told_to_stop(untrained, runs_root):
    "SIGTERM to a process ends no other: its run is tried again."
    (Path(sys.path[0])/"stops.py").write_text("import os, signal\ndef stops(run):\n    if run.config.seed == 1 and not (run.path/'told').exists(): (run.path/'told').touch(); raise SystemExit(143)\n")
    tasks = run_all([tiny(seed=s) for s in range(3)], None, workers=2, then="stops:stops", **QUIET)
    assert [(t.state, t.tries) for t in tasks] == [("finished", 0), ("finished", 1), ("finished", 0)]


def test_a_script_without_a_main_guard(untrained, runs_root, tmp_path):
    "Workers do not run the script again."
    (tmp_path/"script.py").write_text(f"from grok_nb.modular.study import study\nfrom grok_nb.sweeps import train_all\nprint('once')\n"
                                      f"train_all([study.config('demo', **{TINY!r}, seed=s) for s in (0, 1)], {str(runs_root)!r}, progress=False)\n")
    done = subprocess.run([sys.executable, tmp_path/"script.py"], capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 0 and done.stdout == "once\n", done.stderr
    check_once([Run.create(tiny(seed=s)) for s in (0, 1)])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(untrained, runs_root, tmp_path, number):
    "kill -9 or Ctrl-C to the process that gives out the jobs, while two are being done and one waits."
    options = [TINY | dict(seed=1, lr=lr) for lr in (1e-3, 2e-3, 3e-3)]
    (tmp_path/"script.py").write_text(f"from grok_nb.modular.study import study\nfrom grok_nb.sweeps import run_all\n"
                                      f"run_all([study.config('demo', **o) for o in {options!r}], {str(runs_root)!r}, workers=2, then='sweep_helpers:hangs', progress=False)\n")
    parent = subprocess.Popen([sys.executable, tmp_path/"script.py"], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(untrained()) == 2 or parent.poll() is not None, "both jobs")
    workers = {int(pid) for *_, pid in untrained()}
    assert len(workers) == 2 and all(map(alive, workers))
    parent.send_signal(number)
    assert parent.wait(PATIENCE) == -number
    wait_for(lambda: not any(map(alive, workers)), "the end of the workers")
    if number == signal.SIGINT: assert parent.stderr.read().endswith("KeyboardInterrupt: stopped; run it again to go on\n")
    *done, waits = [Run.create(study.config("demo", **o)) for o in options]
    check_once(done)
    assert waits.state == "new"


@pytest.mark.slow
def test_a_holder_that_hangs(runs_root):
    "A run that another process holds and does not train is given up in the end; the others are trained."
    held = Run.create(tiny(seed=0))
    with held.lock(): tasks = run_all([tiny(seed=s) for s in range(2)], None, "serial", stalled=1., **QUIET)
    assert [t.state for t in tasks] == ["failed", "finished"] and tasks[0].error == "no step for 1 seconds, in another process"


def test_an_engine_that_refuses(runs_root):
    class Full:
        def submit(self, *_): raise OSError("no room\nfor more")
    with pytest.raises(RunError, match="engine: no room; run it again"): run_all([tiny()], None, Full(), **QUIET)


def test_a_claim_that_was_lost(runs_root, monkeypatch):
    "A process that stood still while another took its run over writes nothing more."
    from grok_nb.runs import Busy
    from grok_nb.training import train
    append = Run.append
    def lose(run, **record):
        append(run, **record)
        claim = run.path/".claim"
        if record["step"] == 2: claim.write_text(re.sub("token=.*", "token=another", claim.read_text()))
    monkeypatch.setattr(Run, "append", lose)
    with pytest.raises(Busy, match="another one has taken the run over"): train(tiny(checkpoints=2), progress=False)
    monkeypatch.undo()
    assert Run.create(tiny(checkpoints=2), runs_root).steps == [0]


def test_tried_again(untrained, runs_root):
    tasks = run_all([tiny(seed=s) for s in range(2)], None, workers=1, then="sweep_helpers:fails_once", **QUIET)
    assert [(t.state, t.tries) for t in tasks] == [("finished", 0), ("finished", 1)]
    assert not sweeps.summarise([tasks[1].run]).error.item() # what came right is not shown as wrong


def test_a_rule_ends_runs_early(helpers, runs_root, tmp_path):
    "A run that a rule has stopped has ended, is not begun again under the rule, and without it goes on to the same bits."
    configs, rule = [tiny(seed=s) for s in range(2)], dict(until="sweep_helpers:at_once", keep_best=True)
    tasks = run_all(configs, None, "serial", **rule, **QUIET)
    assert [(t.state, t.run.state, t.run.steps) for t in tasks] == [("stopped", "stopped", [0, 2])] * 2
    assert [t.state for t in run_all(configs, None, "serial", **rule, **QUIET)] == ["stopped"] * 2 and all(len(t.run.sessions()) == 1 for t in tasks)
    assert list(summarise([t.run for t in tasks]).step) == [2, 2]
    tasks = run_all(configs, None, "serial", **QUIET)
    check_once([t.run for t in tasks])
    assert file_hash(tasks[0].run.at(4).path/"model.safetensors") == reference(tmp_path/"serial", configs[0])


def test_processes_are_used_again(untrained, runs_root):
    "Two processes share all jobs; each does one at a time."
    tasks = run_all([tiny(seed=s) for s in range(6)], None, workers=2, then="sweep_helpers:done", **QUIET)
    check_once([t.run for t in tasks])
    assert len({pid for *_, pid in untrained()}) == 2 and len(untrained()) == 6


def test_a_run_that_another_process_holds(runs_root):
    "It is waited for, and taken over when it is let go."
    held = Run.create(tiny(seed=0))
    code = ("import sys; from grok_nb.runs import Run\n"
            f"with Run({str(held.path)!r}).lock(): print('held', flush=True); sys.stdin.read()")
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True)
    assert holder.stdout.readline() == "held\n"
    seen, look = set(), sweeps._look
    def looked(task, *rest):
        look(task, *rest)
        seen.add((task.run.config.seed, task.state))
        if task.state == "elsewhere": holder.stdin.close() # now that it is seen to be held, it is let go
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "_look", looked)
        tasks = run_all([tiny(seed=s) for s in range(2)], None, "serial", **QUIET)
    assert holder.wait(PATIENCE) == 0
    assert (0, "elsewhere") in seen and not any(t.error for t in tasks)
    check_once([t.run for t in tasks])


def test_a_claim_of_another_machine(runs_root, monkeypatch):
    "As long as it is touched it holds; after silence it is void."
    run = Run.create(tiny())
    def claim_from_elsewhere(seconds):
        monkeypatch.setattr("grok_nb.runs.claim_seconds", seconds)
        with run.lock(): claim = (run.path/".claim").read_text()
        other = ["host=elsewhere" if line.startswith("host=") else line for line in claim.splitlines()]
        (run.path/".claim").write_text("\n".join(other) + "\n")
    claim_from_elsewhere(3600.)
    assert run.state == "running"
    with pytest.raises(InputError, match="being trained by another process"):
        with run.lock(): pass
    (run.path/".claim").unlink()
    claim_from_elsewhere(1.)
    os.utime(run.path/".claim", (time.time() - 60,)*2) # silent for a minute; a second of it must be seen
    assert run.state == "new" and runs._patience(run) == 1.2
    monkeypatch.setattr(runs, "_patience", lambda run: PATIENCE)
    with run.lock(wait=True): assert "host=elsewhere" not in (run.path/".claim").read_text()
    assert run.state == "new" and not (run.path/".claim").exists()


# ---- Dask ----

class Cluster:
    "A scheduler and workers, each a process of its own, over TCP."
    def __init__(self, folder, workers):
        self.folder, self.file = folder, folder/"scheduler.json"
        folder.mkdir()
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", self.file)
        self.address = wait_for(self.written, "the scheduler's address")
        self.workers = [self.worker() for _ in range(workers)]

    def start(self, *arguments):
        log = open(self.folder/"log", "a")
        env = os.environ | dict(DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT=f"{PATIENCE}s")
        return subprocess.Popen([sys.executable, "-m", "dask", *map(str, arguments)], stdout=log, stderr=log,
                                cwd=self.folder, env=env)

    def written(self):
        assert self.scheduler.poll() is None, (self.folder/"log").read_text()
        try: return json.loads(self.file.read_text())["address"]
        except (OSError, ValueError): return None # not yet, or half of it

    def worker(self): return self.start("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", self.folder)
    def close(self):
        for p in (*self.workers, self.scheduler): p.kill(); p.wait()


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("distributed", reason="needs Dask: pip install 'grok_nb[dask]'")
    made = Cluster(tmp_path/"dask", 2)
    yield made
    made.close()


@pytest.mark.promise("kills")
@pytest.mark.slow
def test_killed_at_random(helpers, cluster, runs_root, tmp_path):
    "Fifty jobs on Dask; a worker is killed in the middle, later the scheduler. Another engine finishes them, and every run is trained once."
    # However late the kills come, some runs are left to be trained: the workers rest once forty are finished.
    configs = [tiny(seed=s) for s in range(50)]
    finished = lambda: sum(Run(p.parent).finished for p in Path(runs_root).glob("*/config.json"))
    at, kills = sorted(random.sample(range(5, 40), 2)), []
    def killer():
        for number, process in zip(at, (cluster.workers[0], cluster.scheduler)):
            wait_for(lambda: finished() >= number, f"{number} runs", 3*PATIENCE, every=.02)
            process.kill(); kills.append(finished())
    thread = threading.Thread(target=killer, daemon=True)
    thread.start()
    try: first = run_all(configs, None, f"dask:{cluster.address}", then="sweep_helpers:rests", **QUIET)
    except RunError as e: # a job was being handed over when the scheduler went
        first = []
        assert str(e).startswith("engine: ") and "run it again" in str(e)
    thread.join(PATIENCE)
    done = [r for p in Path(runs_root).glob("*/config.json") if (r := Run(p.parent)).finished]
    before = {r.run_id: (r.path/"metrics.jsonl").stat().st_mtime_ns for r in done}
    assert len(kills) == 2 and 5 <= len(before) < 50 and {t.state for t in first} in (set(), {"finished", "failed"})
    assert all(t.error and "\n" not in t.error for t in first if t.state == "failed")
    for p in cluster.workers: p.kill(); p.wait() # what they hold is free again
    last = run_all(configs, None, workers=2, **QUIET)
    assert [t.state for t in last] == ["finished"] * 50
    check_once([t.run for t in last])
    assert all((Run(runs_root/r).path/"metrics.jsonl").stat().st_mtime_ns == at for r, at in before.items()) # not trained again
    assert sum(len(t.run.sessions()) - 1 for t in last) <= 3 # only what was being trained at a kill was begun twice
    [some] = random.sample(last, 1)
    assert file_hash(some.run.at(4).path/"model.safetensors") == reference(tmp_path/"serial", some.run.config)


def test_dask_client_of_ones_own(untrained, cluster, runs_root):
    "A client is used and left open; a job that fails there is tried again, as a new job."
    from distributed import Client
    with Client(cluster.address, timeout=PATIENCE) as client:
        client.register_worker_callbacks() # it answers
        table = sweep("modular", "demo", None, seeds=[0, 1], fixed=TINY, engine=client, then="grok_nb.engines:named", **QUIET)
        assert client.status == "running"
    assert list(table.state) == ["finished"] * 2 and table.error.str.contains("TypeError|AttributeError").all() # a run is no path: `then` failed, twice


# ---- submitit ----

@pytest.mark.slow
def test_submitit(runs_root, helpers):
    "Its local executor, as it would be used on Slurm: options passed through, one job a run, errors in a line."
    pytest.importorskip("submitit", reason="needs submitit: pip install 'grok_nb[slurm]'")
    table = sweep("modular", "demo", seeds=[0, 1, 2], fixed=TINY, engine="slurm:local", timeout_min=60,
                  then="sweep_helpers:fails", **QUIET)
    assert list(table.state) == ["finished"] * 3
    assert list(table.error != "") == [False, True, False] and "OSError: never" in table.error[1] and "\n" not in table.error[1]
    check_once([Run(runs_root/r) for r in table.run])
    assert (runs_root/"slurm").is_dir()


# ---- mistakes ----

@pytest.mark.parametrize("change, says", [
    (dict(study="modula"), "did you mean 'modular'"), (dict(preset="dmo"), "did you mean 'demo'"), (dict(grid=dict(alhpa=[.5])), "did you mean 'alpha'"),
    (dict(grid={}), "give one, as n_id="), (dict(grid=dict(n_id=[])), "n_id has no values"), (dict(grid=dict(n_id="8,16")), "must be a list"),
    (dict(grid=dict(n_id=[12, 12])), "the same run as at n_id = 12"), (dict(grid=dict(seed=[1])), "give seeds"), (dict(seeds=[]), "seeds has no values"),
    (dict(grid=dict(n_id=[12], alpha=[.5, 7.])), "at n_id = 12, alpha = 7.0, seed = 0: alpha = 7.0: must be"), (dict(engine="dusk"), "did you mean 'dask'"),
    (dict(workers=0), "workers = 0: must be from 1"), (dict(workers=10**4), "must be from 1"), (dict(engine="dask:tcp://127.0.0.1:1"), "no scheduler answers"),
    (dict(engine="slurm"), "engine slurm"), (dict(then="nowhere"), "write package.module:function"), (dict(until="os:nothing"), "write package.module:function"),
    (dict(engine=object()), "it has no `submit`"), (dict(fixed=dict(n_id=16)), "is an axis of the grid"), (dict(seeds=[1, 1]), "the same run as at n_id = 12, seed = 1"),
    (dict(name="../x"), "must be of letters"), (dict(stall=60), "stall"), (dict(engine="serial", timeout_min=60), "takes no options such as timeout_min"),
    (dict(preset="phase_p29_depth2", grid=dict(depth=[1, 2])), "depth: is an axis"),
])
def test_mistakes(runs_root, monkeypatch, change, says):
    "One line, and nothing is written."
    if "dask" in str(change.get("engine", "")):
        client = pytest.importorskip("distributed").Client
        monkeypatch.setattr("distributed.Client", lambda *a, **k: client(*a, **k | dict(timeout=1))) # who does not answer is not waited for
    if change.get("engine") == "slurm": pytest.importorskip("submitit")
    with pytest.raises(InputError) as error: sweep(**dict(study="modular", preset="demo", grid=dict(n_id=[12, 32])) | change, progress=False)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not [p for p in runs_root.rglob("*") if p.is_file()]


@pytest.mark.parametrize("engine, module, extra", [("dask", "distributed", "dask"), ("slurm", "submitit", "slurm")])
def test_an_engine_that_is_not_installed(runs_root, monkeypatch, engine, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"needs the package {module}; install it with: pip install 'grok_nb\[{extra}\]'"):
        sweep("modular", "demo", dict(n_id=[12, 32]), engine=engine, progress=False)
    assert not list(runs_root.iterdir())


def test_two_sweeps_in_one_folder(runs_root):
    sweep("modular", "demo", seeds=[0, 1], fixed=TINY, engine="serial", name="mine", progress=False)
    before = {p: p.stat().st_mtime_ns for p in runs_root.rglob("*")}
    with pytest.raises(InputError, match="another sweep is in"): sweep("modular", "demo", seeds=[2, 3], fixed=TINY, engine="serial", name="mine", progress=False)
    assert {p: p.stat().st_mtime_ns for p in runs_root.rglob("*")} == before
    again = sweep("modular", "demo", seeds=[0, 1], fixed=TINY, engine="serial", name="mine", progress=False)
    assert list(again.state) == ["finished"] * 2


def test_order_and_table(runs_root):
    "Seeds outermost; the table says for each run how its headline curve ended and where it was best."
    table = sweep("modular", "demo", dict(n_id=[12, 32]), seeds=[3, 5], fixed=TINY, engine="serial", progress=False)
    assert list(zip(table.seed, table.n_id)) == [(3, 12), (3, 32), (5, 12), (5, 32)]
    for row in table.itertuples():
        curve = {r["step"]: next(x["value"] for x in r["rows"] if all(x.get(k) == v for k, v in study.headline.items())) for r in Run(runs_root/row.run).records()}
        assert row.last == curve[4] and row.best == max(curve.values()) == curve[row.best_step]
    facts, runs = sweeps.read_sweep(table.attrs["folder"])
    assert [r.run_id for r in runs] == list(table.run) and facts["seeds"] == [3, 5]
    with pytest.raises(InputError, match="no folder of a sweep"): sweeps.read_sweep(runs_root)


def test_a_table_is_replaced_as_a_whole(runs_root, monkeypatch):
    options = dict(seeds=[0, 1], fixed=TINY, engine="serial", progress=False)
    table = Path(sweep("modular", "demo", **options).attrs["folder"])/"table.csv"
    before, replace = table.read_bytes(), os.replace
    def refused(source, target):
        if Path(target) == table: raise OSError(28, "No space left on device")
        replace(source, target)
    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OSError) as e: sweep("modular", "demo", **options)
    assert e.value.filename == str(table) and table.read_bytes() == before and not list(table.parent.glob(".*"))
