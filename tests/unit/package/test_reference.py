"""The reference on the site names all that the code has: commands, options, keys, public names."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import marlin_ckpt
from marlin_ckpt.cli.app import app
from marlin_ckpt.cli.commands.registry import names
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory.history.events import KINDS
from marlin_ckpt.directory.history.lines import from_line, to_line
from tools import events, keys, layers, reference, schemas


def _command(name: str) -> Any:
    found: Any = get_command(app)
    for word in name.split(" "):
        found = found.commands[word]
    return found


COMMANDS = {name: _command(name) for name in names()}


def _section(name: str) -> str:
    """The part of the page that is under a command's heading."""
    text = reference.commands()
    (found,) = re.findall(rf"^## `marlin-ckpt {name}`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found


def _definitions(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^`(.+)`\n: (.*\w.*)", text, re.MULTILINE)


def test_the_page_of_commands_has_a_section_and_a_row_for_each_command() -> None:
    headings = re.findall(r"^## `marlin-ckpt ([\w -]+)`$", reference.commands(), re.MULTILINE)
    rows = re.findall(r"^\| \[`([\w -]+)`\]\(#(.+)\) \| \w", reference.command_table(), re.MULTILINE)
    assert headings == [name for name, _ in rows] == names()
    assert [anchor for _, anchor in rows] == [f"marlin-ckpt-{name.replace(' ', '-')}" for name in headings]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_section_of_a_command_names_each_argument_and_option_and_says_what_it_is(name: str) -> None:
    section, help_of = _section(name), {}
    for one in COMMANDS[name].params:
        assert not getattr(one, "hidden", False)
        term = ", ".join(sorted(one.opts, key=len)) if one.param_type_name == "option" else one.metavar
        help_of[term] = one.help
    listed = {re.split(r" (?=[A-Z<])", term)[0]: text for term, text in _definitions(section)}
    assert listed.keys() - {"--help"} == help_of.keys()
    plain = {term: listed[term].replace("`", "") for term in help_of}
    assert [term for term, text in help_of.items() if not plain[term].startswith(text)] == []


def test_what_stands_for_values_and_what_must_be_given_is_on_the_page() -> None:
    assert "`--best METRIC[:min|max]`\n: " in _section("list")
    assert "`--keep-best METRIC[:min|max[:N]]`\n: " in _section("clean")
    assert "`--config FILE`\n: The YAML file of the run. *Required.*" in _section("train")
    assert "\nmarlin-ckpt verify [OPTIONS] PATH...\n" in _section("verify")
    assert "*Default:* `pt`." in _section("clean")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_section_has_the_example_of_the_help(name: str) -> None:
    assert f"**Example**\n\n```sh\nmarlin-ckpt {name} " in _section(name)


def test_no_option_or_name_in_the_prose_of_a_section_is_read_as_markup() -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", reference.commands(), flags=re.DOTALL)
    assert re.findall(r".*(?:--\w|_).*", prose) == []
    assert re.findall(r".*(?<!\\)[\[<].*", prose) == []


_EACH_KEY = [(name, field) for name, kind in keys.SECTIONS.items() for field in keys.yaml_fields(kind)]


@pytest.mark.parametrize(
    ("section", "field"), _EACH_KEY, ids=[f"{name}-{field.name}" for name, field in _EACH_KEY]
)
def test_each_key_of_the_yaml_is_on_the_page_with_its_default_and_what_it_is(
    section: str, field: keys.Field[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    text = keys.sections()[section]
    (entry,) = re.findall(
        rf"^\[`{field.name}`\]{{#{section}-{field.name}}}\n: (.+)\n\n  (\S.*\.)$", text, re.MULTILINE
    )
    facts, about = entry
    assert about[0].isupper() or about[0] == "`"
    assert not re.search("None|True|False", about)
    default = re.search(r", default `(.*)`$", facts)
    if default is None:
        assert facts.endswith(", required")
        return
    expected = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
    if expected == str(tmp_path / "checkpoints"):
        expected = "checkpoints"
    assert yaml.safe_load(default[1]) == expected


def test_each_section_of_the_yaml_is_on_the_page(repository: Path) -> None:
    page = (repository / "docs/reference/yaml.md").read_text()
    included = re.findall(r"```{include} \.\./_generated/yaml-(.*)\.md\n", page)
    assert included == list(keys.SECTIONS)
    assert "{literalinclude} ../../configs/reference.yaml" in page


def test_the_file_that_the_page_has_refused_is_refused_as_shown(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (repository / "docs/reference/yaml.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (block,) = re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    command, _, shown = block.partition("\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(text)
    assert main(command.removeprefix("$ marlin-ckpt ").split()) == 2
    assert capsys.readouterr() == ("", shown)


def test_building_writes_just_the_parts_that_pages_include(repository: Path, tmp_path: Path) -> None:
    for made in (events, reference, layers, schemas):
        made.write(tmp_path)
    pages = [one for one in (repository / "docs").rglob("*.md") if one.parent.name != "_generated"]
    included = re.findall(r"\.\./_generated/(\S+)", "".join(one.read_text() for one in pages))
    assert sorted(included) == sorted(one.name for one in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["api", "commands", "history", "json", "yaml"])
def test_a_page_that_is_whole_on_the_site_alone_says_at_its_top_how_to_build_it(
    repository: Path, name: str
) -> None:
    top = (repository / f"docs/reference/{name}.md").read_text()[:400]
    assert "`make docs`" in top
    assert f"`build/docs/reference/{name}.html`" in top


def test_each_public_name_is_on_the_page_of_the_api_exactly_once(repository: Path) -> None:
    page = (repository / "docs/reference/api.md").read_text()
    assert ".. currentmodule:: marlin_ckpt\n" in page
    listed = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(marlin_ckpt.__all__)


def test_each_adapter_is_on_the_page_of_the_api(repository: Path) -> None:
    page = (repository / "docs/reference/api.md").read_text()
    listed = re.findall(r"^\.\. automodule:: marlin_ckpt\.integrations\.(\w+)$", page, re.MULTILINE)
    assert listed == ["lightning", "transformers", "accelerate", "ignite"]


def _public() -> list[tuple[str, object]]:
    """The public names, and what each class adds of its own that is public."""
    found = [(name, getattr(marlin_ckpt, name)) for name in marlin_ckpt.__all__]
    for name, one in tuple(found):
        if isinstance(one, type):
            members = [(key, part) for key, part in vars(one).items() if key[0] != "_"]
            found += [(f"{name}.{key}", getattr(part, "__func__", part)) for key, part in members]
    return [(name, one) for name, one in found if callable(one) or isinstance(one, property)]


@pytest.mark.parametrize(("name", "one"), [pytest.param(*both, id=both[0]) for both in _public()])
def test_a_public_docstring_is_read_by_sphinx_as_it_is_meant(name: str, one: object) -> None:
    text = inspect.getdoc(one) or ""
    first = text.split("\n")[0]
    assert first.endswith((".", ":"))
    if isinstance(one, property):  # Sphinx takes what is before a colon for its type
        assert ":" not in re.sub("`.*?`", "", first), name
    # A name that is described together with another is no name to Sphinx; a sentence is no error.
    for section in re.findall(r"^(?:Args|Attributes|Raises):\n((?:    .*\n?)+)", text, re.MULTILINE):
        for line in re.findall(r"^    (\S.*)", section, re.MULTILINE):
            assert re.match(r"[\w*.]+: \S", line), (name, line)


def test_the_example_of_the_page_of_the_api_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (repository / "docs/reference/api.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "api.md", "exec"), {})
    assert [one.name for one in (tmp_path / "runs/a").iterdir()] == ["model_3.pt"]


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_event_is_on_the_page_with_each_key_of_its_lines(name: str) -> None:
    (section,) = re.findall(rf"^### `{name}`\n(.*?)(?=^### |\Z)", events.page(), re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^\[`(\w+)`\]\{#[\w-]+\}\n: \*[\w ]+\*\. [A-Z`].*\.$", section, re.MULTILINE)
    written = json.loads(to_line(KINDS[name]()))
    assert ["at", "event", "run_id", *listed] == [*written]


def test_the_page_on_the_history_names_the_keys_that_every_line_has(repository: Path) -> None:
    page = (repository / "docs/reference/history.md").read_text()
    (part,) = re.findall(r"^## Keys of every event\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    assert sorted(re.findall(r"^`(\w+)`\n: ", part, re.MULTILINE)) == ["at", "event", "run_id"]
    (line,) = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    event = from_line(line.encode())
    assert event is not None
    assert to_line(event).decode() == line
