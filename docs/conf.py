"""How Sphinx builds the site: `scripts/docs`. Everything works offline."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from jupyter_client import KernelManager  # noqa: E402

import learned_opt  # noqa: E402

# Kernels of tutorials report errors alone: each warns that its port is unencrypted.
_command = KernelManager.format_kernel_cmd
KernelManager.format_kernel_cmd = lambda self, extra_arguments=None: [
    *_command(self, extra_arguments),
    "--log-level=40",
]

project = "learned_opt"
author = "the learned_opt authors"
copyright = "the learned_opt authors, Apache 2.0"
version = release = learned_opt.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
    "extensions.programs",
]
root_doc = "index"
exclude_patterns = ["_build"]
nitpicky = False
default_role = "code"  # docstrings write `x` for code

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"learned_opt {version}"

# Pages are Markdown; tutorials are notebooks, run when `scripts/docs` says so.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

# Docstrings: Google's sections, the types in signatures.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

copybutton_exclude = ".linenos, .gp, .go"
suppress_warnings = ["misc.copy_overwrite"]
