"""The notebook runs from its first cell to its last, and keeps no output that could be out of date."""

import json
import sys

from tests.documents import ROOT, anchors, links

NOTEBOOK = ROOT / "docs" / "first_run.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_every_cell_runs(tmp_path, monkeypatch):
    for name in ("train", "data", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")  # where Jupyter starts
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = {"__name__": "__main__"}
    for number, cell in enumerate(CELLS):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    folder = tmp_path / "outputs" / "first_run"
    assert len(names["losses"]) == 4 and names["losses"][-1] < names["losses"][0] / 2
    assert len(names["answers"]) == 1 and isinstance(names["answers"][0], str)
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert names["merged"].num_parameters() == names["model"].num_parameters()


def test_it_keeps_no_output_and_its_links_lead_somewhere():
    assert {(str(cell["outputs"]), cell["execution_count"]) for cell in CELLS if cell["cell_type"] == "code"} == {
        ("[]", None)
    }
    text = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    assert len(links(text)) > 4
    for link in links(text):
        path, _, anchor = link.partition("#")
        page = (NOTEBOOK.parent / path).read_text(encoding="utf-8")
        assert not anchor or anchor in anchors(page), link
