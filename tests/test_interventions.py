"Forks, clamps and freezes: the same bits where nothing is changed, and nothing changed where something is held."
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, OPTConfig, Qwen3Config

from grok_nb import InputError, commands, studies, sweeps
from grok_nb.interventions import Hold, fork, held_parameters
from grok_nb.lens import ablate_heads, head_outputs, head_parameters
from grok_nb.modular.study import study
from grok_nb.runs import Run, describe, labels
from grok_nb.training import Session, train

TINY = dict(p=5, n_id=16, alpha=.8, n_shots=4, depth=2, width=16, heads=2, batch_size=16, n_eval=16, n_ood=8, attention_dropout=.1,
            optimizer="muon", lr=3e-3, muon_lr=5e-3, muon_weight_decay=.5, weight_decay=2., schedule="cosine", final_lr=.1, init_std=.3,
            steps=24, warmup_steps=4, evaluate_every=6, checkpoints=4, checkpoint_on_change=0, keep_states=99)
FILES = "model.safetensors", "training_state.safetensors"
train = partial(train, progress=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory): return tmp_path_factory.mktemp("forks")


@pytest.fixture(scope="module")
def parent(root): return train(study.config("smoke", **TINY), root)


def tensors(run, step, name=FILES[0]): return load_file(run.folder(step)/name)
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def evaluations(run): return [(r["step"], r["tokens"], r["rows"]) for r in run.records()]
def everything(folder): return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def check_same(run, other, steps):
    assert evaluations(run) == evaluations(other)
    for step in steps:
        assert all(same(tensors(run, step, name), tensors(other, step, name)) for name in FILES), step
        facts = [json.loads((r.folder(step)/"training_state.json").read_text()) | dict(seconds=0) for r in (run, other)]
        assert facts[0] == facts[1]


def session(config, root):
    "A session that has begun, in this process."
    from accelerate import Accelerator
    made = Session(Run.prepare(config, root), Accelerator(cpu=True), writes=True)
    made.begin()
    return made


# ---- forks ----

def test_a_fork_without_a_change_is_its_parent(parent):
    for at, later in ((0, [0, 6, 24]), (12, [12, 18, 24]), (18, [18, 24])): # 18: no state is lost by beginning late
        run = train(fork(parent, at))
        assert run.run_id != parent.run_id and run.changed == {} and run.steps == [s for s in parent.steps if s >= at]
        check_same(run, parent, later)
    again = train(fork(run, 18)) # of a fork
    check_same(again, parent, [18, 24])


def test_a_fork_survives_its_parent(parent, tmp_path):
    other = tmp_path/"runs"
    shutil.copytree(parent.path, other/parent.run_id)
    run = train(fork(Run(other/parent.run_id), 6, lr=1e-3))
    whole = {step: tensors(run, step) for step in run.steps}
    shutil.rmtree(other/parent.run_id)
    for step in (18, 24): shutil.rmtree(run.folder(step))
    again = train(Run(run.path).config)
    assert all(same(tensors(again, step), whole[step]) for step in whole) and run.changed == dict(lr=1e-3)
    assert evaluations(run)[:2] == evaluations(parent)[:2] and evaluations(run)[2] != evaluations(parent)[2]
    for step in run.steps: shutil.rmtree(run.folder(step))
    with pytest.raises(InputError, match="start: run"): train(Run(run.path).config)


def test_what_is_changed_takes_effect(parent, capsys):
    data = train(fork(parent, 12, n_id=12, batch_size=32))
    assert data.at(24).tokens == 12*(16 + 32)*12 and data.records()[-1]["tokens"] == data.at(24).tokens
    drop = session(fork(parent, 12, attention_dropout=.5), parent.path.parent)
    assert drop.bare.config.attention_dropout == .5 # the saved configuration does not come back with the weights
    assert "begins without" not in capsys.readouterr().err
    adamw = session(fork(parent, 12, optimizer="adamw"), parent.path.parent)
    assert capsys.readouterr().err.count("adamw begins without the state of the parent's muon") == 1
    assert same(tensors(adamw.run, 12), tensors(parent, 12)) and not adamw.optimizers[0].state
    text = json.loads((adamw.run.path/"parent.json").read_text())
    assert text["run_id"] == parent.run_id and describe([adamw.run, parent]).start.tolist() == [f"{parent.run_id}@12", ""]
    assert [*labels([adamw.run, data]).values()] == ["from 12: optimizer = adamw", "from 12: batch_size = 32, n_id = 12"]


KILLED = """
import os, signal, sys
from grok_nb.modular.tasks import ModularStream
from grok_nb.runs import Run
from grok_nb.training import train
old, at = ModularStream.batch, int(sys.argv[2])
def batch(stream, step):
    if step == at: os.kill(os.getpid(), signal.SIGKILL)
    return old(stream, step)
ModularStream.batch = batch
train(Run(sys.argv[1]).config)
"""


def test_killed_inside_a_fork(parent, tmp_path):
    "kill -9 in the middle of a step, held and released: the same bits as without."
    shutil.copytree(parent.path, tmp_path/parent.run_id)
    changes = dict(clamp="0.1=mean 1.0=step24 1.1=zero", freeze="embeddings", hold_until=20, keep_states=99)
    whole = train(fork(parent, 6, **changes))
    config = fork(Run(tmp_path/parent.run_id), 6, **changes)
    run = Run.prepare(config)
    done = subprocess.run([sys.executable, "-c", KILLED, run.path, "14"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL and run.steps == [6, 12], done.stderr
    check_same(train(config), whole, [6, 12, 18, 24])
    held = whole.at(12).model, whole.at(24).model # the one opens as it was trained, the other was let go
    hooks = [sum(len(m._forward_pre_hooks) for m in model.modules()) for model in held]
    assert hooks[0] and not hooks[1]


# ---- what is held ----

def moved(run, steps):
    "The parameters that are not the same at all of these steps."
    first, *others = (run.at(step).model.state_dict() for step in steps)
    return {name for name in first if any(not torch.equal(first[name], o[name]) for o in others)}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("words", ["embeddings", "0", "0.1", "1.0 0"])
def test_what_is_frozen_stays_to_the_bit(root, optimizer, words):
    "Decay and momentum are on, and Muon mixes what is in a matrix; beside a frozen slice everything learns."
    run = train(study.config("smoke", **TINY | dict(optimizer=optimizer, freeze=words, evaluate_every=24)), root)
    models = [run.at(step).model for step in run.steps]
    held = [held_parameters(run.config, model) for model in models]
    for (p, place), *later in zip(*held):
        for q, _ in later:
            assert torch.equal(p[place], q[place])
            if place is not ...: assert not torch.equal(p, q)
    whole = {name for name, p in models[0].named_parameters() if any(p is q and place is ... for q, place in held[0])}
    assert moved(run, run.steps) == {*models[0].state_dict()} - whole - ({"lm_head.weight"} if words == "embeddings" else set())


def test_to_freeze_is_to_have_no_gradient(root):
    "Whole parameters, against torch's own `requires_grad`: everything else takes the same steps, to the bit."
    options = TINY | dict(optimizer="adamw", steps=25)
    frozen, plain = session(study.config("smoke", **options, freeze="embeddings 0"), root), session(study.config("smoke", **options), root)
    for p, _ in held_parameters(frozen.run.config, plain.bare): p.requires_grad_(False)
    for _ in range(5):
        for s in (frozen, plain): torch.manual_seed(s.step); s.update()
    assert same(frozen.bare.state_dict(), plain.bare.state_dict())


def backward(s):
    "The gradients of a step, before anything is cleared."
    part = next(iter([s.run.batch(s.step) | dict(weight=1.)]))
    part.pop("weight")
    s.loss_of(part).backward()
    return part


@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_a_clamp_is_the_ablation_of_the_lens(parent, mode):
    s = session(fork(parent, 12, clamp=f"0.1={mode} 1.0={mode}"), parent.path.parent)
    batch, plain = s.run.batch(12), parent.at(12).model
    ids = torch.from_numpy(parent.batch(3)["input_ids"])
    over = batch["input_ids"] if mode == "mean" else None
    for model in (s.bare.eval(), s.run.at(12).model):
        with torch.no_grad(), ablate_heads(plain, [(0, 1), (1, 0)], mode, over):
            assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert not torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    backward(s)
    for layer, head in ((0, 1), (1, 0)):
        *into, (out, columns) = head_parameters(s.bare, layer, head)
        assert all(not p.grad[place].any() for p, place in into) and all(p.grad.any() for p, _ in into)
        if mode == "zero": assert not out.grad[columns].any() # of a mean, the output would learn: it is what is held, too
    s.optimizers[0].zero_grad()
    before = [[p[place].clone() for p, place in head_parameters(s.bare, *head)] for head in ((0, 1), (1, 0))]
    for _ in range(4): s.update()
    after = [[p[place] for p, place in head_parameters(s.bare, *head)] for head in ((0, 1), (1, 0))]
    assert all(torch.equal(a, b) for old, new in zip(before, after) for a, b in zip(old, new))


def test_a_head_of_another_checkpoint(parent):
    run = train(fork(parent, 0, clamp="1.0=step24", hold_until=18))
    its = [p[place] for p, place in head_parameters(parent.at(24).model, 1, 0)]
    for step in run.steps:
        mine = [p[place] for p, place in head_parameters(run.at(step).model, 1, 0)]
        assert all(torch.equal(a, b) for a, b in zip(mine, its)) == (step <= 18)


def test_a_mean_is_read_again_and_missed(parent):
    run = train(fork(parent, 12, clamp="0.0=mean"))
    ids = torch.from_numpy(run.batch(12)["input_ids"])
    before = run.at(24).model(input_ids=ids).logits
    assert torch.equal(before, Run(run.path).at(24).model(input_ids=ids).logits)
    (run.path/"clamp.safetensors").write_bytes(b"{}")
    with pytest.raises(InputError, match="clamp.safetensors cannot be read"): run.at(24).model


SIZES = dict(vocab_size=13, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=24)
FAMILIES = dict(
    llama=LlamaConfig(**SIZES, attention_bias=True, head_dim=12), qwen3=Qwen3Config(**SIZES, num_key_value_heads=4), neox=GPTNeoXConfig(**SIZES),
    gpt2=GPT2Config(vocab_size=13, n_embd=32, n_layer=2, n_head=4, n_positions=24),
    opt=OPTConfig(vocab_size=13, hidden_size=32, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=24, word_embed_proj_dim=32))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_heads_own_parameters(family):
    "Changed, they change what this head writes and no other; together the heads have all of the projections."
    torch.manual_seed(0)
    model, ids = AutoModelForCausalLM.from_config(FAMILIES[family]).eval(), torch.arange(12).view(2, 6)
    before = head_outputs(model, ids, layers=[1])[0]
    with torch.no_grad():
        for p, place in head_parameters(model, -1, 2): p[place] += torch.randn(p[place].shape)
    differs = (head_outputs(model, ids, layers=[1])[0] != before).flatten(0, 1).any(-1).all(0)
    assert differs.tolist() == [False, False, True, False]
    seen = {}
    for head in range(4):
        for p, place in head_parameters(model, 1, head): seen.setdefault(p, torch.zeros_like(p))[place] += 1
    assert all((count == 1).all() for count in seen.values()) and len(seen) >= 2


def test_words_of_an_untied_model():
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"])
    found = held_parameters(study.config("smoke", freeze="embeddings unembedding 1"), model)
    assert found[0][0] is model.model.embed_tokens.weight and found[1][0] is model.lm_head.weight
    assert [id(p) for p, _ in found[2:]] == [id(p) for p in model.model.layers[1].parameters()]
    grouped = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, num_key_value_heads=2))
    with pytest.raises(InputError, match="clamp 0.1: head: the heads of this model share keys and values"):
        held_parameters(study.config("smoke", clamp="0.1=zero"), grouped)


# ---- identity ----

def test_no_run_has_another_name(parent):
    "What is not set is no part of a name; words in another order are the same."
    ids = [c.run_id for c in studies["modular"].presets.values()] + [studies[s].presets["smoke"].run_id for s in ("copying", "grammar")]
    assert hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16] == "c162d8843e33518b"
    one, other = (study.config("smoke", clamp=c, freeze=f) for c, f in (("1.2=mean 0.1=zero", "2 embeddings"), ("00.1=zero,1.2=mean", "embeddings  02")))
    assert one == other and one.run_id == other.run_id and one.identity["clamp"] == "0.1=zero 1.2=mean"
    assert "hold_until" not in one.identity and Run(parent.path).config.options()["start"] == ""


# ---- a sweep ----

def test_the_step_of_a_fork_is_an_axis(parent, capsys):
    fixed, root = {k: v for k, v in TINY.items() if k != "keep_states"} | dict(keep_states=99), parent.path.parent
    table = sweeps.sweep("modular", "smoke", dict(at=["6", 12], lr=[1e-3, 3e-3]), [0], "serial", root, fixed=fixed, progress=False)
    assert table["at"].tolist() == [6, 6, 12, 12] and set(table.state) == {"finished"}
    same_rate = Run(root/table.run[table.lr == 3e-3].iloc[-1])
    check_same(same_rate, parent, [24])
    before = everything(root)
    with pytest.raises(InputError, match="grid: modular-.*, to be forked at step 6, is not in .*; train it first"):
        sweeps.sweep("modular", "smoke", dict(at=[6]), [0, 1], "serial", root, fixed=fixed)
    with pytest.raises(InputError, match="start = .*@7: step 7: no checkpoint there; the nearest are 0, 6, 12"):
        sweeps.sweep("modular", "smoke", dict(at=[6, 7]), [0], "serial", root, fixed=fixed)
    assert everything(root) == before


# ---- mistakes ----

def test_mistakes_are_told_before_anything_is_written(parent, capsys):
    lost = train(study.config("smoke", **TINY | dict(seed=1, keep_states=1)), parent.path.parent)
    before, id_ = everything(parent.path.parent), parent.run_id
    wrong = {
        (f"{id_}@7", "lr=1e-4"): "step 7: no checkpoint there; the nearest are 0, 6, 12",
        (f"{lost.run_id}@6", "lr=1e-4"): "has no optimiser state to go on with; the nearest that has one is 24",
        ("nothing@6", "lr=1e-4"): "run 'nothing' is unknown", (f"{id_}@24", "lr=1e-4"): "must be before the last step; give steps, more than 24",
        (id_, "lr=1e-4"): "write RUN@STEP", (f"{id_}@-6", "lr=1e-4"): "write RUN@STEP", (f"{id_}@6", "start=x@3"): "--from says it",
        (f"{id_}@6", "width=32"): "the changed options make model.embed_tokens.weight (5, 32), the checkpoint has (5, 16)",
        (f"{id_}@6", "depth=1"): "the checkpoint has", (f"{id_}@6", "depth=3"): "the checkpoint has nothing", (f"{id_}@6", "heads=4"): "make heads 4, the checkpoint has 2",
        (f"{id_}@6", "p=7"): "the changed options make", (f"{id_}@6", "clamp=2.0=zero"): "clamp 2.0: layer = 2: must be from -2 to 1",
        (f"{id_}@6", "clamp=0.2=zero"): "clamp 0.2: head = 2: must be from -2 to 1", (f"{id_}@6", "freeze=5"): "freeze 5: layer = 5",
        (f"{id_}@6", "clamp=0.1=step7"): "clamp 0.1=step7: step 7: no checkpoint there", (f"{id_}@6", "clamp=0.1=half"): "is not understood; write layer.head=mode",
        (f"{id_}@6", "clamp=0.1=zero 0.1=mean"): "0.1 is named twice", (f"{id_}@6", "freeze=all"): "'all' is not understood",
        (f"{id_}@6", "clamp=0.1=zero", "freeze=0"): "clamp 0.1: freeze holds 0 already", (f"{id_}@6", "hold_until=9"): "there is nothing to hold",
        (f"{id_}@6", "freeze=0", "hold_until=6"): "must be from 7, after the beginning, to steps = 24"}
    for (start, *changes), says in wrong.items():
        with pytest.raises(SystemExit) as stopped: commands.grok_nb_train(["--from", start, "--runs", str(parent.path.parent), "--set", *changes])
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and says in said and len(said.splitlines()) == 1, (start, changes, said)
    for also in (["modular"], ["--preset", "demo"], ["--config", str(parent.path)]):
        with pytest.raises(SystemExit) as stopped: commands.grok_nb_train([*also, "--from", f"{id_}@6", "--runs", str(parent.path.parent)])
        assert stopped.value.code == 2 and "--from: holds everything that" in capsys.readouterr().err
    assert everything(parent.path.parent) == before


def test_from_the_command_line(parent, capsys):
    commands.grok_nb_train(["--from", f"{parent.run_id}@18", "--runs", str(parent.path.parent), "--set", "clamp=0.1=zero"])
    said = capsys.readouterr().out
    run = Run(parent.path.parent/said.split(":")[0])
    assert run.finished and run.changed == dict(clamp="0.1=zero") and run.config.start == f"{parent.run_id}@18"


def test_nothing_is_held_where_nothing_is_asked_for(parent):
    hold = Hold(parent, parent.at(24).model, 24, begins=False)
    assert not hold.kept and not hold.hooks
