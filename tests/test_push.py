"Publishing on the hub, over HTTP to a hub of our own: what goes up, what never does, what is read back, and every way in which it fails."
import base64
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils.sha import git_hash
from test_series import FakeHub, commit_of, hub as reading, small # noqa: F401

from grok_nb import InputError, RunError
from grok_nb.commands import grok_nb_measure
from grok_nb.copying.study import study
from grok_nb.probes import measure
from grok_nb.push import changed_options, grok_nb_push, model_card, model_files, push, revisions
from grok_nb.runs import Run, load_model
from grok_nb.series import Series, tensor_hashes, verify
from grok_nb.training import train

REPO, STEPS = "someone/copying", [0, 10, 20, 30, 40]
CONFIG = study.presets["smoke"].replace(steps=40, evaluate_every=5, checkpoints=4, checkpoint_on_change=0, warmup_steps=4, width=16, batch_size=8)


def hashes(folder): return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


class WritableHub(FakeHub):
    "A hub that one may write to, with a token: a folder for each commit."
    def __init__(self, root):
        super().__init__()
        self.root, self.history, self.private, self.objects, self.asked, self.full = root, {}, {}, {}, [], None
        self.server.RequestHandlerClass.do_POST = lambda request: self.write(request)
        self.server.RequestHandlerClass.do_PUT = lambda request: self.write(request)

    def answer(self, request, body):
        self.asked.append(request.path)
        found = re.fullmatch("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.path)
        if found and (folder := self.at(*found.groups()[:2])): request.path = f"/{found[1]}/resolve/{commit_of(folder)}/{found[3]}"
        return super().answer(request, body)

    def at(self, repo, name): return self.repos.get(repo, {}).get(name) or next((f for f in self.history.get(repo, []) if commit_of(f) == name), None)

    def api(self, request, repo, rest):
        if self.down or repo not in self.repos: return super().api(request, repo, rest)
        if not rest: answer = dict(id=repo, private=self.private[repo], siblings=[dict(rfilename=p.name) for p in self.repos[repo]["main"].iterdir()])
        elif rest[0] == "commits": answer = [dict(id=commit_of(f), authors=[], date="2026-01-01T00:00:00.000Z", title="", message="") for f in reversed(self.history[repo])]
        elif rest[0] == "refs": answer = dict(branches=[dict(name=n, ref=f"refs/heads/{n}", targetCommit=commit_of(f)) for n, f in self.repos[repo].items()], converts=[], tags=[])
        elif rest[0] == "tree": answer = [self.entry(p) for p in sorted(self.at(repo, rest[1]).iterdir())]
        else: return super().api(request, repo, rest)
        self.send(request, 200, json.dumps(answer).encode())

    def entry(self, path):
        "A file as the hub lists it: of a large one the sha256."
        about = dict(type="file", path=path.name, size=path.stat().st_size, oid=git_hash(path.read_bytes()))
        large = dict(oid=hashlib.sha256(path.read_bytes()).hexdigest(), size=about["size"], pointerSize=1)
        return about | (dict(lfs=large) if path.suffix == ".safetensors" else {})

    def write(self, request):
        path = request.path.split("?")[0].strip("/")
        data = request.rfile.read(int(request.headers.get("Content-Length") or 0)) if "Content-Length" in request.headers else chunked(request.rfile)
        self.asked.append(path)
        if not path.startswith("lfs/") and request.headers.get("Authorization") != "Bearer hf_right": return self.refuse(request, 401, "Invalid user token.")
        if path.startswith("lfs/"): self.objects[path[4:]] = data; return self.send(request, 200, b"")
        answer = self.written(path, data)
        self.refuse(request, *answer) if isinstance(answer, tuple) else self.send(request, 200, json.dumps(answer).encode())

    def refuse(self, request, status, why): self.send(request, status, json.dumps(dict(error=why)).encode(), headers={"X-Error-Message": why})

    def written(self, path, data):
        if path == "api/validate-yaml": return dict(errors=[], warnings=[dict(message="there is no license")])
        if path == "api/repos/create": return self.created(**json.loads(data))
        if path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(data)["objects"]
            return dict(transfer="basic", objects=[o | dict(actions=dict(upload=dict(href=f"{self.url}/lfs/{o['oid']}"))) for o in wanted if o["oid"] not in self.objects])
        repo, what, name = re.fullmatch("api/models/([^/]+/[^/]+)/(branch|preupload|commit)/(.+)", path).groups()
        if what == "branch":
            self.repos[repo][name] = self.at(repo, json.loads(data)["startingPoint"])
            return {}
        if what == "preupload":
            return dict(files=[dict(path=f["path"], uploadMode="lfs" if f["path"].endswith(".safetensors") else "regular", shouldIgnore=False) for f in json.loads(data)["files"]])
        if self.full == name: return 403, "the storage is full"
        return self.committed(repo, name, [json.loads(line) for line in data.splitlines()])

    def created(self, name, organization, visibility=None, **_):
        repo = f"{organization}/{name}"
        if organization != "someone": return 403, f"You don't have the rights to create a model under the namespace \"{organization}\""
        first = self.root/f"{name}-0"
        first.mkdir(parents=True)
        (first/".gitattributes").write_text("*.safetensors filter=lfs")
        self.repos[repo], self.history[repo], self.private[repo] = dict(main=first), [first], visibility == "private"
        return dict(url=f"{self.url}/{repo}")

    def committed(self, repo, name, lines):
        new = shutil.copytree(self.at(repo, name), self.root/f"{name}-{len(self.asked)}")
        for line in lines:
            value = line["value"]
            if line["key"] == "file": (new/value["path"]).write_bytes(base64.b64decode(value["content"]))
            if line["key"] == "lfsFile": (new/value["path"]).write_bytes(self.objects[value["oid"]])
        self.repos[repo][name] = new
        self.history[repo].append(new)
        return dict(commitUrl=f"{self.url}/{repo}/commit/{commit_of(new)}", commitOid=commit_of(new), success=True)


def chunked(stream):
    "A body that is sent in pieces."
    data = b""
    while size := int(stream.readline(), 16): data += stream.read(size); stream.readline()
    stream.readline()
    return data


@pytest.fixture
def hub(reading, tmp_path, monkeypatch): # noqa: F811
    "A hub on this machine that takes a token."
    made = WritableHub(tmp_path/"hub")
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def trained(tmp_path_factory): return train(CONFIG, tmp_path_factory.mktemp("trained"), progress=False)


@pytest.fixture
def run(trained, tmp_path): return Run(shutil.copytree(trained.path, tmp_path/"mine"/trained.run_id))


def quiet(run, repo=REPO, **options): return push(run, repo, say=lambda line: None, **options)
def writes(hub): return [p for p in hub.asked if "/commit/" in p or "/branch/" in p or "create" in p]


def told(capsys, hub, *words, status=2):
    "What the command says of a mistake, before anything was written."
    capsys.readouterr()
    before = {r: dict(names) for r, names in hub.repos.items()}
    with pytest.raises(SystemExit) as e: grok_nb_push([*map(str, words)])
    got = capsys.readouterr()
    assert e.value.code == status and got.err.count("\n") == 1 and got.err.startswith("grok_nb_push: "), got
    if status == 2: assert got.out == "" and hub.repos == before
    return got.err


def test_what_was_pushed_is_read_back(hub, run, capsys):
    grok_nb_push([str(run.path), "--to", REPO])
    out = capsys.readouterr()
    assert out.out.splitlines()[-1] == f"{REPO}: 6 revisions uploaded" and out.err == ""
    series = Series(REPO)
    assert series.steps == run.steps == STEPS and [c.name for c in series] == [f"step{s}" for s in STEPS]
    for mine, theirs in zip(run.checkpoints, series):
        assert tensor_hashes(theirs.path) == tensor_hashes(mine.path)
        a, b = (m.state_dict() for m in (mine.model, theirs.model))
        assert a.keys() == b.keys() and all((a[n] == b[n]).all() for n in a)
    assert verify(series).attrs == dict(summary="5 distinct of 5", remarks=[])
    assert np.array_equal(measure(series, small()).value, measure(run, small()).value)
    assert hashes(hub.repos[REPO]["main"]).items() >= {n: f["sha256"] for n, f in model_files(run.checkpoints[-1]).items()}.items()


def test_only_what_a_model_needs_goes_up(hub, run, tmp_path):
    "No optimiser state, no manifest, no note that lies there, no word of the machine; a revision is one commit on the bare repository."
    (run.folder(40)/"training_notes.txt").write_text("mine")
    quiet(run)
    assert (run.folder(40)/"training_state.safetensors").is_file()
    wanted = {".gitattributes", *model_files(run.checkpoints[0])}
    assert wanted == {".gitattributes", "config.json", "generation_config.json", "model.safetensors"}
    for name, folder in hub.repos[REPO].items():
        assert {p.name for p in folder.iterdir()} == wanted | ({"README.md"} if name == "main" else set())
        for p in folder.iterdir(): assert str(tmp_path).encode() not in p.read_bytes() and b"/mine/" not in p.read_bytes()
    assert len(hub.history[REPO]) == 1 + 1 + len(STEPS) + 1 # the first, the card, the revisions, main


def test_it_goes_on_where_it_was_stopped(hub, run, capsys):
    hub.full = "step20"
    assert "the storage is full" in (said := told(capsys, hub, run.path, "--to", REPO, status=1)) and "run it again to go on" in said
    assert [*hub.repos[REPO]] == ["main", "step0", "step10", "step20"]
    with pytest.raises(InputError, match="step20: has no config.json"): Series(REPO) # a name without a model, never with another's
    hub.full = None
    assert quiet(run) == ["step20", "step30", "step40", "main"] and Series(REPO).steps == STEPS
    done, told_of = len(writes(hub)), []
    assert push(run, REPO, say=told_of.append) == [] and told_of == [f"{n}: is there" for n in [*(f"step{s}" for s in STEPS), "main"]]
    assert len(writes(hub)) == done # nothing is written
    grok_nb_push([str(run.path), "--to", REPO])
    assert f"{REPO}: is all there" in capsys.readouterr().out


@pytest.mark.parametrize("name, content", [("model.safetensors", b"another"), ("config.json", b"{}")])
def test_what_differs_is_uploaded_again(hub, run, name, content):
    quiet(run)
    (hub.repos[REPO]["step10"]/name).write_bytes(content)
    assert quiet(run) == ["step10"] and tensor_hashes(Series(REPO).checkpoints[1].path) == tensor_hashes(run.folder(10))


def test_more_checkpoints_later_and_metadata_of_ones_own(hub, run):
    assert quiet(run, most=2) == ["step0", "step40", "main"]
    card = ModelCard.load(REPO)
    card.data.license = "mit"
    edited = base64.b64encode(str(card).encode()).decode()
    hub.committed(REPO, "main", [dict(key="file", value=dict(path="README.md", content=edited))])
    assert quiet(run) == ["step10", "step20", "step30"] and Series(REPO).steps == STEPS
    for name in ("step10", "step40"): assert not (hub.repos[REPO][name]/"README.md").exists()
    card = ModelCard.load(REPO)
    assert card.data.license == "mit" and card.data.library_name == "transformers" and "`step10`" in card.text
    quiet(run)
    assert ModelCard.load(REPO).content == card.content


def test_a_repository_made_by_hand(hub, run):
    "With a licence chosen on the page of the hub, and nothing else."
    hub.created("copying", "someone", "private")
    (hub.repos[REPO]["main"]/"README.md").write_text("---\nlicense: mit\n---\n")
    quiet(run, private=True)
    assert ModelCard.load(REPO).data.license == "mit" and Series(REPO).steps == STEPS


def test_private(hub, run):
    quiet(run, most=1, private=True)
    assert hub.private[REPO]
    quiet(run, "someone/open", most=1)
    assert not hub.private["someone/open"]


def test_a_dry_run_asks_nobody(hub, run, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    grok_nb_push([str(run.path), "--to", REPO, "--most", "3", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["step0", "step20", "step40", f"{REPO}:"] and not hub.asked
    assert "config.json, generation_config.json, model.safetensors" in lines[0] and "3 revisions" in lines[-1]


def test_refused_before_anything_is_written(hub, run, capsys, monkeypatch, tmp_path):
    hub.created("other", "someone")
    (hub.repos["someone/other"]["main"]/"model.safetensors").write_bytes(b"x")
    hub.created("branches", "someone")
    hub.repos["someone/branches"]["step5"] = hub.repos["someone/branches"]["main"]
    for words, why in ((["--to", "someone/other"], "holds something else"), (["--to", "someone/branches"], "holds something else"),
                       (["--to", "someone/open", "--private", "--most", -1], "at least 1"), (["--to", "nobody/x"], "rights to create"),
                       (["--to", "copying"], "as user/name"), (["--to", "a/b/c"], "as user/name"), ([], "as user/name"), (["--to", REPO, "--spacing", "lin"], "did you mean 'linear'")):
        assert why in told(capsys, hub, run.path, *words)
    quiet(run, "someone/open", most=1)
    assert "someone/open is public" in told(capsys, hub, run.path, "--to", "someone/open", "--private")
    later = Run(shutil.copytree(run.path, tmp_path/"later"/run.run_id))
    assert "is unknown" in told(capsys, hub, "nothing", "--to", REPO, "--runs", run.path.parent)
    shutil.rmtree(later.folder(40))
    assert "interrupted, at step 30 of 40" in told(capsys, hub, later.path, "--to", REPO)
    with later.lock(): assert "running" in told(capsys, hub, later.path, "--to", REPO)
    with open(run.folder(20)/"model.safetensors", "r+b") as f: f.seek(-1, 2); f.write(b"\x01")
    assert "step 20: model.safetensors is not what it was" in told(capsys, hub, run.path, "--to", REPO)


@pytest.mark.parametrize("token, why", [(None, "needs a token"), ("hf_wrong", "401")])
def test_no_token_or_a_wrong_one(hub, run, capsys, monkeypatch, token, why):
    monkeypatch.delenv("HF_TOKEN")
    if token: monkeypatch.setenv("HF_TOKEN", token)
    assert why in told(capsys, hub, run.path, "--to", REPO) and not hub.repos


def test_no_network(hub, run, capsys, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert f"{REPO}: " in told(capsys, hub, run.path, "--to", REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline" in told(capsys, hub, run.path, "--to", REPO)
    with pytest.raises(InputError): quiet(run)


# ---- the card ----

def test_the_card_says_what_the_run_is(run):
    card = ModelCard(model_card(run, REPO, revisions(run)))
    assert card.data.to_dict() == dict(library_name="transformers", tags=["grok_nb", "training-dynamics", "copying"]) # no licence is made up
    preset, changed = changed_options(run)
    assert preset == "smoke" and changed["steps"] == (40, study.presets["smoke"].steps) and "seed" not in changed
    assert all(f"| `{n}` | {a} | {b} |" in card.text for n, (a, b) in changed.items())
    assert run.run_id in card.text and study.question in card.text and f"{run.config.n_parameters:,} parameters" in card.text
    for c in run.checkpoints: assert re.search(rf"^\| `step{c.step}` \| {c.step:,} \| {c.tokens:,} \| [\d.]+ \|$", card.text, re.M)
    assert "grok_nb_train copying --preset smoke --set " in card.text


def test_what_the_card_says_to_type_works(hub, run, capsys):
    "The code that opens a revision, the command that measures all, and the options that repeat the run."
    quiet(run)
    text, here = ModelCard.load(REPO).text, {}
    exec(re.search("```python\n(.*?)```", text, re.S)[1], here)
    assert all((v == load_model(run.folder(40)).state_dict()[n]).all() for n, v in here["model"].state_dict().items())
    grok_nb_measure(re.search(f"grok_nb_measure ({REPO} --study copying)", text)[1].split())
    out = capsys.readouterr()
    assert out.out.startswith(f"Series({REPO}: 5 checkpoints, steps 0 … 40)") and "5 distinct of 5" in out.out and out.err == ""
    words = re.search("grok_nb_train copying --preset smoke --set (.*)", text)[1].split()
    assert study.config("smoke", **dict(w.split("=") for w in words)).run_id == run.run_id


def test_a_run_that_a_rule_has_ended(hub, tmp_path):
    run = train(CONFIG, tmp_path/"runs", progress=False, until=ten_steps)
    assert run.state == "stopped" and quiet(run) == ["step0", "step10", "main"] and Series(REPO).steps == [0, 10]
    assert "ended it early at step 10" in ModelCard.load(REPO).text and "ten_steps" in ModelCard.load(REPO).text


def ten_steps(curve): return curve.index[-1] >= 10


def test_cards_of_other_studies(short_runs, tmp_path):
    for name, run in short_runs.items():
        text = model_card(run, REPO, revisions(run))
        assert f"grok_nb_measure {REPO} --study copying\n" in text and run.study.question in text
        has_tokenizer = "tokenizer_config.json" in model_files(run.checkpoints[0])
        assert ("AutoTokenizer" in text) == ("--study grammar --pairs" in text) == has_tokenizer == (name == "grammar")


def test_the_card_of_a_text_tells_no_folder(tmp_path):
    home = tmp_path/"someuser"
    home.mkdir()
    (home/"a.txt").write_text("\n".join(f"{i} and {i} are {2*i}." for i in range(2000)))
    from grok_nb import corpus
    run = train(corpus.study.config("smoke", corpus=str(home/"a.txt"), vocab_size=300, steps=4, warmup_steps=1, evaluate_every=2, checkpoints=1), tmp_path/"runs", progress=False)
    text = model_card(run, REPO, revisions(run))
    assert "a.txt" in text and "someuser" not in text and str(tmp_path) not in text and "not published" in text
    shutil.move(run.path/"metrics.jsonl", home)
    assert "evaluations are lost" in model_card(run, REPO, revisions(run))
