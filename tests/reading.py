"""How the code reads, in numbers: `python tests/reading.py [FOLDER …]`, each a checkout, for a look before and after a change.

Tokens are those of Python but line ends, indentation and comments; lines are those with something on them.
"""
import ast
import io
import json
import statistics
import sys
import tokenize
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
BLANK = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.COMMENT}


def of_package(root):
    "Lines, tokens a line, long lines, lambdas."
    lines = tokens = over_100 = over_110 = lambdas = assigned = 0
    for path in sorted(root.glob("grok_nb/**/*.py")):
        if path.name == "_modidx.py": continue # nbdev's
        text = path.read_text(encoding="utf-8")
        rows = [l for l in text.splitlines() if l.strip() and not l.startswith("# %%")]
        lines += len(rows)
        over_100 += sum(len(l) > 100 for l in rows)
        over_110 += sum(len(l) > 110 for l in rows)
        tokens += sum(t.type not in BLANK for t in tokenize.generate_tokens(io.StringIO(text).readline))
        nodes = list(ast.walk(ast.parse(text)))
        lambdas += sum(isinstance(n, ast.Lambda) for n in nodes)
        assigned += sum(isinstance(n, ast.Assign) and isinstance(n.value, ast.Lambda) for n in nodes)
    return {"lines": lines, "tokens a line": round(tokens/lines, 1), "lines over 100 columns": f"{over_100/lines:.1%}",
            "lines over 110 columns": f"{over_110/lines:.1%}", "lambdas in 100 lines": round(100*lambdas/lines, 1), "assigned lambdas": assigned}


def of_notebooks(root):
    "Exported cells, how long they are, and lessons: other code cells of the pages that export."
    sizes, lessons = [], 0
    for path in sorted(root.glob("nbs/**/*.ipynb")):
        cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        sources = ["".join(c["source"]) for c in cells]
        exported = [s for s in sources if s.lstrip().startswith("#| export")]
        sizes += [sum(bool(l.strip()) for l in s.splitlines()[1:]) for s in exported]
        lessons += len(sources) - len(exported) if exported else 0
    return {"exported cells": len(sizes), "median exported cell": statistics.median(sizes), "exported cells over 60 lines": sum(n > 60 for n in sizes),
            "lessons an exported cell": round(lessons/len(sizes), 2)}


for root in map(Path, sys.argv[1:] or [HERE]):
    print(root)
    for name, value in (of_package(root) | of_notebooks(root)).items(): print(f"  {name:32}{value}")
