"""What the benchmarks share: costs of a child, the truth, results, and the README made of them."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_run import write_data, write_run

from stronglens.export.cli import main as export
from stronglens.training.tasks import TASKS

ROOT = Path(__file__).parents[1]
ANY = {"machine": "a CPU, no GPU", "gpu": "", "date": "2026-01-02"}


@pytest.fixture
def bench(monkeypatch):
    """Return what imports a script of benchmarks/, which is no package, and forgets it after."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
            del sys.modules[name]


def write_json(folder, name, **facts):
    content = ANY | {"readme": [[f"{name}?", f"{name}!"]]} | facts
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_the_readme_says_what_the_results_say(bench):
    readme = bench("readme")
    text = readme.README.read_text()
    made = readme.rewritten(text, readme.measured(readme.read_results(readme.RESULTS)))
    assert made == text, "run python benchmarks/readme.py"


def test_the_readme_is_made_in_one_order_whatever_the_files(bench, tmp_path):
    readme = bench("readme")
    for name in ("zoo", "simulator", "feed", "end_to_end_b", "end_to_end_a", "sub_nosub"):
        write_json(tmp_path, name)
    write_json(tmp_path, "silent", readme=[])
    part = readme.measured(readme.read_results(tmp_path))
    order = ["sub_nosub", "end_to_end_a", "end_to_end_b", "feed", "simulator", "zoo"]
    assert re.findall(r"results/(\w+)\.md", part) == order
    assert "No GPU figure has been measured." in part
    assert part.count(ANY["machine"]) == 1


def test_figures_of_two_machines_stand_apart_and_a_gpu_is_not_denied(bench, tmp_path):
    readme = bench("readme")
    write_json(tmp_path, "feed", date="2026-01-01")
    write_json(tmp_path, "simulator", date="2026-01-03")
    write_json(tmp_path, "end_to_end", machine="another, a GPU", gpu="a GPU")
    part = readme.measured(readme.read_results(tmp_path))
    assert part.index("another, a GPU") < part.index("end_to_end!") < part.index("feed!")
    assert "On a CPU, no GPU; 2026-01-01 to 2026-01-03:" in part
    assert "No GPU figure" not in part


def test_rewriting_keeps_all_but_the_part_between_the_markers(bench):
    readme = bench("readme")
    text = f"before\n{readme.START}\nold\n{readme.END}\nafter\n"
    once = readme.rewritten(text, "new |Δ|")
    assert once == f"before\n{readme.START}\n\nnew |Δ|\n\n{readme.END}\nafter\n"
    assert readme.rewritten(once, "new |Δ|") == once
    for wrong in ("no marker", text + text, f"{readme.END}{readme.START}", readme.START):
        with pytest.raises(ValueError, match="once"):
            readme.rewritten(wrong, "new")


def test_a_result_reaches_the_readme(bench, tmp_path, monkeypatch, capsys):
    common, readme = bench("common"), bench("readme")
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{ROOT}/benchmarks/feed.py", f"{ROOT}/demo", "--count", "2"])
    pairs = [("max |Δp| of a?", "1 | 2")]
    common.write_result("feed", "Title", "part", "", common.skipped(["no GPU"]), readme=pairs)
    text = (tmp_path / "feed.md").read_text()
    assert text.startswith("# Title\n\n")
    assert "`python benchmarks/feed.py demo --count 2`" in text
    assert text.endswith("\n\npart\n\n**Skipped here:** no GPU.\n")
    assert "part" in capsys.readouterr().out
    part = readme.measured(readme.read_results(tmp_path))
    assert "| [max \\|Δp\\| of a?](benchmarks/results/feed.md) | 1 \\| 2 |" in part


def test_a_childs_memory_is_its_own(bench):
    common = bench("common")
    ours = np.ones(300_000_000, np.uint8)  # resident here, and none of the child's
    code = "import sys; x = bytearray(int(sys.argv[1])); x[::4096] = b'1' * len(x[::4096])"
    small, large = (common.peak_memory(["python", "-c", code, n]) for n in (0, 80_000_000))
    assert small < len(ours) / 1e6 / 3
    assert large - small == pytest.approx(80, abs=8)


def test_a_child_that_fails_says_so_or_stops_the_benchmark(bench, capfd):
    common = bench("common")
    fails = ("python", "-c", "import sys; print(7); sys.exit('this CPU cannot')")
    assert common.child(*fails, may_fail=True).error == "this CPU cannot"
    with pytest.raises(SystemExit, match="exit status 1"):
        common.child(*fails)
    done = common.child("python", "-c", "print('out')", may_fail=True)
    assert (done.stdout, done.error) == ("out\n", "")
    assert done.seconds > 0


def test_truth_comes_from_the_table_or_from_the_folder(bench, tmp_path):
    common = bench("common")
    for folder in ("sky", "lens", "nonlens"):
        (tmp_path / folder).mkdir()
    (tmp_path / "sky" / "params.csv").write_text("file,class,z\n1.npy,nonlens,1\n2.npy,lens,2\n")
    paths = [str(tmp_path / name) for name in ("sky/2.npy", "sky/1.npy", "nonlens/1.npy")]
    assert common.truth(paths, ["lens", "nonlens"]).tolist() == [0, 1, 1]
    assert common.truth([*paths, str(tmp_path / "sky/3.npy")], ["lens", "nonlens"]) is None
    assert common.truth(paths, ["no", "sphere"]) is None


def test_accuracy_is_over_what_was_scored(bench):
    common = bench("common")
    prob_NK = np.array([[0.9, 0.1], [0.4, 0.6], [np.nan, np.nan], [0.2, 0.8]])
    y_N = np.array([0, 0, 1, 1])
    assert common.roc_auc(y_N, prob_NK) == 1
    assert np.isnan(common.roc_auc(None, prob_NK))
    assert np.isnan(common.roc_auc(np.zeros(4, int), prob_NK))
    other_NK = prob_NK.copy()
    other_NK[1] = 0.65, 0.35
    assert common.apart(other_NK, prob_NK) == (pytest.approx(0.25), 1)
    assert common.apart(np.nan_to_num(prob_NK), prob_NK) == (np.inf, 4)


def test_a_waterfall_is_a_small_picture(bench, tmp_path):
    waterfall = bench("waterfall")
    steps = [waterfall.Step("a loop", 10, 1, 0, 0.99), waterfall.Step("a loss", 8, 0.8, 0, np.nan)]
    waterfall.draw(tmp_path / "a.png", "files to probabilities", steps)
    picture = (tmp_path / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 100_000


def test_make_bench_runs_scripts_that_exist_and_are_described():
    scripts = re.findall(r"\$\(MEASURE\)(\w+\.py)", (ROOT / "Makefile").read_text())
    described = (ROOT / "benchmarks" / "README.md").read_text()
    assert "end_to_end.py" in scripts
    for script in set(scripts):
        assert (ROOT / "benchmarks" / script).is_file(), script
        assert f"`{script}" in described, script


@pytest.mark.parametrize(("count", "expected"), [(4, "aabc"), (3, "abc"), (7, "aaabbcc")])
def test_files_are_picked_over_the_whole_folder(count, expected, bench, tmp_path):
    end_to_end = bench("end_to_end")
    for name in ("c/4", "b/2", "a/1", "a/0", "b/3", "c/5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.npy").write_text(name)
    paths = end_to_end.pick(tmp_path, count)
    assert "".join(sorted(Path(path).parent.name for path in paths)) == expected
    links = end_to_end.link(paths, tmp_path / "links")
    assert [Path(each).read_text() for each in links] == [Path(each).read_text() for each in paths]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["substructure", "lensfinding"])
def test_every_way_to_score_gives_the_same(name, bench, tmp_path, monkeypatch, rng):
    data, run, bundle = tmp_path / "data", tmp_path / "run", tmp_path / "bundle"
    write_data(data, TASKS[name], rng)
    write_run(run, data, name)
    config = json.loads((run / "config.json").read_text())
    config["data"]["counts"] = {"train": {"a": 2, "b": 3}}
    (run / "config.json").write_text(json.dumps(config))
    (run / "metrics.json").write_text(json.dumps({"epochs": 4}))
    assert CliRunner().invoke(export, [str(run), "--out", str(bundle)]).exit_code == 0
    end_to_end, common = bench("end_to_end"), bench("common")
    for module in (end_to_end, common):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    options = ["--count", "7", "--rounds", "1", "--name", "all"]
    done = CliRunner().invoke(end_to_end.main, [str(run), str(bundle), str(data), *options])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "all.md").read_text()
    assert "trained on 5 simulated cutouts, 4 epochs" in text
    rows = [line.split(" | ") for line in text.splitlines()]
    exact = [row for row in rows if "float32" in row[0]]
    assert len(exact) == 4  # the notebook, two runtimes as they come, lens-infer
    assert all(float(row[5]) < 1e-5 and row[6] == "0" for row in exact)
    assert (tmp_path / "all_waterfall.png").stat().st_size < 100_000


@pytest.mark.slow
def test_backends_are_held_against_torch_and_the_machine(bench, tmp_path, monkeypatch, rng):
    data, run, bundle = tmp_path / "data", tmp_path / "run", tmp_path / "bundle"
    write_data(data, TASKS["substructure"], rng)
    write_run(run, data, "substructure")
    assert CliRunner().invoke(export, [str(run), "--out", str(bundle)]).exit_code == 0
    backends, alone, common = bench("backends"), bench("alone"), bench("common")
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(alone, "SECONDS", 0.02)
    monkeypatch.setattr(backends, "TOOL_SECONDS", 1)
    monkeypatch.setattr(backends, "SECONDS", 1)
    done = CliRunner().invoke(backends.main, [str(run), str(bundle), "--rounds", "1"])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "backends.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()]
    exact = [row for row in rows if row[0].startswith("lens-infer") and "float32" in row[0]]
    assert len(exact) == 2  # OpenVINO and ONNX Runtime
    assert all(float(row[5]) < 1e-5 and row[6] == "0" for row in exact)
    assert "**Skipped here:**" in text
    assert [row[0] for row in rows[-4:]] == ["1", "4", "8", "32"]
