"Looking inside real, tiny runs: reports, measuring, claims, logits at some positions in training and out of it, and what is refused."
import importlib
import json
import math
import pickle
import re
import shutil
from functools import partial
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, without_scrubbers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, GPTNeoXConfig

from grok_nb import InputError, commands, corpus, engines, training
from grok_nb.claims import ledger
from grok_nb.models import gpt, initialise, llama, logits_at
from grok_nb.modular import algorithms as A, geometry as G, tasks
from grok_nb.modular import figures
from grok_nb.modular.study import study
from grok_nb.modular.circuits import ablation
from grok_nb.probes import fingerprint, measure
from grok_nb.runs import Run
from grok_nb.evidence import measured_inside, tables
from grok_nb.runs import labels
from grok_nb.see.report import report
from grok_nb.series import Series
from grok_nb.training import commit, train

TINY = dict(p=5, n_id=16, alpha=.8, n_shots=8, depth=2, steps=20, warmup_steps=5, evaluate_every=10, checkpoints=2, checkpoint_on_change=0, n_eval=32, n_ood=8, width=16, heads=2, batch_size=16)
BRIEF = TINY | dict(steps=6, warmup_steps=2, evaluate_every=2, checkpoints=1, n_eval=16, n_shots=5, init_std=.3, optimizer="adamw")


def tiny(root, **changes): return train(study.config("smoke", **TINY | changes), root, "cpu", 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory): return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two_blocks(root): return tiny(root)


@pytest.fixture(scope="module")
def one_block(root): return tiny(root, depth=1, checkpoints=1)


@pytest.fixture(scope="module")
def text_run(root, tmp_path_factory):
    text = shutil.copy(ROOT/"README.md", tmp_path_factory.mktemp("text")/"readme.txt")
    small = dict(steps=6, warmup_steps=2, evaluate_every=2, checkpoints=1, depth=1, width=16, context=16, batch_size=4)
    return train(corpus.study.config("smoke", corpus=str(text), **small), root, "cpu", 1)


# ---- reports ----

class Page(HTMLParser):
    "What a page refers to, and its figures: [alternative text, caption]."
    def __init__(self, text):
        super().__init__()
        self.refers, self.figures, self.headings, self.inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.refers += [attributes[name] for name in ("src", "href", "srcset", "data") if name in attributes]
        if tag == "figure": self.figures.append(["", ""])
        if tag == "img": self.figures[-1][0] = attributes.get("alt", "")
        if tag in ("script", "link", "iframe", "object"): self.refers.append(tag)
        self.inside = tag

    def handle_endtag(self, tag): self.inside = None

    def handle_data(self, data):
        if self.inside == "figcaption": self.figures[-1][1] += data
        if self.inside == "h2": self.headings.append(data)


def check_page(path, least):
    "The page needs nothing from outside, and each figure has a text and a caption."
    text = without_scrubbers(path.read_text())
    page = Page(text)
    assert all(where.startswith("data:image/webp;base64,") for where in page.refers) and "url(" not in text and "@import" not in text
    assert len(page.figures) >= least and all(alt and alt == caption for alt, caption in page.figures), page.figures
    return page


@pytest.fixture(scope="module")
def looked(two_blocks, one_block):
    "What was measured inside both runs, as a report names them."
    return measured_inside([two_blocks, one_block]).replace(dict(run={two_blocks.run_id: "two", one_block.run_id: "one"}))


def test_figures_of_the_insides(two_blocks, one_block, looked):
    found = study.checkpoint_figures(dict(two=two_blocks, one=one_block), looked)
    headings = [heading for heading, _, _ in found]
    assert len(set(headings)) == len(headings)
    assert {"Which algorithm", "How far it carries", "Heads: two", "Heads: one", "Alike: one"} <= set(headings)
    for heading, caption, fig in found:
        assert caption.strip().endswith(".") and any(ax.has_data() for ax in fig.axes), heading
    by_name = {heading: fig for heading, _, fig in found}
    panels = lambda heading, title: sum(bool(re.match(title, ax.get_title())) for ax in by_name[heading].axes)
    assert panels("Where it attends", "layer") == 4 # of the first run: two layers of two heads
    assert len(by_name["Heads: two"].axes) > len(by_name["Heads: one"].axes) # a model each, and not the first one twice
    figure = by_name["How far it carries"]
    assert [ax.get_title() for ax in figure.axes] == ["two", "one"]
    accuracy = by_name["When the parts arrive"].axes[0]
    for line, run in zip(accuracy.get_lines(), (two_blocks, one_block)):
        rows = run.metrics()
        for column, value in study.headline.items(): rows = rows[rows[column] == value]
        assert line.get_ydata().tolist() == rows.value.tolist()


def test_the_grid_that_is_drawn_is_what_the_last_checkpoint_answers(two_blocks, looked):
    _, caption, fig = study.checkpoint_figures(dict(two=two_blocks), looked[looked.run == "two"])[0]
    task = tuple(map(int, re.search(r"task \((\d), (\d)\)", caption).groups()))
    stream = two_blocks.stream
    assert task in set(map(tuple, stream.ood_tasks.tolist()))
    from grok_nb.streams import rng
    context = A.draw_context(stream, stream.n_shots - 1, rng(stream.seed, "report"))
    model, (x, y) = two_blocks.at(20).model, np.divmod(np.arange(25), 5)
    shots = A.shots_to_ask(stream.n_shots)[1:]
    for column, k in enumerate(shots):
        sequences = [[t for a, b in context[:k] for t in (a, b, (task[0]*a + task[1]*b) % 5)] + [u, v] for u, v in zip(x, y)]
        with torch.no_grad(): answer = model(torch.tensor(np.array(sequences))).logits[:, -1, :5].argmax(-1).numpy()
        right = (answer == (task[0]*x + task[1]*y) % 5).reshape(5, 5)
        assert np.array_equal(fig.axes[column].get_images()[0].get_array(), right.T)


def test_the_typical_task_is_the_median_one(two_blocks):
    stream, told = two_blocks.stream, 0
    context = A.draw_context(stream, 7, np.random.default_rng(0))
    for seed in range(6):
        model = gpt(5, 16, 2, 2, 24, std=1., seed=seed).eval()
        def share(task): return (A.grid_answers(model, context, task, 5).ravel() == A.grid(5) @ task % 5).mean()
        chosen = figures.typical_task(model, stream, context)
        assert tuple(chosen) in set(map(tuple, stream.ood_tasks.tolist()))
        every = sorted(map(share, stream.ood_tasks)) # 8 tasks: all were tried
        assert share(chosen) == every[4]
        told += every[0] < every[4] < every[-1]
    assert told # neither the best nor the worst would have done


@pytest.mark.slow # one of the smallest prime is made in every run of the tests
def test_a_report_of_one_block_and_two(two_blocks, one_block, looked, tmp_path, small_pictures):
    path = report([two_blocks, one_block], tmp_path/"report.html")
    page = check_page(path, 3 + len(study.checkpoint_figures(dict(two=two_blocks, one=one_block), looked)))
    assert {"Which algorithm", "When the parts arrive", "How these runs were made"} <= set(page.headings)
    assert not [p for p in tmp_path.iterdir() if p != path]


def test_a_report_measures_no_checkpoint_twice(two_blocks, one_block, looked, monkeypatch):
    loaded = []
    monkeypatch.setattr(Run, "at", None)
    monkeypatch.setattr("grok_nb.runs.Checkpoint.model", property(lambda c: loaded.append(c.step)))
    again = measured_inside([two_blocks, one_block])
    assert not loaded and len(again) == len(looked)


def test_a_report_of_a_text_has_no_inside(text_run, tmp_path, small_pictures):
    page = check_page(report([text_run], tmp_path/"report.html"), 1)
    assert "Loss" in page.headings and "Which algorithm" not in page.headings
    assert sorted(p.name for p in (text_run.path/"tables").iterdir()) == [".lock", "attention.parquet"] # which the scrubber shows


def test_a_study_without_insides_has_nothing_measured(text_run):
    def tables(): return [*(text_run.path/"tables").glob("*")]
    before = tables()
    assert not hasattr(text_run.study, "inside") and measured_inside([text_run]).empty and tables() == before


def test_a_report_of_the_smallest_prime(tmp_path, small_pictures):
    run = tiny(tmp_path, p=3, n_id=4, alpha=.7, n_shots=4, checkpoints=1)
    assert set(run.study.checkpoint_probes(run.config)) == {"algorithms"}
    page = check_page(report([run]), 5)
    assert "Which algorithm" in page.headings and not any(h.startswith("Heads") for h in page.headings)


def test_figures_of_two_moduli(two_blocks, tmp_path):
    seven = tiny(tmp_path, p=7, n_id=32, depth=1, checkpoints=1)
    study.checkpoint_figures({r.run_id: r for r in (seven, two_blocks)}, measured_inside([two_blocks, seven]))


def test_figures_of_two_examples(tmp_path):
    run = tiny(tmp_path, n_shots=2, checkpoints=1)
    study.checkpoint_figures({run.run_id: run}, measured_inside([run]))


def test_every_run_of_a_report_has_a_name_of_its_own(tmp_path):
    runs = [Run.create(study.config("smoke", **TINY | dict(lr=lr)), tmp_path) for lr in (1e-3, 2e-3)]
    assert len(set(labels(runs).values())) == 2 # or their curves are taken for one


def test_a_report_without_checkpoints_is_one_line(two_blocks, tmp_path):
    bare = Run.create(two_blocks.config, tmp_path)
    for record in two_blocks.records(): bare.append(**record)
    refused(lambda: report([bare]), "checkpoint")
    assert [p.name for p in tmp_path.iterdir()] == [bare.run_id]


def test_tables_for_claims_are_of_presets_and_look_at_the_last_checkpoint(two_blocks, root, tmp_path, monkeypatch):
    assert tables([two_blocks]) == {} # options of its own: no claim is about it
    monkeypatch.setitem(study.presets, "small", two_blocks.config)
    copy = Run(shutil.copytree(two_blocks.path, tmp_path/two_blocks.run_id, ignore=shutil.ignore_patterns("tables")))
    found = tables([copy])
    assert {"accuracy", "algorithms", "geometry", "runs", "train"} <= set(found)
    assert set(found["geometry"].step) == set(found["algorithms"].step) == {20} and set(found["accuracy"].step) == {0, 10, 20}
    assert found["runs"].preset.tolist() == ["small"]


# ---- measuring ----

PROBE = """
from grok_nb import InputError
seen = []
fails_at = []
def probe(model, context, factor=1):
    if context.step in fails_at: raise RuntimeError("out of paper")
    seen.append(context.step)
    return [dict(metric="step", value=float(CODE*factor*context.step))]
def other(model, context): return [dict(metric="parameters", value=float(model.num_parameters()))]
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    "A module with a probe; `page.write(text)` changes its text."
    monkeypatch.syspath_prepend(tmp_path)
    def write(text):
        (tmp_path/"probe_page.py").write_text(text)
        for cached in tmp_path.glob("__pycache__/probe_page*"): cached.unlink()
        importlib.invalidate_caches()
        made = importlib.import_module("probe_page")
        made = importlib.reload(made)
        made.write = write
        return made
    yield write(PROBE.replace("CODE", "1"))
    importlib.sys.modules.pop("probe_page", None)


def values(table, name): return dict(table[table.probe == name].set_index("step").value)


def test_measured_again_when_the_code_has_changed_and_not_otherwise(two_blocks, page, tmp_path):
    def run(**probes): return measure(two_blocks, probes, tmp_path/"tables")
    assert values(run(a=page.probe), "a") == {0: 0, 10: 10, 20: 20} and page.seen == [0, 10, 20]
    run(a=page.probe, b=page.other)
    run(b=page.other)
    assert page.seen == [0, 10, 20]
    changed = page.write(PROBE.replace("CODE", "10"))
    assert values(run(a=changed.probe), "a") == {0: 0, 10: 100, 20: 200} and changed.seen == [0, 10, 20]
    run(a=changed.probe)
    assert changed.seen == [0, 10, 20]
    same = page.write(PROBE.replace("CODE", "10")) # imported anew, the text is that of before
    assert values(run(a=same.probe), "a") == {0: 0, 10: 100, 20: 200} and same.seen == []


def test_measured_again_when_a_bound_argument_has_changed(two_blocks, page, tmp_path):
    def run(probe): return values(measure(two_blocks, dict(a=probe), tmp_path/"tables"), "a")
    assert run(partial(page.probe, factor=2))[20] == 40 and len(page.seen) == 3
    assert run(partial(page.probe, factor=2))[20] == 40 and len(page.seen) == 3
    assert run(partial(page.probe, factor=3))[20] == 60 and len(page.seen) == 6
    assert run(page.probe)[20] == 20 and len(page.seen) == 9
    assert len({fingerprint(f) for f in (page.probe, partial(page.probe, factor=2), partial(page.probe, factor=3), partial(page.probe, 2))}) == 4


def test_an_interrupted_measurement_keeps_what_was_measured(two_blocks, page, tmp_path):
    folder, probes = tmp_path/"tables", lambda: dict(a=page.probe, b=page.other)
    page.fails_at.append(10)
    with pytest.raises(RuntimeError, match="out of paper"): measure(two_blocks, probes(), folder)
    assert pd.read_parquet(folder/"a.parquet").step.tolist() == [0] and not list(folder.glob("*.partial"))
    page.fails_at.clear()
    table = measure(two_blocks, probes(), folder)
    assert page.seen == [0, 10, 20] and values(table, "a") == {0: 0, 10: 10, 20: 20} and set(values(table, "b")) == {0, 10, 20}
    assert not table.duplicated(["run", "step", "probe", "metric"]).any()


def test_an_interruption_within_a_checkpoint_keeps_the_probes_before(two_blocks, page, tmp_path):
    page.fails_at.append(10)
    with pytest.raises(RuntimeError): measure(two_blocks, dict(b=page.other, a=page.probe), tmp_path)
    assert pd.read_parquet(tmp_path/"b.parquet").step.tolist() == [0, 10] and pd.read_parquet(tmp_path/"a.parquet").step.tolist() == [0]


def test_at_most_so_many_checkpoints_the_last_among_them(two_blocks, page, tmp_path):
    def steps(most): return sorted(values(measure(two_blocks, dict(a=page.probe), tmp_path/str(most), most=most), "a"))
    assert [steps(n) for n in (1, 2, 3, 9, None)] == [[20], [0, 20], [0, 10, 20], [0, 10, 20], [0, 10, 20]]
    def more(most): return sorted(values(measure(two_blocks, dict(a=page.probe), tmp_path/"1", most=most), "a"))
    page.seen.clear()
    assert more(2) == [0, 20] and page.seen == [0] # the last was there
    assert more(1) == [0, 20] and page.seen == [0] # what was measured before is in the table too
    assert more(None) == [0, 10, 20] and page.seen == [0, 10]
    near = measure(two_blocks, dict(a=page.probe), tmp_path/"near", most=1, also=[3, 11, 12])
    assert sorted(values(near, "a")) == [0, 10, 20] and page.seen[2:] == [0, 10, 20]


@pytest.mark.parametrize("steps", [[5], [0, 1], [0, 100, 200, 300, 400, 1000], [1, 2, 4, 8, 16, 32, 64, 128], list(range(0, 90, 7))])
def test_a_spread_is_ordered_holds_the_last_and_no_more_than_asked(steps, tmp_path):
    for step in steps: (tmp_path/f"step-{step:08d}").mkdir(); (tmp_path/f"step-{step:08d}"/"config.json").write_text("{}")
    series = Series(tmp_path)
    for most in range(1, len(steps) + 2):
        found = [c.step for c in series.spread(most)]
        assert found == sorted(set(found)) and set(found) <= set(steps) and 1 <= len(found) <= most and found[-1] == steps[-1]
        if most > 1: assert found[0] == steps[0] or len(steps) == 1
    assert [c.step for c in series.spread(None)] == steps


# ---- training through scored positions ----

def losses(run): return run.metrics().query("probe == 'train'").set_index("step").value


def weights(run): return load_file(run.folder(run.steps[-1])/"model.safetensors")


def counted(monkeypatch):
    "How often training asked for logits at some positions."
    calls = []
    def ask(*args, **inputs): calls.append(1); return logits_at(*args, **inputs)
    monkeypatch.setattr(training, "logits_at", ask)
    return calls


@pytest.mark.parametrize("options, rounding", ids=["as the demo", "adamw", "accumulation", "paper_compat", "both", "one block", "bf16"], argvalues=[
    (dict(optimizer="muon"), 3e-3), # makes its updates in bf16
    (dict(), 1e-5), (dict(accumulation=2), 1e-5), (dict(paper_compat=True), 1e-5), (dict(paper_compat=True, accumulation=3), 1e-5),
    (dict(depth=1), 1e-5), (dict(precision="bf16"), 3e-2)])
def test_scored_positions_are_a_shortcut_and_nothing_else(options, rounding, tmp_path, monkeypatch):
    config, calls = study.config("smoke", **BRIEF | options), counted(monkeypatch)
    short = train(config, tmp_path/"short", "cpu", 1)
    assert len(calls) == config.steps*config.accumulation
    monkeypatch.delattr(tasks.ModularStream, "scored_positions")
    whole = train(config, tmp_path/"whole", "cpu", 1)
    assert len(calls) == config.steps*config.accumulation # none more
    assert len(losses(short)) == 3 and np.allclose(losses(short), losses(whole), rtol=rounding, atol=0)
    start = load_file(short.folder(0)/"model.safetensors")
    for name, value in weights(short).items():
        moved = (value - start[name]).norm()
        assert moved > 0 and (value - weights(whole)[name]).norm() < (1e-2 if rounding < 1e-4 else .5)*moved, name


def test_accumulation_is_the_whole_batch(tmp_path):
    whole, parts = (train(study.config("smoke", **BRIEF | dict(accumulation=n, clip=0)), tmp_path/str(n), "cpu", 1) for n in (1, 3))
    assert np.allclose(losses(whole), losses(parts), rtol=1e-5, atol=0)


def test_with_dropout_a_run_is_the_same_again_and_after_a_stop(tmp_path):
    config = study.config("smoke", **BRIEF | dict(attention_dropout=.3, checkpoints=3, keep_states=10))
    first, again = (train(config, tmp_path/str(n), "cpu", 1) for n in range(2))
    assert first.steps == [0, 2, 4, 6]
    same = lambda: all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())
    assert same()
    for step in (4, 6): shutil.rmtree(again.folder(step)) # as if stopped after step 2
    again = train(config, tmp_path/"1", "cpu", 1)
    assert same() and losses(again).tolist() == losses(first).tolist() and [s["step"] for s in again.sessions()] == [0, 2]
    without = train(config.replace(attention_dropout=0), tmp_path/"2", "cpu", 1)
    assert losses(without).tolist() != losses(first).tolist()


# ---- logits at some positions ----

def build(name, implementation="sdpa"):
    small = dict(vocab_size=11, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=32,
                 bos_token_id=None, eos_token_id=None)
    made = dict(
        gpt=lambda: gpt(11, 16, 2, 2, 32, std=.5), llama=lambda: llama(11, 16, 24, 2, 2, 32, std=.5),
        one_block=lambda: gpt(11, 16, 1, 2, 32, std=.5),
        neox=lambda: initialise(AutoModelForCausalLM.from_config(GPTNeoXConfig(**small)), .5),
        gpt2=lambda: initialise(AutoModelForCausalLM.from_config(GPT2Config(vocab_size=11, n_embd=16, n_layer=2, n_head=2, n_positions=32,
                                                                            bos_token_id=None, eos_token_id=None)), .5))[name]().eval()
    made.set_attn_implementation(implementation)
    return made


IDS = torch.as_tensor(np.random.default_rng(0).integers(0, 11, (3, 9)))
SOME = [[8], [-1], [1, 4, 7], [-1, -9, 3], [5, 2, 2, 8, 0], list(range(9))]


def inventory(model):
    "What a careless hand could leave behind."
    return {name: (sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for name, m in model.named_modules()}


def close(found, expected): torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt", "one_block", "llama", "neox", "gpt2"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_rows_of_the_whole(name, implementation):
    model = build(name, implementation)
    padded = torch.ones_like(IDS)
    padded[1, :3] = padded[2, 7:] = 0
    before = inventory(model)
    with torch.no_grad():
        for mask in (None, padded):
            whole = model(input_ids=IDS, attention_mask=mask).logits
            for positions in SOME:
                real = slice(None) if mask is None else mask[:, positions].bool() # at padding nothing is asked
                for form in (positions, np.array(positions), torch.tensor(positions)):
                    close(logits_at(model, form, input_ids=IDS, attention_mask=mask)[real], whole[:, positions][real])
    assert inventory(model) == before


@pytest.mark.parametrize("name", ["gpt", "llama", "gpt2"])
def test_gradients_are_those_of_the_whole(name):
    model, found = build(name), []
    for ask in (lambda: logits_at(model, [1, -1], input_ids=IDS, use_cache=False), lambda: model(input_ids=IDS).logits[:, [1, -1]]):
        model.zero_grad()
        ask().logsumexp(-1).sum().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for n in found[1]: close(found[0][n], found[1][n])


class Wrapped(torch.nn.Module):
    "As DistributedDataParallel: the model is its `module`, and calls go through it."
    def __init__(self, module): super().__init__(); self.module, self.calls = module, 0
    def forward(self, *args, **inputs): self.calls += 1; return self.module(*args, **inputs)


@pytest.mark.parametrize("name", ["gpt", "neox"])
def test_inside_a_wrapper_the_wrapper_is_called(name):
    wrapped = Wrapped(build(name))
    with torch.no_grad(): close(logits_at(wrapped, [0, -2], input_ids=IDS), wrapped.module(IDS).logits[:, [0, -2]])
    assert wrapped.calls == 1


def test_a_callable_that_is_no_transformers_model():
    model = build("gpt")
    with torch.no_grad(): assert torch.equal(logits_at(lambda **inputs: model(**inputs), [1, -1], input_ids=IDS), model(IDS).logits[:, [1, -1]])


@pytest.mark.parametrize("where", ["model.layers.1", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp"])
@pytest.mark.parametrize("pre", [False, True])
def test_a_watched_last_block_is_seen_at_every_position(where, pre):
    model, seen = build("gpt"), []
    module = model.get_submodule(where)
    if pre: handle = module.register_forward_pre_hook(lambda m, args, kwargs: seen.append((*args, *kwargs.values())[0].shape[1]), with_kwargs=True)
    else: handle = module.register_forward_hook(lambda m, args, out: seen.append((out[0] if isinstance(out, tuple) else out).shape[-2]))
    with torch.no_grad(): found = logits_at(model, [1, 4], input_ids=IDS)
    handle.remove()
    assert seen == [9]
    with torch.no_grad(): close(found, model(IDS).logits[:, [1, 4]])


def test_a_hook_that_changes_the_last_block_counts():
    model = build("gpt")
    handle = model.model.layers[-1].mlp.register_forward_hook(lambda m, args, out: 0*out)
    with torch.no_grad(): without, whole = logits_at(model, [2, -1], input_ids=IDS), model(IDS).logits[:, [2, -1]]
    handle.remove()
    with torch.no_grad(): close(without, whole); assert not torch.allclose(without, logits_at(model, [2, -1], input_ids=IDS), atol=1e-3)


class Breakdown(BaseException): "As Ctrl-C, not an `Exception`."


@pytest.mark.parametrize("name", ["gpt", "llama", "neox", "gpt2"])
@pytest.mark.parametrize("early", [True, False])
def test_an_exception_within_leaves_the_model_as_it_was(name, early):
    model = build(name)
    before = inventory(model)
    with torch.no_grad(): whole = model(IDS).logits
    place = model.get_input_embeddings() if early else model.get_output_embeddings() # before the shortcut is taken, and behind it
    def stop(*_): raise Breakdown
    handle = place.register_forward_hook(stop)
    with pytest.raises(Breakdown): logits_at(model, [1], input_ids=IDS)
    handle.remove()
    assert inventory(model) == before
    with torch.no_grad(): assert torch.equal(model(IDS).logits, whole)


# ---- claims on tables whose answer is known ----

SEEDS = range(10)
RUNS = [dict(run=f"{preset}{seed}", study="modular", preset=preset, fidelity=fidelity, seed=seed)
        for preset, fidelity in (("demo", "demo"), ("control", "demo"), ("paper_depth4", "paper")) for seed in SEEDS]
NEW = dict(zip(("attends to ratios", "kaleidoscope", "circle of circles", "shift to regression"), ("geometry",)*3 + ("algorithms",)))
ROW = dict(tokens=0, probe="geometry", layer=1, head=0, where="y")


def scored(run, quantity, best, null=0.):
    "The best head at the last checkpoint; one that was better once, one that is worse, and another quantity."
    for step, head, score, floor in ((200, 1, best, null), (100, 1, best/2, null), (100, 0, 9., 0.), (200, 0, best - .3*abs(best), -9.)):
        for metric, value in dict(score=score, null=floor).items():
            yield ROW | dict(run=run, quantity=quantity, head=head, step=step, metric=metric, value=value)
    for metric in ("score", "null"): yield ROW | dict(run=run, quantity=f"not {quantity}", step=200, metric=metric, value=99.)


def jitter(seed): return (seed - 4.5)*.01 # 0 in the median


def geometry_rows(effect):
    "The demo exceeds the control, and its null, by so much."
    rows = []
    for seed in SEEDS:
        far = effect + jitter(seed)
        rows += scored(f"control{seed}", "collinear attention to z", 1.5, 1.2)
        rows += scored(f"demo{seed}", "collinear attention to z", 2.5*2**far, 2.) # as far above its null as the control's, and then so much
        rows += scored(f"control{seed}", "lines, residual", .2 + .1*seed)
        rows += scored(f"demo{seed}", "lines, residual", .2 + .1*seed + far)
        rows += scored(f"demo{seed}", "circle of circles", .4 + .1*seed + far, .4 + .1*seed)
    return rows


def algorithm_rows(effect):
    "At 31 examples so far above chance; other shots, steps and cells say otherwise."
    rows = []
    for seed in SEEDS:
        add = lambda step, shot, cells, metric, value: rows.append(dict(
            run=f"paper_depth4{seed}", step=step, tokens=0, probe="algorithms", shot=shot, context=0, cells=cells, metric=metric, value=value))
        for step in (100, 200):
            add(step, "all", "all", "chance", 1/29)
            for shot in ("4", "8", "31"):
                add(step, shot, "both", "accuracy", .97)
                now = step == 200 and shot == "31"
                for sign in (-1, 1): add(step, shot, "regression only", "accuracy", 1/29 + effect + jitter(seed) + .02*sign if now else .5)
    return rows


def known(effect=.3, seeds=10, **changes):
    made = dict(geometry=pd.DataFrame(geometry_rows(effect)), algorithms=pd.DataFrame(algorithm_rows(effect)), runs=pd.DataFrame(RUNS)) | changes
    keep = [r["run"] for r in RUNS if r["seed"] < seeds]
    return {name: table[table.run.isin(keep)] for name, table in made.items() if table is not None}


def judged(found, *names): return ledger([c for c in study.claims() if c.name in (names or NEW)], found).set_index("claim").loc[list(names or NEW)]


THRESHOLDS = {c.name: c.threshold for c in study.claims()}


@pytest.mark.parametrize("name", NEW)
def test_a_claim_finds_the_effect_that_is_there(name):
    for effect, verdict in ((THRESHOLDS[name] + .3, "supported"), (THRESHOLDS[name] - .05, "not supported"), (THRESHOLDS[name], "inconclusive"),
                            (0., "not supported"), (-.02, "not supported")):
        row = judged(known(effect), name).loc[name]
        assert row.verdict == verdict and row.seeds == 10 and np.isclose(row.effect, effect)
        assert np.isclose(row.high - row.low, .07) and row.power == 1 # from the second lowest to the second highest


@pytest.mark.parametrize("name", NEW)
def test_two_seeds_decide_nothing(name):
    row = judged(known(5., seeds=2)).loc[name]
    assert row.verdict == "inconclusive" and row.seeds == 2 and "6 seeds" in row.reason


@pytest.mark.parametrize("name, needs", NEW.items())
def test_what_is_missing_is_said(name, needs):
    row = judged(known(**{needs: None})).loc[name]
    assert row.verdict == "not tested" and needs in row.reason and row.seeds == 0
    others = judged(known(.9, **{needs: None}))
    assert all(others.loc[other].verdict == "supported" for other, uses in NEW.items() if uses != needs)


def test_without_a_control_a_comparison_is_not_tested_and_the_others_are():
    book = judged(known(.9, runs=pd.DataFrame([r for r in RUNS if r["preset"] == "demo"])))
    assert book.verdict.tolist() == ["not tested", "not tested", "supported", "not tested"] and "preset=control" in book.reason.iloc[0]


def test_seeds_are_paired_one_by_one():
    "The seeds differ by far more than demo and control of one seed do."
    rows = [row for row in geometry_rows(.9) if row["quantity"] != "lines, residual"]
    for seed in SEEDS:
        for preset, score in dict(control=2.*seed, demo=2.*seed + .3 + jitter(seed)).items():
            rows += scored(f"{preset}{seed}", "lines, residual", score)
    row = judged(known(geometry=pd.DataFrame(rows[::-1]))).loc["kaleidoscope"]
    assert row.verdict == "supported" and np.isclose(row.effect, .3)


def test_seeds_that_disagree_are_inconclusive():
    rows = [row for row in geometry_rows(.9) if row["quantity"] != "lines, residual"]
    for seed in SEEDS:
        for preset, score in dict(control=.1, demo=(.1, .9, .1)[seed % 3]).items(): rows += scored(f"{preset}{seed}", "lines, residual", score)
    assert judged(known(geometry=pd.DataFrame(rows))).loc["kaleidoscope"].verdict == "inconclusive"


@pytest.mark.parametrize("missing", ["one quantity", "a score of zero"])
def test_an_odd_table_is_not_tested(missing):
    table = pd.DataFrame(geometry_rows(.9))
    named = table.quantity == "collinear attention to z"
    if missing == "one quantity": table = table[~named]
    else: table.loc[named & table.run.str.startswith("control"), "value"] = 0.
    book = judged(known(geometry=table))
    assert book.loc["attends to ratios"].verdict == "not tested" and book.loc["circle of circles"].verdict == "supported"


# ---- commands ----

@pytest.fixture
def shelf(two_blocks, one_block, text_run, tmp_path):
    "A folder of runs with what may lie about in one."
    for run in (two_blocks, one_block, text_run): shutil.copytree(run.path, tmp_path/run.run_id)
    Run.create(two_blocks.config.replace(seed=7), tmp_path)
    stopped = Run(shutil.copytree(two_blocks.path, tmp_path/"stopped"))
    shutil.rmtree(stopped.folder(20))
    good = (two_blocks.path/"config.json").read_text()
    for name, text in dict(cut=good[:99], changed=good.replace('"steps": 20', '"steps": 21'), model='{"model_type": "llama"}', list="[]",
                           null="null", unknown=good.replace('"modular"', '"modulo"'), future=good.replace('"p": 5', '"p": 5, "q": 5'),
                           options='{"study": "modular", "run_id": "x", "options": []}', composite=good.replace('"p": 5', '"p": 9')).items():
        (tmp_path/name).mkdir()
        (tmp_path/name/"config.json").write_text(text)
    (tmp_path/"latin").mkdir()
    (tmp_path/"latin"/"config.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path/"folder"/"config.json").mkdir(parents=True)
    (tmp_path/"report.html").write_text("")
    return tmp_path


def test_finished_runs_are_the_studys_own_and_can_be_read(shelf, two_blocks, one_block, text_run):
    before = sorted(shelf.rglob("*"))
    assert [r.run_id for r in commands.finished_runs("modular", shelf)] == sorted([two_blocks.run_id, one_block.run_id])
    assert [r.run_id for r in commands.finished_runs("corpus", str(shelf))] == [text_run.run_id]
    assert commands.finished_runs("modula", shelf) == [] and commands.finished_runs("modular", shelf/"nothing") == []
    assert sorted(shelf.rglob("*")) == before


def test_finished_runs_leave_out_a_configuration_without_its_name(two_blocks, tmp_path):
    (tmp_path/"nameless").mkdir()
    saved = json.loads((two_blocks.path/"config.json").read_text())
    del saved["run_id"]
    (tmp_path/"nameless"/"config.json").write_text(json.dumps(saved))
    assert commands.finished_runs("modular", tmp_path) == []


def foreign(run, model, root):
    "A copy of a run's folder with another model's checkpoint where the last one was."
    copy = Run(shutil.copytree(run.path, root/run.run_id, ignore=shutil.ignore_patterns("tables")))
    for step in copy.steps: shutil.rmtree(copy.folder(step))
    commit(copy, run.config.steps, model, [])
    return copy


def stopped(capsys, *typed):
    "What `grok_nb_report` says of a mistake: one line."
    with pytest.raises(SystemExit) as ended: commands.grok_nb_report(list(map(str, typed)))
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == "" and len(said.err.splitlines()) == 1 and said.err.startswith("grok_nb_report: ")
    return said.err


def bloom(vocab_size): return AutoModelForCausalLM.from_config(BloomConfig(vocab_size=vocab_size, hidden_size=16, n_layer=1, n_head=2))


def test_a_report_on_another_architecture_is_one_line(two_blocks, tmp_path, capsys):
    copy = foreign(two_blocks, bloom(7), tmp_path)
    capsys.readouterr()
    said = stopped(capsys, copy.path)
    assert "no adapter for 'bloom'; it has for gemma, " in said
    assert not list(tmp_path.glob("*.html"))


def test_a_report_on_a_checkpoint_of_another_study_is_one_line(two_blocks, tmp_path, capsys):
    copy = foreign(two_blocks, gpt(3, 16, 2, 2, 64), tmp_path)
    capsys.readouterr()
    assert "3 tokens" in stopped(capsys, copy.path)
    assert not list(tmp_path.glob("*.html")) and not (copy.path/"tables").exists()


@pytest.mark.slow
def test_a_report_of_two_studies_has_a_section_for_each(one_block, text_run, tmp_path, small_pictures, monkeypatch):
    text = report([one_block, text_run], tmp_path/"both.html").read_text()
    for study in (one_block.study, text_run.study):
        assert f'<h1 id="{study.Config.study}">{study.question}</h1>' in text and f'<a href="#{study.Config.study}">' in text
    assert text.count("How these runs were made") == 2
    sent = []
    class Here(engines.Serial):
        "Does what processes are given, as they are given it."
        def __init__(self, workers): sent.append(workers)
        def __enter__(self): return self
        def __exit__(self, *_): pass
        def submit(self, *job):
            sent.append(pickle.dumps(job))
            function, *arguments = pickle.loads(sent[-1])
            return super().submit(function, *arguments)
    monkeypatch.setattr(engines, "Processes", Here)
    assert report([one_block, text_run], tmp_path/"apart.html", workers=2).read_text() == text and sent[0] == 2 and len(sent) == 3


def test_a_report_before_an_evaluation_is_one_line(shelf, two_blocks, capsys):
    before = sorted(shelf.rglob("*"))
    assert "has not been evaluated yet" in stopped(capsys, two_blocks.config.replace(seed=7).run_id, "--runs", shelf)
    assert "modulo" in stopped(capsys, shelf/"unknown")
    assert [p for p in sorted(shelf.rglob("*")) if p.name != ".lock"] == [p for p in before if p.name != ".lock"]


# ---- what is refused ----

def refused(ask, says):
    with pytest.raises(InputError, match=says) as error: ask()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("ask", ids=lambda f: f.__name__, argvalues=[
    G.primitive_root, G.discrete_log, G.lines, G.collinear])
@pytest.mark.parametrize("p", [1, 4, 9, 15, 91])
def test_a_composite_modulus(ask, p): refused(lambda: ask(p), f"p = {p}: must be a prime")


SHAPES = dict(
    spectrum=lambda p: G.spectrum(np.ones((p*p, 2)), p), parity=lambda p: G.parity(np.ones((p*p, 2)), p, "x", "log"),
    line_contrast=lambda p: G.line_contrast(np.ones((p*p, 3)), p), periodic_neurons=lambda p: G.periodic_neurons(np.ones((1, 2, p*p, 3)), p, 2),
    linear_probes=lambda p: G.linear_probes(np.ones((2, p*p, 3)), p, 2),
    collinear_attention=lambda p: G.collinear_attention(np.ones((1, 1, 2, p*p, 9)), np.ones((2, 3, 2), int), p),
    cosine_figure=lambda p: G.cosine_figure(dict(a=np.ones((3, p*p, p*p))), p),
    attention_figure=lambda p: G.attention_figure(np.ones((1, 1, 9, 9)), np.ones(9, int), p),
    ratio_matchable=lambda p: A.ratio_matchable(np.ones((2, 2), int), np.ones(2, int), p))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_composite_modulus_of_a_shape(shape): refused(lambda: SHAPES[shape](9), "p = 9: ")


def test_a_composite_modulus_of_planes(): refused(lambda: G.planes_figure(np.ones((1, 1, 81, 3)), 9, "y/x"), "p = 9: ")


@pytest.mark.parametrize("most", [0, -1])
def test_no_checkpoints_at_most(two_blocks, most, tmp_path):
    for ask in (lambda: measure(two_blocks, dict(a=A.algorithms), tmp_path/"tables", most=most), lambda: Series(two_blocks).spread(most)):
        refused(ask, f"most = {most}: must be at least 1")
    assert not list(tmp_path.iterdir())


def test_geometry_of_another_study_writes_nothing(text_run, tmp_path):
    refused(lambda: measure(text_run, dict(geometry=G.geometry), tmp_path/"tables"), "stream = TextStream: must be the stream of a modular run")
    assert not list(tmp_path.iterdir())


def test_probes_without_a_run_have_to_be_named(two_blocks, tmp_path):
    refused(lambda: measure(two_blocks.path/"checkpoints", folder=tmp_path/"tables"), "probes: name some")
    refused(lambda: measure(two_blocks.path/"checkpoints", dict(geometry=G.geometry), tmp_path/"tables"), "stream = NoneType: must be the stream")
    assert not list(tmp_path.iterdir())


def test_a_grid_that_does_not_fit_is_refused_before_the_model_is_asked(two_blocks):
    big, asked = tasks.ModularStream(p=113, n_id=4, n_shots=512, n_eval=4, n_ood=4), []
    model = gpt(113, 16, 1, 2, 1600)
    model.register_forward_pre_hook(lambda *_: asked.append(1))
    refused(lambda: G.geometry(model, SimpleNamespace(stream=big), contexts=10**6), r"p = 113, contexts = 1000000: needs [\d,.]+ GB of memory")
    assert not asked


@pytest.mark.parametrize("stream", [None, "text"])
def test_algorithms_of_another_study(two_blocks, text_run, stream, tmp_path):
    source = text_run if stream else two_blocks.path/"checkpoints"
    refused(lambda: measure(source, dict(algorithms=A.algorithms), tmp_path/"tables"), "stream = ")


@pytest.mark.parametrize("stream", [None, "text"])
def test_ablation_of_another_study(two_blocks, text_run, stream):
    refused(lambda: ablation(two_blocks.at(20).model, text_run.stream if stream else None, [(0, 0)]), "stream = ")


@pytest.mark.parametrize("position", [9, 99, -10])
def test_a_position_that_is_not_there(position):
    refused(lambda: logits_at(build("gpt"), [position], input_ids=IDS), "positions = ")
