"The copying wing against bad input, interruption and odd sizes: one line each, nothing left behind, the same bits and numbers."
import json
import os
import re
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import without_scrubbers
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models as token_models
from transformers import (AutoModelForCausalLM, BertConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, BloomConfig, PreTrainedTokenizerFast,
                          Starcoder2Config)

from grok_nb.files import write_manifest
from grok_nb import InputError, claims, commands
from grok_nb.copying import circuits, copy_test, induction, language
from grok_nb.copying import presets
from grok_nb.copying.study import study
from grok_nb.copying.copy_test import CopyTest
from grok_nb.copying.induction import icl_score, induction_scores
from grok_nb.modular.study import study as modular
from grok_nb.probes import measure
from grok_nb.runs import Context, Run
from grok_nb.see import report
from grok_nb.series import Series
from grok_nb.streams import check_stream
from grok_nb.training import commit, train

V, CONTEXT = 40, 48
BRIEF = dict(width=16, heads=2, mlp=16, batch_size=4, test_samples=4, steps=6, warmup_steps=2, evaluate_every=2, checkpoints=3)
TEXT = dict(vocab_size=300, context=64, depth=2, test_sequences=4, test_prefix=4, test_suffix=2, test_every=2)
MODULAR = dict(p=5, n_id=16, alpha=.8, n_shots=4, depth=1, width=16, heads=2, batch_size=16, n_eval=16, n_ood=8, steps=6, warmup_steps=2,
               evaluate_every=2, checkpoints=1, checkpoint_on_change=0)
SIZES = dict(vocab_size=V, bos_token_id=None, eos_token_id=None)
LLAMA = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, max_position_embeddings=CONTEXT)
CONFIGS = dict(
    llama=LlamaConfig(**SIZES, **LLAMA),
    one_head=LlamaConfig(**SIZES, **LLAMA | dict(num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)),
    gpt_neox=GPTNeoXConfig(**SIZES, **LLAMA, rotary_pct=.5),
    gpt2=GPT2Config(**SIZES, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT),
    starcoder2=Starcoder2Config(**SIZES, **LLAMA | dict(num_attention_heads=4), num_key_value_heads=2))


def built(config, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def questions(**changes):
    "The probes that ask a model from outside: all of the wing that need no stream."
    test = CopyTest(**dict(vocab_size=V, n_sequences=4, prefix=4, suffix=2, n_samples=6, every=2) | changes)
    return dict(copy=test, induction=partial(induction_scores, s=8, n_samples=2), causes=partial(circuits.causes, test=test, draws=1, s=8))


def folders(root, model, steps=(1, 2, 3)):
    "A folder of checkpoint folders as any training leaves it, each a little different."
    for step in steps:
        with torch.no_grad(): model.get_output_embeddings().weight.mul_(1 + step/10)
        model.save_pretrained(root/f"step-{step}")
    return Series(root)


def refused(ask, *says):
    with pytest.raises(InputError) as error: ask()
    assert len(str(error.value).splitlines()) == 1
    for part in says: assert re.search(part, str(error.value)), (part, str(error.value))


def same(a, b):
    "The same rows, in whatever order they were measured."
    columns = sorted(a.columns)
    assert columns == sorted(b.columns)
    a, b = (t[columns].sort_values(columns, ignore_index=True) for t in (a, b))
    pd.testing.assert_frame_equal(a, b, check_dtype=False)


# ---- models that cannot be asked ----

def without_mask(config):
    config = type(config)(**config.to_dict())
    config.is_causal = False
    return built(config)


def broken(config, bad):
    model = built(config)
    with torch.no_grad(): list(model.parameters())[3].view(-1)[1] = bad
    return model


BLOOM = BloomConfig(**SIZES, hidden_size=16, n_layer=2, n_head=2)
WRONG = {
    "no causal mask": (lambda: without_mask(CONFIGS["llama"]), dict(copy="no causal mask", induction="causal mask is needed", causes="causal mask")),
    "BERT": (lambda: built(BertConfig(vocab_size=V, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)),
             dict(copy="no causal mask", induction="no adapter for 'bert'", causes="no adapter for 'bert'")),
    "no adapter": (lambda: built(BLOOM), dict(induction="no adapter for 'bloom'; it has for gemma", causes="no adapter for 'bloom'")),
    "NaN": (lambda: broken(CONFIGS["gpt_neox"], torch.nan), dict(copy="not finite", induction="not finite", causes="not finite")),
    "infinite": (lambda: broken(CONFIGS["starcoder2"], torch.inf), dict(copy="not finite", induction="not finite", causes="not finite")),
    "context too short": (lambda: built(LlamaConfig(**SIZES, **LLAMA | dict(max_position_embeddings=15))),
                          dict(copy="largest that fits is n_sequences = 1", induction="s = 8: must be from 3 to 7", causes="s = 8")),
    "smaller vocabulary": (lambda: built(LlamaConfig(**SIZES | dict(vocab_size=30), **LLAMA)), dict(copy="draws token 39, the model's vocabulary has 30")),
}


@pytest.mark.parametrize("name, probe", [(name, probe) for name, (_, says) in WRONG.items() for probe in says])
def test_a_model_that_cannot_be_asked_is_one_line_and_leaves_no_table(name, probe, tmp_path):
    make, says = WRONG[name]
    series = folders(tmp_path/"checkpoints", make(), [1])
    refused(lambda: measure(series, {probe: questions()[probe]}, tmp_path/"tables"), says[probe])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints"]


def test_a_checkpoint_that_cannot_be_asked_takes_nothing_from_those_before_it(tmp_path):
    model = built(CONFIGS["gpt2"])
    folders(tmp_path/"model", model, [1, 2])
    list(model.parameters())[3].data.view(-1)[1] = torch.nan
    folders(tmp_path/"model", model, [3])
    asked = questions()
    found = measure(tmp_path/"model", dict(copy=asked["copy"]), tmp_path/"tables")
    assert [re.search(r"step 3: .* not finite", why) is not None for why in found.attrs["left_out"]] == [True]
    assert sorted(p.name for p in (tmp_path/"tables").iterdir()) == [".lock", "copy.parquet"]
    table = pd.read_parquet(tmp_path/"tables"/"copy.parquet")
    assert table.step.unique().tolist() == [1, 2] and table.groupby("step").size().nunique() == 1


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_of_any_architecture(name, dtype, tmp_path):
    series = folders(tmp_path/"model", built(CONFIGS[name], dtype), [10, 200])
    asked = questions()
    if name == "one_head": del asked["causes"]
    table = measure(series, asked, tmp_path/"tables")
    assert table.step.unique().tolist() == [10, 200] and set(table.probe) == set(asked) and np.isfinite(table.value).all()
    heads = table[table.probe == "induction"].groupby(["layer", "head"]).ngroups
    config = CONFIGS[name]
    assert heads == config.num_hidden_layers*config.num_attention_heads


@pytest.mark.parametrize("length", range(4, 30))
def test_the_default_positions_of_the_icl_score_fit_any_row(length):
    model, ids = built(CONFIGS["llama"]), np.arange(length)[None] % V
    if length < 6: refused(lambda: icl_score(model, ids), "the last of") if round(length*50/512) < 1 else None
    else: assert len(icl_score(model, ids)) == 3


@pytest.mark.parametrize("ask, says", [
    (lambda m: language.losses(m, Context()), "stream = NoneType: must be a LanguageStream or a TextStream"),
    (lambda m: presets.in_context(m, Context()), "stream = NoneType"),
    (lambda m: language.other_abilities(m, pairs=30), "they take 61 tokens, the model's context holds 48"),
    (lambda m: language.recall_sequences(40, 0), "pairs = 0: must be from 1 to half the vocabulary, which is 20"),
    (lambda m: language.LanguageStream(copy_rate=1.5), "copy_rate = 1.5: must be from 0 to 1"),
    (lambda m: language.LanguageStream(copy_rate=-1), "copy_rate = -1"),
    (lambda m: CopyTest(V, tokenizer="gpt2"), "tokenizer = 'gpt2': must be a tokenizer of transformers")])
def test_questions_without_an_answer(ask, says): refused(lambda: ask(built(CONFIGS["gpt2"])), says)


# ---- tokenizers ----

def tokenizer(ordinary, special=()):
    "One that knows these tokens and no others."
    names = [*special, *ordinary]
    made = Tokenizer(token_models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=names[0]))
    return PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=list(special))


def test_a_tokenizer_without_usable_tokens():
    for special, ordinary, left in ((("<s>", "</s>"), (), 0), (("<s>",), ("a",), 1)):
        refused(lambda: CopyTest(V, tokenizer=tokenizer(ordinary, special)), f"tokenizer: leaves {left} of {V} tokens")
    refused(lambda: CopyTest(2, tokenizer=tokenizer("abc", ("<s>", "</s>"))), "leaves 0 of 2")
    refused(lambda: CopyTest(20, 4, 4, 2, 2, 2, 0, "hex", tokenizer("0123456789abcdef")), r"no token for '\\n'")


def test_a_vocabulary_larger_than_the_tokenizer():
    "As in Pythia: the rows of the embedding that no token has are never drawn."
    small = tokenizer([f"t{i}" for i in range(20)], ("<s>", "<|end|>"))
    test = CopyTest(V, 4, 4, 2, 50, 2, tokenizer=small)
    assert set(test.tokens) == set(range(2, 22)) and set(np.unique(test.sequences)) == set(range(2, 22))
    assert test.accuracy(built(CONFIGS["gpt2"])) and "<" not in test.text()


# ---- measuring that is interrupted ----

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "Three checkpoints, and what an uninterrupted measurement makes of them."
    root = tmp_path_factory.mktemp("whole")
    series = folders(root/"model", built(CONFIGS["llama"]))
    return series, measure(series, questions(), root/"tables")


@pytest.fixture
def counted(monkeypatch):
    "How often each probe asked a checkpoint; `stop[name]`: the call at which Ctrl-C comes, in the middle of the work."
    asked, stop = dict(copy=0, induction=0, causes=0), {}
    def counting(name, function):
        def ask(*args, **kwargs):
            asked[name] += 1
            found = function(*args, **kwargs)
            if asked[name] == stop.get(name): raise KeyboardInterrupt
            return found
        return ask
    monkeypatch.setattr(CopyTest, "accuracy", counting("copy", CopyTest.accuracy))
    monkeypatch.setattr(circuits, "ablation", counting("causes", circuits.ablation))
    monkeypatch.setattr(induction, "eigenvalue_positivity", counting("induction", induction.eigenvalue_positivity)) # causes asks for it as well
    return asked, stop


@pytest.mark.parametrize("name, at", [("copy", 1), ("copy", 2), ("induction", 1), ("induction", 3), ("causes", 1), ("causes", 3)])
def test_interrupted_between_and_within_checkpoints(whole, counted, name, at, tmp_path):
    (series, expected), (asked, stop) = whole, counted
    stop[name] = at
    with pytest.raises(KeyboardInterrupt): measure(series, questions(), tmp_path/"tables")
    assert all(p.suffix == ".parquet" for p in tmp_path.rglob("*.*") if p.name != ".lock")
    for path in (tmp_path/"tables").glob("*.parquet"): # no checkpoint is there in part
        sizes = pd.read_parquet(path).groupby("step").size()
        assert (sizes == expected[expected.probe == path.stem].groupby("step").size()[sizes.index]).all()
    stop.clear()
    same(measure(series, questions(), tmp_path/"tables"), expected)
    assert asked["copy"] == 3 + (name == "copy")
    assert asked["causes"] == 3 + (name == "causes") # and of what was measured nothing was asked again
    before = dict(asked)
    same(measure(series, questions(), tmp_path/"tables"), expected)
    assert asked == before


@pytest.mark.promise("kills")
@pytest.mark.parametrize("at", [1, 4, 9])
def test_killed_before_a_table_is_in_its_place(whole, at, tmp_path):
    series, expected = whole
    pid = os.fork()
    if not pid:
        move, moved = os.replace, []
        def kill(*args):
            moved.append(args)
            if len(moved) == at: os.kill(os.getpid(), signal.SIGKILL)
            move(*args)
        os.replace = kill
        try: measure(series, questions(), tmp_path/"tables")
        finally: os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    left = sum(pd.read_parquet(p).step.nunique() for p in (tmp_path/"tables").glob("*.parquet"))
    assert left == at - 1 and len([*tmp_path.rglob("*.partial")]) == 1
    same(measure(series, questions(), tmp_path/"tables"), expected)
    assert not [*tmp_path.rglob("*.partial")]


def test_a_table_that_cannot_be_written_is_not_there_in_part(whole, tmp_path, monkeypatch):
    def half(file):
        os.truncate(file, 4)
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", half)
    with pytest.raises(KeyboardInterrupt): measure(whole[0], dict(copy=questions()["copy"]), tmp_path/"tables")
    assert [p.name for p in (tmp_path/"tables").iterdir()] == [".lock"]


@pytest.mark.parametrize("changes", [dict(seed=1), dict(n_samples=7), dict(every=1), dict(n_sequences=5, every=2), dict(special=(3,)), dict(suffix=3),
                                     dict(alphabet="hex"), dict(vocab_size=39), dict(tokenizer=True)], ids=str)
def test_another_copy_test_is_another_table(whole, counted, changes, tmp_path):
    (series, _), (asked, _) = whole, counted
    if "tokenizer" in changes: changes = dict(tokenizer=tokenizer([f"t{i}" for i in range(V - 1)], ("<s>",)))
    first = measure(series, dict(copy=questions()["copy"]), tmp_path/"tables", most=1)
    other = measure(series, dict(copy=questions(**changes)["copy"]), tmp_path/"tables", most=1)
    assert asked["copy"] == 2 and set(other.probe) == {"copy"} and not first.equals(other)
    for again in (questions(**changes), questions(**changes)): assert measure(series, dict(copy=again["copy"]), tmp_path/"tables", most=1).equals(other)
    assert asked["copy"] == 2
    nested = [dict(causes=questions(**c)["causes"]) for c in ({}, changes)] # also where the test is bound to another probe
    for probe in (*nested, *nested[1:]): measure(series, probe, tmp_path/"tables", most=1)
    assert asked["causes"] == 2


# ---- runs ----

@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.setenv("GROK_NB_RUNS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def copying(root): return train(study.config("smoke", **BRIEF), root, "cpu", 1)


@pytest.fixture(scope="module")
def control(root): return train(study.config("control", **BRIEF), root, "cpu", 1)


def prose(folder):
    "A text to train on, with enough held out for a row."
    words = np.random.default_rng(0).choice("red fox dog jumps over lazy blue green moon star 0123456789abcdef said and then".split(), (1500, 12))
    (folder/"prose.txt").write_text("\n".join(" ".join(line) + "." for line in words))
    return str(folder/"prose.txt")


@pytest.fixture(scope="module")
def text_run(root, tmp_path_factory): return train(study.config("text", corpus=prose(tmp_path_factory.mktemp("text")), **BRIEF | TEXT), root, "cpu", 1)


@pytest.fixture(scope="module")
def modular_run(root): return train(modular.config("smoke", **MODULAR), root, "cpu", 1)


class Stopped(Exception): pass


@pytest.mark.parametrize("at", [2, 3])
def test_stopped_and_resumed_is_the_same_run(copying, at, tmp_path, monkeypatch):
    "At a checkpoint, and between two."
    batch = language.LanguageStream.batch
    def fails(stream, step):
        if step == at: raise Stopped
        return batch(stream, step)
    with monkeypatch.context() as patch:
        patch.setattr(language.LanguageStream, "batch", fails)
        with pytest.raises(Stopped): train(copying.config, tmp_path, "cpu", 1)
    run = train(copying.config, tmp_path, "cpu", 1)
    assert len(run.sessions()) == 2 and run.steps == copying.steps
    for step in run.steps:
        ours, theirs = (load_file(r.folder(step)/"model.safetensors") for r in (run, copying))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    rows = lambda r: [(e["step"], e["tokens"], e["rows"]) for e in r.records()]
    assert rows(run) == rows(copying)


def test_a_run_on_a_text(text_run):
    table, stream = text_run.metrics(), text_run.stream
    assert set(table.probe) == {"train", "losses", "in_context", "copy", "copy_hex", "induction"} and np.isfinite(table.value).all()
    losses = table[table.probe == "losses"].pivot(index="step", columns="scored", values="value")
    assert set(losses) == {"all", "copyable", "other"} and (losses.min(axis=1) < losses["all"]).all() and (losses["all"] < losses.max(axis=1)).all()
    assert losses.loc[6, "all"] < losses.loc[0, "all"]
    ids, copyable = language.evaluation_rows(stream)
    assert ids.shape[1] == 64 and 0 < copyable.mean() < 1 and not copyable[:, :2].any()
    for alphabet in copy_test.alphabets:
        test = presets.copy_test(text_run.config, stream.tokenizer, alphabet)
        assert stream.corpus.end_of_text not in test.tokens and not set(stream.tokenizer.all_special_ids) & set(np.unique(test.contexts))
        assert max(test.tokens) < stream.corpus.vocab_size
    written = test.text().replace("  ", "").splitlines()
    assert all(re.fullmatch("[0-9a-f]{6}", line) for line in written[:4]) and re.fullmatch(r"[0-9a-f]{4}\?", written[4])


def test_a_text_in_padded_rows_is_refused(root, tmp_path):
    "Padding is no text: it would be the most of what is copyable."
    (tmp_path/"short.jsonl").write_text("\n".join(json.dumps(dict(text=f"fox {i} and dog {i % 7}")) for i in range(600)))
    config = lambda: study.config("text", corpus=str(tmp_path/"short.jsonl"), layout="document", **BRIEF | TEXT)
    refused(lambda: language.evaluation_rows(study.stream(config())), "layout = 'document'")


# ---- reports ----

def check_page(path, captions):
    text = without_scrubbers(path.read_text())
    assert not re.search(r"https?://|<script|<link|<iframe|url\(|@import", text)
    refers = re.findall(r'(?:src|href)="([^"]{1,40})', text)
    assert refers and all(where.startswith(("data:image/webp;base64,", "#")) for where in refers)
    figures = re.findall(r"<figure><img [^>]*><figcaption>([^<]*)</figcaption></figure>", text)
    assert len(figures) == len(captions) == text.count("<figure>")
    return re.findall("<h2>([^<]*)</h2>", text), text


SEEN = ["When", "What the loss hides", "Which sequence", "In which heads", "Does more come with it?"]
INSIDE = ["When the heads form", "Where they attend", "What is lost without them"]


def test_the_report_of_a_run_and_its_control(copying, control, tmp_path, small_pictures):
    headings, text = check_page(report.report([control, copying], tmp_path/"both.html"), small_pictures)
    assert [h for h in headings if h in SEEN] == SEEN and [h for h in headings if h in INSIDE] == INSIDE
    assert {r.run_id for r in (copying, control)} <= set(re.findall(r"copying-[\w.-]+", text))


@pytest.mark.slow
def test_the_report_of_a_text_beside_the_modular_study(text_run, modular_run, tmp_path, small_pictures, monkeypatch):
    monkeypatch.setattr(modular, "checkpoint_figures", lambda *_: []) # test_inside.py looks at these
    headings, text = check_page(report.report([modular_run, text_run], tmp_path/"two.html"), small_pictures)
    ours = headings[headings.index("How these runs were made"):] # behind the section of the other study
    assert [h for h in ours if h in SEEN] == SEEN and [h for h in ours if h in INSIDE] == INSIDE
    assert text.index(f'<h1 id="modular">{modular.question}') < text.index(f'<h1 id="copying">{study.question}')


def test_figures_of_runs_with_few_evaluations(copying, control, text_run):
    "One evaluation, two, and runs of different lengths: every figure is drawn and says something."
    tables = {name: r.metrics().assign(run=name) for name, r in dict(control=control, copying=copying, text=text_run).items()}
    for table in (tables["control"].query("step == 0"), tables["text"].query("step == 0"),
                  pd.concat([tables["control"].query("step == 0"), tables["copying"], tables["text"].query("step < 3")])):
        table = table.reset_index(drop=True)
        found = study.figures(table, {run: [] for run in table.run.unique()})
        assert [heading for heading, _, _ in found] == SEEN
        for heading, caption, fig in found:
            assert caption.strip().endswith(".") and any(ax.has_data() for ax in fig.axes), heading


def test_contradictions_are_named_exactly_where_a_claim_does_not_hold(copying, tmp_path, monkeypatch):
    verdicts = dict(zip(dict.fromkeys(study.contradictions.values()), ("not supported", "supported", "inconclusive", "not tested")*5))
    effects = {"not supported": -1, "supported": 1, "inconclusive": 0}
    def decided(name):
        def test(tables):
            if (verdict := verdicts[name]) == "not tested": raise claims.NotTested("nothing to test it on")
            middle = effects[verdict]
            return claims.Evidence(middle, (middle - .5, middle + .5), "", 10)
        return claims.Claim(name, f"Claim of {name}.", "ours", test)
    monkeypatch.setattr(study, "claims", lambda: [decided(name) for name in verdicts])
    monkeypatch.setattr(study, "figures", lambda *_: [])
    monkeypatch.setattr(study, "checkpoint_figures", lambda *_: [])
    monkeypatch.setattr(report, "describe", lambda runs: pd.DataFrame(
        [dict(run=r.run_id, study="copying", preset="demo", fidelity="demo", seed=0) for r in runs]))
    monkeypatch.setattr(type(copying), "preset", "demo")
    text = report.report([copying], tmp_path/"page.html").read_text()
    named = re.findall(r"Against the paper:</p><ul>(.*?)</ul>", text)
    assert len(named) == 1
    assert re.findall("<li>(.*?)</li>", named[0]) == [what for what, name in study.contradictions.items() if verdicts[name] == "not supported"]
    verdicts.update({name: "supported" for name in verdicts})
    assert "Against the paper" not in report.report([copying], tmp_path/"page.html").read_text()


def told(command, capsys, *typed):
    "What a command says of a mistake: one line."
    with pytest.raises(SystemExit) as ended: command([str(word) for word in typed])
    said = capsys.readouterr()
    assert ended.value.code == 2 and len(said.err.splitlines()) == 1 and said.err.startswith(f"{command.__name__}: "), said
    return said.err


@pytest.mark.parametrize("bad", ["nan", "bloom"])
def test_a_report_on_a_checkpoint_that_cannot_be_asked(copying, bad, tmp_path, capsys):
    copy = Run(shutil.copytree(copying.path, tmp_path/copying.run_id, ignore=shutil.ignore_patterns("tables")))
    if bad == "nan":
        path = copy.folder(6)/"model.safetensors"
        weights = load_file(path)
        weights["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
        save_file(weights, path, dict(format="pt"))
        write_manifest(copy.folder(6), step=6, run=copy.run_id)
    else:
        shutil.rmtree(copy.folder(6))
        commit(copy, 6, built(BloomConfig(**SIZES | dict(vocab_size=64), hidden_size=16, n_layer=2, n_head=2)), [])
    for step in (0, 2, 4): shutil.rmtree(copy.folder(step))
    capsys.readouterr()
    assert {"nan": "not finite", "bloom": "no adapter for 'bloom'"}[bad] in told(commands.grok_nb_report, capsys, copy.path, "--out", tmp_path/"page.html")
    assert not (copy.path/"tables").exists() and not (tmp_path/"page.html").exists()


# ---- options that are allowed can be run ----

@settings(max_examples=20)
@given(st.integers(2, 40), st.integers(2, 20), st.integers(0, 28), st.floats(0, 1), st.integers(1, 5), st.integers(0, 10**6))
def test_the_generated_language_keeps_the_contract(vocab_size, half, more, rate, batch_size, seed):
    low = min(2 + seed % 5, half)
    stream = language.LanguageStream(vocab_size, 2*half + seed % 2, batch_size, seed, low, min(low + more, half), rate)
    check_stream(stream, (0, 3, 10**6))
    assert stream.batch(1)["input_ids"].shape == (batch_size, stream.context) and stream.batch(1)["input_ids"].max() < vocab_size
    ids, copyable, floors = stream.evaluation
    assert ids.shape == copyable.shape and all(np.isfinite(nats).all() and nats.shape == (128, stream.context - 1) for nats in floors.values())
    assert floors["ideal observer"].mean() <= floors["bigrams alone"].mean() + .05
