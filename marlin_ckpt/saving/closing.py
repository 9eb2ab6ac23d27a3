"""Closes what saves in the background at the end of a `with` statement."""

import logging
from abc import abstractmethod
from typing import Self


class Closing:
    """Is closed when the context ends.

    Attributes:
        logger: is told what a save has failed with where another exception ends the context.
    """

    logger: logging.Logger

    @abstractmethod
    def close(self) -> None:
        """Waits until everything that was saved is durable."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes; where an exception ends the context, one of a save is logged and does not replace it."""
        try:
            self.close()
        except Exception as error:  # of a save, or of what the user does when it is durable
            if kind is None:
                raise
            self.logger.error("A save failed: %s", error)  # noqa: TRY400 - the other's traceback is what counts
