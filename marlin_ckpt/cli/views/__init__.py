"""What the commands print: a module for each noun.

In each module `show` prints for people, and `document` returns what `--json` prints; the keys of the
documents are described by the schemas in marlin_ckpt/cli/schemas/ and stable.

| noun | of the command |
|---|---|
| `listing`, a folder: the checkpoints of a directory | `list` |
| `checkpoints`, in documents | `list`, `train` |
| `history` of its runs, and its `events` | `log` |
| `show`, a folder: the contents of a file | `show` |
| `comparison` of two files | `diff` |
| `verdicts` on files | `verify`, `latest --intact` |
| `salvage` of a file | `salvage` |
| `weights_file` that was written | `export`, `average` |
| `removals`, which `cleaning` carries out | `clean` |
| `run`, and its `progress` | `train` |
| `proof` that a resumed run is the same run | `prove-resume` |
| `configuration`, a folder: what a YAML file sets, or is written | `config show`, `init` |
| `advice` on how often to save | `advise` |
| `report`, a folder: the page of a directory | `report` |
| `environment` that a report of a fault describes | `env` |

`facts` has the parts of documents that carry the names of attributes.
"""
