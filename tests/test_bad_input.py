"Every mistake a user can make: one line that names the field, status 2, torch not loaded, nothing written. And options as text."
import hashlib
import inspect
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PATIENCE, ROOT
from hypothesis import given, settings, strategies as st

from grok_nb import InputError, commands, corpus, gpu, prune, push, runs, studies, wings
from grok_nb.modular.study import study
from grok_nb.runs import Config, Run, runs_root

# ---- the commands, as a shell starts them ----

HEAVY = "torch transformers pandas matplotlib datasets".split()
CODE = f"""
import sys
from grok_nb.commands import *
from grok_nb.gpu import *
from grok_nb.prune import *
from grok_nb.push import *
try: COMMAND()
finally: print("loaded:", *sorted({set(HEAVY)} & set(sys.modules)))
"""

# One process has loaded the commands and what is light, and forks for each case: nothing is left to the next one.
SERVER = """
import json, os, sys, traceback
import numpy, pyarrow.parquet
from grok_nb import studies
from grok_nb.commands import *
from grok_nb.gpu import *
from grok_nb.prune import *
from grok_nb.push import *
commands = {name: value for name, value in globals().items() if name.startswith("grok_nb_")}
for name in studies: studies[name]
for line in sys.stdin:
    case = json.loads(line)
    if not (pid := os.fork()):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in (1, case["out"]), (2, case["err"]): os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(case["folder"])
        os.environ.update({k: v for k, v in case["env"].items() if v is not None})
        for k, v in case["env"].items():
            if v is None: del os.environ[k]
        if case["gone"]: os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
        sys.argv[1:], code = case["typed"], 0
        try: commands[case["command"]]()
        except SystemExit as e: code = e.code or 0
        except BaseException: traceback.print_exc(); code = 1
        print("loaded:", *sorted(HEAVY & set(sys.modules)))
        sys.stdout.flush(); sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
""".replace("HEAVY", repr(set(HEAVY)))


@dataclass
class Case:
    "A mistake: what is typed, and what the line must say."
    name: str
    typed: list
    says: list # parts of the line
    prepare: Callable = lambda folder: None # makes what is typed about, in the working folder
    command: str = "grok_nb_train"
    env: dict = field(default_factory=dict) # variables; None: unset


def options(*words): return ["modular", "--set", *words]


def option(words, *says):
    "An option of the modular study."
    return Case(words, options(*words.split(" ")), says)


def copying(words, *says):
    "An option of the copying study."
    return Case(f"copying {words}", ["copying", "--set", *words.split(" ")], says)


def grammar(words, *says):
    "An option of the grammar study; one step, so that what is not refused is soon over."
    brief = [] if "pairs_each" in words else ["pairs_each=1"]
    return Case(f"grammar {words}", ["grammar", "--set", *brief, *words.split(" ")], says, texts_and_pairs)


def grammar_text(words, *says):
    "An option of the grammar study on a text."
    typed = ["grammar", "--preset", "text", "--corpus", "a.txt", "--set", "vocab_size=300", *words.split(" ")]
    return Case(f"grammar text {words}", typed, says, texts_and_pairs)


def texts_and_pairs(folder):
    "A text with minimal pairs of all kinds."
    pair = dict(sentence_good="A dog barks.", sentence_bad="A dog bark.", phrase_good="dog barks", phrase_bad="dog bark", paradigm="barking")
    write("a.txt", b"A dog barks. A fox runs over the lazy dog.\n\n" * 200)(folder)
    write("pairs.csv", b"sentence_good,sentence_bad\nA dog barks.,A dog bark.\n")(folder)
    write("pairs.jsonl", json.dumps(pair).encode())(folder)
    write("untitled.jsonl", b'{"title": "A fox."}')(folder)
    pq.write_table(pa.table(dict(title=["a", "b"], number=[1, 2])), folder/"untitled.parquet")
    write("broken.parquet", b"A fox.")(folder)
    write("bare/readme.md", b"No pairs.")(folder)
    write("lists.jsonl", b"[1]\n")(folder)
    write("numbers.jsonl", json.dumps(pair).encode() + b"\n1\n")(folder)
    write("deep.jsonl", DEEP)(folder)
    os.mkfifo(folder/"pipe.jsonl")
    os.symlink("/dev/zero", folder/"zero.parquet")


DEEP = b"["*100_000 # JSON that no reader follows
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SWEEP = ["modular", "--grid", "n_id=8,16"]
WITH_RUNS = dict(grok_nb_train=["modular"], grok_nb_sweep=SWEEP, grok_nb_measure=["a/b", "--study", "copying"],
                 grok_nb_report=["x"], grok_nb_runs=[], grok_nb_claims=[], grok_nb_demo=[], grok_nb_prune=["x"],
                 grok_nb_push=["x", "--to", "a/b"], grok_nb_gpu=["--dry-run"])


def tokenizer(content, name="tokenizer.json"):
    "A text, and a tokenizer's folder with this in it."
    def prepare(folder):
        write("a.txt", b"A fox.")(folder)
        write(f"t/{name}", content)(folder)
    return prepare


def checkpoint(config, *files):
    "A folder of one checkpoint that is not ours; what is in the files leads out of it."
    def prepare(folder):
        (folder/"s").mkdir()
        write("s/step1/config.json", config)(folder)
        for name in files: write(f"s/step1/{name}", b'{"weight_map": {"x": "../../x.safetensors"}}')(folder)
    return prepare


BRIEF = "steps=1 warmup_steps=0 checkpoints=1"
DEMO = study.presets["demo"]
SLUG = DEMO.replace(seed=1).slug() # what the name of a folder begins with


def other_run(folder):
    "Where the run of seed 3 belongs lies another one."
    right, other = (DEMO.replace(seed=s) for s in (3, 4))
    Run.create(other, folder/"runs").path.rename(folder/"runs"/right.run_id)


def write(name, content):
    "Prepare a file."
    def prepare(folder):
        (folder/name).parent.mkdir(exist_ok=True)
        (folder/name).write_bytes(content)
    return prepare


def columns(folder): pq.write_table(pa.table(dict(title=["a", "b"], number=[1, 2])), folder/"text.parquet")


def text(name, typed, *says, prepare=lambda folder: None): return Case(f"corpus {name}", typed, says, prepare)


CASES = [
    # what is asked of the tasks
    option("p=9", "p = 9", "prime"),
    option("p=1", "p = '1'", "from 3 to 113"),
    option("p=127", "p = '127'", "from 3 to 113"),
    option("n_id=44", "n_id = 44", "n_id=32"),
    option("n_id=30", "n_id = 30", "multiple of 4"),
    option("n_id=0", "n_id", "at least 1|from 1"),
    option("n_id=49 task_choice=random", "n_id = 49", "48"),
    option("p=113 n_id=12768", "n_id = 12768", "n_id=8936"),
    option("alpha=1", "alpha = 1.0", "test input"),
    option("alpha=0.999", "alpha = 0.999", "test input"),
    option("alpha=0.001", "alpha = 0.001", "training"),
    option("alpha=-0.5", "alpha = '-0.5'", "from 0.0 to 1.0"),
    option("alpha=1.5", "alpha = '1.5'", "from 0.0 to 1.0"),
    option("task_choice=square", "task_choice", "rectangular"),
    option("n_shots=0", "n_shots", "1"),
    Case("paper batch", ["modular", "--preset", "paper", "--set", "n_id=384"], ["batch_size = 1024", "multiple of n_id=384"]),
    # of the model
    option("width=30 heads=4", "width = 30", "multiple of 2·heads = 8"),
    option("width=64 heads=3", "width = 64", "multiple of 2·heads = 6"),
    option("heads=0", "heads = '0'", "from 1 to 256"),
    option("p=7 vocab_size=5", "vocab_size = 5", "at least p = 7"),
    # numbers
    option("steps=-5", "steps = '-5'", "from 1 to"),
    option("steps=0", "steps = '0'", "from 1 to"),
    option("steps=many", "steps = 'many'", "whole number"),
    option("steps=1.5", "steps = '1.5'", "whole number"),
    option("steps=nan", "steps = 'nan'", "whole number"),
    option("steps=inf", "steps = 'inf'", "whole number"),
    option("steps=", "steps = ''", "whole number"),
    option("seed=-1", "seed = '-1'", "from 0 to"),
    option("seed=1e99", "seed = '1e99'", "from 0 to"),
    option("lr=nan", "lr = 'nan'", "number from 0.0 to 10.0"),
    option("lr=inf", "lr = 'inf'", "number from 0.0 to 10.0"),
    option("lr=-inf", "lr = '-inf'", "number from 0.0 to 10.0"),
    option("lr=-0.001", "lr = '-0.001'", "number from 0.0 to 10.0"),
    option("lr=high", "lr = 'high'", "number from 0.0 to 10.0"),
    option("balanced=maybe", "balanced = 'maybe'", "true or false"),
    option("steps=2000 warmup_steps=9999", "warmup_steps = 9999", "at most steps = 2000"),
    option("batch_size=64 accumulation=100", "accumulation = 100", "at most batch_size = 64"),
    option("decay_share=1.5", "decay_share = '1.5'", "from 0.0 to 1.0"),
    option("data_seed=-2", "data_seed = '-2'", "from -1 to"),
    # interventions
    option("start=x", "start = 'x'", "RUN@STEP"),
    option("start=../x@3", "start = '../x@3'", "RUN@STEP"),
    option("start=x@3", "start: run 'x'"),
    option("start=x@1000", "start = 'x@1000'", "before the last step"),
    option("clamp=0.1", "clamp = '0.1'", "zero, mean or stepN"),
    option("clamp=0.1=half", "clamp = '0.1=half'", "zero, mean or stepN"),
    option("clamp=0.1=zero,0.01=mean", "0.1 is named twice"),
    option("clamp=0.1=step5", "clamp 0.1=step5", "needs start"),
    option("clamp=0.1=zero freeze=0", "clamp 0.1", "freeze holds 0 already"),
    option("freeze=-1", "freeze = '-1'", "a layer as 0"),
    option("freeze=embeding", "freeze = 'embeding'", "embeddings, unembedding"),
    option("hold_until=5", "hold_until = 5", "give clamp or freeze"),
    option("freeze=0 hold_until=1001", "hold_until = 1001", "to steps = 1000"),
    Case("from nowhere", ["--from", "x@3"], ["run 'x'"]),
    Case("from no step", ["--from", "x"], ["--from 'x'", "RUN@STEP"]),
    Case("from a run of a study", ["modular", "--from", "x@3"], ["--from", "STUDY"]),
    Case("fork at a step without a parent", ["modular", "--grid", "at=5,6"], ["to be forked at step 5", "train it first"], command="grok_nb_sweep"),
    Case("fork at no step", ["modular", "--grid", "at=x"], ["@x", "RUN@STEP"], command="grok_nb_sweep"),
    # names
    option("n_shot=3", "'n_shot'", "did you mean 'n_shots'"),
    option("../seed=3", "'../seed'", "did you mean 'seed'"),
    option("optimizer=adam", "optimizer", "did you mean 'adamw'"),
    option("schedule=wsdd", "schedule", "did you mean 'wsd'"),
    Case("preset", ["modular", "--preset", "dmo"], ["preset 'dmo'", "did you mean 'demo'", "paper"]),
    Case("preset with ../", ["modular", "--preset", "../demo"], ["preset '../demo'", "did you mean 'demo'"]),
    Case("study", ["modula"], ["study 'modula'", "did you mean 'modular'", "corpus"]),
    Case("study with ../", ["../modular"], ["study '../modular'", "did you mean 'modular'"]),
    # the command line
    Case("no value", options("seed"), ["--set", "seed", "name=value"]),
    Case("no name", options("=3"), ["--set", "=3", "name=value"]),
    Case("two lines", options("se\ned"), ["--set", "name=value"]),
    Case("flag without a value", ["modular", "--set"], ["--set", "expected"]),
    Case("preset without a value", ["modular", "--preset"], ["--preset", "expected"]),
    Case("unknown flag", ["modular", "--presett", "demo"], ["'--presett'", "did you mean '--preset'"]),
    Case("unknown flag with =", ["modular", "--thread=2x"], ["thread"]),
    Case("one word too many", ["modular", "demo"], ["demo"]),
    Case("threads no number", ["modular", "--threads", "two"], ["--threads", "two"]),
    Case("threads negative", ["modular", "--threads", "-1"], ["--threads -1", "at least 1|from 1"]),
    Case("threads too many", ["modular", "--threads", "1000000"], ["--threads 1000000"]),
    Case("device", ["modular", "--device", "gpu"], ["--device 'gpu'", "cpu, cuda, mps"]),
    # the folder of runs
    Case("no space", options("width=16384", "depth=96", "checkpoints=100000"), ["checkpoints = 100000", "GB"]),
    Case("another configuration", options("seed=3"), ["another", DEMO.replace(seed=3).slug()], other_run),
    Case("config.json changed", options("seed=1"), ["config.json", "changed"],
         lambda folder: edit(existing(folder)/"config.json", f'"steps": {DEMO.steps}', f'"steps": {DEMO.steps - 1}')),
    Case("config.json cut", options("seed=1"), ["config.json", "cannot be read"],
         lambda folder: os.truncate(existing(folder)/"config.json", 100)),
    Case("runs is a file", ["modular", "--runs", "file"], ["runs", "file"], write("file", b"")),
    Case("runs below a file", ["modular", "--runs", "file/runs"], ["runs", "file"], write("file", b"")),
    # a text
    text("of a study without text", ["modular", "--corpus", "a.txt"], "--corpus", "'modular'", prepare=write("a.txt", b"A fox.")),
    text("not given", ["corpus"], "corpus", "allowed: .txt"),
    text("no such file", ["--corpus", "nothing.txt"], "nothing.txt", "no such file"),
    text("with ../", ["--corpus", "../../nothing.txt"], "nothing.txt", "no such file"),
    text("of another kind", ["--corpus", "a.pdf"], "a.pdf", "allowed: .txt", prepare=write("a.pdf", b"%PDF")),
    text("empty file", ["--corpus", "a.txt"], "a.txt", prepare=write("a.txt", b"")),
    text("blank file", ["--corpus", "a.txt"], "a.txt", prepare=write("a.txt", b" \n\n \t\n")),
    text("not text", ["--corpus", "a.txt"], "a.txt", "UTF-8", prepare=write("a.txt", b"\xff\xfe\x00\x81" * 50)),
    text("broken jsonl", ["--corpus", "a.jsonl"], "a.jsonl", prepare=write("a.jsonl", b'{"text": "A fox."\n')),
    text("jsonl without text", ["--corpus", "a.jsonl"], "a.jsonl", "text", prepare=write("a.jsonl", b'{"title": "A fox."}\n')),
    text("no parquet", ["--corpus", "a.parquet"], "a.parquet", prepare=write("a.parquet", b"A fox.")),
    text("parquet without text", ["--corpus", "text.parquet"], "text.parquet", "text", prepare=columns),
    text("empty folder", ["--corpus", "texts"], "texts", "holds no text", prepare=lambda folder: (folder/"texts").mkdir()),
    text("one of two missing", ["--corpus", "a.txt", "b.txt"], "b.txt", "no such file", prepare=write("a.txt", b"A fox.")),
    text("tokenizer missing", ["--corpus", "a.txt", "--set", "tokenizer=../nothing"], "tokenizer", "../nothing",
         prepare=write("a.txt", b"A fox.")),
    text("limit", ["--corpus", "a.txt", "--set", "limit_tokens=3"], "limit_tokens = 3", "at least 16", prepare=write("a.txt", b"A fox.")),
    text("vocabulary", ["--corpus", "a.txt", "--set", "vocab_size=10"], "vocab_size = '10'", "from 257", prepare=write("a.txt", b"A fox.")),
    # of the copying study
    copying("context=64 span_max=40", "span_max = 40", "half of context = 64"),
    copying("span_min=9 span_max=8", "span_min = 9", "from 2 to span_max = 8"),
    copying("copy_rate=1.5", "copy_rate = '1.5'", "from 0.0 to 1.0"),
    copying("context=64 test_sequences=8", "test_sequences = 8", "context = 64 holds 6 and a query"),
    copying("context=20 span_max=4 span_min=2", "test_sequences = 5", "context = 20 holds 1 and a query"),
    copying("test_every=6", "test_every = 6", "at most test_sequences = 5"),
    copying("language=texts", "language", "did you mean 'text'"),
    copying("corpus=a.txt", "corpus", "the generated language reads none"),
    copying("held_out_share=0.2", "held_out_share", "only a text has it"),
    copying("width=30 heads=2", "width = 30", "multiple of 2·heads = 4"),
    copying("zipf=4", "zipf = '4'", "from 0.0 to 3.0"),
    copying("concentration=0", "concentration = '0'", "from 0.01 to 1000.0"),
    copying("copy_from=everywhere", "copy_from", "did you mean 'anywhere'"),
    copying("language_seed=-2", "language_seed = '-2'", "from -1 to"),
    copying("language=text corpus=a.txt", "only the generated language has it"),
    Case("copying without a text", ["copying", "--preset", "text"], ["corpus is not given"]),
    Case("copying: vocabulary", ["copying", "--preset", "text", "--corpus", "a.txt", "--set", "vocab_size=100"], ["vocab_size = 100", "at least 257"],
         write("a.txt", b"A fox.")),
    # of the grammar study
    grammar("density=2", "density = '2'", "from 0.0 to 1.0"),
    grammar("agreement_rate=-0.1", "agreement_rate = '-0.1'", "from 0.0 to 1.0"),
    grammar("zipf=4", "zipf = '4'", "from 0.0 to 3.0"),
    grammar("context=6", "context = 6", "at least 7"),
    grammar("planted=400", "planted = 400", "from 0 to 239"),
    grammar("planted=2 steps=31 warmup_steps=0", "steps = 31", "at least 32"),
    grammar("pairs_each=0", "pairs_each = 0", "at least 1"),
    grammar("language=english", "language", "generated, text"),
    grammar("width=30 heads=4", "width = 30", "multiple of 2·heads = 8"),
    grammar("language_seed=-2", "language_seed = '-2'", "from -1 to"),
    grammar("corpus=a.txt", "corpus", "the generated language reads none"),
    grammar("vocab_size=300", "vocab_size", "the generated language has its own"),
    grammar("layout=document", "layout", "the generated language has its own"),
    grammar("pairs=pairs.jsonl", "pairs", "the generated language reads none"),
    grammar(f"paradigms=all {BRIEF}", "paradigms", "generated"),
    Case("grammar without a text", ["grammar", "--preset", "text"], ["corpus is not given"]),
    Case("grammar: a text for the generated language", ["grammar", "--corpus", "a.txt"], ["corpus", "the generated language reads none"], texts_and_pairs),
    Case("grammar: a text without pairs", ["grammar", "--preset", "text", "--corpus", "a.txt"], ["pairs are not given", ".parquet"], texts_and_pairs),
    Case("grammar: pairs without a text", ["grammar", "--preset", "text", "--set", "pairs=pairs.jsonl"], ["corpus is not given"], texts_and_pairs),
    grammar_text("pairs=nothing.parquet", "nothing.parquet", "no such file"),
    grammar_text("pairs=../../nothing.jsonl", "nothing.jsonl", "no such file"),
    grammar_text("pairs=nothing", "pairs", "nothing", "no such"),
    grammar_text("pairs=a.txt", "a.txt", "allowed: a .parquet"),
    grammar_text("pairs=pairs.csv columns=good=sentence", "pairs.csv", "sentence_good"),
    grammar_text("pairs=pairs.csv columns=sentence", "columns", "good=NAME"),
    grammar_text("pairs=pairs.csv neighbour=behind", "neighbour", "before"),
    grammar("columns=good=a", "columns", "generated"),
    grammar_text("pairs=bare", "bare", "no .parquet, .jsonl, .csv or .tsv file"),
    grammar_text("pairs=untitled.jsonl", "untitled.jsonl", "sentence_good"),
    grammar_text("pairs=untitled.parquet", "untitled.parquet", "sentence_good"),
    grammar_text("pairs=broken.parquet", "broken.parquet"),
    grammar_text("pairs=pairs.jsonl paradigms=barkin", "paradigm", "'barking'"),
    grammar_text(f"pairs=pairs.jsonl paradigms=all density=0.5 {BRIEF}", "density", "generated"),
    grammar_text(f"pairs=pairs.jsonl paradigms=all planted=2 {BRIEF}", "planted", "generated"),
    # the other commands
    Case("report: no such run", [SLUG], [f"run '{SLUG}'", f"did you mean '{SLUG}"],
         command="grok_nb_report"),
    Case("report: ../", ["../../etc"], ["run '../../etc'"], command="grok_nb_report"),
    Case("report: no run", ["x", "--runs", "empty"], ["run 'x'", "empty"], command="grok_nb_report"),
    Case("report: nothing named", [], ["names"], command="grok_nb_report"),
    Case("report: out", ["RUN", "--out", "a.doc"], ["--out a.doc", ".html"], command="grok_nb_report"),
    Case("report: format", ["RUN", "--format", "pfd"], ["--format 'pfd'", "did you mean 'pdf'"], command="grok_nb_report"),
    Case("runs: study", ["--study", "modula"], ["study 'modula'", "did you mean 'modular'"], command="grok_nb_runs"),
    Case("runs: no such run", ["--tree", SLUG], [f"did you mean '{SLUG}"], command="grok_nb_runs"),
    Case("claims: study", ["--study", "modula"], ["study 'modula'", "did you mean 'modular'"], command="grok_nb_claims"),
    Case("report: out folder", ["RUN", "--out", "no/a.html"], ["--out no/a.html", "no folder"], command="grok_nb_report"),
    Case("prune: no such run", [SLUG, "--yes"], [f"run '{SLUG}'", f"did you mean '{SLUG}"], command="grok_nb_prune"),
    Case("prune: ../", ["../../etc", "--delete", "--yes"], ["run '../../etc'"], command="grok_nb_prune"),
    Case("prune: a folder that is no run", ["t", "--delete", "--yes"], ["run 't'"], write("t/config.txt", b""), command="grok_nb_prune"),
    Case("prune: most", ["RUN", "--most", "-1", "--yes"], ["--most -1", "at least 1"], command="grok_nb_prune"),
    Case("prune: most of none", ["RUN", "--most", "2", "--delete"], ["--most 2", "--delete"], command="grok_nb_prune"),
    Case("prune: nobody to ask", ["RUN"], ["--yes", "--dry-run"], command="grok_nb_prune"),
    Case("push: no such run", [SLUG, "--to", "a/b"], [f"run '{SLUG}'", f"did you mean '{SLUG}"], command="grok_nb_push"),
    Case("push: a run that has not ended", ["RUN", "--to", "a/b"], ["has not ended", "step 0 of"], command="grok_nb_push"),
    Case("push: where to", ["RUN"], ["--to ''", "user/name"], command="grok_nb_push"),
    *(Case(f"push: to {name}", ["RUN", "--to", name, "--dry-run"], ["--to '", "user/name"], command="grok_nb_push") for name in ("b", "a/b--c", "../b/c", "https://x/a/b", "ü/b")),
    Case("push: most", ["RUN", "--to", "a/b", "--most", "-1"], ["--most -1", "at least 1"], command="grok_nb_push"),
    Case("gpu: item", ["modular-depth3"], ["item 'modular-depth3'", "did you mean 'modular-depth4'"], command="grok_nb_gpu"),
    Case("gpu: minutes", ["--minutes", "-1"], ["--minutes -1", "at least 1"], command="grok_nb_gpu"),
    Case("gpu: tables", ["--tables", "no"], ["--tables no", "no such folder"], command="grok_nb_gpu"),
    Case("gpu: corpus", ["--toy", "--corpus", "no.txt"], ["no.txt", "no such file"], command="grok_nb_gpu"),
    Case("gpu: out is a file", ["--out", "file"], ["--out file", "is a file"], write("file", b""), command="grok_nb_gpu"),
    Case("demo: seed", ["--seed", "x"], ["--seed", "'x'"], command="grok_nb_demo"),
    Case("demo: seed negative", ["--seed", "-1"], ["seed", "from 0 to"], command="grok_nb_demo"),
    Case("demo: workers", ["--workers", "-1"], ["workers = -1", "must be from 1"], command="grok_nb_demo"),
    Case("demo: flag", ["--worker-s", "2"], ["'--worker-s'", "did you mean '--workers'"], command="grok_nb_demo"),
    Case("demo: runs is a file", ["--runs", "file"], ["runs", "file"], write("file", b""), command="grok_nb_demo"),
    # what no file can be called, and what is none
    *(Case(f"{what} in --runs: {command[8:]}", [*typed, "--runs", name], ["runs", why], command=command)
      for what, name, why in (("300 bytes", "x"*300, "too long"), ("NUL", "a\0b", "null byte"), ("no home", "~nosuchuser", "home"))
      for command, typed in WITH_RUNS.items()),
    text("name of 300 bytes", ["--corpus", "x"*300 + ".txt"], "x"*59 + "…", "too long"),
    text("name of two lines", ["--corpus", "a\nb\x1b[31m.txt"], r"'a\nb\x1b[31m.txt'", "one line"),
    text("empty name", ["--corpus", ""], "''"),
    text("name with a NUL", ["--corpus", "a\0b.txt"], r"a\x00b.txt", "null byte"),
    text("pipe", ["--corpus", "a.txt"], "a.txt", "no regular file", prepare=lambda folder: os.mkfifo(folder/"a.txt")),
    text("pipe in a folder", ["--corpus", "a"], "a/z.jsonl", "no regular file",
         prepare=lambda folder: (write("a/a.txt", b"A fox.")(folder), os.mkfifo(folder/"a/z.jsonl"))),
    text("link in a folder", ["--corpus", "a"], "a/z.txt", "no such file",
         prepare=lambda folder: (write("a/a.txt", b"A fox.")(folder), os.symlink("nowhere", folder/"a/z.txt"))),
    *(text(f"device as {name}", ["--corpus", name], name, "no regular file",
           prepare=lambda folder, name=name: os.symlink("/dev/zero", folder/name)) for name in ("z.txt", "z.jsonl", "z.parquet", "z.txt.gz")),
    text("deep jsonl", ["--corpus", "a.jsonl"], "a.jsonl, line 1", "not JSON", prepare=write("a.jsonl", DEEP)),
    text("jsonl of lists", ["--corpus", "a.jsonl"], "a.jsonl, line 1", "list, no object", prepare=write("a.jsonl", b'["A fox."]')),
    *(text(f"tokenizer {name[:9]}", ["--corpus", "a.txt", "--set", f"tokenizer={name}"], "tokenizer", "hub allows", prepare=write("a.txt", b"A fox."))
      for name in ("a--b", "a..b", "a-", "a/b/c", "a/b--c", "x.git", "ü/ü", "x"*97, "x/" + "y"*97)),
    *(text(f"tokenizer of {what}", ["--corpus", "a.txt", "--set", "tokenizer=t"], "tokenizer 't'", why, prepare=made)
      for what, why, made in (
          ("garbage", "cannot be read", tokenizer(b"garbage")), ("nothing", "cannot be read", tokenizer(b"{}")),
          ("deep JSON", "cannot be read", tokenizer(DEEP)), ("no UTF-8", "cannot be read", tokenizer(b"\xff")),
          ("a list", "holds no object", tokenizer(b"[]", "tokenizer_config.json")),
          ("code", "never run", tokenizer(b'{"auto_map": {"AutoTokenizer": ["m.T", null]}}', "tokenizer_config.json")))),
    *(grammar_text(f"pairs={name}", "pairs", why) for name, why in (
        ("lists.jsonl", "line 1: list, no object"), ("numbers.jsonl", "line 2: int, no object"), ("deep.jsonl", "line 1: not JSON"),
        ("pipe.jsonl", "no regular file"), ("zero.parquet", "no regular file"), ("x"*300 + ".jsonl", "too long"), ("a\0b", "null byte"),
        ("a--b/c", "no such file"))),
    # numbers
    *(option(f"{name}={value}", f"{name} = '{value}'") for name in ("seed", "lr") for value in ("²", "１２", "٣")),
    *(Case(f"{words[0]} {words[1]}", ["modular", *words], [words[0], f"'{words[1]}'"], command=command)
      for command, *words in (("grok_nb_train", "--threads", "²"), ("grok_nb_train", "--threads", "１"),
                              ("grok_nb_sweep", "--seeds", "１"), ("grok_nb_sweep", "--workers", "２"))),
    *(Case(f"measure: --max-disk {size}", ["a/b", "--study", "copying", "--max-disk", size], [f"--max-disk '{size}'", "20GB"], command="grok_nb_measure")
      for size in ("1e400", "1e999", "1e99999", "１GB", "²", "0")),
    Case("sweep: engine option", [*SWEEP, "--engine", "slurm:local", "--engine-options", "x=²"], ["engine slurm:local"], command="grok_nb_sweep"),
    Case("set twice", options("seed=1", "seed=2"), ["--set seed", "twice"]),
    *(Case(f"{name}={value}", options("steps=9", "warmup_steps=0"), [f"{name} = '{value}'", "whole number"], env={name: value})
      for name, value in (("OMP_NUM_THREADS", "many"), ("WORLD_SIZE", "abc"), ("RANK", "abc"), ("LOCAL_WORLD_SIZE", "²"))),
    Case("RANK left over", options("steps=0"), ["steps = '0'"], env=dict(RANK="1")),
    Case("demo: OMP_NUM_THREADS", [], ["OMP_NUM_THREADS = 'many'"], command="grok_nb_demo", env=dict(OMP_NUM_THREADS="many")),
    Case("sweep: WORLD_SIZE", SWEEP, ["WORLD_SIZE = 'abc'"], command="grok_nb_sweep", env=dict(WORLD_SIZE="abc")),
    # names of functions and of sweeps
    *(Case(f"sweep: {flag} {path}", [*SWEEP, flag, path], [f"function '{path}'", "package.module:function"], command="grok_nb_sweep")
      for flag in ("--then", "--until") for path in (".os:x", "..", "os:sep", "os")),
    Case("sweep: long name", [*SWEEP, "--name", "x"*300], ["name '", "at most 60"], command="grok_nb_sweep"),
    # one readable line
    Case("5000 digits", options("n_id=" + "9"*5000), ["n_id = '999", "…"]),
    Case("5000 letters in a flag", ["modular", "--" + "x"*5000], ["'--xxx", "…", "--preset"]),
    Case("2500 words", ["modular", "--preset", "x "*2500], ["preset 'x x", "…", "paper"]),
    *(Case(f"{command[8:]}: ''", [""], ["''"], command=command) for command in ("grok_nb_runs", "grok_nb_claims", "grok_nb_demo", "grok_nb_report")),
    # where it is started
    *(Case(f"{command[8:]} in a folder that is gone", typed, ["working folder was removed"], command=command, env=dict(GROK_NB_RUNS=None))
      for command, typed in WITH_RUNS.items()),
    Case("settings.ini of another, in Latin-1", options("steps=0"), ["steps = '0'"],
         write("settings.ini", "[DEFAULT]\nname = é\n".encode("latin-1")), env=dict(GROK_NB_RUNS=None)),
    Case("runs: settings.ini in Latin-1", ["--tree", "x"], ["run 'x'"], write("settings.ini", b"name = \xe9"), command="grok_nb_runs", env=dict(GROK_NB_RUNS=None)),
    # other people's checkpoints
    *(Case(f"measure: {what}", [source, "--study", "copying"], [says], made, command="grok_nb_measure") for what, source, says, made in (
        ("no folder", "s", "s is no folder", lambda folder: None), ("empty folder", "s", "no checkpoint in s", lambda folder: (folder/"s").mkdir()),
        ("name of no hub", "a/b--c", "no model on the hub", lambda folder: None), ("300 bytes", "x"*300, "too long", lambda folder: None),
        ("no weights", "s", "no safetensors weights", checkpoint(b"{}")),
        ("config.json in Latin-1", "s", "config.json cannot be read", checkpoint(b'{"model_type": "\xe9"}', WEIGHTS)),
        ("config.json too deep", "s", "config.json cannot be read", checkpoint(DEEP, WEIGHTS)),
        ("config.json of a list", "s", "holds no object", checkpoint(b"[]", WEIGHTS)),
        ("code of the hub", "s", "kernels/x; it is never run", checkpoint(b'{"attn_implementation": "kernels/x"}', WEIGHTS)),
        ("index that points out", "s", "'../../x.safetensors'", checkpoint(b"{}", INDEX, "model-00001-of-00001.safetensors")),
        ("index of nothing", "s", "cannot be read", lambda folder: (
            checkpoint(b"{}", "model-00001-of-00001.safetensors")(folder), write("s/step1/model.safetensors.index.json", b"[]")(folder))))),
]
FINE = [
    Case("help", ["--help"], ["--preset", "--corpus"]),
    Case("list of options", ["modular", "--options"], ["n_id", "from 1 to"]),
    Case("report help", ["--help"], ["--out"], command="grok_nb_report"),
    Case("demo help", ["--help"], ["--workers"], command="grok_nb_demo"),
]


def edit(path, old, new):
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))


def existing(folder): return folder/"runs"/DEMO.replace(seed=1).run_id


def make_existing(folder):
    "A run that is there already, with a checkpoint and a line of metrics."
    run = Run.create(DEMO.replace(seed=1), folder/"runs")
    run.folder(0).mkdir(parents=True)
    (run.folder(0)/"model.safetensors").write_bytes(b"weights")
    run.append(step=0, tokens=0, seconds=0.0, rows=[])


def snapshot(folder):
    "Every path with its kind, time and content."
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "other")
            for p in sorted(folder.rglob("*")) if p.exists()}


@dataclass
class Outcome:
    status: int
    out: str
    err: str
    loaded: list
    before: dict
    after: dict


def places(folder):
    "Where a command that is started in this folder writes, and how it is told."
    return dict(GROK_NB_RUNS=str(folder/"runs"), HOME=str(folder), XDG_CACHE_HOME=str(folder/"cache"))


def python(code, *typed, folder, flags=(), **options):
    "A Python of its own, in this folder."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | places(folder) | dict(
        HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1",
        PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    return subprocess.Popen([sys.executable, *flags, "-c", code, *typed], cwd=folder, env=env, stdout=subprocess.PIPE, text=True, **options)


def outcome(case, folder, run):
    "What comes of a case in a new folder; `run` takes the words that are typed: status, stdout, stderr."
    folder.mkdir()
    make_existing(folder)
    case.prepare(folder)
    before = snapshot(folder)
    status, out, err = run([existing(folder).name if word == "RUN" else word for word in case.typed])
    out, _, loaded = out.rpartition("loaded:")
    return Outcome(status, out, err, loaded.split(), before, snapshot(folder))


def run_alone(case, folder):
    "As a shell starts it."
    def run(typed):
        process = python(CODE.replace("COMMAND", case.command), *typed, folder=folder, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err
    return outcome(case, folder, run)


@pytest.fixture(scope="module")
def run_case(tmp_path_factory):
    "Runs a case in a copy of the process that has all loaded."
    home = tmp_path_factory.mktemp("home")
    server = python(SERVER, folder=home, stdin=subprocess.PIPE)
    def run_case(case, folder):
        out, err = home/"out", home/"err"
        def run(typed):
            job = dict(command=case.command, typed=typed, folder=str(folder), env=places(folder) | case.env, gone="gone" in case.name, out=str(out), err=str(err))
            server.stdin.write(json.dumps(job) + "\n"); server.stdin.flush()
            return int(server.stdout.readline()), out.read_text(), err.read_text()
        return outcome(case, folder, run)
    yield run_case
    server.stdin.close()
    assert server.wait(PATIENCE) == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_mistake_is_one_line_and_writes_nothing(case, run_case, tmp_path):
    check_mistake(case, run_case(case, tmp_path/"here"))


def check_mistake(case, got):
    assert got.status == 2, (got.status, got.out, got.err)
    assert got.err.endswith("\n") and len(got.err.splitlines()) == 1, got.err
    assert got.err.startswith(f"{case.command}: ")
    for part in case.says: assert any(p in got.err for p in part.split("|")), (part, got.err)
    assert "InputError" not in got.err and not got.err.rstrip().endswith(":")
    assert got.out == ""
    assert not got.loaded
    assert got.after == got.before


@pytest.mark.parametrize("case", FINE, ids=lambda case: case.name)
def test_help_loads_nothing(case, run_case, tmp_path): check_help(case, run_case(case, tmp_path/"here"))


def check_help(case, got):
    assert got.status == 0 and got.err == ""
    for part in case.says: assert part in got.out
    assert not got.loaded and got.after == got.before


FIRST = {case.command: case for case in reversed(CASES)} # of every command


@pytest.mark.parametrize("case", [*FIRST.values(), FINE[0]], ids=lambda case: f"{case.command} {case.name}")
def test_a_process_of_its_own_says_the_same(case, run_case, tmp_path):
    "What a shell starts, and the copy of a process that the other cases have."
    alone, here = run_alone(case, tmp_path/"alone"), run_case(case, tmp_path/"here")
    (check_help if case in FINE else check_mistake)(case, alone)
    assert (alone.status, alone.out, alone.err, alone.loaded) == (here.status, here.out, here.err, here.loaded)


def test_docstrings_may_be_stripped(tmp_path):
    "`python -OO` takes docstrings away, which transformers needs: a command starts again without that."
    code = "from grok_nb.commands import *; import sys; print(sys.flags.optimize); grok_nb_train()"
    process = python(code, "--help", folder=tmp_path, flags=["-OO"], stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "") and out.startswith("2\n1\n") and "Train one run" in out


# ---- bad values, made from the type of each option ----

NO_TEXT = ["\0", "a\nb", "\x1b[31m", "\udcff", "\u202e", "x"*300, "x"*5000, "x "*2000, "²", "../x", "%s{}", "a b", "'", '"']
NO_NUMBER = ["", " ", "seven", "²", "１２", "٣", "0x10", "1,5", "1 2", "--1", "nan", "inf", "1e999", "9"*5000, "None", "[]", "\0", "1\n2", "x"*5000]
NO_PATH = ["\0", "a\0b", "x"*300, "x"*5000, "~nosuchuser", "~nosuchuser/x", "/".join(["x"*99]*50)]
NO_FILE = [*NO_PATH, "", "nothing", "../nothing", "a\nb", "\x1b[31m", "pipe.txt", "zero.txt", "gone.txt", "empty", "a/b--c", "²", "x "*2000, "\udcff"]
NO_NAME = [*NO_TEXT, "modula", "None", "-", "demo "]
NO_FUNCTION = [*NO_TEXT, ".os:x", "..", ".", ":", "os", "os:", "os:sep", ":x", "a b:c", "nowhere", "os:nothing"]
NO_SIZE = [*NO_NUMBER[1:], "0", "0.1", "1e400", "GB", "20XB", "-5GB", "1..2GB", "1e9999GB"]
NO_REVISION = [*NO_TEXT, "nothing*", "a:b", ",", "step9"]
NO_STEPS = [*NO_TEXT, "step", "{steps}", "{step}{step}", "{}", "*"]
NO_SETTING = [*NO_TEXT, "n_id", "=3", "", "n_id=", "n_id=²", "nothing=1"]

# What each option of a command takes, if its type does not say it: text.
BAD = dict(runs=[*NO_PATH, "file", "file/runs"], out=[*NO_PATH, "file"], corpus=NO_FILE, names=NO_FILE, source=NO_FILE, until=NO_FUNCTION, then=NO_FUNCTION, max_disk=NO_SIZE, revisions=NO_REVISION,
           steps=[*NO_STEPS, "epoch-{step}"],
           set=NO_SETTING, grid=NO_SETTING, engine_options=NO_SETTING[:-3], name=[name for name in NO_TEXT if name != "²"], run=NO_FILE, to=[*NO_TEXT, "", "b", "a/b/c", "a/b--c"])
BAD |= dict(items=NO_NAME, tables=[name for name in NO_FILE if name])
BAD |= dict.fromkeys("study preset device format by spacing engine".split(), NO_NAME)
BAD |= dict(verify=NO_NAME, log=[name for name in NO_NAME if name]) | dict.fromkeys(("config", "as_from"), [name for name in NO_FILE if name])
BAD |= dict(strip_prefix=NO_TEXT, ignore_tensors=[text for text in NO_TEXT if text.strip("x")])
BAD |= dict.fromkeys(("pairs", "tree", "tokenizer"), [name for name in NO_FILE if name]) | dict.fromkeys(("columns", "neighbour", "policy"), NO_NAME) # the empty one stands for none
OTHERS = dict(grok_nb_gpu=gpu.grok_nb_gpu, grok_nb_prune=prune.grok_nb_prune, grok_nb_push=push.grok_nb_push) # with pages of their own
RIGHT = dict(grok_nb_train=["modular"], grok_nb_sweep=SWEEP, grok_nb_report=["RUN"], grok_nb_demo=[], grok_nb_runs=[], grok_nb_claims=[],
             grok_nb_measure=["s", "--study", "copying"], grok_nb_prune=["RUN", "--dry-run"], grok_nb_push=["RUN", "--to", "a/b"],
             grok_nb_gpu=["modular-depth2", "--dry-run", "--toy"]) # what the commands take without a word


def main_of(command): return OTHERS.get(command) or getattr(commands, command)


def bad_commands():
    "Every option of every command, with one bad value each."
    for command, right in RIGHT.items():
        for name, p in inspect.signature(main_of(command).__wrapped__).parameters.items():
            kind = getattr(p.annotation, "type", p.annotation)
            bad = BAD[name] if kind is str else [*NO_NUMBER, "-1", "1.5"] if kind is int else ["x"]
            for value in bad if command != "grok_nb_claims" else filter(None, bad): # nothing is no value there
                if name in ("study", "source", "names", "run", "items") and right[:1] and right[0] != "--study": yield command, [value, *right[1:]]
                elif name == "corpus" and right == ["modular"]: yield command, [f"--corpus={value}"]
                else: yield command, [*right, f"--{name.removeprefix('as_').replace('_', '-')}={value}"]


def bad_options():
    "Every option of every study, with one bad value each."
    for name in (*wings, "corpus"):
        study = studies[name]
        for f in fields(study.Config):
            low, high, choices = (f.metadata[k] for k in ("low", "high", "choices"))
            if choices: bad = [*NO_NAME, "", None, 1, []]
            elif f.type is bool: bad = [*NO_TEXT, "", "2", "maybe", 2, None]
            elif f.type in (int, float): bad = [*NO_NUMBER, low - 1, high*1.5 + 1, str(high*2 + 1), None, True, [], float("nan"), 10**400]
            else: continue # text: the functions below
            for value in bad: yield (lambda v, study=study, option=f.name: study.config(**{option: v})), value


def bad_calls():
    "Functions that are given what a user wrote, with one bad value each."
    from grok_nb import engines, series, sweeps, texts
    from grok_nb.grammar.pair_files import column_names
    from grok_nb.grammar.presets import pairs_fingerprint_of
    from grok_nb.see.formats import form_of
    text, grammar_text = (partial(studies[name].config, "text", corpus="a.txt") for name in ("corpus", "grammar"))
    names = BAD["tree"] # but for the empty one, which stands for none
    facts = dict(study="modular", preset="demo")
    for function, values in (
            (runs_root, BAD["runs"]), (Run, NO_FILE), (commands.find_run, NO_FILE), (sweeps.read_sweep, NO_FILE), (series.Series, NO_FILE),
            (texts.open_texts, [*NO_FILE, [], None, 5, ["a.txt", "nothing"]]), (texts.check_tokenizer, NO_FILE), (texts.load_tokenizer, NO_FILE),
            (lambda v: text(tokenizer=v), names), (lambda v: studies["corpus"].config(corpus=v).slug(), NO_FILE), (lambda v: grammar_text(pairs=v), names),
            (lambda v: pairs_fingerprint_of(v, ""), NO_FILE), (lambda v: pairs_fingerprint_of("pairs.jsonl", v), NO_NAME),
            (lambda v: pairs_fingerprint_of("pairs.jsonl", "", v), [*NO_NAME, "good=", "good=nothing", "x=1"]), (column_names, NO_NAME),
            (lambda v: series.choose(["step1", "step2"], v), NO_REVISION), (lambda v: series.step_of("step1", v), NO_STEPS), (commands.in_bytes, NO_SIZE), (form_of, [name for name in NO_PATH if name]),
            (lambda v: form_of("", v), NO_NAME), (engines.named, NO_FUNCTION), (engines.check_engine, NO_NAME), (engines.check_workers, [-1, 0, 10**6, 10**400]),
            (lambda v: sweeps.sweep_folder(facts, "r", v), BAD["name"]), (lambda v: sweeps.plan("modular", "demo", {v: [1]}), NO_TEXT),
            (lambda v: sweeps.plan("modular", "demo", dict(n_id=[8, v])), NO_NUMBER), (lambda v: sweeps.plan("modular", "demo", seeds=[0, v]), NO_NUMBER),
            (lambda v: sweeps.plan("modular", "demo", dict(at=[v])), [*NO_NUMBER, "-1"]), *((lambda v, name=name: study.config("demo", **{name: v}), [*NO_TEXT, "0.", "0.1=", "1@", "@1"]) for name in ("start", "clamp", "freeze")),
            (lambda v: sweeps.plan(v, "demo"), NO_NAME), (lambda v: sweeps.plan("modular", v), NO_NAME), (studies.__getitem__, NO_NAME),
            (lambda v: commands.changes([v]), ["x", "=1", *NO_TEXT]), (lambda v: studies["modular"].config(**{v: 1}), [*NO_TEXT, ""])):
        for value in values: yield function, value


def what_is_wrong(said, start=""):
    "Of a message that should be one readable line."
    if not said.isprintable(): return "not printable"
    if not said.startswith(start) or len(said) > 1500 or len(max(said.split(" "), key=len)) > 300: return "not readable"


@pytest.fixture
def bad_place(tmp_path, monkeypatch):
    "A folder with a run, a text, pairs, a series, and things that are not what they should be."
    folder = tmp_path/"here"
    folder.mkdir()
    make_existing(folder)
    texts_and_pairs(folder)
    checkpoint(b"{}", WEIGHTS)(folder)
    (folder/"empty").mkdir()
    (folder/"file").write_bytes(b"")
    os.mkfifo(folder/"pipe.txt")
    for name, target in (("zero.txt", "/dev/zero"), ("gone.txt", "nowhere")): os.symlink(target, folder/name)
    monkeypatch.chdir(folder)
    for name, value in places(folder).items(): monkeypatch.setenv(name, value)
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_generated_bad_values(bad_place, survived):
    "Thousands of bad values in this process: each is refused in one readable line, nothing is written, torch is not loaded."
    wrong, n, before, loaded = [], 0, snapshot(bad_place), "torch" in sys.modules
    for command, typed in bad_commands():
        typed, said, out, status = [existing(bad_place).name if word == "RUN" else word for word in typed], io.StringIO(), io.StringIO(), None
        try:
            with redirect_stderr(said), redirect_stdout(out): main_of(command)(typed)
        except BaseException as e: status = e.code if isinstance(e, SystemExit) else repr(e)
        fault = f"status {status}" if status != 2 else what_is_wrong(said.getvalue().removesuffix("\n"), f"{command}: ") or "output" * bool(out.getvalue())
        if fault: wrong.append(f"{command} {typed!r:.100}: {fault}, {said.getvalue()[:200]!r}")
        n += 1
    for function, value in (*bad_options(), *bad_calls()):
        try: function(value); fault = "accepted"
        except InputError as e: fault = what_is_wrong(str(e))
        except Exception as e: fault = repr(e)[:200]
        if fault: wrong.append(f"{inspect.getsource(function).strip()[:150] if function.__name__ == '<lambda>' else function} {value!r:.80}: {fault}")
        n += 1
    assert not wrong, f"{len(wrong)} of {n}:\n" + "\n".join(wrong[:40])
    assert n > 3000
    assert snapshot(bad_place) == before
    assert loaded or "torch" not in sys.modules
    survived("input", n)


# ---- a configuration: values → text → values ----

def values(f):
    "Any allowed value of an option."
    low, high, choices = (f.metadata[k] for k in ("low", "high", "choices"))
    if choices: return st.sampled_from(choices)
    if f.type is bool: return st.booleans()
    if f.type is int: return st.integers(low, high)
    if f.type is float: return st.floats(low, high, allow_nan=False)
    return st.text(st.characters(codec="utf-8"), max_size=20)


NOT_HERE = {"steps", "warmup_steps", "batch_size", "accumulation", "start", "clamp", "freeze", "hold_until"} # they depend on each other
CORE = [f for f in fields(Config) if f.name not in NOT_HERE]
HASHED = {f.name for f in fields(Config) if f.metadata["hashed"]}


@st.composite
def configs(draw):
    steps, batch_size = draw(st.integers(1, 10**8)), draw(st.integers(1, 10**6))
    together = dict(steps=steps, warmup_steps=draw(st.integers(0, steps)),
                    batch_size=batch_size, accumulation=draw(st.integers(1, min(batch_size, 10**4))))
    some = draw(st.lists(st.sampled_from(CORE), unique_by=lambda f: f.name, max_size=8))
    return Config(**together, **{f.name: draw(values(f)) for f in some})


@given(configs(), st.randoms())
def test_configuration_survives_text_and_json(config, random):
    as_text = {k: str(v) for k, v in config.options().items()}
    names = list(as_text)
    random.shuffle(names)
    for again in (Config(**{n: as_text[n] for n in names}), Config().replace(**as_text), Config(**json.loads(json.dumps(config.options()))),
                  Config(**config.options())):
        assert again == config and again.run_id == config.run_id
        assert [type(v) for v in again.options().values()] == [type(v) for v in config.options().values()]
    loud = Config(**{k: v.upper() if v in ("True", "False") else f" {v} " if k in ("lr", "seed") else v for k, v in as_text.items()})
    assert loud == config


@given(st.data())
def test_run_id_changes_with_every_hashed_option(data):
    config = data.draw(configs())
    f = data.draw(st.sampled_from(CORE))
    other = data.draw(values(f).filter(lambda v: v != getattr(config, f.name)))
    changed = config.replace(**{f.name: other})
    assert changed != config
    assert (changed.run_id != config.run_id) == (f.name in HASHED)


@pytest.mark.parametrize("base", ids=["modular", "corpus"], argvalues=[
    DEMO, corpus.presets["text"].replace(corpus=str(ROOT/"README.md"), fingerprint="known")])
def test_every_option_of_a_study_counts(base):
    "Each option changed alone: the run's name changes if the option is hashed, and only then."
    fit = dict(p=11, n_id=36, width=base.width*2, heads=2, vocab_size=base.vocab_size + 500, batch_size=base.batch_size*2,
               limit_tokens=10**5, start="other@0", clamp="0.0=zero", freeze="embeddings")
    ids = {base.run_id}
    for f in fields(base):
        old = getattr(base, f.name)
        if f.name in ("paper_compat", "hold_until"): continue # need other options with them
        if f.metadata["choices"]: new = next(c for c in f.metadata["choices"] if c != old)
        elif f.name in fit: new = fit[f.name]
        else: new = {bool: lambda: not old, int: lambda: old + 1, float: lambda: old*.9 or .01, str: lambda: old + "x"}[f.type]()
        changed = type(base)(**base.options() | {f.name: new})
        assert (changed.run_id not in ids) == bool(f.metadata["hashed"]), f.name
        ids.add(changed.run_id)


@given(st.sampled_from([f for f in CORE if f.type in (int, float)]), st.data())
def test_what_is_out_of_range_is_refused_in_one_line(f, data):
    low, high = f.metadata["low"], f.metadata["high"]
    numbers = st.integers if f.type is int else lambda *limits: st.floats(*limits, allow_nan=False, allow_infinity=False)
    wrong = data.draw(st.one_of(
        numbers(None, low).filter(lambda v: v < low), numbers(high, None).filter(lambda v: v > high),
        st.sampled_from([float("nan"), float("inf"), float("-inf"), None, True, "", "seven", "1,5", "0x10", [], {}]),
        st.text(max_size=10).filter(lambda s: not is_number(s)),
        st.floats(low, min(high, 1e6)).filter(lambda v: v != int(v)) if f.type is int else st.nothing()))
    for value in (wrong, str(wrong)) if not isinstance(wrong, bool) else (wrong,):
        with pytest.raises(InputError) as error: Config(**{f.name: value})
        assert str(error.value).startswith(f"{f.name} = ") and len(str(error.value).splitlines()) == 1


def is_number(s):
    try: float(s)
    except ValueError: return False
    return True


@given(st.text(max_size=20).filter(lambda s: s not in {f.name for f in fields(Config)}))
def test_unknown_option_is_refused_in_one_line(name):
    with pytest.raises(InputError) as error: Config().replace(**{name: 1})
    assert len(str(error.value).splitlines()) == 1 and "weight_decay" in str(error.value)


@dataclass(frozen=True, kw_only=True)
class Loose(Config):
    "Options with one limit or none."
    least: int = runs.option(1, "", low=1)
    most: float = runs.option(0., "", high=1.)
    free: float = runs.option(0., "")
    whether: bool = runs.option(False, "")
    few: int = runs.option(1, "", choices=(1, 3))
    words: str = runs.option("", "")


@pytest.mark.parametrize("name, wrong, said", [
    ("least", 0, "must be a whole number, at least 1"), ("most", 1.1, "must be a number, at most 1.0"), ("free", "nan", "must be a number"), ("free", "-inf", "must be a number"),
    ("free", True, "must be a number"), ("least", "²", "must be a whole number, at least 1"), ("whether", "maybe", "must be true or false"), ("few", 2, "must be one of 1, 3")])
def test_an_option_says_its_range(name, wrong, said):
    with pytest.raises(InputError) as error: Loose(**{name: wrong})
    assert str(error.value) == f"{name} = {wrong!r}: {said}"


def test_what_is_meant_is_taken():
    yes, no = ("true", "True", "1", "yes", "YES", 1, True), ("false", "FALSE", "0", "no", 0, False)
    assert all(Loose(whether=y).whether is True for y in yes) and all(Loose(whether=n).whether is False for n in no)
    assert (Loose(least=1, most=1, few="3").few, Loose(free="-1e300").free, Loose(words=7).words) == (3, -1e300, "7")
    assert str(Loose(free=-0.).free) == "0.0" and Loose(free=-0.).run_id == Loose().run_id # must not be another run


def test_the_folder_of_runs(tmp_path, monkeypatch):
    "Given; else named by the environment; else beside the settings of this repository, from anywhere in it; else here."
    monkeypatch.setenv("GROK_NB_RUNS", "from environment")
    inner = tmp_path/"repository"/"a"/"b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert runs_root() == inner/"from environment" and runs_root("given") == runs_root(inner/"given") == inner/"given"
    monkeypatch.delenv("GROK_NB_RUNS")
    assert runs_root() == inner/"runs"
    about = tmp_path/"repository"/"settings.ini"
    about.write_text("lib_name = another")
    assert runs_root() == inner/"runs"
    about.write_text("[DEFAULT]\nlib_name = grok_nb\n")
    assert runs_root() == tmp_path/"repository"/"runs"
    (inner/"file").write_text("")
    for name in ("file", "file/runs"):
        with pytest.raises(InputError, match="file is a file, no folder"): runs_root(name)


@settings(max_examples=10)
@given(st.sampled_from([5, 7, 11]), st.integers(0, 10**6), st.floats(.1, .9), st.integers(1, 4))
def test_a_modular_configuration_is_its_folder(tmp_path_factory, p, seed, alpha, depth):
    config = study.config("demo", p=p, n_id=8, seed=seed, alpha=alpha, depth=depth)
    root = tmp_path_factory.mktemp("runs")
    run = Run.create(config, root)
    assert Run(run.path).config == config and run.path == root/config.run_id
    assert [path.name for path in run.path.iterdir()] == ["config.json"] and run.state == "new"
    assert study.config("demo", **{k: str(v) for k, v in config.options().items()}) == config
