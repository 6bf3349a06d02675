"""A sweep goes on with the cluster that it ran on, unless its user names another."""

from pathlib import Path

from orchestrate.cli import main

SWEEP = """
name: small
base:
  method: {name: pgd-at}
  data: {name: digits}
  model: {name: mlp, hidden: [8]}
  train: {epochs: 2, batch_size: 64}
  attack: {eps: 0.1, steps: 4}
evaluate: {attacks: [pgd], images: 20}
"""


def test_a_sweep_goes_on_where_it_ran_unless_told_otherwise(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("PARAPET_RUNS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    file, lab = tmp_path / "f.yaml", tmp_path / "lab.yaml"
    file.write_text(SWEEP)
    lab.write_text("time: 60\n")
    ran_on = []
    monkeypatch.setattr("orchestrate.driver.run", lambda *_, cluster, **__: ran_on.append(cluster) or 0)
    noted = Path("runs/sweeps/small/cluster")
    noted.parent.mkdir(parents=True)
    sweep = ["sweep", str(file)]
    assert main(sweep) == 0
    noted.write_text(f"slurm:{lab}\n")
    capsys.readouterr()
    assert main(sweep) == 0
    assert f"small: on slurm:{lab}, as before (--cluster local runs it here)" in capsys.readouterr().out
    assert main([*sweep, "--cluster", "local"]) == 0
    monkeypatch.setenv("RAY_ADDRESS", "here:1")  # in a Ray job
    assert main(sweep) == 0
    assert "as before" not in capsys.readouterr().out
    assert ran_on == ["local", f"slurm:{lab}", "local", "local"]
    monkeypatch.delenv("RAY_ADDRESS")
    lab.unlink()
    assert main(sweep) == 2
    assert "there is no such file; --cluster says where it goes on" in capsys.readouterr().err
