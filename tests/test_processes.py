"Several processes train one run: the same losses as one process, one writer."
import os
import subprocess
import sys

import numpy as np

from grok_nb.modular import study
from grok_nb.runs import Run
from grok_nb.training import train

SCRIPT = """
import sys
from grok_nb.modular import study
from grok_nb.training import train
if __name__ == "__main__": train(study.config("demo", **eval(sys.argv[2])), sys.argv[1], device="cpu", threads=1)
"""
OPTIONS = dict(steps=20, warmup_steps=5, evaluate_every=5, checkpoints=2, optimizer="adamw")


def test_two_processes_give_the_losses_of_one(tmp_path):
    (tmp_path/"script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", tmp_path/"script.py", tmp_path/"two", repr(OPTIONS)]
    done = subprocess.run(command, env=os.environ | dict(OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    config = study.config("demo", **OPTIONS)
    two, one = Run(tmp_path/"two"/config.run_id), train(config, tmp_path/"one", device="cpu")
    assert two.finished and two.steps == one.steps and [s["processes"] for s in two.sessions()] == [2]
    losses = [r.metrics().query("probe == 'train'").value.to_numpy() for r in (two, one)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    accuracies = [r.metrics().query("metric == 'loss' and probe == 'accuracy'").value.to_numpy() for r in (two, one)]
    np.testing.assert_allclose(*accuracies, rtol=1e-3)
