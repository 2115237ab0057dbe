"Search against a brute-force definition: what counts as the same text, where a phrase stands, and what is no phrase."
import re
from functools import lru_cache

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grok_nb import InputError
from grok_nb.grammar.search import Searcher, check_phrases, normalise

WORDS = ["a", "ab", "the", "This", "sketch", "sketches", "there's", "naïve", "ÉTÉ", "x-ray", "ΟΔΟΣ", "internationalisation", "internationalisations",
         "eightlet", "8", "_", "чай", "日本", "“yes”", "no—", "İ", "’tis", "\u212a"]
GAPS = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2003", ", ", ". ", "-", "—", "'", "’", "", "\0", " “", "” ", "\x85", "!"]
texts = st.lists(st.sampled_from(WORDS + GAPS * 2), max_size=40).map("".join) | st.text(max_size=60)
phrases = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).flatmap(
    lambda words: st.lists(st.sampled_from([" "] * 6 + [", ", "-", "\n", " - "]), min_size=len(words), max_size=len(words))
    .map(lambda gaps: "".join(w + g for w, g in zip(words, gaps)).strip())), min_size=1, max_size=12)


@lru_cache(16)
def normalised(text):
    "The definition, kept for the next phrase."
    return re.sub(r"\s+", " ", "".join(c.lower() for c in text).replace("’", "'").replace("ς", "σ"))


def occurrences(text, phrase):
    "The definition: every place, overlapping ones too, with no word character beside it."
    return len(re.findall(rf"(?<![\w'])(?={re.escape(phrase)}(?![\w']))", normalised(text)))


def found(text, sought, **options):
    sought = check_phrases(sought)
    numbers, counts, size = Searcher(sought).count(text, **options)
    assert list(numbers) == sorted(set(numbers)) and (counts > 0).all()
    return {sought[i]: int(n) for i, n in zip(numbers, counts)}


def by_hand(text, sought): return {p: n for p in check_phrases(sought) if (n := occurrences(text, p))}


# what counts as the same text

@settings(max_examples=60)
@given(texts)
def test_text_is_normalised_as_defined_and_once(text):
    assert normalise(text) == normalised(text) == normalise(normalise(text))


@settings(max_examples=60)
@given(texts, texts)
def test_a_text_may_be_cut_anywhere(one, other):
    assert normalise(normalise(one) + normalise(other)) == normalise(one + other)


# where a phrase stands

@settings(max_examples=100)
@given(texts, phrases, st.sampled_from([1, 5, 30, 2**19]))
def test_phrases_are_found_as_defined_wherever_the_text_is_cut(text, sought, at_once):
    assert found(text, sought, at_once=at_once) == by_hand(text, sought)


@settings(max_examples=100)
@given(st.text("ab' -\n—é", max_size=80), st.lists(st.text("ab' -é", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=20))
def test_a_small_alphabet_overlaps_and_begins_alike(text, sought):
    assert found(text, sought, at_once=7) == by_hand(text, sought)


@settings(max_examples=50)
@given(st.data(), texts)
def test_pieces_of_the_text_itself_are_found(data, text):
    begins = data.draw(st.lists(st.integers(0, max(0, len(text) - 1)), min_size=1, max_size=10))
    sought = [p for b in begins if (p := text[b:b + data.draw(st.integers(1, 30))]).strip() and "\0" not in p]
    marks = {c for p in sought for c in normalise(p) if ord(c) > 127 and not c.isalnum()}
    if sought and len(marks) < 12: assert found(text, sought) == by_hand(text, sought)


@pytest.mark.parametrize("text, count", [
    ("He sells this sketch", 1), ("this\nsketch", 1), ("THIS\t \r\n SKETCH.", 1), ("this sketches", 0), ("this sketch's", 0), ("this sketch’s", 0),
    ("athis sketch", 0), ("éthis sketch", 0), ("this sketché", 0), ("“this sketch”", 1), ("‘this sketch’", 0), ("this, sketch", 0),
    ("this\u00a0sketch", 1), ("this\0sketch", 0), ("this sketch this sketch", 2), ("this-sketch", 0), ("_this sketch", 0), ("this sketch\ud800", 1)])
def test_the_edges_of_a_phrase(text, count):
    assert found(text, ["this sketch"]) == ({"this sketch": count} if count else {})


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 24, 25, 300])
def test_words_of_any_length(length):
    word = "abcdefgh" * 40
    text = f"x {word[:length]} y {word[:length + 1]} {word[:length]}z {word[:length]}"
    sought = [word[:length], f"x {word[:length]} y", word[:length + 8]]
    assert found(text, sought) == by_hand(text, sought)


def test_what_follows_the_longest_phrase_at_a_cut():
    for follows in ["", "e", "'", ".", " e"]: assert found("a bcd" + follows, ["a bcd"], at_once=1) == by_hand("a bcd" + follows, ["a bcd"])


def test_an_empty_text_and_nothing_found():
    assert found("", ["a"]) == found(" ", ["a"]) == found("—", ["a b"]) == {}


def test_as_an_automaton_finds_them():
    rust = pytest.importorskip("ahocorasick_rs")
    g = np.random.default_rng(0)
    words = np.array(["".join(g.choice(list("abc'"), g.integers(1, 4))) for _ in range(60)])
    sought = check_phrases(" ".join(g.choice(words, n)) for n in g.integers(1, 5, 2000))
    text = " ".join(g.choice(words, 20_000))
    hits = np.zeros(len(sought), dtype=int)
    for which, i, j in rust.BytesAhoCorasick([p.encode() for p in sought]).find_matches_as_indexes(text.encode(), overlapping=True):
        hits[which] += (i == 0 or text[i - 1] == " ") and (j == len(text) or text[j] == " ")
    assert found(text, sought, at_once=1000) == {p: n for p, n in zip(sought, hits) if n}


@pytest.mark.parametrize("wrong, said", [([], "there are none"), ([""], "'' is not a phrase"), (["a", " \n"], r"' \\n' is not a phrase"),
                                         ([None], "None is not"), (["a\0b"], "is not a phrase")])
def test_what_is_no_phrase(wrong, said):
    with pytest.raises(InputError, match=said): check_phrases(wrong)


def test_marks_beyond_ascii_are_told_apart_up_to_eleven():
    many = "“”‘–—…«»„¿¡€"
    assert found("“a” and a", ["“a”", "a"]) == {"“a”": 1, "a": 2}
    assert found(f"a{many[0]}b", [f"a{m}b" for m in many[:11]]) == {f"a{many[0]}b": 1}
    with pytest.raises(InputError, match="12 kinds of marks"): Searcher(check_phrases(f"a{m}b" for m in many))


# real text

def test_real_text_against_the_definition(data_dir):
    with pq.ParquetFile(data_dir/"english_books_small.parquet") as file: text = next(file.iter_batches(1, columns=["text"])).column(0)[0].as_py()[:30_000]
    blimp = pd.read_parquet(data_dir/"blimp.parquet", columns=["sentence_good"])["sentence_good"]
    sought = check_phrases(" ".join(words[i:i + n]) for words in (s.strip(".?!").split() for s in blimp[::50]) for n in (1, 2)
                           for i in range(len(words) - n + 1))
    hits = found(text, sought)
    assert len(hits) > 100
    for p in [*hits][::10] + [*sought[::100]]: assert occurrences(text, p) == hits.get(p, 0), p
