"Probes: one curve or none, a table that is whole, and what was measured once is not measured again, whoever else shares the table."
import os
import threading
import time
from functools import partial

import pandas as pd
import pytest
import torch
from conftest import wait_for
from filelock import FileLock

from grok_nb import InputError
from grok_nb.models import gpt
from grok_nb.probes import curve, fingerprint, measure, measured, save_table
from grok_nb.series import Series

TABLE = pd.DataFrame([dict(step=step, set=name, metric="accuracy", value=step / (10 if name == "train" else 20)) for step in (20, 0, 10) for name in ("train", "test")])


def test_a_curve_is_one_and_in_order():
    found = curve(TABLE, set="test", metric="accuracy")
    assert found.to_dict() == {0: 0, 10: .5, 20: 1} and found.index.tolist() == [0, 10, 20] and found.index.name == "step"
    for where, text in ((dict(head=1), "no column 'head' in the table; there are step, set, metric, value"), (dict(set="valid", metric="accuracy"), "no row with set=valid, metric=accuracy$"),
                        (dict(metric="accuracy"), "metric=accuracy selects more than one curve")):
        with pytest.raises(InputError, match=text): curve(TABLE, **where)


def one(model, context): return []
def other(model, context, power=1): return []


class Asks:
    def __init__(self, what): self.what = what
    def __repr__(self): return f"Asks({self.what})"
    def __call__(self, model, context): return []


def test_a_probe_is_known_by_its_text_and_what_is_bound_to_it():
    made = [one, other, partial(other, power=2), partial(other, power=3), partial(other, 2), Asks("a"), Asks("b"), partial(Asks("a"), x=1), curve]
    assert len(set(map(fingerprint, made))) == len(made)
    assert fingerprint(Asks("a")) == fingerprint(Asks("a")) and fingerprint(partial(other, power=2)) == fingerprint(partial(other, power=2))
    assert len(fingerprint(one)) == 16


def test_a_table_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path/"deep/norm.parquet"
    save_table(TABLE[:1], path), save_table(TABLE, path)
    pd.testing.assert_frame_equal(pd.read_parquet(path), TABLE)
    def fails(*_, **__): raise OSError(5, "bad disk")
    for what, at in ((os, "replace"), (pd.DataFrame, "to_parquet")):
        with monkeypatch.context() as patch:
            patch.setattr(what, at, fails)
            with pytest.raises(OSError, match="bad disk"): save_table(TABLE[:1], path)
    pd.testing.assert_frame_equal(pd.read_parquet(path), TABLE)
    assert [p.name for p in path.parent.iterdir()] == ["norm.parquet"]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    "Two series of checkpoints."
    root = tmp_path_factory.mktemp("toys")
    for name in ("toy", "twin"):
        for step in (0, 10, 20, 40): gpt(7, 8, 2, 2, 12, std=.02*(1 + step), seed=len(name) % 2).save_pretrained(root/f"{name}/step{step}")
    return root


class Counted:
    def __init__(self, metric): self.metric, self.calls = metric, []
    def __repr__(self): return self.metric
    def __call__(self, model, context):
        assert not torch.is_grad_enabled()
        self.calls.append(context.step)
        return [dict(metric=self.metric, layer=i, value=float(b.self_attn.v_proj.weight.std())) for i, b in enumerate(model.model.layers)]


def test_what_was_measured_is_not_measured_again(toys, tmp_path):
    a, b = Counted("a"), Counted("b")
    first = measure(toys/"toy", dict(x=a, y=b), tmp_path, most=2)
    assert a.calls == b.calls == [0, 40] and first.columns.tolist() == ["run", "step", "tokens", "probe", "layer", "metric", "value"] and first.attrs == {}
    assert len(first) == 8 and first.probe.tolist() == ["x"]*4 + ["y"]*4 and (first.run == "toy").all()
    for row in first.itertuples(): assert row.value == pytest.approx(.02*(1 + row.step), rel=.4) # the scale that its matrices were drawn at
    more = measure(toys/"toy", dict(x=a), tmp_path, most=2, also=[12])
    assert a.calls == [0, 40, 10] and more.step.tolist() == [0, 0, 40, 40, 10, 10] and b.calls == [0, 40]
    whole = measure(toys/"toy", dict(x=a, y=b), tmp_path)
    assert sorted(a.calls) == sorted(b.calls) == [0, 10, 20, 40] and len(whole) == 16
    pd.testing.assert_frame_equal(measure(toys/"toy", dict(x=a, y=b), tmp_path), whole)
    assert sorted(p.name for p in tmp_path.glob("*.parquet")) == ["x.parquet", "y.parquet"] and len(a.calls) == 4
    known = measured(toys/"toy", dict(x=a, y=b), tmp_path)
    assert len(known) == 16 and len(measured(toys/"toy", dict(x=Counted("c")), tmp_path)) == 0
    looked_up = measure(toys/"toy", dict(x=a), tmp_path, most=1, measure_missing=False)
    assert len(looked_up) == 8 and len(a.calls) == 4


def test_two_series_share_a_table_and_another_probe_takes_its_place(toys, tmp_path):
    a = Counted("a")
    measure(toys/"toy", dict(x=a), tmp_path)
    both = measure(toys/"twin", dict(x=a), tmp_path)
    assert a.calls == [0, 10, 20, 40]*2 and both.groupby("run").size().to_dict() == dict(toy=8, twin=8)
    assert set(measured(toys/"twin", dict(x=a), tmp_path).run) == {"twin"} and len(measured(Series(toys/"toy"), dict(x=a), tmp_path)) == 8
    new = measure(toys/"toy", dict(x=Counted("b")), tmp_path) # of the same name, but another one
    assert set(new.metric) == {"b"} and len(new) == 8 and len(measured(toys/"twin", dict(x=a), tmp_path)) == 0
    nothing = measured(toys/"toy", dict(z=a), tmp_path)
    assert nothing.empty and nothing.columns.tolist() == ["run", "step", "tokens", "probe", "metric", "value"]


def test_a_probe_that_fails_leaves_what_was_there(toys, tmp_path):
    a = Counted("a")
    def fails(model, context): return a(model, context) if context.step < 20 else 1/0
    with pytest.raises(ZeroDivisionError): measure(toys/"toy", dict(x=fails), tmp_path)
    assert measured(toys/"toy", dict(x=fails), tmp_path).step.tolist() == [0, 0, 10, 10]
    with pytest.raises(InputError, match="probes: name some"): measure(toys/"toy", folder=tmp_path)


def test_leftovers_go_but_not_those_of_who_holds_the_lock(toys, tmp_path):
    "Of this table: what a killed writer has left of another one goes when that is written."
    a = Counted("a")
    mine, other = tmp_path/".x.parquet.0.partial", tmp_path/".y.parquet.0.partial"
    for path in (mine, other): path.write_bytes(b"PAR1")
    with FileLock(tmp_path/".lock"):
        measuring = threading.Thread(target=measure, args=(toys/"toy", dict(x=a), tmp_path), kwargs=dict(most=1))
        measuring.start()
        wait_for(lambda: a.calls, "the probe to be asked")
        time.sleep(.2)
        assert mine.exists()
    measuring.join()
    assert not mine.exists() and other.exists() and len(measured(toys/"toy", dict(x=a), tmp_path)) == 2
