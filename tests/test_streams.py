"Streams: purity, exactness of an epoch, formats, bad input, and preparing a corpus against kills, races and full disks."
import errno, gzip, hashlib, json, os, shutil, signal, subprocess, sys, tempfile, time, tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa, pyarrow.parquet as pq
import pytest
from conftest import PATIENCE
from hypothesis import Phase, example, given, settings, strategies as st

from grok_nb import InputError, streams, texts as readers
from grok_nb.streams import Corpus, TextStream, check_stream, prepare_corpus, rng, shuffled
from grok_nb.texts import _is_cuttable, _pieces, encode_texts, end_of_text, load_tokenizer, open_texts, train_tokenizer

WORDS = "the old fox finds a coin and hides bread in his hat while Anna sells the key to a miller".split()


def write_story(number, words=40):
    draw = rng(number, "test story")
    return " ".join(draw.choice(WORDS, size=int(draw.integers(3, words)))) + "."


STORIES = [write_story(i) for i in range(120)]


@pytest.fixture(scope="module")
def tokenizer(): return train_tokenizer(STORIES, 300)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    pq.write_table(pa.table(dict(text=STORIES)), folder/"stories.parquet", row_group_size=7)
    return folder


@pytest.fixture(scope="module")
def corpus(library, tokenizer): return prepare_corpus(library/"stories.parquet", library/"corpora", tokenizer=tokenizer)


def run_python(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# --- what is read in one piece

def packed(kind, path, size):
    "A file that is much smaller than the one document in it."
    text = "A fox.\n"*(size//7)
    if kind == "lines.txt.gz": path.write_bytes(gzip.compress(text.encode()))
    elif kind == "line.txt.gz": path.write_bytes(gzip.compress(b"x"*size))
    elif kind == "line.jsonl.gz": path.write_bytes(gzip.compress(json.dumps(dict(text=text)).encode()))
    elif kind == "page.parquet": pq.write_table(pa.table(dict(text=[text])), path, compression="zstd")
    elif kind == "rows.parquet": pq.write_table(pa.table(dict(text=[text[:size//16]]*16)), path, compression="zstd", use_dictionary=False)
    return path


@pytest.mark.parametrize("kind", ["lines.txt.gz", "line.txt.gz", "line.jsonl.gz", "page.parquet", "rows.parquet"])
def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(kind, tmp_path, monkeypatch):
    path = packed(kind, tmp_path/kind, 30_000_000)
    assert path.stat().st_size < 1_000_000
    monkeypatch.setattr(readers, "longest_document", 1_000_000)
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    monkeypatch.setattr(pa, "default_memory_pool", lambda: pool)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=rf"{kind}.*more than 1 million characters in .*(line|document)"): list(open_texts(path))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally: tracemalloc.stop()


def test_rows_that_are_one_text_are_read_one_by_one(tmp_path, monkeypatch):
    "Five kilobytes with the same million characters a hundred times, of which a handful is in memory."
    pq.write_table(pa.table(dict(text=["x"*1_000_000]*100)), tmp_path/"same.parquet", compression="zstd")
    assert (tmp_path/"same.parquet").stat().st_size < 5000
    before, tracing = pa.total_allocated_bytes(), []
    for text in open_texts(tmp_path/"same.parquet"): tracing.append((len(text), pa.total_allocated_bytes() - before))
    assert [n for n, _ in tracing] == [1_000_000]*100 and max(held for _, held in tracing) < 8_000_000
    monkeypatch.setattr(readers, "longest_document", 10_000_000)
    with pytest.raises(InputError, match="minimal pairs .*more than 10 million characters in column 'text'"):
        readers.parquet_table(tmp_path/"same.parquet", "minimal pairs")


def test_a_long_document_within_the_limit_is_read_whole(tmp_path):
    text = "An old fox runs.\n"*200_000
    for name, content in (("a.txt", text), ("a.jsonl", json.dumps(dict(text=text)))):
        (tmp_path/name).write_text(content)
        assert list(open_texts(tmp_path/name)) == [text]
    pq.write_table(pa.table(dict(text=[text, None, "", "b"])), tmp_path/"a.parquet")
    assert list(open_texts(tmp_path/"a.parquet")) == [text, "b"]
    assert readers.parquet_table(tmp_path/"a.parquet", "minimal pairs")["text"].to_pylist() == [text, None, "", "b"]


@pytest.mark.parametrize("barred", ["file", "folder", "way"])
def test_what_nobody_may_read_is_named(barred):
    "Where root runs the tests, it is somebody else for a moment, in a folder that everybody may look into."
    home = Path(tempfile.mkdtemp())
    home.chmod(0o711)
    folder = home/"texts"/"inner"
    folder.mkdir(parents=True)
    (home/"texts"/"a.txt").write_text("A fox.")
    (folder/"b.txt").write_text("A fox.")
    place = dict(file=folder/"b.txt", folder=folder, way=home/"texts")[barred]
    place.chmod(0)
    user = os.geteuid()
    if not user: os.seteuid(65534)
    try:
        source = home/"texts"/("inner" if barred == "way" else "")
        with pytest.raises(InputError, match=f"corpus .*{'inner' if barred != 'file' else 'b.txt'}.*Permission denied"): open_texts(source)
    finally:
        if not user: os.seteuid(user)
        place.chmod(0o700)
        shutil.rmtree(home)


# --- the order of an epoch

@settings(max_examples=150)
@given(count=st.integers(1, 3000), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
@example(1, 0, 0)
@example(2, 0, 0)
def test_shuffled_is_a_permutation(count, seed, epoch):
    assert sorted(shuffled(np.arange(count), count, seed, epoch)) == list(range(count))


@pytest.mark.parametrize("count", [3, 7, 16, 30])
def test_shuffled_is_uniform(count):
    times = 1500
    tables = np.array([shuffled(np.arange(count), count, "uniform", k) for k in range(times)])
    for first, second in ((0, 1), (1, count - 1)): # where a pair of rows lands: catches a shift or a reflection that single rows would not
        pairs = np.zeros((count, count))
        np.add.at(pairs, (np.argmax(tables == first, 1), np.argmax(tables == second, 1)), 1)
        expected = times/(count*(count - 1))*(1 - np.eye(count))
        chi2 = ((pairs - expected)**2)[expected > 0].sum()/expected.max()
        freedom = count*(count - 1) - 1
        assert chi2 < freedom + 5*np.sqrt(2*freedom)
        assert not np.diag(pairs).any()


def test_shuffled_reaches_beyond_32_bits():
    count = 3 * 2**40
    places = np.array([0, 1, count - 1, 2**33])
    out = shuffled(places, count, 0)
    assert len(set(out.tolist())) == 4 and (out < count).all() and out.max() > 2**33


def test_rng_keys_do_not_collide():
    keys = [(0,), (0, 0), (0, 0, 0), (1,), (0, 1), (1, 0), (2**32,), ("0",), ("rows",), (0, "rows")]
    assert len({int(rng(*key).integers(2**62)) for key in keys}) == len(keys)
    assert rng(np.int64(3), "a").integers(2**62) == rng(3, "a").integers(2**62)


# --- batches

def naive_rows(tokens, context, end):
    "Every window of `context` tokens as a list; the last one padded."
    windows = [tokens[i:i + context] for i in range(0, len(tokens), context)]
    if len(windows[-1]) == 1: windows.pop()
    return [list(w) + [end]*(context - len(w)) for w in windows], [list(w) + [-100]*(context - len(w)) for w in windows]


# A failure is told at once, not shrunk for minutes.
@settings(max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(context=st.integers(2, 300), batch_size=st.integers(1, 9), seed=st.integers(0, 99), epoch=st.integers(0, 3),
       split=st.sampled_from(["train", "held_out"]))
def test_packed_epoch_visits_every_token_once(corpus, context, batch_size, seed, epoch, split):
    stream = TextStream(corpus, context, batch_size, seed, split=split)
    count, first = stream.rows_per_epoch, epoch*stream.rows_per_epoch
    rows, ids, labels = [], [], []
    for step in range(first//batch_size, (first + count)//batch_size + 1): # the batches that hold this epoch, straddling ones too
        batch = stream.batch(step)
        for place in range(batch_size):
            if first <= step*batch_size + place < first + count:
                rows.append(stream.rows(step)[place]); ids.append(batch["input_ids"][place].tolist()); labels.append(batch["labels"][place].tolist())
    naive_ids, naive_labels = naive_rows(corpus.tokens(split).tolist(), context, corpus.end_of_text)
    assert sorted(rows) == list(range(count)) and len(naive_ids) == count
    assert ids == [naive_ids[r] for r in rows] and labels == [naive_labels[r] for r in rows]
    seen = [t for r in np.argsort(rows) for t in labels[r] if t != -100]
    assert seen == corpus.tokens(split).tolist()[:len(seen)] and len(corpus.tokens(split)) - len(seen) <= 1


@settings(max_examples=60)
@given(context=st.integers(2, 80), batch_size=st.integers(1, 9), seed=st.integers(0, 99), bos=st.booleans(), step=st.integers(0, 10**9))
def test_document_rows_are_documents(corpus, tokenizer, context, batch_size, seed, bos, step):
    stream = TextStream(corpus, context, batch_size, seed, layout="document", bos=bos)
    batch, end = stream.batch(step), corpus.end_of_text
    for row, ids, labels, mask in zip(stream.rows(step), batch["input_ids"], batch["labels"], batch["attention_mask"]):
        whole = [end]*bos + tokenizer(corpus.document(int(row)))["input_ids"] + [end]
        real = min(len(whole), context)
        assert ids.tolist() == whole[:real] + [end]*(context - real)
        assert labels.tolist() == whole[:real] + [-100]*(context - real)
        assert mask.tolist() == [1]*real + [0]*(context - real)


@pytest.mark.parametrize("layout", ["packed", "document"])
def test_batches_are_pure(corpus, library, layout):
    make = lambda: TextStream(corpus, 16, 4, seed=5, layout=layout)
    check_stream(make(), steps=[0, 10**7, 3, 1, 10**12])
    digest = lambda batch: hashlib.sha256(b"".join(batch[k].tobytes() for k in sorted(batch))).hexdigest()
    steps = list(range(40)) + [10**9]
    forward = {s: digest(make().batch(s)) for s in steps} # a new stream each time: as after a restart at any step
    one = make()
    assert {s: digest(one.batch(s)) for s in reversed(steps)} == forward
    code = ("import sys, json, hashlib\nfrom grok_nb.streams import *\nstream = TextStream(Corpus(sys.argv[1]), 16, 4, seed=5, layout=sys.argv[2])\n"
            "digest = lambda b: hashlib.sha256(b''.join(b[k].tobytes() for k in sorted(b))).hexdigest()\n"
            "print(json.dumps({s: digest(stream.batch(s)) for s in json.loads(sys.argv[3])}))")
    out, err = run_python(code, corpus.folder, layout, json.dumps(steps[::-1])).communicate(timeout=PATIENCE)
    assert {int(k): v for k, v in json.loads(out).items()} == forward, err
    assert len(set(forward.values())) == len(steps)
    assert digest(TextStream(corpus, 16, 4, seed=6, layout=layout).batch(0)) != forward[0]


def test_tokens_per_batch_is_the_mean_of_real_tokens(corpus):
    stream = TextStream(corpus, 24, 1, layout="document", bos=True)
    real = [int(stream.batch(s)["attention_mask"].sum()) for s in range(stream.rows_per_epoch)]
    assert TextStream(corpus, 24, 7, layout="document", bos=True).tokens_per_batch == round(7*np.mean(real))


def test_check_stream_finds_an_impure_stream(corpus):
    class Stateful(TextStream):
        calls = 0
        def batch(self, step): self.calls += 1; return super().batch(self.calls)
    with pytest.raises(AssertionError, match="differs"): check_stream(Stateful(corpus, 16, 4))


# --- reading

@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.parquet", "large.parquet", "a.txt", "a.txt.gz", "many"])
def test_every_format_gives_the_same_documents(tmp_path, name):
    lines = "".join(json.dumps(dict(id=i, text=t)) + "\n" for i, t in enumerate(STORIES))
    text = f"\n{end_of_text}\n".join(STORIES)
    write = {"a.jsonl": lambda p: p.write_text("\ufeff" + lines + "\n\n"), "a.json.gz": lambda p: p.write_bytes(gzip.compress(lines.encode())),
             "a.parquet": lambda p: pq.write_table(pa.table(dict(id=list(range(120)), text=STORIES)), p, row_group_size=11),
             "large.parquet": lambda p: pq.write_table(pa.table(dict(text=pa.array([None, *STORIES, "", " \n"], pa.large_string()))), p),
             "a.txt": lambda p: p.write_text(text), "a.txt.gz": lambda p: p.write_bytes(gzip.compress(text.encode()))}
    if name == "many":
        for i, story in enumerate(STORIES): (tmp_path/f"{i:03}.txt").write_text(story)
        (tmp_path/"README.md").write_text("not a text of the corpus")
        source = tmp_path
    else: write[name](source := tmp_path/name)
    texts = open_texts(str(source))
    assert [t.removesuffix("\n") for t in texts] == STORIES and len(list(texts)) == 120 # and again
    if name == "many": assert list(open_texts(sorted(tmp_path.glob("*.txt")))) == list(texts)


def test_data_sets(tmp_path):
    import datasets
    dataset = datasets.Dataset.from_dict(dict(text=STORIES, n=range(120)))
    assert list(open_texts(dataset)) == STORIES
    with pytest.raises(InputError, match="fingerprint"): open_texts(dataset.to_iterable_dataset())
    assert list(open_texts(dataset.to_iterable_dataset(), fingerprint="mine")) == STORIES
    with pytest.raises(InputError, match="no column 'text'"): open_texts(datasets.Dataset.from_dict(dict(body=["a"])))
    same = datasets.Dataset.from_dict(dict(text=STORIES, n=range(120)))
    first = prepare_corpus(dataset, tmp_path, vocab_size=260)
    assert prepare_corpus(same, tmp_path, vocab_size=260).folder == first.folder
    streamed = prepare_corpus(dataset.to_iterable_dataset(), tmp_path, vocab_size=260, fingerprint="mine")
    assert np.array_equal(streamed.tokens(), first.tokens())


def test_hub_layout(tmp_path):
    folder = tmp_path/"c4"
    (folder/"en").mkdir(parents=True)
    (folder/"README.md").write_text("---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: en/*.json.gz\n---\n")
    write = lambda texts: (folder/"en"/"c4-train.00000.json.gz").write_bytes(gzip.compress("".join(json.dumps(dict(text=t)) + "\n" for t in texts).encode()))
    write(STORIES)
    texts = open_texts(f"{folder}:en")
    assert list(texts) == STORIES == list(texts)
    before = texts.fingerprint
    write(STORIES[:-1])
    assert open_texts(f"{folder}:en").fingerprint != before
    with pytest.raises(InputError, match="corpus .*fr"): open_texts(f"{folder}:fr")


def test_hub_name_goes_to_the_hub_at_a_pinned_commit(monkeypatch):
    import datasets, huggingface_hub
    from types import SimpleNamespace
    calls = []
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: calls.append(name) or SimpleNamespace(sha="abc123"))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *a, **k: None)
    def load(path, config, **options):
        calls.append((path, config, options))
        return datasets.Dataset.from_dict(dict(text=STORIES)).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(open_texts("allenai/c4:en")) == STORIES
    assert calls == ["allenai/c4", ("allenai/c4", "en", dict(split="train", streaming=True, revision="abc123"))]


BAD = {
    "missing.txt": (None, "no such file"), "missing/book.jsonl": (None, "no such file"), "book.pdf": (b"%PDF", "unknown kind"),
    "empty.txt": (b"", "empty"), "blank.txt": (b" \n\n", "empty"), "empty.jsonl": (b"\n", "empty"), "empty.parquet": (b"", "cannot be read"),
    "latin.txt": ("caf\xe9 au lait".encode("latin1"), "UTF-8"), "torn.parquet": (b"PAR1 and no more", "cannot be read"),
    "torn.jsonl.gz": (gzip.compress(b'{"text": "a long line of words"}')[:20], "cannot be read"), "plain.txt.gz": (b"not zipped", "cannot be read"),
    "field.jsonl": (b'{"body": "x"}', "'text'"), "list.jsonl": (b'["text"]', "one object per line"), "number.jsonl": (b'{"text": 3}', "'text'"),
    "torn.jsonl": (b'{"text": "x', "line 1: not JSON"),
}


@pytest.mark.parametrize("name", [*BAD, "column.parquet", "number.parquet", "folder", ""])
def test_bad_sources_are_one_line_and_write_nothing(tmp_path, name):
    content, reason = BAD.get(name, (None, {"folder": "holds no text", "": "allowed"}.get(name, "text")))
    path = tmp_path/name
    if content is not None: path.write_bytes(content)
    if name == "folder": path.mkdir()
    if name == "column.parquet": pq.write_table(pa.table(dict(body=["x"])), path)
    if name == "number.parquet": pq.write_table(pa.table(dict(text=[1])), path)
    start = time.process_time()
    with pytest.raises(InputError) as error: prepare_corpus(path if name else "", tmp_path/"corpora")
    assert time.process_time() - start < 5
    message = str(error.value)
    assert "\n" not in message and len(message) < 400 and reason in message and message.startswith("corpus") and name in message
    assert not (tmp_path/"corpora").exists()


def test_a_large_blank_parquet_is_refused_when_it_is_read(tmp_path):
    "It is opened without reading it, as its first document may lie in one page with all others."
    path, blanks = tmp_path/"blank.parquet", np.random.default_rng(0).choice(list(" \n\t"), (20, 200_000))
    pq.write_table(pa.table(dict(text=["".join(row) for row in blanks])), path, compression="none")
    assert path.stat().st_size > 2**20
    texts = open_texts(path)
    with pytest.raises(InputError, match="blank.parquet is empty"): list(texts)
    with pytest.raises(InputError, match="blank.parquet is empty"): prepare_corpus(path, tmp_path/"corpora")
    assert not [p for p in (tmp_path/"corpora").iterdir() if not p.name.startswith(".")]


@pytest.mark.parametrize("options, reason", [
    (dict(vocab_size=256), "at least 257"), (dict(limit_tokens=0), "limit_tokens"), (dict(held_out=.9), "0 to 0.5"), (dict(held_out=-1), "0 to 0.5"),
    (dict(tokenizer="."), "tokenizer")])
def test_bad_options_are_one_line_and_write_nothing(library, tmp_path, options, reason):
    options = {k: tmp_path if v == "." else v for k, v in options.items()}
    with pytest.raises(InputError, match=reason) as error: prepare_corpus(library/"stories.parquet", tmp_path/"corpora", **options)
    assert "\n" not in str(error.value) and not (tmp_path/"corpora").exists()


@pytest.mark.parametrize("options, reason", [(dict(context=1), "context"), (dict(batch_size=0), "batch_size"), (dict(layout="rows"), "layout"),
                                             (dict(split="test"), "split")])
def test_bad_stream_options(corpus, options, reason):
    with pytest.raises(InputError, match=reason): TextStream(corpus, **(dict(context=8, batch_size=2) | options))


def test_a_mistake_deep_in_a_file_leaves_nothing(tmp_path):
    good = "".join(json.dumps(dict(text=t)) + "\n" for t in STORIES)
    (tmp_path/"a.jsonl").write_text(good + '{"text": 7}\n')
    with pytest.raises(InputError, match="line 121"): prepare_corpus(tmp_path/"a.jsonl", tmp_path/"corpora", vocab_size=260)
    assert [p.suffix for p in (tmp_path/"corpora").iterdir()] in ([], [".lock"])


# --- tokenizing

@settings(max_examples=80)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=5), batch=st.integers(1, 200))
@example(["\r\n\r\n  a  b\t"], 1)
@example([f"x {end_of_text} y"], 9)
def test_encoding_is_exact_and_reversible(tokenizer, texts, batch):
    encoded = list(encode_texts(texts, tokenizer, batch))
    assert [tokenizer.decode(ids.tolist()) for ids in encoded] == texts
    assert not any(tokenizer.eos_token_id in ids for ids in encoded)


def gpt4_like(pattern, texts):
    "Byte-level BPE whose words are cut by `pattern`, as in newer models."
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)])
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return bpe


PARTS = [" ", "\n", "\r\n", "\t", "\u00a0", "'s", "'", ".", ",", "12", "é", "狐", "A", *WORDS, *(f" {word}" for word in WORDS)]
PATTERNS = {"gpt2": None, "gpt4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"}


@pytest.mark.parametrize("kind", PATTERNS)
def test_pieces_encode_as_the_whole(tokenizer, kind):
    encoder = gpt4_like(PATTERNS[kind], STORIES) if PATTERNS[kind] else tokenizer.backend_tokenizer
    assert _is_cuttable(encoder)
    encode = lambda text: encoder.encode(text, add_special_tokens=False).ids

    @settings(max_examples=150)
    @given(text=st.lists(st.sampled_from(PARTS), min_size=1, max_size=60).map("".join), size=st.integers(1, 60))
    def check(text, size):
        pieces = list(_pieces(text, size))
        assert "".join(pieces) == text and sum(map(encode, pieces), []) == encode(text)
    check()


def test_a_tokenizer_whose_tokens_cross_blanks_is_not_cut():
    assert not _is_cuttable(gpt4_like(r"\n", STORIES))


def test_tokenizer_is_the_same_in_another_process_with_other_threads(tmp_path, tokenizer):
    (tmp_path/"texts.json").write_text(json.dumps(STORIES))
    code = ("import sys, json\nfrom grok_nb.texts import train_tokenizer\n"
            "print(train_tokenizer(json.load(open(sys.argv[1])), 300).backend_tokenizer.to_str())")
    env = os.environ | dict(RAYON_NUM_THREADS="1", PYTHONHASHSEED="7")
    out, err = run_python(code, tmp_path/"texts.json", env=env).communicate(timeout=PATIENCE)
    assert out.strip() == tokenizer.backend_tokenizer.to_str(), err


def test_a_given_tokenizer_of_another_kind(library, tmp_path):
    "A sentencepiece-like tokenizer: a normalizer, no bytes, its own end; documents must reach it whole."
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer, unigram.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Metaspace()
    unigram.train_from_iterator(STORIES, trainers.UnigramTrainer(vocab_size=80, special_tokens=["</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    given = PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>", unk_token="<unk>")
    given.save_pretrained(tmp_path/"tokenizer")
    corpus = prepare_corpus(library/"stories.parquet", tmp_path/"corpora", tokenizer=tmp_path/"tokenizer", held_out=0)
    expected = [0] + sum((given(s)["input_ids"] + [0] for s in STORIES), [])
    assert corpus.tokens().tolist() == expected and corpus.end_of_text == 0
    long = " ".join(STORIES)*20
    assert next(encode_texts([long], given)).tolist() == given(long)["input_ids"]
    PreTrainedTokenizerFast(tokenizer_object=unigram).save_pretrained(tmp_path/"endless")
    with pytest.raises(InputError, match="end-of-text"): load_tokenizer(tmp_path/"endless")


# --- preparing

def test_corpus_holds_the_documents_in_order(corpus, tokenizer):
    held = [i for i in range(120) if streams._is_held_out(i, .05)]
    assert len(held) == 6
    for split, numbers in (("held_out", held), ("train", [i for i in range(120) if i not in held])):
        assert corpus.tokens(split).tolist() == [corpus.end_of_text] + sum((tokenizer(STORIES[i])["input_ids"] + [corpus.end_of_text] for i in numbers), [])
        assert [corpus.document(i, split) for i in range(len(numbers))] == [STORIES[i] for i in numbers]
    assert corpus.tokens().dtype == np.uint16 and corpus.verify()


@settings(max_examples=25)
@given(documents=st.integers(1, 6), limit=st.one_of(st.none(), st.integers(16, 120)), held_out=st.sampled_from([0, .05, .3, .5]))
def test_small_corpora_lose_no_token(tmp_path_factory, tokenizer, documents, limit, held_out):
    folder = tmp_path_factory.mktemp("small")
    texts = STORIES[:documents]
    (folder/"a.jsonl").write_text("".join(json.dumps(dict(text=t)) + "\n" for t in texts))
    corpus = prepare_corpus(folder/"a.jsonl", folder, tokenizer=tokenizer, limit_tokens=limit, held_out=held_out)
    end = corpus.end_of_text
    parts = {split: corpus.tokens(split).tolist() for split in streams.splits}
    all_tokens = sum((tokenizer(t)["input_ids"] + [end] for t in texts), [])
    read = all_tokens if limit is None else all_tokens[:limit]
    words = lambda tokens: sorted(t for t in tokens if t != end)
    missing = len(words(read)) - len(words(parts["train"] + parts["held_out"]))
    assert 0 <= missing <= 1 and (missing == 0 or limit) # the last token read may have to make way for the document's end
    if held_out == 0: assert parts["held_out"] == [end]
    else: assert len(parts["held_out"]) > 2 and len(parts["train"]) > 2
    for split in streams.splits:
        offsets, tokens = corpus.offsets(split), parts[split]
        assert offsets[0] == 1 and offsets[-1] == len(tokens) and tokens[0] == end
        assert (np.flatnonzero(np.array(tokens) == end)[1:] + 1).tolist() == offsets[1:].tolist()


def test_wide_vocabulary_takes_32_bits(library, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    words = {word: 66_000 + i for i, word in enumerate(["</s>", "<unk>", *sorted(set(WORDS)), "."])} | {f"w{i}": i for i in range(66_000)}
    level = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    level.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=level, eos_token="</s>", unk_token="<unk>")
    corpus = prepare_corpus(library/"stories.parquet", tmp_path, tokenizer=tokenizer)
    assert corpus.tokens().dtype == np.uint32 and corpus.document(0).replace(" .", ".") == STORIES[0]


def test_second_call_finds_the_corpus_and_any_change_does_not(library, tmp_path):
    source = tmp_path/"a.jsonl"
    source.write_text("".join(json.dumps(dict(text=t)) + "\n" for t in STORIES))
    prepare = lambda **options: prepare_corpus(source, tmp_path/"corpora", **(dict(vocab_size=260) | options))
    first = prepare()
    stamp = (first.folder/"MANIFEST.json").stat().st_mtime_ns
    assert prepare().folder == first.folder and (first.folder/"MANIFEST.json").stat().st_mtime_ns == stamp
    others = [prepare(vocab_size=261), prepare(limit_tokens=100), prepare(held_out=.1)]
    fingerprint = open_texts(source).fingerprint
    source.write_text(source.read_text().replace("fox", "cat", 1))
    others.append(prepare())
    assert len({c.folder for c in [first, *others]}) == 5
    assert prepare(fingerprint=fingerprint).folder == first.folder # known by its fingerprint, even though the source has changed
    with pytest.raises(InputError, match="has changed"): prepare(fingerprint=fingerprint, vocab_size=262)


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_a_damaged_corpus_is_noticed_and_made_again(library, tmp_path, tokenizer, damage):
    prepare = lambda: prepare_corpus(library/"stories.parquet", tmp_path, tokenizer=tokenizer)
    corpus = prepare()
    path = corpus.folder/("MANIFEST.json" if damage == "manifest" else "train.tokens")
    path.write_bytes(path.read_bytes()[:50]) if damage != "remove" else path.unlink()
    with pytest.raises(InputError, match="damaged"): Corpus(corpus.folder)
    assert prepare().verify()


PREPARE = """
import sys, time
from grok_nb import files, streams
real = files.write_manifest if sys.argv[3] == "manifest" else streams.encode_texts
def slow(*a, **k):
    print("working", flush=True)
    if sys.argv[3] == "manifest":
        real(*a, **k); print("written", flush=True); time.sleep(float(sys.argv[4]))
    else:
        return paced(real(*a, **k))
def paced(documents):
    for i, ids in enumerate(documents):
        if i == 50: print("written", flush=True); time.sleep(float(sys.argv[4]))
        yield ids
if sys.argv[3] == "manifest": files.write_manifest = slow
else: streams.encode_texts = slow
print(streams.prepare_corpus(sys.argv[1], sys.argv[2], vocab_size=260).folder)
"""


@pytest.mark.promise("kills")
@pytest.mark.parametrize("moment, how", [("tokens", signal.SIGKILL), ("manifest", signal.SIGKILL), ("tokens", signal.SIGINT)])
def test_killed_while_preparing(library, tmp_path, moment, how):
    victim = run_python(PREPARE, library/"stories.parquet", tmp_path, moment, 2*PATIENCE)
    for line in victim.stdout:
        if line.strip() == "written": break
    victim.send_signal(how); victim.communicate(timeout=PATIENCE)
    left = [p for p in tmp_path.iterdir() if p.suffix != ".lock"]
    if how == signal.SIGINT: assert left == []
    else: assert [p.suffix for p in left] == [".partial"] and left[0].name.startswith(".")
    corpus = prepare_corpus(library/"stories.parquet", tmp_path, vocab_size=260)
    whole = prepare_corpus(library/"stories.parquet", tmp_path/"elsewhere", vocab_size=260)
    assert corpus.verify() and (corpus.folder/"MANIFEST.json").read_text() == (whole.folder/"MANIFEST.json").read_text()
    assert [p for p in tmp_path.iterdir() if p.suffix == ".partial"] == []


def test_two_processes_prepare_at_once(library, tmp_path):
    both = [run_python(PREPARE, library/"stories.parquet", tmp_path, "tokens", .5) for _ in range(2)]
    results = [p.communicate(timeout=PATIENCE) for p in both]
    assert [p.returncode for p in both] == [0, 0], results
    folders = [out.splitlines()[-1] for out, _ in results]
    assert folders[0] == folders[1] and Corpus(folders[0]).verify()
    assert sum("working" in out for out, _ in results) == 1 # one did the work, the other found it


@pytest.mark.parametrize("number, word", [(errno.ENOSPC, "free some"), (errno.EACCES, "cannot be written")])
def test_no_space_and_no_permission(library, tmp_path, monkeypatch, number, word):
    def full(*a): raise OSError(number, os.strerror(number))
    monkeypatch.setattr(streams, "_write_tokens", full)
    with pytest.raises(InputError, match=word) as error: prepare_corpus(library/"stories.parquet", tmp_path/"corpora", vocab_size=260)
    assert "\n" not in str(error.value) and [p for p in (tmp_path/"corpora").iterdir() if p.suffix != ".lock"] == []


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak stands in /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path, tokenizer):
    "Two corpora, one five times the other, prepared in processes whose memory is measured."
    code = ("import re, sys\nfrom grok_nb.streams import *\ncorpus = prepare_corpus(sys.argv[1], sys.argv[2], tokenizer=sys.argv[3])\n"
            "print(int(re.search('VmHWM: *\\t* *([0-9]+)', open('/proc/self/status').read())[1])//1024)") # ru_maxrss begins at the parent's
    tokenizer.save_pretrained(tmp_path/"tokenizer")
    page, peak = " ".join(STORIES)[:5000] + " ", {}
    for megabytes in (1, 5):
        with open(tmp_path/"a.jsonl", "w") as file:
            for i in range(megabytes*10): file.write(json.dumps(dict(text=f"{i} " + page*20)) + "\n")
        process = run_python(code, tmp_path/"a.jsonl", tmp_path/"corpora", tmp_path/"tokenizer")
        out, err = process.communicate(timeout=PATIENCE)
        assert out, err
        peak[megabytes] = int(out)
    assert peak[5] - peak[1] < 8, peak # all token ids as int64 would be 15 MB more


# --- the loss probe

def test_held_out_loss_is_the_loss_of_the_model_itself(corpus):
    import torch
    from types import SimpleNamespace
    from grok_nb.models import llama
    model = llama(corpus.vocab_size, width=16, mlp=32, depth=1, heads=2, context=32, std=.3).eval()
    for layout in ("packed", "document"):
        stream = TextStream(corpus, 32, 4, layout=layout)
        context = SimpleNamespace(stream=stream, device="cpu")
        row, = streams.held_out_loss(model, context, rows=10**6)
        held = stream.held_out()
        total = scored = 0
        for i in range(held.rows_per_epoch):
            batch = {k: torch.from_numpy(v) for k, v in held.read(np.array([i])).items()}
            count = int((batch["labels"][:, 1:] != -100).sum())
            with torch.no_grad(): total += float(model(**batch).loss)*count
            scored += count
        assert row["metric"] == "loss" and abs(row["value"] - total/scored) < 1e-5
        assert streams.held_out_loss(model, context, rows=5, batch_size=2)[0]["value"] == pytest.approx(
            streams.held_out_loss(model, SimpleNamespace(stream=TextStream(corpus, 32, 9, seed=3, layout=layout), device="cpu"), rows=5)[0]["value"], abs=1e-5)


# --- real text

def test_real_books(data_dir, tmp_path):
    source = data_dir/"english_books_small.parquet"
    if not source.exists(): pytest.skip(f"needs real text: no {source.name} in GROK_NB_DATA")
    start = time.process_time()
    corpus = prepare_corpus(source, tmp_path, vocab_size=1024, limit_tokens=400_000)
    assert time.process_time() - start < 40
    assert sum(corpus.info["tokens"].values()) in (400_002, 400_003) and corpus.info["tokens"]["held_out"] >= 20_000
    first = next(pq.ParquetFile(source).iter_batches(batch_size=1, columns=["text"])).column(0)[0].as_py()
    assert corpus.document(0) == first
    stream = TextStream(corpus, 128, 32)
    check_stream(stream)
    start = time.process_time()
    for step in range(100): stream.batch(step*977)
    assert (time.process_time() - start)/100 < .02
    start = time.process_time()
    assert prepare_corpus(source, tmp_path, vocab_size=1024, limit_tokens=400_000).folder == corpus.folder
    assert time.process_time() - start < 1


# --- the plain language-model study

def test_corpus_study_trains_and_outlives_its_text(runs_root, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from grok_nb.corpus import study
    from grok_nb.runs import Run
    source = tmp_path/"a.txt"
    source.write_text(f"\n{end_of_text}\n".join(STORIES))
    run = study.run("smoke", corpus=source, steps=40, layout="document", bos=True)
    table = run.metrics()
    losses = table[table.probe == "held_out"].value.tolist()
    assert losses[-1] < losses[0] - 1
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run.at(40).path), AutoTokenizer.from_pretrained(run.at(40).path)
    assert model.config.vocab_size == len(tokenizer) == run.stream.corpus.vocab_size
    assert tokenizer.decode(tokenizer(STORIES[0])["input_ids"]) == STORIES[0]
    batch = run.batch(7)
    source.write_text("something else entirely, and long enough to be a text")
    again = Run(run.path)
    assert all(np.array_equal(again.batch(7)[k], batch[k]) for k in batch)
    assert study.config("smoke", corpus=source, steps=40, layout="document", bos=True).run_id != run.run_id
    assert study.stream(again.config).corpus.folder.parent == runs_root/"corpora"


def test_corpus_configuration_knows_the_text_by_its_content(tmp_path, monkeypatch):
    from grok_nb.corpus import study
    for name in ("a", "b"): (tmp_path/f"{name}.txt").write_text("\n".join(STORIES[:3]))
    (tmp_path/"c.txt").write_text(STORIES[4])
    make = lambda *names: study.config("smoke", corpus="\n".join(str(tmp_path/n) for n in names))
    assert make("a.txt").run_id == make("b.txt").run_id == make("a.txt").replace(corpus=tmp_path/"b.txt").run_id
    assert len({make(*names).run_id for names in (["a.txt"], ["c.txt"], ["a.txt", "c.txt"], ["c.txt", "a.txt"])}) == 4
    monkeypatch.chdir(tmp_path)
    assert study.config("smoke", corpus="a.txt").corpus == str(tmp_path/"a.txt")
    saved = make("c.txt").options()
    (tmp_path/"c.txt").unlink()
    assert study.Config(**saved).fingerprint == saved["fingerprint"] # as when a run is opened again


@pytest.mark.parametrize("changes", [dict(), dict(corpus="nowhere.txt"), dict(corpus="a.txt", width=130), dict(corpus="a.txt", held_out_share=0),
                                     dict(corpus="a.txt", tokenizer="nowhere")])
def test_corpus_study_refuses_before_it_writes(runs_root, tmp_path, monkeypatch, changes):
    from grok_nb.corpus import study
    monkeypatch.chdir(tmp_path)
    (tmp_path/"a.txt").write_text(STORIES[0])
    with pytest.raises(InputError) as error: study.run("smoke", **changes)
    assert "\n" not in str(error.value) and list(runs_root.iterdir()) == []


def test_corpus_study_is_light_to_import():
    heavy = ["torch", "transformers", "datasets", "pandas", "pyarrow", "matplotlib"]
    code = f"import sys, grok_nb.corpus\nprint([m for m in {heavy} if m in sys.modules])"
    out, err = run_python(code).communicate(timeout=PATIENCE)
    assert out.strip() == "[]", err
