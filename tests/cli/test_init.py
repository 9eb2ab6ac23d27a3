"""`init`: what it writes trains, says what each key is for, and takes the place of nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.config import read_config
from marlin_ckpt.config.keys import descriptions
from tests.cli.test_ends import _MODULE
from tests.support.folders import REPOSITORY, visible
from tests.support.yaml_values import loaded

SHORT = ["--set", "trainer.epochs=1", "--set", "trainer.max_train_steps_per_epoch=1", "--quiet"]
SCHEMA = "marlin-ckpt.schema.json"
_HOSTILE = """
open("imported", "w")
class Base(object):
    def __init__(self, place, /, width: int = 8, *rest, must: "dict[str, int]", k=2 * 3, t=(1, 2), long=LONG,
        word="yes", text="a: b # \\x1b[31m", number=1e-5, far=1e999, none: str | None = None,
        items=[1, "no"], **more):
        "\\d"
class Own(Base): ...
class Else(other.Net): ...
""".replace("LONG", " + ".join(["1"] * 600))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_it_writes_for_a_text_trains_and_fits_the_schema_beside_it(run_main):
    shutil.copy(REPOSITORY / "configs" / "sonnets.txt", "sonnets.txt")
    Path("small.txt").write_text("a")
    code, out, err = run_main("init")
    assert (code, out) == (0, "")
    assert err == f"wrote {SCHEMA}\nwrote run.yaml\nhint: marlin-ckpt train --config run.yaml\n"
    assert visible(".") == [SCHEMA, "run.yaml", "small.txt", "sonnets.txt"]
    text = Path("run.yaml").read_text()
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA}\n")
    jsonschema.Draft202012Validator(json.loads(Path(SCHEMA).read_text())).validate(loaded(text))
    assert read_config("run.yaml").module.files == ["sonnets.txt"]
    assert run_main("train", "--config", "run.yaml", *SHORT)[0] == 0
    assert "model_0.pt" in visible("checkpoints")


def test_what_it_writes_for_a_module_of_ones_own_trains_without_a_change(run_main, monkeypatch):
    monkeypatch.syspath_prepend(".")
    Path("models").mkdir()
    Path("models/init_net.py").write_text(_MODULE)
    assert run_main("init", "a run.yaml", "--module", "models/init_net.py:Own")[0] == 0
    module = read_config("a run.yaml").module
    assert (module.name, module.args) == ("models.init_net:Own", {"does": "pass", "where": "step"})
    code, _, err = run_main("train", "--config", "a run.yaml", *SHORT)
    assert (code, err) == (0, "")


def test_the_words_of_the_comments_are_those_of_the_reference(run_main):
    run_main("init")
    comments = " ".join(
        line.strip(" #\n") for line in Path("run.yaml").read_text().splitlines() if "# " in line
    )
    about = descriptions(TrainerArguments)
    assert [key for key in ("epochs", "seed", "device") if about[key] not in comments] == []
    assert max(map(len, Path("run.yaml").read_text().splitlines())) <= 100


def test_a_module_is_read_and_not_run_and_odd_defaults_come_back_or_stay_comments(run_main):
    Path("net.py").write_text(_HOSTILE)
    code, _, err = run_main("init", "--module", "net:Own")
    assert (code, err.splitlines()[-1]) == (
        0,
        "hint: first set module.args.must; then marlin-ckpt train --config run.yaml",
    )
    assert not os.path.exists("imported")
    text = Path("run.yaml").read_text()
    args = {"width": 8, "word": "yes", "number": 1e-5, "none": None, "items": [1, "no"], "far": float("inf")}
    assert read_config("run.yaml").module.args == args
    for line in (
        "    width: 8  # int",
        "    # must:  # 'dict[str, int]'; required",
        "    # k:  # default: 2 * 3",
        "    # t:  # default: (1, 2)",
        "    none: null  # str | None",
    ):
        assert f"{line}\n" in text
    assert "place" not in text
    assert "rest" not in text
    assert text.isascii()
    assert text.replace("\n", "").isprintable()


def test_a_module_without_arguments_has_none_and_one_with_a_base_elsewhere_says_so(run_main):
    Path("net.py").write_text(_HOSTILE + "class Bare(ModuleInterface): ...\n")
    run_main("init", "bare.yaml", "--module", "net:Bare")
    assert "args" not in Path("bare.yaml").read_text()
    run_main("init", "else.yaml", "--module", "net:Else")
    assert "  # args: those of other.Net, which is in another file.\n" in Path("else.yaml").read_text()
    assert read_config("else.yaml").module.args == {}


def test_a_module_that_python_would_not_find_is_warned_about(run_main, tmp_path, monkeypatch):
    (tmp_path / "far" / "package").mkdir(parents=True)
    (tmp_path / "far" / "package" / "__init__.py").touch()
    (tmp_path / "far" / "package" / "net.py").write_text("class Net: ...\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, _, err = run_main("init", "--module", "../far/package/net.py:Net")
    assert code == 0
    assert f"warning: Python finds the module where {tmp_path / 'far'} is in PYTHONPATH\n" in err
    assert read_config("run.yaml").module.name == "package.net:Net"


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("txt", "did you mean text?"),
        ("net.py", "expected text, my_package.my_file:MyModule or my_file.py:MyModule, not 'net.py'"),
        ("net:Onw", "net.py has no class Onw; did you mean Own?"),
        ("net.py:Zzz", "net.py has no class Zzz; it has Base, Own, Else"),
        ("none:Own", "there is no module none in the working directory or in sys.path"),
        ("net.pyy:Own", "there is no module net.pyy"),
        ("nett.py:Own", "cannot be read: No such file or directory"),
        ("my-net.py:Own", "my-net.py cannot be imported: 'my-net' is no name in Python"),
        ("broken.py:Own", "broken.py:2: --module: is no Python: "),
        ("deep.py:Own", "is no Python: "),
        ("nulls.py:Own", "is no Python: "),
    ],
)
def test_a_module_that_cannot_be_read_is_refused_before_anything_is_written(run_main, module, says):
    Path("net.py").write_text(_HOSTILE)
    shutil.copy("net.py", "my-net.py")
    Path("broken.py").write_text("\nclass\n")
    Path("deep.py").write_text("x = " + "(" * 100_000)
    Path("nulls.py").write_bytes(b"x = 1\0\n")
    before = visible(".")
    code, out, err = run_main("init", "--module", module)
    assert (code, out) == (2, "")
    assert says in err
    assert visible(".") == before


def test_a_file_that_is_there_stays_unless_it_is_forced(run_main):
    Path("run.yaml").write_text("mine")
    code, _, err = run_main("init")
    assert (code, visible(".")) == (1, ["run.yaml"])
    assert err == (
        "error: is already there: run.yaml\nhint: choose another path, or replace it with --force\n"
    )
    assert run_main("init", "--force")[0] == 0
    assert Path("run.yaml").read_text() != "mine"


def test_a_schema_of_an_older_version_is_renewed_and_another_file_of_its_name_stays(run_main):
    Path(SCHEMA).write_text("{}")
    code, _, err = run_main("init")
    assert (code, visible(".")) == (1, [SCHEMA])
    assert SCHEMA in err
    run_main("init", "--force")
    whole = Path(SCHEMA).read_text()
    Path(SCHEMA).write_text(json.dumps({**json.loads(whole), "properties": {}}))
    assert run_main("init", "next.yaml")[0] == 0
    assert Path(SCHEMA).read_text() == whole
    assert "schema.json" not in run_main("init", "third.yaml")[2]


def test_the_schema_is_beside_the_file_wherever_that_is(run_main):
    Path("deep/er").mkdir(parents=True)
    assert run_main("init", "deep/er/run.yaml")[0] == 0
    assert visible("deep/er") == [SCHEMA, "run.yaml"]
    assert Path("deep/er/run.yaml").read_text().startswith(f"# yaml-language-server: $schema={SCHEMA}\n")


def test_standard_output_takes_the_file_and_nothing_is_written(run_main):
    code, out, err = run_main("init", "-")
    assert (code, visible(".")) == (0, [])
    assert err == f"hint: marlin-ckpt config schema -o {SCHEMA} writes its schema\n"
    run_main("init")
    assert out == Path("run.yaml").read_text()
    assert run_main("init", "-", "--json")[0] == 2


_OF_TOOLS = [
    "constraints",
    "requirements-dev",
    "LICENSE",
    "README",
    "CMakeLists",
    "robots",
    ".hidden",
    "dev_requirements",
]


def test_the_text_of_a_usual_folder_goes_before_others_and_none_of_what_tools_read_is_taken(run_main):
    for name in _OF_TOOLS:
        Path(f"{name}.txt").write_text("torch==2.13.0\n" * 100)
    assert "first write input.txt" in run_main("init", "none.yaml")[2]
    assert (
        "# `init` has found none: put your own here.\n  files: [input.txt]" in Path("none.yaml").read_text()
    )
    for name in ("licenses of poems.txt", "constraintless.txt"):
        Path(name).write_text("a" * 9)
        run_main("init", "own.yaml", "--force")
    assert read_config("own.yaml").module.files == ["constraintless.txt"]
    Path("data").mkdir()
    Path("data/small.txt").write_text("a b")
    run_main("init", "data.yaml")
    assert (
        "# `init` has chosen this one: put your own here.\n  files: [data/small.txt]"
        in Path("data.yaml").read_text()
    )


def test_a_folder_that_is_missing_is_refused_by_the_path_that_was_typed(run_main):
    assert (
        "error: cannot write: No such file or directory: no/run.yaml\n" in run_main("init", "no/run.yaml")[2]
    )
    Path("file").touch()
    assert "error: cannot write: Not a directory: file/run.yaml\n" in run_main("init", "file/run.yaml")[2]


def test_where_there_is_no_text_it_says_which_file_it_names(run_main):
    assert run_main("init")[2].endswith(
        "hint: first write input.txt; then marlin-ckpt train --config run.yaml\n"
    )
