"""Test cases and assertions by file, one line each: `python tests/count.py > counts`, before and after a change, then `diff`.

A case is what pytest collects, quick ones and slow ones apart. An assertion is an `assert`, a `pytest.raises` or a comparison
by numpy or pandas, wherever it stands in the file.
"""
import ast
import sys
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CHECKS = {"raises", "assert_allclose", "assert_array_equal", "assert_frame_equal", "assert_series_equal", "fail"}


def assertions(path):
    "How many a file has."
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    called = [n.func for n in nodes if isinstance(n, ast.Call)]
    return sum(isinstance(n, ast.Assert) for n in nodes) + sum(isinstance(f, ast.Attribute) and f.attr in CHECKS for f in called)


class Cases:
    "A plugin that counts what pytest collects by file: all of it, and without what is marked slow."
    def __init__(self): self.all, self.quick = Counter(), Counter()
    def pytest_collection_finish(self, session):
        self.all.update(item.path.name for item in session.items)
        self.quick.update(item.path.name for item in session.items if not item.get_closest_marker("slow"))


def main():
    cases = Cases()
    with redirect_stdout(sys.stderr): pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", str(HERE)], plugins=[cases])
    rows = [(p.name, cases.all[p.name], cases.quick[p.name], assertions(p)) for p in sorted(HERE.glob("*.py")) if p != Path(__file__)]
    rows.append(("in all", *map(sum, zip(*(r[1:] for r in rows)))))
    print(f"{'':32}{'cases':>8}{'quick':>8}{'assertions':>12}")
    for name, n, fast, checks in rows: print(f"{name:32}{n:8}{fast:8}{checks:12}")


if __name__ == "__main__": main()
