"Exposure against a brute-force definition: what a batch shows, at which step a phrase was seen, and adding, resuming and refusing."
import json
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil # which accelerate needs, too
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from grok_nb import InputError, RunError
from grok_nb.corpus import study
from grok_nb.grammar import exposure
from grok_nb.grammar.exposure import (Exposures, Part, StepTexts, _identity, count_texts, dose_figure, dose_table, expose,
                                      exposure_index, phrases_of, proxy_split, seen_tokens, token_counts)
from grok_nb.grammar.search import check_phrases
from grok_nb.runs import Run
from grok_nb.streams import TextStream, prepare_corpus
from grok_nb.texts import open_texts

WORDS = ["a", "ab", "the", "This", "sketch", "sketches", "there's", "naïve", "ÉTÉ", "x-ray", "internationalisation", "8", "чай", "日本", "“yes”", "no—",
         "’tis"]
texts = st.lists(st.sampled_from(WORDS + [" ", "\n", ", ", "’", "\0"] * 3), max_size=30).map("".join)
phrases = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=12)


@lru_cache(64)
def normalised(text): return re.sub(r"\s+", " ", "".join(c.lower() for c in text).replace("’", "'"))


def occurrences(text, phrase):
    "The definition: every place, overlapping ones too, that neither begins nor ends inside a word."
    inside = {i for m in re.finditer(r"\w+('\w+)*", normalised(text)) for i in range(m.start() + 1, m.end())}
    return sum(not {m.start(), m.start() + len(phrase)} & inside for m in re.finditer(f"(?={re.escape(phrase)})", normalised(text)))


# occurrences by step

steps_and_texts = st.lists(st.tuples(st.integers(0, 3), texts), max_size=6).map(lambda each: sorted(each, key=lambda pair: pair[0]))


@settings(max_examples=20)
@given(steps_and_texts, phrases)
def test_windows_first_and_last_are_as_defined(each, sought):
    sought = check_phrases(sought)
    rows, size = count_texts(sought, each)
    index = Exposures(sought, rows, (Part("a", "", "", 0, 1),), size)
    counts = np.array([[occurrences(text, p) for p in sought] for _, text in each], dtype=int).reshape(len(each), len(sought))
    steps = np.array([step for step, _ in each], dtype=int)
    for step in (*range(-1, 4), None):
        inside = counts * (steps <= (9 if step is None else step))[:, None]
        ends = [(at[0], at[-1]) if len(at := steps[column > 0]) else (np.nan, np.nan) for column in inside.T]
        assert np.array_equal(index.seen(step), np.column_stack([inside.sum(0), ends]), equal_nan=True)
        assert list(index.window(step)) == list(inside.sum(0))
    assert index.occurrences["count"].sum() == counts.sum() and size == sum(len(text.replace("\0", "").encode()) for _, text in each)


@settings(max_examples=20)
@given(steps_and_texts, phrases, st.integers(0, 6))
def test_shards_added_are_the_whole_in_any_order(each, sought, cut):
    sought = check_phrases(sought)
    make = lambda part, begin, end: Exposures(sought, *count_texts(sought, part)[:1], (Part("a", "", "", begin, end),))
    whole, first, second = make(each, 0, 9), make(each[:cut], 0, 4), make(each[cut:], 4, 9)
    for added in (first + second, second + first):
        assert np.array_equal(added.rows, whole.rows) and added.parts == whole.parts


def test_what_does_not_add():
    index = lambda *phrases, begin=0, end=5, corpus="a": Exposures(phrases, parts=(Part(corpus, "", "", begin, end),))
    with pytest.raises(InputError, match="different lists of phrases"): index("a") + index("b")
    with pytest.raises(InputError, match=r"both hold 3 … 4 of the same text"): index("a") + index("a", begin=3, end=9)
    assert len((index("a") + index("a", corpus="b")).parts) == 2
    assert "never" in repr(index("a"))
    with pytest.raises(InputError, match=r"different rules of words \(english, elision\)"): index("a") + Exposures(("a",), words="elision")


@pytest.fixture
def french(tmp_path):
    (tmp_path/"french.jsonl").write_text("".join(json.dumps(dict(text=t)) + "\n" for t in ("C'est qu'un homme.", "L’e\u0301te\u0301, un homme", "l'homme")))
    return tmp_path/"french.jsonl"


@pytest.mark.parametrize("workers", [1, 2])
def test_either_rule_of_words_in_one_process_and_in_two(french, monkeypatch, workers):
    monkeypatch.setattr(exposure, "task_size", 10)
    for rule, counts in (("english", [1, 0, 0]), ("elision", [2, 2, 1])):
        index = exposure_index(french, ["un homme", "l'", "été"], workers=workers, words=rule)
        assert index.words == rule and index.window().tolist() == counts and f"words: {rule}" in repr(index)
    with pytest.raises(InputError, match="words = 'french': must be one of english, elision"): exposure_index(french, ["a"], words="french")


def test_a_saved_index_keeps_its_rule_of_words(french, tmp_path):
    path = tmp_path/"index.parquet"
    made = exposure_index(french, ["un homme"], words="elision", path=path)
    assert Exposures.load(path).words == "elision" and same(exposure_index(french, ["un homme"], words="elision", path=path), made)
    with pytest.raises(InputError, match=r"another rule of words \(elision\)"): exposure_index(french, ["un homme"], path=path)
    table = pq.read_table(path) # as it was written before rules were kept
    facts = json.loads(table.schema.metadata[b"exposures"])
    del facts["words"]
    pq.write_table(table.replace_schema_metadata(dict(exposures=json.dumps(facts))), path)
    old = Exposures.load(path)
    assert old.words == "" and "rule unknown" in repr(old) and old.window().tolist() == [2]
    with pytest.raises(InputError, match=r"another rule of words \(unknown\)"): exposure_index(french, ["un homme"], words="elision", path=path)
    with pytest.raises(InputError, match=r"rules of words \(unknown, elision\)"): old + Exposures(old.phrases, words="elision")


# from files

@pytest.fixture
def files(tmp_path):
    g, words = np.random.default_rng(1), np.array([w for w in WORDS if w.strip()])
    documents = [" ".join(g.choice(words, g.integers(1, 60))) for _ in range(23)]
    for name, part in (("a", documents[:10]), ("b", documents[10:])):
        (tmp_path/f"{name}.jsonl").write_text("".join(json.dumps(dict(text=d)) + "\n" for d in part))
    sought = check_phrases([" ".join(g.choice(words, n)) for n in g.integers(1, 3, 120)])
    return SimpleNamespace(paths=[tmp_path/"a.jsonl", tmp_path/"b.jsonl"], documents=documents, phrases=sought, folder=tmp_path)


def same(one, other): return np.array_equal(one.rows, other.rows) and one.parts == other.parts and one.size == other.size


def expected(texts_by_step, sought):
    rows = [(step, i, n) for step, each in texts_by_step.items() for i, p in enumerate(sought) if (n := sum(occurrences(t, p) for t in each))]
    return np.array(sorted(rows), dtype=np.int64).T


@pytest.mark.parametrize("per_step", [None, 1, 4, 100])
def test_documents_of_files(files, per_step):
    by_step = {}
    for i, text in enumerate(files.documents): by_step.setdefault(i // per_step + 1 if per_step else 0, []).append(text)
    index = exposure_index(files.paths, files.phrases, documents_per_step=per_step)
    assert np.array_equal(index.rows, expected(by_step, files.phrases))
    assert same(exposure_index(open_texts(files.paths), files.phrases, documents_per_step=per_step), index)


def test_small_tasks_processes_and_engines_give_the_same(files, monkeypatch):
    whole = exposure_index(files.paths, files.phrases, documents_per_step=2)
    assert same(exposure_index(files.paths, files.phrases, documents_per_step=2, save_every=0), whole)
    monkeypatch.setattr(exposure, "task_size", 200)
    assert same(exposure_index(files.paths, files.phrases, documents_per_step=2, save_every=0), whole)
    with ThreadPoolExecutor(2) as engine: assert same(exposure_index(files.paths, files.phrases, documents_per_step=2, engine=engine), whole)
    assert same(exposure_index(files.paths, files.phrases, documents_per_step=2, workers=2), whole)
    halves = [exposure_index(files.paths, files.phrases, steps, 2) for steps in (range(0, 5), range(5, 12))]
    assert np.array_equal((halves[0] + halves[1]).rows, whole.rows) and (halves[0] + halves[1]).size == whole.size


class Interrupted(Exception): pass


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_pass_goes_on(files, monkeypatch, stop):
    monkeypatch.setattr(exposure, "task_size", 200)
    path, whole, real, calls = files.folder/"index.parquet", exposure_index(files.paths, files.phrases, documents_per_step=2), exposure.count_texts, []
    def counted(phrases, each):
        calls.append(each)
        if len(calls) == stop + 1: raise Interrupted
        return real(phrases, each)
    monkeypatch.setattr(exposure, "count_texts", counted)
    with pytest.raises(Interrupted): exposure_index(files.paths, files.phrases, documents_per_step=2, path=path)
    half = Exposures.load(path)
    assert 0 < half.parts[0].end < len(files.documents) and not half.parts[0].whole and 0 < half.size < whole.size
    later = exposure_index(files.paths, files.phrases, documents_per_step=2, path=path)
    assert same(later, whole) and same(Exposures.load(path), whole)
    done = len(calls)
    assert same(exposure_index(files.paths, files.phrases, documents_per_step=2, path=path), whole) and len(calls) == done


def test_a_saved_index_of_something_else_is_refused(files):
    path = files.folder/"index.parquet"
    exposure_index(files.paths, files.phrases, path=path)
    before = path.read_bytes()
    for arguments, said in [((files.paths, ["another"]), "another list of phrases"), ((files.paths[:1], files.phrases), "another corpus"),
                            ((files.paths, files.phrases, None, 3), "another order of batches or documents")]:
        with pytest.raises(InputError, match=said): exposure_index(*arguments, path=path)
    assert path.read_bytes() == before
    for junk in (b"junk", b""):
        path.write_bytes(junk)
        with pytest.raises(InputError, match="cannot be read"): exposure_index(files.paths, files.phrases, path=path)
    pq.write_table(pa.table(dict(x=[1])), path)
    with pytest.raises(InputError, match="cannot be read"): Exposures.load(path)
    blocked = files.folder/"a.jsonl"/"index.parquet"
    with pytest.raises(InputError, match="cannot be written"): exposure_index(files.paths, files.phrases, path=blocked)


def test_a_corpus_that_changes_while_it_is_read(files, monkeypatch):
    path, real = files.folder/"index.parquet", exposure.count_texts
    def meddling(*arguments):
        with open(files.paths[0], "a") as file: file.write(json.dumps(dict(text="one more")) + "\n")
        return real(*arguments)
    monkeypatch.setattr(exposure, "count_texts", meddling)
    with pytest.raises(InputError, match="changed while it was read"): exposure_index(files.paths, files.phrases, path=path)
    assert not path.exists()


@pytest.mark.parametrize("options, said", [(dict(steps=0), "steps"), (dict(steps=range(3, 3)), "steps"), (dict(steps=3), "documents_per_step"),
                                           (dict(workers=0), "workers"), (dict(documents_per_step=0), "documents_per_step")])
def test_options_that_make_no_sense(files, options, said):
    with pytest.raises(InputError, match=said): exposure_index(files.paths, files.phrases, **options)


# from what a model really saw

@pytest.fixture
def corpus(files): return prepare_corpus(files.paths, files.folder/"corpora", vocab_size=320, held_out=0)


def rows_of(stream, step):
    "The texts of a batch, slowly: row by row, token by token."
    batch, tokenizer, found = stream.batch(step), stream.tokenizer, []
    for ids, seen in zip(batch["input_ids"].tolist(), seen_tokens(batch).tolist()):
        text = []
        for token, real in zip(ids + [None], seen + [False]):
            if real and token not in tokenizer.all_special_ids: text.append(token)
            elif text: found.append(tokenizer.backend_tokenizer.decode(text)); text = []
    return found


@pytest.mark.parametrize("layout, bos", [("packed", False), ("document", False), ("document", True)])
def test_a_run_shows_what_its_batches_hold(files, corpus, layout, bos):
    stream = TextStream(corpus, context=24, batch_size=3, seed=1, layout=layout, bos=bos)
    read = StepTexts(stream)
    for step in range(6): assert [t for t in read(step).split("\0") if t] == rows_of(stream, step)
    index = exposure_index(stream, files.phrases, 6)
    assert np.array_equal(index.rows, expected({step + 1: rows_of(stream, step) for step in range(6)}, files.phrases))
    assert same(index, exposure_index(stream, files.phrases, range(0, 2)) + exposure_index(stream, files.phrases, range(2, 6)))


class Elsewhere:
    "An engine that gets its work as another process does: in bytes."
    def __init__(self): self.sent = []
    def submit(self, *work):
        self.sent.append(pickle.dumps(work))
        function, *arguments = pickle.loads(self.sent[-1])
        job = Future()
        job.set_result(function(*arguments))
        return job


@pytest.mark.parametrize("options", [{}, dict(seed=1, layout="document", bos=True)])
def test_a_worker_makes_the_stream_itself(files, corpus, options, monkeypatch):
    stream, engine = TextStream(corpus, context=24, batch_size=3, **options), Elsewhere()
    monkeypatch.setattr(exposure, "task_size", 4 * 3 * stream.tokens_per_batch)
    assert same(exposure_index(stream, files.phrases[:5], 8, engine=engine), exposure_index(stream, files.phrases[:5], 8))
    assert len(engine.sent) == 3 and max(map(len, engine.sent)) < 1000 # without its data


def test_a_run_is_read_to_its_last_step(files):
    config = study.Config(corpus=str(files.folder/"a.jsonl"), vocab_size=300, context=16, batch_size=2, width=16, heads=2, depth=1, steps=5)
    run = Run.create(config, files.folder/"runs")
    index = exposure_index(run, files.phrases)
    assert same(index, exposure_index(run.stream, files.phrases, 5)) and index.parts[0].end == 5
    assert same(index, exposure_index(run, files.phrases, engine=Elsewhere()))


def test_a_stream_goes_on_and_is_known_by_its_batches(files, corpus):
    stream, path = TextStream(corpus, context=24, batch_size=3), files.folder/"index.parquet"
    exposure_index(stream, files.phrases, 3, path=path)
    assert same(exposure_index(stream, files.phrases, 7, path=path), exposure_index(stream, files.phrases, 7))
    with pytest.raises(InputError, match="another range of steps"): exposure_index(stream, files.phrases, 3, path=path)
    with pytest.raises(InputError, match="another range of steps"): exposure_index(stream, files.phrases, range(1, 9), path=path)
    for other in (dict(seed=1), dict(context=25), dict(layout="document")):
        unlike = TextStream(corpus, **dict(context=24, batch_size=3) | other)
        with pytest.raises(InputError, match="another order"): exposure_index(unlike, files.phrases, 7, path=path)
    with pytest.raises(InputError, match="say how many training steps"): exposure_index(stream, files.phrases)
    other = prepare_corpus(files.paths, files.folder/"corpora", vocab_size=300, held_out=0)
    with pytest.raises(InputError, match="another (corpus|tokenizer)"): exposure_index(TextStream(other, context=24, batch_size=3), files.phrases, 7, path=path)


def test_tokens_that_change_while_they_are_read(files, corpus, monkeypatch):
    stream, real = TextStream(corpus, context=24, batch_size=3), exposure.count_texts
    def meddling(*arguments):
        with open(corpus.folder/"train.tokens", "r+b") as file: file.seek(-4, 2); file.write(b"\1\0\1\0")
        return real(*arguments)
    monkeypatch.setattr(exposure, "count_texts", meddling)
    with pytest.raises(InputError, match="changed while it was read"): exposure_index(stream, files.phrases, 2)


class Fake:
    "A stream of our own making: rows of given texts, padded as they come."
    tokens_per_batch = 32
    def __init__(self, tokenizer, texts, masked=True, dose=0): self.tokenizer, self.texts, self.masked, self.dose = tokenizer, texts, masked, dose
    def batch(self, step):
        rows = [self.tokenizer.encode(t, add_special_tokens=False)[:32] for t in self.texts[step % len(self.texts)]]
        ids, real = np.full((len(rows), 32), 65), np.zeros((len(rows), 32), dtype=bool) # the padding is a letter, to be told by the mask alone
        for i, row in enumerate(rows): ids[i, :len(row)], real[i, :len(row)] = row, True
        return dict(input_ids=ids, labels=np.where(real, ids, -100)) | (dict(attention_mask=real.astype(np.int64)) if self.masked else {})


def pieces_tokenizer(texts, tmp_path):
    "One that is not byte-level: words behind ▁, as T5's."
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder, made.normalizer = pre_tokenizers.Metaspace(), decoders.Metaspace(), normalizers.NFKC()
    made.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=200, special_tokens=["</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>", pad_token="</s>")


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize("masked", [True, False])
def test_any_stream_with_a_tokenizer(files, corpus, kind, masked):
    texts = [["the sketch", "This sketch, the a", "a"], ["ab the sketches this sketch"]]
    tokenizer = corpus.tokenizer if kind == "bytes" else pieces_tokenizer(files.documents + sum(texts, []), files.folder)
    stream = Fake(tokenizer, texts, masked)
    assert [t for t in StepTexts(stream)(0).split("\0") if t] == rows_of(stream, 0) == texts[0]
    index = exposure_index(stream, ["this sketch", "the", "sketch the"], 4)
    assert list(index.seen().loc["this sketch"]) == [4, 1, 4] and list(index.window(1)) == [1, 2, 0]
    assert token_counts(stream, 4).sum() == sum(seen_tokens(stream.batch(s)).sum() for s in range(4))


def test_what_is_no_text(corpus):
    with pytest.raises(InputError, match="no tokenizer"): exposure_index(SimpleNamespace(batch=None), ["a"], 3)
    stream = Fake(corpus.tokenizer, [["a"]])
    assert _identity(stream) != _identity(Fake(corpus.tokenizer, [["a"]], dose=1)) # planted later: the first batch does not tell
    stream.batch = lambda step: dict(input_ids=np.full((1, 4), 999), labels=np.full((1, 4), 999))
    with pytest.raises(InputError, match="not the one it was made with"): exposure_index(stream, ["a"], 3)


def test_every_byte_is_decoded_as_the_tokenizer_does(corpus):
    ids = np.random.default_rng(0).integers(0, len(corpus.tokenizer), (40, 32)) # broken characters and all
    stream = SimpleNamespace(tokenizer=corpus.tokenizer, batch=lambda step: dict(input_ids=ids, labels=ids))
    assert [t for t in StepTexts(stream)(0).split("\0") if t] == [t for text in rows_of(stream, 0) for t in text.split("\0") if t]


@pytest.mark.promise("kills")
def test_a_worker_that_is_killed(files, monkeypatch):
    monkeypatch.setattr(exposure, "_results", lambda source, phrases, words, begin, pool, ahead: iter([pool.submit(os._exit, 1).result()]))
    with pytest.raises(RunError, match="a worker process was killed"): exposure_index(files.paths, files.phrases, workers=2)
    assert not [p for p in psutil.Process().children() if "grok_nb.engines" in " ".join(p.cmdline())]


def test_a_plain_script_needs_no_guard(files, tmp_path):
    script = tmp_path / "plain.py"
    script.write_text("from grok_nb.grammar.exposure import exposure_index\n"
                      f"print(exposure_index({[*map(str, files.paths)]!r}, ['this sketch'], workers=2).size)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert int(done.stdout) == exposure_index(files.paths, ["this sketch"]).size # once: nothing of the script is run again


def test_a_stream_of_the_script_itself(corpus, tmp_path):
    "No process but the script's own knows its class: that is said, whether the script has a guard or not."
    script = tmp_path / "plain.py"
    stream = (f"import numpy as np\nfrom grok_nb.streams import Corpus\nfrom grok_nb.grammar.exposure import exposure_index\n"
              f"class Mine:\n    tokens_per_batch, tokenizer = 4, Corpus({str(corpus.folder)!r}).tokenizer\n"
              "    def batch(self, step): return dict.fromkeys(('input_ids', 'labels'), np.full((1, 4), 3))\n")
    script.write_text(f"{stream}exposure_index(Mine(), ['a'], 3, workers=2)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("grok_nb.InputError: workers: ") and "'Mine'" in last and "put it into a module" in last and "main guard" in last
    class Local(Fake): pass
    with pytest.raises(InputError, match="workers: .*Local.*put it into a module"): exposure_index(Local(corpus.tokenizer, [["a"]]), ["a"], 3, workers=2)


# pairs

@pytest.fixture
def pairs():
    table = [("one", "this sketch", "this sketches"), ("one", "these", "the"), ("two", "no dog", "no dog"), ("two", None, None), ("two", "a b", "b a")]
    return pd.DataFrame(table, columns=["paradigm", "phrase_good", "phrase_bad"]).rename_axis("pair").reset_index()


@pytest.fixture
def index(pairs):
    sought = tuple(phrases_of(pairs))
    rows = [(1, "the", 2), (3, "this sketch", 1), (3, "the", 1), (7, "this sketches", 4), (7, "no dog", 1), (8, "no", 9), (8, "dog", 1), (2, "this", 5)]
    return Exposures(sought, np.array([(s, sought.index(p), n) for s, p, n in rows]).T, (Part("a", "", "", 0, 9),))


def test_what_is_indexed_for_pairs(pairs):
    assert phrases_of(pairs) == ["a b", "b a", "no dog", "the", "these", "this sketch", "this sketches", "a", "b", "dog", "no", "sketch", "sketches", "this"]
    assert phrases_of(pd.DataFrame(dict(phrase_good=["l'homme"], phrase_bad=["d'eau"])), "elision") == ["d'eau", "l'homme", "d'", "eau", "homme", "l'"]
    with pytest.raises(InputError, match="none has a critical phrase"): phrases_of(pairs.iloc[[3]])


def test_exposed_pairs(pairs, index):
    whole = expose(pairs, index)
    assert list(whole["pair"]) == [0, 1, 2, 4] and whole.attrs["without_phrase"] == 1 and "recency" not in whole and "dose" not in pairs
    assert list(whole["dose"]) == [5, 3, 1, 0] and list(whole["exposed"]) == [True, True, True, False] and whole["exposed"].dtype == bool
    assert list(whole["first_step"][:3]) == [3, 1, 7] and list(whole["last_step"][:3]) == [7, 3, 7] and np.isnan(whole["last_step"].iloc[3])
    early = expose(pairs, index, step=3)
    assert list(early["dose"]) == [1, 3, 0, 0] and list(early["recency"][:2]) == [0, 0] and list(expose(pairs, index, step=5)["recency"][:2]) == [2, 2]
    assert not expose(pairs, index, step=0)["exposed"].any()


def test_pairs_that_cannot_be_exposed(pairs, index):
    with pytest.raises(InputError, match="there are none"): expose(pairs.iloc[:0], index)
    with pytest.raises(InputError, match="none has a critical phrase"): expose(pairs.iloc[[3]], index)
    with pytest.raises(InputError, match="phrase 'this dog' is not in the index, nor are 0 others"): expose(pairs.replace("this sketch", "this dog"), index)


def test_the_split_names_what_is_empty(pairs, index):
    table = proxy_split(expose(pairs, index))
    assert list(table["exposed"]) == [2, 1] and list(table["unexposed"]) == [0, 1] and list(table["condition"]) == ["no unexposed pairs", ""]
    assert proxy_split(expose(pairs, index, 0))["condition"].tolist() == ["no exposed pairs"] * 2


def test_dose_and_recency():
    dose = np.array([0, 1, 2, 3, 4, 7, 8, 15, 16, 99] * 10)
    table = pd.DataFrame(dict(dose=dose, recency=np.where(dose == 0, np.nan, dose * 10.)))
    correct = np.arange(100) % 20 < 10
    rows = dose_table(table, correct)
    doses = rows[rows["by"] == "dose"].set_index("group")
    assert list(doses.index) == ["0", "1", "2–3", "4–7", "8–15", "16+"] and list(doses["pairs"]) == [10, 10, 20, 20, 20, 20]
    recencies = rows[rows["by"] == "recency"].set_index("group")
    assert list(recencies["pairs"]) == [60, 30] and recencies["pairs"].sum() == 90 # those never met have none
    n, p, z = 20, .5, norm.ppf(.975)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) # Wilson
    assert np.allclose(doses.loc["2–3", ["low", "high"]].astype(float), [.5 - half, .5 + half]) and (rows["low"] <= rows["accuracy"]).all()
    assert set(dose_table(table.drop(columns="recency"), correct)["by"]) == {"dose"}
    for wrong in (correct[:3], []):
        with pytest.raises(InputError, match="verdicts for 100 pairs"): dose_table(table, wrong)
    fig = dose_figure(rows)
    assert len(fig.axes) == 2 and all(ax.get_xlabel() for ax in fig.axes) and not plt.get_fignums()
