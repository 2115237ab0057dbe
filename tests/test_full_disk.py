"A disk that is full at any moment: the commands that measure and report end in one line, leave no half file, and go on when there is room."
import builtins
import errno
import io
import os
import shutil
from itertools import count

import pandas as pd
import pytest

from grok_nb import commands
from grok_nb.modular.study import study
from grok_nb.probes import load_table
from grok_nb.see import formats

TINY = dict(p=5, n_id=16, alpha=.8, n_shots=4, depth=1, width=16, heads=2, batch_size=16, n_eval=32, n_ood=8, attention_dropout=0,
            steps=20, warmup_steps=5, evaluate_every=10, checkpoints=2, checkpoint_on_change=0)
FULL = errno.ENOSPC, os.strerror(errno.ENOSPC)


class SmallDisk:
    "What is written below a folder: so many operations are done, the next write is half done, and nothing after it."
    def __init__(self, folder, room): self.folder, self.room, self.done, self.files = str(folder), room, [], {}

    def take(self, what, path, *named):
        if not str(path).startswith(self.folder): return
        if len(self.done) >= self.room: raise OSError(*FULL, *named)
        self.done.append((what, path))

    def open(self, path, mode="r", *rest, **options):
        if isinstance(path, int) or not {*mode} & set("wax+"): return OPEN(path, mode, *rest, **options)
        self.take("open", path, str(path))
        file = OPEN(path, mode, *rest, **options)
        self.files[file.fileno()], write = path, file.write
        def halfway(data):
            try: self.take("write", path)
            except OSError: write(data[:len(data)//2]); raise
            return write(data)
        file.write = halfway
        return file

    def fsync(self, fd): self.take("fsync", self.files.get(fd, "")), FSYNC(fd)
    def replace(self, old, new): self.take("replace", new, str(old), None, str(new)), REPLACE(old, new)
    def mkdir(self, path, *rest, **options): self.take("mkdir", path, str(path)), MKDIR(path, *rest, **options)
    def open_number(self, path, flags, *rest, **options):
        if flags & os.O_CREAT: self.take("open", path, str(path))
        return OPEN_NUMBER(path, flags, *rest, **options)


OPEN, FSYNC, REPLACE, MKDIR, OPEN_NUMBER = open, os.fsync, os.replace, os.mkdir, os.open


def on_a_small_disk(folder, room, work, *words):
    "Do it on a disk with so much room: exit status, and the disk."
    disk = SmallDisk(folder, room)
    with pytest.MonkeyPatch.context() as patch:
        for where in (builtins, io): patch.setattr(where, "open", disk.open)
        for name, takes in dict(fsync=disk.fsync, replace=disk.replace, mkdir=disk.mkdir, open=disk.open_number).items(): patch.setattr(os, name, takes)
        try: work([*map(str, words)])
        except SystemExit as e: return e.code, disk
    return 0, disk


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A small run."
    from grok_nb.training import train
    return train(study.config("smoke", **TINY), tmp_path_factory.mktemp("runs"), progress=False)


def tables_in(folder): return {p.name: load_table(p) for p in sorted(folder.glob("*.parquet"))}


def same_tables(found, wanted):
    assert found.keys() == wanted.keys()
    for name in found: pd.testing.assert_frame_equal(found[name], wanted[name])


def check_line(capsys, status, folder):
    got = capsys.readouterr()
    assert status in (1, 2) and got.err.count("\n") == 1 and got.err.endswith("\n"), got.err
    assert str(folder) in got.err and "no space left" in got.err.lower(), got.err
    assert not [*folder.parent.rglob("*.partial"), *folder.parent.rglob("*.deleted")]


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_measuring_where_any_write_may_be_the_last(finished, tmp_path, capsys, survived, every):
    "Full at the first write, at the second, and so on: what was measured before is kept, and the next time it is all there."
    commands.grok_nb_measure([str(finished.path), "--out", str(tmp_path/"whole")])
    wanted = tables_in(tmp_path/"whole")
    for attacks, room in enumerate(count(0, every)):
        out = tmp_path/f"{room}"/"tables"
        capsys.readouterr()
        status, disk = on_a_small_disk(out.parent, room, commands.grok_nb_measure, finished.path, "--out", out)
        if not status: break
        check_line(capsys, status, out.parent)
        kept = tables_in(out) if out.exists() else {}
        assert sum(t.step.nunique() for t in kept.values()) == sum(what == "replace" for what, _ in disk.done)
        for name, table in kept.items(): assert len(table.merge(wanted[name])) == len(table)
        commands.grok_nb_measure([str(finished.path), "--out", str(out)])
        same_tables(tables_in(out), wanted)
    assert room >= 5*2 and len(disk.done) in range(room - every + 1, room + 1)
    same_tables(tables_in(out), wanted)
    survived("disk", attacks)


PAGE = "<h1>A page</h1>" + "".join(f'<p>text <img alt="{i}" src="data:image/png;base64,{"iVBORw0KGgo" + str(i)*9}"></p>' for i in range(2))


def contents(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["page.html", "page.md"])
def test_a_page_where_any_write_may_be_the_last(tmp_path, name, survived):
    "A new page is not there, an older one is as it was; pictures come before the text that shows them."
    def save(room):
        path = tmp_path/f"{room}"/name
        path.parent.mkdir()
        if room % 2: path.write_text("older")
        return on_a_small_disk(path.parent, room, lambda words: formats.save(path, PAGE))
    save(10**6)
    for room in count():
        folder = tmp_path/f"{room}"
        try: save(room)
        except OSError as e:
            assert e.errno == errno.ENOSPC and str(folder) in e.filename
            left = contents(folder)
            assert left.pop(name, b"") == (b"older" if room % 2 else b"")
            assert left.items() <= contents(tmp_path/"1000000").items() # some pictures, each of them whole
            formats.save(folder/name, PAGE)
        else: break
        assert contents(folder) == contents(tmp_path/"1000000")
    assert room >= 4
    survived("disk", room)


@pytest.mark.slow
def test_reports_where_any_write_may_be_the_last(finished, tmp_path, capsys, survived, monkeypatch):
    "A report first looks inside, and keeps what it has seen; the file is whole or not there. Figures, which write nothing, are left out."
    monkeypatch.setattr("grok_nb.see.report.picture", lambda *_, **__: "")
    def copy(name): return shutil.copytree(finished.path, tmp_path/name/finished.run_id, copy_function=shutil.copy2)
    def report(room, run): return on_a_small_disk(run.parent, room, commands.grok_nb_report, run, "--out", run.parent/"x.html")
    whole = copy("whole")
    every = len(report(10**6, whole)[1].done)
    wanted = tables_in(whole/"tables")
    assert wanted and every > 8
    for room in (0, every // 3, every - 3, every - 1):
        run = copy(f"{room}")
        capsys.readouterr()
        status, disk = report(room, run)
        check_line(capsys, status, run.parent)
        assert not (run.parent/"x.html").exists() and len(disk.done) == room
        for name, table in (tables_in(run/"tables") if (run/"tables").exists() else {}).items(): assert len(table.merge(wanted[name])) == len(table)
    assert report(10**6, run)[0] == 0
    same_tables(tables_in(run/"tables"), wanted)
    assert (run.parent/"x.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    survived("disk", 4)


@pytest.mark.parametrize("free", [0, 1, 2, 3])
@pytest.mark.promise("disk")
def test_measuring_on_a_disk_that_is_full(finished, small_disk, tmp_path, capsys, free):
    "A real one, with so many blocks of 4 kB left."
    commands.grok_nb_measure([str(finished.path), "--out", str(tmp_path/"whole")])
    ballast, out = small_disk/"ballast", small_disk/"new"/"tables"
    with open(ballast, "wb", 0) as file:
        try:
            while True: file.write(bytes(4096))
        except OSError: file.truncate(max(0, os.fstat(file.fileno()).st_size - 4096*free))
    capsys.readouterr()
    with pytest.raises(SystemExit) as e: commands.grok_nb_measure([str(finished.path), "--out", str(out)])
    check_line(capsys, e.value.code, small_disk)
    ballast.unlink()
    commands.grok_nb_measure([str(finished.path), "--out", str(out)])
    same_tables(tables_in(out), tables_in(tmp_path/"whole"))
