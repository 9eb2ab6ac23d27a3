"""fairseq: `checkpoint_3_500`, epoch and update; `checkpoint3` at the end of an epoch."""

from marlin_ckpt.grammars.grammar import Grammar, Pattern, Reading


class _Fairseq(Grammar):
    def __init__(self) -> None:
        self._forms = (
            Pattern(r"checkpoint_(?P<epoch>[0-9]+)_(?P<step>[0-9]+)"),
            Pattern(r"checkpoint(?P<epoch>[0-9]+)"),
        )

    def read(self, stem: str) -> Reading | None:
        return next((found for form in self._forms if (found := form.read(stem))), None)


GRAMMAR = _Fairseq()
