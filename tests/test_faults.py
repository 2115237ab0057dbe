"Training against what machines do: kill -9, signals, a second process, a full disk, damaged files. What comes out is the same bits."
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PATIENCE, ROOT, wait_for

from grok_nb import InputError, studies
from grok_nb.runs import Run

TINY = dict(p=5, n_id=16, alpha=.8, n_shots=4, depth=1, width=16, heads=2, batch_size=16, n_eval=32, n_ood=8, attention_dropout=.1,
            optimizer="muon", lr=3e-3, muon_lr=5e-3, muon_weight_decay=.1, schedule="cosine", final_lr=.1,
            steps=120, warmup_steps=10, evaluate_every=15, checkpoints=12, checkpoint_on_change=0)
SHORT = TINY | dict(steps=8, warmup_steps=2, evaluate_every=4, checkpoints=2, keep_states=1)
WEIGHTS, STATE, FACTS = "model.safetensors", "training_state.safetensors", "training_state.json"

# ---- a laboratory: real processes that need not load torch each time ----

# The modular study with time to interrupt it. The environment names seconds of sleep in a step, and a file:
# as long as that is there, every process waits at the step that stands in it, so that none can end before
# it is interrupted, however late that is. A signal lets the process that gets it go on. Every process finds
# the study by its entry point.
SLOW_STUDY = """
import os, select, signal, sys, time
from dataclasses import dataclass, replace
from functools import cache
from grok_nb.modular import presets, tasks
from grok_nb.modular.study import study as modular

@dataclass(frozen=True, kw_only=True)
class Config(modular.Config):
    study = "slow"

@cache
def signals(process):
    "A pipe of this process that can be read from once a signal has come."
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader

def is_held(step):
    try: return step >= int(open(os.environ["HOLD"]).read())
    except FileNotFoundError: return False

class Stream(tasks.ModularStream):
    def batch(self, step):
        time.sleep(float(os.environ.get("SLOW", 0)))
        if os.environ.get("HOLD"):
            came, tries = signals(os.getpid()), 3*10**5
            while is_held(step) and not select.select([came], [], [], .01)[0]:
                if not (tries := tries - 1): sys.exit("held, and forgotten") # whoever started it is gone
        return super().batch(step)

def config(**changes): return Config(**modular.presets["demo"].options() | changes)
study = replace(modular, Config=Config, presets=dict(demo=config()), stream=lambda config: Stream(**presets.stream_options(config)))
"""

# Loads everything once, then forks a process for each job. Talks in lines of JSON.
SERVER = r'''
import atexit, gc, json, os, signal, sys, tempfile, traceback
from grok_nb import InputError, RunError
from grok_nb import runs, training
from grok_nb.commands import grok_nb_train
from grok_nb.modular.study import study
from grok_nb.modular.tasks import ModularStream
from slow_study import config
def make(options): return config(**options)
with tempfile.TemporaryDirectory() as folder: training.train(make(json.loads(sys.argv[1])), folder)
gc.freeze()
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        pid, status = os.waitpid(job["wait"], os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        continue
    if pid := os.fork():
        print(json.dumps(pid), flush=True)
        continue
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in (1, job["out"]), (2, job["err"]): os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(SLOW=job["slow"], HOLD=job["hold"])
    code = 0
    try: exec(job["code"], globals() | job["names"])
    except SystemExit as e: code = e.code if isinstance(e.code, int) else bool(e.code)
    except (InputError, RunError, KeyboardInterrupt) as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        code = 2 if isinstance(e, InputError) else 1 if isinstance(e, RunError) else 130
    except BaseException: traceback.print_exc(); code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush(); sys.stderr.flush()
    os._exit(code or 0)
'''


def alive(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    try: return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError: return not Path("/proc/self").exists()


class Job:
    def __init__(self, lab, pid, out, err): self.lab, self.pid, self.out, self.err, self.status = lab, pid, out, err, None
    def poll(self):
        if self.status is None: self.status = self.lab.ask(wait=self.pid)
        return self.status
    def wait(self):
        wait_for(lambda: self.poll() is not None, f"the end of process {self.pid}", every=.005)
        return self.status
    def kill(self, number=signal.SIGKILL):
        if self.status is None: os.kill(self.pid, number)
    @property
    def printed(self): return self.out.read_text()
    @property
    def errors(self): return self.err.read_text()


class Lab:
    def __init__(self, folder):
        self.folder, self.jobs, self.made = folder, [], {}
        (folder/"slow_study.py").write_text(SLOW_STUDY)
        (folder/"slow_study-1.dist-info").mkdir()
        (folder/"slow_study-1.dist-info"/"METADATA").write_text("Metadata-Version: 2.1\nName: slow-study\nVersion: 1\n")
        (folder/"slow_study-1.dist-info"/"entry_points.txt").write_text("[grok_nb.studies]\nslow = slow_study:study\n")
        self.env = {k: v for k, v in os.environ.items() if k not in ("GROK_NB_RUNS", "IN_TEST")} | dict(
            OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(filter(None, [str(folder), str(ROOT), os.environ.get("PYTHONPATH")])))
        self.server = self.python(SERVER, json.dumps(SHORT), stdin=subprocess.PIPE, stderr=None)
        assert json.loads(self.server.stdout.readline()) == "ready"

    def python(self, code, *arguments, slow=0, hold="", **options):
        "A Python of its own."
        env = self.env | dict(SLOW=str(slow), HOLD=str(hold))
        options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder, env=env) | options
        return subprocess.Popen([sys.executable, "-c", code, *arguments], **options)

    def ask(self, **job):
        self.server.stdin.write(json.dumps(job) + "\n"); self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, code, slow=0, hold="", **names):
        "A process that runs `code`, a copy of the one where everything is loaded."
        out, err = (self.folder/f"{len(self.jobs)}.{kind}" for kind in ("out", "err"))
        pid = self.ask(code=code, names=names, slow=str(slow), hold=str(hold), out=str(out), err=str(err))
        self.jobs.append(job := Job(self, pid, out, err))
        return job

    def train(self, root, options, setup="", **names):
        "A process that trains; `setup` is run before."
        return self.start(setup + "\ntraining.train(make(options), root)", root=str(root), options=options, **names)

    def command(self, root, options, setup="", **names):
        "A process that is `grok_nb_train`."
        return self.start(setup + "\ngrok_nb_train(argv)", argv=argv(root, options), **names)

    def finish(self, root, options, **names):
        "Train to the end; the run."
        job = self.train(root, options, **names)
        assert job.wait() == 0, job.errors
        return run_of(root, options)

    def close(self):
        for job in self.jobs:
            if job.poll() is None: job.kill()
        self.server.stdin.close()
        self.server.wait(PATIENCE)


def argv(root, options): return ["slow", "--runs", str(root), "--set", *(f"{k}={v}" for k, v in options.items())]
def run_path(root, options): return Path(root)/studies["slow"].config(**options).run_id
def run_of(root, options): return Run(run_path(root, options))
def digest(path): return hashlib.sha256(path.read_bytes()).hexdigest()
def one_line(text): return len(text.splitlines()) == 1 and text.endswith("\n") and "Traceback" not in text


LABS = [] # one, once it is needed, for all files


@pytest.fixture(scope="module")
def lab(tmp_path_factory, pytestconfig):
    if not LABS:
        LABS.append(Lab(tmp_path_factory.mktemp("lab")))
        pytestconfig.add_cleanup(LABS[0].close)
    [lab] = LABS
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(lab.folder)
        studies["slow"] = importlib.import_module("slow_study").study
        yield lab
    del studies["slow"], sys.modules["slow_study"]


@pytest.fixture
def hold(tmp_path):
    "A file that holds processes at step 100 of 120, later than any test interrupts them on a quiet machine."
    path = tmp_path/"hold"
    path.write_text("100")
    return path


@pytest.fixture(scope="module")
def uninterrupted(lab, tmp_path_factory):
    "Runs that nothing happened to, every optimiser state kept; made once for each set of options."
    def make(options):
        key = json.dumps(options)
        if key not in lab.made: lab.made[key] = lab.finish(tmp_path_factory.mktemp("uninterrupted"), options | dict(keep_states=1000)).path
        return Run(lab.made[key])
    return make


def facts(checkpoint): return {k: v for k, v in json.loads((checkpoint.path/FACTS).read_text()).items() if k != "seconds"}
def evaluations(run): return [(r["step"], r["tokens"], r["rows"]) for r in run.records()]


def check_checkpoints(run, reference):
    "Every checkpoint that can be seen has the reference's weights, and its optimiser state if it has one."
    for c in run.checkpoints:
        assert c.manifest["step"] == c.step
        if c.step not in reference.steps: continue # where a signal stopped it
        there = reference.at(c.step)
        assert digest(c.path/WEIGHTS) == digest(there.path/WEIGHTS), c
        if c.has_state: assert (digest(c.path/STATE), facts(c)) == (digest(there.path/STATE), facts(there)), c


def check_same(run, reference, stops=()):
    "Nothing tells the two finished runs apart but the seconds, and the checkpoints made at `stops`."
    assert run.finished and run.state == "finished"
    assert run.steps == sorted({*reference.steps, *stops})
    check_checkpoints(run, reference)
    last = run.resumable
    assert last.step == run.config.steps and facts(last)["loss_steps"] == 0
    assert [e[0] for e in evaluations(run)] == [e[0] for e in evaluations(reference)]
    assert evaluations(run) == evaluations(reference)
    text = (run.path/"metrics.jsonl").read_text()
    assert text.count("\n") == len(run.records()) and text.endswith("}\n")
    assert digest(run.path/"artifacts.safetensors") == digest(reference.path/"artifacts.safetensors")


def in_the_middle_of(step, what):
    "Setup: this is done in the middle of this step."
    return f"""
def batch(stream, step):
    if step == {step}: {what}
    return old(stream, step)
old, ModularStream.batch = ModularStream.batch, batch
"""


def terminate_in(step, number="SIGTERM"):
    "Setup: the process gets a signal in the middle of this step."
    return in_the_middle_of(step, f"os.kill(os.getpid(), signal.{number})")


# ---- kill -9 ----

@pytest.mark.slow
def test_killed_at_random_moments(lab, runs_root, uninterrupted, hold, survived):
    options, draw, kills, last = TINY | dict(checkpoint_on_change=1e-6), random.Random(0), 0, 0
    reference = uninterrupted(options)
    assert len(reference.steps) > 13 # some were made on an event: whenever an accuracy is another
    manifests = lambda: len(list(runs_root.glob("*/checkpoints/*/MANIFEST.json")))
    while True:
        before = manifests()
        hold.write_text(str(last + 20)) # no further, if the kill comes late: so there are five or more
        job = lab.train(runs_root, options, slow=.005, hold=hold)
        wait_for(lambda: manifests() > before or job.poll() is not None, "another checkpoint", every=.002)
        time.sleep(draw.uniform(0, .1))
        job.kill()
        status, run = job.wait(), run_of(runs_root, options)
        check_checkpoints(run, reference)
        if status == 0: break
        assert status == -signal.SIGKILL, job.errors
        kills, last = kills + 1, max(run.steps, default=0)
    check_same(run, reference)
    survived("kills", kills)
    assert kills >= 5


# Python tells a hook of every file operation. This one ends the process just before the n-th in the folder of runs:
# as it is, or with the file that was being written cut in half.
KILLER = r'''
seen, last = 0, None
def hook(event, args):
    global seen, last
    here = str(args[0]).startswith(root) if args else False
    if event == "open": counts = here and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    elif event == "os.mkdir": counts = here and not os.path.exists(args[0])
    elif event in ("os.rename", "os.remove", "os.rmdir"): counts = here or isinstance(args[-1], int) and args[-1] >= 0
    else: return
    if not counts: return
    seen += 1
    if seen == number:
        written = last[1] if last and last[0] == "open" and os.path.exists(last[1]) else None
        if cut and written: os.truncate(written, (last[2] + os.path.getsize(written)) // 2)
        if cut:
            for folder, _, names in os.walk(root):
                if folder.endswith(".partial"):
                    for name in names:
                        if name.endswith(".safetensors"): os.truncate(os.path.join(folder, name), 100)
        os.write(1, json.dumps([event, str(args[0]).removeprefix(root), bool(written)]).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    last = event, str(args[0]), os.path.getsize(args[0]) if event == "open" and args[1] == "a" and os.path.exists(args[0]) else 0
sys.addaudithook(hook)
'''


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 16])
def test_killed_before_every_file_operation(lab, runs_root, uninterrupted, survived, every):
    "The whole life of a run: making it, step 0, checkpoints that replace an optimiser state, the end."
    reference, kills, moments, number = uninterrupted(SHORT), 0, set(), 0
    while True:
        number += every
        killed = []
        for cut in (False, True):
            root = runs_root/f"{number}{cut}"
            job = lab.train(root, SHORT, KILLER, number=number, cut=cut)
            if job.wait() == 0: break
            assert job.status == -signal.SIGKILL, job.errors
            kills += 1
            event, path, written = json.loads(job.printed)
            moments.add((event, re.sub(r"\.[0-9a-f]{12}(?=\.partial)", "", path.split("/")[-1]).lstrip(".")))
            if next(root.glob("*/config.json"), None): check_checkpoints(run_of(root, SHORT), reference)
            killed.append((root, f"killed before {event} of {path}{', the last file cut' * cut}"))
            if not written: break # nothing to cut
        for root, how in killed:
            job = lab.train(root, SHORT)
            assert job.wait() == 0, f"{how}: {job.errors}"
            try: check_same(run_of(root, SHORT), reference)
            except AssertionError as e: raise AssertionError(f"{how}: {e}") from e
        if job.status == 0 and not killed: break
    survived("kills", kills)
    assert kills*every > 30
    if every > 1: return
    # the moments that matter were among them
    assert {("os.rename", "step-00000004.partial"), ("os.rename", "MANIFEST.json.partial"), ("os.remove", STATE), ("os.remove", FACTS),
            ("open", "metrics.jsonl"), ("os.mkdir", "step-00000008.partial")} <= moments


@pytest.mark.promise("kills")
def test_killed_while_a_line_or_a_file_is_written(lab, runs_root, uninterrupted):
    "Where Python cannot see the operation: half a line of metrics, half the optimiser state, half the weights."
    reference = uninterrupted(TINY)
    half_line = """
def append(run, **record):
    if record["step"] == 60:
        with open(run.path/"metrics.jsonl", "a") as f: f.write(json.dumps(record)[:100])
        os.kill(os.getpid(), signal.SIGKILL)
    old(run, **record)
old, runs.Run.append = runs.Run.append, append"""
    half_state = """
def save_file(tensors, path):
    old(tensors, path)
    if "00000070" in str(path): os.truncate(path, 1000); os.kill(os.getpid(), signal.SIGKILL)
old, training.save_file = training.save_file, save_file"""
    half_weights = """
from transformers import PreTrainedModel
def save_pretrained(model, folder, **options):
    old(model, folder, **options)
    if "00000080" in str(folder): os.truncate(folder/"model.safetensors", 1000); os.kill(os.getpid(), signal.SIGKILL)
old, PreTrainedModel.save_pretrained = PreTrainedModel.save_pretrained, save_pretrained"""
    for setup, last in (half_line, 50), (half_state, 60), (half_weights, 70):
        job = lab.train(runs_root, TINY, setup)
        assert job.wait() == -signal.SIGKILL, job.errors
        run = run_of(runs_root, TINY)
        assert max(run.steps) == last and run.state == "interrupted"
        check_checkpoints(run, reference)
    check_same(lab.finish(runs_root, TINY), reference)


# ---- signals ----

def started(root, options, process, step=5):
    "Wait until the run is past `step`, by its heartbeat."
    def past():
        assert process.poll() is None, "it ended before"
        found = next(Path(root).glob("*/.heartbeat"), None)
        return found and run_of(root, options).heartbeat().get("step", 0) >= step
    wait_for(past, f"step {step}")


@pytest.mark.slow # to `train` in every run of the tests: test_training_stop
@pytest.mark.promise("signals")
def test_signals_to_the_command(lab, runs_root, uninterrupted, hold):
    "Ctrl-C to `grok_nb_train` as a shell starts it, and SIGTERM to a copy of a process that has all loaded."
    code = "from grok_nb.commands import grok_nb_train; grok_nb_train()"
    cases = {signal.SIGINT: 130, signal.SIGTERM: 143}
    shell = lab.python(code, *argv(runs_root/"SIGINT", TINY), slow=.03, hold=hold)
    copy = lab.command(runs_root/"SIGTERM", TINY, slow=.03, hold=hold)
    for number, process in zip(cases, (shell, copy)): started(runs_root/number.name, TINY, process)
    shell.send_signal(signal.SIGINT)
    copy.kill(signal.SIGTERM)
    ended = {signal.SIGINT: (shell.communicate(timeout=PATIENCE)[1], shell.returncode), signal.SIGTERM: (copy.wait() and copy.errors, copy.status)}
    for number, (err, status) in ended.items():
        run = run_of(runs_root/number.name, TINY)
        stop = max(run.steps)
        assert status == cases[number], err
        assert 0 < stop < TINY["steps"] and run.resumable.step == stop and run.state == "interrupted"
        if number == signal.SIGINT: assert err == f"grok_nb_train: stopped at step {stop} of {TINY['steps']}; run it again to go on\n"
        else: assert "Traceback" not in err
        check_same(lab.finish(runs_root/number.name, TINY), uninterrupted(TINY), [stop])


@pytest.mark.promise("signals")
def test_second_interrupt_stops_at_once(lab, runs_root, uninterrupted):
    reference = uninterrupted(TINY)
    twice = """
def save_file(tensors, path): # the worst moment: a checkpoint is being written
    old(tensors, path)
    if "step-000000" in str(path) and "partial" in str(path) and "00000000" not in str(path):
        for _ in range(2): os.kill(os.getpid(), signal.SIGINT)
old, training.save_file = training.save_file, save_file"""
    job = lab.command(runs_root, TINY, twice)
    assert job.wait() == 130
    assert one_line(job.errors), job.errors
    run = run_of(runs_root, TINY)
    assert run.steps == [0] and not list(run.path.glob("checkpoints/*.partial"))
    check_same(lab.finish(runs_root, TINY), reference)


@pytest.mark.promise("signals")
@pytest.mark.parametrize("number", ["SIGHUP", "SIGUSR1"])
def test_closed_terminal_and_notice_of_slurm(lab, runs_root, uninterrupted, number):
    "Each commits a checkpoint; ignored, as under nohup, or caught by someone else, it is none of ours."
    job = lab.command(runs_root/"taken", TINY, terminate_in(43, number))
    assert job.wait() == 128 + signal.Signals[number] and not job.errors
    run = run_of(runs_root/"taken", TINY)
    assert run.state == "interrupted" and run.resumable.step == max(run.steps) == 44
    for how in ("signal.SIG_IGN", "lambda *_: None"):
        root = runs_root/how.partition(".")[0].split()[0]
        left = lab.command(root, SHORT, f"signal.signal(signal.{number}, {how})" + terminate_in(5, number))
        assert left.wait() == 0, left.errors
        assert run_of(root, SHORT).finished
    check_same(lab.finish(runs_root/"taken", TINY), uninterrupted(TINY), [44])


@pytest.mark.promise("signals")
def test_closed_terminal_with_a_bar_in_it(lab, runs_root, hold):
    "Where the bar cannot be drawn any more, training goes on to a checkpoint."
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    take = """
import fcntl, termios
os.setsid()
for number in range(3): os.dup2(os.open(terminal, os.O_RDWR), number)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
assert os.isatty(2)"""
    job = lab.command(runs_root, TINY, take, slow=.03, hold=hold, terminal=os.ttyname(theirs))
    started(runs_root, TINY, job)
    os.close(theirs)
    os.close(ours)
    assert job.wait() == 128 + signal.SIGHUP
    run = run_of(runs_root, TINY)
    assert run.state == "interrupted" and 5 <= run.resumable.step == max(run.steps) < TINY["steps"]


# ---- several processes ----

ALL = """
from grok_nb import engines, sweeps
start, workers = engines.Processes._start, []
def seen(self):
    workers.append(start(self))
    if len(workers) == 2: print(*(w.process.pid for w in workers), flush=True)
    return workers[-1]
engines.Processes._start = seen
sweeps.train_all([make(options | dict(seed=seed)) for seed in seeds], root, workers=2)
"""


@pytest.fixture
def sweep(lab, runs_root, hold):
    "Start `train_all` with two workers and wait until both train: the process, the workers' ids, the runs."
    def start(seeds=(0, 1)):
        job = lab.start(ALL, slow=.03, hold=hold, root=str(runs_root), options=TINY, seeds=seeds)
        for seed in seeds[:2]: started(runs_root, TINY | dict(seed=seed), job)
        workers = [int(pid) for pid in job.printed.split()]
        assert len(workers) == 2
        return job, workers, [run_of(runs_root, TINY | dict(seed=seed)) for seed in seeds]
    return start


def check_finished_later(lab, runs, uninterrupted):
    "Runs that were stopped anywhere go on to the bits of those that were not."
    for run in runs:
        reference = uninterrupted(TINY | dict(seed=run.config.seed))
        check_checkpoints(run, reference)
        stops = {s for s in run.steps if s not in reference.steps}
        check_same(lab.finish(run.path.parent, TINY | dict(seed=run.config.seed)), reference, stops)


@pytest.mark.promise("kills")
@pytest.mark.slow
def test_interrupted_sweep(lab, sweep, uninterrupted):
    "Ctrl-C to the parent: what is being trained is committed, what waits is not begun."
    job, workers, runs = sweep([0, 1, 2])
    job.kill(signal.SIGINT)
    assert job.wait() == 130
    assert job.errors == "KeyboardInterrupt: stopped; run it again to go on\n"
    assert [r.state for r in runs] == ["interrupted", "interrupted", "new"]
    assert all(r.resumable.step == max(r.steps) > 0 for r in runs[:2]) and not any(map(alive, workers))
    check_finished_later(lab, runs[:2], uninterrupted)


@pytest.mark.promise("kills")
@pytest.mark.slow
def test_killed_worker(lab, sweep, uninterrupted, hold):
    "kill -9 to one of two workers: its run goes on in another one; both come out as if nothing had been."
    job, workers, runs = sweep()
    os.kill(workers[0], signal.SIGKILL)
    hold.unlink()
    assert job.wait() == 0, job.errors
    assert not any(map(alive, workers)) and [r.state for r in runs] == ["finished"] * 2
    assert sorted(len(r.sessions()) for r in runs) == [1, 2]
    for run in runs: check_same(run, uninterrupted(TINY | dict(seed=run.config.seed)))


@pytest.mark.promise("kills")
@pytest.mark.slow
def test_killed_parent(lab, sweep, uninterrupted):
    "kill -9 to the parent: the workers commit, let go of their runs, and end."
    job, workers, runs = sweep()
    job.kill()
    assert job.wait() == -signal.SIGKILL
    wait_for(lambda: not any(r.locked for r in runs), "the workers to let go of their runs")
    assert all(r.state == "interrupted" and r.resumable.step == max(r.steps) > 0 for r in runs)
    wait_for(lambda: not any(map(alive, workers)), "the end of the workers")
    check_finished_later(lab, runs, uninterrupted)


@pytest.mark.promise("writers")
def test_one_process_at_a_time(lab, runs_root, uninterrupted, hold):
    first = lab.command(runs_root, TINY, slow=.02, hold=hold)
    started(runs_root, TINY, first)
    second = lab.command(runs_root, TINY)
    assert second.wait() == 2 and first.poll() is None
    assert one_line(second.errors) and "is being trained by another process" in second.errors
    run = run_of(runs_root, TINY)
    assert run.state == "running"
    for refused in (run.delete, run.prune):
        with pytest.raises(InputError, match="being trained by another process"): refused()
    hold.unlink()
    assert first.wait() == 0, first.errors
    check_same(run, uninterrupted(TINY))
    assert len(run.sessions()) == 1


def test_bits_and_threads(lab, runs_root, uninterrupted):
    "The same bits in another process at the same number of threads, which is recorded, and set again on resume."
    check_same(lab.finish(runs_root/"one", TINY), uninterrupted(TINY))
    two_threads = "training.train(make(options), root, threads=2)"
    job = lab.start(terminate_in(5) + two_threads, root=str(runs_root/"two"), options=SHORT)
    assert job.wait() == 143, job.errors
    resumed = lab.finish(runs_root/"two", SHORT)
    assert [(s["step"], s["threads"], s["compiled"]) for s in resumed.sessions()] == [(0, 2, "no"), (6, 2, "no")]
    whole = lab.start(two_threads, root=str(runs_root/"whole"), options=SHORT | dict(keep_states=1000))
    assert whole.wait() == 0, whole.errors
    check_same(resumed, run_of(runs_root/"whole", SHORT), [6])


def test_another_number_of_threads_is_refused(lab, stopped):
    "Before anything is written, with both numbers; a run without a checkpoint has no bits yet, and may have any."
    root, two_threads = stopped.path.parent, "training.train(make(options), root, threads=2)"
    before = {p: digest(p) for p in stopped.path.rglob("*") if p.is_file()}
    job = lab.start(two_threads, root=str(root), options=TINY)
    assert job.wait() == 2 and one_line(job.errors), job.errors
    assert "threads = 2" in job.errors and "trained with 1" in job.errors
    assert {p: digest(p) for p in stopped.path.rglob("*") if p.is_file()} == before
    shutil.rmtree(stopped.path/"checkpoints")
    job = lab.start(terminate_in(15) + two_threads, root=str(root), options=TINY)
    assert job.wait() == 143, job.errors
    assert lab.train(root, TINY, terminate_in(25)).wait() == 143
    assert [(s["step"], s["threads"]) for s in stopped.sessions()] == [(0, 1), (0, 2), (16, 2)]


@pytest.mark.parametrize("name, value, status", [("OMP_NUM_THREADS", "2,1", 0), ("OMP_NUM_THREADS", "many", 2),
                                                 ("WORLD_SIZE", "abc", 2), ("RANK", "1", 2)])
def test_what_the_environment_says(lab, runs_root, name, value, status):
    "Threads of several levels, a process count that is none, and a rank that is left over and silences nobody."
    options = SHORT | dict(steps=0) if name == "RANK" else SHORT
    job = lab.start(f"os.environ[{name!r}] = {value!r}\ngrok_nb_train(argv)", argv=argv(runs_root, options))
    assert job.wait() == status, job.errors
    if status: assert one_line(job.errors) and (f"{name} = {value!r}" in job.errors or "steps = " in job.errors)


@pytest.mark.promise("surroundings")
def test_a_clock_that_is_set_back(lab, runs_root):
    back = "import itertools, time\nticks = itertools.count()\ntime.time = lambda: 1.8e9 - 60*next(ticks)"
    job = lab.train(runs_root, SHORT, back + terminate_in(5))
    assert job.wait() == 143, job.errors
    run = lab.finish(runs_root, SHORT, setup=back)
    seconds = [r["seconds"] for r in run.records()]
    assert seconds == sorted(seconds) and 0 <= seconds[0] and seconds[-1] < PATIENCE
    assert 0 <= json.loads((run.resumable.path/FACTS).read_text())["seconds"] < PATIENCE


# ---- a folder that changes underneath ----

@pytest.mark.promise("disk")
@pytest.mark.parametrize("what", ["os.rename(path, path + '.elsewhere')", "shutil.rmtree(path)"], ids=["moved", "removed"])
def test_folder_that_goes_away(lab, runs_root, uninterrupted, what):
    "It is said in a line, and nothing begins again in its place."
    path = run_path(runs_root, TINY)
    job = lab.command(runs_root, TINY, "import shutil" + in_the_middle_of(33, what), path=str(path))
    assert job.wait() == 1, job.errors
    assert one_line(job.errors) and "was moved or removed while it was trained" in job.errors, job.errors
    assert not path.exists()
    if "rename" in what:
        path.with_name(path.name + ".elsewhere").rename(path)
        check_same(lab.finish(runs_root, TINY), uninterrupted(TINY))


@pytest.mark.promise("disk")
@pytest.mark.parametrize("what, step", [
    ("os.remove(path + '/metrics.jsonl')", 33), pytest.param("os.remove(path + '/metrics.jsonl')", 119, marks=pytest.mark.slow),
    pytest.param("os.truncate(path + '/metrics.jsonl', 50)", 33, marks=pytest.mark.slow), ("os.truncate(path + '/metrics.jsonl', 50)", 119),
], ids=["removed in between", "removed at the end", "cut in between", "cut at the end"])
def test_metrics_that_go_away(lab, runs_root, uninterrupted, what, step):
    "The run does not look finished; trained again it goes on from before the loss, to the same evaluations."
    job = lab.command(runs_root, TINY, in_the_middle_of(step, what), path=str(run_path(runs_root, TINY)))
    assert job.wait() == 1, job.errors
    assert one_line(job.errors) and "metrics.jsonl was changed or removed" in job.errors, job.errors
    run = run_of(runs_root, TINY)
    assert run.state == "interrupted"
    again = lab.command(runs_root, TINY)
    assert again.wait() == 0 and "is not in metrics.jsonl any more; passed over, training goes on from step 0" in again.errors
    assert evaluations(run_of(runs_root, TINY)) == evaluations(uninterrupted(TINY)) and run.finished


@pytest.mark.promise("disk")
def test_file_size_limit(lab, runs_root, uninterrupted):
    "`ulimit -f`, met by the model's configuration or by its weights: Python and safetensors say it in different words."
    pytest.importorskip("resource")
    limit = "import resource" + in_the_middle_of(33, "resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))")
    for most in (500, 2000): # bytes
        job = lab.command(runs_root, TINY, limit, most=most)
        assert job.wait() == 2, job.errors
        assert one_line(job.errors) and "File too large" in job.errors, job.errors
        assert run_of(runs_root, TINY).resumable.step == 30
    check_same(lab.finish(runs_root, TINY), uninterrupted(TINY))


def test_what_kills_leave_is_removed(lab, stopped, uninterrupted):
    left = [stopped.path/".metrics.jsonl.7.partial", stopped.folder(34)/".MANIFEST.json.7.partial",
            stopped.path/"checkpoints"/".step-00000040.partial"/WEIGHTS, stopped.path/"checkpoints"/".step-00000005.deleted"/WEIGHTS,
            stopped.folder(10)/STATE, stopped.folder(10)/FACTS] # states that no manifest names
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    lab.finish(stopped.path.parent, TINY)
    assert not [p for p in left if p.exists()]
    assert {p.name for p in stopped.path.rglob(".*")} <= {".heartbeat", ".claim"}
    check_same(stopped, uninterrupted(TINY), [34])


# ---- a full disk ----

FULL = """
import errno
def full(tensors, path):
    if "00000030" in str(path):
        open(path, "wb").write(b"part")
        raise {}
    old(tensors, path)
old, training.save_file = training.save_file, full"""


@pytest.mark.promise("disk")
@pytest.mark.parametrize("error", ["OSError(errno.ENOSPC, 'No space left on device')", "OSError(errno.EDQUOT, 'Disk quota exceeded')"])
def test_disk_full(lab, runs_root, uninterrupted, error):
    job = lab.command(runs_root, TINY, FULL.format(error))
    assert job.wait() == 2
    assert one_line(job.errors) and "no space left" in job.errors and "step-00000030" in job.errors, job.errors
    run = run_of(runs_root, TINY)
    assert run.steps == [0, 10, 20] and run.resumable.step == 20
    assert sorted(p.name for p in (run.path/"checkpoints").iterdir()) == [f"step-000000{s:02d}" for s in (0, 10, 20)]
    check_same(lab.finish(runs_root, TINY), uninterrupted(TINY))


@pytest.mark.promise("disk")
@pytest.mark.slow
def test_disk_really_full(lab, small_disk, uninterrupted):
    "Ballast is added at every checkpoint until some write fails, wherever it is: weights, optimiser state, metrics, manifest."
    reference = uninterrupted(TINY)
    ballast = small_disk/"ballast"
    for free in (1, 2, 3, 5, 8, 12, 17): # blocks of 4 kB left after step 30
        for old in small_disk.iterdir(): shutil.rmtree(old) if old.is_dir() else old.unlink()
        fill = """
def save_file(tensors, path):
    old(tensors, path)
    if "00000030" in str(path):
        with open(ballast, "wb", 0) as f:
            try:
                while True: f.write(bytes(4096))
            except OSError: pass
            f.truncate(max(0, f.tell() - 4096*free))
old, training.save_file = training.save_file, save_file"""
        job = lab.command(small_disk, TINY, fill, ballast=str(ballast), free=free)
        assert job.wait() == 2, (free, job.errors)
        assert one_line(job.errors) and "no space left" in job.errors, (free, job.errors)
        run = run_of(small_disk, TINY)
        check_checkpoints(run, reference)
        assert run.resumable.step >= 20 and not list(run.path.rglob("*.partial"))
        ballast.unlink()
    check_same(lab.finish(small_disk, TINY), reference)


@pytest.mark.promise("disk")
def test_too_little_space_is_seen_before(lab, runs_root):
    setup = "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 10**5, 10**5)"
    job = lab.command(runs_root, TINY, setup)
    assert job.wait() == 2
    assert one_line(job.errors) and "checkpoints = 12" in job.errors and "free" in job.errors
    assert not list(runs_root.iterdir())


# ---- damage ----

@pytest.fixture
def stopped(lab, runs_root):
    "A copy of a run that was stopped at step 33, made once."
    source = lab.folder/"stopped"
    if not source.exists():
        job = lab.train(source, TINY | dict(keep_states=3), terminate_in(33))
        assert job.wait() == 143, job.errors
    shutil.copytree(source, runs_root, dirs_exist_ok=True)
    run = run_of(runs_root, TINY)
    assert run.steps == [0, 10, 20, 30, 34] and [c.step for c in run.checkpoints if c.has_state] == [20, 30, 34]
    return run


def shorten(path): os.truncate(path, path.stat().st_size // 2)


def remove_state(run, name=STATE): (run.folder(34)/name).unlink()


def slow(*values): return pytest.param(*values, marks=pytest.mark.slow) # like another that every run of the tests tries


@pytest.mark.parametrize("damage, steps, origin", [
    (lambda run: shorten(run.folder(34)/WEIGHTS), [0, 10, 20, 30], 30),
    slow(lambda run: (run.folder(34)/WEIGHTS).unlink(), [0, 10, 20, 30], 30),
    slow(lambda run: (run.folder(34)/"config.json").unlink(), [0, 10, 20, 30], 30),
    (lambda run: (run.folder(34)/"MANIFEST.json").unlink(), [0, 10, 20, 30], 30),
    slow(lambda run: shorten(run.folder(34)/"MANIFEST.json"), [0, 10, 20, 30], 30),
    slow(lambda run: (run.folder(34)/"MANIFEST.json").write_text("[]"), [0, 10, 20, 30], 30),
    (lambda run: remove_state(run), [0, 10, 20, 30, 34], 30),
    slow(lambda run: remove_state(run, FACTS), [0, 10, 20, 30, 34], 30),
    (lambda run: shorten(run.folder(34)/STATE), [0, 10, 20, 30, 34], 30),
    slow(lambda run: (run.folder(34)/FACTS).write_text(""), [0, 10, 20, 30, 34], 30),
    (lambda run: (run.path/"metrics.jsonl").open("a").write('{"step": 40, "tok'), [0, 10, 20, 30, 34], 34),
    slow(lambda run: (run.path/"metrics.jsonl").open("ab").write(bytes(50) + b"\xff\xfe\n"), [0, 10, 20, 30, 34], 34),
    slow(lambda run: (run.path/"sessions.jsonl").open("a").write('{"step": 34, "dev'), [0, 10, 20, 30, 34], 34),
    (lambda run: (run.path/".heartbeat").write_text("{"), [0, 10, 20, 30, 34], 34),
], ids="weights-short weights-gone model-config-gone manifest-gone manifest-short manifest-wrong state-gone facts-gone state-short "
       "facts-empty metrics-cut metrics-bytes sessions-cut heartbeat-cut".split())
@pytest.mark.promise("damage")
def test_damage_is_gone_around(lab, stopped, uninterrupted, damage, steps, origin):
    damage(stopped)
    assert stopped.steps == steps and stopped.resumable.step == origin
    run = lab.finish(stopped.path.parent, TINY)
    assert run.sessions()[-1]["step"] == origin
    check_same(run, uninterrupted(TINY), [34] if 34 in steps else [])


def flip(path, place):
    "One bit."
    data = bytearray(path.read_bytes())
    data[int(place*len(data))] ^= 4
    path.write_bytes(data)


def agree(run):
    "The manifest says what the files of step 34 are now."
    from grok_nb.files import write_manifest
    facts = json.loads((run.folder(34)/"MANIFEST.json").read_text())
    write_manifest(run.folder(34), **{k: v for k, v in facts.items() if k != "files"})


def tensors(run, name, change):
    "Change tensors of step 34, and have the manifest agree."
    from safetensors.torch import load_file, save_file
    save_file(dict(change(load_file(run.folder(34)/name))), run.folder(34)/name, {"format": "pt"})
    agree(run)


def another(run, seed):
    "A run of another seed, never trained further than its start."
    from grok_nb.training import train
    return train(run.config.replace(seed=seed), run.path.parent, until=lambda curve: True)


def without(part, items): return {k: v for k, v in items.items() if part not in k}


def foreign(run, at):
    other = another(run, 7)
    shutil.copytree(other.folder(0), run.folder(at), dirs_exist_ok=True)


def lose_line(run, step):
    lines = (run.path/"metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path/"metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] != step))


@pytest.mark.parametrize("damage, origin, why", [
    (lambda run: flip(run.folder(34)/WEIGHTS, .5), 30, WEIGHTS),
    (lambda run: flip(run.folder(34)/WEIGHTS, .001), 30, WEIGHTS),
    (lambda run: (run.folder(34)/WEIGHTS).write_bytes(bytes((run.folder(34)/WEIGHTS).stat().st_size)), 30, WEIGHTS),
    (lambda run: shutil.copy(run.folder(30)/WEIGHTS, run.folder(34)/WEIGHTS), 30, WEIGHTS),
    (lambda run: flip(run.folder(34)/STATE, .7), 30, STATE),
    (lambda run: flip(run.folder(34)/STATE, .001), 30, STATE),
    (lambda run: shutil.copy(run.folder(20)/STATE, run.folder(34)/STATE), 30, STATE),
    (lambda run: edit(run.folder(34)/FACTS, '"loss_steps": 4', '"loss_steps": 5'), 30, FACTS),
    (lambda run: edit(run.folder(34)/"config.json", '"num_attention_heads": 2', '"num_attention_heads": 4'), 30, "config.json"),
    (lambda run: (run.folder(34)/"MANIFEST.json").write_text('{"files": {"../../x": 1}}'), 30, "MANIFEST.json"),
    (lambda run: [flip(run.folder(s)/WEIGHTS, .5) for s in (20, 30, 34)], None, WEIGHTS),
    (lambda run: foreign(run, 40), 34, "belongs to modular-p5"),
    (lambda run: shutil.copytree(run.folder(30), run.folder(120)), 34, "is a copy of step 30"),
    (lambda run: tensors(run, WEIGHTS, lambda t: {k: v.half() for k, v in t.items()}), 30, "not those of this run's model"),
    (lambda run: tensors(run, WEIGHTS, lambda t: without("q_proj", t)), 30, "tensors are missing"),
    (lambda run: tensors(run, WEIGHTS, lambda t: t | {"model.extra": t["model.norm.weight"].clone()}), 30, "tensors are unexpected"),
    (lambda run: tensors(run, WEIGHTS, lambda t: {k: v*float("nan") for k, v in t.items()}), 30, "not finite"),
    (lambda run: tensors(run, WEIGHTS, lambda t: {k: v[:1] for k, v in t.items()}), 30, "step 34"),
    (lambda run: tensors(run, STATE, lambda t: without("0.3.", t)), 30, "not of this run's optimisers"),
    (lambda run: tensors(run, STATE, lambda t: without("1.0.exp_avg_sq", t)), 30, "not of this run's optimisers"),
    (lambda run: tensors(run, STATE, lambda t: without("random", t)), 30, "not of this run's optimisers"),
    (lambda run: tensors(run, STATE, lambda t: {k: v.flatten() for k, v in t.items()}), 30, "not of this run's optimisers"),
    (lambda run: [(run.folder(34)/FACTS).write_text("[]"), agree(run)], 30, "not of this run's optimisers"),
    (lambda run: [(run.folder(34)/FACTS).write_text("{"), agree(run)], 30, "cannot be read"),
    (lambda run: [(run.folder(34)/STATE).write_bytes(b"{}"*99), agree(run)], 30, "cannot be read"),
    (lambda run: [(run.folder(34)/WEIGHTS).write_bytes(b"{}"*99), agree(run)], 30, "cannot be opened"),
    (lambda run: lose_line(run, 30), 20, "evaluation of step 30"),
    (lambda run: lose_line(run, 15), None, "evaluation of step 15"),
    (lambda run: (run.path/"metrics.jsonl").unlink(), None, "evaluation of step 0"),
    (lambda run: (run.path/"metrics.jsonl").write_text('[]\n1\n{"step": []}\n{"a": []}\nnull\n'), None, "evaluation of step 0"),
], ids="weights-bit weights-header weights-zeros weights-of-another-step state-bit state-header state-of-another-step facts config manifest all-three "
       "another-run copied-to-the-end half-precision tensor-missing tensor-extra not-finite cut-shapes no-moments one-moment no-random flat-moments facts-list "
       "facts-cut state-garbage weights-garbage evaluation-of-30 evaluation-of-15 no-metrics metrics-of-another-shape".split())
@pytest.mark.promise("damage")
def test_nothing_damaged_is_gone_on_from(stopped, damage, origin, why):
    "Where training would begin, and what it says of the rest; looking changes nothing."
    from grok_nb.training import where_to_begin
    damage(stopped)
    before = {p: digest(p) for p in stopped.path.rglob("*") if p.is_file()}
    begin, model, passed_over = where_to_begin(stopped)
    assert (begin.step if begin else None) == origin and why in passed_over[0] and len(passed_over[0]) < 200, passed_over
    assert len({p.split(":")[0] for p in passed_over}) == len(passed_over) == {30: 1, 20: 2, 34: 1}.get(origin, 3)
    assert not stopped.finished
    assert {p: digest(p) for p in stopped.path.rglob("*") if p.is_file()} == before


@pytest.mark.promise("damage")
@pytest.mark.parametrize("damage", [
    lambda run: flip(run.folder(34)/WEIGHTS, .5), lambda run: flip(run.folder(34)/STATE, .5), lambda run: (run.path/"metrics.jsonl").unlink(),
    lambda run: foreign(run, 120)], ids="weights state metrics foreign-end".split())
def test_what_is_passed_over_is_named(lab, stopped, uninterrupted, damage):
    "Training goes on from before it, says so in one line, and ends on the same bits."
    damage(stopped)
    job = lab.train(stopped.path.parent, TINY)
    assert job.wait() == 0, job.errors
    session = Run(stopped.path).sessions()[-1]
    assert session["passed_over"] and job.errors.splitlines() == [
        f"{stopped.run_id}: {why}; passed over, training goes on from step {session['step']}" for why in session["passed_over"]]
    run, reference = Run(stopped.path), uninterrupted(TINY)
    assert run.finished and evaluations(run) == evaluations(reference)
    for step in reference.steps: assert digest(run.folder(step)/WEIGHTS) == digest(reference.folder(step)/WEIGHTS)


@pytest.mark.promise("damage")
def test_a_probe_that_has_changed_is_named(lab, stopped):
    "Training goes on, and says from where on other code measures."
    last = json.loads((stopped.path/"sessions.jsonl").read_text().splitlines()[-1])
    (stopped.path/"sessions.jsonl").write_text(json.dumps(last | dict(probes=dict.fromkeys(last["probes"], "other"))) + "\n")
    job = lab.train(stopped.path.parent, TINY, terminate_in(40))
    assert job.wait() == 143
    assert job.errors == f"{stopped.run_id}: {', '.join(last['probes'])}: other code measured up to step 34\n"
    again = lab.train(stopped.path.parent, TINY)
    assert again.wait() == 0 and again.errors == ""


@pytest.mark.promise("damage")
def test_damage_at_the_end_is_mended(lab, uninterrupted, runs_root):
    "A finished run whose last checkpoint, or a line of whose metrics, is no more what it was, is not finished."
    reference = uninterrupted(TINY)
    for damage in (lambda run: flip(run.folder(120)/WEIGHTS, .5), lambda run: lose_line(run, 60)):
        root = runs_root/str(len(list(runs_root.iterdir())))
        run = Run(shutil.copytree(reference.path, root/reference.path.name))
        damage(run)
        again = lab.finish(root, TINY | dict(keep_states=1000))
        assert evaluations(again) == evaluations(reference) and len(again.sessions()) == 2
        assert {s: digest(again.folder(s)/WEIGHTS) for s in again.steps} == {s: digest(reference.folder(s)/WEIGHTS) for s in reference.steps}


@pytest.mark.promise("damage")
def test_damaged_weights_are_not_opened(stopped):
    "Also where nothing is trained: a model is verified before it is opened."
    flip(stopped.folder(20)/WEIGHTS, .5)
    with pytest.raises(InputError, match=f"step 20: {WEIGHTS} is not what it was"): stopped.at(20).model
    assert stopped.at(30).model is not None
    shorten(stopped.folder(30)/WEIGHTS)
    with pytest.raises(InputError, match=f"step 30: {WEIGHTS} is not what it was"): stopped.at(30)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def other_artifacts(run):
    import numpy as np
    from safetensors.numpy import load_file, save_file
    path = run.path/"artifacts.safetensors"
    arrays = load_file(path)
    name = max(arrays, key=lambda k: arrays[k].size)
    save_file(arrays | {name: np.ascontiguousarray(arrays[name][::-1])}, path)


@pytest.mark.parametrize("damage, message", [
    (lambda run: edit(run.path/"config.json", '"lr": 0.003', '"lr": 0.004'), "was changed by hand"),
    (lambda run: edit(run.path/"config.json", '"lr": 0.003', '"lr": -1'), "lr = -1"),
    (lambda run: edit(run.path/"config.json", '"lr": 0.003', '"pace": 0.003'), "cannot be read"),
    (lambda run: edit(run.path/"config.json", '"slow"', '"slaw"'), "study 'slaw'"),
    (lambda run: shorten(run.path/"config.json"), "cannot be read"),
    (lambda run: (run.path/"config.json").write_text("[1, 2]"), "cannot be read"),
    (other_artifacts, "artifacts.safetensors"),
    (lambda run: shorten(run.path/"artifacts.safetensors"), "artifacts.safetensors"),
], ids="option value name study cut other artifacts-other artifacts-short".split())
@pytest.mark.promise("damage")
def test_damage_is_named(lab, stopped, damage, message):
    damage(stopped)
    before = {p: digest(p) for p in stopped.path.rglob("*") if p.is_file() and p.name != ".lock"}
    job = lab.command(stopped.path.parent, TINY)
    assert job.wait() == 2, job.errors
    assert one_line(job.errors) and message in job.errors, job.errors
    assert {p: digest(p) for p in stopped.path.rglob("*") if p.is_file() and p.name != ".lock"} == before


# ---- surroundings ----

# Kiribati is fourteen hours ahead, and its night is the other side's day; in Turkish "I".lower() is no "i".
PLACES = {"UTC": ("UTC", "C", 0o022), "ahead": ("Pacific/Kiritimati", "C.UTF-8", 0o077), "behind": ("Pacific/Pago_Pago", "POSIX", 0o002)}


@pytest.mark.promise("surroundings")
@pytest.mark.parametrize("place", PLACES)
def test_the_same_bits_wherever_it_runs(lab, runs_root, uninterrupted, place):
    "Another time zone, locale and umask: the same bits, and files with the rights of all others of that process."
    zone, language, mask = PLACES[place]
    setup = f"import locale, time; os.environ.update(TZ={zone!r}, LC_ALL={language!r}); time.tzset(); locale.setlocale(locale.LC_ALL, ''); os.umask({mask})"
    job = lab.train(runs_root, SHORT | dict(keep_states=1000), setup)
    assert job.wait() == 0, job.errors
    run = run_of(runs_root, SHORT)
    check_same(run, uninterrupted(SHORT))
    for p in run.path.rglob("*"):
        if p.is_file(): assert p.stat().st_mode & 0o777 == 0o666 & ~mask, p


@pytest.mark.slow
@pytest.mark.promise("surroundings")
@pytest.mark.parametrize("seed", ["0", "1", "4000000000"])
def test_the_same_bits_whatever_the_hash_seed(lab, runs_root, uninterrupted, seed):
    "A Python of its own, whose sets and dictionaries are in another order."
    code = "import os, sys; from grok_nb.commands import grok_nb_train; grok_nb_train()"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lab.env, "PYTHONHASHSEED", seed)
        process = lab.python(code, *argv(runs_root, SHORT))
    assert process.wait(PATIENCE) == 0, process.stderr.read()
    assert evaluations(run_of(runs_root, SHORT)) == evaluations(uninterrupted(SHORT))


# ---- divergence, pruning ----

def test_divergence_keeps_the_last_good_checkpoint(lab, runs_root):
    "The loss becomes infinite in step 45; the message says what to do, and a second start goes on from step 40."
    from safetensors.numpy import load_file
    import numpy as np
    nan = """
tokens = training.mean_loss
calls = 0
def loss(logits, targets):
    global calls
    calls += 1
    return tokens(logits, targets) * (float("nan") if calls == 45 else 1)
import slow_study
slow_study.study.loss = lambda config: loss"""
    job = lab.command(runs_root, TINY, nan)
    assert job.wait() == 1
    assert one_line(job.errors) and "not finite" in job.errors and "last good checkpoint is step 40" in job.errors, job.errors
    run = run_of(runs_root, TINY)
    assert run.steps == [0, 10, 20, 30, 40] and run.resumable.step == 40 and run.state == "failed"
    for c in run.checkpoints: assert all(np.isfinite(v).all() for v in load_file(c.path/WEIGHTS).values())
    assert max(r["step"] for r in run.records()) <= 40
    again = lab.command(runs_root, TINY)
    assert again.wait() == 0 and run.state == "finished"


def test_prune_and_delete(stopped):
    size = lambda: sum(p.stat().st_size for p in stopped.path.rglob("*") if p.is_file())
    weights = {s: digest(stopped.folder(s)/WEIGHTS) for s in stopped.steps}
    with pytest.raises(InputError, match="no checkpoint at step 15"): stopped.prune(keep=[10, 15])
    assert stopped.steps == [0, 10, 20, 30, 34]
    before = size()
    freed = stopped.prune(keep=[10, 30], keep_states=1)
    assert stopped.steps == [10, 30, 34] and [c.step for c in stopped.checkpoints if c.has_state] == [34]
    assert freed == before - size() > 0
    assert {s: digest(stopped.folder(s)/WEIGHTS) for s in stopped.steps} == {s: weights[s] for s in (10, 30, 34)}
    assert {p.name for p in (stopped.path/"checkpoints").iterdir()} == {"step-00000010", "step-00000030", "step-00000034"}
    assert stopped.prune() == 0 and stopped.resumable.step == 34
    neighbour = stopped.path.parent/"neighbour"
    neighbour.mkdir()
    stopped.delete()
    assert list(stopped.path.parent.iterdir()) == [neighbour]
