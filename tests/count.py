"""Test cases and assertions by file, one line each: `python tests/count.py > counts`, before and after a change, then `diff`.

A case is what pytest collects, quick ones and slow ones apart. An assertion is an `assert`, a `pytest.raises` or a comparison
by numpy or pandas, wherever it stands in the file.
"""
import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKS = {"raises", "assert_allclose", "assert_array_equal", "assert_frame_equal", "assert_series_equal", "fail"}


def assertions(path):
    "How many a file has."
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    called = [n.func for n in nodes if isinstance(n, ast.Call)]
    return sum(isinstance(n, ast.Assert) for n in nodes) + sum(isinstance(f, ast.Attribute) and f.attr in CHECKS for f in called)


def cases(*options):
    "File → how many cases pytest collects."
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options, str(HERE)]
    done = subprocess.run(words, cwd=HERE.parent, capture_output=True, text=True)
    return Counter(Path(line.partition("::")[0]).name for line in done.stdout.splitlines() if "::" in line)


def main():
    everything, quick = cases(), cases("-m", "not slow")
    rows = [(p.name, everything[p.name], quick[p.name], assertions(p)) for p in sorted(HERE.glob("*.py")) if p != Path(__file__)]
    rows.append(("in all", *map(sum, zip(*(r[1:] for r in rows)))))
    print(f"{'':32}{'cases':>8}{'quick':>8}{'assertions':>12}")
    for name, n, fast, checks in rows: print(f"{name:32}{n:8}{fast:8}{checks:12}")


if __name__ == "__main__": main()
