"Search against a brute-force definition: what counts as the same text, where a phrase stands, and what is no phrase."
import re
import unicodedata
from functools import lru_cache

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grok_nb import InputError
from grok_nb.grammar.search import Searcher, check_phrases, normalise, words_of

WORDS = ["a", "ab", "the", "This", "sketch", "sketches", "there's", "naïve", "nai\u0308ve", "ÉTÉ", "x-ray", "ΟΔΟΣ", "internationalisation",
         "internationalisations", "eightlet", "8", "_", "чай", "за\u0301мок", "п’ять", "пʼять", "日本", "कि", "한", "\u1112\u1161\u11ab", "“yes”", "no—", "İ", "’tis",
         "\u212a", "l'", "qu’un", "dogs'", "co\u00adop", "me\u200cn", "𝒜", "𐐀𐐨", "h\u0331", "H\u0331", "❤\ufe0f"]
GAPS = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2003", ", ", ". ", "-", "—", "'", "’", "ʼ", "", "\0", " “", "” ", "\x85", "!", " '", "' ", "\u200b", "\u0301"]
texts = st.lists(st.sampled_from(WORDS + GAPS * 2), max_size=40).map("".join) | st.text(max_size=60)
phrases = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).flatmap(
    lambda words: st.lists(st.sampled_from([" "] * 6 + [", ", "-", "\n", " - ", "'", ""]), min_size=len(words), max_size=len(words))
    .map(lambda gaps: "".join(w + g for w, g in zip(words, gaps)).strip())), min_size=1, max_size=12)
rules = st.sampled_from(["english", "elision"])
NO_WIDTH = dict.fromkeys([0xad, *range(0x200b, 0x2010), *range(0x202a, 0x202f), *range(0x2060, 0x2070), *range(0xfe00, 0xfe10), 0xfeff])


@lru_cache(16)
def normalised(text):
    "The definition, kept for the next phrase."
    text = "".join(c.lower() for c in text).translate(NO_WIDTH)
    text = unicodedata.normalize("NFC", text).replace("’", "'").replace("ʼ", "'").replace("ς", "σ")
    return re.sub(r"\s+", " ", re.sub("[\ud800-\udfff]", "?", text))


def letter(c): return c.isalnum() or c == "_" or unicodedata.category(c)[0] == "M"


@lru_cache(16)
def inside(text, words):
    "Where a word goes on, the definition: between its letters, at an English apostrophe on either side, before any apostrophe that elides."
    places = {i for i in range(1, len(text)) if letter(text[i - 1]) and letter(text[i])}
    for i in range(1, len(text)):
        if text[i] == "'" and letter(text[i - 1]):
            if words == "elision": places.add(i)
            elif i + 1 < len(text) and letter(text[i + 1]): places |= {i, i + 1}
    return places


def occurrences(text, phrase, words="english"):
    "The definition: every place, overlapping ones too, that neither begins nor ends inside a word."
    text = normalised(text)
    starts = [m.start() for m in re.finditer(f"(?={re.escape(phrase)})", text)]
    return sum(not {i, i + len(phrase)} & inside(text, words) for i in starts)


def found(text, sought, words="english", **options):
    sought = check_phrases(sought)
    numbers, counts, size = Searcher(sought, words).count(text, **options)
    assert list(numbers) == sorted(set(numbers)) and (counts > 0).all()
    return {sought[i]: int(n) for i, n in zip(numbers, counts)}


def by_hand(text, sought, words="english"): return {p: n for p in check_phrases(sought) if (n := occurrences(text, p, words))}


# what counts as the same text

@settings(max_examples=60)
@given(texts)
def test_text_is_normalised_as_defined_and_once(text):
    assert normalise(text) == normalised(text) == normalise(normalise(text))


@settings(max_examples=60)
@given(texts, texts)
def test_a_text_may_be_cut_anywhere(one, other):
    assert normalise(normalise(one) + normalise(other)) == normalise(one + other)


def test_one_text_however_it_was_typed():
    for written in ("Été", "E\u0301te\u0301", "\u00c9t\u00ade\u0301", "\ufeffÉ\u200bté"): assert normalise(written) == "été"
    for apostrophe in "'’ʼ": assert normalise(f"п{apostrophe}ять") == "п'ять"
    assert normalise("\u1112\u1161\u11ab") == "한" and normalise("q\u0307\u0323") == normalise("q\u0323\u0307") # marks have an order


# where a phrase stands

@settings(max_examples=200)
@given(texts, phrases, rules, st.sampled_from([1, 5, 30, 2**19]))
def test_phrases_are_found_as_defined_wherever_the_text_is_cut(text, sought, words, at_once):
    sought = [p for p in sought if normalise(p).strip()]
    if sought: assert found(text, sought, words, at_once=at_once) == by_hand(text, sought, words)


@settings(max_examples=200)
@given(st.text("ab' -\n—é’e\u0301\u00ad", max_size=80),
       st.lists(st.text("ab' -ée\u0301", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=20), rules)
def test_a_small_alphabet_overlaps_and_begins_alike(text, sought, words):
    assert found(text, sought, words, at_once=7) == by_hand(text, sought, words)


@settings(max_examples=100)
@given(st.data(), texts, rules)
def test_pieces_of_the_text_itself_are_found(data, text, words):
    begins = data.draw(st.lists(st.integers(0, max(0, len(text) - 1)), min_size=1, max_size=10))
    sought = [p for b in begins if normalise(p := text[b:b + data.draw(st.integers(1, 30))]).strip() and "\0" not in p]
    if sought: assert found(text, sought, words) == by_hand(text, sought, words)


def test_phrases_of_more_characters_than_a_byte_tells_apart():
    g = np.random.default_rng(0)
    hanzi = [chr(i) for i in range(0x4e00, 0x4e00 + 600)]
    words = ["".join(g.choice(hanzi, g.integers(1, 9))) for _ in range(400)]
    text = "".join(w + g.choice([" ", "，", "。", "  "]) for w in g.choice(words, 3000))
    sought = [" ".join(g.choice(words, n)) for n in g.integers(1, 3, 500)] + ["「", "。"]
    assert Searcher(check_phrases(sought))._codes("").itemsize == 2 and sum(found(text, sought).values()) > 2000
    assert found(text, sought, at_once=100) == by_hand(text, sought)


@pytest.mark.parametrize("text, count", [
    ("He sells this sketch", 1), ("this\nsketch", 1), ("THIS\t \r\n SKETCH.", 1), ("this sketches", 0), ("this sketch's", 0), ("this sketch’s", 0),
    ("athis sketch", 0), ("éthis sketch", 0), ("this sketché", 0), ("“this sketch”", 1), ("‘this sketch’", 1), ("'this sketch'", 1), ("''this sketch''s", 1),
    ("o'this sketch", 0), ("this, sketch", 0), ("this sketch\u0301", 0), ("this sket\u00adch", 1), ("this\u200b sketch", 1),
    ("this\u00a0sketch", 1), ("this\0sketch", 0), ("this sketch this sketch", 2), ("this-sketch", 0), ("_this sketch", 0), ("this sketch\ud800", 1)])
def test_the_edges_of_a_phrase(text, count):
    assert found(text, ["this sketch"]) == ({"this sketch": count} if count else {})


@pytest.mark.parametrize("words, text, expected", [
    ("elision", "C'est qu'un homme.", {"un homme": 1, "qu'un": 1, "c'": 1}), ("english", "C'est qu'un homme.", {"qu'un": 1}),
    ("elision", "un po’ d’acqua", {"un po'": 1, "d'": 1}), ("elision", "d'un po", {"po": 1, "d'": 1}), ("english", "d'un po'", {"po": 1}),
    ("english", "'The dog barks', the dogs' dog's", {"the dog": 1}), ("elision", "dog's the dog", {"the dog": 1})])
def test_apostrophes_by_either_rule(words, text, expected):
    sought = ["un homme", "qu'un", "qu", "c'", "un po'", "d'", "po", "the dog"]
    assert found(text, sought, words) == expected == by_hand(text, sought, words)


def test_words_of_a_phrase_are_found_in_it():
    for words, p, each in (("english", "the dog's 'tail'", ["the", "dog's", "tail"]), ("elision", "qu'un po' d'eau", ["qu'", "un", "po'", "d'", "eau"])):
        assert words_of(p, words) == each and found(p, each, words) == dict.fromkeys(each, 1)
    for make in (lambda: words_of("a", "french"), lambda: Searcher(("a",), "french")):
        with pytest.raises(InputError, match="words = 'french': must be one of english, elision"): make()


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
    words = np.array(["".join(g.choice(list("abcé"), g.integers(1, 4))) for _ in range(60)])
    sought = check_phrases(" ".join(g.choice(words, n)) for n in g.integers(1, 5, 2000))
    text = " ".join(g.choice(words, 20_000))
    hits = np.zeros(len(sought), dtype=int)
    for which, i, j in rust.AhoCorasick(list(sought)).find_matches_as_indexes(text, overlapping=True):
        hits[which] += (i == 0 or text[i - 1] == " ") and (j == len(text) or text[j] == " ")
    assert found(text, sought, at_once=1000) == {p: n for p, n in zip(sought, hits) if n}


@pytest.mark.parametrize("wrong, said", [([], "there are none"), ([""], "'' is not a phrase"), (["a", " \n"], r"' \\n' is not a phrase"),
                                         ([None], "None is not"), (["a\0b"], "is not a phrase")])
def test_what_is_no_phrase(wrong, said):
    with pytest.raises(InputError, match=said): check_phrases(wrong)


def test_marks_are_told_apart_and_stand_beside_words():
    many = "“”‘–—…«»„¿¡€§†"
    assert found("“a” and a", ["“a”", "a"]) == {"“a”": 1, "a": 2}
    assert found(f"a{many[0]}b", [f"a{m}b" for m in many]) == {f"a{many[0]}b": 1}
    assert found("no—yes", ["no—", "—", "no"]) == {"no—": 1, "—": 1, "no": 1}


# real text

def test_real_text_against_the_definition(data_dir):
    with pq.ParquetFile(data_dir/"english_books_small.parquet") as file: text = next(file.iter_batches(1, columns=["text"])).column(0)[0].as_py()[:30_000]
    blimp = pd.read_parquet(data_dir/"blimp.parquet", columns=["sentence_good"])["sentence_good"]
    sought = check_phrases(" ".join(words[i:i + n]) for words in (s.strip(".?!").split() for s in blimp[::50]) for n in (1, 2)
                           for i in range(len(words) - n + 1))
    hits = found(text, sought)
    assert len(hits) > 100
    for p in [*hits][::10] + [*sought[::100]]: assert occurrences(text, p) == hits.get(p, 0), p


@pytest.mark.parametrize("name, words", [("english_books_small", "elision"), ("russian_books", "english")])
def test_real_text_of_either_script_against_the_definition(data_dir, name, words):
    with pq.ParquetFile(data_dir/f"{name}.parquet") as file: text = next(file.iter_batches(1, columns=["text"])).column(0)[0].as_py()[:20_000]
    pieces = words_of(normalise(text), words)
    sought = check_phrases([" ".join(pair) for pair in zip(pieces, pieces[1:])][::7] + pieces[::50])
    hits = found(unicodedata.normalize("NFD", text), sought, words)
    assert len(hits) > 100 and hits == by_hand(text, sought, words)
