"""How Sphinx makes the site: `make docs` writes it to build/docs."""

import inspect
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject, PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.ext.autodoc.mock import MockFinder
from sphinx.util.inspect import stringify_signature

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from marlin_ckpt.version import __version__  # noqa: E402 - found only from here on
from tools import events, layers, reference, schemas  # noqa: E402

# What the adapters adapt to takes seconds to import, and may not be installed. With `autodoc_mock_imports`
# Sphinx would still import what their base classes are from.
sys.meta_path.insert(0, MockFinder(["accelerate", "ignite", "lightning", "lightning_fabric", "transformers"]))

project = "marlin-ckpt"
author = "the marlin-ckpt developers"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_generated"]

smartquotes_action = "De"  # dashes and ellipses; quotes stay straight, as "" in code is

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "py:obj"  # `name` in a docstring: a link where the page has the name, else code
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", r".*"),
    # The build needs no network, so that no other site is asked for its names.
    ("py:class", r"(collections\.abc|logging|os|torch)\..*"),
    ("py:class", r"'.*'"),  # an alternative of a Literal
]

add_module_names = False
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
maximum_signature_line_length = 80
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"

copybutton_exclude = ".go"
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_copy_empty_lines = False  # nor those that output leaves

html_theme = "furo"
html_title = f"marlin-ckpt {version}"
html_copy_source = False
html_show_sourcelink = False


class _Code(PyXRefRole):
    """Shows what stands between backticks as it is: Sphinx would take `~` and the dot of `.data` off."""

    def process_link(
        self, env: BuildEnvironment, refnode: nodes.Element, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        _, target = super().process_link(env, refnode, has_explicit_title, title, target)
        return title, target


def _is_field_of_a_tuple(app: Sphinx, what: str, name: str, member: object, *_: object) -> bool | None:
    """Skips what the section `Attributes` of a NamedTuple describes; of anything else Sphinx decides."""
    del app, what, name
    return True if type(member).__name__ == "_tuplegetter" else None


def _drop_what_python_writes(app: Sphinx, what: str, name: str, obj: object, *rest: Any) -> None:
    """Drops the docstring that Python gives the `__new__` of each NamedTuple."""
    del app, what, name, obj
    lines = rest[-1]
    lines[:] = [line for line in lines if not line.startswith("Create new instance of ")]


def _show_own_arguments(app: Sphinx, what: str, name: str, obj: Any, *rest: Any) -> tuple[str, None] | None:
    """Shows the arguments of an adapter, which Sphinx does not see behind a base class that is mocked."""
    del app, name
    if what != "class" or rest[1] != "(*args, **kwargs)" or "__init__" not in vars(obj):
        return None
    own = inspect.signature(obj.__init__)
    return stringify_signature(
        own.replace(parameters=[*own.parameters.values()][1:]), show_annotation=False
    ), None


def setup(app: Sphinx) -> None:
    """Has the generated pages made before any page that includes them is read."""
    for made in (events, reference, layers, schemas):
        app.connect("builder-inited", lambda _, write=made.write: write(HERE / "_generated"))
    app.connect("autodoc-skip-member", _is_field_of_a_tuple)
    app.connect("autodoc-process-signature", _show_own_arguments)
    app.connect("autodoc-process-docstring", _drop_what_python_writes)
    app.add_role_to_domain("py", "obj", _Code(), override=True)
    for one in PyObject.doc_field_types:
        if one.name == "variable":
            one.label = "Attributes"  # as the docstrings call them
