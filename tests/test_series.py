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
    refused(lambda: Other(tmp_path/"cut", 0).model, "cut: cannot be opened|cut: .* missing")


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
    assert set(table.probe) == {"copy", "induction"} and table.step.unique().tolist() == [0, 1, 2] and np.isfinite(table.value).all()
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
    assert verify(Series(folder)).attrs["remarks"] == ["step 32 is out of order: its weights lie near those of step 4"]


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
    assert measure(tmp_path/"same", small(), duplicates=False).step.tolist() == [3]


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


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_from_end_to_end(hub, trained, name, tmp_path, capsys):
    pairs, text = pairs_of(tmp_path)
    hub.put(f"toys/{name}", **{f"step{s}": trained[name]/f"step{64 if s == 1 else s}" for s in STEPS})
    small = f"{1.5*size_of(trained[name]/'step0')/1000:.0f}KB"
    grok_nb_measure([f"toys/{name}", "--study", "copying", "--corpus", str(text), "--max-disk", small, "--out", str(tmp_path/"out")])
    said = capsys.readouterr().out
    assert "7 distinct of 8" in said and "step 1 has the weights of step 64" in said and "held-out loss" in said and str(tmp_path/"out") in said
    assert {p.stem for p in (tmp_path/"out").glob("*.parquet")} == {"copy", "induction", "losses", "in_context", "weights"}
    assert len(list(kept(f"toys/{name}").iterdir())) == 1
    grok_nb_measure([f"toys/{name}", "--study", "grammar", "--pairs", str(pairs), "--corpus", str(text), "--most", "4", "--spacing", "log", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == [0, 4, 16, 64] and found["verified"]["summary"] == "4 distinct of 4"
    assert {t["curve"] for t in found["transitions"]} == {"all pairs", "exposed pairs", "unexposed pairs"}
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
    assert "is asked about its own data" in told(capsys, run.path, "--pairs", pairs)
    assert files_in(run.path) == before
