"Loggers of others: told of every evaluation, never in the way."
import sys

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from grok_nb import InputError
from grok_nb.commands import grok_nb_train
from grok_nb.loggers import check_logger, scalars
from grok_nb.modular.study import study
from grok_nb.training import train

SHORT = dict(p=5, n_id=16, alpha=.8, n_shots=4, depth=1, width=16, heads=2, batch_size=16, n_eval=32, n_ood=8,
             steps=20, warmup_steps=5, evaluate_every=10, checkpoints=1, checkpoint_on_change=0)


@pytest.fixture
def memory(monkeypatch):
    "A tracker that remembers, and fails where it is told to."
    told, fails = [], set()

    class Memory(GeneralTracker):
        name, requires_logging_directory, main_process_only, tracker = "memory", False, True, None
        def __init__(self, run_name, **options): super().__init__()
        def do(self, what, *more):
            if what in fails: raise ConnectionError("no network")
            told.append((what, *more))
        def start(self): self.do("start")
        def store_init_configuration(self, values): self.do("options", values["n_id"])
        def log(self, values, step): self.do(step, values)
        def finish(self): self.do("finish")

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "memory", Memory)
    monkeypatch.setitem(sys.modules, "memory", sys)
    monkeypatch.setattr("grok_nb.loggers.trackers", {"memory"})
    return told, fails


def test_every_evaluation_is_told(memory, tmp_path):
    told, _ = memory
    run = train(study.config("smoke", **SHORT), tmp_path, progress=False, log="memory")
    assert told[:2] == [("start",), ("options", 16)] and told[-1] == ("finish",)
    assert [(step, values) for step, values in told[2:-1]] == [(r["step"], scalars(run, r)) for r in run.records()]
    last = told[-2][1]
    assert set(last) == {"loss", *study.curves} - ({"unseen tasks, other queries"} - set(last)) and all(isinstance(v, float) for v in last.values())


@pytest.mark.parametrize("at", ["start", "options", 10, "finish"])
def test_a_logger_that_fails_stops_nothing(memory, tmp_path, capsys, at):
    told, fails = memory
    fails.add(at)
    run = train(study.config("smoke", **SHORT), tmp_path, progress=False, log="memory")
    said = capsys.readouterr().err
    assert run.finished and len(run.records()) == 3
    assert said.count("the logger is left out from here on (ConnectionError: no network)") == (at != "finish")
    assert [t[0] for t in told] == dict(start=[], options=["start"], finish=["start", "options", 0, 10, 20]).get(at, ["start", "options", 0])


def test_a_logger_changes_no_bit(memory, tmp_path):
    plain, logged = (train(study.config("smoke", **SHORT), tmp_path/name, progress=False, log=log) for name, log in (("a", ""), ("b", "memory")))
    assert [r["rows"] for r in plain.records()] == [r["rows"] for r in logged.records()]


def test_a_logger_that_is_none_is_refused_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("grok_nb.loggers.find_spec", lambda name: None)
    for name, says in (("wandbb", "did you mean 'wandb'"), ("aim", "it is not installed; pip install aim")):
        with pytest.raises(SystemExit) as e: grok_nb_train(["modular", "--preset", "smoke", "--log", name, "--runs", str(tmp_path/"runs")])
        assert e.value.code == 2 and says in capsys.readouterr().err and not (tmp_path/"runs").exists()
        with pytest.raises(InputError, match=says): train(study.config("smoke", **SHORT), tmp_path/"runs", log=name)
    check_logger("")


def test_tensorboard_for_real(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    run = train(study.config("smoke", **SHORT), tmp_path, progress=False, log="tensorboard")
    found = reading.EventAccumulator(str(tmp_path/"tensorboard"/run.run_id)).Reload()
    for name in ("loss", study.headline_name):
        want = [(r["step"], scalars(run, r)[name]) for r in run.records() if name in scalars(run, r)]
        events = [(e.step, e.value) for e in found.Scalars(name.replace(" ", "_") if name not in found.Tags()["scalars"] else name)]
        assert [step for step, _ in events] == [step for step, _ in want] and [v for _, v in events] == pytest.approx([v for _, v in want])
