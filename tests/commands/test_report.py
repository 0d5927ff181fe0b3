"""The report: everything in one file, nothing of a run taken for markup, and readable in a browser."""

import base64
import html
import html.parser
import io
import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
from matplotlib.figure import Figure

from simclr_jax.commands import report
from simclr_jax.configs import finetune, knn, lbfgs, linear, linear_augmented, quickstart
from simclr_jax.runtime.config import flatten

PROBES = {"linear": linear, "linear_augmented": linear_augmented, "knn": knn, "lbfgs": lbfgs, "finetune": finetune}
DEFAULTS = {name: flatten(module.get_config()) for name, module in PROBES.items()}
HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def picture():
    file = io.BytesIO()
    Figure(figsize=(12, 3)).savefig(file, format="png")
    return file.getvalue()


def result(top1, **changes):
    classes = {"cat": {"images": 3, "top1": 1 / 3, "taken_for": HOSTILE}, "dog": {"images": 1, "top1": 1.0}}
    accuracies = {"top1": top1, "top5": 0.9, "untrained_top1": 0.25, "chance_top1": 0.125}
    return accuracies | {"step": 6, "layer": 0, "source": HOSTILE, "per_class": classes} | changes


@pytest.fixture(name="run")
def make_run(tmp_path):
    run = tmp_path / "run"
    (run / "eval").mkdir(parents=True)
    (run / "checkpoints" / "6").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(quickstart.get_config().to_dict()))
    (run / "eval" / "linear.json").write_text(json.dumps(result(0.5, top1_deviation=0.01)))
    (run / "eval" / "knn.json").write_text(json.dumps(result(0.4375, step=3)))
    (run / "eval" / "diagnose.json").write_text(json.dumps({"step": 6, "verdict": ["z uses 93 of 128", HOSTILE]}))
    (run / "eval" / "linear_confusion.png").write_bytes(picture())
    (run / "eval" / "curves.png").write_bytes(picture())
    rows = [{"step": 5, "epoch": 1, "loss": 4.0}, {"step": 6, "epoch": 2, "loss": 3.25}, {"step": 6, "loss": None}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 7, "lo')
    start = {"step": 0, "host": HOSTILE, "jax": "0.10.2", "command": ["train.py", f"--workdir={HOSTILE}"]}
    (run / "versions.jsonl").write_text(json.dumps(start) + "\n")
    return run


class Page(html.parser.HTMLParser):
    """What a page holds: its words, tags, and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.links = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def written(runs, **options):
    report.run([str(run) for run in runs], out=None, make={}, defaults=DEFAULTS, **options)
    return Page((runs[0] / "report.html").read_text())


def test_a_report_holds_what_the_run_left(run):
    page = written([run])
    assert "linear probe 50.00 ± 1.00 % 90.00 % 25.00 % 12.50 % 6 h" in page.text
    assert "kNN 43.75 % 90.00 % 25.00 % 12.50 % 3 h" in page.text
    assert "knn was made from step 3, but the newest checkpoint is step 6" in page.text
    assert "Has it collapsed? z uses 93 of 128" in page.text
    assert "3.250 loss" in page.text  # the newest that is a number
    assert "0.10.2" in page.text
    for key, value in flatten(json.loads((run / "config.json").read_text())).items():
        assert f"{key} {value}".strip() in page.text
    assert page.text.index("Training") < page.text.index("Confusion between classes")


def test_figures_that_no_float_holds_and_pipes_are_passed_over(run):
    (run / "eval" / "knn.json").write_text(json.dumps(result(10**400)))
    os.mkfifo(run / "eval" / "lbfgs.json")
    page = written([run])
    assert "linear probe 50.00" in page.text and "kNN" not in page.text


def test_a_report_needs_no_other_file_and_runs_nothing(run):
    page = written([run])
    assert page.tags.count("img") == 2
    assert all(link.startswith("data:") for link in page.links)
    decoded = [base64.b64decode(link.partition(",")[2]) for link in page.links if "png" in link]
    assert sorted(decoded) == sorted(path.read_bytes() for path in (run / "eval").glob("*.png"))
    assert "script" not in page.tags and page.text.count(HOSTILE) == 6  # shown as it is, six times
    assert shlex.join(["python", "train.py", f"--workdir={HOSTILE}"]) in page.text


def test_commands_are_repeated_with_their_flags_and_run_nothing_else(run, tmp_path):
    nasty = tmp_path / "$(touch here); a 'run'"
    shutil.copytree(run, nasty)
    settings = DEFAULTS["linear"] | {"epochs": 2, "learning_rates": [0.1, 0.3], "data.source": "npz:$(touch here)"}
    (nasty / "eval" / "linear.json").write_text(json.dumps(result(0.5, config=settings)))
    (nasty / "eval" / "finetune_0.1.json").write_text(json.dumps(result(0.5)))  # of a version that kept no config
    report.run([str(nasty)], out=None, make={}, defaults=DEFAULTS)
    page = (nasty / "report.html").read_text()
    lines = [html.unescape(line) for line in re.findall("<pre>(.*?)</pre>", page)]
    words = [shlex.split(line) for line in lines]
    assert all(shlex.join(line) == text for line, text in zip(words, lines, strict=True))  # a shell reads them so
    asked = f"--workdir={nasty}"
    flags = ["--config.data.source=npz:$(touch here)", "--config.epochs=2", "--config.learning_rates=(0.1, 0.3)"]
    (linear_line,) = (line for line in words if "linear" in line)
    assert linear_line[:3] == ["simclr-jax", "linear", asked] and sorted(linear_line[3:]) == flags
    assert ["simclr-jax", "finetune", asked, "--config.label_fraction=0.1"] in words
    assert ["simclr-jax", "knn", asked] in words


def test_a_short_probe_is_named_so_and_its_settings_are_told(run):
    short = DEFAULTS["linear_augmented"] | {"epochs": 2}
    (run / "eval" / "linear_augmented.json").write_text(json.dumps(result(0.25, config=short)))
    (run / "eval" / "lbfgs.json").write_text(json.dumps(result(0.75, config=DEFAULTS["lbfgs"])))
    page = written([run])
    assert "25.00 % linear probe, augmented (2 epochs), top-1" in page.text
    row = page.text[page.text.index("linear probe, augmented (2 epochs) 25.00 %") :]
    assert "epochs 2 instead of the default 90" in row[: row.index("75.00 %")]
    assert "logistic regression (L-BFGS) 75.00 % 90.00 % 25.00 % 12.50 % 6 h" in page.text
    assert f"{HOSTILE} default" in page.text


def test_what_is_missing_is_told_with_its_command(run):
    page = written([run]).text
    missing = page[
        page.index("Missing results, with the commands that make them: linear probe, augmented; logistic") : page.index(
            "Training"
        )
    ]
    assert f"logistic regression (L-BFGS) simclr-jax lbfgs --workdir={run}" in missing
    assert f"10 % of labels simclr-jax finetune --workdir={run} --config.label_fraction=0.1" in missing
    assert f"curves simclr-jax pictures --workdir={run}" in missing
    assert "kNN" not in missing and "diagnose" not in missing
    assert page.count("Has it collapsed?") == 1


def test_a_folder_takes_what_a_read_only_run_cannot(run, tmp_path):
    def make(workdir, folder):
        (tmp_path / "out" / "eval").mkdir()
        (tmp_path / "out" / "eval" / "lbfgs.json").write_text(json.dumps(result(0.75)))
        assert (workdir, folder) == (str(run), str(tmp_path / "out"))

    before = sorted(run.rglob("*"))
    for _ in range(2):  # the second time it is there
        report.run([str(run)], out=str(tmp_path / "out"), make={"lbfgs": make}, defaults=DEFAULTS)
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert "logistic regression (L-BFGS) 75.00 %" in page.text and "linear probe 50.00" in page.text
    assert sorted(run.rglob("*")) == before


def test_several_runs_are_compared(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["loss"]["temperature"] = 0.75
    (other / "config.json").write_text(json.dumps(config))
    (other / "eval" / "linear.json").write_text(json.dumps(result(0.625)))
    page = written([run, other])
    table = page.text[page.text.index("Comparison") : page.text.index("Probes")]
    assert re.search(r"run 50.00 ± 1.00 % .*other 62.50 %", table)
    assert re.search(r"Differences between the configs key .* loss.temperature 0.2 0.75", table)
    assert "loss nt_xent, temperature 0.75; " in page.text
    assert table.count("temperature") == 2  # as a key, and in the summary of the run that follows
    assert "optimizer" not in table
    assert {"#run1", "#run2"} <= set(page.links)


def test_what_is_missing_is_made_and_what_cannot_be_is_said(run, capsys):
    asked = []

    def make(name):
        def maker(workdir, _):
            asked.append((name, workdir))
            raise ValueError(f"{name} has no labels")

        return maker

    report.run([str(run)], out=None, make={name: make(name) for name in ("linear", "curves", "lbfgs")}, defaults={})
    assert asked == [("lbfgs", str(run))]
    assert "lbfgs could not be made: lbfgs has no labels" in Page((run / "report.html").read_text()).text
    assert "lbfgs has no labels" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[1]", "{", '{"top1": "<b>"}', '{"top1": NaN}', '{"top1": 0.5, "per_class": [7]}'])
def test_a_result_of_any_kind_makes_a_report(run, content):
    (run / "eval" / "linear.json").write_text(content)
    assert "kNN 43.75 %" in written([run]).text


def test_what_a_report_refuses(run, tmp_path):
    (tmp_path / "a.html").mkdir()
    for workdirs, out, message in (
        ([str(tmp_path / "none")], None, "is not a run"),
        ([str(run)], str(tmp_path / "no" / "report.html"), "its folder does not exist"),
        ([str(run)], str(tmp_path / "a.html"), "a.html is a folder"),
        ([str(run), str(run)], str(tmp_path), "is a folder, which works for one run only; for several give a file"),
        ([str(run)] * 65, None, "65 runs are too many for one page"),
    ):
        with pytest.raises(ValueError, match=message):
            report.run(workdirs, out=out, make={}, defaults={})
    assert not (run / "report.html").exists()


# A window is never narrower than 500 pixels; a frame in it is.
FRAME = """<!doctype html><iframe width="{width}" height="900" style="border: 0" srcdoc="{page}"></iframe>
<script>addEventListener("load", () => {{
  const frame = document.querySelector("iframe").contentWindow, root = frame.document.documentElement;
  const images = [...frame.document.images].map(image => image.complete && image.naturalWidth > 0);
  const keys = [...frame.document.querySelectorAll("td.key")].filter(key => key.clientHeight > 0);
  const lines = Math.max(...keys.map(key => key.querySelector("code").getClientRects().length));
  const card = Math.max(...[...frame.document.querySelectorAll(".card")].map(card => card.clientWidth));
  document.title = JSON.stringify({{images, lines, card, wide: root.scrollWidth, width: frame.innerWidth}});
}});</script>"""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium to look at the page with")
@pytest.mark.parametrize("width", [1280, 500, 400])
def test_a_browser_shows_all_of_it(run, tmp_path, width):
    other = shutil.copytree(run, tmp_path / ("long-name-" * 8))
    (other / "config.json").write_text((other / "config.json").read_text().replace("0.8", "0.7"))
    for path in (other / "eval").glob("*.json"):
        path.unlink()  # of a run of which the loss is all that is known
    written([run, other])
    page = tmp_path / "page.html"
    page.write_text(FRAME.format(width=width, page=html.escape((run / "report.html").read_text())))
    command = [CHROMIUM, *["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"]]
    # Nobody answers at the proxy: what the page needed from a network would fail, and be told.
    command += ["--proxy-server=127.0.0.1:9", "--disable-background-networking", "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(re.search("<title>(.*?)</title>", shown.stdout).group(1))
    assert found["images"] == [True] * 4
    assert found["width"] == width and found["wide"] <= width
    assert found["lines"] == 1 and found["card"] < 400  # no key in several lines, no giant card
    assert "CONSOLE" not in shown.stderr
