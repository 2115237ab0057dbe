"A study of one's own that is wrong says so before it trains: one line that names the place, status 2."
import subprocess
import tomllib
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import pytest
import torch

from grok_nb import InputError, studies
from grok_nb.commands import grok_nb_train
from grok_nb.models import gpt
from grok_nb.runs import Config as CoreConfig, Run
from grok_nb.streams import check_stream
from grok_nb.study import Study
from grok_nb.training import train


@dataclass(frozen=True, kw_only=True)
class Config(CoreConfig):
    study = "own"
    def slug(self): return f"own-s{self.seed}"


class Stream:
    "Rows of one number."
    tokens_per_batch = 8
    artifacts = {}
    def __init__(self, config): self.seed = config.seed
    def batch(self, step):
        ids = np.full((2, 4), (self.seed + step) % 5)
        return dict(input_ids=ids, labels=ids.copy())


def probe(model, context): return [dict(set="test", metric="accuracy", value=.5)]


SHORT = Config(steps=4, warmup_steps=0, evaluate_every=2, checkpoints=1, batch_size=2)
OWN = Study(Config=Config, presets=dict(demo=SHORT), model=lambda config: gpt(5, 16, 1, 2, 4), stream=Stream,
            probes=lambda config: dict(accuracy=probe), headline=dict(probe="accuracy", set="test", metric="accuracy"))


@pytest.fixture
def own():
    def register(**changes):
        studies["own"] = replace(OWN, **changes)
        return studies["own"].config("demo")
    yield register
    del studies["own"]


def with_batch(change):
    class Changed(Stream):
        def batch(self, step): return change(super().batch(step), step)
    return Changed


def saying(rows): return dict(probes=lambda config: dict(accuracy=lambda model, context: rows))


ROW = dict(set="test", metric="accuracy", value=.5)
WRONG = {
    "labels that are shifted": (dict(stream=with_batch(lambda b, s: b | dict(labels=np.roll(b["labels"], 1) + 1))), "stream: labels must be aligned with input_ids: the model shifts"),
    "labels of another shape": (dict(stream=with_batch(lambda b, s: b | dict(labels=b["labels"][:, 1:]))), "stream: labels must have the shape of input_ids"),
    "no labels": (dict(stream=with_batch(lambda b, s: dict(input_ids=b["input_ids"]))), "stream: batch(1) has no 'labels'"),
    "nothing scored": (dict(stream=with_batch(lambda b, s: b | dict(labels=np.full((2, 4), -100)))), "stream: batch(1) has no label that is scored"),
    "another type": (dict(stream=with_batch(lambda b, s: {k: v.astype(np.int32) for k, v in b.items()})), "stream: input_ids is int32, not int64"),
    "a batch by chance": (dict(stream=with_batch(lambda b, s: {k: v*0 + np.random.randint(2**31) % 5 for k, v in b.items()} | dict(labels=b["labels"]*0 - 100))), "stream: "),
    "tokens_per_batch a float": (dict(stream=type("S", (Stream,), dict(tokens_per_batch=8.0))), "stream: tokens_per_batch must be a positive int"),
    "a row without value": (saying([dict(set="test", metric="accuracy")]), "probe accuracy: gives {'set': 'test', 'metric': 'accuracy'}; a dictionary with metric and value is needed"),
    "a row that is a number": (saying([.5]), "probe accuracy: gives 0.5; a dictionary with metric and value is needed"),
    "a tensor of several": (saying([ROW | dict(value=torch.ones(3))]), "probe accuracy: value is a Tensor; a text or a single number is needed"),
    "a list as key": (saying([ROW | dict(head=[0, 1])]), "probe accuracy: head is a list; a text or a single number is needed"),
    "a text as value": (saying([ROW | dict(value="0.5")]), "probe accuracy: value is '0.5'; a number is needed"),
}


@pytest.mark.parametrize("changes, says", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_before_the_first_step(own, tmp_path, capsys, changes, says):
    own(**changes)
    with pytest.raises(SystemExit) as e: grok_nb_train(["own", "--runs", str(tmp_path)])
    said = capsys.readouterr().err.splitlines()[-1]
    assert e.value.code == 2 and says in said and said.startswith("grok_nb_train: ")
    [run] = map(Run, tmp_path.iterdir())
    assert run.state == "new" and not run.records() and not run.steps


@pytest.mark.parametrize("value", [np.float32(.5), np.array([.5]), torch.tensor(.5), np.int64(1), True], ids=lambda v: type(v).__name__)
def test_numbers_of_numpy_and_torch_are_numbers(own, tmp_path, value):
    run = train(own(**saying([ROW | dict(value=value, head=np.int64(2))])), tmp_path, progress=False)
    assert [(r["rows"][-1]["value"], r["rows"][-1]["head"]) for r in run.records()] == [(float(np.ravel(value)[0]), 2)]*3 and run.finished


@pytest.mark.parametrize("headline, says", [
    (dict(set="tests"), "the headline asks for set = tests, the first evaluation has test"),
    (dict(probe="accuracies"), "the headline asks for probe = accuracies, the first evaluation has accuracy"),
    (dict(head=1), "the headline asks for head = 1, the first evaluation has no such key"),
])
def test_a_headline_that_matches_nothing_is_told_of_at_once(own, tmp_path, capsys, headline, says):
    "Not refused: there are runs whose headline is not asked, as where no pair is exposed."
    run = train(own(headline=OWN.headline | headline), tmp_path, progress=False)
    assert says in capsys.readouterr().err and run.finished


def test_a_study_with_labels_of_its_own_has_a_loss_of_its_own(own, tmp_path):
    def loss(config): return lambda logits, labels: torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    shifted = with_batch(lambda b, s: b | dict(labels=(b["labels"] + 1) % 5))
    assert train(own(stream=shifted, loss=loss), tmp_path, progress=False).finished


def test_a_study_that_is_not_registered_hears_how(capsys):
    with pytest.raises(SystemExit): grok_nb_train(["owm"])
    assert "one of your own needs an entry point of the group grok_nb.studies" in capsys.readouterr().err
    with pytest.raises(InputError, match="entry point"): studies["owm"]


# ---- from the scaffold ----

def test_a_new_study_is_written_and_clean(tmp_path, capsys):
    from grok_nb.scaffold import grok_nb_new_study
    grok_nb_new_study(["my_sums", "--folder", str(tmp_path)])
    told = capsys.readouterr().out
    assert f"pip install -e {tmp_path/'my_sums'}" in told and "grok_nb_train my_sums --preset smoke" in told
    made = tmp_path/"my_sums"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my_sums"] and {p.name for p in made.iterdir()} == {"my_sums.py", "test_my_sums.py", "my_sums.ipynb", "pyproject.toml"}
    assert not any("$" in p.read_text() for p in made.iterdir())
    done = subprocess.run(["ruff", "check", "--isolated", "--line-length", "110", "--select", "E,F,W", str(made)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    entry = tomllib.loads((made/"pyproject.toml").read_text())["project"]["entry-points"]["grok_nb.studies"]
    assert entry == {"my_sums": "my_sums:study"}


@pytest.mark.parametrize("name, says", [("My", "must be a module's name"), ("a-b", "must be a module's name"), ("copying", "there is a study of that name"),
                                        ("numpy", "can be imported already"), ("there", "is there already"), ("ärger", "must be a module's name")])
def test_names_that_are_taken_or_none(tmp_path, capsys, name, says):
    from grok_nb.scaffold import grok_nb_new_study
    (tmp_path/"there").mkdir()
    with pytest.raises(SystemExit) as e: grok_nb_new_study([name, "--folder", str(tmp_path)])
    assert e.value.code == 2 and says in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["there"]
    with pytest.raises(SystemExit): grok_nb_new_study(["my_sums", "--folder", str(tmp_path/"no")])
    assert "there is no such folder" in capsys.readouterr().err


def test_a_run_of_the_scaffold_beside_the_others(tmp_path, monkeypatch):
    "Its study is found by name, trained, listed and compared."
    from grok_nb.scaffold import new_study
    made = new_study("own_sums", tmp_path)
    monkeypatch.syspath_prepend(made)
    studies["own_sums"] = import_module("own_sums").study
    try:
        study = studies["own_sums"]
        run = train(study.config("smoke"), tmp_path/"runs", progress=False)
        assert run.finished and [run.preset] == ["smoke"] and 0 <= run.records()[-1]["rows"][-1]["value"] <= 1
        assert check_stream(study.stream(study.config())) is None and study.claims()[0].presets == ()
        with pytest.raises(InputError, match="must be a multiple of 8"): study.config(width=20)
    finally: del studies["own_sums"]
