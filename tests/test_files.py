"Files and folders: the right sums, sizes and words, and nothing half-written, whatever goes wrong in between."
import errno
import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from grok_nb import InputError
from grok_nb.files import (atomic_folder, check_file, damaged_file, file_hash, files_in, disk_errors_are_named, in_one_line, in_words, is_full, is_intact,
                           move_into_place, named_path, partial_of, read_manifest, remove_folder, remove_leftovers, short_hash, size_of, without_folders, write_atomic,
                           write_manifest)


def names(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_hash_is_sha256(tmp_path):
    for content in (b"", b"hello", os.urandom(3 * 2**18 + 1)):
        (tmp_path/"x").write_bytes(content)
        assert file_hash(tmp_path/"x") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size, words", [
    (0, "0 bytes"), (7, "7 bytes"), (999, "999 bytes"), (1000, "1 kB"), (1234, "1.23 kB"), (99_400, "99.4 kB"), (99_960, "100 kB"), (100_000, "100 kB"), (100_400, "100 kB"), (123_456, "123 kB"), (10**6, "1 MB"),
    (1_250_000, "1.25 MB"), (100_500, "100 kB"), (1_500_000 * 1000 + 499, "1.5 GB"), (1_234_000_000_000_000, "1234 TB"), (649_669_632, "650 MB"), (10**9, "1 GB"), (1_500_000_000, "1.5 GB"), (150 * 10**9, "150 GB"), (2 * 10**12, "2 TB")])
def test_sizes_in_words(size, words): assert in_words(size) == words


def test_what_a_folder_takes(tmp_path):
    (tmp_path/"a/b").mkdir(parents=True)
    assert size_of(tmp_path) == 0
    for name, size in {"x": 3, "a/y": 40, "a/b/z": 500}.items(): (tmp_path/name).write_bytes(b"1" * size)
    assert size_of(tmp_path) == 543 and size_of(tmp_path/"a") == 540 and size_of(tmp_path/"x") == 3


@pytest.mark.parametrize("content", ["text, with ü", b"\x00bytes\r\n"])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, content):
    path, read = tmp_path/"x", Path.read_bytes if isinstance(content, bytes) else Path.read_text
    write_atomic(path, "old"), write_atomic(path, content)
    assert read(path) == content and names(tmp_path) == ["x"]
    def fails(*_): raise OSError(errno.EIO, "bad disk")
    for at in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, at, fails)
            with pytest.raises(OSError, match="bad disk"): write_atomic(path, "new")
        assert read(path) == content and names(tmp_path) == ["x"]


def test_a_folder_goes_even_if_an_earlier_removal_was_cut_short(tmp_path):
    for name in ("x", ".x.deleted", "y", "other"): (tmp_path/name/"deep").mkdir(parents=True), (tmp_path/name/"deep/file").write_text(name)
    remove_folder(tmp_path/"x"), remove_folder(tmp_path/"y")
    assert names(tmp_path) == ["other", "other/deep", "other/deep/file"]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path/"made"
    (made/"sub").mkdir(parents=True)
    for name, content in {"a.txt": "hello", "sub/b.txt": "good bye", ".hidden": "x"}.items(): (made/name).write_text(content)
    write_manifest(made, step=3, note="n")
    return made


def test_a_manifest_says_what_there_is(folder):
    write_manifest(folder, step=4) # once more: it does not count itself
    sums = {name: dict(size=len(text), sha256=hashlib.sha256(text.encode()).hexdigest()) for name, text in {"a.txt": "hello", "sub/b.txt": "good bye"}.items()}
    assert read_manifest(folder) == dict(step=4, files=sums)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3", '"files"'])
def test_no_manifest_is_an_empty_one(tmp_path, text):
    if text is not None: (tmp_path/"MANIFEST.json").write_text(text)
    assert read_manifest(tmp_path) == {} and not is_intact(tmp_path) and not is_intact(tmp_path, ignore="a", deep=True)


@pytest.mark.parametrize("change, shallow, deep", [
    (lambda f: None, True, True), (lambda f: (f/"more").write_text("more"), True, True), (lambda f: (f/"a.txt").write_text("jello"), True, False),
    (lambda f: (f/"a.txt").write_text("hell"), False, False), (lambda f: (f/"sub/b.txt").unlink(), False, False),
    (lambda f: ((f/"a.txt").unlink(), (f/"a.txt").mkdir()), False, False), (lambda f: (f/"MANIFEST.json").write_text('{"step": 3}'), False, False),
    (lambda f: (f/"MANIFEST.json").unlink(), False, False)])
def test_what_is_intact(folder, change, shallow, deep):
    change(folder)
    assert (is_intact(folder), is_intact(folder, deep=True)) == (shallow, deep)


def test_what_may_be_missing(folder):
    (folder/"sub/b.txt").unlink()
    assert is_intact(folder, ignore="sub/") and is_intact(folder, ignore="sub", deep=True) and not is_intact(folder, ignore="b.txt") and not is_intact(folder, ignore="a")
    (folder/"a.txt").unlink()
    assert not is_intact(folder, ignore="sub/")


FULL = [OSError(errno.ENOSPC, "No space left"), OSError(errno.EDQUOT, "Disk quota exceeded"), RuntimeError("I/O error: No space left on device (os error 28)"),
        ValueError(f"(os error {errno.EDQUOT})")]
OTHER = [OSError(errno.EACCES, "Permission denied"), RuntimeError("os error 2)"), ValueError("28"), KeyboardInterrupt()]


def test_which_errors_say_that_the_disk_is_full():
    assert all(map(is_full, FULL)) and not any(map(is_full, OTHER))


@pytest.mark.parametrize("error", FULL + OTHER)
def test_what_the_system_refuses_is_named_and_nothing_else(error):
    named = error in FULL or error is OTHER[0]
    with pytest.raises(InputError if named else type(error)) as found:
        with disk_errors_are_named(Path("some/where")): raise error
    if named: assert "some/where" in str(found.value) and found.value.__cause__ is error
    else: assert found.value is error


@pytest.mark.parametrize("error", [None, *FULL, *OTHER])
def test_a_folder_is_written_whole_or_not_at_all(tmp_path, error):
    path = tmp_path/"deep/runs"
    with atomic_folder(path, step=1) as f: (f/"x").write_text("first")
    def write():
        with atomic_folder(path, "keep fewer", step=2) as f:
            assert f.parent == path.parent and not names(f)
            (f/"y").write_text("second")
            if error: raise error
    if error is None: write()
    else:
        is_told = error in FULL or isinstance(error, OSError)
        with pytest.raises(InputError if is_told else type(error)) as found: write()
        if error in FULL: assert "no space left; free some, or keep fewer; what was there is intact" in str(found.value)
        elif is_told: assert f"runs cannot be written in {path.parent}: Permission denied" in str(found.value)
        if is_told: assert found.value.__cause__ is error
    assert names(path.parent) == ["runs", "runs/MANIFEST.json", "runs/y" if error is None else "runs/x"]
    assert is_intact(path, deep=True) and read_manifest(path)["step"] == (2 if error is None else 1)


def test_leftovers_of_killed_writers_go_and_nothing_else(tmp_path):
    for name in (".x.1a.partial", ".x.deleted", ".y.2b.partial", "x", "z.partial"): (tmp_path/name/"deep").mkdir(parents=True)
    for name in (".x.3c.partial", ".hidden"): (tmp_path/name).write_text("half")
    def forbidden(): raise RuntimeError("another one writes here")
    with pytest.raises(RuntimeError): remove_leftovers(tmp_path, check=forbidden)
    assert len(list(tmp_path.iterdir())) == 7
    remove_leftovers(tmp_path, "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", ".y.2b.partial", "x", "z.partial"]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "x", "x/deep", "z.partial", "z.partial/deep"]


@pytest.mark.parametrize("write", [lambda p, check: write_atomic(p, "new", check), lambda p, check: written(p, check)])
def test_a_check_that_fails_leaves_all_as_it_was(tmp_path, write):
    asked = []
    def forbidden():
        asked.append(sorted(p.name[:2] for p in tmp_path.iterdir()))
        raise RuntimeError("another one writes here")
    with pytest.raises(RuntimeError, match="another one"): write(tmp_path/"x", forbidden)
    assert asked and not names(tmp_path)
    write(tmp_path/"x", None)
    before = names(tmp_path)
    with pytest.raises(RuntimeError, match="another one"): write(tmp_path/"x", forbidden)
    assert names(tmp_path) == before and before[0] == "x"


def written(path, check):
    with atomic_folder(path, check=check) as f: (f/"a").write_text("new")


@pytest.mark.parametrize("entry", ["../a.txt", "/etc/passwd", "sub/../../a.txt"])
def test_a_manifest_names_files_inside_its_folder(folder, entry):
    about = dict(size=5, sha256=hashlib.sha256(b"hello").hexdigest())
    for files in ({entry: about}, {"a.txt": dict(about, size="5")}, {"a.txt": dict(about, sha256=5)}, {"a.txt": dict(size=5)}, ["a.txt"]):
        (folder/"MANIFEST.json").write_text(json.dumps(dict(files=files)))
        assert read_manifest(folder) == {} and damaged_file(folder) == "MANIFEST.json"


def test_which_file_is_damaged(folder):
    assert damaged_file(folder, deep=True) is None
    (folder/"a.txt").write_text("jello")
    assert damaged_file(folder) is None and damaged_file(folder, deep=True) == "a.txt" and damaged_file(folder, ignore="a", deep=True) is None
    (folder/"sub/b.txt").write_text("good")
    assert damaged_file(folder) == "sub/b.txt"


def test_a_full_disk_without_advice(tmp_path):
    with pytest.raises(InputError, match="no space left; free some; what was there"):
        with atomic_folder(tmp_path/"x"): raise OSError(errno.ENOSPC, "")
    assert not names(tmp_path)


def test_of_a_link_only_the_link_is_removed(tmp_path):
    (tmp_path/"there").mkdir()
    (tmp_path/"there/x").write_text("kept")
    (tmp_path/"link").symlink_to(tmp_path/"there")
    remove_folder(tmp_path/"link")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["there", "x"]


@pytest.mark.parametrize("age, again", [(0, 2), (1, 2), (5, 1)])
def test_what_was_not_touched_is_not_read_again(tmp_path, monkeypatch, age, again):
    "A file that was changed less than two seconds ago is: its time may not tell it from the next change."
    path, read = tmp_path/"x", []
    path.write_bytes(b"hello")
    os.utime(path, (time.time() - age,)*2)
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: (read.append(1), digest(*a))[1])
    assert file_hash(path) == file_hash(path) == hashlib.sha256(b"hello").hexdigest() and len(read) == again
    path.write_bytes(b"jello")
    os.utime(path, (time.time() - 100,)*2)
    assert file_hash(path) == hashlib.sha256(b"jello").hexdigest()


def test_names_that_hashes_give(tmp_path):
    assert short_hash(["a", 1]) == hashlib.sha256(b'["a", 1]').hexdigest()[:16] and short_hash(["a", 2]) != short_hash(["a", 1])
    one, two = partial_of(tmp_path/"x"), partial_of(tmp_path/"x")
    assert one != two and one.parent == tmp_path and one.match(".x.*.partial") and len(one.name) == len(".x..partial") + 12


def test_who_was_cleared_away_is_told_so(tmp_path):
    "What lay ready is gone: the check says why, else the system does."
    asked = []
    with pytest.raises(FileNotFoundError): move_into_place(tmp_path/"gone", tmp_path/"x", lambda: asked.append(1))
    assert asked == [1, 1]
    with pytest.raises(FileNotFoundError): move_into_place(tmp_path/"gone", tmp_path/"x")
    def later():
        asked.append(1)
        if len(asked) == 4: raise RuntimeError("another one writes here")
    with pytest.raises(RuntimeError, match="another one"): move_into_place(tmp_path/"gone", tmp_path/"x", later)


def test_an_error_names_the_file_and_not_the_partial_one(tmp_path):
    for path in (tmp_path/"no folder"/"x", tmp_path):
        with pytest.raises(OSError) as found: write_atomic(path, "new")
        assert found.value.filename == str(path) and in_one_line(found.value, "elsewhere") == f"{path}: {os.strerror(found.value.errno)}"
    assert not names(tmp_path) and in_one_line(OSError(errno.EIO, ""), "here") == f"here: {os.strerror(errno.EIO)}" and in_one_line(OSError(errno.EIO, "")) == os.strerror(errno.EIO)


def test_all_is_on_the_disk_before_the_manifest_says_so(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    (tmp_path/"a").write_text("x"), (tmp_path/"b").write_text("y"), (tmp_path/"b").chmod(0o600)
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append((os.fstat(fd).st_ino, os.fstat(fd).st_size)), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
    with pytest.raises(OSError, match="bad disk"): write_manifest(tmp_path)
    assert synced[:2] == [((tmp_path/name).stat().st_ino, 1) for name in "ab"] and len(synced) == 3 and synced[2][1] > 200
    monkeypatch.undo()
    write_manifest(tmp_path)
    assert (tmp_path/"b").stat().st_mode == (tmp_path/"a").stat().st_mode == (tmp_path/"MANIFEST.json").stat().st_mode


def test_what_vanishes_meanwhile_counts_nothing(tmp_path):
    (tmp_path/"x").write_bytes(b"123")
    (tmp_path/"gone").symlink_to(tmp_path/"nowhere")
    assert size_of(tmp_path) == 3


def test_leftovers_that_others_clear_as_well(tmp_path):
    "Listed, and then gone before they are removed."
    (tmp_path/".x.1.partial").write_text("half"), (tmp_path/".y.deleted"/"deep").mkdir(parents=True)
    def clear(): remove_leftovers(tmp_path)
    remove_leftovers(tmp_path, check=clear)
    assert not names(tmp_path)


def test_paths_that_users_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path/"file").write_text("x"), os.mkfifo(tmp_path/"pipe")
    assert named_path("~/a/b", "--out") == tmp_path/"a/b" and named_path(tmp_path/"file"/"below", "--out") == tmp_path/"file/below"
    for name, why in (("x"*300, os.strerror(errno.ENAMETOOLONG)), ("a\0b", "embedded null")):
        with pytest.raises(InputError, match=f"--out '.*': .*{why}"): named_path(name, "--out")
    check_file(tmp_path/"file", "--pairs")
    for name, why in (("none", "no such file"), ("pipe", "no regular file")):
        with pytest.raises(InputError, match=f"--pairs .*{name}: {why}"): check_file(tmp_path/name, "--pairs")


def test_files_of_a_folder(tmp_path):
    (tmp_path/"b/c").mkdir(parents=True)
    for name in ("z.txt", "b/a.txt", "b/c/x.md", "b/.hidden.txt", "b/other.csv"): (tmp_path/name).write_text("x")
    assert files_in(tmp_path, [".txt", ".md"], "--corpus") == [tmp_path/"b/a.txt", tmp_path/"b/c/x.md", tmp_path/"z.txt"]
    os.mkfifo(tmp_path/"b/pipe.txt")
    with pytest.raises(InputError, match="--corpus .*pipe.txt: no regular file"): files_in(tmp_path, [".txt"], "--corpus")
    with pytest.raises(InputError, match=f"--corpus {tmp_path}/none cannot be read: {os.strerror(errno.ENOENT)}"): files_in(tmp_path/"none", [".txt"], "--corpus")


def test_a_full_disk_and_another_refusal_are_told_apart():
    for error, said in ((OSError(errno.ENOSPC, ""), "no space left in here: free some and run it again"), (OSError(errno.EIO, ""), f"here: {os.strerror(errno.EIO)}: mend that and run it again")):
        with pytest.raises(InputError, match=said):
            with disk_errors_are_named(Path("here")): raise error


@pytest.mark.parametrize("text, sent", [
    ("/data/ada/texts/a.txt", "a.txt"), ("~ada/b", "b"), ("in /data/c.txt: line 3 of /data/d e/f.txt", "in c.txt: line 3 of f.txt"), ("1/2, a/b", "1/2, a/b"),
    ("file=/a/b", "file=b"), ("no path", "no path")])
def test_what_is_sent_says_nothing_of_the_machine(text, sent): assert without_folders(text) == sent
