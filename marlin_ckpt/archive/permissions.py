"""What unpickling a file would import, and which of it torch's `weights_only` refuses."""

from __future__ import annotations

import _compat_pickle


def imported_name(module: str, name: str) -> str:
    """The full name of what Python 3 imports for a name in a pickle, which may be one of Python 2.

    torch maps names in the same way; see `_read_global_instruction` in torch/_weights_only_unpickler.py.
    """
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[module, name]
    elif module in _compat_pickle.IMPORT_MAPPING:
        module = _compat_pickle.IMPORT_MAPPING[module]
    return f"{module}.{name}"
