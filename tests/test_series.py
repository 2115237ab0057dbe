"Series that are not ours: a hub of our own over HTTP, its cache without a network, folders; what they hold, what is refused, and what is found."
import hashlib
import json
import os
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PATIENCE
from huggingface_hub import constants, file_download
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models as token_models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedTokenizerFast

from grok_nb import InputError, RunError
from grok_nb.commands import grok_nb_measure, in_bytes
from grok_nb.copying.study import study as copying
from grok_nb.probes import measure
from grok_nb.series import Other, Series, choose, step_of, verify
from grok_nb.training import train

WORDS = "the a this these dog dogs cat cats runs run sees see big old park in and".split()
SIZES = dict(vocab_size=len(WORDS) + 2, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, max_position_embeddings=64,
             bos_token_id=0, eos_token_id=0)
CONFIGS = dict(neox=GPTNeoXConfig(**SIZES), llama=LlamaConfig(**SIZES))
STEPS = (0, 1, 2, 4, 8, 16, 32, 64)


def tokenizer():
    made = Tokenizer(token_models.WordLevel({w: i for i, w in enumerate(["<end>", "<unk>", *WORDS])}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<end>", eos_token="<end>", unk_token="<unk>")


def training(config, folder, steps=STEPS):
    "A folder for each step, its weights a little further each time."
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for step in steps:
        model.save_pretrained(folder/f"step{step}")
        tokenizer().save_pretrained(folder/f"step{step}")
        with torch.no_grad():
            for p in model.parameters(): p += .05*torch.randn_like(p)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "Architecture → folder of checkpoints, in order and all different; not to be changed."
    return {name: training(config, tmp_path_factory.mktemp(name)) for name, config in CONFIGS.items()}


def refused(ask, *says, kind=InputError):
    with pytest.raises(kind) as error: ask()
    assert len(str(error.value).splitlines()) == 1
    for part in says: assert re.search(part, str(error.value)), (part, str(error.value))


def told(capsys, *typed):
    "What the command says of a mistake: one line."
    with pytest.raises(SystemExit) as ended: grok_nb_measure([str(word) for word in typed])
    said = capsys.readouterr()
    assert ended.value.code == 2 and not said.out and len(said.err.splitlines()) == 1 and said.err.startswith("grok_nb_measure: "), said
    return said.err


def told_later(capsys, *typed):
    with pytest.raises(SystemExit) as ended: grok_nb_measure([str(word) for word in typed])
    assert ended.value.code == 2
    return capsys.readouterr().err


def commit_of(folder): return hashlib.sha1(str(folder).encode()).hexdigest()


def files_in(*roots): return sorted(str(p) for root in roots for p in Path(root).rglob("*") if p.is_file())


# ---- a hub ----

class FakeHub:
    "What the hub's library asks for: refs, trees, files. `fetched`: weights that were served; `held`: called before each."
    def __init__(self):
        self.repos, self.fetched, self.held, self.down = {}, [], lambda: None, False
        hub = self
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self): hub.answer(self, False)
            def do_GET(self): hub.answer(self, True)
            def log_message(self, *_): pass
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None # who asks may hang up
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, repo, **revisions): self.repos[repo] = revisions # name → folder

    def answer(self, request, body):
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]: return self.api(request, "/".join(parts[2:4]), parts[4:])
        folder = self.at("/".join(parts[:2]), parts[3])
        if folder is None or not (path := folder/"/".join(parts[4:])).is_file(): return self.send(request, 404, b"{}")
        if body and path.suffix == ".safetensors": self.fetched.append(folder.name); self.held()
        self.send(request, 200, path.read_bytes(), body, {"X-Repo-Commit": parts[3], "ETag": f'"{hashlib.sha1(path.read_bytes()).hexdigest()}"'})

    def api(self, request, repo, rest):
        if self.down: return self.send(request, 403, b"{}")
        if repo not in self.repos: return self.send(request, 404, b"{}", headers={"X-Error-Code": "RepoNotFound"})
        if rest == ["refs"]:
            refs = [dict(name=name, ref=f"refs/heads/{name}", targetCommit=commit_of(folder)) for name, folder in self.repos[repo].items()]
            return self.send(request, 200, json.dumps(dict(branches=refs[:1], converts=[], tags=refs[1:])).encode())
        folder = self.at(repo, rest[1])
        if folder is None: return self.send(request, 404, b"{}", headers={"X-Error-Code": "RevisionNotFound"})
        self.send(request, 200, json.dumps([dict(type="file", path=p.name, size=p.stat().st_size, oid=hashlib.sha1(p.read_bytes()).hexdigest())
                                            for p in sorted(folder.iterdir())]).encode())

    def at(self, repo, commit): return next((f for f in self.repos.get(repo, {}).values() if commit_of(f) == commit), None)

    def send(self, request, status, content, body=True, headers=None):
        request.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items(): request.send_header(name, value)
        request.end_headers()
        if body: request.wfile.write(content)


@pytest.fixture
def hub(monkeypatch, tmp_path, runs_root):
    "A hub on this machine, with an empty cache."
    made = FakeHub()
    for wait in ("DOWNLOAD", "ETAG"): monkeypatch.setattr(constants, f"HF_HUB_{wait}_TIMEOUT", PATIENCE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path/"cache"))
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}", raising=False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
    yield made
    made.server.shutdown()


@pytest.fixture
def cache(monkeypatch, tmp_path, runs_root):
    "The hub's cache, without a network."
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path/"cache"))
    return tmp_path/"cache"


def to_cache(cache, repo, revision, folder, whole=True):
    "As the hub's library lays it out: blobs, links to them, refs."
    at = cache/f"models--{repo.replace('/', '--')}"
    snapshot = at/"snapshots"/commit_of(folder)
    for path in folder.iterdir():
        if not whole and path.suffix == ".safetensors": continue
        blob = at/"blobs"/hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot/path.name).symlink_to(os.path.relpath(blob, snapshot))
    (at/"refs").mkdir(exist_ok=True)
    (at/"refs"/revision).write_text(snapshot.name)


def small(**_):
    "A probe that costs nothing."
    def norm(model, context=None): return [dict(metric="norm", value=float(model.get_input_embeddings().weight.norm()))]
    return dict(norm=norm)


def size_of(folder): return sum(p.stat().st_size for p in folder.iterdir())
def kept(repo): return Path(os.environ["GROK_NB_RUNS"])/"series"/repo.replace("/", "--")/"checkpoints"


def test_revisions_are_fetched_one_at_a_time_within_the_budget(hub, trained, tmp_path):
    hub.put("toys/neox", main=trained["neox"]/"step64", **{f"step{s}": trained["neox"]/f"step{s}" for s in STEPS})
    one, seen = size_of(trained["neox"]/"step0"), []
    hub.held = lambda: seen.append(sum(p.stat().st_size for p in kept("toys/neox").rglob("*.safetensors")))
    series = Series("toys/neox", max_disk=int(2.5*one))
    assert series.steps == list(STEPS) and not hub.fetched and not kept("toys/neox").exists() # nothing before it is asked for
    table = measure(series, small())
    assert hub.fetched == [f"step{s}" for s in STEPS] and table.step.tolist() == list(STEPS)
    assert max(seen) <= 1.5*one # beside the one that comes
    left = sorted(p.name.split("-")[0] for p in kept("toys/neox").iterdir())
    assert left == ["step32", "step64"] and not (tmp_path/"cache").exists()
    expected = measure(trained["neox"], small(), duplicates=True)
    assert np.allclose(table.value, expected.value)
    assert measure(series, small()).equals(table) and len(hub.fetched) == len(STEPS) # what is measured is not fetched again
    measure(series, dict(other=small()["norm"]), most=2) # what is on the disk neither
    assert hub.fetched[len(STEPS):] == ["step0"]


def test_what_the_cache_holds_is_used_there_and_stays(hub, trained, tmp_path):
    hub.put("toys/neox", **{f"step{s}": trained["neox"]/f"step{s}" for s in (0, 1, 2)})
    to_cache(tmp_path/"cache", "toys/neox", "step1", trained["neox"]/"step1")
    to_cache(tmp_path/"cache", "toys/neox", "step2", trained["neox"]/"step2", whole=False)
    before = files_in(tmp_path/"cache")
    measure(Series("toys/neox", max_disk=int(1.2*size_of(trained["neox"]/"step0"))), small())
    assert hub.fetched == ["step0", "step2"] and files_in(tmp_path/"cache") == before


def test_it_goes_on_where_it_was_stopped(hub, trained):
    hub.put("toys/neox", **{f"step{s}": trained["neox"]/f"step{s}" for s in STEPS})
    norm = small()["norm"]
    def stopping(model, context):
        if context.step == stop: raise KeyboardInterrupt
        return norm(model)
    series, stop = Series("toys/neox"), 8
    with pytest.raises(KeyboardInterrupt): measure(series, dict(norm=stopping))
    fetched, stop = list(hub.fetched), None
    assert fetched == [f"step{s}" for s in STEPS[:5]]
    assert measure(Series("toys/neox"), dict(norm=stopping)).step.tolist() == list(STEPS)
    assert hub.fetched == [f"step{s}" for s in STEPS] # step8 lay there already


def test_what_was_fetched_serves_without_a_network(hub, trained, monkeypatch):
    hub.put("toys/neox", **{f"step{s}": trained["neox"]/f"step{s}" for s in STEPS})
    measure(Series("toys/neox", revisions="step0,step4,step64"), small())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.down = True
    later = Series("toys/neox")
    assert later.steps == [0, 4, 64] and measure(later, dict(other=small()["norm"])).step.tolist() == [0, 4, 64] and len(hub.fetched) == 3


def test_only_what_is_needed_is_fetched(hub, trained, tmp_path):
    "Of a sharded model with other weights and code beside it."
    folder = tmp_path/"step3"
    model = Other(trained["llama"]/"step0", 0).model
    model.save_pretrained(folder, max_shard_size="5KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    shutil.copy(trained["llama"]/"step1"/"model.safetensors", folder/"consolidated.safetensors")
    for name in ("modeling.py", "pytorch_model.bin", "rust_model.ot"): (folder/name).write_text("raise SystemExit")
    hub.put("toys/sharded", step3=folder)
    series = Series("toys/sharded")
    assert float(measure(series, small()).value.iloc[0]) == float(model.get_input_embeddings().weight.detach().norm())
    fetched = {p.name for p in series.checkpoints[0].path.iterdir()}
    assert fetched == {p.name for p in folder.iterdir()} - {"modeling.py", "pytorch_model.bin", "rust_model.ot", "consolidated.safetensors"}
    assert verify(series).attrs["summary"] == "1 distinct of 1"
    (tmp_path/"cut").mkdir()
    for p in sorted(folder.iterdir()):
        if not p.name.startswith("model-00002"): shutil.copy(p, tmp_path/"cut")
    refused(lambda: Other(tmp_path/"cut", 0).model, "cut: .* names model-00002-of-00004.safetensors, which is not there")


def test_a_network_that_fails_half_way(hub, trained):
    hub.put("toys/neox", **{f"step{s}": trained["neox"]/f"step{s}" for s in (0, 1, 2)})
    series, norm = Series("toys/neox"), small()["norm"]
    def failing(model, context):
        hub.down = context.step == 0
        return norm(model)
    refused(lambda: measure(series, dict(norm=failing)), "toys/neox, step1: .*; run it again to go on", kind=RunError)
    hub.down = False
    assert measure(Series("toys/neox"), dict(norm=failing)).step.tolist() == [0, 1, 2] and hub.fetched == ["step0", "step1", "step2"]


@pytest.mark.promise("foreign code")
def test_pickles_are_refused_from_the_list_of_files(hub, trained, tmp_path, capsys):
    pickled = tmp_path/"pickled"
    shutil.copytree(trained["neox"]/"step0", pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    (pickled/"pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    hub.put("toys/pickle", step0=pickled)
    assert "toys/pickle, step0: has no safetensors weights, only pytorch_model.bin" in told(capsys, "toys/pickle", "--study", "copying")
    hub.put("toys/mixed", step0=pickled, step1=trained["neox"]/"step1")
    refused(lambda: measure(Series("toys/mixed"), small()), "toys/mixed, step0: has no safetensors")
    assert not hub.fetched


@pytest.mark.parametrize("typed, says", [
    (["toys/neox", "--max-disk", "10KB"], r"max_disk = 10 kB: toys/neox, step2 alone takes [\d.]+ kB"),
    (["toys/neox", "--revisions", "step3"], "toys/neox has no 'step3'; it has step0, step1, step2"),
    (["toys/neox", "--revisions", "ckpt*"], "toys/neox has no 'ckpt"),
    (["toys/neox", "--revisions", "step0,step7"], "no 'step7'"),
    (["toys/neox", "--revisions", "step100:step200"], "no 'step100:step200'"),
    (["toys/none"], "toys/none: no such folder, the hub has no such model"),
    (["toys/neox", "--pairs", "x.parquet"], "does not read it"),
    (["toys/neox", "--most", "-2"], "must be at least 1"),
    (["toys/neox", "--spacing", "lin"], "did you mean 'linear'"),
    (["toys/neox", "--max-disk", "-5"], "must be a size|expected one argument"),
    (["toys/neox", "--device", "tpu"], "Allowed: cpu, cuda, mps"),
    (["toys/neox", "--corpus", "no/such/file.txt"], "no/such/file.txt"),
    (["no/such/folder"], "is no folder"),
    (["toys/neox", "--out", __file__], "is a file; name a folder")])
def test_bad_input_of_the_command(hub, trained, typed, says, capsys):
    hub.put("toys/neox", **{f"step{s}": trained["neox"]/f"step{s}" for s in (0, 1, 2)})
    assert re.search(says, told(capsys, *typed, "--study", "copying"))
    assert not hub.fetched and not files_in(os.environ["GROK_NB_RUNS"])


@pytest.mark.parametrize("study, says", [("", "--study is not given; allowed: copying, grammar"), ("copyin", "did you mean 'copying'"),
                                         ("modular", "it needs the data that its own runs are trained on"), ("grammar", "pairs are not given")])
def test_a_study_that_cannot_ask(hub, study, says, capsys):
    assert says in told(capsys, "toys/neox", *(["--study", study] if study else []))
    assert not files_in(os.environ["GROK_NB_RUNS"])


# ---- the cache alone ----

@pytest.mark.parametrize("name", CONFIGS)
def test_the_cache_without_a_network(cache, trained, name):
    for s in (0, 1, 2): to_cache(cache, f"toys/{name}", f"step{s}", trained[name]/f"step{s}")
    to_cache(cache, f"toys/{name}", "step4", trained[name]/"step4", whole=False) # was stopped
    series, before = Series(f"toys/{name}"), files_in(cache)
    assert series.steps == [0, 1, 2] and verify(series).attrs == dict(summary="3 distinct of 3", remarks=[])
    table = measure(series, copying.foreign_probes(samples=5))
    assert set(table.probe) == {"tokens", "copy", "induction"} and table.step.unique().tolist() == [0, 1, 2] and np.isfinite(table.value).all()
    assert files_in(cache) == before and not kept(f"toys/{name}").exists()
    refused(lambda: Series(f"toys/{name}", revisions="step4"), "no 'step4'")
    shutil.rmtree(cache)
    refused(lambda: measure(series, small()), "not in the cache any more")
    refused(lambda: Series(f"toys/{name}"), "HF_HUB_OFFLINE is set, and the cache holds no whole revision")


@pytest.mark.promise("foreign code")
def test_a_cached_pickle_is_refused(cache, trained, tmp_path):
    shutil.copytree(trained["neox"]/"step0", tmp_path/"pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path/"pickled"/"pytorch_model.bin").write_bytes(b"")
    to_cache(cache, "toys/pickle", "step0", tmp_path/"pickled")
    refused(lambda: Series("toys/pickle"), "only pytorch_model.bin")


# ---- what is opened ----

def test_no_code_is_run_and_nothing_is_made_up(trained, tmp_path):
    folder = Path(shutil.copytree(trained["neox"]/"step0", tmp_path/"step0"))
    (folder/"modeling.py").write_text(f"open({str(tmp_path/'ran')!r}, 'w')")
    config = json.loads((folder/"config.json").read_text())
    for kind in ("toy", "gpt_neox"):
        (folder/"config.json").write_text(json.dumps(config | dict(model_type=kind, auto_map=dict(AutoModelForCausalLM="modeling.Toy"))))
        if kind == "toy": refused(lambda: Other(folder, 0).model, "needs code of its own, which is never run")
        else: assert Other(folder, 0).model.config.model_type == "gpt_neox" # transformers' own
    (folder/"config.json").write_text(json.dumps(config | dict(_attn_implementation="kernels/x")))
    refused(lambda: Other(folder, 0).model, "code of the hub, kernels/x")
    (folder/"config.json").write_text(json.dumps(config))
    weights = load_file(folder/"model.safetensors")
    del weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
    save_file(weights, folder/"model.safetensors", dict(format="pt"))
    refused(lambda: Other(folder, 0).model, "1 tensors are missing, such as .*dense_h_to_4h")
    (folder/"model.safetensors").write_bytes(b"not weights at all")
    refused(lambda: Other(folder, 0).model, "step0: ")
    assert not (tmp_path/"ran").exists()


# ---- verify ----

def test_an_index_names_files_of_its_own_folder(trained, tmp_path):
    "What is loaded is what is hashed: not a file elsewhere while another one lies beside the index."
    folder = Path(shutil.copytree(trained["neox"]/"step0", tmp_path/"models"/"step0"))
    (folder/"model.safetensors").rename(tmp_path/"x.safetensors")
    names = load_file(tmp_path/"x.safetensors")
    shutil.copy(trained["neox"]/"step1"/"model.safetensors", folder/"model-00001-of-00001.safetensors")
    def point(to): (folder/"model.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=dict.fromkeys(names, to))))
    for outside in ("../../x.safetensors", str(tmp_path/"x.safetensors"), "..", "a/../x.safetensors", 3):
        point(outside)
        for use in (lambda: Other(folder, 0).model, lambda: verify(Series([folder]))): refused(use, "index.json names .*so it is not opened")
    (folder/"model.safetensors.index.json").write_text("[]")
    refused(lambda: Other(folder, 0).model, "index.json cannot be read")
    shutil.copy(tmp_path/"x.safetensors", folder/"other.safetensors")
    point("other.safetensors") # no usual name, but in the folder: it is loaded, and hashed
    assert verify(Series([folder])).hash[0] == verify(Series([trained["neox"]/"step0"])).hash[0]


def test_a_training_in_order_has_no_remarks(trained):
    for folder in trained.values(): assert verify(Series(folder)).attrs == dict(summary="8 distinct of 8", remarks=[])


@pytest.mark.parametrize("wrong, right", [(0, 64), (1, 64), (2, 64), (16, 64), (1, 32), (32, 2)])
def test_duplicates_are_found_where_they_do_not_belong(trained, wrong, right, tmp_path):
    folder = Path(shutil.copytree(trained["llama"], tmp_path/"llama"))
    shutil.rmtree(folder/f"step{wrong}")
    shutil.copytree(folder/f"step{right}", folder/f"step{wrong}")
    found = verify(Series(folder))
    assert found.attrs == dict(summary="7 distinct of 8", remarks=[f"step {wrong} has the weights of step {right}"])
    table = measure(folder, small(), tmp_path/"tables", duplicates=False)
    assert table.step.tolist() == [s for s in STEPS if s != wrong]
    assert measure(folder, small(), tmp_path/"tables").step.tolist() == list(STEPS)


@pytest.mark.parametrize("wrong, near", [(0, 64), (1, 64), (4, 64), (64, 0)])
def test_weights_from_elsewhere_are_out_of_order(trained, wrong, near, tmp_path):
    folder = Path(shutil.copytree(trained["neox"], tmp_path/"neox"))
    weights = {k: v + .005*torch.randn_like(v) for k, v in load_file(folder/f"step{near}"/"model.safetensors").items()}
    save_file(weights, folder/f"step{wrong}"/"model.safetensors", dict(format="pt"))
    found = verify(Series(folder))
    assert found.attrs["summary"] == "8 distinct of 8" and found.nearer_to.dropna().tolist() == [near], found.attrs
    assert found.step[found.nearer_to.notna()].tolist() == [wrong]


def test_checkpoints_without_any_order_are_not_blamed(tmp_path):
    for step in STEPS:
        torch.manual_seed(step)
        AutoModelForCausalLM.from_config(CONFIGS["llama"]).save_pretrained(tmp_path/"random"/f"step{step}")
    assert verify(Series(tmp_path/"random")).attrs["remarks"] == []


def test_one_loud_tensor_does_not_hide_what_is_out_of_order(trained, tmp_path):
    folder = Path(shutil.copytree(trained["neox"], tmp_path/"neox"))
    for step in STEPS:
        weights = load_file(folder/f"step{4 if step == 32 else step}"/"model.safetensors")
        noise = torch.randn(weights["embed_out.weight"].shape, generator=torch.Generator().manual_seed(step))
        save_file(weights | {"embed_out.weight": 1000*noise}, folder/f"step{step}"/"model.safetensors", dict(format="pt"))
    assert verify(Series(folder)).attrs["remarks"] == ["step 32 is out of order: its weights lie near those of step 4",
                                                       "step 32 is a mixture: 27 of its 28 tensors are those of step 4"]


def test_a_diverged_checkpoint_and_another_architecture_can_be_verified(trained, tmp_path):
    folder = Path(shutil.copytree(trained["neox"], tmp_path/"neox"))
    weights = {k: torch.full_like(v, torch.nan) for k, v in load_file(folder/"step64"/"model.safetensors").items()}
    save_file(weights, folder/"step64"/"model.safetensors", dict(format="pt"))
    assert verify(Series(folder)).attrs == dict(summary="8 distinct of 8", remarks=[])
    shutil.copytree(trained["llama"]/"step8", folder/"step128")
    assert verify(Series(folder)).attrs == dict(summary="9 distinct of 9", remarks=[])


@pytest.mark.parametrize("steps", [(0,), (0, 1)])
def test_series_too_short_to_compare(trained, steps):
    found = verify(Series([trained["neox"]/f"step{s}" for s in steps]))
    assert found.attrs == dict(summary=f"{len(steps)} distinct of {len(steps)}", remarks=[])


def test_a_series_of_one_checkpoint_again_and_again(trained, tmp_path):
    for step in (1, 2, 3): shutil.copytree(trained["neox"]/"step0", tmp_path/"same"/f"step{step}")
    assert verify(Series(tmp_path/"same")).attrs["summary"] == "1 distinct of 3"
    assert measure(tmp_path/"same", small(), duplicates=False).step.tolist() == [1]
    assert verify(line({s: float(s) for s in range(0, 80, 10)} | {80: 100., 90: 100.01, 100: 100.})).set_index("step").duplicate_of.dropna().to_dict() == {80: 100}


def line(times, names="ab", n=8):
    "A table of weights that drift along a line: step → how far. What is equally far has the same hash."
    return pd.DataFrame([dict(step=s, tensor=name, hash=f"{name}{t}", place=p, metric="weight", value=t*(p + 1.))
                         for s, t in times.items() for name in names for p in range(n)])


@pytest.mark.promise("damage")
def test_copies_are_no_witnesses_for_each_other():
    "The final weights under five early names, four of them a little changed: the final step stays."
    times = {s: float(s) for s in range(0, 101, 10)} | dict.fromkeys((0, 10, 20, 40), 100.01) | dict.fromkeys((30, 50), 100.)
    found = verify(line(times)).set_index("step")
    assert found.duplicate_of.dropna().to_dict() == {10: 0, 20: 0, 40: 0, 30: 100, 50: 100}
    assert found.nearer_to.dropna().to_dict() == {0: 100} and len(found.attrs["remarks"]) == 6
    times |= {s: 100.01 + s/1000 for s in (0, 10, 20, 40)} # each of the four changed in its own way
    found = verify(line(times)).set_index("step")
    assert found.duplicate_of.dropna().to_dict() == {30: 100, 50: 100}


@pytest.mark.promise("damage")
@pytest.mark.parametrize("wrong, right", [(s, o) for s in range(0, 101, 10) for o in range(0, 101, 10) if abs(s - o) > 10])
@pytest.mark.parametrize("time", [float, np.sqrt])
def test_the_true_one_of_two(wrong, right, time):
    times = {s: float(time(s)) for s in range(0, 101, 10)}
    times[wrong] = times[right]
    found = verify(line(times)).set_index("step")
    assert found.duplicate_of.dropna().to_dict() == {wrong: right} and found.attrs["remarks"] == [f"step {wrong} has the weights of step {right}"]


def test_a_first_step_that_changes_nothing():
    "A learning rate of 0 at the first step: the initial checkpoint stays."
    times = {0: 0., 1: 0., **{2**i: 2.**i for i in range(1, 8)}}
    assert verify(line(times)).set_index("step").duplicate_of.dropna().to_dict() == {1: 0}
    assert verify(line(times | {64: 128.})).set_index("step").duplicate_of.dropna().to_dict() == {1: 0, 64: 128} # at the end the final one stays
    assert verify(line(times | {32: 16.})).set_index("step").duplicate_of.dropna().to_dict() == {1: 0, 32: 16}
    assert verify(line(times | {16: 0.})).set_index("step").duplicate_of.dropna().to_dict() == {1: 0, 16: 0}
    assert verify(line(times | {2: 128.})).set_index("step").duplicate_of.dropna().to_dict() == {1: 0, 2: 128}


def mixed(parts, steps=range(0, 101, 10), frozen=""):
    "A line of 28 tensors, and step → (step, how many of that one's tensors it has). `frozen`: those that never move."
    rows = line({s: float(s) for s in steps}, [f"t{i:02}" for i in range(28)])
    for s, (other, n) in parts.items():
        taken = rows[(rows.step == other) & rows.tensor.isin(sorted(rows.tensor.unique())[:n])].assign(step=s)
        rows = pd.concat([rows[~((rows.step == s) & rows.tensor.isin(taken.tensor))], taken])
    for name in frozen.split(): rows.loc[rows.tensor == name, ["hash", "value"]] = "frozen", 1.5
    return rows.sort_values(["step", "tensor", "place"], ignore_index=True)


@pytest.mark.promise("damage")
@pytest.mark.parametrize("wrong, right, n", [(0, 100, 13), (10, 100, 13), (50, 10, 1), (30, 80, 26), (100, 20, 14), (60, 40, 3)])
def test_parts_of_another_step(wrong, right, n):
    found = verify(mixed({wrong: (right, n)}, frozen="t27"))
    assert f"step {wrong} is a mixture: {n} of its 28 tensors are those of step {right}" in found.attrs["remarks"]
    assert found.set_index("step").partly_of.dropna().to_dict() == {wrong: right} and found.duplicate_of.isna().all()


def test_what_is_frozen_or_constant_is_no_part_of_another_step():
    rows = mixed({}, frozen="t00 t01")
    late = (rows.tensor == "t02") & (rows.step >= 30) # frozen from there on
    rows.loc[late, "hash"], rows.loc[late, "value"] = "late", 30.*(rows.place + 1)
    rows.loc[(rows.tensor == "t03") & rows.step.isin((20, 30)), "hash"] = "neighbours"
    rows.loc[(rows.tensor == "t04") & rows.step.isin((0, 50, 90)), ["hash", "value"]] = "zeros", 0. # comes and goes, and tells nothing
    rows.loc[(rows.tensor == "t01") & (rows.step == 50), "hash"] = "odd" # one that is not frozen among those that are
    assert verify(rows).attrs["remarks"] == []


def stepping(steps, seed=0, start=None, size=.002, scale=.02):
    "A random walk of 12 tensors, as the weights of a training; `start`: the seed of step 0, if it is another one."
    draw, rows = np.random.default_rng(seed), []
    first = scale*np.random.default_rng(seed if start is None else start).normal(size=(12, 8))
    at, before = scale*np.random.default_rng(seed).normal(size=(12, 8)), 0
    for step in steps:
        at, before = at + size*np.sqrt(step - before)*draw.normal(size=at.shape), step
        rows += [dict(step=step, tensor=f"t{i}", hash=f"{step} {i}", place=p, metric="weight", value=(at if step else first)[i, p])
                 for i in range(12) for p in range(8)]
    return pd.DataFrame(rows)


SPACED = dict(linear=range(0, 101, 10), log=[0, *(2**i for i in range(10))], late=[0, 500, 550, 600, 650])


@pytest.mark.parametrize("spaced", ["linear", "log"])
def test_a_step_0_of_another_seed(spaced):
    said = verify(stepping(SPACED[spaced], start=7)).attrs["remarks"]
    assert len(said) == 1 and re.search(r"step 0 is of another training: it lies [\d.]+ times as far .* nothing in common \(cosine -?0\.\d\d\)", said[0]), said


@pytest.mark.parametrize("spaced", SPACED)
@pytest.mark.parametrize("size", [.0002, .002, .02, .2])
def test_a_step_0_of_its_own(spaced, size):
    for seed in range(3): assert verify(stepping(SPACED[spaced], seed, size=size)).attrs["remarks"] == []


@pytest.mark.parametrize("factor", [10, .01])
def test_a_start_that_was_left_behind_is_not_blamed(factor):
    "By the second checkpoint a high learning rate, or weight decay, has left nothing of the start: that cannot be told from another seed."
    rows = stepping(SPACED["linear"], start=7)
    rows.loc[rows.step > 0, "value"] *= factor
    assert verify(rows).attrs["remarks"] == []


# ---- names ----

@pytest.mark.parametrize("wanted, steps", [
    ("step*", [0, 1, 2, 4, 8]), ("*", [0, 1, 2, 4, 8]), ("step1:step4", [1, 2, 4]), ("1:4", [1, 2, 4]), ("step3:", [4, 8]), (":step2", [0, 1, 2]),
    ("step8, step0", [0, 8]), ("step0,step2:step4", [0, 2, 4]), ("step[12]", [1, 2])])
def test_revisions_are_chosen_by_name(wanted, steps):
    assert [step_of(n) for n in choose(["main", "step8", *(f"step{s}" for s in (4, 0, 2, 1))], wanted)] == steps


def test_two_stages_with_the_same_steps():
    names = [f"stage{i}-step{s}-tokens{s//10}B" for i in (1, 2) for s in (1000, 2000)]
    assert choose(names, "stage1-*") == names[:2] and [step_of(n) for n in names] == [1000, 2000]*2
    assert choose(names, "stage2-step1500-:") == names[3:] and choose(names, "stage1-step1000-tokens100B:stage1-step1500") == names[:1]


NAMED = {"step1000": 1000, "step-00001200": 1200, "step_20k": 20_000, "multiberts-seed_1-step_2000k": 2_000_000, "tiny-1.1B-step-50K-105b": 50_000,
         "step1000-tokens4B": 1000, "stage1-step1000-tokens4B": 1000, "stage2-ingredient3-step23852-tokens51B": 23_852, "step-001000-2BT": 1000,
         "global_step1000": 1000, "global_step_1000": 1000, "globalstep7": 7, "iter_0001000": 1000, "pretrain_iter_0373000": 373_000, "update-30": 30,
         "checkpoint-500": 500, "checkpoint-10000step": 10_000, "checkpoint_9": 9, "ckpt_358": 358, "ckpt-000": 0, "chck_1M": 10**6, "chck_100M": 10**8,
         "epoch=2-step=1500": 1500, "epoch=2-step=1500-v1": 1500, "epoch=02-val_loss=0.31-step=600": 600, "epoch-18-checkpoint-145000": 145_000,
         "checkpoint-145000-epoch-18-val-wer-10.385": 145_000, "checkpoint-40-f1-0.9": 40, "500": 500, "000500": 500, "10M": 10**7, "epoch_3": 3, "epoch3": 3,
         "model-1500-v2": 1500, "seed3-1500": 1500, "tokens4B": 4*10**9, "step1.5k": 1500, "main": None, "final": None, "v1.0": None, "v2": None,
         "seed_3": None, "step1.5": None, "step" + "9"*30: None, "10.385": None}


@pytest.mark.parametrize("name", NAMED)
def test_steps_in_the_names_that_people_give(name): assert step_of(name) == NAMED[name] and step_of(Path("run7")/name) == NAMED[name]


@pytest.mark.promise("input")
@pytest.mark.parametrize("name, readings", [
    ("epoch-2-1500", r"2 \(epoch-\{step\}-\*\) or 1500 \(epoch-\*-\{step\}\)"), ("model-3-500", "3 .* or 500 "), ("2024-01-31", "2024 .* or 1 .* or 31 "),
    ("step5-step6", "5 .* or 6 "), ("checkpoint-1-ckpt-2", "1 .* or 2 "), ("gpt2-1000", "2 .* or 1000 ")])
def test_a_name_with_two_steps_is_refused(name, readings, trained, tmp_path):
    refused(lambda: step_of(name), f"the step of '{name}' could be {readings}", "steps")
    shutil.copytree(trained["neox"]/"step0", tmp_path/"s"/name)
    refused(lambda: Series(tmp_path/"s"), re.escape(name), "steps")
    refused(lambda: choose([name, "step1"], "*"), re.escape(name))
    assert choose([name, "step1"], "step1") == ["step1"] # who does not ask for it is not bothered
    for pattern in re.findall(r"\((\S*\{step\}\S*)\)", str(pytest.raises(InputError, step_of, name).value)): # what it advises is taken
        assert Series(tmp_path/"s", steps=pattern).steps == [step_of(name, pattern)]


@pytest.mark.parametrize("pattern, name, step", [
    ("epoch-*-{step}", "epoch-2-1500", 1500), ("epoch-{step}-*", "epoch-2-1500", 2), ("*{step}", "step1500", 1500), ("{step}*", "1500-v1", 1500),
    ("step*-tokens{step}", "step1000-tokens4B", 4*10**9), ("v{step}", "v3", 3), ("epoch-*-{step}", "final", None), ("*-{step}", "wer-10.385", None),
    ("a?{step}", "ab7", 7), ("[x]{step}", "[x]7", 7)])
def test_a_pattern_says_where_the_step_is(pattern, name, step): assert step_of(name, pattern) == step


@pytest.mark.promise("input")
@pytest.mark.parametrize("pattern", ["epoch-*", "", "{step}{step}", "{steps}", "step"])
def test_patterns_that_are_none(pattern, trained):
    if pattern: refused(lambda: step_of("step1", pattern), "must have {step} once, .* such as epoch-")
    refused(lambda: Series(trained["neox"], steps=pattern or "x{step}"), "steps = ")


# ---- layouts ----

def laid_out(trained, folder, names):
    "A training's checkpoints under other names, in this order."
    for step, name in zip(STEPS, names): shutil.copytree(trained["neox"]/f"step{step}", folder/name)
    return folder


@pytest.mark.parametrize("names, steps, tokens", [
    ([f"step{s}" for s in (0, 1, 512, 1000)], [0, 1, 512, 1000], [None]*4),
    ([f"step{s}-tokens{t}B" for s, t in ((0, 0), (1000, 4), (2000, 8))], [0, 1000, 2000], [0, 4*10**9, 8*10**9]),
    ([f"chck_{n}M" for n in (1, 2, 10, 100)], [10**6, 2*10**6, 10**7, 10**8], [None]*4),
    ([f"checkpoint-{s}" for s in (500, 1000, 1500)], [500, 1000, 1500], [None]*3)])
def test_layouts_of_public_series(names, steps, tokens, trained, tmp_path, cache):
    "In folders, and as revisions in the hub's cache beside others that are no checkpoints."
    folder = laid_out(trained, tmp_path/"run", names)
    for name in names: to_cache(cache, "toys/public", name, folder/name)
    for name in ("main", "v1.0"): (cache/"models--toys--public"/"refs"/name).write_text(commit_of(folder/names[-1]))
    if names[0].startswith("checkpoint"): shutil.copy(folder/names[-1]/"config.json", folder) # the Trainer's last model lies beside
    for source in (folder, "toys/public"):
        series = Series(source)
        assert series.steps == steps and [c.tokens for c in series] == tokens and verify(series).attrs["remarks"] == []
        assert measure(series, small()).step.tolist() == steps
    if tokens[0] is not None: assert Series(folder, steps="step*-tokens{step}").steps == tokens


@pytest.mark.promise("input")
def test_two_stages_are_told_apart(trained, tmp_path, capsys):
    folder = laid_out(trained, tmp_path/"olmo", [f"stage{i}-step{s}-tokens{s//10}B" for i in (1, 2) for s in (10, 20, 30)])
    assert "step 10 occurs twice, in stage1-step10-tokens1B and in stage2-step10-tokens1B; revisions (--revisions) chooses, as 'stage1-*'" in \
        told(capsys, folder, "--study", "copying")
    assert [c.path.name[:6] for c in Series(folder, revisions="stage2-*")] == ["stage2"]*3
    assert Series(folder, steps="stage1-step{step}-*").steps == [10, 20, 30]


@pytest.mark.promise("input")
@pytest.mark.parametrize("names, says, option", [
    (["epoch=1-step=1000", "epoch=2-step=1500", "last"], r"no step number in the name 'last'; revisions .* '\*' takes those with one", dict(revisions="*")),
    (["epoch=1-step=1000", "epoch=2-step=1500", "epoch=2-step=1500-v1"], r"chooses, as 'epoch=\*-step=\{step\}'$", dict(steps="epoch=*-step={step}")),
    (["a-1K", "a-2K", "a-2K-v1"], r"chooses, as 'a-\{step\}K'$", dict(steps="a-{step}K"))])
def test_what_is_advised_for_names_is_taken(names, says, option, trained, tmp_path):
    folder = laid_out(trained, tmp_path/"run", names)
    refused(lambda: Series(folder), says)
    assert [c.path.name for c in Series(folder, **option)] == names[:2]


@pytest.mark.promise("damage")
@pytest.mark.parametrize("damage, says", [
    (lambda p: (p/"config.json").unlink(), "has no config.json"),
    (lambda p: ((p/"config.json").unlink(), (p/"adapter_config.json").write_text("{}")), "is an adapter"),
    (lambda p: [f.unlink() for f in p.iterdir()], "has no config.json"),
    (lambda p: (p/"model.safetensors").unlink(), "has no safetensors weights"),
    (lambda p: os.truncate(p/"model.safetensors", 5000), "model.safetensors is damaged, or not written to its end: .*; revisions .--revisions. chooses others"),
    (lambda p: (p/"model.safetensors").rename(p/"model-00001-of-00002.safetensors") and (p/"model.safetensors.index.json").write_text(json.dumps(
        dict(metadata={}, weight_map=dict(a="model-00001-of-00002.safetensors", b="model-00002-of-00002.safetensors")))),
     "index.json names model-00002-of-00002.safetensors, which is not there")])
def test_a_checkpoint_that_is_not_whole_is_refused_before_any_is_measured(damage, says, trained, tmp_path, runs_root, capsys):
    folder = laid_out(trained, tmp_path/"run", [f"checkpoint-{s}" for s in (500, 1000, 1500)])
    damage(folder/"checkpoint-1000")
    assert re.search(f"checkpoint-1000: .*{says}", told(capsys, folder, "--study", "copying"))
    assert Series(folder, revisions="checkpoint-500,checkpoint-1500").steps == [500, 1500]


def test_what_was_measured_of_one_stage_or_clock_is_no_part_of_another(trained, tmp_path):
    folder = laid_out(trained, tmp_path/"olmo", [f"stage{i}-step{s}-tokens{2*s//10 + i}B" for i in (1, 2) for s in (10, 20 + i)])
    def asked(**which): return sorted(measure(Series(folder, **which), small(), tmp_path/"tables").step)
    assert asked(revisions="stage1-*") == [10, 21] and asked(revisions="stage2-*") == [10, 22]
    assert asked(steps="stage*-tokens{step}") == [3*10**9, 4*10**9, 5*10**9, 6*10**9]
    assert asked(revisions="stage1-*") == [10, 21]
    one = laid_out(trained, tmp_path/"one", [f"step{s}-tokens{2*s}B" for s in (10, 20, 30)])
    assert sorted(measure(Series(one, steps="step*-tokens{step}B"), small(), tmp_path/"t").step) == [20*10**9, 40*10**9, 60*10**9]
    assert sorted(measure(one, small(), tmp_path/"t").step) == [10, 20, 30]
    two = laid_out(trained, tmp_path/"two", ["step10", "step20", "step30"])
    for _ in range(2): # the second time without the first, as a trainer leaves it that keeps the last ones: what was measured stays
        assert sorted(measure(two, small(), tmp_path/"u").step) == [10, 20, 30]
        shutil.rmtree(two/"step10", ignore_errors=True)


@pytest.mark.promise("input")
def test_folders_that_are_no_series(trained, tmp_path, capsys):
    one, adapters, deep, model = (tmp_path/name for name in ("one", "adapters", "deep", "model"))
    shutil.copytree(trained["neox"]/"step0", one)
    for step in (10, 20): (adapters/f"checkpoint-{step}").mkdir(parents=True), (adapters/f"checkpoint-{step}"/"adapter_config.json").write_text("{}")
    laid_out(trained, deep/"checkpoints", ["step1", "step2"]), shutil.copytree(one, model), shutil.copytree(deep/"checkpoints", model/"checkpoints")
    (tmp_path/"empty").mkdir()
    for folder, says in ((one, "one is one model, not a folder of checkpoints; pass the folder that it lies in"),
                         (adapters, "checkpoint-10 is an adapter .adapter_config.json. without its model; merge it into the model"),
                         (adapters/"checkpoint-20", "checkpoint-20 is an adapter"), (deep, "no checkpoint in .*deep, but .*deep/checkpoints holds 2; pass that"),
                         (model, "model is one model, .*; .*model/checkpoints holds 2; pass that"), (tmp_path/"empty", "no checkpoint in .*empty")):
        refused(lambda: Series(folder), says)
        assert re.search(says, told(capsys, folder, "--study", "copying"))
    assert Series(model/"checkpoints").steps == [1, 2]


def broken(trained, folder, step):
    "A series with one checkpoint in which a tensor is not finite."
    shutil.copytree(trained["llama"], folder)
    weights = load_file(folder/f"step{step}"/"model.safetensors")
    weights["model.embed_tokens.weight"][3] = torch.nan
    save_file(weights, folder/f"step{step}"/"model.safetensors", dict(format="pt"))
    return folder


@pytest.mark.promise("damage")
def test_a_checkpoint_without_numbers_is_named_and_the_rest_measured(trained, tmp_path, runs_root, capsys):
    folder, why = broken(trained, tmp_path/"diverged", 16), "step 16: a tensor of it holds numbers that are not finite, such as model.embed_tokens.weight"
    asked = {name: probe for name, probe in copying.foreign_probes(samples=5).items() if name != "tokens"} # they can be counted
    table = measure(folder, asked, tmp_path/"tables")
    assert set(table.step) == {*STEPS} - {16} and len(table.attrs["left_out"]) == 1 and table.attrs["left_out"][0].startswith(why)
    assert capsys.readouterr().err.startswith(f"diverged: {why}; left out of ")
    grok_nb_measure([str(folder), "--study", "copying", "--json", "--revisions", "step8:"])
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == [8, 16, 32, 64] and found["left_out"][0].startswith(why) and found["verified"]["summary"] == "4 distinct of 4"
    refused(lambda: measure(Series(folder, revisions="step16"), asked), "step 16: .* not finite.* nothing is left")
    def asks(model, context=None): raise InputError("pairs: no such file")
    refused(lambda: measure(folder, dict(asks=asks)), "^pairs: no such file") # what is wrong with the question ends it


@pytest.mark.parametrize("text, size", [("20GB", 20e9), ("500 MB", 5e8), ("1.5e9", 1.5e9), ("2GiB", 2*1024**3), ("10k", 1e4), ("7", 7)])
def test_sizes(text, size): assert in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1.2.3GB", "20 lots", "0"])
def test_no_sizes(text): refused(lambda: in_bytes(text), "must be a size such as 20GB")


# ---- from end to end ----

def pairs_of(folder):
    rows = [dict(UID=f"agreement_{i % 2}", sentence_good=f"the {a} {good}", sentence_bad=f"the {a} {bad}", phrase_good=f"{a} {good}", phrase_bad=f"{a} {bad}")
            for i, (a, good, bad) in enumerate((n, v, w) for n in ("dog", "cat") for v, w in (("runs", "run"), ("sees", "see"))) for _ in range(3)]
    pd.DataFrame(rows).to_parquet(folder/"pairs.parquet")
    (folder/"text.txt").write_text("\n".join(["the dog runs in the park and the old cat sees a big dog"]*400))
    return folder/"pairs.parquet", folder/"text.txt"


@pytest.mark.parametrize("name", ["neox", pytest.param("llama", marks=pytest.mark.slow)])
def test_the_command_from_end_to_end(hub, trained, name, tmp_path, capsys):
    pairs, text = pairs_of(tmp_path)
    odd = dict(UID="agreement_0", sentence_good="a cat zzz sees", sentence_bad="a cat zzz see") # no phrase, and a word that is none
    pd.concat([pd.read_parquet(pairs), pd.DataFrame([odd])]).to_parquet(pairs)
    hub.put(f"toys/{name}", **{f"step{s}": trained[name]/f"step{64 if s == 1 else s}" for s in STEPS})
    small = f"{1.5*size_of(trained[name]/'step0')/1000:.0f}KB"
    grok_nb_measure([f"toys/{name}", "--study", "copying", "--corpus", str(text), "--max-disk", small, "--out", str(tmp_path/"out")])
    said = capsys.readouterr().out
    assert "7 distinct of 8" in said and "step 1 has the weights of step 64" in said and "held-out loss" in said and str(tmp_path/"out") in said
    assert {p.stem for p in (tmp_path/"out").glob("*.parquet")} == {"tokens", "copy", "induction", "losses", "in_context", "weights"}
    assert len(list(kept(f"toys/{name}").iterdir())) == 1
    grok_nb_measure([f"toys/{name}", "--study", "grammar", "--pairs", str(pairs), "--corpus", str(text), "--most", "4", "--spacing", "log", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == [0, 4, 16, 64] and found["verified"]["summary"] == "4 distinct of 4"
    assert {t["curve"] for t in found["transitions"]} == {"all pairs", "exposed pairs", "unexposed pairs"}
    assert any(note.startswith("Of the pairs 1 have no critical phrase") for note in found["notes"]), found["notes"]
    table = pd.read_parquet(Path(found["tables"])/"accuracy.parquet")
    assert set(table.paradigm) == {"agreement_0", "agreement_1", "mean"} and table.value.between(-1, 12).all()


def test_pairs_without_a_text(trained, tmp_path, runs_root, capsys):
    pairs, _ = pairs_of(tmp_path)
    grok_nb_measure([str(trained["neox"]), "--study", "grammar", "--pairs", str(pairs), "--revisions", "step0:step4", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == [0, 1, 2, 4] and [t["curve"] for t in found["transitions"]] == ["all pairs"]


def test_a_model_without_a_tokenizer(trained, tmp_path, runs_root, capsys):
    pairs, text = pairs_of(tmp_path)
    bare = Path(shutil.copytree(trained["llama"], tmp_path/"bare", ignore=shutil.ignore_patterns("tokenizer*", "special*")))
    assert "no tokenizer lies beside" in told_later(capsys, bare, "--study", "grammar", "--pairs", pairs)
    assert "no tokenizer lies beside" in told_later(capsys, bare, "--study", "copying", "--corpus", text)
    grok_nb_measure([str(bare), "--study", "copying", "--most", "2"]) # draws from all numbers


def test_a_run_of_ours(runs_root, tmp_path, capsys):
    brief = dict(width=16, heads=2, mlp=16, batch_size=4, test_samples=4, steps=6, warmup_steps=2, evaluate_every=2, checkpoints=3)
    run = train(copying.config("smoke", **brief), runs_root, "cpu", 1)
    before = files_in(run.path)
    grok_nb_measure([run.run_id, "--out", str(tmp_path/"own")]) # by its name, what it was asked in training
    assert "copying too few evaluations" in re.sub(" +", " ", capsys.readouterr().out) and (tmp_path/"own"/"abilities.parquet").is_file()
    grok_nb_measure([str(run.path), "--study", "copying", "--revisions", "step-00000002:", "--out", str(tmp_path/"own"), "--json"])
    assert json.loads(capsys.readouterr().out)["steps"] == [2, 4, 6]
    pairs, _ = pairs_of(tmp_path)
    assert "no tokenizer lies beside" in told_later(capsys, run.path, "--study", "grammar", "--pairs", pairs, "--out", tmp_path/"other")
    for words in (("--pairs", pairs), ("--items",)): assert f"{words[0]}: a run is asked about its own data" in told(capsys, run.path, *words)
    assert files_in(run.path) == before
