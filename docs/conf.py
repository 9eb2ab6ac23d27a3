"""How Sphinx makes the site: `make docs` writes it to build/docs."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from marlin_ckpt.version import __version__  # noqa: E402 - found only from here on
from tools import layers, reference, schemas  # noqa: E402

project = "marlin-ckpt"
author = "the marlin-ckpt developers"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_generated"]
smartquotes_action = "qe"  # quotes and ellipses; the dashes of options stay

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_member_order = "bysource"

copybutton_exclude = ".gp, .go"
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = f"marlin-ckpt {version}"
html_copy_source = False
html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    """Has the generated pages made before any page that includes them is read."""
    app.connect("builder-inited", lambda _: reference.write(HERE / "_generated"))
    app.connect("builder-inited", lambda _: layers.write(HERE / "_generated"))
    app.connect("builder-inited", lambda _: schemas.write(HERE / "_generated"))
